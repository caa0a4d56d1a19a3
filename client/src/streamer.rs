//! Sends a file's packets and takes their acknowledgements.
//!
//! One streamer a writer, run by one task (or inline by `close` for a small file). It waits for the next command, for the
//! socket in both directions and for time all at once, so neither a lock nor a second task is needed. Invariants:
//!
//! * `queue.unacked` holds every packet of the block that was sent and not acknowledged, in order, and
//!   `queue.unsent` what follows; together they are bounded by `packets_in_flight`.
//! * All of `queue` belongs to the one open block; the packets of the next stay in the channel.
//! * A last packet is sent when all data is acknowledged, or right behind the only data packet of a new block. So
//!   after a failure a replica is being written (data outstanding), or complete (only the last packet outstanding), or nothing
//!   was acknowledged and the block is begun anew.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use dfs_proto::packet::HEARTBEAT_SEQNO;
use dfs_proto::transfer::PipelineAckProto;
use dfs_proto::v1::{CommittedBlock, LocatedBlock, ReplicaLocation};
use tokio::sync::{mpsc, oneshot, watch};

use crate::exclusions::Exclusions;
use crate::open_block::{OpenBlock, WriteTarget};
use crate::out_packet::OutPacket;
use crate::pipeline_events::PipelineEvent;
use crate::pipeline_members::bad_member;
use crate::unsynced_blocks::{FinishedBlock, UnsyncedBlocks};
use crate::{DfsError, FileStatus, TransferFault};

/// What the writer asks of the streamer.
pub(crate) enum Command {
    /// Send this.
    Packet(OutPacket),
    /// Tell when everything before is acknowledged; with `sync`, record its length at the namenode.
    Barrier { sync: bool, done: oneshot::Sender<()> },
    /// Close the file. All blocks have been ended by last packets.
    Close,
}

/// Packets of the open block.
#[derive(Default)]
pub(crate) struct Queue {
    pub unsent: VecDeque<OutPacket>,
    pub unacked: VecDeque<OutPacket>,
}

impl Queue {
    fn len(&self) -> usize {
        self.unsent.len() + self.unacked.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// After a failure: what was sent will be sent again.
    pub(crate) fn requeue(&mut self) {
        self.unacked.append(&mut self.unsent);
        std::mem::swap(&mut self.unacked, &mut self.unsent);
    }

    /// The block's last packet is in the queue.
    fn is_ending(&self) -> bool {
        self.unsent.back().or(self.unacked.back()).is_some_and(|packet| packet.last)
    }
}

/// The state of a file being written.
pub(crate) struct Streamer {
    pub(crate) target: WriteTarget,
    /// Blocks finished so far that a later `hsync` has to sync.
    unsynced: Arc<UnsyncedBlocks>,
    /// Shows the pipeline's members to the writer's owner.
    pub(crate) shown: watch::Sender<Vec<ReplicaLocation>>,
    pub(crate) block: Option<OpenBlock>,
    pub(crate) queue: Queue,
    commands: mpsc::Receiver<Command>,
    /// First block, allocated when the file was created.
    pub(crate) prepared: Option<LocatedBlock>,
    /// The block before, finished.
    pub(crate) previous: Option<CommittedBlock>,
    /// Datanodes that failed.
    pub(crate) exclusions: Exclusions,
    barrier: Option<(bool, oneshot::Sender<()>)>,
    /// An `hsync` was asked for: from then on blocks are on disk at their end.
    sync_ends: bool,
    /// Blocks begun anew since the last ack.
    pub(crate) restarts: u32,
}

/// What happened first.
enum Event {
    Command(Option<Command>),
    Pipeline(PipelineEvent),
}

impl Streamer {
    pub(crate) fn new(
        target: WriteTarget,
        (unsynced, shown): (Arc<UnsyncedBlocks>, watch::Sender<Vec<ReplicaLocation>>),
        prepared: Option<LocatedBlock>,
        reopened: Option<OpenBlock>,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        Self {
            target,
            unsynced,
            shown,
            block: reopened,
            queue: Queue::default(),
            commands,
            prepared,
            previous: None,
            exclusions: Exclusions::default(),
            barrier: None,
            sync_ends: false,
            restarts: 0,
        }
    }

    /// Carries out commands until the file is closed. `None`: the writer was dropped.
    pub(crate) async fn run(mut self) -> Result<Option<FileStatus>, DfsError> {
        loop {
            match self.commands.recv().await {
                None => return Ok(None),
                Some(Command::Close) => return self.target.complete(self.committable()).await.map(Some),
                // Nothing is outstanding between blocks.
                Some(Command::Barrier { sync, done }) => {
                    self.sync_ends |= sync;
                    // The writer may have given up waiting.
                    let _ = done.send(());
                }
                Some(Command::Packet(packet)) => {
                    self.queue.unsent.push_back(packet);
                    if !self.write_block().await? {
                        return Ok(None);
                    }
                    self.sync_finished().await;
                }
            }
        }
    }

    /// Between two blocks: syncs what could not be synced with a block's end, or what there is no room for.
    async fn sync_finished(&mut self) {
        let WriteTarget { client, path, .. } = &self.target;
        let unsynced = &self.unsynced;
        if self.sync_ends {
            // A failure is kept for the next `hsync`.
            let _ = unsynced.sync_all(client, path).await;
        } else {
            unsynced.make_room(client, path).await;
        }
    }

    /// Writes the block whose first packet is queued, to its end. False if the writer was dropped.
    async fn write_block(&mut self) -> Result<bool, DfsError> {
        loop {
            if self.queue.is_empty() && self.block.is_none() {
                // The block's end was reached by a recovery; what comes next is not this block's.
                return Ok(true);
            }
            while self.has_room() {
                match self.commands.try_recv() {
                    Ok(command) => self.accept(command),
                    Err(_) => break,
                }
            }
            if !self.queue.is_empty() && self.block.as_ref().is_none_or(|block| block.pipeline.is_none()) {
                self.open_pipeline().await?;
            }
            self.send_queued();
            if self.queue.is_empty() {
                self.answer_barrier().await?;
            }
            match self.next_event().await {
                Event::Command(Some(command)) => self.accept(command),
                Event::Command(None) => return Ok(false),
                Event::Pipeline(PipelineEvent::Ack(None)) => {}
                Event::Pipeline(PipelineEvent::Ack(Some(ack))) => match self.acknowledged(&ack) {
                    Ok(false) => {}
                    Ok(true) => {
                        self.finish_block();
                        return Ok(true);
                    }
                    Err((bad, fault)) => self.handle_failure(Some(vec![bad]), fault).await?,
                },
                Event::Pipeline(PipelineEvent::Fault(fault)) => self.handle_failure(None, fault).await?,
                Event::Pipeline(PipelineEvent::Found(found)) => {
                    if let Some(guilty) = self.target.guilty(self.block.as_ref(), found).await {
                        self.handle_failure(Some(guilty), TransferFault::Timeout).await?;
                    }
                }
                Event::Pipeline(PipelineEvent::Idle) => {
                    self.block.iter_mut().for_each(OpenBlock::queue_heartbeat);
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.barrier.is_none()
            && !self.queue.is_ending()
            && self.queue.len() < self.target.client.config.packets_in_flight
    }

    fn accept(&mut self, command: Command) {
        match command {
            Command::Packet(packet) => self.queue.unsent.push_back(packet),
            Command::Barrier { sync, done } => {
                self.sync_ends |= sync;
                self.barrier = Some((sync, done));
            }
            // Comes only after a last packet, and then the block's end is awaited first.
            Command::Close => {}
        }
    }

    /// Waits for whatever comes first.
    async fn next_event(&mut self) -> Event {
        let has_room = self.has_room();
        let busy = !self.queue.unacked.is_empty();
        let Some(block) = &mut self.block else {
            let fault = TransferFault::Unexpected { field: "pipeline" };
            return Event::Pipeline(PipelineEvent::Fault(fault));
        };
        tokio::select! {
            biased;
            event = block.next_event(&self.target.client, busy, None) => Event::Pipeline(event),
            command = self.commands.recv(), if has_room => Event::Command(command),
        }
    }

    /// Hands packets to the pipeline as far as the rule about last packets allows.
    fn send_queued(&mut self) {
        let Some(block) = &mut self.block else { return };
        let untouched = !block.is_reopened() && block.block.length == 0;
        let Some(pipeline) = &mut block.pipeline else { return };
        while let Some(packet) = self.queue.unsent.pop_front() {
            let sole = untouched && self.queue.unacked.len() == 1;
            if packet.last && !self.queue.unacked.is_empty() && !sole {
                self.queue.unsent.push_front(packet);
                return;
            }
            pipeline.queue(&packet);
            block.watch.sent(packet.data.len());
            block.sent = block.sent.max(packet.end());
            self.queue.unacked.push_back(packet);
        }
    }

    /// Takes an ack. True if it ends the block; the error is the member at fault and what it said.
    pub(crate) fn acknowledged(&mut self, ack: &PipelineAckProto) -> Result<bool, (usize, TransferFault)> {
        if let Some(failure) = bad_member(ack) {
            return Err(failure);
        }
        if ack.seqno == HEARTBEAT_SEQNO {
            return Ok(false);
        }
        let Some(block) = &mut self.block else { return Ok(false) };
        match self.queue.unacked.pop_front() {
            Some(packet) if packet.seqno == ack.seqno && ack.reply.len() >= block.members.len() => {
                block.block.length = block.block.length.max(packet.end());
                block.watch.acked(packet.data.len());
                block.synced = packet.last && packet.sync;
                block.failures = 0;
                self.restarts = 0;
                Ok(packet.last)
            }
            other => {
                if let Some(packet) = other {
                    self.queue.unacked.push_front(packet);
                }
                Err((0, TransferFault::Unexpected { field: "ack" }))
            }
        }
    }

    /// The block is finished: remembers it for the next call to the namenode, and keeps the connection.
    pub(crate) fn finish_block(&mut self) {
        if let Some(mut block) = self.block.take() {
            if let Some(pipeline) = block.pipeline.take() {
                pipeline.into_connections().for_each(|connection| self.target.client.peers.put(connection));
            }
            self.previous = Some(block.committed());
            if !block.synced {
                self.unsynced.add(FinishedBlock { block: block.block, members: block.members });
            }
            self.shown.send_replace(Vec::new());
        }
    }

    /// The block before, as it is to be committed.
    pub(crate) fn committable(&self) -> Option<CommittedBlock> {
        self.previous.as_ref().map(|previous| self.unsynced.without_left_out(previous))
    }

    async fn answer_barrier(&mut self) -> Result<(), DfsError> {
        if let Some((sync, done)) = self.barrier.take() {
            if let Some(block) = &mut self.block {
                block.flushed = true;
                if sync {
                    self.target.fsync(block.block).await?;
                }
            }
            // The writer may have given up waiting.
            let _ = done.send(());
        }
        Ok(())
    }

    /// Datanodes to avoid.
    pub(crate) fn excluded(&mut self) -> Vec<String> {
        self.exclusions.uuids(Instant::now())
    }
}
