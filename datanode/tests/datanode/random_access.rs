//! Writing at any offset: what is there afterwards, what readers see meanwhile, and how pipelines go on.

use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};

use dfs_datanode::Datanode;
use dfs_proto::data_transfer::{Op, encode_op, read_delimited};
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage as Stage;
use dfs_proto::transfer::{
    BlockOpResponseProto, ClientOperationHeaderProto, OpBlockChecksumProto, OpTransferBlockProto, Status,
};

use dfs_proto::v1;

use crate::random_wire::{Model, Random, Writer};
use crate::wire::{self, Block, CHUNK};
use crate::{Cluster, pattern};

/// Reads a whole replica, checks every checksum that is stored of it, and compares.
fn assert_content(node: &Datanode, block: Block, model: &Model) {
    let found = wire::read(node, block, 0, model.len()).expect("read");
    let differs = found.iter().zip(&model.0).position(|(a, b)| a != b);
    assert!(differs.is_none(), "{block:?} differs at {differs:?} of {}", model.len());
}

fn checksum_of(node: &Datanode, block: Block, length: u64) -> (u64, Vec<u8>) {
    let mut socket = wire::connect(node.xfer_addr());
    let mut header = wire::header(block);
    header.block.num_bytes = Some(length);
    let op = OpBlockChecksumProto { header, verify: None };
    socket.write_all(&encode_op(Op::BlockChecksum, &op)).expect("sent");
    let answer: BlockOpResponseProto = read_delimited(&mut socket).expect("answered");
    let found = answer.checksum_response.expect("checksum");
    (found.crc_per_block, found.block_checksum.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_overwritten_extended_and_left_with_gaps_on_every_member() {
    let cluster = Cluster::start(3).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let block = Block::new(1, 10);
    let mut writer = Writer::create(&nodes, block);
    let mut model = Model::default();
    let steps = [
        (0, 1000),
        (100, 50),
        (512, 512),
        (1000, 24),
        (5000, 10),
        (1023, 2),
        (4096, 3000),
        (700_000, 1),
        (3, 400_000),
        (511, 1),
        (699_999, 513),
    ];
    for (i, (offset, len)) in steps.into_iter().enumerate() {
        let data = pattern(i as u64 + 1, len);
        writer.write(offset, &data);
        model.write(offset, &data);
        for node in &nodes {
            assert_content(node, block, &model);
        }
    }
    writer.close(model.len(), false);
    for node in &nodes {
        assert_content(node, block, &model);
        assert_eq!(checksum_of(node, block, 0).1, crc32c::crc32c(&model.0).to_be_bytes());
        let part = crc32c::crc32c(&model.0[..5001]).to_be_bytes();
        assert_eq!(checksum_of(node, block, 5001), (10, part.to_vec()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn zeros_take_no_space_and_have_checksums() {
    let cluster = Cluster::start(2).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let block = Block::new(1, 10);
    let mut writer = Writer::create(&nodes, block);
    let mut model = Model::default();
    writer.write(0, &pattern(1, 300_000));
    model.write(0, &pattern(1, 300_000));
    for (offset, len) in
        [(5000, 100_000), (0, 1), (200_001, 7), (299_999, 1), (150_000, 500_000), (650_000, 3)]
    {
        writer.send_zeros(offset, len);
        model.zero(offset, len);
        writer.settle();
        assert_content(nodes[1], block, &model);
    }
    // A gap of 100 MiB.
    writer.write(100 << 20, b"end");
    writer.close((100 << 20) + 3, true);
    for (i, node) in nodes.iter().enumerate() {
        let path = cluster.find(i, &block.data_name()).expect("data");
        let data = std::fs::metadata(path).expect("metadata");
        assert!(data.len() == (100 << 20) + 3 && data.blocks() * 512 < 200_000, "{data:?}");
        assert_eq!(wire::read(node, block, (100 << 20) - 600, 603).expect("read")[600..], *b"end");
        assert_eq!(wire::read(node, block, 50 << 20, 1 << 20).expect("read"), vec![0; 1 << 20]);
        assert_content(node, block, &model);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_operations_match_a_model_through_reopenings_and_restarts() {
    let mut random = Random::seeded();
    let mut cluster = Cluster::start(2).await;
    let mut block = Block::new(1, 10);
    let mut model = Model::default();
    let mut stage = Stage::PipelineSetupCreate;
    for round in 0..12 {
        let nodes: Vec<_> = cluster.nodes.iter().collect();
        let stamp = block.stamp + u64::from(round > 0);
        let mut writer = Writer::open(&nodes, block, stage, stamp, model.len());
        block.stamp = stamp;
        for _ in 0..25 {
            let offset = random.below(200_000);
            let len = if random.below(8) == 0 { random.below(150_000) } else { random.below(3000) };
            if random.below(6) == 0 {
                writer.send_zeros(offset, len);
                if len > 0 {
                    model.zero(offset, len);
                }
            } else {
                let data = pattern(random.next(), len as usize);
                writer.send(offset, &data, random.below(10) == 0);
                if len > 0 {
                    model.write(offset, &data);
                }
            }
        }
        writer.settle();
        for node in &nodes {
            assert_content(node, block, &model);
        }
        let end = model.len();
        writer.close(end, random.below(2) == 0);
        for node in &nodes {
            assert_content(node, block, &model);
        }
        // The namespace cuts the file; the next writer's set-up cuts the replicas.
        if random.below(2) == 0 {
            model.0.truncate(random.below(model.len()) as usize + 1);
        }
        stage = Stage::PipelineSetupAppend;
        if random.below(4) == 0 {
            cluster.restart(round % 2).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_written_from_start_to_end_are_overwritten_whatever_their_checksums() {
    let cluster = Cluster::start(2).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let block = Block::new(1, 10);
    let mut model = Model(pattern(1, 10_000));
    wire::write(&nodes, block, &model.0);
    let op = |stamp| {
        let addrs = wire::addrs(&nodes);
        let mut op = crate::random_wire::random_op(&addrs, block, Stage::PipelineSetupAppend, stamp, 10_000);
        op.requested_checksum = dfs_proto::checksum::Checksum::default().to_proto();
        op
    };
    let (mut pipeline, answer) = wire::Pipeline::open(&wire::addrs(&nodes), op(11));
    assert_eq!(answer.status(), Status::Success, "{answer:?}");
    let data = pattern(2, 5000);
    let header = dfs_proto::packet::PacketHeader {
        offset_in_block: 4000,
        seqno: 0,
        last_packet_in_block: false,
        data_len: 5000,
        sync_block: true,
        zero_len: 0,
    };
    let carried = dfs_proto::checksum::Checksum::default();
    let mut sums = Vec::new();
    for part in [&data[..96], &data[96..4192], &data[4192..]] {
        sums.extend_from_slice(&carried.of(part).to_be_bytes());
    }
    let mut raw = Vec::new();
    header.encode(sums.len(), &mut raw);
    raw.extend_from_slice(&sums);
    raw.extend_from_slice(&data);
    pipeline.socket.write_all(&raw).expect("sent");
    assert_eq!(pipeline.ack().reply, [0, 0]);
    model.write(4000, &data);
    for node in &nodes {
        assert_content(node, Block::new(1, 11), &model);
        // Located before the block was reopened.
        assert_content(node, block, &model);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_located_a_block_before_it_was_cut_gets_what_is_left() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let block = Block::new(1, 10);
    let data = pattern(1, 10_000);
    wire::write(&[node], block, &data);
    let writer = Writer::open(&[node], block, Stage::PipelineSetupAppend, 11, 3000);
    let clipped = |offset: u64| {
        let mut socket = wire::connect(node.xfer_addr());
        let op = wire::read_op(block, offset, 10_000 - offset, true);
        socket.write_all(&encode_op(Op::ReadBlock, &op)).expect("sent");
        let answer: BlockOpResponseProto = read_delimited(&mut socket).expect("answered");
        assert_eq!(answer.status(), Status::Success, "{answer:?}");
        let mut found = Vec::new();
        loop {
            let packet = wire::read_packet(&mut socket).expect("packet");
            wire::checksum().verify(&packet.data, &packet.sums).expect("checksums fit");
            found.extend_from_slice(&packet.data);
            if packet.header.last_packet_in_block {
                return found;
            }
        }
    };
    for _ in 0..2 {
        assert!(clipped(0) == data[..3000]);
        assert!(clipped(2600) == data[2560..3000]);
        assert!(clipped(5000).is_empty());
    }
    writer.close(3000, false);
    assert!(clipped(0) == data[..3000]);
    assert!(clipped(5000).is_empty());
    assert_eq!(wire::read(node, Block::new(1, 11), 0, 3001), Err(Status::ErrorInvalid), "knows the length");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_never_see_data_of_one_version_with_checksums_of_another() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let mut block = Block::new(1, 10);
    let length = 200_000u64;
    let mut writer = Writer::create(&[node], block);
    writer.write(0, &vec![0; length as usize]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for small in [true, false] {
            let done = &done;
            scope.spawn(move || {
                let mut socket = wire::connect(node.xfer_addr());
                let mut reads = 0u64;
                while !done.load(Ordering::Acquire) || reads == 0 {
                    let (offset, len) = if small { (reads * 4000 % 190_000, 4000) } else { (0, length) };
                    // Every chunk's checksum is compared; each chunk is of one version.
                    let found = wire::read_over(&mut socket, Block::new(1, 10), offset, len).expect("read");
                    let aligned = offset.next_multiple_of(CHUNK.into()) - offset;
                    for chunk in found[aligned as usize..].chunks(CHUNK as usize) {
                        assert!(chunk.iter().all(|byte| *byte == chunk[0]), "one version");
                    }
                    reads += 1;
                }
            });
        }
        for version in 1..60u64 {
            for part in 0..4 {
                let data = vec![version as u8; 50_176];
                writer.write((part * 50_176).min(length - 50_176) / 512 * 512, &data[..49_664]);
            }
            // Now and then the block is closed and reopened under the readers.
            if version % 10 == 0 {
                writer.close(length, false);
                writer = Writer::open(&[node], block, Stage::PipelineSetupAppend, block.stamp + 1, length);
                block.stamp += 1;
            }
        }
        done.store(true, Ordering::Release);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_pipeline_goes_on_with_all_unacknowledged_packets_and_a_new_member() {
    let mut random = Random::seeded();
    let mut cluster = Cluster::start(4).await;
    let block = Block::new(1, 10);
    let mut model = Model(pattern(1, 90_000));
    {
        let nodes: Vec<_> = cluster.nodes[..3].iter().collect();
        let mut writer = Writer::create(&nodes, block);
        writer.write(0, &model.0);
        // The last ones reach some members only.
        let lost: Vec<_> = (0..5)
            .map(|_| (random.below(100_000), pattern(random.next(), random.below(6000) as usize + 1)))
            .collect();
        for (offset, data) in &lost[..3] {
            writer.send(*offset, data, false);
        }
        drop(writer);
        let first = Writer::open(&nodes[..1], block, Stage::PipelineSetupStreamingRecovery, 11, 90_000);
        drop(first);
        // A new member gets a copy of what the first has.
        let op = OpTransferBlockProto {
            header: ClientOperationHeaderProto {
                base_header: wire::header(Block::new(1, 11)),
                client_name: "test".into(),
            },
            targets: vec![wire::info(cluster.nodes[3].xfer_addr())],
            target_storage_ids: Vec::new(),
        };
        let mut socket = wire::connect(nodes[0].xfer_addr());
        socket.write_all(&encode_op(Op::TransferBlock, &op)).expect("sent");
        let answer: BlockOpResponseProto = read_delimited(&mut socket).expect("answered");
        assert_eq!(answer.status(), Status::Success, "{answer:?}");
        let members = [&cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[3]];
        let mut writer = Writer::open(&members, block, Stage::PipelineSetupStreamingRecovery, 12, 90_000);
        for (offset, data) in &lost {
            writer.send(*offset, data, false);
            model.write(*offset, data);
        }
        writer.settle();
        // The close is heard by one member only.
        let end = model.len();
        drop(writer);
        let recovered = Writer::open(&members, Block::new(1, 12), Stage::PipelineCloseRecovery, 13, end);
        drop(recovered);
        for node in members {
            assert_content(node, Block::new(1, 13), &model);
        }
    }
    cluster.restart(1).await;
    assert_content(&cluster.nodes[1], Block::new(1, 13), &model);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_what_stays_of_a_chunk_is_found_and_not_blessed() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let block = Block::new(1, 10);
    wire::write(&[node], block, &pattern(1, 5000));
    let path = cluster.find(0, &block.data_name()).expect("data");
    let file = std::fs::File::options().read(true).write(true).open(path).expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 700).expect("read");
    file.write_all_at(&[!byte[0]], 700).expect("written");
    let mut writer = Writer::open(&[node], block, Stage::PipelineSetupAppend, 11, 5000);
    writer.write(512, &[1; 512]);
    assert_eq!(wire::read(node, block, 512, 512), Ok(vec![1; 512]), "overwritten as a whole: good again");
    file.write_all_at(&[77], 700).expect("written");
    writer.send(900, &[2; 10], false);
    let ack: dfs_proto::transfer::PipelineAckProto = read_delimited(&mut writer.socket).expect("answered");
    assert_eq!(ack.reply, [i32::from(Status::Error)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn senseless_packets_are_refused() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    for (id, offset, zeros) in [(1, 4 << 30, 1), (2, 0, (4 << 30) + 1), (3, u64::MAX >> 1, 1)] {
        let mut writer = Writer::create(&[node], Block::new(id, 1));
        writer.send_zeros(offset, zeros);
        let ack: dfs_proto::transfer::PipelineAckProto =
            read_delimited(&mut writer.socket).expect("answered");
        assert_eq!(ack.reply, [i32::from(Status::Error)], "{offset} + {zeros}");
    }
    let mut writer = Writer::create(&[node], Block::new(4, 1));
    let mut raw = writer.packet(100, &pattern(1, 1000), false);
    let last = raw.len() - 1;
    raw[last] ^= 1;
    writer.socket.write_all(&raw).expect("sent");
    let ack: dfs_proto::transfer::PipelineAckProto = read_delimited(&mut writer.socket).expect("answered");
    assert_eq!(ack.reply, [i32::from(Status::ErrorChecksum)]);
}

/// Ranges with data that a replica has, put together.
async fn extents(node: &Datanode, block: Block, from: u64) -> Vec<(u64, u64)> {
    let block = Some(v1::Block { id: block.id, generation_stamp: block.stamp, length: 0 });
    let (mut found, mut offset) = (Vec::<(u64, u64)>::new(), from);
    loop {
        let request = v1::ReplicaExtentsRequest { block, offset, limit: 1 };
        let answer = wire::control(node).replica_extents(request).await.expect("answered").into_inner();
        for extent in answer.extents {
            match found.last_mut() {
                Some((start, len)) if *start + *len == extent.offset => *len += extent.length,
                _ => found.push((extent.offset, extent.length)),
            }
        }
        offset = answer.end;
        if offset >= answer.length {
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_are_told_of_and_survive_a_copy() {
    const MIB: u64 = 1 << 20;
    let cluster = Cluster::start(2).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let block = Block::new(1, 10);
    let mut writer = Writer::create(&nodes[..1], block);
    writer.write(MIB, &pattern(1, MIB as usize));
    writer.write(5 * MIB, &pattern(2, 100));
    writer.send_zeros(MIB + MIB / 2, MIB / 4);
    writer.send_zeros(5 * MIB + 100, 3 * MIB);
    writer.settle();
    let expected = vec![(MIB, MIB / 2), (MIB + 3 * MIB / 4, MIB / 4), (5 * MIB, 4096)];
    assert_eq!(extents(nodes[0], block, 0).await, expected);
    writer.close(8 * MIB + 100, false);
    assert_eq!(extents(nodes[0], block, 0).await, expected);
    assert_eq!(extents(nodes[0], block, 2 * MIB).await, expected[2..]);
    assert_eq!(extents(nodes[0], block, 5 * MIB + 10).await, [(5 * MIB + 10, 4086)]);
    assert_eq!(extents(nodes[0], block, 6 * MIB).await, []);

    let op = OpTransferBlockProto {
        header: ClientOperationHeaderProto { base_header: wire::header(block), client_name: "test".into() },
        targets: vec![wire::info(nodes[1].xfer_addr())],
        target_storage_ids: Vec::new(),
    };
    let mut socket = wire::connect(nodes[0].xfer_addr());
    socket.write_all(&encode_op(Op::TransferBlock, &op)).expect("sent");
    let answer: BlockOpResponseProto = read_delimited(&mut socket).expect("answered");
    assert_eq!(answer.status(), Status::Success, "{answer:?}");
    assert_eq!(extents(nodes[1], block, 0).await, expected);
    let content = wire::read(nodes[0], block, 0, 8 * MIB + 100).expect("read");
    assert!(wire::read(nodes[1], block, 0, 8 * MIB + 100).expect("read") == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_being_overwritten_can_be_synced_from_outside() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let mut block = Block::new(1, 10);
    let mut writer = Writer::create(&[node], block);
    writer.write(0, &pattern(1, 20_000));
    for round in 0..2 {
        writer.write(100, &[9; 4096]);
        let asked = v1::Block { id: 1, generation_stamp: block.stamp, length: 20_000 };
        let request = v1::SyncReplicaRequest { block: Some(asked) };
        wire::control(node).sync_replica(request).await.expect("synced");
        if round == 0 {
            writer.close(20_000, false);
            wire::control(node).sync_replica(request).await.expect("synced");
            block.stamp += 1;
            writer = Writer::open(&[node], Block::new(1, 10), Stage::PipelineSetupAppend, 11, 20_000);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_goes_on_after_all_datanodes_were_restarted() {
    let mut cluster = Cluster::start(2).await;
    let block = Block::new(1, 10);
    let mut model = Model(pattern(1, 30_000));
    let mut writer = Writer::create(&cluster.nodes.iter().collect::<Vec<_>>(), block);
    writer.write(0, &model.0);
    writer.write(10_000, b"flushed");
    model.write(10_000, b"flushed");
    drop(writer);
    for i in 0..2 {
        cluster.restart(i).await;
    }
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let mut writer = Writer::open(&nodes, block, Stage::PipelineSetupStreamingRecovery, 11, 30_000);
    writer.write(29_000, &[5; 3000]);
    model.write(29_000, &[5; 3000]);
    writer.close(model.len(), true);
    for node in nodes {
        assert_content(node, Block::new(1, 11), &model);
    }
}
