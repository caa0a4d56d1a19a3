//! Streams that are not ours, messages that lie, peers that dawdle.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use dfs_datanode::Datanode;
use dfs_proto::data_transfer::{MAX_MESSAGE_BYTES, Op, encode_op, read_delimited};
use dfs_proto::transfer::{BlockOpResponseProto, Status};

use crate::wire::{self, Block, Pipeline};
use crate::{Cluster, PATIENCE, config, eventually, pattern};

/// Sends bytes and answers what came back until the connection ended.
fn answer_to(node: &Datanode, raw: &[u8]) -> Vec<u8> {
    let mut socket = wire::connect(node.xfer_addr());
    // The server may hang up before it has taken everything.
    let _ = socket.write_all(raw);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    answer
}

fn hangs_up_on(node: &Datanode, raw: &[u8]) {
    let answer = answer_to(node, raw);
    assert!(answer.is_empty(), "{} bytes answered", answer.len());
}

/// Random bytes may happen to be a request. Then it is refused, for it is of nothing that is there.
fn refuses(node: &Datanode, raw: &[u8]) {
    let answer = answer_to(node, raw);
    if !answer.is_empty() {
        let response: BlockOpResponseProto =
            read_delimited(&mut &*answer).expect("an answer of the protocol");
        assert_ne!(response.status(), Status::Success, "{response:?} to {raw:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_streams_end_and_the_server_goes_on() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let block = Block::new(1, 1);
    wire::write(&[node], block, &pattern(1, 1000));
    hangs_up_on(node, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    hangs_up_on(node, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    hangs_up_on(node, &[0, 28, 81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    hangs_up_on(node, &[0, 27, 81]);
    hangs_up_on(node, &[0, 28, 1]);
    let mut long = vec![0, 28, 80];
    prost::encode_length_delimiter(MAX_MESSAGE_BYTES + 1, &mut long).expect("a Vec grows");
    hangs_up_on(node, &long);
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    for i in 0..50 {
        let mut raw = pattern(seed + i, 400);
        if i % 2 == 0 {
            raw[..3].copy_from_slice(&[0, 28, 80 + (i % 7) as u8]);
            raw[3] = 0x7f;
        }
        refuses(node, &raw);
    }
    // Our other ports, too.
    for addr in [node.ipc_addr(), node.http_addr()] {
        let mut socket = wire::connect(addr);
        let _ = socket.write_all(&encode_op(Op::ReadBlock, &wire::read_op(block, 0, 1, true)));
        let _ = socket.write_all(&pattern(seed, 4000));
    }
    assert_eq!(wire::read(node, block, 0, 1000).expect("read"), pattern(1, 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_lie_end_the_write() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let lies: [&[u8]; 5] = [
        &[0xff; 40],                                          // a packet of 4 GiB
        &[0, 0, 0, 3, 0, 25],                                 // shorter than its own length field
        &[0, 0, 0, 4, 0xff, 0xff],                            // a header of 64 KiB
        &[0, 0, 0, 4, 0, 4, 1, 2, 3, 4],                      // a header that does not decode
        &[0, 0x80, 0, 0, 0, 2, 0x18, 0, 0, 0, 0, 0, 0, 0, 0], // a header without its fields
    ];
    for (i, lie) in lies.into_iter().enumerate() {
        let mut pipeline = Pipeline::create(&[node], Block::new(i as u64, 1));
        pipeline.socket.write_all(lie).expect("sent");
        assert!(pipeline.try_ack().is_err(), "lie {i}");
    }
    wire::write(&[node], Block::new(100, 1), &pattern(1, 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_slow_connections_are_closed() {
    let mut cluster = Cluster::start(1).await;
    cluster.nodes.remove(0).shutdown().await;
    let mut config = config(&cluster.namenode, cluster.dir(0));
    config.handshake_timeout = Duration::from_millis(300);
    let node = Datanode::start(config).await.expect("starts");
    node.registered().await;
    for addr in [node.xfer_addr(), node.ipc_addr()] {
        let mut silent = wire::connect(addr);
        let mut greeting = Vec::new();
        silent.read_to_end(&mut greeting).expect("a silent connection is closed");
    }

    // A byte now and then: each comes in time, the whole does not.
    let mut slow = wire::connect(node.xfer_addr());
    let op = encode_op(Op::ReadBlock, &wire::read_op(Block::new(1, 1), 0, 1, true));
    slow.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
    let started = Instant::now();
    for byte in op.iter().cycle() {
        let gone = slow.write_all(&[*byte]).is_err() || matches!(slow.read(&mut [0]), Ok(0));
        if gone {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "a dawdling connection is closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded() {
    let mut cluster = Cluster::start(1).await;
    cluster.nodes.remove(0).shutdown().await;
    let mut config = config(&cluster.namenode, cluster.dir(0));
    config.max_xceivers = 3;
    let node = Datanode::start(config).await.expect("starts");
    node.registered().await;
    // Who is served gets an answer; who is turned away reads the end.
    let served = |socket: &mut TcpStream| {
        let op = encode_op(Op::ReadBlock, &wire::read_op(Block::new(1, 1), 0, 1, true));
        socket.write_all(&op).is_ok() && matches!(socket.read(&mut [0]), Ok(1..))
    };
    let mut held: Vec<TcpStream> = (0..3).map(|_| wire::connect(node.xfer_addr())).collect();
    let mut fourth = wire::connect(node.xfer_addr());
    assert!(matches!(fourth.read(&mut [0]), Ok(0)), "the fourth is turned away");
    assert!(held.iter_mut().all(served), "the others are served");
    drop(held);
    eventually("room again", || served(&mut wire::connect(node.xfer_addr()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_being_copied_in_is_removed_when_the_copy_breaks() {
    use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage as Stage;
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let op = wire::write_op(Block::new(1, 1), Stage::TransferFinalized, &[]);
    let mut socket = wire::connect(node.xfer_addr());
    socket.write_all(&encode_op(Op::WriteBlock, &op)).expect("sent");
    // Two packets of data: a small replica would have one, and be stored when it is there as a whole.
    let mut copy = Pipeline::on(socket);
    copy.send(0, &[1; 1024]);
    copy.send(1024, &[2; 1024]);
    eventually("the copy begins", || cluster.find(0, "blk_1").is_some()).await;
    assert_eq!(wire::read(node, Block::new(1, 1), 0, 0), Err(Status::Error), "not visible");
    drop(copy);
    eventually("nothing is left", || {
        cluster.find(0, "blk_1").is_none() && cluster.nodes[0].dataset().replica_count() == 0
    })
    .await;
}
