//! A datanode's disk whose syncs fail.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dfs_client::DfsClient;
use dfs_client::fs::{Caller, FileSystem, FileSystemConfig, FileType, InodeId, NewNode, OpenOptions};
use dfs_datanode::{Datanode, DatanodeConfig};
use dfs_tests::cluster::{MiniCluster, SUPERUSER};
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::small_disk::FailingDisk;
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::read_all;

/// What is on the disk before it fails.
const BEFORE: usize = 8192;

/// Bytes in writes that go to the journal, which has its room already; so has nothing else that is new.
const PIECE: usize = 16 << 10;

/// All that is written.
const LENGTH: usize = BEFORE + 6 * PIECE;

async fn serve(cluster: &MiniCluster, disk: &FailingDisk) -> Result<Datanode> {
    let config = DatanodeConfig { volumes: vec![disk.path().to_owned()], ..cluster.datanode_config(0) };
    let datanode = Datanode::start(config).await?;
    tokio::time::timeout(PATIENCE, datanode.registered()).await.context("it registers")?;
    Ok(datanode)
}

async fn ensure_there(client: &DfsClient, what: &str) -> Result<()> {
    let content = read_all(client, "/f").await.context(what.to_owned())?;
    ensure_same(what, &content, &pattern(1, 0, LENGTH))
}

#[test]
fn what_was_synced_is_there_when_the_disk_lost_it_behind_the_journal_and_is_good_again() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(1).replication(1).start().await?;
        let client = cluster.client().await?;
        cluster.kill_datanode(0).await;
        let Some(disk) = FailingDisk::mount()? else { return Ok(()) };
        let datanode = serve(&cluster, &disk).await?;
        wait_until("the killed one is known to be gone", PATIENCE, async || {
            let stats = client.stats().await?;
            Ok((stats.live_datanodes, stats.stale_datanodes) == (1, 0))
        })
        .await?;

        let one = FileSystem::connect(FileSystemConfig {
            user: Some(SUPERUSER.to_owned()),
            ..FileSystemConfig::of_namenodes(&cluster.namenode_address())
        })
        .await?;
        let bytes = pattern(1, 0, LENGTH);
        let piece = |from: usize, to: usize| Bytes::copy_from_slice(&bytes[from..to]);
        let new = NewNode::new(FileType::File, 0o644, "staff");
        let me = Caller::named(SUPERUSER);
        let (made, file) = one.create(&me, InodeId::ROOT, b"f", new).await?;
        file.write_at(0, piece(0, BEFORE / 2)).await?;
        file.release(true).await?;
        let open =
            async || one.open(&me, InodeId(made.inode), OpenOptions { write: true, truncate: false }).await;
        // Overwritten once, so that every directory that the replica is in is on the disk.
        let file = open().await?;
        file.write_at(BEFORE as u64 / 2, piece(BEFORE / 2, BEFORE)).await?;
        file.sync(false).await?;
        file.release(true).await?;
        disk.fail()?;
        let file = open().await?;
        for from in (BEFORE..LENGTH).step_by(PIECE) {
            file.write_at(from as u64, piece(from, from + PIECE)).await?;
            file.sync(false).await.context("the journal is on the disk")?;
        }
        file.release(true).await?;
        one.close().await?;
        datanode.shutdown().await;
        disk.write_back()?;
        disk.heal()?;

        // The first who syncs the file is told what it lost; the kernel still shows it, and finds nothing to sync.
        let refused = serve(&cluster, &disk).await.err().context("a start on what could not be written")?;
        ensure!(format!("{refused:#}").contains("blk_"), "{refused:#}");
        let datanode = serve(&cluster, &disk).await?;
        ensure_there(&client, "before a power failure").await?;
        datanode.shutdown().await;

        disk.remount()?;
        let datanode = serve(&cluster, &disk).await?;
        ensure_there(&client, "after a power failure").await?;
        datanode.shutdown().await;
        Ok(())
    })
}
