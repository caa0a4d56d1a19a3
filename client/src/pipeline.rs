//! One write pipeline: the connection to its first member, or to each for a block so small that it is sent whole.
//!
//! Owned by the streamer. Invariants: bytes go out in the order they were queued; waiting in [`Pipeline::progress`]
//! can be cancelled without losing a byte in either direction.

mod whole;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Instant;

use bytes::{Buf, Bytes};
use dfs_proto::checksum::Checksum;
use dfs_proto::data_transfer::{Op, encode_op};
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage;
use dfs_proto::transfer::{
    BaseHeaderProto, BlockOpResponseProto, ClientOperationHeaderProto, OpTransferBlockProto,
    OpWriteBlockProto, PipelineAckProto, Status,
};
use dfs_proto::v1::{Block, ReplicaLocation};

use crate::connection::DataConnection;
use crate::dfs_client::Inner;
use crate::out_packet::OutPacket;
use crate::{TransferFault, datanode};

/// Segments given to the kernel in one call: heads and data of several packets.
const MAX_SLICES: usize = 16;

/// Largest block that is sent behind the pipeline request without waiting for the response: fits the smallest default
/// socket buffers with its framing.
const MAX_EAGER_BYTES: usize = 64 << 10;

/// What a pipeline is set up for.
pub(crate) struct PipelineSetup<'a> {
    pub client: &'a Inner,
    /// The block with the stamp that its replicas have, and its acknowledged length.
    pub block: Block,
    /// Members in order.
    pub members: &'a [ReplicaLocation],
    pub stage: BlockConstructionStage,
    /// Stamp that the replicas get.
    pub new_stamp: u64,
    /// Bytes sent, acknowledged or not.
    pub sent: u64,
    pub checksum: Checksum,
    /// Packets may be at any offset.
    pub random_access: bool,
}

/// A pipeline that could not be set up.
pub(crate) struct SetupFailure {
    /// Indexes of the members at fault.
    pub bad: Vec<usize>,
    pub fault: TransferFault,
}

/// An established pipeline.
pub(crate) struct Pipeline {
    connection: DataConnection,
    /// To the other members, if the block was sent to each.
    others: Vec<DataConnection>,
    /// Acknowledgements of all members that have come already.
    early: VecDeque<PipelineAckProto>,
    outgoing: VecDeque<Bytes>,
    /// When bytes last went out or an ack came in.
    pub moved: Instant,
}

impl Pipeline {
    /// Connects to the first member and sets up the pipeline. A small block's packets may be given as `eager`
    /// ([`eager_segments`]): they are sent behind the request without waiting for the response, to each member.
    pub(crate) async fn open(setup: &PipelineSetup<'_>, eager: Vec<Bytes>) -> Result<Self, SetupFailure> {
        let first = |fault| SetupFailure { bad: vec![0], fault };
        if !eager.is_empty() && setup.members.len() > 1 {
            return Self::send_whole(setup, &eager).await;
        }
        let Some((head, rest)) = setup.members.split_first() else {
            return Err(first(TransferFault::Unexpected { field: "empty pipeline" }));
        };
        let (pipeline, response) = Self::start(setup, head, rest, &eager).await.map_err(first)?;
        if response.status() == Status::Success { Ok(pipeline) } else { Err(setup.refused(&response)) }
    }

    /// Connects to `head` and has it set up a pipeline with `rest` behind it.
    async fn start(
        setup: &PipelineSetup<'_>,
        head: &ReplicaLocation,
        rest: &[ReplicaLocation],
        eager: &[Bytes],
    ) -> Result<(Self, BlockOpResponseProto), TransferFault> {
        let address = datanode::address(head)?;
        let config = &setup.client.config;
        let (connect_timeout, patience) = (config.datanode_connect_timeout, config.datanode_timeout);
        let mut fresh = false;
        loop {
            let lease = setup.client.peers.get(address, fresh, connect_timeout, patience).await?;
            let mut pipeline = Self {
                connection: lease.connection,
                others: Vec::new(),
                early: VecDeque::new(),
                outgoing: VecDeque::new(),
                moved: Instant::now(),
            };
            pipeline.outgoing.push_back(encode_op(Op::WriteBlock, &setup.request(head, rest)).into());
            pipeline.outgoing.extend(eager.iter().cloned());
            match pipeline.exchange().await {
                // The datanode closed an idle connection just when it was used again.
                Err(TransferFault::Io(_)) if lease.reused => fresh = true,
                response => return Ok((pipeline, response?)),
            }
        }
    }

    async fn exchange(&mut self) -> Result<BlockOpResponseProto, TransferFault> {
        while !self.outgoing.is_empty() {
            self.connection.socket().writable().await?;
            self.write_some()?;
        }
        self.connection.read_message().await
    }

    /// Queues a packet.
    pub(crate) fn queue(&mut self, packet: &OutPacket) {
        if self.outgoing.is_empty() {
            self.moved = Instant::now();
        }
        self.outgoing.push_back(packet.head.clone());
        if !packet.data.is_empty() {
            self.outgoing.push_back(packet.data.clone());
        }
    }

    /// Queues a heartbeat, unless something is on its way anyhow.
    pub(crate) fn queue_heartbeat(&mut self, heartbeat: Bytes) {
        if self.outgoing.is_empty() {
            self.outgoing.push_back(heartbeat);
        }
        self.moved = Instant::now();
    }

    /// Sends and receives until an ack has come, or (`None`) all that was queued is sent.
    pub(crate) async fn progress(&mut self) -> Result<Option<PipelineAckProto>, TransferFault> {
        if let Some(ack) = self.early.pop_front() {
            return Ok(Some(ack));
        }
        loop {
            if let Some(ack) = self.connection.buffered_message()? {
                self.moved = Instant::now();
                return Ok(Some(ack));
            }
            let sending = !self.outgoing.is_empty();
            let socket = self.connection.socket();
            tokio::select! {
                biased;
                ready = socket.readable() => {
                    ready?;
                    self.connection.try_fill()?;
                }
                ready = socket.writable(), if sending => {
                    ready?;
                    self.write_some()?;
                    if self.outgoing.is_empty() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// An ack that had arrived before the pipeline failed: it may name the member at fault.
    pub(crate) fn late_ack(&mut self) -> Option<PipelineAckProto> {
        loop {
            match self.connection.buffered_message() {
                Ok(Some(ack)) => return Some(ack),
                Ok(None) => match self.connection.try_fill() {
                    Ok(true) => {}
                    Ok(false) | Err(_) => return None,
                },
                Err(_) => return None,
            }
        }
    }

    /// The connections, after the last packet was acknowledged.
    pub(crate) fn into_connections(self) -> impl Iterator<Item = DataConnection> {
        std::iter::once(self.connection).chain(self.others)
    }

    fn write_some(&mut self) -> Result<(), TransferFault> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut count = 0;
        for (slice, segment) in slices.iter_mut().zip(&self.outgoing) {
            *slice = IoSlice::new(segment);
            count += 1;
        }
        let mut written = match self.connection.socket().try_write_vectored(&slices[..count]) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.moved = Instant::now();
        while let Some(front) = self.outgoing.front_mut() {
            if front.len() > written {
                front.advance(written);
                break;
            }
            written -= front.len();
            self.outgoing.pop_front();
        }
        Ok(())
    }
}

impl PipelineSetup<'_> {
    fn request(&self, head: &ReplicaLocation, rest: &[ReplicaLocation]) -> OpWriteBlockProto {
        let block = datanode::extended(&self.client.defaults.block_pool_id, self.block);
        OpWriteBlockProto {
            header: ClientOperationHeaderProto {
                base_header: BaseHeaderProto { block, token: None },
                client_name: self.client.holder.clone(),
            },
            targets: rest.iter().filter_map(|l| l.datanode.as_ref()).map(Into::into).collect(),
            source: None,
            stage: self.stage.into(),
            pipeline_size: 1 + rest.len() as u32,
            min_bytes_rcvd: self.block.length,
            max_bytes_rcvd: self.sent,
            latest_generation_stamp: self.new_stamp,
            requested_checksum: self.checksum.to_proto(),
            caching_strategy: None,
            storage_id: Some(head.storage_id.clone()),
            target_storage_ids: rest.iter().map(|l| l.storage_id.clone()).collect(),
            random_access: self.random_access.then_some(true),
        }
    }

    /// Finds the member at fault: the one named as bad link, else the first.
    fn refused(&self, response: &BlockOpResponseProto) -> SetupFailure {
        let link = response.first_bad_link.as_deref().unwrap_or_default();
        let named = self.members.iter().position(|member| !link.is_empty() && datanode::name(member) == link);
        SetupFailure { bad: vec![named.unwrap_or(0)], fault: refusal(response) }
    }
}

/// The fault that a response tells of.
fn refusal(response: &BlockOpResponseProto) -> TransferFault {
    TransferFault::Refused { status: response.status, message: response.message.clone().unwrap_or_default() }
}

/// What can be sent behind the request that sets up the pipeline of a new block: packets that are small and the whole block,
/// otherwise nothing.
pub(crate) fn eager_segments<'a>(
    packets: impl ExactSizeIterator<Item = &'a OutPacket> + Clone,
) -> Vec<Bytes> {
    let whole = packets.len() == 2 && packets.clone().last().is_some_and(|packet| packet.last);
    let bytes: usize = packets.clone().map(|packet| packet.head.len() + packet.data.len()).sum();
    if !whole || bytes > MAX_EAGER_BYTES {
        return Vec::new();
    }
    let segments = packets.flat_map(|packet| [packet.head.clone(), packet.data.clone()]);
    segments.filter(|segment| !segment.is_empty()).collect()
}

/// Asks `source` to copy its replica of a block being written to `target`.
pub(crate) async fn transfer(
    client: &Inner,
    block: Block,
    source: &ReplicaLocation,
    target: &ReplicaLocation,
) -> Result<(), TransferFault> {
    let config = &client.config;
    let address = datanode::address(source)?;
    // The copy of up to a whole block goes on in silence: this connection is more patient than others.
    let patience = config.datanode_timeout * TRANSFER_PATIENCE_FACTOR;
    let mut connection = DataConnection::connect(address, config.datanode_connect_timeout, patience).await?;
    let block = datanode::extended(&client.defaults.block_pool_id, block);
    let request = OpTransferBlockProto {
        header: ClientOperationHeaderProto {
            base_header: BaseHeaderProto { block, token: None },
            client_name: client.holder.clone(),
        },
        targets: target.datanode.iter().map(Into::into).collect(),
        target_storage_ids: vec![target.storage_id.clone()],
    };
    connection.send(&encode_op(Op::TransferBlock, &request)).await?;
    let response: BlockOpResponseProto = connection.read_message().await?;
    match response.status() {
        Status::Success => Ok(()),
        _ => Err(TransferFault::Refused {
            status: response.status,
            message: response.message.unwrap_or_default(),
        }),
    }
}

/// Patience with a replica copy, in units of the ordinary timeout: 128 MiB at a slow disk's 20 MB/s take 6 s.
const TRANSFER_PATIENCE_FACTOR: u32 = 6;
