//! `hsync` against scripted datanodes.

mod fake;

use dfs_client::{CreateOptions, DfsError, ErrorKind};
use fake::{BLOCK_SIZE, Cluster, Fault, pattern};
use tokio::io::AsyncWriteExt;

const BLOCK: usize = BLOCK_SIZE as usize;

/// Members with replicas of the file that are not on disk, whole as they are now.
fn unsynced(cluster: &Cluster, path: &str) -> Vec<usize> {
    let state = cluster.state();
    let mut found = Vec::new();
    for (index, datanode) in state.datanodes.iter().enumerate() {
        for (block, _) in &state.files[path].blocks {
            let replica = datanode.replicas.get(&block.id);
            found.extend(replica.filter(|r| r.synced < r.data.len()).map(|_| index));
        }
    }
    found
}

fn syncs(cluster: &Cluster) -> Vec<usize> {
    cluster.state().datanodes.iter().map(|datanode| datanode.syncs.len()).collect()
}

#[tokio::test]
async fn hsync_covers_the_blocks_finished_before_it() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
    writer.write_bytes(pattern(0, 3 * BLOCK + 100).into()).await.expect("writes");
    writer.hflush().await.expect("flushes");
    assert_eq!(unsynced(&cluster, "/f").len(), 12, "three blocks and an open one, on three members");
    writer.hsync().await.expect("syncs");
    assert_eq!(unsynced(&cluster, "/f"), Vec::<usize>::new());
    assert_eq!(syncs(&cluster), [3, 3, 3], "each finished block once");

    writer.write_bytes(pattern(3 * BLOCK + 100, 2 * BLOCK).into()).await.expect("writes");
    writer.hflush().await.expect("flushes");
    assert_eq!(unsynced(&cluster, "/f"), [0, 1, 2], "from now on only the open block waits for a sync");
    writer.hsync().await.expect("syncs");
    writer.close().await.expect("closes");
    assert_eq!(unsynced(&cluster, "/f"), Vec::<usize>::new());
    assert_eq!(syncs(&cluster), [3, 3, 3], "blocks that end later are synced by their last packets");
    assert!(cluster.stored("/f") == pattern(0, 5 * BLOCK + 100));
}

#[tokio::test]
async fn a_block_whose_end_was_recovered_is_synced_all_the_same() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
    writer.write_all(&pattern(0, 100)).await.expect("writes");
    writer.hsync().await.expect("syncs");
    writer.write_all(&pattern(100, 20_000)).await.expect("writes");
    writer.hflush().await.expect("flushes");
    cluster.set_fault(2, Fault::FailLastPacket);
    writer.close().await.expect("closes");
    assert_eq!(cluster.state().files["/f"].blocks[0].1, [0, 1]);
    assert_eq!(unsynced(&cluster, "/f"), [2], "only the lost member's");
}

#[tokio::test]
async fn the_oldest_blocks_are_synced_when_there_are_many() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
    let blocks = 300;
    for number in 0..blocks {
        writer.write_bytes(pattern(number, BLOCK).into()).await.expect("writes");
    }
    writer.hflush().await.expect("flushes");
    let early = {
        let state = cluster.state();
        let oldest = state.files["/f"].blocks.iter().map(|(block, _)| block.id);
        let early = &state.datanodes[0].syncs;
        assert!(oldest.zip(early).all(|(block, synced)| block == *synced), "oldest first");
        early.len()
    };
    // The last block is open, and 256 are remembered.
    assert_eq!(early, blocks - 1 - 256);
    writer.hsync().await.expect("syncs");
    assert_eq!(unsynced(&cluster, "/f"), Vec::<usize>::new());
    assert_eq!(syncs(&cluster), [blocks - 1]);
    writer.close().await.expect("closes");
}

#[tokio::test]
async fn a_replica_that_cannot_be_synced_is_left_out() {
    for fault in [Fault::FailSync, Fault::Refuse] {
        let cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
        writer.write_bytes(pattern(0, 2 * BLOCK + 100).into()).await.expect("writes");
        writer.hflush().await.expect("flushes");
        cluster.set_fault(1, fault);
        writer.hsync().await.expect("two replicas are on disk");
        let left_out = unsynced(&cluster, "/f");
        assert!(left_out.len() >= 2 && left_out.iter().all(|member| *member == 1), "{fault:?}: {left_out:?}");
        let state = cluster.state();
        let finished = &state.files["/f"].blocks[..2];
        for (block, _) in finished {
            assert!(
                state.bad_reports.iter().any(|(id, _)| *id == block.id),
                "{fault:?}: not told of {}",
                block.id
            );
        }
    }
}

#[tokio::test]
async fn a_finished_block_that_nobody_can_sync_fails_hsync_but_not_the_file() {
    let cluster = Cluster::start(2).await;
    let client = cluster.client().await;
    let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
    writer.write_bytes(pattern(0, BLOCK + 100).into()).await.expect("writes");
    (0..2).for_each(|index| cluster.set_fault(index, Fault::FailSync));
    let error = writer.hsync().await.expect_err("the first block is not on disk");
    assert!(matches!(error, DfsError::NotSynced { .. }) && error.kind() == ErrorKind::Unavailable, "{error}");
    let text = error.to_string();
    assert!(text.starts_with("/f: cannot sync blk_"), "{text}");
    (0..2).for_each(|index| cluster.set_fault(index, Fault::None));
    writer.write_bytes(pattern(BLOCK + 100, BLOCK).into()).await.expect("writing goes on");
    assert_eq!(writer.hsync().await.expect_err("a failed sync stays failed").to_string(), text);
    writer.close().await.expect("closes");
    assert!(cluster.stored("/f") == pattern(0, 2 * BLOCK + 100));
}
