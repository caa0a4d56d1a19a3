//! Disks without room: a clear refusal, nothing half-done, and everything goes on when there is room.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use dfs_client::{CreateOptions, DfsClient, MkdirOptions};
use dfs_datanode::{Datanode, DatanodeConfig};
use dfs_namenode::{Namenode, NamenodeConfig};
use dfs_proto::ErrorKind;
use dfs_tests::cluster::{MiniCluster, SUPERUSER};
use dfs_tests::harness::run;
use dfs_tests::small_disk::SmallDisk;
use dfs_tests::wait::{PATIENCE, wait_until};
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
        wait_until("the killed one is known to be gone", PATIENCE, async || {
            let stats = client.stats().await?;
            Ok((stats.live_datanodes, stats.stale_datanodes) == (1, 0))
        })
        .await?;

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

/// Makes directories until it is told to stop. Answers how many were acknowledged, and every error.
async fn make_directories(client: DfsClient, from: usize, made: Arc<AtomicUsize>) -> Result<()> {
    for at in from.. {
        match client.mkdir(&format!("/d{at}"), MkdirOptions::default()).await {
            Ok(_) => made.store(at + 1, Ordering::SeqCst),
            Err(error) if error.kind() == ErrorKind::NoSpace => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[test]
fn a_namenode_whose_disk_is_filled_and_freed_loses_nothing_and_goes_on() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(0).start().await?;
        cluster.kill_namenode().await;
        let Some(disk) = SmallDisk::mount(96 << 20)? else { return Ok(()) };
        let config = || NamenodeConfig {
            dir: disk.path().join("namenode"),
            reserved_bytes: 16 << 20,
            ..cluster.namenode_config()
        };
        let mut namenode = Namenode::start(config()).await?;
        let connect = async |namenode: &Namenode| {
            let builder = DfsClient::builder().namenode(namenode.rpc_addr().to_string());
            builder.user(SUPERUSER).connect().await
        };
        let made = Arc::new(AtomicUsize::new(0));
        for round in 0..3 {
            let client = connect(&namenode).await?;
            let from = made.load(Ordering::SeqCst);
            let working = tokio::spawn(make_directories(client.clone(), from, made.clone()));
            wait_until("the client works", PATIENCE, async || Ok(made.load(Ordering::SeqCst) > from + 20))
                .await?;
            // All of it at once, and faster than the namenode looks.
            disk.fill()?;
            // The client is told so, and by nothing else.
            working.await??;
            wait_until("the namenode says so", PATIENCE, async || Ok(client.stats().await?.disk_full))
                .await?;
            ensure_error(client.mkdir("/no", MkdirOptions::default()).await, ErrorKind::NoSpace, "full")?;
            let last = made.load(Ordering::SeqCst) - 1;
            client.stat(&format!("/d{last}")).await?;
            if round > 0 {
                // As by kill -9, and a start on the full disk.
                drop(namenode);
                namenode = Namenode::start(config()).await?;
                let client = connect(&namenode).await?;
                client.stat(&format!("/d{last}")).await?;
                ensure_error(client.mkdir("/no", MkdirOptions::default()).await, ErrorKind::NoSpace, "full")?;
            }
            disk.free()?;
            let client = connect(&namenode).await?;
            wait_until("it goes on by itself", PATIENCE, async || {
                Ok(client.mkdir(&format!("/round{round}"), MkdirOptions::default()).await.is_ok())
            })
            .await?;
        }
        namenode.shutdown().await;
        let namenode = Namenode::start(config()).await?;
        let client = connect(&namenode).await?;
        let made = made.load(Ordering::SeqCst);
        println!("{made} directories were acknowledged");
        let there = client.list("/").await?.len();
        anyhow::ensure!((made + 3..=made + 6).contains(&there), "{there} of {made} and three");
        for at in 0..made {
            client.stat(&format!("/d{at}")).await?;
        }
        namenode.shutdown().await;
        Ok(())
    })
}
