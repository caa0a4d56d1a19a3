//! One writer a file: leases, their limits, and recovery when a writer is gone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_client::{CreateOptions, DfsClient};
use dfs_proto::ErrorKind;
use dfs_tests::cluster::{MiniCluster, SUPERUSER};
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::replica_files::Damage;
use dfs_tests::wait::{PATIENCE, wait_for, wait_until};
use dfs_tests::workload::{read_all, write_file};
use tokio::io::AsyncWriteExt;

use crate::ensure_error;

const BLOCK: u64 = 64 << 10;

/// Limits short enough to wait for, and longer than a busy machine stands still; living writers renew ten
/// times as often.
const SOFT_MS: u64 = 4_000;
const HARD_MS: u64 = 8_000;

async fn renewing_client(cluster: &MiniCluster) -> Result<DfsClient> {
    let builder = DfsClient::builder().namenode(cluster.namenode_address()).user(SUPERUSER);
    Ok(builder.lease_renewal(Duration::from_millis(SOFT_MS / 10)).connect().await?)
}

/// Writes and flushes `len` bytes of content 1, then goes away without closing the file.
async fn write_and_die(client: DfsClient, path: &str, len: usize) -> Result<()> {
    let mut writer = client.create(path, CreateOptions::default()).await?;
    writer.write_all(&pattern(1, 0, len)).await?;
    writer.hflush().await?;
    Ok(())
}

#[test]
fn a_second_writer_is_refused_while_the_first_lives() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).leases_ms(SOFT_MS, HARD_MS).start().await?;
        let (first, second) = (renewing_client(&cluster).await?, renewing_client(&cluster).await?);
        let mut writer = first.create("/f", CreateOptions::default()).await?;
        writer.write_all(b"first").await?;
        writer.hflush().await?;

        // Refused for longer than the hard limit: renewal keeps the lease of a living writer.
        let start = std::time::Instant::now();
        let overwrite = CreateOptions { overwrite: true, ..CreateOptions::default() };
        wait_until("the hard limit has passed", PATIENCE, async || {
            let refused = second.append("/f").await.map(drop);
            ensure_error(refused, ErrorKind::LeaseHeldByOther, "/f")?;
            let refused = second.create("/f", overwrite).await.map(drop);
            ensure_error(refused, ErrorKind::LeaseHeldByOther, "/f")?;
            Ok(start.elapsed() > Duration::from_millis(HARD_MS + 1_000))
        })
        .await?;
        writer.write_all(b" and only").await?;
        writer.close().await?;
        assert_eq!(read_all(&second, "/f").await?, b"first and only");
        write_file(&second, "/f", b"second").await?;
        assert_eq!(read_all(&first, "/f").await?, b"second");
        Ok(())
    })
}

#[test]
fn another_writer_takes_over_after_the_soft_limit() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).leases_ms(SOFT_MS, 600_000).start().await?;
        write_and_die(renewing_client(&cluster).await?, "/f", 100_000).await?;
        let second = renewing_client(&cluster).await?;
        let mut writer = wait_for("the takeover", PATIENCE, async || Ok(second.append("/f").await?)).await?;
        assert_eq!(writer.pos(), 100_000, "no flushed byte is lost");
        writer.write_all(&pattern(1, 100_000, 50_000)).await?;
        writer.close().await?;
        ensure_same("/f", &read_all(&second, "/f").await?, &pattern(1, 0, 150_000))
    })
}

#[test]
fn a_dead_writers_file_is_closed_after_the_hard_limit() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).leases_ms(SOFT_MS, HARD_MS).start().await?;
        write_and_die(renewing_client(&cluster).await?, "/f", 100_000).await?;
        let reader = cluster.client().await?;
        wait_until("/f is closed", PATIENCE, async || Ok(!reader.stat("/f").await?.under_construction))
            .await?;
        assert_eq!(reader.stat("/f").await?.size, 100_000);
        ensure_same("/f", &read_all(&reader, "/f").await?, &pattern(1, 0, 100_000))?;
        cluster.wait_for_replication("/f", 3).await
    })
}

#[test]
fn recover_lease_closes_a_dead_writers_file_at_once() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        for (path, len) in [("/empty", 0), ("/small", 10), ("/edge", BLOCK as usize), ("/two", 100_000)] {
            write_and_die(cluster.client().await?, path, len).await?;
            // Asked without a pause: each question must leave the recovery under way alone.
            wait_until(&format!("{path} is recovered"), PATIENCE, async || {
                for _ in 0..50 {
                    if client.recover_lease(path).await? {
                        return Ok(true);
                    }
                }
                Ok(false)
            })
            .await?;
            assert_eq!(client.stat(path).await?.size, len as u64, "{path}");
            ensure_same(path, &read_all(&client, path).await?, &pattern(1, 0, len))?;
        }
        Ok(())
    })
}

#[test]
fn a_spoilt_byte_of_one_replica_costs_no_acknowledged_byte_when_all_datanodes_were_killed() -> Result<()> {
    const LEN: usize = 50_000;
    run(async {
        for closed_before in [true, false] {
            let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
            let client = cluster.client().await?;
            if closed_before {
                write_file(&client, "/f", &pattern(1, 0, LEN - 10)).await?;
                let mut writer = cluster.client().await?.append("/f").await?;
                writer.write_all(&pattern(1, LEN as u64 - 10, 10)).await?;
                writer.hflush().await?;
            } else {
                write_and_die(cluster.client().await?, "/f", LEN).await?;
            }
            let block = cluster.blocks("/f").await?[0].block.context("block")?;
            for index in 0..3 {
                cluster.kill_datanode(index).await;
            }
            cluster.corrupt_replica(1, block.id, Damage::FlipBit(20_000))?;
            for index in 0..3 {
                cluster.start_datanode(index).await?;
            }
            wait_until("/f is recovered", PATIENCE, async || Ok(client.recover_lease("/f").await?)).await?;
            ensure_same("/f", &read_all(&client, "/f").await?, &pattern(1, 0, LEN))?;
            cluster.wait_for_replication("/f", 3).await?;
        }
        Ok(())
    })
}

#[test]
fn recovery_agrees_on_a_length_when_a_replica_is_away() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(4).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        write_and_die(cluster.client().await?, "/f", 50_000).await?;
        let stamp = cluster.blocks("/f").await?[0].block.context("block")?.generation_stamp;
        let away = cluster.located_on("/f", 0).await?[0];
        cluster.kill_datanode(away).await;
        wait_until("/f is recovered", PATIENCE, async || Ok(client.recover_lease("/f").await?)).await?;
        ensure_same("/f", &read_all(&client, "/f").await?, &pattern(1, 0, 50_000))?;
        let block = cluster.blocks("/f").await?[0].block.context("block")?;
        ensure!(block.generation_stamp > stamp, "recovery raises the stamp");

        // The replica that was away comes back with its old stamp: it must not be read, and it goes away.
        cluster.wait_for_replication("/f", 3).await?;
        cluster.start_datanode(away).await?;
        cluster.wait_for_replication("/f", 3).await?;
        ensure_same("/f", &read_all(&client, "/f").await?, &pattern(1, 0, 50_000))
    })
}

#[test]
fn a_writer_that_lost_its_lease_is_told() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let (first, second) = (cluster.client().await?, cluster.client().await?);
        let mut writer = first.create("/f", CreateOptions::default()).await?;
        writer.write_all(&pattern(1, 0, 10_000)).await?;
        writer.hflush().await?;
        wait_until("/f is recovered", PATIENCE, async || Ok(second.recover_lease("/f").await?)).await?;
        let outcome = async {
            writer.write_bytes(pattern(1, 10_000, 200_000).into()).await?;
            writer.close().await
        };
        ensure!(outcome.await.is_err(), "a writer without lease cannot close the file");
        let status = second.stat("/f").await?;
        assert_eq!((status.size, status.under_construction), (10_000, false));
        ensure_same("/f", &read_all(&second, "/f").await?, &pattern(1, 0, 10_000))
    })
}
