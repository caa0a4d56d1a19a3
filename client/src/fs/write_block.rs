//! Writes one block of a file: packets at any offset, in the order they were made.
//!
//! One task a block that is being written. It makes the block writable at the namenode, sets up its pipeline, sends
//! packets, takes acknowledgements, rebuilds the pipeline when members fail, and ends the block when it is told to or has
//! been idle for [`IDLE_FINISH`]. Then it is done, unless more was written meanwhile: it reopens the block.
//!
//! Invariants: `unacked` holds what was sent and not acknowledged, in order, and `unsent` what follows; a last
//! packet is sent when all data is acknowledged, or right behind the only data packet of a new block; every packet's id is reported
//! as acknowledged once, or the whole block as failed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::packet::HEARTBEAT_SEQNO;
use dfs_proto::transfer::PipelineAckProto;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::open_file::FileCore;
use super::write_form::WriteForm;
use crate::exclusions::Exclusions;
use crate::open_block::{OpenBlock, WriteTarget};
use crate::out_packet::OutPacket;
use crate::pipeline_events::PipelineEvent;
use crate::pipeline_members::bad_member;
use crate::unsynced_blocks::FinishedBlock;
use crate::{DfsError, TransferFault};

/// Idle time after which a block is ended: a pipeline costs each member a thread, and a new one costs a writer
/// two round trips.
const IDLE_FINISH: Duration = Duration::from_secs(5);

/// The same while other blocks wait for a pipeline.
const IDLE_FINISH_PRESSED: Duration = Duration::from_millis(20);

/// Packets on their way at most: what keeps several datanodes busy, and what is sent again after a failure.
const MAX_PACKETS_OUT: usize = 64;

/// Their bytes at most.
const MAX_BYTES_OUT: usize = 8 << 20;

/// What is to be done with the block.
#[derive(Debug)]
pub(super) enum BlockCommand {
    /// Write `data` at `offset`; with `sync`, acknowledge only what is on disk.
    Write { id: u64, offset: u64, data: Bytes, sync: bool },
    /// Make a range zeros.
    Zero { id: u64, offset: u64, len: u64 },
    /// Acknowledge when everything before is on disk.
    Sync { id: u64 },
    /// End the block; with `sync`, on disk.
    Finish { sync: bool },
}

/// A packet and its id; the last packet has none.
pub(super) struct Queued {
    pub id: Option<u64>,
    pub packet: OutPacket,
}

/// A block being written.
pub(super) struct BlockWriter {
    pub(super) file: Arc<FileCore>,
    pub(super) target: WriteTarget,
    pub(super) index: u64,
    commands: mpsc::UnboundedReceiver<BlockCommand>,
    pub(super) block: Option<OpenBlock>,
    pub(super) unsent: VecDeque<Queued>,
    pub(super) unacked: VecDeque<Queued>,
    /// Bytes of both.
    bytes_out: usize,
    next_seqno: i64,
    /// The block is to be ended: no further command is taken before that.
    pub(super) finishing: Option<bool>,
    /// Its last packet is queued.
    last_queued: bool,
    /// When the last packet came in.
    used: Instant,
    pub(super) exclusions: Exclusions,
    pub(super) restarts: u32,
    /// When the first of these failed.
    pub(super) restarting_since: Option<Instant>,
    /// Leave to have a pipeline.
    pub(super) permit: Option<OwnedSemaphorePermit>,
    /// Chain or star.
    pub(super) form: WriteForm,
}

/// What happened first.
enum Event {
    Command(Option<BlockCommand>),
    Pipeline(PipelineEvent),
    /// Another block waits for a pipeline.
    Pressed,
}

impl BlockWriter {
    pub(super) fn new(
        file: Arc<FileCore>,
        index: u64,
        commands: mpsc::UnboundedReceiver<BlockCommand>,
    ) -> Self {
        let target = file.write_target();
        Self {
            file,
            target,
            index,
            commands,
            block: None,
            unsent: VecDeque::new(),
            unacked: VecDeque::new(),
            bytes_out: 0,
            next_seqno: 0,
            finishing: None,
            last_queued: false,
            used: Instant::now(),
            exclusions: Exclusions::default(),
            restarts: 0,
            restarting_since: None,
            permit: None,
            form: WriteForm::default(),
        }
    }

    /// Writes until the block is ended and nothing more is to be written to it, or writing failed for good.
    pub(super) async fn run(mut self) {
        loop {
            if let Err(error) = self.write().await {
                tracing::warn!(file = %self.target.path, index = self.index, %error, "block not written");
                self.file.writer_failed(self.index, error);
                return;
            }
            self.permit = None;
            if self.file.retire_writer(self.index) {
                return;
            }
            // Written again meanwhile: the namenode has to know that the block was ended before it is reopened.
            if let Err(error) = self.file.commit(false).await {
                self.file.writer_failed(self.index, error);
                return;
            }
        }
    }

    /// Writes one incarnation of the block to its end.
    async fn write(&mut self) -> Result<(), DfsError> {
        loop {
            self.take_commands();
            self.queue_last();
            if self.is_drained() && self.finishing.is_some() && self.block.is_none() {
                // Ended, or nothing was written.
                self.finishing = None;
                self.last_queued = false;
                return Ok(());
            }
            if !self.unsent.is_empty() && self.block.as_ref().is_none_or(|block| block.pipeline.is_none()) {
                self.open_pipeline().await?;
                continue;
            }
            if !self.is_to_reform() {
                self.send_queued();
            } else if self.unacked.is_empty() {
                self.reform().await?;
                continue;
            }
            match self.next_event().await {
                Event::Command(Some(command)) => self.accept(command),
                // The file keeps its end until this writer retires.
                Event::Command(None) => self.finishing = Some(false),
                Event::Pressed => self.finishing = Some(false),
                Event::Pipeline(PipelineEvent::Ack(None)) => {}
                Event::Pipeline(PipelineEvent::Ack(Some(ack))) => match self.acknowledged(&ack) {
                    Ok(false) => {}
                    Ok(true) => self.finish_block(),
                    Err((bad, fault)) => self.handle_failure(Some(vec![bad]), fault).await?,
                },
                Event::Pipeline(PipelineEvent::Fault(fault)) => self.handle_failure(None, fault).await?,
                Event::Pipeline(PipelineEvent::Found(found)) => {
                    if let Some(guilty) = self.target.guilty(self.block.as_ref(), found).await {
                        self.handle_failure(Some(guilty), TransferFault::Timeout).await?;
                    }
                }
                Event::Pipeline(PipelineEvent::Idle) if self.used.elapsed() >= IDLE_FINISH => {
                    self.finishing = Some(false);
                }
                Event::Pipeline(PipelineEvent::Idle) => {
                    self.block.iter_mut().for_each(OpenBlock::queue_heartbeat);
                }
            }
        }
    }

    fn is_drained(&self) -> bool {
        self.unsent.is_empty() && self.unacked.is_empty()
    }

    fn has_room(&self) -> bool {
        self.finishing.is_none()
            && self.unsent.len() + self.unacked.len() < MAX_PACKETS_OUT
            && self.bytes_out < MAX_BYTES_OUT
    }

    fn take_commands(&mut self) {
        while self.has_room() {
            match self.commands.try_recv() {
                Ok(command) => self.accept(command),
                Err(_) => break,
            }
        }
    }

    fn accept(&mut self, command: BlockCommand) {
        let (checksum, seqno) = (self.target.checksum, self.next_seqno);
        let (id, packet) = match command {
            BlockCommand::Write { id, offset, data, sync } => {
                self.bytes_out += data.len();
                (id, OutPacket::anywhere(checksum, seqno, offset, data, sync))
            }
            BlockCommand::Zero { id, offset, len } => (id, OutPacket::zeros(seqno, offset, len)),
            BlockCommand::Sync { id } => (id, OutPacket::empty(checksum, seqno, self.end(), false, true)),
            BlockCommand::Finish { sync } => {
                self.finishing = Some(sync);
                return;
            }
        };
        self.next_seqno += 1;
        self.used = Instant::now();
        self.form.queued(packet.data.len(), packet.sync);
        self.unsent.push_back(Queued { id: Some(id), packet });
    }

    /// End of the block with all that is queued.
    fn end(&self) -> u64 {
        let queued = self.unacked.iter().chain(&self.unsent).map(|queued| queued.packet.end()).max();
        self.block.as_ref().map_or(0, |block| block.block.length).max(queued.unwrap_or(0))
    }

    /// The only thing written to a new block is one packet.
    fn is_sole_packet(&self) -> bool {
        let new = match &self.block {
            None => self.file.is_new_block(self.index),
            Some(block) => !block.is_reopened() && block.block.length == 0,
        };
        new && self.unacked.len() + self.unsent.len() == 1
    }

    /// Queues the last packet, if it is its turn.
    pub(super) fn queue_last(&mut self) {
        let Some(sync) = self.finishing else { return };
        if self.last_queued || (self.is_drained() && self.block.is_none()) {
            return;
        }
        if self.is_drained() || self.is_sole_packet() {
            let packet = OutPacket::empty(self.target.checksum, self.next_seqno, self.end(), true, sync);
            self.next_seqno += 1;
            self.unsent.push_back(Queued { id: None, packet });
            self.last_queued = true;
        }
    }

    fn send_queued(&mut self) {
        let Some(block) = &mut self.block else { return };
        let Some(pipeline) = &mut block.pipeline else { return };
        for queued in self.unsent.drain(..) {
            pipeline.queue(&queued.packet);
            block.watch.sent(queued.packet.data.len());
            block.sent = block.sent.max(queued.packet.end());
            self.unacked.push_back(queued);
        }
    }

    /// Waits for whatever comes first.
    async fn next_event(&mut self) -> Event {
        let has_room = self.has_room();
        let busy = !self.unacked.is_empty();
        let Some(block) = self.block.as_mut().filter(|block| block.pipeline.is_some()) else {
            // Nothing is queued either: this writer waits for its first packet.
            return Event::Command(self.commands.recv().await);
        };
        let pressed_from = tokio::time::Instant::from_std(self.used + IDLE_FINISH_PRESSED);
        let pressure = self.file.pipelines();
        let idle_until = Some(self.used + IDLE_FINISH);
        tokio::select! {
            biased;
            event = block.next_event(&self.target.client, busy, idle_until) => Event::Pipeline(event),
            command = self.commands.recv(), if has_room => Event::Command(command),
            () = pressure.wait_until_pressed(pressed_from), if !busy => Event::Pressed,
        }
    }

    /// Takes an ack. True if it ends the block; the error is the member at fault and what it said.
    pub(super) fn acknowledged(&mut self, ack: &PipelineAckProto) -> Result<bool, (usize, TransferFault)> {
        if let Some(failure) = bad_member(ack) {
            return Err(failure);
        }
        if ack.seqno == HEARTBEAT_SEQNO {
            return Ok(false);
        }
        let Some(block) = &mut self.block else { return Ok(false) };
        let expected = self.unacked.front().is_some_and(|queued| queued.packet.seqno == ack.seqno);
        if !expected || ack.reply.len() < block.members.len() {
            return Err((0, TransferFault::Unexpected { field: "ack" }));
        }
        let Some(Queued { id, packet }) = self.unacked.pop_front() else { return Ok(false) };
        block.block.length = block.block.length.max(packet.end());
        block.watch.acked(packet.data.len());
        block.failures = 0;
        self.restarts = 0;
        self.restarting_since = None;
        self.bytes_out -= packet.data.len();
        match id {
            Some(id) => self.file.acknowledged(self.index, id, block.block, packet.sync),
            None => block.synced = packet.sync,
        }
        Ok(packet.last)
    }

    /// The block is ended: the namenode is told with the next commit, and the connection is kept.
    pub(super) fn finish_block(&mut self) {
        let Some(mut block) = self.block.take() else { return };
        if let Some(pipeline) = block.pipeline.take() {
            pipeline.into_connections().for_each(|connection| self.target.client.peers.put(connection));
        }
        self.file.block_finished(
            self.index,
            FinishedBlock { block: block.block, members: block.members },
            block.synced,
        );
        self.finishing.get_or_insert(false);
    }

    /// After a failure: what was sent will be sent again.
    pub(super) fn requeue(&mut self) {
        self.unacked.append(&mut self.unsent);
        std::mem::swap(&mut self.unacked, &mut self.unsent);
    }

    /// Only the last packet is outstanding.
    pub(super) fn only_last_is_left(&self) -> bool {
        self.unsent.len() == 1 && self.unsent.front().is_some_and(|queued| queued.packet.last)
    }

    /// The block begins anew, without the last packet: it is queued again when its turn comes.
    pub(super) fn take_back_last(&mut self) {
        if self.unsent.back().is_some_and(|queued| queued.packet.last) {
            self.unsent.pop_back();
            self.last_queued = false;
        }
    }

    /// The end was reached by a recovery.
    pub(super) fn forget_last(&mut self) {
        self.unsent.clear();
    }
}
