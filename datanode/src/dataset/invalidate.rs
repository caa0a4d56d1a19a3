//! Deleting replicas on the namenode's order. The caller does it on a thread of its own: freeing a large
//! file's blocks takes long.

use dfs_proto::v1::ReplicaEvent;

use super::Dataset;
use crate::error::DatanodeError;
use crate::replica::{BlockRef, Replica, TransitionError};

impl Dataset {
    /// Deletes a replica with at most the stamp of `asked`, stopping its writer. One that is not here counts as
    /// deleted: the namenode is told, so that it does not ask again.
    pub fn invalidate(&self, asked: BlockRef) -> Result<(), DatanodeError> {
        let check = |replica: &Replica, _| {
            if replica.block().stamp > asked.stamp {
                return Err(TransitionError::Stamp { block: replica.block(), asked: asked.stamp }.into());
            }
            Ok(())
        };
        let outcome = self.exclusively(asked, check, |open, state| {
            let (block, length) = (state.replica.block(), state.replica.length());
            self.remove_files(open, state)?;
            self.changed(ReplicaEvent::Deleted, block, length, &open.volume);
            Ok(())
        });
        match outcome {
            Err(DatanodeError::ReplicaNotFound { .. }) => {
                self.tell_deleted(asked);
                Ok(())
            }
            outcome => outcome,
        }
    }
}
