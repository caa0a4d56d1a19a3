//! Replicas: failover of readers, repair, placement, and changes of replication.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use dfs_client::{CreateOptions, DfsClient};
use dfs_proto::ErrorKind;
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::replica_files::Damage;
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::{read_all, write_file};

const BLOCK: u64 = 256 << 10;

/// Writes three blocks of content 1 to `/f` and waits until they are everywhere they should be.
async fn stored_file(cluster: &MiniCluster, client: &DfsClient) -> Result<Vec<u8>> {
    let bytes = pattern(1, 0, 3 * BLOCK as usize);
    write_file(client, "/f", &bytes).await?;
    cluster.wait_for_replication("/f", 3).await?;
    Ok(bytes)
}

/// Reads until the corrupt replica has been met (readers may choose a good one), then waits until it is
/// replaced.
async fn read_and_wait_for_replacement(
    cluster: &MiniCluster,
    client: &DfsClient,
    bytes: &[u8],
    index: usize,
    block: u64,
) -> Result<()> {
    wait_until("the bad replica is replaced", PATIENCE, async || {
        ensure_same("/f", &read_all(client, "/f").await?, bytes)?;
        // A reader in sequence stays with the datanode that it began with; one that starts here chooses anew.
        let mut middle = vec![0; BLOCK as usize];
        let have = client.open("/f").await?.read_at(BLOCK, &mut middle).await?;
        ensure_same("/f", &middle[..have], &bytes[BLOCK as usize..2 * BLOCK as usize])?;
        let located = cluster.blocks("/f").await?;
        if located[1].locations.len() != 3 || located[1].corrupt_replicas != 0 {
            return Ok(false);
        }
        // Good again wherever it is: either rewritten on the same datanode, or gone from it.
        let Some(files) = cluster.replica(index, block)? else { return Ok(true) };
        let (Ok(stored), true) = (std::fs::read(&files.data), files.meta.is_some()) else { return Ok(false) };
        Ok(stored == bytes[BLOCK as usize..2 * BLOCK as usize])
    })
    .await
}

async fn damaged_replica_is_replaced(datanodes: usize, damage: Damage) -> Result<()> {
    let cluster = MiniCluster::builder().datanodes(datanodes).block_size(BLOCK).start().await?;
    let client = cluster.client().await?;
    let bytes = stored_file(&cluster, &client).await?;
    let block = cluster.blocks("/f").await?[1].block.context("block")?.id;
    let index = cluster.located_on("/f", 1).await?[0];
    cluster.corrupt_replica(index, block, damage)?;
    read_and_wait_for_replacement(&cluster, &client, &bytes, index, block).await
}

#[test]
fn a_flipped_bit_is_never_returned_and_the_replica_is_replaced() -> Result<()> {
    run(damaged_replica_is_replaced(4, Damage::FlipBit(BLOCK / 2 + 17)))
}

#[test]
fn a_flipped_bit_is_repaired_when_no_other_datanode_is_free() -> Result<()> {
    run(damaged_replica_is_replaced(3, Damage::FlipBit(0)))
}

#[test]
fn a_truncated_replica_is_replaced() -> Result<()> {
    run(damaged_replica_is_replaced(4, Damage::Truncate(BLOCK / 2)))
}

#[test]
fn a_replica_without_its_data_file_is_replaced() -> Result<()> {
    run(damaged_replica_is_replaced(4, Damage::RemoveData))
}

#[test]
fn a_replica_without_its_checksums_is_replaced() -> Result<()> {
    run(damaged_replica_is_replaced(4, Damage::RemoveMeta))
}

#[test]
fn a_file_whose_replicas_are_all_corrupt_cannot_be_read_and_says_so() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let bytes = stored_file(&cluster, &client).await?;
        let block = cluster.blocks("/f").await?[1].block.context("block")?.id;
        for index in 0..3 {
            cluster.corrupt_replica(index, block, Damage::FlipBit(100))?;
        }
        let reader = client.open("/f").await?;
        let mut buffer = vec![0u8; BLOCK as usize];
        assert_eq!(reader.read_at(0, &mut buffer).await?, BLOCK as usize);
        ensure_same("block 0", &buffer, &bytes[..BLOCK as usize])?;
        let error = reader.read_at(BLOCK, &mut buffer).await.expect_err("no good replica is left");
        ensure!(
            matches!(error.kind(), ErrorKind::ChecksumMismatch | ErrorKind::BlockMissing),
            "{:?}: {error}",
            error.kind()
        );
        ensure!(
            error.to_string().contains("/f") && error.to_string().contains(&format!("blk_{block}")),
            "{error}"
        );
        // The bytes stay on disk: somebody may want to rescue them.
        assert_eq!(cluster.stored_on(block)?.len(), 3);
        wait_until("the block is counted as corrupt", PATIENCE, async || {
            Ok(client.stats().await?.corrupt_blocks == 1)
        })
        .await
    })
}

#[test]
fn readers_go_on_when_datanodes_die() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let bytes = stored_file(&cluster, &client).await?;
        let mut reader = client.open("/f").await?;
        let first = reader.chunk().await?.context("a first chunk")?;
        for victim in cluster.located_on("/f", 0).await?.into_iter().take(2) {
            cluster.kill_datanode(victim).await;
        }
        let mut got = first.to_vec();
        while let Some(chunk) = reader.chunk().await? {
            got.extend_from_slice(&chunk);
        }
        ensure_same("/f", &got, &bytes)?;
        ensure_same("/f opened anew", &read_all(&client, "/f").await?, &bytes)
    })
}

#[test]
fn a_dead_datanodes_replicas_are_made_anew_elsewhere() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(4).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let bytes = stored_file(&cluster, &client).await?;
        let victim = cluster.located_on("/f", 0).await?[0];
        cluster.kill_datanode(victim).await;
        cluster.wait_for_live_datanodes(3).await?;
        cluster.wait_for_replication("/f", 3).await?;
        assert!(!cluster.located_on("/f", 0).await?.contains(&victim));

        // It comes back with its replicas: what is too much is removed, and nothing else.
        cluster.start_datanode(victim).await?;
        cluster.wait_for_live_datanodes(4).await?;
        cluster.wait_for_replication("/f", 3).await?;
        wait_until("nothing is left to repair", PATIENCE, async || {
            let stats = client.stats().await?;
            Ok(stats.under_replicated_blocks == 0 && stats.pending_deletion_blocks == 0)
        })
        .await?;
        ensure_same("/f", &read_all(&client, "/f").await?, &bytes)
    })
}

#[test]
fn blocks_written_with_too_few_datanodes_are_completed_later() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(2).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let bytes = pattern(1, 0, 3 * BLOCK as usize);
        write_file(&client, "/f", &bytes).await?;
        cluster.wait_for_replication("/f", 2).await?;
        wait_until("the shortage is counted", PATIENCE, async || {
            Ok(client.stats().await?.under_replicated_blocks == 3)
        })
        .await?;
        cluster.grow().await?;
        cluster.wait_for_replication("/f", 3).await?;
        ensure_same("/f", &read_all(&client, "/f").await?, &bytes)
    })
}

#[test]
fn replication_goes_up_and_down_as_asked() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(4).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let bytes = stored_file(&cluster, &client).await?;
        for replication in [4, 1, 2, 3] {
            client.set_replication("/f", replication).await?;
            assert_eq!(client.stat("/f").await?.replication, replication);
            cluster.wait_for_replication("/f", usize::from(replication)).await?;
            ensure_same("/f", &read_all(&client, "/f").await?, &bytes)?;
        }
        client.mkdir("/d", Default::default()).await?;
        crate::ensure_error(client.set_replication("/d", 2).await, ErrorKind::IsADirectory, "/d")
    })
}

#[test]
fn replicas_are_spread_over_racks() -> Result<()> {
    run(async {
        let racks = ["/dc1/rack1", "/dc1/rack2", "/dc2/rack3"];
        let cluster = MiniCluster::builder().datanodes(6).racks(&racks).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        for number in 0..8u64 {
            let path = format!("/f{number}");
            write_file(&client, &path, &pattern(number, 0, 1_000)).await?;
            cluster.wait_for_replication(&path, 3).await?;
            let located = cluster.blocks(&path).await?;
            let used: BTreeSet<&str> = located[0]
                .locations
                .iter()
                .filter_map(|location| location.datanode.as_ref())
                .map(|datanode| datanode.rack.as_str())
                .collect();
            assert_eq!(used.len(), 2, "{path} is on {used:?}: one node, then two of one other rack");
        }
        Ok(())
    })
}

#[test]
fn no_datanode_at_all_is_a_clear_error_and_leaves_nothing_behind() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(0).start().await?;
        let client = cluster.client().await?;
        let outcome = async {
            let mut writer = client.create("/f", CreateOptions::default()).await?;
            writer.write_bytes(b"nowhere to go".to_vec().into()).await?;
            writer.close().await
        };
        let error = outcome.await.expect_err("no datanode");
        ensure!(error.kind() == ErrorKind::NoUsableDatanode, "{:?}: {error}", error.kind());
        ensure!(error.to_string().contains("/f"), "{error}");
        write_file(&client, "/empty", b"").await?;
        assert_eq!(client.stat("/empty").await?.size, 0);
        Ok(())
    })
}

#[test]
fn replicas_that_no_file_needs_are_deleted_after_a_restart() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        stored_file(&cluster, &client).await?;
        cluster.kill_datanode(0).await;
        assert!(client.delete("/f", false).await?);
        cluster.start_datanode(0).await?;
        wait_until("no replica is left", PATIENCE, async || Ok(cluster.all_replicas()?.is_empty())).await
    })
}

#[test]
fn the_space_used_follows_what_is_written_and_deleted() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let used_is = async |what: &str, bytes: u64| {
            wait_until(&format!("{what}: {bytes} bytes are used"), PATIENCE, async || {
                let told = client.datanodes().await?;
                let of_nodes: u64 = told.iter().flat_map(|node| &node.storages).map(|s| s.used).sum();
                Ok(client.stats().await?.used == bytes && of_nodes == bytes)
            })
            .await
        };
        used_is("an empty cluster", 0).await?;
        let mut writer = client.create("/f", CreateOptions::default()).await?;
        writer.write_bytes(pattern(1, 0, BLOCK as usize + 1_000).into()).await?;
        writer.hflush().await?;
        used_is("while it is written", 3 * (BLOCK + 1_000)).await?;
        writer.close().await?;
        write_file(&client, "/g", &pattern(2, 0, 500)).await?;
        used_is("two files", 3 * (BLOCK + 1_500)).await?;
        client.delete("/f", false).await?;
        used_is("one file is deleted", 3 * 500).await
    })
}

#[test]
fn the_checksum_of_a_file_depends_on_its_content_only() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let client = cluster.client().await?;
        let bytes = pattern(1, 0, 700_001);
        let mut sums = BTreeSet::new();
        for (number, block_size) in [64 << 10, 256 << 10, 1 << 20].into_iter().enumerate() {
            let path = format!("/f{number}");
            let options = CreateOptions {
                block_size: Some(block_size),
                replication: Some(1 + number as u16),
                ..CreateOptions::default()
            };
            let mut writer = client.create(&path, options).await?;
            writer.write_bytes(bytes.clone().into()).await?;
            writer.close().await?;
            let sum = client.checksum(&path).await?;
            assert_eq!(sum.length, bytes.len() as u64);
            sums.insert(sum.crc);
        }
        assert_eq!(sums.len(), 1, "{sums:x?}");
        write_file(&client, "/other", &pattern(2, 0, 700_001)).await?;
        assert!(!sums.contains(&client.checksum("/other").await?.crc));
        Ok(())
    })
}
