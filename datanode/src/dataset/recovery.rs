//! The two local steps of block recovery, and the one step for a replica that needs none.

use dfs_proto::GenerationStamp;
use dfs_proto::v1::ReplicaEvent;

use super::open_replica::Home;
use super::{Dataset, files};
use crate::error::DatanodeError;
use crate::replica::{BlockRef, Replica, ReplicaState, TransitionError};

/// A replica at the start of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryCandidate {
    /// Replica.
    pub block: BlockRef,
    /// Bytes with checksums.
    pub length: u64,
    /// State before the recovery.
    pub original_state: ReplicaState,
    /// Where it is.
    pub storage_id: String,
    /// Its disk spoilt it: a chunk within is damaged, or it ends where one was.
    pub damaged: bool,
}

impl Dataset {
    /// Stops the writer and tells what is here; `None`: no replica.
    pub fn begin_recovery(
        &self,
        asked: BlockRef,
        id: GenerationStamp,
    ) -> Result<Option<RecoveryCandidate>, DatanodeError> {
        let check = |replica: &Replica, _| Ok(replica.clone().begin_recovery(asked.stamp, id)?);
        let outcome = self.exclusively(asked, check, |open, state| {
            state.replica.begin_recovery(asked.stamp, id)?;
            Ok(RecoveryCandidate {
                block: state.replica.block(),
                length: state.replica.length(),
                original_state: state.replica.original_state(),
                storage_id: open.volume.storage_id().to_owned(),
                damaged: state.damaged,
            })
        });
        match outcome {
            Ok(candidate) => Ok(Some(candidate)),
            Err(DatanodeError::ReplicaNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Cuts the replica to the agreed length, gives it the recovery's stamp and closes it. Repeating it after a
    /// success is a success. Returns its storage.
    pub fn finish_recovery(
        &self,
        asked: BlockRef,
        id: GenerationStamp,
        length: u64,
    ) -> Result<String, DatanodeError> {
        self.exclusively(
            asked,
            |_, _| Ok(()),
            |open, state| {
                let storage_id = open.volume.storage_id().to_owned();
                let done = Replica::finalized(BlockRef { id: asked.id, stamp: id }, length);
                if state.replica == done {
                    return Ok(storage_id);
                }
                let mut next = state.replica.clone();
                next.finish_recovery(id, length)?;
                self.retire_records(open, state)?;
                let (old, have) = (state.replica.block(), state.replica.length());
                if state.home.is_closed() && length < have {
                    // Cut where unfinished replicas are, so that a crash in between is found and completed at start.
                    files::relocate(&open.volume, (state.home, old), (Home::Rbw, old))?;
                    state.home = Home::Rbw;
                }
                if !state.home.is_closed() {
                    let known_sum = state.known_sum();
                    files::cut(&open.volume, state.home, old, have, known_sum, length)?;
                    files::write_header_if_missing(&open.volume, state.home, old, state.checksum)?;
                }
                files::relocate(&open.volume, (state.home, old), (Home::Finalized, next.block()))?;
                open.volume.sub_used(have - length);
                state.home = Home::Finalized;
                state.replica = next;
                self.changed(ReplicaEvent::Received, state.replica.block(), length, &open.volume);
                Ok(storage_id)
            },
        )
    }

    /// Closes a replica that was found unfinished at start although its block is complete: its last rename was
    /// not on disk when the machine lost power. Only one with exactly this stamp and length is. Repeating it
    /// after a success is a success; the namenode is told again.
    pub fn finalize_found(&self, asked: BlockRef, length: u64) -> Result<(), DatanodeError> {
        let check = |replica: &Replica, _| Ok(replica.clone().close_found(asked.stamp, length)?);
        self.exclusively(asked, check, |open, state| {
            let mut next = state.replica.clone();
            next.close_found(asked.stamp, length)?;
            if state.torn || state.damaged {
                return Err(TransitionError::State { block: asked, state: state.replica.state() }.into());
            }
            if !state.home.is_closed() {
                files::write_header_if_missing(&open.volume, state.home, asked, state.checksum)?;
                files::relocate(&open.volume, (state.home, asked), (Home::Finalized, asked))?;
                state.home = Home::Finalized;
            }
            state.replica = next;
            self.changed(ReplicaEvent::Received, asked, length, &open.volume);
            Ok(())
        })
    }
}
