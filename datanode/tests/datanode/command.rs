//! Commands of the namenode.

use dfs_proto::transfer::Status;
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage as Stage;
use dfs_proto::v1::datanode_command::Command;
use dfs_proto::v1::{
    self, FinalizeCommand, InvalidateCommand, ReplicaEvent, ReplicaLocation, ReplicaState, TransferCommand,
};

use crate::wire::{self, Block, Pipeline};
use crate::{Cluster, eventually, find, pattern};

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
    let absent = Block::new(99, 1);
    let blocks = vec![named(old), named(Block::new(2, 4)), named(open), named(absent)];
    cluster.namenode.order(node.uuid(), Command::Invalidate(InvalidateCommand { blocks }));
    for block in [old, open] {
        eventually("deleted", || cluster.namenode.heard(node.uuid(), ReplicaEvent::Deleted, block)).await;
        assert!(cluster.find(0, &block.data_name()).is_none());
        assert!(cluster.find(0, &block.meta_name()).is_none());
        assert_eq!(wire::read(node, block, 0, 1), Err(Status::Error));
    }
    let confirmed = || cluster.namenode.heard(node.uuid(), ReplicaEvent::Deleted, absent);
    eventually("confirmed what was never here", confirmed).await;
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
    let order = TransferCommand {
        block: Some(named(block)),
        targets: vec![location(1), location(2)],
        ..Default::default()
    };
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

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_lost_their_last_rename_are_closed() {
    const LEN: usize = 3_000;
    let mut cluster = Cluster::start(1).await;
    for id in 1..=4 {
        wire::write(&[&cluster.nodes[0]], Block::new(id, 5), &pattern(id, LEN));
    }
    cluster.namenode.recorded().slices.clear();
    cluster
        .restart_after(0, |dir| {
            // What a loss of power leaves: all bytes, under the old names; of the last one not all bytes.
            for id in 1..=4 {
                let block = Block::new(id, 5);
                for name in [block.data_name(), block.meta_name()] {
                    let from = find(&dir.join("finalized"), &name).expect("closed");
                    std::fs::rename(from, dir.join(format!("rbw/subdir{id}")).join(name)).expect("moved");
                }
            }
            let path = find(&dir.join("rbw"), "blk_4").expect("data");
            std::fs::File::options().write(true).open(path).and_then(|f| f.set_len(2_000)).expect("cut");
        })
        .await;
    eventually("the report", || !cluster.namenode.recorded().slices.is_empty()).await;
    assert!(cluster.namenode.recorded().slices[0].states().all(|state| state == ReplicaState::Rwr));

    let node = &cluster.nodes[0];
    let complete = |id, stamp, length| v1::Block { id, generation_stamp: stamp, length };
    let length = LEN as u64;
    // Only the first one is what the namenode takes it for.
    let blocks = vec![
        complete(4, 5, length),
        complete(3, 5, length - 1),
        complete(2, 6, length),
        complete(99, 5, length),
        complete(1, 5, length),
    ];
    let order = Command::Finalize(FinalizeCommand { blocks });
    cluster.namenode.order(node.uuid(), order.clone());
    let closed = cluster.dir(0).join("finalized");
    eventually("closed", || find(&closed, "blk_1").is_some()).await;
    for id in 2..=4 {
        assert!(find(&closed, &format!("blk_{id}")).is_none(), "{id} is left for recovery");
    }
    for id in 1..=3 {
        assert_eq!(wire::read(node, Block::new(id, 5), 0, length).expect("read"), pattern(id, LEN));
    }
    // Ordered again because the answer was lost: told again.
    eventually("told", || cluster.namenode.heard(node.uuid(), ReplicaEvent::Received, Block::new(1, 5)))
        .await;
    cluster.namenode.recorded().changes.clear();
    cluster.namenode.order(node.uuid(), order);
    eventually("told again", || {
        cluster.namenode.heard(node.uuid(), ReplicaEvent::Received, Block::new(1, 5))
    })
    .await;
    let mut append =
        Pipeline::recover(&[node], Block::new(1, 5), Stage::PipelineSetupAppend, 7, length, length);
    append.flush(length, b"more");
    append.close(length + 4);
    assert_eq!(wire::read(node, Block::new(1, 7), length, 4).expect("read"), b"more");
}
