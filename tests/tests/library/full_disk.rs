//! Disks without room: a clear refusal, nothing half-done, and everything goes on when there is room.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use dfs_client::{CreateOptions, DfsClient, MkdirOptions};
use dfs_datanode::{Datanode, DatanodeConfig};
use dfs_namenode::consensus::{Consensus, ConsensusConfig};
use dfs_namenode::log::command::Op;
use dfs_namenode::log::{Caller, Command, InitializeOp, MkdirOp};
use dfs_namenode::namesystem::Snapshot;
use dfs_namenode::{Namenode, NamenodeConfig};
use dfs_proto::ErrorKind;
use dfs_proto::v1::NodeRef;
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

#[test]
fn a_checkpoint_that_finds_the_disk_full_waits_for_room_and_reads_go_on() -> Result<()> {
    run(async {
        let Some(disk) = SmallDisk::mount(48 << 20)? else { return Ok(()) };
        // Checkpoints come at once and are not held back, as if something else had taken the room in the middle of one.
        let config = || ConsensusConfig {
            checkpoint_interval: Duration::from_millis(50),
            checkpoint_room_bytes: 0,
            layer_bytes: 64 << 10,
            ..ConsensusConfig::new(disk.path().join("namenode"), 1)
        };
        let consensus = Consensus::start(config(), Arc::new(|_| ())).await?;
        let names = InitializeOp {
            cluster_id: "c".into(),
            block_pool_id: "p".into(),
            superuser: "root".into(),
            supergroup: "wheel".into(),
        };
        consensus.propose(command(Op::Initialize(names))).await?;
        let (mut made, mut next) = (Vec::new(), 0);
        for _ in 0..2 {
            let before = made.len();
            disk.fill()?;
            // Until the log has no room, or a checkpoint waits for some; then the last one may come to pass later.
            loop {
                next += 1;
                match tokio::time::timeout(STILL, consensus.propose(directory(next))).await {
                    Ok(Ok(_)) => made.push(next),
                    Ok(Err(_)) | Err(_) => break,
                }
            }
            ensure!(made.len() > before, "the log has taken room ahead");
            let failure = tokio::time::timeout(STILL, consensus.failed()).await;
            ensure!(failure.is_err(), "{failure:?}");
            ensure!(made.last().is_some_and(|last| is_there(&consensus, *last)), "reads go on");
            disk.free()?;
            wait_until("it goes on by itself", PATIENCE, async || {
                next += 1;
                let done = tokio::time::timeout(PATIENCE, consensus.propose(directory(next))).await?.is_ok();
                made.extend(done.then_some(next));
                Ok(done)
            })
            .await?;
        }
        println!("{} directories were acknowledged", made.len());
        consensus.shutdown().await;
        drop(consensus);
        let consensus = Consensus::start(config(), Arc::new(|_| ())).await?;
        for at in made {
            ensure!(is_there(&consensus, at), "directory {at} is lost");
        }
        consensus.shutdown().await;
        Ok(())
    })
}

/// Time without an answer after which something stands still.
const STILL: Duration = Duration::from_secs(2);

fn command(op: Op) -> Command {
    Command { now_ns: 1, op: Some(op), ..Command::default() }
}

/// Makes a directory with a name that takes room.
fn directory(number: usize) -> Command {
    command(Op::Mkdir(MkdirOp { node: Some(name_of(number)), mode: 0o755, create_parents: false }))
}

fn name_of(number: usize) -> NodeRef {
    dfs_tests::cluster::node(&format!("/{number:0>200}"))
}

fn is_there(consensus: &Consensus, number: usize) -> bool {
    let caller = Caller { superuser: true, ..Caller::default() };
    Snapshot::open(&consensus.store()).stat(&caller, &name_of(number)).is_ok()
}
