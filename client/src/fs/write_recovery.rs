//! What is done when the pipeline of a block fails.
//!
//! * Nothing of a new block was acknowledged: the block is given back and begun anew elsewhere.
//! * Data is outstanding: the survivors get a new generation stamp and all unacknowledged packets again, in the same
//!   order. When too few are left, a datanode joins with a copy of the replica first.
//! * Only the last packet is outstanding: the survivors are told to close under a new stamp.
//! * Nobody is left: that is an outage, and the last members are tried again until it has lasted too long.
//!
//! The new stamp fences the lost members: what they have is stale from then on.

use super::write_block::BlockWriter;
use crate::outage::Outage;
use crate::pipeline::Pipeline;
use crate::{DfsError, TransferFault, datanode};

/// Failures of one block without an ack in between after which it is given up: a pipeline that can be set up again and
/// again, and never acknowledges, fails for a reason that does not pass.
const MAX_FAILURES: u32 = 12;

impl BlockWriter {
    /// Deals with a failed pipeline. `bad` are the members at fault if they are known. Afterwards the block has a new
    /// pipeline, or is to be begun anew, or is ended (then no packet is left).
    pub(super) async fn handle_failure(
        &mut self,
        bad: Option<Vec<usize>>,
        fault: TransferFault,
    ) -> Result<(), DfsError> {
        let Some(pipeline) = self.block.as_mut().and_then(|block| block.pipeline.take()) else {
            return Ok(());
        };
        let bad = match bad {
            Some(culprits) => culprits,
            None => match self.find_culprits(pipeline, &fault).await {
                Some(culprits) => culprits,
                None => {
                    self.finish_block();
                    return Ok(());
                }
            },
        };
        self.requeue();
        let Some(mut block) = self.block.take() else { return Ok(()) };
        tracing::debug!(file = %self.target.path, block = %block.block, ?bad, %fault, "pipeline failed");
        if !block.is_reopened() && block.block.length == 0 && !self.unsent.is_empty() {
            return self.restart_block(block, &bad, fault).await;
        }
        block.failures += 1;
        if block.failures > MAX_FAILURES {
            let name = block.members.get(bad[0]).map(datanode::name).unwrap_or_default();
            return Err(self.target.pipeline_failed(&block, name, fault));
        }
        self.block = Some(block);
        self.rebuild(bad, fault).await
    }

    /// Finds the members at fault when the connection failed or fell silent. `None`: the block's end was acknowledged
    /// before that.
    async fn find_culprits(&mut self, mut pipeline: Pipeline, fault: &TransferFault) -> Option<Vec<usize>> {
        while let Some(ack) = pipeline.late_ack() {
            match self.acknowledged(&ack) {
                Ok(false) => {}
                Ok(true) => return None,
                Err((bad, _)) => return Some(vec![bad]),
            }
        }
        let failed = pipeline.failed_members();
        if !failed.is_empty() {
            return Some(failed);
        }
        let block = self.block.as_ref()?;
        Some(self.target.suspects(block, pipeline.is_star(), fault).await)
    }

    /// Sets up a pipeline of the members that are left, under a new stamp.
    pub(super) async fn rebuild(
        &mut self,
        mut bad: Vec<usize>,
        mut fault: TransferFault,
    ) -> Result<(), DfsError> {
        let Some(mut block) = self.block.take() else { return Ok(()) };
        // They have the stamp that is recorded, and everything that was acknowledged.
        let mut roster = block.members.clone();
        let mut outage = Outage::new(self.file.fs.wait);
        loop {
            block.remove_members(&bad, &mut self.exclusions);
            if block.members.is_empty() {
                if !outage.wait().await {
                    let everybody: Vec<String> = roster.iter().map(datanode::name).collect();
                    return Err(self.target.pipeline_failed(&block, everybody.join(", "), fault));
                }
                self.target.find_again(&mut roster).await;
                block.members.clone_from(&roster);
            }
            let closing = self.only_last_is_left();
            // Readers and earlier callers of fsync rely on what is there: every member that was lost is replaced.
            if !closing
                && block.established
                && self.target.add_members(&mut block, &mut self.exclusions).await?
            {
                // What was on disk on all members is not on the new one's.
                self.file.member_added(self.index);
            }
            tracing::debug!(file = %self.target.path, block = %block.block, members = block.member_names(), "pipeline is set up anew");
            match self.target.recover_pipeline(&mut block, closing).await? {
                Ok(()) => {
                    tracing::debug!(file = %self.target.path, block = %block.block, "pipeline goes on");
                    self.file.block_established(self.index, block.block, &block.members);
                    if closing {
                        // The replicas are closed; the connection is not used again.
                        self.forget_last();
                        block.pipeline = None;
                        block.synced = false;
                    }
                    self.block = Some(block);
                    if closing {
                        self.finish_block();
                    }
                    return Ok(());
                }
                Err(failure) => {
                    (bad, fault) = failure;
                    tracing::debug!(file = %self.target.path, block = %block.block, ?bad, %fault, "pipeline not set up");
                }
            }
        }
    }
}
