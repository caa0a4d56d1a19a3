//! What is left of a file whose changes the namenode has lost.
//!
//! The namenode is told again what it may not know any more. It may have lost more than that: blocks that it had allocated, and whose
//! replicas it has the datanodes delete, the lease, the file itself. What it does not take is given up, so that what is written from then on
//! can be safe again; whoever syncs the file is told of it ([`super::unsynced`]).

use std::sync::Arc;

use dfs_proto::ErrorKind;
use dfs_proto::v1::{Block, CommitBlocksRequest, WrittenBlock};

use super::file_calls::Safety;
use super::namespace_sync::{forgotten, is_of_loss};
use super::open_file::FileCore;
use crate::DfsError;

impl FileCore {
    /// Handles that may write: each of them is told of a loss.
    pub(super) fn writers(&self) -> u32 {
        self.state().writable.max(1)
    }

    /// The namenode has lost changes of the file.
    pub(super) fn tell_again(&self) {
        self.state().tell_again();
    }

    /// The namenode refuses to be told of these blocks: tells of each of them, and gives up what it does not know. An error if nothing is
    /// left to be told.
    pub(super) async fn sort_out(
        self: &Arc<Self>,
        blocks: Vec<WrittenBlock>,
        refusal: &DfsError,
    ) -> Result<(), DfsError> {
        let mut given_up = 0;
        for written in blocks {
            let Some(block) = written.block else { continue };
            let request = CommitBlocksRequest { blocks: vec![written.clone()], ..Default::default() };
            match self.fs.commit_blocks(self.inode, request, Safety::Relaxed).await {
                Ok(_) => self.was_told(vec![written], false),
                Err(error) if error.kind() == ErrorKind::LeaseExpired => {
                    // The lease is of a file that goes on without this session.
                    let mut state = self.state();
                    state.lease = false;
                    state.forget_ended();
                    return Err(forgotten(&self.subject, &error));
                }
                Err(error) if is_of_loss(error.kind()) => {
                    tracing::warn!(file = %self.subject, %block, %error, "a block is lost with what the namenode has lost");
                    self.give_up(block);
                    given_up += 1;
                }
                Err(error) => return Err(error),
            }
        }
        if given_up == 0 {
            return Err(forgotten(&self.subject, refusal));
        }
        self.fs.unsynced.to_be_told(self.inode.get(), 1);
        Ok(())
    }

    /// The namenode does not know a block.
    fn give_up(self: &Arc<Self>, block: Block) {
        let mut state = self.state();
        let state = &mut *state;
        let write = &mut state.write;
        for ended in [&mut write.finished, &mut write.unsynced, &mut write.told] {
            ended.retain(|_, known| known.block.id != block.id);
        }
        let is_of =
            |writer: &super::write_state::WriterHandle| writer.block.is_some_and(|b| b.id == block.id);
        let open: Vec<u64> =
            write.writers.iter().filter(|(_, w)| is_of(w)).map(|(index, _)| *index).collect();
        for index in open {
            if let Some(writer) = state.write.writers.get_mut(&index) {
                writer.forgotten = true;
            }
            self.finish(state, index);
        }
    }
}
