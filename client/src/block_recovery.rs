//! What a writer does when its pipeline fails.
//!
//! * Nothing of a new block was acknowledged: the block is given back and begun anew elsewhere.
//! * Data is outstanding: the survivors get a new generation stamp, drop what was not acknowledged by all of them, and get
//!   the unacknowledged packets again. When too few are left, a datanode joins with a copy of the replica first.
//! * Only the last packet is outstanding: the survivors are told to close under a new stamp.
//! * Nobody is left: they may be about to come back, with all that they acknowledged, and are tried again for a while.
//!
//! The new stamp fences the lost members: what they have is stale from then on. Invariant: each round removes
//! at least one member, and each pause brings the end of the patience nearer, so the rounds end.

use crate::open_block::OpenBlock;
use crate::outage::Outage;
use crate::pipeline::Pipeline;
use crate::streamer::Streamer;
use crate::{DfsError, TransferFault, datanode};

/// Failures of one block without an ack in between (HDFS's number).
const MAX_FAILURES: u32 = 5;

/// Rounds of one recovery between two pauses: members lost plus members added and lost again.
const MAX_ROUNDS: u32 = 8;

impl Streamer {
    /// Deals with a failed pipeline. `bad` are the members at fault if they are known. Afterwards the block has a new
    /// pipeline, or is to be begun anew, or is finished (then no packet is left).
    pub(crate) async fn handle_failure(
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
        self.queue.requeue();
        let Some(mut block) = self.block.take() else { return Ok(()) };
        tracing::debug!(path = %self.target.path, block = %block.block, ?bad, %fault, "pipeline failed");
        if block.can_begin_anew() {
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
    pub(crate) async fn rebuild(
        &mut self,
        mut bad: Vec<usize>,
        mut fault: TransferFault,
    ) -> Result<(), DfsError> {
        let Some(mut block) = self.block.take() else { return Ok(()) };
        let closing = matches!(self.queue.unsent.make_contiguous(), [only] if only.last);
        // They have the stamp that is recorded, and everything that was acknowledged.
        let mut roster = block.members.clone();
        let everybody = block.member_names();
        let mut outage = Outage::new(self.target.client.config.datanode_return);
        let mut rounds = 0;
        while rounds < MAX_ROUNDS {
            rounds += 1;
            block.remove_members(&bad, &mut self.exclusions);
            if block.members.is_empty() {
                if !outage.wait().await {
                    return Err(self.target.pipeline_failed(&block, everybody, fault));
                }
                self.target.find_again(&mut roster).await;
                block.members.clone_from(&roster);
                rounds = 0;
            }
            if !closing && self.needs_member(&block) {
                self.target.add_members(&mut block, &mut self.exclusions).await?;
            }
            match self.target.recover_pipeline(&mut block, closing).await? {
                Ok(()) => {
                    self.shown.send_replace(block.members.clone());
                    if closing {
                        // The replicas are closed; the connection is not used again.
                        self.queue.unsent.clear();
                        block.pipeline = None;
                    }
                    self.block = Some(block);
                    if closing {
                        self.finish_block();
                    }
                    return Ok(());
                }
                Err(failure) => (bad, fault) = failure,
            }
        }
        let name = block.members.get(bad[0]).map(datanode::name).unwrap_or_default();
        Err(self.target.pipeline_failed(&block, name, fault))
    }

    /// HDFS's default rule, for replication 2 as well: add when half are gone, or any is and readers or an earlier writer
    /// rely on what is there.
    fn needs_member(&self, block: &OpenBlock) -> bool {
        let (wanted, left) = (self.target.replication, block.members.len());
        let relied_on = block.is_reopened() || block.flushed;
        block.established && left < wanted && (left <= wanted / 2 || relied_on)
    }
}
