//! Writing: pipelines, their failures and how they go on.

use std::io::Write;

use dfs_proto::data_transfer::{Op, encode_op, read_delimited};
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage as Stage;
use dfs_proto::transfer::{BlockOpResponseProto, ClientOperationHeaderProto, OpTransferBlockProto, Status};
use dfs_proto::v1::ReplicaEvent;

use crate::wire::{self, Block, Pipeline};
use crate::{Cluster, eventually, pattern};

const SUCCESS: i32 = Status::Success as i32;
const ERROR: i32 = Status::Error as i32;

#[tokio::test(flavor = "multi_thread")]
async fn a_block_reaches_all_members_and_all_report_it() {
    let cluster = Cluster::start(3).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let (block, data) = (Block::new(0x12345, 7), pattern(2, 1_500_000));
    wire::write(&nodes, block, &data);
    for (i, node) in nodes.iter().enumerate() {
        assert!(wire::read(node, block, 0, data.len() as u64).expect("read") == data);
        let path = cluster.find(i, &block.data_name()).expect("data file");
        assert!(path.ends_with("finalized/subdir1/subdir3/blk_74565"), "{}", path.display());
        eventually("reported", || cluster.namenode.heard(node.uuid(), ReplicaEvent::Received, block)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_block_sent_at_once_is_acknowledged() {
    let cluster = Cluster::start(3).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let (block, data) = (Block::new(1, 1), pattern(2, 4096));
    let mut pipeline = Pipeline::create(&nodes, block);
    let mut all = pipeline.packet(0, &data, false, false);
    all.extend(pipeline.packet(4096, &[], true, true));
    pipeline.socket.write_all(&all).expect("sent");
    for seqno in 0..2 {
        let ack = pipeline.ack();
        assert_eq!((ack.seqno, ack.reply), (seqno, vec![SUCCESS; 3]));
    }
    assert_eq!(wire::read(nodes[2], block, 0, 4096).expect("read"), data);
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_may_follow_the_request_without_waiting_for_its_answer() {
    let cluster = Cluster::start(3).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let addrs = wire::addrs(&nodes);
    let mut socket = wire::connect(addrs[0]);
    // From a few bytes to far more than fits the buffer of a connection; cut off in the middle of a packet.
    for (id, length) in [1usize, 4096, 10_000, 16_300, 16_384, 17_000, 100_000, 3].into_iter().enumerate() {
        let (block, data) = (Block::new(id as u64, 1), pattern(id as u64, length));
        let op = wire::write_op(block, Stage::PipelineSetupCreate, &addrs[1..]);
        let mut raw = encode_op(Op::WriteBlock, &op);
        let mut pipeline = Pipeline::on(socket);
        let packets = data.chunks(8192).count() + 1;
        for (i, piece) in data.chunks(8192).enumerate() {
            raw.extend(pipeline.packet(i as u64 * 8192, piece, false, false));
        }
        raw.extend(pipeline.packet(length as u64, &[], true, id % 2 == 0));
        pipeline.socket.write_all(&raw).expect("sent");
        let answer: BlockOpResponseProto = read_delimited(&mut pipeline.socket).expect("answered");
        assert_eq!(answer.status(), Status::Success, "{answer:?}");
        for seqno in 0..packets as i64 {
            let ack = pipeline.ack();
            assert_eq!((ack.seqno, ack.reply), (seqno, vec![SUCCESS; 3]), "{length} bytes");
        }
        socket = pipeline.socket;
        for node in &nodes {
            assert!(wire::read(node, block, 0, length as u64).expect("read") == data, "{length} bytes");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hsync_and_heartbeat_packets_are_acknowledged() {
    let cluster = Cluster::start(2).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let (block, data) = (Block::new(1, 1), pattern(2, 10_000));
    let mut pipeline = Pipeline::create(&nodes, block);
    for (offset, part) in [(0, &data[..5120]), (5120, &data[5120..])] {
        let raw = pipeline.packet(offset, part, false, true);
        pipeline.socket.write_all(&raw).expect("sent");
        assert_eq!(pipeline.ack().reply, [SUCCESS, SUCCESS]);
    }
    let raw = pipeline.packet(10_000, &[], false, true);
    pipeline.socket.write_all(&raw).expect("sent");
    assert_eq!(pipeline.ack().reply, [SUCCESS, SUCCESS], "a sync without data");
    pipeline.close(10_000);
    assert_eq!(wire::read(nodes[0], block, 0, 10_000).expect("read"), data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_named_when_the_pipeline_is_set_up() {
    let cluster = Cluster::start(2).await;
    // Nobody listens, and nobody else can have the port.
    let silent = tokio::net::TcpSocket::new_v4().expect("socket");
    silent.bind(([127, 0, 0, 1], 0).into()).expect("port");
    let dead = silent.local_addr().expect("address");
    let alive = wire::addrs(&[&cluster.nodes[0], &cluster.nodes[1]]);
    for targets in [vec![dead], vec![alive[1], dead], vec![dead, alive[1]]] {
        let op = wire::write_op(Block::new(1, 1), Stage::PipelineSetupCreate, &targets);
        let (_, answer) = Pipeline::open(&alive[..1], op);
        assert_eq!(answer.status(), Status::Error);
        assert_eq!(answer.first_bad_link(), dead.to_string(), "{targets:?}");
        assert!(cluster.find(0, "blk_1").is_none(), "the head keeps nothing of a pipeline that never was");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_loses_a_member_goes_on_under_a_new_stamp() {
    for lost in [1, 2] {
        let mut cluster = Cluster::start(3).await;
        let (block, data) = (Block::new(1, 10), pattern(6, 40_000));
        let mut pipeline = Pipeline::create(&cluster.nodes.iter().collect::<Vec<_>>(), block);
        pipeline.flush(0, &data[..10_240]);
        cluster.nodes.remove(lost).shutdown().await;
        pipeline.send(10_240, &data[10_240..20_480]);
        let ack = pipeline.ack();
        let expected: &[i32] = if lost == 1 { &[SUCCESS, ERROR] } else { &[SUCCESS, SUCCESS, ERROR] };
        assert_eq!(ack.reply, expected, "member {lost} lost");
        drop(pipeline);

        let nodes: Vec<_> = cluster.nodes.iter().collect();
        let stage = Stage::PipelineSetupStreamingRecovery;
        let mut pipeline = Pipeline::recover(&nodes, block, stage, 11, 10_240, 20_480);
        pipeline.flush(10_240, &data[10_240..20_480]);
        pipeline.send(20_480, &data[20_480..]);
        assert_eq!(pipeline.ack().reply, [SUCCESS, SUCCESS]);
        pipeline.close(40_000);
        for node in &nodes {
            let recovered = Block::new(1, 11);
            assert!(wire::read(node, recovered, 0, 40_000).expect("read") == data);
            eventually("reported", || cluster.namenode.heard(node.uuid(), ReplicaEvent::Received, recovered))
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_repeats_packets_that_some_members_have() {
    let cluster = Cluster::start(2).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let (block, data) = (Block::new(1, 10), pattern(6, 5000));
    let mut pipeline = Pipeline::create(&nodes, block);
    pipeline.flush(0, &data[..700]);
    pipeline.flush(512, &data[512..1800]);
    drop(pipeline);
    // The writer believes that only the first packet was acknowledged.
    let mut pipeline = Pipeline::recover(&nodes, block, Stage::PipelineSetupStreamingRecovery, 11, 700, 1800);
    pipeline.flush(512, &data[512..1800]);
    pipeline.flush(1536, &data[1536..5000]);
    pipeline.close(5000);
    for node in &nodes {
        assert_eq!(wire::read(node, block, 0, 5000).expect("read"), data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_writer_stops_the_old_one() {
    let cluster = Cluster::start(2).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let (block, data) = (Block::new(1, 10), pattern(6, 3000));
    let mut old = Pipeline::create(&nodes, block);
    old.flush(0, &data[..1000]);
    let stage = Stage::PipelineSetupStreamingRecovery;
    let (_, refused) = Pipeline::try_recover(&nodes, block, stage, 9, 0, 1000);
    assert_eq!(refused.status(), Status::Error, "an older stamp stops nobody");
    old.flush(512, &data[512..1100]);
    let mut new = Pipeline::recover(&nodes, block, stage, 11, 1000, 1100);
    // The old writer's connection was cut: its packets reach nobody.
    let raw = old.packet(1024, &data[..512], false, false);
    let _ = old.socket.write_all(&raw);
    assert!(old.try_ack().is_err());
    new.flush(1024, &data[1024..3000]);
    new.close(3000);
    assert_eq!(wire::read(nodes[1], Block::new(1, 11), 0, 3000).expect("read"), data);
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_go_on_in_the_middle_of_a_chunk() {
    let cluster = Cluster::start(2).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let (mut block, data) = (Block::new(1, 10), pattern(6, 9000));
    wire::write(&nodes, block, &data[..1000]);
    let mut length = 1000usize;
    for end in [1001, 1010, 1024, 1025, 3000, 9000] {
        let stage = Stage::PipelineSetupAppend;
        let stamp = block.stamp + 1;
        let (_, refused) = Pipeline::try_recover(&nodes, block, stage, stamp, length as u64 + 1, 0);
        assert_eq!(refused.status(), Status::Error, "a wrong length is refused");
        let mut pipeline = Pipeline::recover(&nodes, block, stage, stamp, length as u64, length as u64);
        block.stamp = stamp;
        // First the rest of the short chunk, alone and flushed twice, then whole chunks.
        let chunk_end = length.next_multiple_of(wire::CHUNK as usize).min(end);
        if chunk_end > length {
            pipeline.flush(length as u64, &data[length..=length]);
            pipeline.flush(length as u64, &data[length..chunk_end]);
            assert_eq!(wire::read(nodes[0], block, 0, chunk_end as u64).expect("read"), data[..chunk_end]);
        }
        if end > chunk_end {
            pipeline.flush(chunk_end as u64, &data[chunk_end..end]);
        }
        pipeline.close(end as u64);
        length = end;
        for node in &nodes {
            assert_eq!(wire::read(node, block, 0, end as u64).expect("read"), data[..end]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_failed_is_repeated_with_a_higher_stamp() {
    let cluster = Cluster::start(2).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let (block, data) = (Block::new(1, 10), pattern(6, 2000));
    wire::write(&nodes, block, &data[..1000]);
    // Only one member was reopened before the first attempt failed.
    let half = Pipeline::recover(&nodes[..1], block, Stage::PipelineSetupAppend, 11, 1000, 1000);
    drop(half);
    let stage = Stage::PipelineSetupAppendRecovery;
    let mut pipeline = Pipeline::recover(&nodes, block, stage, 12, 1000, 1000);
    pipeline.flush(1000, &data[1000..1024]);
    pipeline.flush(1024, &data[1024..]);
    pipeline.close(2000);
    for node in &nodes {
        assert_eq!(wire::read(node, Block::new(1, 12), 0, 2000).expect("read"), data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_that_failed_is_repeated() {
    let cluster = Cluster::start(2).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let (block, data) = (Block::new(1, 10), pattern(6, 1500));
    // One member closed the block, the other did not hear of the end.
    wire::write(&nodes[..1], block, &data);
    let mut open = Pipeline::create(&nodes[1..], block);
    open.flush(0, &data);
    let recovered = Pipeline::recover(&nodes, block, Stage::PipelineCloseRecovery, 11, 1500, 1500);
    for node in &nodes {
        assert_eq!(wire::read(node, Block::new(1, 11), 0, 1500).expect("read"), data);
    }
    // The connection goes on.
    wire::write_over(recovered.socket, &nodes, Block::new(2, 1), &data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datanode_joins_a_pipeline_with_a_copy() {
    let cluster = Cluster::start(3).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let (block, data) = (Block::new(1, 10), pattern(6, 50_000));
    let mut pipeline = Pipeline::create(&nodes[..2], block);
    pipeline.flush(0, &data[..20_000]);
    let mut socket = wire::connect(nodes[1].xfer_addr());
    let op = OpTransferBlockProto {
        header: ClientOperationHeaderProto { base_header: wire::header(block), client_name: "test".into() },
        targets: vec![wire::info(nodes[2].xfer_addr())],
        target_storage_ids: Vec::new(),
    };
    socket.write_all(&encode_op(Op::TransferBlock, &op)).expect("sent");
    let answer: BlockOpResponseProto = read_delimited(&mut socket).expect("answered");
    assert_eq!(answer.status(), Status::Success, "{answer:?}");
    drop(pipeline);
    let members = [nodes[1], nodes[2]];
    let stage = Stage::PipelineSetupStreamingRecovery;
    let mut pipeline = Pipeline::recover(&members, block, stage, 11, 20_000, 20_000);
    pipeline.flush(19_968, &data[19_968..]);
    pipeline.close(50_000);
    for node in members {
        assert!(wire::read(node, Block::new(1, 11), 0, 50_000).expect("read") == data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_packet_is_refused_and_leaves_no_trace() {
    let cluster = Cluster::start(2).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let (block, data) = (Block::new(1, 10), pattern(6, 5120));
    let mut pipeline = Pipeline::create(&nodes, block);
    pipeline.flush(0, &data[..1024]);
    let mut raw = pipeline.packet(1024, &data[1024..], false, false);
    let last = raw.len() - 1;
    raw[last] ^= 0x10;
    pipeline.socket.write_all(&raw).expect("sent");
    assert_eq!(pipeline.ack().reply[0], i32::from(Status::ErrorChecksum));
    assert!(pipeline.try_ack().is_err(), "nothing follows");
    let stage = Stage::PipelineSetupStreamingRecovery;
    let mut pipeline = Pipeline::recover(&nodes, block, stage, 11, 1024, 5120);
    pipeline.flush(1024, &data[1024..]);
    pipeline.close(5120);
    for node in &nodes {
        assert_eq!(wire::read(node, block, 0, 5120).expect("read"), data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_not_created_twice() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let block = Block::new(1, 10);
    wire::write(&[node], block, &pattern(1, 100));
    for stamp in [9, 10, 11] {
        let op = wire::write_op(Block::new(1, stamp), Stage::PipelineSetupCreate, &[]);
        let (_, answer) = Pipeline::open(&wire::addrs(&[node]), op);
        assert_eq!(answer.status(), Status::ErrorExists);
    }
    // What a pipeline left that broke before its first byte makes way.
    drop(Pipeline::create(&[node], Block::new(2, 10)));
    wire::write(&[node], Block::new(2, 10), &pattern(2, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_requests_and_packets_are_refused() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let addrs = wire::addrs(&[node]);
    let good = wire::write_op(Block::new(1, 1), Stage::PipelineSetupCreate, &[]);
    let refused = |change: &dyn Fn(&mut dfs_proto::transfer::OpWriteBlockProto)| {
        let mut op = good.clone();
        change(&mut op);
        Pipeline::open(&addrs, op).1.status()
    };
    assert_eq!(refused(&|op| op.stage = Stage::DataStreaming.into()), Status::ErrorInvalid);
    assert_eq!(refused(&|op| op.stage = 99), Status::ErrorInvalid);
    assert_eq!(refused(&|op| op.requested_checksum.bytes_per_checksum = 0), Status::ErrorInvalid);
    assert_eq!(refused(&|op| op.requested_checksum.r#type = 0), Status::ErrorUnsupported);
    assert_eq!(refused(&|op| op.header.base_header.block.pool_id = "BP-other".into()), Status::Error);
    assert_eq!(
        refused(&|op| op.targets = vec![wire::info("127.0.0.1:0".parse().expect("address"))]),
        Status::ErrorInvalid
    );
    assert_eq!(refused(&|op| op.header.base_header.block.num_bytes = Some(u64::MAX)), Status::Success);

    for (id, offset, len) in [(10, 1, 100), (11, 512, 512), (12, 100, 1000)] {
        let mut pipeline = Pipeline::create(&[node], Block::new(id, 1));
        pipeline.send(offset, &vec![0; len]);
        let reply = pipeline.try_ack().map(|ack| ack.reply);
        assert!(matches!(&reply, Ok(r) if *r == [ERROR]), "{offset} + {len}: {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_volume_refuses_blocks() {
    let mut cluster = Cluster::start(1).await;
    cluster.nodes.remove(0).shutdown().await;
    let mut config = crate::config(&cluster.namenode, cluster.dir(0));
    config.reserved_bytes = Some(u64::MAX);
    let node = dfs_datanode::Datanode::start(config).await.expect("starts");
    node.registered().await;
    let op = wire::write_op(Block::new(1, 1), Stage::PipelineSetupCreate, &[]);
    let (_, answer) = Pipeline::open(&wire::addrs(&[&node]), op);
    assert_eq!(answer.status(), Status::ErrorNoSpace);
    assert!(answer.message().contains("no space left"), "{}", answer.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_block_that_comes_whole_is_closed_at_once_or_not_at_all() {
    let cluster = Cluster::start(2).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let addrs = wire::addrs(&nodes);
    let request = |block: Block, data: &[u8], targets: &[std::net::SocketAddr]| {
        let mut raw = encode_op(Op::WriteBlock, &wire::write_op(block, Stage::PipelineSetupCreate, targets));
        let mut pipeline = Pipeline::on(wire::connect(addrs[0]));
        raw.extend(pipeline.packet(0, data, false, false));
        raw.extend(pipeline.packet(data.len() as u64, &[], true, false));
        (pipeline, raw)
    };
    let (block, data) = (Block::new(1, 1), pattern(4, 5000));
    let (mut pipeline, raw) = request(block, &data, &addrs[1..]);
    pipeline.socket.write_all(&raw).expect("sent");
    let answer: BlockOpResponseProto = read_delimited(&mut pipeline.socket).expect("answered");
    assert_eq!(answer.status(), Status::Success, "{answer:?}");
    assert_eq!((pipeline.ack().reply, pipeline.ack().reply), (vec![SUCCESS; 2], vec![SUCCESS; 2]));
    for (i, node) in nodes.iter().enumerate() {
        assert!(wire::read(node, block, 0, 5000).expect("read") == data);
        let path = cluster.find(i, &block.data_name()).expect("data file");
        assert!(path.to_string_lossy().contains("/small/"), "{}", path.display());
        eventually("reported", || cluster.namenode.heard(node.uuid(), ReplicaEvent::Received, block)).await;
    }
    // The same block once more is refused, and what is there stays.
    let (mut pipeline, raw) = request(block, &pattern(5, 5000), &[]);
    pipeline.socket.write_all(&raw).expect("sent");
    let answer: BlockOpResponseProto = read_delimited(&mut pipeline.socket).expect("answered");
    assert_ne!(answer.status(), Status::Success, "{answer:?}");
    assert!(wire::read(nodes[0], block, 0, 5000).expect("read") == data);
    // A flipped bit reaches no disk.
    let damaged = Block::new(2, 1);
    let (mut pipeline, mut raw) = request(damaged, &data, &[]);
    let at = raw.len() - 1000;
    raw[at] ^= 1;
    pipeline.socket.write_all(&raw).expect("sent");
    let answer: BlockOpResponseProto = read_delimited(&mut pipeline.socket).expect("answered");
    assert_eq!(answer.status(), Status::ErrorChecksum, "{answer:?}");
    assert!(cluster.find(0, &damaged.data_name()).is_none());
    // Of a pipeline whose second member cannot be reached the first one keeps nothing.
    let silent = tokio::net::TcpSocket::new_v4().expect("socket");
    silent.bind(([127, 0, 0, 1], 0).into()).expect("port");
    let dead = silent.local_addr().expect("address");
    let lost = Block::new(3, 1);
    let (mut pipeline, raw) = request(lost, &data, &[addrs[1], dead]);
    pipeline.socket.write_all(&raw).expect("sent");
    let answer: BlockOpResponseProto = read_delimited(&mut pipeline.socket).expect("answered");
    assert_eq!((answer.status(), answer.first_bad_link()), (Status::Error, dead.to_string().as_str()));
    assert!(cluster.find(0, &lost.data_name()).is_none() && cluster.find(1, &lost.data_name()).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn small_blocks_are_found_again_and_can_be_appended_to() {
    let mut cluster = Cluster::start(1).await;
    let write = |cluster: &Cluster, id: u64| {
        let addrs = wire::addrs(&[&cluster.nodes[0]]);
        let (block, data) = (Block::new(id, 5), pattern(id, 5000));
        let op = wire::write_op(block, Stage::PipelineSetupCreate, &[]);
        let mut pipeline = Pipeline::on(wire::connect(addrs[0]));
        let mut raw = encode_op(Op::WriteBlock, &op);
        raw.extend(pipeline.packet(0, &data, false, false));
        raw.extend(pipeline.packet(5000, &[], true, false));
        pipeline.socket.write_all(&raw).expect("sent");
        let answer: BlockOpResponseProto = read_delimited(&mut pipeline.socket).expect("answered");
        assert_eq!(answer.status(), Status::Success, "{answer:?}");
        assert_eq!((pipeline.ack().reply, pipeline.ack().reply), (vec![SUCCESS], vec![SUCCESS]));
    };
    for id in 1..=4 {
        write(&cluster, id);
    }
    cluster
        .restart_after(0, |dir| {
            // What a crash leaves before anybody was told: checksums without data, and data that ends early.
            std::fs::remove_file(dir.join("small/subdir3/blk_3")).expect("removed");
            let path = dir.join("small/subdir4/blk_4");
            std::fs::File::options().write(true).open(path).and_then(|f| f.set_len(100)).expect("cut");
            // An append that was stopped between its two renames.
            let (from, to) = (dir.join("small/subdir2"), dir.join("rbw/subdir2"));
            std::fs::rename(from.join("blk_2_5.meta"), to.join("blk_2_6.meta")).expect("moved");
        })
        .await;
    let node = &cluster.nodes[0];
    assert_eq!(wire::read(node, Block::new(1, 5), 0, 5000).expect("read"), pattern(1, 5000));
    assert!(cluster.find(0, "blk_3_5.meta").is_none(), "checksums without data are removed");
    assert!(wire::read(node, Block::new(3, 5), 0, 1).is_err());
    assert!(wire::read(node, Block::new(4, 5), 0, 5000).is_err(), "shorter than its block");
    let moved = cluster.find(0, "blk_2").expect("data");
    assert!(moved.to_string_lossy().contains("/rbw/"), "{}", moved.display());
    assert_eq!(wire::read(node, Block::new(2, 6), 0, 5000).expect("read"), pattern(2, 5000));
    let mut append = Pipeline::recover(&[node], Block::new(1, 5), Stage::PipelineSetupAppend, 7, 5000, 5000);
    append.flush(5000, b"more");
    append.close(5004);
    assert_eq!(wire::read(node, Block::new(1, 7), 4996, 8).expect("read")[4..], *b"more");
    let path = cluster.find(0, "blk_1").expect("data");
    assert!(path.to_string_lossy().contains("/finalized/"), "{}", path.display());
}
