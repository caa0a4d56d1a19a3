//! One write pipeline: the connection to its first member, or one to each.
//!
//! Owned by the streamer. Invariants: bytes go out in the order they were queued; waiting in [`Pipeline::progress`]
//! can be cancelled without losing a byte in either direction.

mod link;
mod star;

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use dfs_proto::checksum::Checksum;
use dfs_proto::data_transfer::{Op, encode_op};
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage;
use dfs_proto::transfer::{
    BaseHeaderProto, BlockOpResponseProto, ClientOperationHeaderProto, OpTransferBlockProto,
    OpWriteBlockProto, PipelineAckProto, Status,
};
use dfs_proto::v1::{Block, ReplicaLocation};

use self::link::Link;
use self::star::join_acks;
use crate::connection::DataConnection;
use crate::dfs_client::Inner;
use crate::out_packet::OutPacket;
use crate::{TransferFault, datanode};

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
    /// Every packet is sent to every member, not from one to the next.
    pub direct: bool,
    /// The only member has what is left of several replicas: it is to look at it first.
    pub verify_first: bool,
}

/// A pipeline that could not be set up.
pub(crate) struct SetupFailure {
    /// Indexes of the members at fault.
    pub bad: Vec<usize>,
    pub fault: TransferFault,
}

/// An established pipeline.
pub(crate) struct Pipeline {
    /// To the first member, or to each.
    links: Vec<Link>,
    /// Which of them failed.
    failed: Option<usize>,
    /// When bytes last went out or an ack came in.
    pub moved: Instant,
}

impl Pipeline {
    /// Connects to the first member, or to each, and sets up the pipeline. A small block's packets may be given as `eager`
    /// ([`eager_segments`]): they are sent behind the request without waiting for the response, to each member.
    pub(crate) async fn open(setup: &PipelineSetup<'_>, eager: Vec<Bytes>) -> Result<Self, SetupFailure> {
        let first = |fault| SetupFailure { bad: vec![0], fault };
        if (setup.direct || !eager.is_empty()) && setup.members.len() > 1 {
            return Self::open_star(setup, &eager).await;
        }
        let Some((head, rest)) = setup.members.split_first() else {
            return Err(first(TransferFault::Unexpected { field: "empty pipeline" }));
        };
        let (link, response) = Self::start(setup, head, rest, &eager).await.map_err(first)?;
        if response.status() == Status::Success {
            Ok(Self::of(vec![link]))
        } else {
            Err(setup.refused(&response))
        }
    }

    fn of(links: Vec<Link>) -> Self {
        Self { links, failed: None, moved: Instant::now() }
    }

    /// Connects to `head` and has it set up a pipeline with `rest` behind it.
    async fn start(
        setup: &PipelineSetup<'_>,
        head: &ReplicaLocation,
        rest: &[ReplicaLocation],
        eager: &[Bytes],
    ) -> Result<(Link, BlockOpResponseProto), TransferFault> {
        let address = datanode::address(head)?;
        let config = &setup.client.config;
        let (connect_timeout, patience) = (config.datanode_connect_timeout, config.datanode_timeout);
        let mut fresh = false;
        loop {
            let lease = setup.client.peers.get(address, fresh, connect_timeout, patience).await?;
            let mut link = Link::new(lease.connection);
            link.outgoing.push_back(encode_op(Op::WriteBlock, &setup.request(head, rest)).into());
            link.outgoing.extend(eager.iter().cloned());
            match link.exchange().await {
                // The datanode closed an idle connection just when it was used again.
                Err(TransferFault::Io(_)) if lease.reused => fresh = true,
                response => return Ok((link, response?)),
            }
        }
    }

    /// Queues a packet.
    pub(crate) fn queue(&mut self, packet: &OutPacket) {
        if self.is_sent() {
            self.moved = Instant::now();
        }
        self.links.iter_mut().for_each(|link| link.queue(packet));
    }

    /// Queues a heartbeat, unless something is on its way anyhow.
    pub(crate) fn queue_heartbeat(&mut self, heartbeat: Bytes) {
        for link in self.links.iter_mut().filter(|link| link.outgoing.is_empty()) {
            link.outgoing.push_back(heartbeat.clone());
        }
        self.moved = Instant::now();
    }

    fn is_sent(&self) -> bool {
        self.links.iter().all(|link| link.outgoing.is_empty())
    }

    /// Sends and receives until an ack has come, or (`None`) all that was queued is sent.
    pub(crate) async fn progress(&mut self) -> Result<Option<PipelineAckProto>, TransferFault> {
        poll_fn(|cx| self.poll_progress(cx)).await
    }

    fn poll_progress(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<PipelineAckProto>, TransferFault>> {
        // Acks that have come already need no look at the sockets.
        if let Some(ack) = self.next_ack()? {
            return Poll::Ready(Ok(Some(ack)));
        }
        let mut sent = false;
        let mut received = false;
        for (index, link) in self.links.iter_mut().enumerate() {
            let step = link.step(cx).inspect_err(|_| self.failed = Some(index))?;
            sent |= step.sent;
            received |= step.received;
        }
        if sent || received {
            self.moved = Instant::now();
        }
        match self.next_ack()? {
            Some(ack) => Poll::Ready(Ok(Some(ack))),
            None if sent && self.is_sent() => Poll::Ready(Ok(None)),
            None => Poll::Pending,
        }
    }

    fn next_ack(&mut self) -> Result<Option<PipelineAckProto>, TransferFault> {
        if let [link] = self.links.as_mut_slice() {
            return Ok(link.acks.pop_front());
        }
        join_acks(&mut self.links).map_err(|index| {
            self.failed = Some(index);
            TransferFault::Unexpected { field: "ack" }
        })
    }

    /// An ack that had arrived before the pipeline failed: it may name the member at fault.
    pub(crate) fn late_ack(&mut self) -> Option<PipelineAckProto> {
        self.links.iter_mut().for_each(Link::take_late);
        self.next_ack().ok().flatten()
    }

    /// Of members that are all written to: the one whose connection failed, or those that others are ahead of.
    pub(crate) fn failed_members(&self) -> Vec<usize> {
        let behind = || {
            let silent = |index: &usize| self.links[*index].acks.is_empty();
            let silent: Vec<usize> = (0..self.links.len()).filter(silent).collect();
            if silent.len() < self.links.len() { silent } else { Vec::new() }
        };
        if self.is_star() { self.failed.map_or_else(behind, |failed| vec![failed]) } else { Vec::new() }
    }

    /// Whether it goes to every member itself.
    pub(crate) fn is_star(&self) -> bool {
        self.links.len() > 1
    }

    /// The connections, after the last packet was acknowledged.
    pub(crate) fn into_connections(self) -> impl Iterator<Item = DataConnection> {
        self.links.into_iter().map(|link| link.connection)
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
            verify_first: self.verify_first.then_some(true),
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

/// What can be sent behind the request that sets up the pipeline of a new block: packets that are small and the whole block, or
/// go to every member anyway (`direct`); otherwise nothing.
pub(crate) fn eager_segments<'a>(
    packets: impl ExactSizeIterator<Item = &'a OutPacket> + Clone,
    direct: bool,
) -> Vec<Bytes> {
    let whole = packets.len() == 2 && packets.clone().last().is_some_and(|packet| packet.last);
    let bytes: usize = packets.clone().map(|packet| packet.head.len() + packet.data.len()).sum();
    if !(whole || direct) || bytes > MAX_EAGER_BYTES {
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
