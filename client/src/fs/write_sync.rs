//! `fsync`: what was written is on the disks of all replicas, and what the namenode knows of it in its log.
//!
//! Syncs of one file go in rounds, one at a time: what is written while a round is under way is sent at once, and all
//! who ask meanwhile are served by the next round (group commit). Invariant: a round puts on disk everything that was
//! sent before it began.

use std::collections::BTreeMap;
use std::sync::Arc;

use dfs_proto::v1::Block;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;

use super::open_file::FileCore;
use super::open_file_state::Fresh;
use super::write_commit::Flushing;
use crate::DfsError;
use crate::datanode;
use crate::unsynced_blocks::{FinishedBlock, sync_watched};

/// Finished blocks synced at once: enough to keep the disks of several datanodes busy.
const SYNCS_AT_ONCE: usize = 8;

/// What the last round reached.
#[derive(Debug, Default)]
pub(super) struct SyncRound {
    /// Packets up to this id are on disk.
    done: u64,
    /// Rounds that succeeded.
    count: u64,
}

impl FileCore {
    /// Everything written before is on disk on all replicas, and so is what the namenode was told of the file. If that has lost some
    /// of it, this fails once a writer.
    pub(super) async fn sync(self: &Arc<Self>) -> Result<(), DfsError> {
        self.sync_all().await?;
        self.fs.check_lost(self.inode)
    }

    async fn sync_all(self: &Arc<Self>) -> Result<(), DfsError> {
        {
            let mut state = self.state();
            state.take_failure()?;
            state.write.sync_habit.synced();
        }
        let mut round = match self.sync_turn.try_lock() {
            Ok(round) => round,
            Err(_) => {
                let upto = {
                    let _shape = self.shape.read().await;
                    let mut state = self.state();
                    self.write_back_all(&mut state, false);
                    state.write.last_id
                };
                let round = self.sync_turn.lock().await;
                if round.count > 0 && round.done >= upto && !self.owes_sync() {
                    return Ok(());
                }
                round
            }
        };
        let (own, upto) = {
            let _shape = self.shape.read().await;
            let mut state = self.state();
            let own = self.own_last_writer(&mut state);
            self.write_back_all(&mut state, true);
            if own.is_some() {
                self.finish_as(&mut state, 0, true);
            }
            if state.fresh == Fresh::Unsynced {
                state.fresh = Fresh::Synced;
            }
            let open: Vec<u64> = state.write.writers.keys().copied().collect();
            for index in open {
                let wanted =
                    state.write.writers.get(&index).is_some_and(|w| w.is_unsynced() && !w.is_syncing());
                if wanted {
                    self.send_sync(&mut state, index);
                }
            }
            (own, state.write.last_id)
        };
        let ends = own.is_some();
        if ends {
            // The namenode is told below.
            let _flushing = Flushing::begin(self);
            self.wait_with(own, |state| {
                let ended = !state.write.writers.values().any(|writer| writer.finishing);
                ended && state.write.is_acknowledged(upto)
            })
            .await?;
        } else {
            self.wait_for(|state| state.write.is_acknowledged(upto)).await?;
        }
        self.sync_finished().await?;
        if ends {
            // Closing it costs no call of its own then.
            self.to_the_end(|core| async move { core.give_back(true).await.map(drop) }).await?;
        }
        if self.state().is_unrecorded() {
            self.commit_synced().await?;
        }
        let changed = std::mem::take(&mut self.state().namespace_changed) | self.fs.has_queued();
        if changed {
            let (told, losses) = {
                let state = self.state();
                let told = state.write.told.iter().map(|(index, known)| (*index, known.block));
                (told.collect::<BTreeMap<u64, Block>>(), state.losses)
            };
            if let Err(error) = self.fs.sync_namespace().await {
                self.state().namespace_changed |= changed;
                return Err(error);
            }
            let is_complete = {
                let mut state = self.state();
                state.write.told.retain(|index, known| told.get(index) != Some(&known.block));
                state.losses == losses
            };
            if !is_complete {
                // It was told again what it had lost.
                self.commit_durably(false).await?;
            }
        }
        round.done = upto;
        round.count += 1;
        Ok(())
    }

    /// Whether something that was there before is not on disk although all packets are.
    fn owes_sync(&self) -> bool {
        let state = self.state();
        state.namespace_changed || !state.write.unsynced.is_empty()
    }

    /// Has the replicas of ended blocks put on disk. A block with a replica that cannot be is reopened: the pipeline leaves the
    /// bad replica out under a new stamp, so that it is one no longer, and syncs the others.
    async fn sync_finished(self: &Arc<Self>) -> Result<(), DfsError> {
        let batch: Vec<(u64, FinishedBlock)> =
            self.state().write.unsynced.iter().map(|(index, block)| (*index, block.clone())).collect();
        let mut waiting = batch.into_iter();
        let mut syncs = FuturesUnordered::new();
        let mut reopened = 0;
        loop {
            while syncs.len() < SYNCS_AT_ONCE
                && let Some((index, finished)) = waiting.next()
            {
                syncs.push(self.sync_replicas(index, finished));
            }
            let Some((index, finished, synced)) = syncs.next().await else { break };
            let mut state = self.state();
            if synced {
                if state.write.unsynced.get(&index).is_some_and(|known| known.block == finished.block) {
                    state.write.unsynced.remove(&index);
                }
            } else {
                state.write.unsynced.remove(&index);
                self.send_sync(&mut state, index);
                reopened = state.write.last_id;
            }
        }
        if reopened > 0 {
            self.wait_for(|state| state.write.is_acknowledged(reopened)).await?;
        }
        Ok(())
    }

    /// Whether all replicas of a block are on disk now.
    async fn sync_replicas(&self, index: u64, finished: FinishedBlock) -> (u64, FinishedBlock, bool) {
        let (client, block) = (&self.fs.client, finished.block);
        let syncs = finished.members.iter().map(|member| async move {
            let outcome = sync_watched(client, block, member).await;
            if let Err(fault) = &outcome {
                tracing::warn!(file = %self.subject, %block, datanode = %datanode::name(member), %fault, "replica not synced");
            }
            outcome.is_ok()
        });
        let synced = join_all(syncs).await.into_iter().all(|synced| synced);
        (index, finished, synced)
    }
}
