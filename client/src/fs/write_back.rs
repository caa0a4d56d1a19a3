//! From a file's dirty bytes to the writers of its blocks, and what those report.
//!
//! Invariants: bytes leave the dirty buffer only to become packets in flight, under one lock, so that a reader sees them in
//! one place or the other; the packets of a block go to its writer in the order of their ids.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dfs_proto::v1::{Block, LocatedBlock, ReplicaLocation};
use tokio::sync::mpsc;

use super::open_file::FileCore;
use super::open_file_state::{FileState, Fresh};
use super::write_block::{BlockCommand, BlockWriter};
use super::write_state::{Content, InFlight, WriterHandle, cut_into_packets};
use crate::DfsError;
use crate::unsynced_blocks::FinishedBlock;

/// Pipelines of one file; before one more is opened, the one used the longest ago is ended.
const MAX_FILE_PIPELINES: usize = 16;

/// Dirty bytes of one file that are written back whether they make up whole packets or not: an application that
/// scatters small writes shall not use up the session's memory.
const MAX_DIRTY_BYTES: u64 = 16 << 20;

/// Largest write that is put on disk before anybody asks, in a file whose every write is followed by a sync.
const MAX_EARLY_SYNC_BYTES: u64 = 64 << 10;

/// Largest file that is ended by its first sync: it fits the packets that are sent with the request to write it.
const MAX_WHOLE_BYTES: u64 = 60 << 10;

impl FileCore {
    /// Takes a write: into the dirty buffer, and from there on if enough has come together. Room has been reserved.
    pub(super) fn take_write(self: &Arc<Self>, state: &mut FileState, offset: u64, data: Bytes) {
        if std::mem::take(&mut state.created) {
            self.fs.create_habit.written();
        }
        if state.fresh == Fresh::Synced {
            state.fresh = Fresh::No;
            self.fs.close_habit.went_on();
        }
        let len = data.len() as u64;
        let before = state.write.dirty.bytes();
        state.write.dirty.insert(offset, data);
        let grown = state.write.dirty.bytes() - before.min(state.write.dirty.bytes());
        self.fs.budget.give((len - grown.min(len)) as usize);
        state.touched(offset + len);
        self.streams.clear();
        let early = state.write.sync_habit.written() && len <= MAX_EARLY_SYNC_BYTES;
        if early || state.write.dirty.bytes() > MAX_DIRTY_BYTES {
            self.write_back_all(state, early);
        } else {
            let units = state.write.dirty.whole_units(offset + len - 1);
            if !units.is_empty() {
                let pieces = state.write.dirty.take(units.clone());
                self.send(state, pieces, false);
                self.finish_passed(state, units);
            }
        }
        if !state.tended {
            state.tended = true;
            self.fs.tender.add(Arc::clone(self));
        }
    }

    /// Hands everything dirty to the writers; with `sync`, they acknowledge it when it is on disk.
    pub(super) fn write_back_all(self: &Arc<Self>, state: &mut FileState, sync: bool) {
        let pieces = state.write.dirty.take_all();
        self.send(state, pieces, sync);
    }

    fn send(self: &Arc<Self>, state: &mut FileState, pieces: Vec<(u64, Bytes)>, sync: bool) {
        let mut parts = cut_into_packets(pieces, self.block_size).into_iter().peekable();
        while let Some(part) = parts.next() {
            let ends = parts.peek().is_none_or(|next| next.index != part.index);
            let offset = part.index * self.block_size + part.offset;
            let content = Content::Data(part.data.clone());
            let (index, end) = (part.index, part.offset + part.data.len() as u64);
            // Small ones share one flush; a large one is put on disk by the last.
            let sync = sync && (ends || part.data.len() as u64 <= MAX_EARLY_SYNC_BYTES);
            self.send_packet(state, InFlight { index, offset, content }, end, |id| BlockCommand::Write {
                id,
                offset: part.offset,
                data: part.data,
                sync,
            });
        }
    }

    /// Makes part of a block zeros.
    pub(super) fn send_zeros(self: &Arc<Self>, state: &mut FileState, index: u64, range: Range<u64>) {
        let (offset, len) = (range.start, range.end - range.start);
        let packet =
            InFlight { index, offset: index * self.block_size + offset, content: Content::Zeros(len) };
        self.send_packet(state, packet, 0, |id| BlockCommand::Zero { id, offset, len });
    }

    /// Has everything of a block put on disk.
    pub(super) fn send_sync(self: &Arc<Self>, state: &mut FileState, index: u64) {
        let packet = InFlight { index, offset: index * self.block_size, content: Content::Marker };
        self.send_packet(state, packet, 0, |id| BlockCommand::Sync { id });
    }

    fn send_packet(
        self: &Arc<Self>,
        state: &mut FileState,
        packet: InFlight,
        end: u64,
        command: impl FnOnce(u64) -> BlockCommand,
    ) {
        let id = state.write.take_id();
        let index = packet.index;
        if !state.write.writers.contains_key(&index) {
            self.start_writer(state, index);
        }
        let Some(writer) = state.write.writers.get_mut(&index) else { return };
        writer.pending += 1;
        if !matches!(packet.content, Content::Marker) {
            writer.data_id = id;
        }
        writer.used = Instant::now();
        writer.end = writer.end.max(end);
        let command = command(id);
        if let BlockCommand::Write { sync: true, .. } | BlockCommand::Sync { .. } = &command {
            writer.sync_id = id;
        }
        // The writer's task reads until the handle is gone; if its runtime is gone, so is everything.
        let _ = writer.commands.send(command);
        state.write.in_flight.insert(id, packet);
    }

    fn start_writer(self: &Arc<Self>, state: &mut FileState, index: u64) {
        let writer = self.new_writer(state, index);
        self.fs.spawn(writer.run());
    }

    /// The writer for all that is dirty, if that is one block's and the block has none. Who flushes does its work: nobody
    /// else's turn has to be waited for then.
    pub(super) fn own_writer(self: &Arc<Self>, state: &mut FileState) -> Option<BlockWriter> {
        let dirty = state.write.dirty.range()?;
        let index = dirty.start / self.block_size;
        let alone = (dirty.end - 1) / self.block_size == index && !state.write.writers.contains_key(&index);
        alone.then(|| self.new_writer(state, index))
    }

    /// The same for a sync of a new file that will hardly be written again: the block is ended by it.
    pub(super) fn own_last_writer(self: &Arc<Self>, state: &mut FileState) -> Option<BlockWriter> {
        let small = state.write.dirty.bytes() <= MAX_WHOLE_BYTES;
        let new = state.table.is_known(0)
            && state.table.row(0).is_none()
            && !state.write.finished.contains_key(&0)
            && state
                .write
                .dirty
                .range()
                .is_some_and(|dirty| dirty.start == 0 && dirty.end <= self.block_size);
        let ends = state.fresh == Fresh::Unsynced && state.writable <= 1 && self.fs.close_habit.closes();
        if small && new && ends { self.own_writer(state) } else { None }
    }

    /// A writer that is to be run.
    fn new_writer(self: &Arc<Self>, state: &mut FileState, index: u64) -> BlockWriter {
        let open = state.write.writers.iter().filter(|(_, writer)| !writer.finishing);
        if open.clone().count() >= MAX_FILE_PIPELINES
            && let Some((oldest, _)) = open.min_by_key(|(_, writer)| writer.used)
        {
            let oldest = *oldest;
            self.finish(state, oldest);
        }
        let (commands, receiver) = mpsc::unbounded_channel();
        let handle = WriterHandle {
            commands,
            pending: 0,
            data_id: 0,
            sync_id: 0,
            synced_id: 0,
            used: Instant::now(),
            end: state.table.length(index),
            finishing: false,
            block: None,
            storages: Vec::new(),
            recorded: None,
            kept: None,
            forgotten: false,
        };
        state.write.writers.insert(index, handle);
        BlockWriter::new(Arc::clone(self), index, receiver)
    }

    /// Has a block ended.
    pub(super) fn finish(&self, state: &mut FileState, index: u64) {
        self.finish_as(state, index, false);
    }

    /// Has a block ended; with `sync`, on disk.
    pub(super) fn finish_as(&self, state: &mut FileState, index: u64, sync: bool) {
        if let Some(writer) = state.write.writers.get_mut(&index)
            && !writer.finishing
        {
            writer.finishing = true;
            let _ = writer.commands.send(BlockCommand::Finish { sync });
        }
    }

    /// Ends the blocks that a writer in sequence has passed.
    fn finish_passed(&self, state: &mut FileState, units: Range<u64>) {
        for index in units.start / self.block_size..units.end / self.block_size {
            self.finish(state, index);
        }
    }

    // ---- reports of the writers ----

    /// The first block, if it was allocated with the file.
    pub(super) fn take_prepared(&self, index: u64) -> Option<LocatedBlock> {
        if index == 0 { self.state().write.prepared.take() } else { None }
    }

    /// Whether no block is known to be at `index`.
    pub(super) fn is_new_block(&self, index: u64) -> bool {
        let state = self.state();
        state.table.is_known(index)
            && state.table.row(index).is_none()
            && !state.write.finished.contains_key(&index)
    }

    /// A pipeline stands, and the namenode knows the block as it is.
    pub(super) fn block_established(&self, index: u64, block: Block, members: &[ReplicaLocation]) {
        let mut state = self.state();
        state.namespace_changed = true;
        state.table.set(index, block, members, self.block_size);
        let write = &mut state.write;
        let was_unsynced = write.unsynced.remove(&index).is_some();
        if let Some(writer) = write.writers.get_mut(&index) {
            if was_unsynced {
                // What it had before is now this pipeline's to sync.
                writer.data_id = writer.data_id.max(1);
                writer.synced_id = 0;
            }
            writer.block = Some(block);
            writer.recorded = Some(block);
            writer.storages = members.iter().map(|member| member.storage_id.clone()).collect();
        }
    }

    /// A block was given back to the namenode.
    pub(super) fn block_given_up(&self, index: u64) {
        let mut state = self.state();
        state.table.forget(index);
        if let Some(writer) = state.write.writers.get_mut(&index) {
            writer.block = None;
        }
    }

    /// A member has joined whose disk has nothing yet.
    pub(super) fn member_added(&self, index: u64) {
        if let Some(writer) = self.state().write.writers.get_mut(&index) {
            writer.synced_id = 0;
        }
    }

    /// All members have acknowledged a packet.
    pub(super) fn acknowledged(&self, index: u64, id: u64, block: Block, sync: bool) {
        let held = {
            let mut state = self.state();
            state.table.set_length(index, block.length);
            if let Some(writer) = state.write.writers.get_mut(&index) {
                writer.pending = writer.pending.saturating_sub(1);
                writer.block = Some(block);
                if sync {
                    writer.synced_id = writer.synced_id.max(id);
                }
            }
            state.write.in_flight.remove(&id).map_or(0, |packet| packet.held())
        };
        self.fs.budget.give(held);
        self.progress.notify_waiters();
    }

    /// A block was ended.
    pub(super) fn block_finished(&self, index: u64, finished: FinishedBlock, synced: bool) {
        let mut state = self.state();
        state.table.set(index, finished.block, &finished.members, self.block_size);
        if let Some(writer) = state.write.writers.get_mut(&index) {
            writer.block = None;
            if std::mem::take(&mut writer.forgotten) {
                return;
            }
            if !synced && writer.is_unsynced() {
                state.write.unsynced.insert(index, finished.clone());
            }
        }
        state.write.finished.insert(index, finished);
    }

    /// Ends a writer that has nothing more to write. False if it has.
    pub(super) fn retire_writer(self: &Arc<Self>, index: u64) -> bool {
        let commit = {
            let mut state = self.state();
            if let Some(writer) = state.write.writers.get_mut(&index).filter(|writer| writer.pending > 0) {
                writer.finishing = false;
                return false;
            }
            state.write.writers.remove(&index);
            state.write.flushes == 0
        };
        self.progress.notify_waiters();
        if commit {
            let file = Arc::clone(self);
            self.fs.spawn(async move {
                if let Err(error) = file.commit(false).await {
                    file.failed(error);
                }
            });
        }
        true
    }

    /// A block cannot be written: what was on its way to it is lost, and whoever writes, flushes or syncs will hear of it.
    pub(super) fn writer_failed(&self, index: u64, error: DfsError) {
        let mut held = 0;
        {
            let mut state = self.state();
            state.write.writers.remove(&index);
            let lost: Vec<u64> = state
                .write
                .in_flight
                .iter()
                .filter(|(_, packet)| packet.index == index)
                .map(|(id, _)| *id)
                .collect();
            for id in lost {
                held += state.write.in_flight.remove(&id).map_or(0, |packet| packet.held());
            }
            state.fail(error);
        }
        self.fs.budget.give(held);
        self.progress.notify_waiters();
    }

    /// Writing failed for good.
    pub(super) fn failed(&self, error: DfsError) {
        self.state().fail(error);
        self.progress.notify_waiters();
    }

    /// Tells the namenode that a block was ended, if it does not know: it is about to be written again.
    pub(super) async fn settle(self: &Arc<Self>, index: u64) -> Result<(), DfsError> {
        if self.state().write.finished.contains_key(&index) { self.commit(false).await } else { Ok(()) }
    }

    /// Waits until `done` says so or a write has failed.
    pub(super) async fn wait_for(&self, done: impl Fn(&FileState) -> bool) -> Result<(), DfsError> {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            {
                let mut state = self.state();
                state.take_failure()?;
                if done(&state) {
                    return Ok(());
                }
            }
            progress.await;
        }
    }
}
