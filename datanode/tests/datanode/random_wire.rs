//! A writer that writes at any offset, and a model of what it writes.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use dfs_datanode::Datanode;
use dfs_proto::data_transfer::{TransferError, read_delimited};
use dfs_proto::packet::PacketHeader;
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage as Stage;
use dfs_proto::transfer::{OpWriteBlockProto, PipelineAckProto, Status};

use crate::wire::{self, Block, CHUNK, Pipeline, checksum};

/// Random numbers that a printed seed repeats.
pub struct Random(u64);

impl Random {
    /// From `DFS_TEST_SEED`, or from the clock.
    pub fn seeded() -> Self {
        let seed = std::env::var("DFS_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
            now.subsec_nanos().into()
        });
        println!("DFS_TEST_SEED={seed}");
        Self(seed)
    }

    /// From a number.
    pub const fn from(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// How a pipeline with random access is set up.
pub fn random_op(
    addrs: &[SocketAddr],
    block: Block,
    stage: Stage,
    stamp: u64,
    length: u64,
) -> OpWriteBlockProto {
    let mut op = wire::write_op(block, stage, &addrs[1..]);
    op.latest_generation_stamp = stamp;
    op.min_bytes_rcvd = length;
    op.max_bytes_rcvd = length;
    op.random_access = Some(true);
    op
}

/// The writing end of a pipeline with random access.
pub struct Writer {
    pub socket: TcpStream,
    seqno: i64,
    acked: i64,
    members: usize,
}

impl Writer {
    pub fn create(nodes: &[&Datanode], block: Block) -> Self {
        Self::open(nodes, block, Stage::PipelineSetupCreate, block.stamp, 0)
    }

    pub fn open(nodes: &[&Datanode], block: Block, stage: Stage, stamp: u64, length: u64) -> Self {
        Self::open_at(&wire::addrs(nodes), block, stage, stamp, length)
    }

    pub fn open_at(addrs: &[SocketAddr], block: Block, stage: Stage, stamp: u64, length: u64) -> Self {
        let (pipeline, answer) = Pipeline::open(addrs, random_op(addrs, block, stage, stamp, length));
        assert_eq!(answer.status(), Status::Success, "{answer:?}");
        Self { socket: pipeline.socket, seqno: 0, acked: 0, members: addrs.len() }
    }

    fn header(&mut self, offset: u64) -> PacketHeader {
        self.seqno += 1;
        PacketHeader {
            offset_in_block: offset,
            seqno: self.seqno - 1,
            last_packet_in_block: false,
            data_len: 0,
            sync_block: false,
            zero_len: 0,
        }
    }

    /// A packet, with one checksum for each chunk that it touches.
    pub fn packet(&mut self, offset: u64, data: &[u8], sync: bool) -> Vec<u8> {
        let header = PacketHeader { data_len: data.len() as u32, sync_block: sync, ..self.header(offset) };
        let chunk = u64::from(CHUNK);
        let head = ((chunk - offset % chunk) % chunk).min(data.len() as u64) as usize;
        let mut sums = Vec::new();
        checksum().append_checksums(&data[..head], &mut sums);
        checksum().append_checksums(&data[head..], &mut sums);
        let mut raw = Vec::new();
        header.encode(sums.len(), &mut raw);
        raw.extend_from_slice(&sums);
        raw.extend_from_slice(data);
        raw
    }

    pub fn send(&mut self, offset: u64, data: &[u8], sync: bool) {
        let raw = self.packet(offset, data, sync);
        self.socket.write_all(&raw).expect("sent");
    }

    pub fn send_zeros(&mut self, offset: u64, len: u64) {
        let header = PacketHeader { zero_len: len, ..self.header(offset) };
        let mut raw = Vec::new();
        header.encode(0, &mut raw);
        self.socket.write_all(&raw).expect("sent");
    }

    /// Packets that were sent and are not acknowledged.
    pub fn outstanding(&self) -> usize {
        (self.seqno - self.acked) as usize
    }

    /// Waits for the next acknowledgement.
    pub fn try_ack(&mut self) -> Result<(), TransferError> {
        let ack: PipelineAckProto = read_delimited(&mut self.socket)?;
        assert_eq!(ack.seqno, self.acked);
        assert_eq!(ack.reply, vec![i32::from(Status::Success); self.members], "packet {}", ack.seqno);
        self.acked += 1;
        Ok(())
    }

    /// Waits until all packets sent are acknowledged by all members.
    pub fn settle(&mut self) {
        while self.outstanding() > 0 {
            self.try_ack().expect("acknowledged");
        }
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        self.send(offset, data, false);
        self.settle();
    }

    /// Ends the block.
    pub fn close(mut self, length: u64, sync: bool) {
        let header = PacketHeader { last_packet_in_block: true, sync_block: sync, ..self.header(length) };
        let mut raw = Vec::new();
        header.encode(0, &mut raw);
        self.socket.write_all(&raw).expect("sent");
        self.settle();
    }
}

/// Content of a block as it should be.
#[derive(Clone, Default)]
pub struct Model(pub Vec<u8>);

impl Model {
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset as usize + data.len();
        self.0.resize(self.0.len().max(end), 0);
        self.0[offset as usize..end].copy_from_slice(data);
    }

    pub fn zero(&mut self, offset: u64, len: u64) {
        self.write(offset, &vec![0; len as usize]);
    }
}
