//! Writers survive the loss of pipeline members.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_client::{CreateOptions, DfsClient, FileWriter, ReplicaLocation};
use dfs_tests::cluster::{MiniCluster, SUPERUSER};
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::{read_all, write_file};
use tokio::io::AsyncWriteExt;

const BLOCK: u64 = 1 << 20;

/// Indexes of the datanodes in the writer's pipeline, in order.
fn pipeline(cluster: &MiniCluster, writer: &FileWriter) -> Result<Vec<usize>> {
    let index = |member: &ReplicaLocation| {
        cluster.datanode_index(&member.datanode.as_ref().context("member without datanode")?.uuid)
    };
    writer.pipeline().iter().map(index).collect()
}

/// Writes half of what fills one and a half blocks, kills the pipeline members at `positions`, and writes
/// the rest.
async fn write_while_members_die(datanodes: usize, positions: &[usize]) -> Result<()> {
    let mut cluster = MiniCluster::builder().datanodes(datanodes).block_size(BLOCK).start().await?;
    let client = cluster.client().await?;
    let bytes = pattern(1, 0, (BLOCK + BLOCK / 2) as usize);
    let half = (BLOCK / 2) as usize;
    let mut writer = client.create("/f", CreateOptions::default()).await?;
    writer.write_all(&bytes[..half]).await?;
    writer.hflush().await?;

    let stamp = cluster.blocks("/f").await?[0].block.context("block")?.generation_stamp;
    let members = pipeline(&cluster, &writer)?;
    ensure!(members.len() == 3, "pipeline {members:?}");
    for &position in positions {
        cluster.kill_datanode(members[position]).await;
    }
    for piece in bytes[half..].chunks(100_000) {
        writer.write_all(piece).await?;
        writer.hflush().await?;
    }
    writer.close().await?;

    ensure_same("/f", &read_all(&client, "/f").await?, &bytes)?;
    let block = cluster.blocks("/f").await?[0].block.context("block")?;
    ensure!(block.generation_stamp > stamp, "a rebuilt pipeline has a new generation stamp");
    let left = datanodes - positions.len();
    cluster.wait_for_replication("/f", left.min(3)).await?;

    // Stale replicas that come back are fenced by their old stamp and deleted.
    for &position in positions {
        cluster.start_datanode(members[position]).await?;
    }
    cluster.wait_for_replication("/f", 3).await?;
    ensure_same("/f", &read_all(&client, "/f").await?, &bytes)
}

#[test]
fn the_first_member_dies_in_mid_write() -> Result<()> {
    run(write_while_members_die(4, &[0]))
}

#[test]
fn the_middle_member_dies_in_mid_write() -> Result<()> {
    run(write_while_members_die(4, &[1]))
}

#[test]
fn the_last_member_dies_in_mid_write() -> Result<()> {
    run(write_while_members_die(4, &[2]))
}

#[test]
fn two_members_die_in_mid_write() -> Result<()> {
    run(write_while_members_die(5, &[0, 2]))
}

#[test]
fn a_member_dies_and_there_is_no_other() -> Result<()> {
    run(write_while_members_die(3, &[1]))
}

#[test]
fn a_member_dies_under_a_stream_that_is_not_flushed() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(4).block_size(4 << 20).start().await?;
        let client = cluster.client().await?;
        let bytes = pattern(2, 0, 10 << 20);
        let mut writer = client.create("/f", CreateOptions::default()).await?;
        writer.write_all(&bytes[..3 << 20]).await?;
        wait_until("the pipeline is set up", PATIENCE, async || Ok(!writer.pipeline().is_empty())).await?;
        let victim = pipeline(&cluster, &writer)?[0];
        let rest = async {
            writer.write_all(&bytes[3 << 20..]).await?;
            writer.close().await?;
            anyhow::Ok(())
        };
        let (written, ()) = tokio::join!(rest, cluster.kill_datanode(victim));
        written?;
        ensure_same("/f", &read_all(&client, "/f").await?, &bytes)?;
        cluster.wait_for_replication("/f", 3).await
    })
}

#[test]
fn all_members_restart_and_the_write_goes_on() -> Result<()> {
    run(async {
        for replication in [1, 3] {
            let datanodes = usize::from(replication);
            let settings = MiniCluster::builder().datanodes(datanodes).replication(replication);
            let mut cluster = settings.block_size(BLOCK).start().await?;
            let client = cluster.client().await?;
            let bytes = pattern(5, 0, 700_000);
            let mut writer = client.create("/f", CreateOptions::default()).await?;
            writer.write_all(&bytes[..200_001]).await?;
            writer.hflush().await?;
            for round in 0..2 {
                // The first time in the middle of data, the second time when only the end of the file is left.
                let restart = async {
                    for index in 0..datanodes {
                        cluster.kill_datanode(index).await;
                    }
                    for index in 0..datanodes {
                        cluster.start_datanode(index).await?;
                    }
                    anyhow::Ok(())
                };
                let rest = async {
                    if round == 0 {
                        writer.write_all(&bytes[200_001..]).await?;
                    }
                    writer.hflush().await?;
                    anyhow::Ok(())
                };
                let (restarted, written) = tokio::join!(restart, rest);
                restarted?;
                written?;
            }
            writer.close().await?;
            ensure_same("/f", &read_all(&client, "/f").await?, &bytes)?;
            cluster.wait_for_replication("/f", datanodes).await?;
        }
        Ok(())
    })
}

#[test]
fn all_members_dead_is_an_error_and_flushed_bytes_come_back_with_them() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let patience = Duration::from_secs(1);
        let client = DfsClient::builder().namenode(cluster.namenode_address()).datanode_return(patience);
        let client = client.user(SUPERUSER).connect().await?;
        let mut writer = client.create("/f", CreateOptions::default()).await?;
        writer.write_all(&pattern(3, 0, 200_000)).await?;
        writer.hflush().await?;
        let members: Vec<String> =
            (0..3).map(|index| Ok(cluster.xfer_addr(index)?.to_string())).collect::<Result<_>>()?;
        for index in 0..3 {
            cluster.kill_datanode(index).await;
        }
        let outcome = async {
            writer.write_bytes(pattern(3, 200_000, 200_000).into()).await?;
            writer.hflush().await
        };
        let error = outcome.await.expect_err("nobody is there to take the bytes");
        let text = error.to_string();
        ensure!(text.contains("/f") && text.contains("blk_") && !text.contains('\n'), "{text}");
        ensure!(members.iter().any(|member| text.contains(member)), "{text} names none of {members:?}");

        for index in 0..3 {
            cluster.start_datanode(index).await?;
        }
        drop(writer);
        let other = cluster.client().await?;
        wait_until("/f is recovered", PATIENCE, async || Ok(other.recover_lease("/f").await?)).await?;
        let seen = read_all(&other, "/f").await?;
        ensure!(seen.len() >= 200_000, "{} of 200000 flushed bytes are left", seen.len());
        ensure_same("/f", &seen, &pattern(3, 0, seen.len()))
    })
}

#[test]
fn an_append_pipeline_loses_a_member() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(4).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        write_file(&client, "/f", &pattern(4, 0, 300_000)).await?;
        cluster.wait_for_replication("/f", 3).await?;
        let mut writer = client.append("/f").await?;
        writer.write_all(&pattern(4, 300_000, 10_000)).await?;
        writer.hflush().await?;
        let victim = pipeline(&cluster, &writer)?[1];
        cluster.kill_datanode(victim).await;
        writer.write_all(&pattern(4, 310_000, 100_000)).await?;
        writer.close().await?;
        ensure_same("/f", &read_all(&client, "/f").await?, &pattern(4, 0, 410_000))?;
        cluster.start_datanode(victim).await?;
        cluster.wait_for_replication("/f", 3).await
    })
}

#[test]
fn a_dead_datanode_that_is_not_known_as_dead_does_not_stop_new_files() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(4).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        cluster.kill_datanode(0).await;
        for number in 0..6u64 {
            let path = format!("/f{number}");
            write_file(&client, &path, &pattern(number, 0, 100_000)).await?;
            ensure_same(&path, &read_all(&client, &path).await?, &pattern(number, 0, 100_000))?;
        }
        for number in 0..6 {
            cluster.wait_for_replication(&format!("/f{number}"), 3).await?;
        }
        Ok(())
    })
}
