//! Copies that fail are made again at once by another datanode, or to another one.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dfs_client::{CreateOptions, DfsClient};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::replica_files::Damage;
use dfs_tests::workload::read_all;
use tokio::io::AsyncWriteExt;

use crate::open_files::{create, open, session};

const FILES: usize = 12;
const BYTES: usize = 100_000;

/// An order that nobody hears of is given up after 30 seconds; whoever hears of the failure is done long before that, on a busy
/// machine, too.
const SOONER: Duration = Duration::from_secs(25);

async fn write_files(client: &DfsClient, replication: u16) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for number in 0..FILES {
        let path = format!("/f{number}");
        let options = CreateOptions { replication: Some(replication), ..CreateOptions::default() };
        let mut writer = client.create(&path, options).await?;
        writer.write_all(&pattern(number as u64, 0, BYTES)).await?;
        writer.close().await?;
        paths.push(path);
    }
    Ok(paths)
}

/// Raises the replication of all files and waits until they have it; answers how long that took.
async fn raise(cluster: &MiniCluster, client: &DfsClient, paths: &[String], to: u16) -> Result<Duration> {
    let began = Instant::now();
    for path in paths {
        client.set_replication(path, to).await?;
    }
    for path in paths {
        cluster.wait_for_replication(path, usize::from(to)).await?;
    }
    Ok(began.elapsed())
}

#[test]
fn a_source_whose_replica_is_damaged_is_replaced_at_once() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(4).start().await?;
        let client = cluster.client().await?;
        let paths = write_files(&client, 2).await?;
        for path in &paths {
            let block = cluster.blocks(path).await?[0].block.map_or(0, |block| block.id);
            let victim = cluster.stored_on(block)?[0];
            cluster.corrupt_replica(victim, block, Damage::FlipBit(50_000))?;
        }
        let took = raise(&cluster, &client, &paths, 3).await?;
        let failed = client.stats().await?.failed_copies;
        eprintln!("damaged sources: {failed} copies failed, replicated after {took:.2?}");
        ensure!(failed > 0, "no copy met a damaged replica");
        ensure!(took < SOONER, "copies that failed were waited for: {took:?}");
        for (number, path) in paths.iter().enumerate() {
            ensure_same(path, &read_all(&client, path).await?, &pattern(number as u64, 0, BYTES))?;
        }
        Ok(())
    })
}

#[test]
fn a_target_that_takes_no_copies_is_passed_over_at_once() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(4).start().await?;
        let client = cluster.client().await?;
        // Of two new replicas each, one in 4,096 runs would have none for one particular datanode.
        let paths = write_files(&client, 1).await?;
        // What is copied in begins in a directory of its own; without it the datanode serves and takes no copies.
        let volume = cluster.datanode_config(3).volumes[0].clone();
        std::fs::rename(volume.join("tmp"), volume.join("away"))?;
        std::fs::write(volume.join("tmp"), b"")?;
        let took = raise(&cluster, &client, &paths, 3).await?;
        let failed = client.stats().await?.failed_copies;
        eprintln!("a target that refuses: {failed} copies failed, replicated after {took:.2?}");
        ensure!(failed > 0, "no copy was to go to the datanode that takes none");
        ensure!(took < SOONER, "copies that failed were waited for: {took:?}");
        Ok(())
    })
}

/// The namenode calls it small, its replicas are not: they are cut when the block is next written.
#[test]
fn a_replica_that_is_longer_than_its_block_is_copied() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(3).replication(2).start().await?;
        let (client, fs) = (cluster.client().await?, session(&cluster, 1 << 20).await?);
        let (status, file) = create(&fs, "f").await?;
        file.write_at(0, pattern(1, 0, BYTES).into()).await?;
        file.release(true).await?;
        let file = open(&fs, status.inode, true).await?;
        file.set_len(20_000).await?;
        file.release(true).await?;
        raise(&cluster, &client, &["/f".to_owned()], 3).await?;
        ensure_same("cut", &read_all(&client, "/f").await?, &pattern(1, 0, 20_000))
    })
}
