//! What the namenode is told of a file being written, and when: flushes, and the lease taken and given back.
//!
//! Invariants: commits of a file follow each other ([`FileCore::commit_turn`]), so that none tells an older size than the one
//! before; what was ended is remembered until a commit that tells of it was answered; the lease is given back only
//! when nothing is on its way, and from then on a write takes it again first.
//!
//! A sync waits for the namenode's disk unless blocks that are there have only become longer (`FileState::only_grows`): then being told is
//! enough, so that readers elsewhere see it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use dfs_proto::ErrorKind;
use dfs_proto::v1::{CommitBlocksRequest, WrittenBlock};
use tokio::time::{Instant, sleep};

use super::file_calls::Safety;
use super::namespace_sync::{forgotten, is_of_loss};
use super::open_file::FileCore;
use super::open_file_state::FileState;
use super::unbroken::unbroken;
use super::write_block::BlockWriter;
use crate::DfsError;
use crate::unsynced_blocks::FinishedBlock;

/// How long nothing must have been written before a lease that another client wants is given back.
const RECALL_IDLE: Duration = Duration::from_secs(1);

/// How long the writer of a block that is changing its stamp is given before it is asked again.
const REBUILD_INTERVAL: Duration = Duration::from_millis(20);

/// How often that is looked at.
const RECALL_INTERVAL: Duration = Duration::from_millis(100);

/// Losses of changes by the namenode that one commit may find.
const LOSSES_MAX: usize = 8;

/// Counts a flush under way until it is dropped.
pub(super) struct Flushing<'a>(&'a FileCore);

impl<'a> Flushing<'a> {
    pub(super) fn begin(file: &'a FileCore) -> Self {
        file.state().write.flushes += 1;
        Self(file)
    }
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.0.state().write.flushes -= 1;
    }
}

/// The lease counts as held again unless giving it back was answered: giving it back twice is harmless.
struct GivingBack<'a> {
    file: &'a FileCore,
    done: bool,
}

impl Drop for GivingBack<'_> {
    fn drop(&mut self) {
        let mut state = self.file.state();
        state.returning = false;
        state.lease |= !self.done;
    }
}

impl FileCore {
    /// Every byte is with all replicas and recorded at the namenode. With `close` the lease is given back, too, unless
    /// something is written meanwhile.
    pub(super) async fn flush(self: &Arc<Self>, close: bool) -> Result<(), DfsError> {
        let _flushing = Flushing::begin(self);
        let (own, upto) = {
            let _shape = self.shape.read().await;
            let mut state = self.state();
            state.take_failure()?;
            let own = if close { self.own_writer(&mut state) } else { None };
            self.write_back_all(&mut state, false);
            if close {
                let open: Vec<u64> = state.write.writers.keys().copied().collect();
                for index in open {
                    self.finish(&mut state, index);
                }
            }
            (own, state.write.last_id)
        };
        self.wait_with(own, |state| {
            let ended = !close || !state.write.writers.values().any(|writer| writer.finishing);
            ended && state.write.is_acknowledged(upto)
        })
        .await?;
        if close && self.give_back(false).await? {
            return Ok(());
        }
        self.commit(false).await
    }

    /// Waits until `done` says so or a write has failed; does the work of `own` meanwhile.
    pub(super) async fn wait_with(
        self: &Arc<Self>,
        own: Option<BlockWriter>,
        done: impl Fn(&FileState) -> bool,
    ) -> Result<(), DfsError> {
        let mut written = pin!(self.wait_for(done));
        match own {
            None => written.await,
            Some(writer) => tokio::select! {
                biased;
                // What is written meanwhile is not waited for: then it goes on in the background.
                () = unbroken(&self.fs, writer.run(), |()| async {}) => written.as_mut().await,
                outcome = written.as_mut() => outcome,
            },
        }
    }

    /// Writes everything back and gives the lease back for good. What cannot be written is lost then, and the namenode is
    /// asked to bring the file to an end that its replicas agree on.
    pub(super) async fn close(self: &Arc<Self>) -> Result<(), DfsError> {
        let outcome = self.flush(true).await;
        if let Err(error) = &outcome {
            // The failure was told; what is left of the file may still be closed.
            if let Err(again) = self.flush(true).await {
                tracing::warn!(file = %self.subject, %error, %again, "file not closed, to be recovered");
                self.recover().await;
            }
        }
        outcome
    }

    /// Leaves the file to lease recovery.
    async fn recover(&self) {
        let _turn = self.fs.lease_turn(self.inode).await;
        self.state().lease = false;
        if let Err(error) = self.fs.recover_lease(self.inode).await {
            // It happens when the session ends, too.
            tracing::warn!(file = %self.subject, %error, "the lease could not be given to recovery");
        }
    }

    /// Gives the lease back with what is to be recorded; with `durable`, on disk at the namenode. False if something was written
    /// meanwhile. Is not to be cancelled: the lease may be gone then, and counts as held.
    pub(super) async fn give_back(self: &Arc<Self>, durable: bool) -> Result<bool, DfsError> {
        let _turn = self.fs.lease_turn(self.inode).await;
        {
            let mut state = self.state();
            if !state.lease {
                return Ok(true);
            }
            if !state.write.is_idle() {
                return Ok(false);
            }
            (state.lease, state.returning) = (false, true);
        }
        let mut giving = GivingBack { file: self, done: false };
        // A closed file is nobody's any more who could tell the namenode again how long it is.
        let durable = durable || self.state().found;
        let told = if durable { self.commit_durably(true).await } else { self.commit(true).await };
        match told {
            Ok(()) => {}
            // It is gone already: recorded is what the recovery found.
            Err(error) if error.kind() == ErrorKind::LeaseExpired && !self.has_unrecorded() => {}
            Err(error) => return Err(error),
        }
        giving.done = true;
        // Never written, it was forgotten.
        self.state().write.prepared = None;
        Ok(true)
    }

    fn has_unrecorded(&self) -> bool {
        let state = self.state();
        !state.write.finished.is_empty() || state.size != state.recorded_size
    }

    /// Tells the namenode what it does not know: ended blocks, lengths, the size. Nothing if there is nothing to tell, unless
    /// the lease is given back (`close`).
    pub(super) async fn commit(self: &Arc<Self>, close: bool) -> Result<(), DfsError> {
        self.commit_as(close, false).await.map(drop)
    }

    /// The same, and on disk at the namenode with everything it was told before, unless there is nothing to tell.
    pub(super) async fn commit_durably(self: &Arc<Self>, close: bool) -> Result<(), DfsError> {
        let changed = std::mem::take(&mut self.state().namespace_changed);
        let outcome = self.commit_as(close, true).await;
        if !matches!(outcome, Ok(true)) {
            self.state().namespace_changed |= changed;
        }
        outcome.map(drop)
    }

    /// What a sync tells: on disk at the namenode, unless a recovery would find it.
    pub(super) async fn commit_synced(self: &Arc<Self>) -> Result<(), DfsError> {
        let light = {
            let state = self.state();
            !state.namespace_changed && state.only_grows(self.block_size)
        };
        if light && !self.fs.has_queued() {
            self.commit(false).await
        } else {
            self.commit_durably(false).await
        }
    }

    /// False if there was nothing to tell.
    async fn commit_as(self: &Arc<Self>, close: bool, durable: bool) -> Result<bool, DfsError> {
        let _turn = self.commit_turn.lock().await;
        let gives_up = Instant::now() + self.fs.wait;
        let mut losses = 0;
        let (told, only_grows, status) = loop {
            let Some((request, only_grows)) = self.commit_request(close) else { return Ok(false) };
            let told = request.blocks.clone();
            let safety = match (durable, only_grows) {
                (true, _) => Safety::Durable,
                (false, true) => Safety::Found,
                (false, false) => Safety::Relaxed,
            };
            match self.fs.commit_blocks(self.inode, request, safety).await {
                Ok(status) => break (told, only_grows, status),
                // A pipeline is being rebuilt: its writer will soon say under which stamp.
                Err(error)
                    if error.kind() == ErrorKind::StaleGenerationStamp && Instant::now() < gives_up =>
                {
                    sleep(REBUILD_INTERVAL).await;
                }
                // Once more, with what the namenode has lost of this file.
                Err(error) if error.kind() == ErrorKind::ChangesLost && losses < LOSSES_MAX => losses += 1,
                Err(error) if is_of_loss(error.kind()) => {
                    // It may have forgotten the blocks, the lease, or the file.
                    let known = self.state().losses;
                    self.fs.sync_told().await?;
                    let now = self.state().losses;
                    if now == 0 {
                        return Err(error);
                    }
                    if losses >= LOSSES_MAX {
                        return Err(forgotten(&self.subject, &error));
                    }
                    losses += 1;
                    if now == known {
                        self.sort_out(told, &error).await?;
                    }
                }
                Err(error) => return Err(error),
            }
        };
        self.was_told(told, durable);
        let mut state = self.state();
        let changed = state.namespace_changed;
        state.committed(status);
        if durable || only_grows {
            // What this call was answered for is on disk already, or is found.
            state.namespace_changed = changed;
        }
        state.found = !durable && (only_grows || state.found);
        if durable {
            state.write.told.clear();
        }
        Ok(true)
    }

    /// The namenode has taken this.
    pub(super) fn was_told(&self, blocks: Vec<WrittenBlock>, durable: bool) {
        let mut state = self.state();
        for block in blocks {
            let (Some(block), finished) = (block.block, block.finished) else { continue };
            if finished {
                let is_told = |_: &u64, known: &mut FinishedBlock| known.block == block;
                let told: Vec<_> = state.write.finished.extract_if(.., is_told).collect();
                if !durable {
                    state.write.told.extend(told);
                }
            } else {
                let writer = state.write.writers.values_mut();
                for writer in writer.filter(|w| w.block.is_some_and(|now| now.id == block.id)) {
                    writer.recorded = Some(block);
                    if durable {
                        writer.kept = Some(block);
                    }
                }
            }
        }
    }

    /// What is to be told, and whether it is only how far blocks have grown.
    fn commit_request(&self, close: bool) -> Option<(CommitBlocksRequest, bool)> {
        let state = self.state();
        let mut blocks: Vec<WrittenBlock> = Vec::new();
        let mut size = state.recorded_size;
        for (index, finished) in &state.write.finished {
            size = size.max(index * self.block_size + finished.block.length);
            blocks.push(WrittenBlock {
                block: Some(finished.block),
                storage_ids: finished.members.iter().map(|member| member.storage_id.clone()).collect(),
                finished: true,
            });
        }
        for (index, writer) in &state.write.writers {
            let is_news = writer.block != writer.recorded && !writer.forgotten;
            let Some(block) = writer.block.filter(|_| is_news) else { continue };
            size = size.max(index * self.block_size + block.length);
            blocks.push(WrittenBlock {
                block: Some(block),
                storage_ids: writer.storages.clone(),
                finished: false,
            });
        }
        // What is on its way must not seem to be there already, as zeros.
        let settled = state.write.dirty.is_empty() && state.write.in_flight.is_empty();
        let size = if settled { state.size } else { size.min(state.size) };
        let grown = size > state.recorded_size;
        let written = grown || !blocks.is_empty();
        // A time alone is worth a call only when somebody waits for it.
        let touched = settled && state.mtime_changed() && (close || state.write.flushes > 0);
        if !(close || written || touched) {
            return None;
        }
        let only_grows = !close && state.only_grows(self.block_size);
        let request = CommitBlocksRequest {
            blocks,
            size: grown.then_some(size),
            mtime_ns: (written || touched).then(|| state.mtime_ns()),
            close,
            ..Default::default()
        };
        Some((request, only_grows))
    }

    /// The namenode was started anew and may have lost what was not on its disk: blocks that are being written are told again. True if
    /// there are any.
    pub(super) fn forget_told(&self) -> bool {
        let mut state = self.state();
        for writer in state.write.writers.values_mut() {
            (writer.recorded, writer.kept) = (None, None);
        }
        state.lease && state.is_unrecorded()
    }

    /// Takes the lease, unless the session has it.
    pub(super) async fn take_lease(self: &Arc<Self>) -> Result<(), DfsError> {
        if self.state().lease {
            return Ok(());
        }
        let _turn = self.fs.lease_turn(self.inode).await;
        if self.state().lease {
            return Ok(());
        }
        let located = self.fs.reopen(self.inode).await?;
        let mut state = self.state();
        if state.adopt(located, self.block_size) {
            self.streams.clear();
        }
        state.lease = true;
        state.rewritten = state.written.is_some();
        state.recalled = false;
        Ok(())
    }

    /// A handle is closed: what it wrote can be seen elsewhere from now on. When it is the only one open for writing, it
    /// will hardly be used again, and the lease is given back at once; after a sync that is left to the release of the handle, which nobody
    /// waits for: there is nothing that others could not see yet.
    pub(super) async fn flush_handle(self: &Arc<Self>) -> Result<(), DfsError> {
        let (held, close) = {
            let mut state = self.state();
            state.take_failure()?;
            let last = state.writable <= 1 && (!state.rewritten || state.recalled);
            let told = !state.is_unrecorded() && state.write.is_acknowledged(state.write.last_id);
            (state.lease, last && !(told && state.write.dirty.is_empty()))
        };
        if held { self.flush(close).await } else { Ok(()) }
    }

    /// Another client wants the lease.
    pub(super) async fn recall(self: &Arc<Self>) {
        self.state().recalled = true;
        let quiet = |state: &FileState| !state.lease || state.writable == 0 || state.quiet_for(RECALL_IDLE);
        // Bounded by the asker, who waits for some seconds: one that asks again starts anew.
        let gives_up = Instant::now() + self.fs.wait;
        while !quiet(&self.state()) {
            if Instant::now() >= gives_up {
                return;
            }
            sleep(RECALL_INTERVAL).await;
        }
        if self.state().lease
            && let Err(error) = self.flush(true).await
        {
            tracing::warn!(file = %self.subject, %error, "not written back for another client");
            self.failed(error);
        }
    }
}
