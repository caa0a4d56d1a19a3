//! Disks of a datanode that fail while it works: they cost their own replicas, which are made anew elsewhere, and what takes
//! their place is taken into service without a restart.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use dfs_client::{DatanodeReport, DatanodeState, DfsClient, StorageReport};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::replica_files::replicas_below;
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::{read_all, write_file};

const BLOCK: u64 = 256 << 10;

/// Files that are written: enough that each of two volumes gets some.
const FILES: u64 = 12;

struct Disks {
    cluster: MiniCluster,
    client: DfsClient,
}

impl Disks {
    /// Three datanodes with two volumes each, and some files on all of them.
    async fn start() -> Result<Self> {
        let cluster = MiniCluster::builder().datanodes(3).volumes(2).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let disks = Self { cluster, client };
        disks.write("f").await?;
        Ok(disks)
    }

    async fn write(&self, name: &str) -> Result<()> {
        for number in 0..FILES {
            write_file(&self.client, &format!("/{name}{number}"), &pattern(number, 0, 70_000)).await?;
        }
        Ok(())
    }

    /// Every file has its content, and all of its replicas.
    async fn all_is_well(&self, name: &str) -> Result<()> {
        for number in 0..FILES {
            let path = format!("/{name}{number}");
            self.cluster.wait_for_replication(&path, 3).await?;
            ensure_same(&path, &read_all(&self.client, &path).await?, &pattern(number, 0, 70_000))?;
        }
        Ok(())
    }

    /// Directory of a volume of datanode 0.
    fn volume(&self, number: usize) -> PathBuf {
        self.cluster.datanode_config(0).volumes[number].clone()
    }

    /// What the namenode knows of a volume of datanode 0.
    async fn told(&self, dir: &Path) -> Result<Option<StorageReport>> {
        let path = dir.display().to_string();
        let reports = self.client.datanodes().await?;
        // A datanode whose volumes were emptied comes back as another one; the dead one had a volume there, too.
        let lives = |report: &DatanodeReport| {
            report.info.as_ref().is_some_and(|info| info.state() == DatanodeState::Live)
        };
        let mut volumes = reports.into_iter().filter(lives).flat_map(|report| report.storages);
        Ok(volumes.find(|storage| storage.path == path))
    }

    /// Waits until a volume has failed, and answers why.
    async fn failed(&self, dir: &Path) -> Result<String> {
        wait_until("the volume has failed", PATIENCE, async || {
            Ok(self.told(dir).await?.is_some_and(|storage| storage.failed))
        })
        .await?;
        Ok(self.told(dir).await?.context("volume")?.failure)
    }

    /// Waits until a volume serves, and answers its storage id.
    async fn serves(&self, dir: &Path) -> Result<String> {
        wait_until("the volume serves", PATIENCE, async || {
            Ok(self.told(dir).await?.is_some_and(|storage| !storage.failed))
        })
        .await?;
        Ok(self.told(dir).await?.context("volume")?.storage_id)
    }

    /// Writes until something of it is below `dir`.
    async fn gets_replicas(&self, dir: &Path) -> Result<()> {
        for round in 0..10 {
            self.write(&format!("round{round}-")).await?;
            if !replicas_below(dir)?.is_empty() {
                return Ok(());
            }
        }
        anyhow::bail!("nothing was written to {}", dir.display())
    }
}

#[test]
fn a_volume_that_is_gone_costs_only_its_replicas_and_a_new_one_takes_its_place() -> Result<()> {
    run(async {
        let disks = Disks::start().await?;
        let dir = disks.volume(0);
        let before = disks.serves(&dir).await?;
        ensure!(!replicas_below(&dir)?.is_empty() && !replicas_below(&disks.volume(1))?.is_empty());
        fs::remove_dir_all(&dir)?;
        let reason = disks.failed(&dir).await?;
        ensure!(reason.contains("No such file or directory"), "{reason}");
        // The datanode serves its other volume, and takes copies of what was on the lost one.
        disks.all_is_well("f").await?;
        ensure!(disks.client.stats().await?.live_datanodes == 3);

        fs::create_dir(&dir)?;
        let after = disks.serves(&dir).await?;
        ensure!(after != before, "an empty volume is a new one");
        disks.gets_replicas(&dir).await?;
        disks.all_is_well("f").await
    })
}

#[test]
fn a_volume_that_comes_back_with_its_replicas_is_taken_as_it_is() -> Result<()> {
    run(async {
        let disks = Disks::start().await?;
        let dir = disks.volume(1);
        let before = disks.serves(&dir).await?;
        let aside = dir.with_extension("aside");
        fs::rename(&dir, &aside)?;
        disks.failed(&dir).await?;
        fs::rename(&aside, &dir)?;
        ensure!(disks.serves(&dir).await? == before, "it is the same volume");
        disks.all_is_well("f").await?;
        wait_until("nothing is left to do", PATIENCE, async || {
            let stats = disks.client.stats().await?;
            Ok(stats.under_replicated_blocks == 0 && stats.pending_deletion_blocks == 0)
        })
        .await
    })
}

#[test]
fn a_datanode_starts_without_a_disk_that_is_broken() -> Result<()> {
    run(async {
        let mut disks = Disks::start().await?;
        let dir = disks.volume(0);
        disks.cluster.kill_datanode(0).await;
        fs::remove_dir_all(&dir)?;
        // Leads nowhere: neither to be opened nor to be made.
        symlink("nowhere", &dir)?;
        disks.cluster.start_datanode(0).await?;
        let reason = disks.failed(&dir).await?;
        ensure!(reason.contains(&dir.display().to_string()), "{reason}");
        disks.all_is_well("f").await?;
        fs::remove_file(&dir)?;
        fs::create_dir(&dir)?;
        disks.serves(&dir).await?;
        disks.gets_replicas(&dir).await
    })
}

/// A file system in memory, unmounted when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(dir: &Path) -> Result<Self> {
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(dir).status()?;
        ensure!(status.success(), "mount: {status}");
        Ok(Self(dir.to_owned()))
    }

    fn unmount(&self, flags: &[&str]) -> Result<()> {
        let status = Command::new("umount").args(flags).arg(&self.0).status()?;
        ensure!(status.success(), "umount: {status}");
        Ok(())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(std::process::Stdio::null()).status();
    }
}

#[test]
fn an_unmounted_disk_fails_and_its_mount_point_is_not_filled() -> Result<()> {
    run(async {
        let mut disks = Disks::start().await?;
        let (dir, other) = (disks.volume(0), disks.volume(1));
        disks.cluster.kill_datanode(0).await;
        for dir in [&dir, &other] {
            fs::remove_dir_all(dir)?;
            fs::create_dir(dir)?;
        }
        // Both of one size, so that both are written to.
        let (first, _other) = (Tmpfs::mount(&dir)?, Tmpfs::mount(&other)?);
        disks.cluster.start_datanode(0).await?;
        let before = disks.serves(&dir).await?;
        disks.gets_replicas(&dir).await?;

        first.unmount(&["-l"])?;
        let reason = disks.failed(&dir).await?;
        ensure!(reason.contains("unmounted"), "{reason}");
        disks.all_is_well("f").await?;
        disks.write("g").await?;
        ensure!(fs::read_dir(&dir)?.next().is_none(), "the mount point was filled");
        ensure!(disks.told(&dir).await?.context("volume")?.failed);

        let _second = Tmpfs::mount(&dir)?;
        let after = disks.serves(&dir).await?;
        ensure!(after != before);
        disks.gets_replicas(&dir).await?;
        disks.all_is_well("g").await
    })
}
