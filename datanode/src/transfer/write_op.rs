//! Op 80, write a block: sets the pipeline up, then hands over to the receiver.

use std::net::SocketAddr;
use std::time::Duration;

use dfs_proto::GenerationStamp;
use dfs_proto::checksum::{Checksum, ChecksumKind};
use dfs_proto::data_transfer::{Op, encode_op};
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage as Stage;
use dfs_proto::transfer::{BlockOpResponseProto, OpWriteBlockProto, Status};

use super::net::{BUFFER_BYTES, Connection};
use super::peers::{address_of, at, of_peer};
use super::receiver::{BlockReceiver, Mode, Terms, Waits};
use super::whole_op::WholeBlock;
use super::{Shared, failure};
use crate::dataset::open_replica::WriterToken;
use crate::dataset::pipeline::{Purpose, Reopen};
use crate::dataset::writer::ReplicaWriter;
use crate::dataset::writer::random::{MAX_BLOCK_BYTES, MIN_CHUNK_BYTES};
use crate::error::DatanodeError;
use crate::replica::BlockRef;

/// Added to the wait for a downstream acknowledgement for each member after it, so that the member next to a
/// dead one gives up first and names it.
const WAIT_A_MEMBER: Duration = Duration::from_secs(1);

/// Serves the operation. `Ok`: everything was answered and the connection can go on.
pub fn write_block(
    shared: &Shared,
    upstream: &mut Connection,
    op: &OpWriteBlockProto,
) -> Result<(), DatanodeError> {
    shared.metrics.writes.increment(1);
    let request = match Request::check(shared, op) {
        Ok(request) => request,
        Err(error) => {
            upstream.send_message(&failure(&error, String::new()))?;
            return Err(error);
        }
    };
    let mut next = match op.targets.first() {
        None => None,
        Some(target) => {
            let name = format!("{}:{}", target.id.ip_addr, target.id.xfer_port);
            // A small block comes with its request: both go on together.
            let eager = if request.stage == Stage::PipelineSetupCreate { upstream.buffered() } else { &[] };
            let asked = address_of(target).and_then(|addr| ask(shared, addr, op, eager, false));
            match asked {
                Ok(link) => Some((name, link)),
                Err(error) => {
                    upstream.send_message(&failure(&error, name))?;
                    return Err(error);
                }
            }
        }
    };
    if request.stage == Stage::PipelineSetupCreate
        && request.mode == Mode::Pipeline
        && let Some(whole) = WholeBlock::find(upstream.buffered(), request.checksum)
    {
        match write_whole(shared, upstream, &request, &whole, next)? {
            None => return Ok(()),
            Some(link) => next = link,
        }
    }
    if request.mode == Mode::Copy && copy_whole(shared, upstream, &request)? {
        return Ok(());
    }
    let writer = match request.open(shared) {
        Ok(writer) => writer,
        Err(error) => {
            upstream.send_message(&failure(&error, String::new()))?;
            return Err(error);
        }
    };
    if let Some(writer) = &writer {
        writer.token().add_socket(upstream.socket());
    }
    let mut downstream = None;
    if let Some((name, link)) = next {
        let token = writer.as_ref().map(|writer| writer.token().as_ref());
        match link.answer(shared, op, upstream.buffered(), token) {
            Ok(answered) => downstream = Some(answered),
            Err((bad_link, error)) => {
                if let Some(writer) = writer
                    && request.stage == Stage::PipelineSetupCreate
                {
                    writer.discard()?;
                }
                upstream.send_message(&failure(&error, bad_link.unwrap_or(name)))?;
                return Err(error);
            }
        }
    }
    let ready = ready();
    let Some(writer) = writer else {
        // A close recovery has no packets.
        upstream.send_message(&ready)?;
        if let Some((connection, _)) = downstream {
            shared.peers.put(connection);
        }
        return Ok(());
    };
    let mut scratch = shared.scratch.take(request.checksum.bytes_per_checksum());
    let waits = Waits { stream: shared.config.stream_timeout, peer: peer_wait(shared, op) };
    let Request { mode, random, .. } = request;
    let terms = Terms { mode, random, alone: op.pipeline_size <= 1, waits };
    let ready = (mode == Mode::Pipeline).then_some(&ready);
    let outcome =
        BlockReceiver::new(upstream, downstream, writer, ready, terms, &mut scratch, &shared.metrics).run();
    shared.scratch.give(scratch);
    if let Some(connection) = outcome? {
        shared.peers.put(connection);
    }
    Ok(())
}

/// Serves the request for a small block whose packets have come with it. `Some`: nothing was done since something of the
/// block is here; the members after us come back.
fn write_whole(
    shared: &Shared,
    upstream: &mut Connection,
    request: &Request<'_>,
    whole: &WholeBlock,
    next: Option<(String, Link)>,
) -> Result<Option<Option<(String, Link)>>, DatanodeError> {
    let (block, op) = (request.block, request.op);
    let storage = op.storage_id.as_deref().filter(|s| !s.is_empty());
    match whole.store(&shared.dataset, block, upstream.buffered(), storage) {
        Ok(true) => {}
        Ok(false) => return Ok(Some(next)),
        Err(error) => {
            upstream.send_message(&failure(&error, String::new()))?;
            return Err(error);
        }
    }
    shared.metrics.bytes_written.increment(whole.data_len() as u64);
    shared.metrics.count_client(whole.data_len() as u64);
    let mut downstream = None;
    if let Some((name, link)) = next {
        match link.answer(shared, op, upstream.buffered(), None) {
            Ok((connection, _)) => downstream = Some(connection),
            Err((bad_link, error)) => {
                shared.dataset.invalidate(block)?;
                upstream.send_message(&failure(&error, bad_link.unwrap_or(name)))?;
                return Err(error);
            }
        }
    }
    upstream.consume(whole.length);
    if let Some(connection) = whole.acknowledge(upstream, downstream, &ready())? {
        shared.peers.put(connection);
    }
    Ok(None)
}

/// Takes a small copy as a whole. `false`: nothing was done since it is not small, or something of the block is here.
fn copy_whole(
    shared: &Shared,
    upstream: &mut Connection,
    request: &Request<'_>,
) -> Result<bool, DatanodeError> {
    upstream.set_timeout(shared.config.stream_timeout)?;
    while let Some(least) = WholeBlock::awaits(upstream.buffered()) {
        upstream.fill(least, BUFFER_BYTES)?;
    }
    let Some(whole) = WholeBlock::find_first(upstream.buffered(), request.checksum) else { return Ok(false) };
    let storage = request.op.storage_id.as_deref().filter(|s| !s.is_empty());
    match whole.store(&shared.dataset, request.block, upstream.buffered(), storage) {
        Ok(true) => {}
        Ok(false) => return Ok(false),
        Err(error) => {
            upstream.send_message(&failure(&error, String::new()))?;
            return Err(error);
        }
    }
    shared.metrics.bytes_written.increment(whole.data_len() as u64);
    upstream.consume(whole.length);
    upstream.send_message(&BlockOpResponseProto { status: Status::Success.into(), ..Default::default() })?;
    Ok(true)
}

/// The answer that packets may come.
fn ready() -> BlockOpResponseProto {
    BlockOpResponseProto {
        status: Status::Success.into(),
        first_bad_link: Some(String::new()),
        ..Default::default()
    }
}

/// A request that makes sense.
struct Request<'a> {
    op: &'a OpWriteBlockProto,
    block: BlockRef,
    stage: Stage,
    mode: Mode,
    /// Packets may be at any offset.
    random: bool,
    checksum: Checksum,
}

impl<'a> Request<'a> {
    fn check(shared: &Shared, op: &'a OpWriteBlockProto) -> Result<Self, DatanodeError> {
        let block = shared.block_of(&op.header.base_header)?;
        let checksum = Checksum::from_proto(&op.requested_checksum)?;
        if checksum.kind() == ChecksumKind::Null {
            return Err(DatanodeError::Unsupported("writing without checksums"));
        }
        let stage = Stage::try_from(op.stage).map_err(|_| DatanodeError::Field("stage"))?;
        let mode = match stage {
            Stage::PipelineSetupCreate if op.header.client_name.is_empty() => Mode::Copy,
            Stage::PipelineSetupCreate
            | Stage::PipelineSetupAppend
            | Stage::PipelineSetupAppendRecovery
            | Stage::PipelineSetupStreamingRecovery
            | Stage::PipelineCloseRecovery => Mode::Pipeline,
            Stage::TransferRbw => Mode::CopyToRbw,
            Stage::TransferFinalized => Mode::Copy,
            Stage::DataStreaming | Stage::PipelineClose => return Err(DatanodeError::Field("stage")),
        };
        if mode != Mode::Pipeline && !op.targets.is_empty() {
            return Err(DatanodeError::Unsupported("a copy through several datanodes"));
        }
        let random = op.random_access() && mode == Mode::Pipeline;
        if random && checksum.bytes_per_checksum() < MIN_CHUNK_BYTES {
            return Err(DatanodeError::Unsupported("random access with chunks of less than 512 bytes"));
        }
        Ok(Self { op, block, stage, mode, random, checksum })
    }

    /// The replica is here already.
    fn reopens(&self) -> bool {
        self.mode == Mode::Pipeline && self.stage != Stage::PipelineSetupCreate
    }

    /// Opens the replica; `None`: it is closed, as asked, and nothing will be written.
    fn open(&self, shared: &Shared) -> Result<Option<ReplicaWriter>, DatanodeError> {
        let dataset = &shared.dataset;
        let reopen = Reopen {
            block: self.block,
            stamp: GenerationStamp(self.op.latest_generation_stamp),
            least: self.op.min_bytes_rcvd,
            most: self.op.max_bytes_rcvd,
            random: self.random,
        };
        if self.op.verify_first() && self.reopens() {
            dataset.verify_first(reopen)?;
        }
        let create = |purpose| {
            let needed = self.op.header.base_header.block.num_bytes.unwrap_or(0).min(MAX_BLOCK_BYTES);
            let storage = self.op.storage_id.as_deref().filter(|s| !s.is_empty());
            dataset.create(self.block, purpose, self.checksum, needed, storage)
        };
        match self.stage {
            Stage::PipelineSetupCreate if self.random => create(Purpose::RandomWrite).map(Some),
            Stage::PipelineSetupCreate if self.mode == Mode::Pipeline => create(Purpose::Write).map(Some),
            Stage::PipelineSetupCreate | Stage::TransferRbw | Stage::TransferFinalized => {
                create(Purpose::Copy).map(Some)
            }
            Stage::PipelineSetupAppend => dataset.append(reopen, self.checksum).map(Some),
            Stage::PipelineSetupAppendRecovery => dataset.recover_append(reopen, self.checksum).map(Some),
            Stage::PipelineSetupStreamingRecovery => dataset.recover_rbw(reopen, self.checksum).map(Some),
            Stage::PipelineCloseRecovery => dataset.recover_close(reopen).map(|()| None),
            Stage::DataStreaming | Stage::PipelineClose => Err(DatanodeError::Field("stage")),
        }
    }
}

/// Wait for the next member's answer to a request: making two files, even on a busy disk.
const SETUP_WAIT: Duration = Duration::from_secs(3);

/// The same for each member after it.
const SETUP_WAIT_A_MEMBER: Duration = Duration::from_millis(500);

/// How long the members after us may take to answer a request.
fn setup_wait(shared: &Shared, op: &OpWriteBlockProto) -> Duration {
    let others = u32::try_from(op.targets.len()).unwrap_or(1).saturating_sub(1);
    SETUP_WAIT.min(shared.config.peer_timeout) + SETUP_WAIT_A_MEMBER * others
}

/// How long the members after us may stay silent together.
fn peer_wait(shared: &Shared, op: &OpWriteBlockProto) -> Duration {
    shared.config.peer_timeout + WAIT_A_MEMBER * u32::try_from(op.targets.len()).unwrap_or(0)
}

/// A downstream member that has been asked to join.
struct Link {
    connection: Connection,
    reused: bool,
    /// Bytes of packets that it got with the request.
    ahead: usize,
}

/// Passes the request on to the first of the members after us, with the packets that came with it.
fn ask(
    shared: &Shared,
    addr: SocketAddr,
    op: &OpWriteBlockProto,
    eager: &[u8],
    fresh: bool,
) -> Result<Link, DatanodeError> {
    let mut onward = op.clone();
    onward.targets.remove(0);
    onward.storage_id =
        if onward.target_storage_ids.is_empty() { None } else { Some(onward.target_storage_ids.remove(0)) };
    let mut request = encode_op(Op::WriteBlock, &onward);
    request.extend_from_slice(eager);
    let ahead = eager.len();
    if !fresh {
        let peer = shared.peers.get(addr)?;
        if peer.connection.send(&request).is_ok() {
            return Ok(Link { connection: peer.connection, reused: peer.reused, ahead });
        }
        if !peer.reused {
            return Err(DatanodeError::Peer { peer: addr, source: std::io::ErrorKind::BrokenPipe.into() });
        }
    }
    let connection = shared.peers.connect(addr)?;
    connection.send(&request).map_err(at(addr))?;
    Ok(Link { connection, reused: false, ahead })
}

impl Link {
    /// Waits for the member's answer. A kept connection that turns out to be dead is replaced once.
    /// An error comes with the address that the member blames, if it blames one. Who stops the writer of `token` ends the wait: the
    /// next pipeline of the block does not wait for this one's members.
    fn answer(
        mut self,
        shared: &Shared,
        op: &OpWriteBlockProto,
        eager: &[u8],
        token: Option<&WriterToken>,
    ) -> Result<(Connection, usize), (Option<String>, DatanodeError)> {
        let peer = self.connection.peer();
        let wait = setup_wait(shared, op);
        let stoppable = |link: &Self| {
            if let Some(token) = token {
                token.add_socket(link.connection.socket());
            }
        };
        stoppable(&self);
        let mut answer = self.read_answer(wait);
        let stopped = token.is_some_and(WriterToken::is_stopped);
        if self.reused && !stopped && answer.as_ref().is_err_and(DatanodeError::is_hang_up) {
            let eager = &eager[..self.ahead];
            self = ask(shared, peer, op, eager, true).map_err(|e| (None, e))?;
            stoppable(&self);
            answer = self.read_answer(wait);
        }
        let answer = answer.map_err(|e| (None, e))?;
        if answer.status() != Status::Success {
            let bad_link = answer.first_bad_link.clone().filter(|link| !link.is_empty());
            let message = answer.message.clone().unwrap_or_default();
            return Err((bad_link, DatanodeError::PeerStatus { peer, status: answer.status(), message }));
        }
        Ok((self.connection, self.ahead))
    }

    fn read_answer(&mut self, wait: Duration) -> Result<BlockOpResponseProto, DatanodeError> {
        let peer = self.connection.peer();
        self.connection.set_timeout(wait).map_err(at(peer))?;
        self.connection.read_message(wait).map_err(of_peer(peer))
    }
}
