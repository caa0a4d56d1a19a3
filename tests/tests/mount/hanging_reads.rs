//! A datanode whose disk does not answer reads: readers go on with another replica. The disk is a mount whose program is stopped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_client::DfsClient;
use dfs_datanode::{Datanode, DatanodeConfig};
use dfs_tests::cluster::{MiniCluster, SUPERUSER};
use dfs_tests::mount::{wait_until, with_cluster};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::wait::PATIENCE;
use dfs_tests::workload::{read_all, write_file};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sys::drop_pages;

/// A read goes on elsewhere within this time, and what a machine with other work needs.
const NEXT_WITHIN: Duration = Duration::from_secs(2);

const FILES: u64 = 12;

const BYTES: usize = 300_000;

/// A program that stands still; it goes on when this is dropped.
pub struct Stopped(Pid);

impl Stopped {
    pub fn new(pid: i32) -> Result<Self> {
        kill(Pid::from_raw(pid), Signal::SIGSTOP)?;
        Ok(Self(Pid::from_raw(pid)))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // If it is gone, nothing waits for it.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// Has all files below a directory read from the disk again.
fn forget_pages(dir: &Path) -> Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files += forget_pages(&path)?;
        } else if let Ok(file) = File::open(&path) {
            drop_pages(&file)?;
            files += 1;
        }
    }
    Ok(files)
}

/// Files below a directory that this process has open.
fn open_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let open = fs::read_dir("/proc/self/fd")?.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    Ok(open.filter(|path| path.starts_with(dir)).collect())
}

async fn reader(cluster: &MiniCluster, local: bool) -> Result<DfsClient> {
    let builder = DfsClient::builder().namenode(cluster.namenode_address()).user(SUPERUSER);
    Ok(builder.local_reads(local).connect().await?)
}

#[test]
fn a_disk_that_hangs_on_reads_holds_a_reader_up_for_a_moment() -> Result<()> {
    with_cluster(&["--datanodes", "1"], |below| {
        let disk = below.mount(&[])?;
        let pid = disk.pid()?;
        let volume = disk.path("volume");
        fs::create_dir(&volume)?;
        below.block_on(async {
            let cluster = MiniCluster::builder().datanodes(2).replication(3).start().await?;
            let volumes = vec![volume.clone()];
            let datanode = Datanode::start(DatanodeConfig { volumes, ..cluster.datanode_config(0) }).await?;
            tokio::time::timeout(PATIENCE, datanode.registered()).await.context("it does not register")?;
            cluster.wait_for_live_datanodes(3).await?;
            let client = cluster.client().await?;
            for number in 0..FILES {
                write_file(&client, &format!("/f{number}"), &pattern(number, 0, BYTES)).await?;
            }
            let mut slow = Vec::new();
            for local in [false, true] {
                let at = volume.clone();
                let files = tokio::task::spawn_blocking(move || forget_pages(&at)).await??;
                ensure!(files as u64 >= 2 * FILES, "{files} files are on the disk");
                // One that knows nothing of the datanode, and one that knows it as good.
                let (fresh, used) = (reader(&cluster, local).await?, reader(&cluster, local).await?);
                for number in 0..FILES / 2 {
                    read_all(&used, &format!("/f{number}")).await?;
                }
                let stopped = Stopped::new(pid)?;
                for (name, client) in [("fresh", &fresh), ("used", &used)] {
                    let mut longest = Duration::ZERO;
                    for number in 0..FILES {
                        let (path, began) = (format!("/f{number}"), Instant::now());
                        let bytes = read_all(client, &path).await?;
                        longest = longest.max(began.elapsed());
                        ensure_same(&path, &bytes, &pattern(number, 0, BYTES))?;
                    }
                    let hedges = client.hedge_counts();
                    eprintln!(
                        "hanging disk, local {local}, {name} reader: longest {longest:.2?}, {hedges:?}"
                    );
                    if longest > NEXT_WITHIN {
                        slow.push(format!("local {local}, {name}: {longest:?}"));
                    }
                }
                drop(stopped);
            }
            datanode.shutdown().await;
            ensure!(slow.is_empty(), "a reader waited for too long: {slow:?}");
            Ok(())
        })?;
        // Otherwise the mount would not end.
        wait_until("nothing on the disk is open", || {
            let open = open_below(disk.root())?;
            if !open.is_empty() {
                eprintln!("{open:?}");
            }
            Ok(open.is_empty())
        })
    })
}
