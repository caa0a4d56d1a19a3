//! Block recovery with a real primary and real participants.

use std::os::unix::fs::FileExt;

use dfs_proto::v1::datanode_command::Command;
use dfs_proto::v1::{self, RecoverBlockCommand, ReplicaLocation, ReplicaVisibleLengthRequest};
use dfs_proto::{ErrorKind, RpcError};

use dfs_proto::transfer::Status;
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage as Stage;

use crate::random_wire::Writer;
use crate::wire::{self, Block, Pipeline};
use crate::{Cluster, eventually, find, pattern};

fn flip(path: &std::path::Path, offset: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("written");
}

fn locations(cluster: &Cluster) -> Vec<ReplicaLocation> {
    let recorded = cluster.namenode.recorded();
    let info_of = |uuid: &str| {
        recorded.registered.iter().rev().filter_map(|r| r.info.clone()).find(|info| info.uuid == uuid)
    };
    let nodes = cluster.nodes.iter();
    nodes.map(|n| ReplicaLocation { datanode: info_of(n.uuid()), storage_id: String::new() }).collect()
}

fn order(cluster: &Cluster, block: Block, stamp: u64, truncate_length: Option<u64>) {
    order_at(cluster, locations(cluster), block, (stamp, 0), truncate_length);
}

fn order_at(
    cluster: &Cluster,
    locations: Vec<ReplicaLocation>,
    block: Block,
    (stamp, away): (u64, u32),
    truncate_length: Option<u64>,
) {
    let command = RecoverBlockCommand {
        block: Some(v1::Block { id: block.id, generation_stamp: block.stamp, length: 0 }),
        locations,
        new_generation_stamp: stamp,
        truncate_length,
        away,
    };
    cluster.namenode.order(cluster.nodes[0].uuid(), Command::RecoverBlock(command));
}

/// What the namenode is told about the next recovery.
async fn told(cluster: &Cluster) -> v1::CommitBlockSynchronizationRequest {
    eventually("the namenode hears of the outcome", || !cluster.namenode.recorded().synchronized.is_empty())
        .await;
    cluster.namenode.recorded().synchronized.remove(0)
}

/// The same of a recovery that was made.
async fn outcome(cluster: &Cluster) -> v1::CommitBlockSynchronizationRequest {
    let outcome = told(cluster).await;
    assert!(!outcome.failed, "{outcome:?}");
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_block_is_closed_with_all_that_was_flushed() {
    let cluster = Cluster::start(3).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let (block, data) = (Block::new(1, 10), pattern(1, 5000));
    let mut pipeline = Pipeline::create(&nodes, block);
    pipeline.flush(0, &data[..3333]);
    // The writer is still connected, as one that hangs would be.
    order(&cluster, block, 20, None);
    let done = outcome(&cluster).await;
    assert_eq!((done.new_length, done.new_generation_stamp, done.delete_block), (3333, 20, false));
    assert_eq!(done.storage_ids.len(), 3);
    for node in &nodes {
        assert_eq!(wire::read(node, Block::new(1, 20), 0, 3333).expect("read"), data[..3333]);
    }
    pipeline.send(3072, &data[3072..]);
    assert!(pipeline.try_ack().is_err(), "the old writer is fenced off");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_found_at_a_restart_are_brought_to_one_length() {
    let mut cluster = Cluster::start(3).await;
    let (block, data) = (Block::new(1, 10), pattern(1, 5000));
    let lengths = [5000, 4000, 4500];
    for (node, length) in cluster.nodes.iter().zip(lengths) {
        let mut pipeline = Pipeline::create(&[node], block);
        pipeline.flush(0, &data[..length]);
    }
    for i in 0..3 {
        cluster.restart(i).await;
    }
    order(&cluster, block, 20, None);
    let done = outcome(&cluster).await;
    assert_eq!((done.new_length, done.storage_ids.len()), (4000, 3));
    for node in &cluster.nodes {
        assert_eq!(wire::read(node, Block::new(1, 20), 0, 4000).expect("read"), data[..4000]);
        assert!(wire::read(node, Block::new(1, 20), 0, 4001).is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_changed_in_one_replica_before_all_restart_costs_no_other_byte() {
    let mut cluster = Cluster::start(3).await;
    let (block, data) = (Block::new(1, 10), pattern(1, 5000));
    for node in &cluster.nodes {
        Pipeline::create(&[node], block).flush(0, &data);
    }
    cluster.restart_after(0, |dir| flip(&find(&dir.join("rbw"), "blk_1").expect("data file"), 1000)).await;
    let kept = find(&cluster.dir(0).join("orphaned"), "blk_1").expect("kept for rescue");
    assert_eq!(std::fs::metadata(kept).expect("metadata").len(), 5000);
    cluster.restart(1).await;
    cluster.restart(2).await;
    order(&cluster, block, 20, None);
    let done = outcome(&cluster).await;
    assert_eq!((done.new_length, done.storage_ids.len()), (5000, 2));
    for node in &cluster.nodes[1..] {
        assert_eq!(wire::read(node, Block::new(1, 20), 0, 5000).expect("read"), data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_replica_that_is_damaged_gives_way_to_one_that_was_being_written() {
    let cluster = Cluster::start(2).await;
    let (block, data) = (Block::new(1, 10), pattern(1, 5000));
    wire::write(&[&cluster.nodes[0]], block, &data[..3000]);
    flip(&cluster.find(0, "blk_1").expect("data file"), 1000);
    let mut pipeline = Pipeline::create(&[&cluster.nodes[1]], block);
    pipeline.flush(0, &data);
    order(&cluster, block, 20, None);
    let done = outcome(&cluster).await;
    assert_eq!((done.new_length, done.storage_ids.len()), (5000, 1));
    assert_eq!(wire::read(&cluster.nodes[1], Block::new(1, 20), 0, 5000).expect("read"), data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_replica_is_not_closed_while_a_datanode_that_may_have_a_better_one_is_away() {
    let cluster = Cluster::start(2).await;
    let (block, data) = (Block::new(1, 10), pattern(1, 3000));
    wire::write(&cluster.nodes.iter().collect::<Vec<_>>(), block, &data);
    flip(&cluster.find(0, "blk_1").expect("data file"), 1000);
    let mut there = locations(&cluster);
    if let Some(away) = there[1].datanode.as_mut() {
        // Nobody listens there.
        away.ipc_port = 1;
    }
    // The second one fails to answer, or the namenode does not name it and says so; closed or cut, it is the same.
    let first_only = || locations(&cluster)[..1].to_vec();
    order_at(&cluster, there, block, (20, 0), None);
    for (stamp, truncate_length) in [(20, None), (21, None), (22, Some(2000))] {
        if stamp > 20 {
            order_at(&cluster, first_only(), block, (stamp, 1), truncate_length);
        }
        let failed = told(&cluster).await;
        let said = (failed.failed, failed.new_generation_stamp);
        assert_eq!(said, (true, stamp), "the namenode need not wait: {failed:?}");
    }
    order(&cluster, block, 30, None);
    let done = outcome(&cluster).await;
    assert_eq!((done.new_length, done.new_generation_stamp), (3000, 30), "the first one has decided nothing");
    assert_eq!(wire::read(&cluster.nodes[1], Block::new(1, 30), 0, 3000).expect("read"), data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_cuts_all_replicas_inside_a_chunk() {
    let mut cluster = Cluster::start(2).await;
    let (block, data) = (Block::new(1, 10), pattern(1, 5000));
    wire::write(&cluster.nodes.iter().collect::<Vec<_>>(), block, &data);
    order(&cluster, block, 20, Some(1234));
    assert_eq!(outcome(&cluster).await.new_length, 1234);
    for i in 0..2 {
        cluster.restart(i).await;
        assert_eq!(wire::read(&cluster.nodes[i], Block::new(1, 20), 0, 1234).expect("read"), data[..1234]);
        let meta = std::fs::metadata(cluster.find(i, "blk_1_20.meta").expect("meta file")).expect("metadata");
        assert_eq!(meta.len(), 7 + 3 * 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_without_data_is_forgotten() {
    let cluster = Cluster::start(2).await;
    let block = Block::new(1, 10);
    let _pipeline = Pipeline::create(&[&cluster.nodes[0]], block);
    order(&cluster, block, 20, None);
    let done = outcome(&cluster).await;
    assert!(done.delete_block && done.storage_ids.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn control_errors_carry_their_kind() {
    let cluster = Cluster::start(1).await;
    let mut control = wire::control(&cluster.nodes[0]);
    let missing = v1::Block { id: 77, generation_stamp: 1, length: 0 };
    let status = control
        .get_replica_visible_length(ReplicaVisibleLengthRequest { block: Some(missing) })
        .await
        .expect_err("no such replica");
    let error = RpcError::from_status(&status);
    assert_eq!(error.kind, ErrorKind::BlockMissing);
    assert!(error.reason.contains("blk_77_1"), "{error}");
    let status = control
        .get_replica_visible_length(ReplicaVisibleLengthRequest { block: None })
        .await
        .expect_err("no block named");
    assert_eq!(RpcError::from_status(&status).kind, ErrorKind::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_differ_after_a_broken_overwrite_are_brought_to_one_content() {
    let cluster = Cluster::start(3).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let (block, data) = (Block::new(1, 10), pattern(1, 50_000));
    let mut writer = Writer::create(&nodes, block);
    writer.write(0, &data);
    drop(writer);
    // An overwrite that reached the last member only, and was never acknowledged.
    let mut stray = Writer::open(&nodes[2..], block, Stage::PipelineSetupStreamingRecovery, 11, 50_000);
    stray.write(20_000, &[7; 5000]);
    order(&cluster, block, 20, None);
    let done = outcome(&cluster).await;
    assert_eq!((done.new_length, done.storage_ids.len()), (50_000, 2));
    for node in &nodes[..2] {
        assert_eq!(wire::read(node, Block::new(1, 20), 0, 50_000).expect("read"), data);
    }
    assert!(wire::read(nodes[2], Block::new(1, 20), 0, 1).is_err(), "stale");
    assert!(cluster.find(2, &block.data_name()).is_some(), "nothing is deleted before the namenode says so");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_goes_on_alone_is_read_before_it_gets_a_new_stamp() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let data = pattern(1, 50_000);
    let setup = |block: Block, stage, random, length| {
        let mut op = wire::write_op(block, stage, &[]);
        op.latest_generation_stamp = block.stamp + 1;
        (op.min_bytes_rcvd, op.max_bytes_rcvd) = (length, length);
        (op.random_access, op.verify_first) = (Some(random), Some(true));
        let (pipeline, answer) = Pipeline::open(&[node.xfer_addr()], op);
        drop(pipeline);
        answer
    };
    let stages = [
        (Stage::PipelineSetupAppend, false),
        (Stage::PipelineSetupAppend, true),
        (Stage::PipelineSetupAppendRecovery, true),
        (Stage::PipelineSetupStreamingRecovery, false),
        (Stage::PipelineSetupStreamingRecovery, true),
        (Stage::PipelineCloseRecovery, false),
    ];
    for (id, (stage, random)) in (1..).zip(stages) {
        let block = Block::new(id, 10);
        let closed = stage != Stage::PipelineSetupStreamingRecovery;
        match (closed, random) {
            (true, _) => wire::write(&[node], block, &data),
            (false, true) => Writer::create(&[node], block).write(0, &data),
            (false, false) => Pipeline::create(&[node], block).flush(0, &data),
        }
        let file = cluster.find(0, &block.data_name()).expect("data file");
        flip(&file, 20_000);
        let answer = setup(block, stage, random, 50_000);
        assert_eq!(answer.status(), Status::ErrorChecksum, "{stage:?}: {answer:?}");
        assert!(cluster.find(0, &block.meta_name()).is_some(), "{stage:?}: it has the old stamp");
        let told = || cluster.namenode.recorded().bad.iter().any(|bad| bad.block.is_some_and(|b| b.id == id));
        if closed {
            eventually("the namenode hears of it", told).await;
        }
        flip(&file, 20_000);
        let answer = setup(block, stage, random, 50_000);
        // One that is open is not trusted again, whatever its disk says later.
        assert_eq!(answer.status() == Status::Success, closed, "{stage:?}: {answer:?}");
    }
}
