//! Disks without room: a clear refusal, nothing half-done, and everything goes on when there is room.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use dfs_client::{CreateOptions, MkdirOptions};
use dfs_datanode::{Datanode, DatanodeConfig};
use dfs_namenode::{Namenode, NamenodeConfig};
use dfs_proto::ErrorKind;
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::workload::{read_all, write_file};
use tokio::io::AsyncWriteExt as _;

use super::ensure_error;

#[test]
fn a_namenode_without_room_for_its_log_takes_no_changes_and_serves_reads() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::start().await?;
        write_file(&cluster.client().await?, "/f", b"before").await?;
        cluster.kill_namenode().await;

        // No disk has so much room: to the namenode its own is full.
        let full = NamenodeConfig { reserved_bytes: u64::MAX, ..cluster.namenode_config() };
        let namenode = Namenode::start(full).await?;
        let client = dfs_client::DfsClient::builder()
            .namenode(namenode.rpc_addr().to_string())
            .user(dfs_tests::cluster::SUPERUSER)
            .connect()
            .await?;
        ensure_error(client.mkdir("/d", MkdirOptions::default()).await, ErrorKind::NoSpace, "full")?;
        assert_eq!(client.stat("/f").await?.size, 6);
        ensure_error(client.stat("/d").await, ErrorKind::NotFound, "/d")?;
        namenode.shutdown().await;

        cluster.start_namenode().await?;
        let client = cluster.client().await?;
        client.mkdir("/d", MkdirOptions::default()).await?;
        assert_eq!(read_all(&client, "/f").await?, b"before");
        Ok(())
    })
}

#[test]
fn datanodes_without_room_take_no_blocks() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(1).replication(1).start().await?;
        let client = cluster.client().await?;
        write_file(&client, "/f", b"before").await?;
        cluster.kill_datanode(0).await;
        let full = DatanodeConfig { reserved_bytes: Some(u64::MAX), ..cluster.datanode_config(0) };
        let datanode = Datanode::start(full).await?;
        datanode.registered().await;

        let mut file = client.create("/g", CreateOptions::default()).await?;
        file.write_all(b"no room for this").await?;
        ensure_error(file.close().await, ErrorKind::NoUsableDatanode, "/g")?;
        assert_eq!(read_all(&client, "/f").await?, b"before");
        datanode.shutdown().await;
        Ok(())
    })
}

/// A file system in memory, of a size that can be filled.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Mounts one; none, loudly, where that is not allowed.
    fn mount(bytes: u64) -> Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let options = format!("size={bytes}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).status()?;
        if !mounted.success() {
            anyhow::ensure!(
                std::env::var_os("CI").is_none(),
                "cannot mount a tmpfs, which CI must be able to"
            );
            eprintln!("SKIPPED: cannot mount a tmpfs");
            return Ok(None);
        }
        Ok(Some(Self(dir)))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the small disk stays mounted");
    }
}

#[test]
fn a_datanode_that_runs_full_in_the_middle_of_a_write_says_so() -> Result<()> {
    run(async {
        let mut cluster =
            MiniCluster::builder().datanodes(1).replication(1).block_size(16 << 20).start().await?;
        let client = cluster.client().await?;
        cluster.kill_datanode(0).await;
        let disk = SmallDisk::mount(40 << 20)?;
        let Some(disk) = disk else { return Ok(()) };
        let small = DatanodeConfig { volumes: vec![disk.path().to_owned()], ..cluster.datanode_config(0) };
        let datanode = Datanode::start(small).await?;
        datanode.registered().await;

        let mut file = client.create("/g", CreateOptions::default()).await?;
        let written = async {
            for _ in 0..64 {
                file.write_all(&vec![7; 1 << 20]).await?;
            }
            file.close().await.map_err(std::io::Error::from)
        };
        let error = written.await.expect_err("64 MiB do not fit on 40");
        let text = error.to_string();
        anyhow::ensure!(
            error.kind() == std::io::ErrorKind::StorageFull && text.contains("/g") && !text.contains('\n'),
            "{:?}: {text}",
            error.kind()
        );
        datanode.shutdown().await;
        Ok(())
    })
}
