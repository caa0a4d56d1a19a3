//! A plain client of the data transfer protocol.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use dfs_datanode::Datanode;
use dfs_proto::checksum::{Checksum, ChecksumKind};
use dfs_proto::data_transfer::{Op, encode_op, read_delimited};
use dfs_proto::packet::{PACKET_LENGTHS_BYTES, PacketHeader, PacketLengths};
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage as Stage;
use dfs_proto::transfer::*;
use dfs_proto::v1::datanode_control_client::DatanodeControlClient;
use tonic::transport::{Channel, Endpoint};

/// Chunk size of the tests: small, so that partial chunks are everywhere.
pub const CHUNK: u32 = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub id: u64,
    pub stamp: u64,
}

impl Block {
    pub const fn new(id: u64, stamp: u64) -> Self {
        Self { id, stamp }
    }

    pub fn meta_name(self) -> String {
        format!("blk_{}_{}.meta", self.id, self.stamp)
    }

    pub fn data_name(self) -> String {
        format!("blk_{}", self.id)
    }
}

pub fn checksum() -> Checksum {
    Checksum::new(ChecksumKind::Crc32c, CHUNK).expect("valid")
}

pub fn header(block: Block) -> BaseHeaderProto {
    BaseHeaderProto {
        block: ExtendedBlockProto {
            pool_id: "BP-test".into(),
            block_id: block.id,
            generation_stamp: block.stamp,
            num_bytes: Some(0),
        },
        token: None,
    }
}

pub fn info(addr: SocketAddr) -> DatanodeInfoProto {
    DatanodeInfoProto {
        id: DatanodeIdProto {
            ip_addr: addr.ip().to_string(),
            host_name: "test".into(),
            datanode_uuid: String::new(),
            xfer_port: addr.port().into(),
            info_port: 0,
            ipc_port: 0,
        },
        location: None,
    }
}

pub fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(addr).expect("connects");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    socket.set_nodelay(true).expect("nodelay");
    socket
}

/// How a pipeline is set up.
pub fn write_op(block: Block, stage: Stage, targets: &[SocketAddr]) -> OpWriteBlockProto {
    OpWriteBlockProto {
        header: ClientOperationHeaderProto { base_header: header(block), client_name: "test".into() },
        targets: targets.iter().map(|t| info(*t)).collect(),
        source: None,
        stage: stage.into(),
        pipeline_size: targets.len() as u32 + 1,
        min_bytes_rcvd: 0,
        max_bytes_rcvd: 0,
        latest_generation_stamp: block.stamp,
        requested_checksum: checksum().to_proto(),
        caching_strategy: None,
        storage_id: None,
        target_storage_ids: Vec::new(),
        random_access: None,
        verify_first: None,
    }
}

/// The writing end of a pipeline.
pub struct Pipeline {
    pub socket: TcpStream,
    seqno: i64,
}

pub fn addrs(nodes: &[&Datanode]) -> Vec<SocketAddr> {
    nodes.iter().map(|n| n.xfer_addr()).collect()
}

impl Pipeline {
    /// Numbers packets for a connection.
    pub fn on(socket: TcpStream) -> Self {
        Self { socket, seqno: 0 }
    }

    /// Sets a pipeline up over an existing connection to its first member.
    pub fn over(mut socket: TcpStream, op: &OpWriteBlockProto) -> (Self, BlockOpResponseProto) {
        socket.write_all(&encode_op(Op::WriteBlock, op)).expect("sent");
        let answer = read_delimited(&mut socket).expect("answered");
        (Self { socket, seqno: 0 }, answer)
    }

    pub fn open(addrs: &[SocketAddr], op: OpWriteBlockProto) -> (Self, BlockOpResponseProto) {
        Self::over(connect(addrs[0]), &op)
    }

    pub fn create(nodes: &[&Datanode], block: Block) -> Self {
        let addrs = addrs(nodes);
        let op = write_op(block, Stage::PipelineSetupCreate, &addrs[1..]);
        let (pipeline, answer) = Self::open(&addrs, op);
        assert_eq!(answer.status(), Status::Success, "{answer:?}");
        pipeline
    }

    /// The next stamp's pipeline after a failure.
    pub fn recover(
        nodes: &[&Datanode],
        block: Block,
        stage: Stage,
        stamp: u64,
        least: u64,
        most: u64,
    ) -> Self {
        let (pipeline, answer) = Self::try_recover(nodes, block, stage, stamp, least, most);
        assert_eq!(answer.status(), Status::Success, "{answer:?}");
        pipeline
    }

    pub fn try_recover(
        nodes: &[&Datanode],
        block: Block,
        stage: Stage,
        stamp: u64,
        least: u64,
        most: u64,
    ) -> (Self, BlockOpResponseProto) {
        let addrs = addrs(nodes);
        let mut op = write_op(block, stage, &addrs[1..]);
        op.latest_generation_stamp = stamp;
        op.min_bytes_rcvd = least;
        op.max_bytes_rcvd = most;
        Self::open(&addrs, op)
    }

    pub fn packet(&mut self, offset: u64, data: &[u8], last: bool, sync: bool) -> Vec<u8> {
        let mut sums = Vec::new();
        checksum().append_checksums(data, &mut sums);
        let header = PacketHeader {
            offset_in_block: offset,
            seqno: self.seqno,
            last_packet_in_block: last,
            data_len: data.len() as u32,
            sync_block: sync,
            zero_len: 0,
        };
        self.seqno += 1;
        let mut raw = Vec::new();
        header.encode(sums.len(), &mut raw);
        raw.extend_from_slice(&sums);
        raw.extend_from_slice(data);
        raw
    }

    pub fn send(&mut self, offset: u64, data: &[u8]) {
        let raw = self.packet(offset, data, false, false);
        self.socket.write_all(&raw).expect("sent");
    }

    pub fn ack(&mut self) -> PipelineAckProto {
        self.try_ack().expect("acknowledged")
    }

    pub fn try_ack(&mut self) -> Result<PipelineAckProto, dfs_proto::data_transfer::TransferError> {
        read_delimited(&mut self.socket)
    }

    /// Sends a packet and waits until all members have it.
    pub fn flush(&mut self, offset: u64, data: &[u8]) {
        self.send(offset, data);
        let ack = self.ack();
        assert!(ack.reply.iter().all(|r| *r == i32::from(Status::Success)), "{ack:?}");
        assert_eq!(ack.seqno, self.seqno - 1);
    }

    /// Ends the block.
    pub fn close(mut self, length: u64) -> TcpStream {
        let raw = self.packet(length, &[], true, false);
        self.socket.write_all(&raw).expect("sent");
        let ack = self.ack();
        assert!(ack.reply.iter().all(|r| *r == i32::from(Status::Success)), "{ack:?}");
        self.socket
    }
}

/// Writes a whole block in packets of several chunks.
pub fn write(nodes: &[&Datanode], block: Block, data: &[u8]) {
    write_over(connect(nodes[0].xfer_addr()), nodes, block, data);
}

pub fn write_over(socket: TcpStream, nodes: &[&Datanode], block: Block, data: &[u8]) -> TcpStream {
    let op = write_op(block, Stage::PipelineSetupCreate, &addrs(nodes)[1..]);
    let (mut pipeline, answer) = Pipeline::over(socket, &op);
    assert_eq!(answer.status(), Status::Success, "{answer:?}");
    let packet = 7 * CHUNK as usize;
    for (i, piece) in data.chunks(packet).enumerate() {
        pipeline.send((i * packet) as u64, piece);
    }
    for _ in data.chunks(packet) {
        let ack = pipeline.ack();
        assert_eq!(ack.reply, vec![i32::from(Status::Success); nodes.len()]);
    }
    pipeline.close(data.len() as u64)
}

/// A packet as it came.
pub struct Packet {
    pub header: PacketHeader,
    pub sums: Vec<u8>,
    pub data: Vec<u8>,
}

pub fn read_packet(socket: &mut TcpStream) -> io::Result<Packet> {
    let mut raw = [0; PACKET_LENGTHS_BYTES];
    socket.read_exact(&mut raw)?;
    let lengths = PacketLengths::decode(raw).expect("valid lengths");
    let mut head = vec![0; lengths.header_len];
    socket.read_exact(&mut head)?;
    let (header, sums_len) = lengths.decode_header(&head).expect("valid header");
    let mut sums = vec![0; sums_len];
    socket.read_exact(&mut sums)?;
    let mut data = vec![0; header.data_len as usize];
    socket.read_exact(&mut data)?;
    Ok(Packet { header, sums, data })
}

pub fn read_op(block: Block, offset: u64, len: u64, send_checksums: bool) -> OpReadBlockProto {
    OpReadBlockProto {
        header: ClientOperationHeaderProto { base_header: header(block), client_name: "test".into() },
        offset,
        len,
        send_checksums: Some(send_checksums),
        caching_strategy: None,
        raw: None,
    }
}

/// Reads a range over a connection, checks every checksum, and ends the read in the agreed way.
pub fn read_over(socket: &mut TcpStream, block: Block, offset: u64, len: u64) -> Result<Vec<u8>, Status> {
    socket.write_all(&encode_op(Op::ReadBlock, &read_op(block, offset, len, true))).expect("sent");
    let answer: BlockOpResponseProto = read_delimited(socket).expect("answered");
    if answer.status() != Status::Success {
        assert!(answer.message.is_some_and(|m| !m.is_empty()));
        return Err(Status::try_from(answer.status).expect("a status"));
    }
    let info = answer.read_op_checksum_info.expect("checksum info");
    let checksum = Checksum::from_proto(&info.checksum).expect("valid");
    let (mut data, mut seqno) = (Vec::new(), 0);
    loop {
        let packet = read_packet(socket).expect("packet");
        assert_eq!(packet.header.seqno, seqno);
        assert_eq!(packet.header.offset_in_block, info.chunk_offset + data.len() as u64);
        seqno += 1;
        checksum.verify(&packet.data, &packet.sums).expect("checksums fit");
        data.extend_from_slice(&packet.data);
        if packet.header.last_packet_in_block {
            break;
        }
    }
    status(socket, Status::ChecksumOk);
    let skip = (offset - info.chunk_offset) as usize;
    Ok(data[skip..skip + len as usize].to_vec())
}

pub fn status(socket: &mut TcpStream, status: Status) {
    let mut raw = Vec::new();
    let message = ClientReadStatusProto { status: status.into() };
    dfs_proto::data_transfer::encode_delimited(&message, &mut raw);
    socket.write_all(&raw).expect("sent");
}

pub fn read(node: &Datanode, block: Block, offset: u64, len: u64) -> Result<Vec<u8>, Status> {
    read_over(&mut connect(node.xfer_addr()), block, offset, len)
}

/// A datanode's control service.
pub fn control(node: &Datanode) -> DatanodeControlClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", node.ipc_addr())).expect("an address");
    DatanodeControlClient::new(endpoint.connect_lazy())
}

pub fn http_get(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut socket = connect(addr);
    write!(socket, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("answered");
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, text)
}
