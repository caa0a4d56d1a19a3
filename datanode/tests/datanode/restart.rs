//! What a datanode makes of its directories at start.

use std::fs;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use dfs_datanode::{Datanode, DatanodeError};
use dfs_proto::data_transfer::local_socket_name;
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage as Stage;
use dfs_proto::v1::{ReplicaState, TriggerBlockReportRequest};

use crate::wire::{self, Block, Pipeline};
use crate::{Cluster, config, eventually, find, pattern};

#[tokio::test(flavor = "multi_thread")]
async fn flushed_bytes_survive_and_torn_ones_are_cut() {
    let mut cluster = Cluster::start(1).await;
    let (block, data) = (Block::new(1, 10), pattern(1, 3000));
    let mut pipeline = Pipeline::create(&[&cluster.nodes[0]], block);
    pipeline.flush(0, &data[..1300]);
    cluster.namenode.recorded().slices.clear();
    cluster
        .restart_after(0, |dir| {
            // Data of the next packet arrived, its checksums did not.
            let path = find(&dir.join("rbw"), "blk_1").expect("data file");
            let file = fs::File::options().write(true).open(path).expect("opens");
            file.write_all_at(&data[1300..], 1300).expect("written");
        })
        .await;
    // The first incarnation's report, of a replica being written, may arrive late.
    let report = || {
        let recorded = cluster.namenode.recorded();
        let after = recorded.slices.iter().find(|slice| slice.states().next() == Some(ReplicaState::Rwr));
        after.map(|slice| (slice.block_ids.clone(), slice.lengths.clone()))
    };
    eventually("the report", || report().is_some()).await;
    assert_eq!(report(), Some((vec![1], vec![1300])));
    let node = &cluster.nodes[0];
    assert_eq!(wire::read(node, block, 0, 1300).expect("read"), data[..1300]);
    let stage = Stage::PipelineSetupStreamingRecovery;
    let (_, refused) = Pipeline::try_recover(&[node], block, stage, 11, 1301, 3000);
    assert!(refused.message().contains("1300"), "it lost something: {}", refused.message());
    // Its writer has lost nothing and goes on.
    let mut pipeline = Pipeline::recover(&[node], block, stage, 12, 1300, 3000);
    pipeline.flush(1024, &data[1024..]);
    pipeline.close(3000);
    assert_eq!(wire::read(node, Block::new(1, 12), 0, 3000).expect("read"), data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_does_not_go_on_with_what_a_disk_spoilt_or_a_stop_of_the_machine_left() {
    for spoilt in [false, true] {
        let mut cluster = Cluster::start(1).await;
        let (block, data) = (Block::new(1, 10), pattern(1, 3000));
        Pipeline::create(&[&cluster.nodes[0]], block).flush(0, &data);
        cluster
            .restart_after(0, |dir| {
                if spoilt {
                    let path = find(&dir.join("rbw"), "blk_1").expect("data file");
                    let file = fs::File::options().write(true).open(path).expect("opens");
                    file.write_all_at(&[!data[700]], 700).expect("written");
                } else {
                    // The journal tells under which boot of the machine it was written.
                    fs::remove_dir_all(dir.join("journal")).expect("removed");
                }
            })
            .await;
        let stage = Stage::PipelineSetupStreamingRecovery;
        let (_, refused) = Pipeline::try_recover(&[&cluster.nodes[0]], block, stage, 11, 0, 3000);
        assert!(refused.message().contains("Rwr"), "only block recovery brings it back: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_stay_connected_do_not_keep_the_volumes() {
    let mut cluster = Cluster::start(1).await;
    let mut peers = Vec::new();
    for round in 0..10 {
        let node = &cluster.nodes[0];
        let name = SocketAddr::from_abstract_name(local_socket_name(node.uuid())).expect("a name");
        let reader = UnixStream::connect_addr(&name).expect("local readers are served after a restart");
        let mut control = wire::control(node);
        let trigger = TriggerBlockReportRequest::default();
        control.trigger_block_report(trigger).await.expect("answered");
        let mut scraper = wire::connect(node.http_addr());
        scraper.write_all(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n").expect("sent");
        let mut answer = [0; 12];
        scraper.read_exact(&mut answer).expect("answered");
        assert!(answer == *b"HTTP/1.1 200", "round {round}");
        peers.push((reader, control, scraper, wire::connect(node.xfer_addr())));
        // Fails if anybody still has the volume.
        cluster.restart(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_moves_are_completed_and_strays_set_aside() {
    let mut cluster = Cluster::start(1).await;
    let data = pattern(1, 2000);
    let node = &cluster.nodes[0];
    for id in 1..=5 {
        wire::write(&[node], Block::new(id, 10), &data);
    }
    let mut open = Pipeline::create(&[node], Block::new(6, 10));
    open.flush(0, &data);
    cluster
        .restart_after(0, |dir| {
            let closed = dir.join("finalized/subdir0/subdir0");
            // Stopped while closing, and while reopening: checksums moved, data not.
            fs::rename(dir.join("rbw/subdir6/blk_6_10.meta"), closed.join("blk_6_10.meta")).expect("moved");
            fs::rename(closed.join("blk_2_10.meta"), dir.join("rbw/subdir2/blk_2_11.meta")).expect("moved");
            fs::remove_file(closed.join("blk_3_10.meta")).expect("removed");
            fs::remove_file(closed.join("blk_4")).expect("removed");
            fs::write(closed.join("notes.txt"), "x").expect("written");
            fs::write(dir.join("tmp/blk_9"), "x").expect("written");
            fs::write(dir.join("rbw/subdir8/blk_8"), "").expect("written");
        })
        .await;
    let (node, dir) = (&cluster.nodes[0], cluster.dir(0));
    for block in [Block::new(1, 10), Block::new(2, 11), Block::new(5, 10), Block::new(6, 10)] {
        assert_eq!(wire::read(node, block, 0, 2000).expect("read"), data, "{block:?}");
    }
    assert_eq!(fs::read(dir.join("orphaned/blk_3")).expect("kept for rescue"), data);
    for gone in ["blk_4_10.meta", "blk_9", "blk_8"] {
        assert!(find(dir, gone).is_none(), "{gone}");
    }
    assert_eq!(node.dataset().replica_count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_of_a_block_the_newer_is_kept() {
    let mut cluster = Cluster::start(2).await;
    let block = Block::new(1, 10);
    wire::write(&[&cluster.nodes[0]], block, &pattern(1, 1000));
    wire::write(&[&cluster.nodes[1]], Block::new(1, 11), &pattern(2, 900));
    for node in cluster.nodes.drain(..) {
        node.shutdown().await;
    }
    // Two volumes of one datanode.
    let text = fs::read_to_string(cluster.dir(0).join("VERSION")).expect("VERSION");
    let uuid = text.lines().find(|l| l.starts_with("datanodeUuid")).expect("uuid");
    let other = fs::read_to_string(cluster.dir(1).join("VERSION")).expect("VERSION");
    let mut config = config(&cluster.namenode, cluster.dir(0));
    config.volumes.push(cluster.dir(1).to_owned());
    let refused = Datanode::start(config.clone()).await;
    assert!(
        matches!(refused, Err(DatanodeError::WrongCluster { field: "datanode", .. })),
        "two datanodes' volumes"
    );
    let lines: Vec<_> = other.lines().map(|l| if l.starts_with("datanodeUuid") { uuid } else { l }).collect();
    fs::write(cluster.dir(1).join("VERSION"), lines.join("\n")).expect("written");
    let node = Datanode::start(config).await.expect("starts");
    node.registered().await;
    assert_eq!(wire::read(&node, block, 0, 900).expect("read"), pattern(2, 900));
    assert!(cluster.dir(0).join("orphaned/blk_1").exists());
    // New blocks go to both volumes.
    for id in 10..60 {
        wire::write(&[&node], Block::new(id, 1), b"x");
    }
    let on = |dir: &std::path::Path| (10..60).filter(|id| find(dir, &format!("blk_{id}")).is_some()).count();
    let (first, second) = (on(cluster.dir(0)), on(cluster.dir(1)));
    assert!(first + second == 50 && first > 5 && second > 5, "{first} and {second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_is_refused() {
    let cluster = Cluster::start(1).await;
    let second = Datanode::start(config(&cluster.namenode, cluster.dir(0))).await;
    assert!(matches!(second, Err(DatanodeError::VolumeInUse { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_version_file_is_named() {
    let mut cluster = Cluster::start(1).await;
    cluster.nodes.remove(0).shutdown().await;
    fs::write(cluster.dir(0).join("VERSION"), "layoutVersion=99\n").expect("written");
    let Err(error) = Datanode::start(config(&cluster.namenode, cluster.dir(0))).await else {
        panic!("started on a foreign layout");
    };
    let text = error.to_string();
    assert!(text.contains("VERSION") && text.contains("layout version 99"), "{text}");
}
