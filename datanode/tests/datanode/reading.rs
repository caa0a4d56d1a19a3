//! Reading: ranges, connections in use again, replicas being written, damage.

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dfs_proto::data_transfer::{Op, encode_op, read_delimited};
use dfs_proto::transfer::{BlockOpResponseProto, ChecksumTypeProto, OpBlockChecksumProto, Status};
use dfs_proto::v1::ReplicaVisibleLengthRequest;

use crate::wire::{self, Block, Pipeline, control};
use crate::{Cluster, eventually, pattern};

#[tokio::test(flavor = "multi_thread")]
async fn every_range_of_a_block_can_be_read_over_one_connection() {
    let cluster = Cluster::start(1).await;
    let (block, data) = (Block::new(1, 1), pattern(1, 200_000));
    wire::write(&[&cluster.nodes[0]], block, &data);
    let mut socket = wire::connect(cluster.nodes[0].xfer_addr());
    let end = data.len() as u64;
    for (offset, len) in [
        (0, end),
        (0, 1),
        (end - 1, 1),
        (511, 2),
        (512, 512),
        (1000, 70_000),
        (3, 150_000),
        (end, 0),
        (77, 0),
    ] {
        let found = wire::read_over(&mut socket, block, offset, len).expect("read");
        assert!(found == data[offset as usize..(offset + len) as usize], "{offset} + {len}");
    }
    // Refusals leave the connection usable.
    assert_eq!(wire::read_over(&mut socket, block, end, 1), Err(Status::ErrorInvalid));
    assert_eq!(wire::read_over(&mut socket, block, u64::MAX, 2), Err(Status::ErrorInvalid));
    assert_eq!(wire::read_over(&mut socket, Block::new(2, 1), 0, 1), Err(Status::Error));
    assert_eq!(wire::read_over(&mut socket, Block::new(1, 2), 0, 1), Err(Status::Error), "newer stamp");
    assert_eq!(wire::read_over(&mut socket, block, 5, 5).expect("read"), data[5..10]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_carries_reads_and_writes_in_turn() {
    let cluster = Cluster::start(3).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let mut socket = wire::connect(nodes[0].xfer_addr());
    for id in 0..20 {
        let (block, data) = (Block::new(id, 9), pattern(id, 100 + 300 * id as usize));
        socket = wire::write_over(socket, &nodes, block, &data);
        assert_eq!(wire::read_over(&mut socket, block, 0, data.len() as u64).expect("read"), data);
    }
    eventually("one connection a datanode, kept", || {
        let page = wire::http_get(nodes[1].http_addr(), "/metrics").1;
        page.lines().any(|l| l == "dfs_datanode_xceivers 1")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_block_is_a_block() {
    let cluster = Cluster::start(2).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let block = Block::new(4, 4);
    wire::write(&nodes, block, &[]);
    assert_eq!(wire::read(nodes[1], block, 0, 0).expect("read"), Vec::<u8>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn flushed_bytes_of_a_block_being_written_are_visible_on_every_member() {
    let cluster = Cluster::start(3).await;
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let (block, data) = (Block::new(1, 1), pattern(3, 3000));
    let mut pipeline = Pipeline::create(&nodes, block);
    // A writer that flushes inside a chunk sends that chunk again from its start.
    let mut flushed = 0u64;
    for end in [100, 101, 511, 512, 700, 2000, 2999, 3000u64] {
        let from = flushed / u64::from(wire::CHUNK) * u64::from(wire::CHUNK);
        pipeline.flush(from, &data[from as usize..end as usize]);
        flushed = end;
        for node in &nodes {
            let mut control = control(node);
            let request = ReplicaVisibleLengthRequest {
                block: Some(dfs_proto::v1::Block { id: 1, generation_stamp: 1, length: 0 }),
            };
            let visible = control.get_replica_visible_length(request).await.expect("answered").into_inner();
            assert_eq!(visible.length, flushed);
            assert_eq!(wire::read(node, block, 0, flushed).expect("read"), data[..flushed as usize]);
        }
    }
    pipeline.close(flushed);
    assert_eq!(wire::read(nodes[2], block, 0, flushed).expect("read"), data);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_a_growing_block_never_see_a_checksum_that_does_not_fit() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let (block, data) = (Block::new(1, 1), pattern(8, 60_000));
    let mut pipeline = Pipeline::create(&[node], block);
    let (flushed, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut socket = wire::connect(node.xfer_addr());
                let mut reads = 0;
                while !done.load(Ordering::Acquire) || reads == 0 {
                    let length = flushed.load(Ordering::Acquire);
                    let found = wire::read_over(&mut socket, block, 0, length).expect("read");
                    assert!(found == data[..length as usize]);
                    reads += 1;
                }
            });
        }
        let mut end = 0u64;
        while end < data.len() as u64 {
            let from = end / u64::from(wire::CHUNK) * u64::from(wire::CHUNK);
            end = (end + 37 + end % 800).min(data.len() as u64);
            pipeline.flush(from, &data[from as usize..end as usize]);
            flushed.store(end, Ordering::Release);
        }
        done.store(true, Ordering::Release);
    });
    pipeline.close(data.len() as u64);
}

fn flip(cluster: &Cluster, name: &str, at: u64) {
    let path = cluster.find(0, name).expect("the file");
    let file = std::fs::File::options().read(true).write(true).open(path).expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_without_checksums_never_gets_damaged_data() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let (block, data) = (Block::new(1, 1), pattern(1, 300_000));
    wire::write(&[node], block, &data);
    let ask = |offset, len| {
        let mut socket = wire::connect(node.xfer_addr());
        let op = wire::read_op(block, offset, len, false);
        socket.write_all(&encode_op(Op::ReadBlock, &op)).expect("sent");
        let answer: BlockOpResponseProto = read_delimited(&mut socket).expect("answered");
        let info = answer.read_op_checksum_info.expect("info");
        assert_eq!(info.checksum.r#type(), ChecksumTypeProto::ChecksumNull);
        (socket, info.chunk_offset)
    };
    let (mut socket, start) = ask(1000, 1000);
    let packet = wire::read_packet(&mut socket).expect("packet");
    assert_eq!((start, packet.sums.len()), (512, 0));
    assert_eq!(packet.data, data[512..2048]);

    flip(&cluster, &block.data_name(), 290_000);
    let (mut socket, _) = ask(0, 300_000);
    let first = wire::read_packet(&mut socket).expect("the first piece is good");
    assert!(first.data == data[..first.data.len()]);
    let mut rest = Vec::new();
    // The connection ends before the damaged piece; a reset is an end, too.
    let _ = socket.read_to_end(&mut rest);
    assert!(rest.len() < 4096, "{} bytes after the damage", rest.len());
    eventually("the damage is reported", || {
        cluster.namenode.recorded().bad.iter().any(|b| b.block.unwrap_or_default().id == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_readers_complaint_is_checked_before_it_is_passed_on() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let (good, bad) = (Block::new(1, 1), Block::new(2, 1));
    for block in [good, bad] {
        wire::write(&[node], block, &pattern(block.id, 5000));
    }
    flip(&cluster, &bad.data_name(), 4000);
    for block in [good, bad] {
        let mut socket = wire::connect(node.xfer_addr());
        let op = wire::read_op(block, 0, 5000, true);
        socket.write_all(&encode_op(Op::ReadBlock, &op)).expect("sent");
        let _: BlockOpResponseProto = read_delimited(&mut socket).expect("answered");
        while !wire::read_packet(&mut socket).expect("packet").header.last_packet_in_block {}
        wire::status(&mut socket, Status::ErrorChecksum);
        assert_eq!(socket.read(&mut [0]).expect("end"), 0, "the connection ends once the disk was looked at");
    }
    eventually("a report", || !cluster.namenode.recorded().bad.is_empty()).await;
    let told: Vec<_> = cluster.namenode.recorded().bad.iter().filter_map(|b| b.block).map(|b| b.id).collect();
    assert_eq!(told, [bad.id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_files_are_gone_is_reported() {
    let cluster = Cluster::start(1).await;
    let block = Block::new(1, 1);
    wire::write(&[&cluster.nodes[0]], block, &pattern(1, 5000));
    std::fs::remove_file(cluster.find(0, &block.meta_name()).expect("the file")).expect("removed");
    assert_eq!(wire::read(&cluster.nodes[0], block, 0, 10), Err(Status::Error));
    eventually("a report", || !cluster.namenode.recorded().bad.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checksum_of_a_block_is_that_of_its_data() {
    let cluster = Cluster::start(1).await;
    let (block, data) = (Block::new(1, 1), pattern(5, 123_456));
    wire::write(&[&cluster.nodes[0]], block, &data);
    let mut socket = wire::connect(cluster.nodes[0].xfer_addr());
    let op = OpBlockChecksumProto { header: wire::header(block), verify: None };
    socket.write_all(&encode_op(Op::BlockChecksum, &op)).expect("sent");
    let answer: BlockOpResponseProto = read_delimited(&mut socket).expect("answered");
    let found = answer.checksum_response.expect("checksum");
    assert_eq!(found.block_checksum[..], crc32c::crc32c(&data).to_be_bytes());
    assert_eq!((found.bytes_per_crc, found.crc_per_block), (512, 242));
    assert_eq!(found.crc_type(), ChecksumTypeProto::ChecksumCrc32c);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_data_file_is_too_short_is_reported() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    // Sent in one piece, and with `sendfile`.
    for (id, len) in [(1, 5_000), (2, 300_000)] {
        let block = Block::new(id, 1);
        wire::write(&[node], block, &pattern(id, len));
        let path = cluster.find(0, &block.data_name()).expect("the file");
        let file = std::fs::File::options().write(true).open(path).expect("opens");
        file.set_len(len as u64 / 2).expect("cut");
        let mut socket = wire::connect(node.xfer_addr());
        let op = wire::read_op(block, 0, len as u64, true);
        socket.write_all(&encode_op(Op::ReadBlock, &op)).expect("sent");
        let mut got = Vec::new();
        // The connection ends where the data does; a reset is an end, too.
        let _ = socket.read_to_end(&mut got);
        assert!(got.len() < len, "{} bytes of {len}", got.len());
        eventually("a report", || {
            cluster.namenode.recorded().bad.iter().any(|b| b.block.unwrap_or_default().id == id)
        })
        .await;
    }
}
