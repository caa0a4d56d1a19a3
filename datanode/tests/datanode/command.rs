//! Commands of the namenode.

use dfs_proto::transfer::Status;
use dfs_proto::v1::datanode_command::Command;
use dfs_proto::v1::{self, InvalidateCommand, ReplicaEvent, ReplicaLocation, TransferCommand};

use crate::wire::{self, Block, Pipeline};
use crate::{Cluster, eventually, pattern};

fn named(block: Block) -> v1::Block {
    v1::Block { id: block.id, generation_stamp: block.stamp, length: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_deleted_up_to_the_stamp_ordered() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let (old, kept, open) = (Block::new(1, 5), Block::new(2, 5), Block::new(3, 5));
    for block in [old, kept] {
        wire::write(&[node], block, &pattern(block.id, 2000));
    }
    let mut writing = Pipeline::create(&[node], open);
    writing.flush(0, &[1; 100]);
    let blocks = vec![named(old), named(Block::new(2, 4)), named(open), named(Block::new(99, 1))];
    cluster.namenode.order(node.uuid(), Command::Invalidate(InvalidateCommand { blocks }));
    for block in [old, open] {
        eventually("deleted", || cluster.namenode.heard(node.uuid(), ReplicaEvent::Deleted, block)).await;
        assert!(cluster.find(0, &block.data_name()).is_none());
        assert!(cluster.find(0, &block.meta_name()).is_none());
        assert_eq!(wire::read(node, block, 0, 1), Err(Status::Error));
    }
    assert!(writing.try_ack().is_err(), "its writer was stopped");
    assert_eq!(wire::read(node, kept, 0, 2000).expect("read"), pattern(2, 2000));
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_copied_to_other_datanodes() {
    let cluster = Cluster::start(3).await;
    let (block, data) = (Block::new(1, 5), pattern(1, 700_001));
    wire::write(&[&cluster.nodes[0]], block, &data);
    let location = |i: usize| {
        let recorded = cluster.namenode.recorded();
        let uuid = cluster.nodes[i].uuid();
        let request = recorded.registered.iter().find(|r| r.info.as_ref().is_some_and(|i| i.uuid == uuid));
        let request = request.expect("registered");
        ReplicaLocation { datanode: request.info.clone(), storage_id: request.storages[0].storage_id.clone() }
    };
    let order = TransferCommand { block: Some(named(block)), targets: vec![location(1), location(2)] };
    cluster.namenode.order(cluster.nodes[0].uuid(), Command::Transfer(order.clone()));
    for node in &cluster.nodes[1..] {
        eventually("copied", || cluster.namenode.heard(node.uuid(), ReplicaEvent::Received, block)).await;
        assert!(wire::read(node, block, 0, data.len() as u64).expect("read") == data);
    }
    // Ordered again: refused by the targets, and nothing breaks.
    cluster.namenode.order(cluster.nodes[0].uuid(), Command::Transfer(order));
    eventually("heartbeats go on", || {
        cluster.namenode.recorded().heartbeats.values().all(|count| *count > 20)
    })
    .await;
    assert!(wire::read(&cluster.nodes[2], block, 0, 100).is_ok());
}
