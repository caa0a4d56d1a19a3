//! A datanode whose disk does not answer while its process lives: writers leave it behind, new files go elsewhere.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_client::{CreateOptions, DfsClient, FileWriter};
use dfs_datanode::{Datanode, DatanodeConfig};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::frozen_disk::FrozenDisk;
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::wait::PATIENCE;
use dfs_tests::workload::read_all;
use tokio::io::AsyncWriteExt;

/// The longest time in which a writer's owner may see nothing move.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a machine that runs other tests may add.
const NOISE: Duration = Duration::from_secs(3);

const RECORD: usize = 4 << 10;
const RECORDS: usize = 20;

/// Files tried until a pipeline has the datanode at the place wanted.
const TRIES: usize = 200;

/// A writer with a flushed record whose pipeline has datanode `uuid` at `place`.
async fn writer_with(client: &DfsClient, path: &str, uuid: &str, place: usize) -> Result<FileWriter> {
    for _ in 0..TRIES {
        let options = CreateOptions { overwrite: true, ..CreateOptions::default() };
        let mut writer = client.create(path, options).await?;
        writer.write_all(&pattern(1, 0, RECORD)).await?;
        writer.hflush().await?;
        let member = writer.pipeline().get(place).and_then(|member| member.datanode.clone());
        if member.is_some_and(|member| member.uuid == uuid) {
            return Ok(writer);
        }
        writer.close().await?;
    }
    anyhow::bail!("no pipeline has {uuid} at place {place}")
}

#[test]
fn a_member_whose_disk_hangs_holds_a_writer_up_for_a_moment() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(3).start().await?;
        let Some(disk) = FrozenDisk::mount()? else { return Ok(()) };
        let volumes = vec![disk.path().join("volume")];
        let datanode = Datanode::start(DatanodeConfig { volumes, ..cluster.datanode_config(0) }).await?;
        tokio::time::timeout(PATIENCE, datanode.registered()).await.context("it does not register")?;
        cluster.wait_for_live_datanodes(4).await?;
        let uuid = datanode.uuid().to_owned();
        let mut slow = Vec::new();
        for place in 0..3 {
            let client = cluster.client().await?;
            let path = format!("/flushed-{place}");
            let mut writer = writer_with(&client, &path, &uuid, place).await?;
            disk.freeze()?;
            let mut pause = Duration::ZERO;
            for record in 1..RECORDS {
                let began = Instant::now();
                writer.write_all(&pattern(1, (record * RECORD) as u64, RECORD)).await?;
                writer.hflush().await?;
                pause = pause.max(began.elapsed());
            }
            let began = Instant::now();
            writer.close().await?;
            pause = pause.max(began.elapsed());
            eprintln!("hanging disk, place {place}, flushed records: pause {pause:.2?}");
            if pause > LONGEST_PAUSE + NOISE {
                slow.push(format!("place {place}: {pause:?}"));
            }
            ensure_same(&path, &read_all(&client, &path).await?, &pattern(1, 0, RECORDS * RECORD))?;
            disk.thaw()?;
        }
        // A client that knows nothing of the datanode yet makes new files.
        let client = cluster.client().await?;
        disk.freeze()?;
        let mut longest = Duration::ZERO;
        for number in 0..4 {
            let (path, began) = (format!("/new-{number}"), Instant::now());
            let mut writer = client.create(&path, CreateOptions::default()).await?;
            writer.write_all(&pattern(2, 0, 300_000)).await?;
            writer.close().await?;
            longest = longest.max(began.elapsed());
            ensure_same(&path, &read_all(&client, &path).await?, &pattern(2, 0, 300_000))?;
        }
        eprintln!("hanging disk, new files: the slowest took {longest:.2?}");
        if longest > LONGEST_PAUSE + NOISE {
            slow.push(format!("new files: {longest:?}"));
        }
        disk.thaw()?;
        datanode.shutdown().await;
        ensure!(slow.is_empty(), "nothing moved for too long: {slow:?}");
        Ok(())
    })
}
