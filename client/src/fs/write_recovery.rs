//! What is done when the pipeline of a block fails.
//!
//! * Nothing of a new block was acknowledged: the block is given back and begun anew elsewhere.
//! * Data is outstanding: the survivors get a new generation stamp and all unacknowledged packets again, in the same
//!   order. When too few are left, a datanode joins with a copy of the replica first.
//! * Only the last packet is outstanding: the survivors are told to close under a new stamp.
//! * Nobody is left: that is an outage, and the last members are tried again until it has lasted too long.
//!
//! The new stamp fences the lost members: what they have is stale from then on.

use std::time::{Duration, Instant};

use dfs_proto::ErrorKind;
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage;
use dfs_proto::v1::{self, ReplicaLocation};

use super::write_block::BlockWriter;
use crate::open_block::OpenBlock;
use crate::pipeline::{Pipeline, PipelineSetup, transfer};
use crate::pipeline_watch::{open_watched, silent_members};
use crate::{DfsError, TransferFault, datanode};

/// Failures of one block without an ack in between after which it is given up: a pipeline that can be set up again and
/// again, and never acknowledges, fails for a reason that does not pass.
const MAX_FAILURES: u32 = 12;

/// First pause before lost members are tried again; doubled each time.
const FIRST_OUTAGE_DELAY: Duration = Duration::from_millis(100);

/// Longest pause: how late their return may be noticed.
const MAX_OUTAGE_DELAY: Duration = Duration::from_secs(1);

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
            return Err(self.given_up(&block, name, fault).await);
        }
        self.block = Some(block);
        self.rebuild(bad, fault).await
    }

    /// The error of a block that is given up. Acknowledgements do not say why a datanode failed; full disks can be seen at the
    /// namenode.
    pub(super) async fn given_up(
        &self,
        block: &OpenBlock,
        datanode: String,
        fault: TransferFault,
    ) -> DfsError {
        let refused = matches!(fault, TransferFault::BadAck { .. } | TransferFault::Refused { .. });
        if refused && self.file.is_cluster_full().await {
            return self.file.refused(ErrorKind::NoSpace);
        }
        self.target.pipeline_failed(block, datanode, fault)
    }

    /// Members that were away may have come back at other addresses.
    async fn find_again(&self, roster: &mut [ReplicaLocation]) {
        let namenode = &self.target.client.namenode;
        let request = v1::DatanodeReportRequest { context: namenode.context() };
        let asked = namenode.call("", request, |mut s, r| async move { s.get_datanode_report(r).await });
        let Ok(report) = asked.await else { return };
        for member in roster {
            let found = report.datanodes.iter().filter_map(|row| row.info.as_ref());
            if let Some(found) = found.into_iter().find(|info| info.uuid == datanode::uuid(member)) {
                member.datanode = Some(found.clone());
            }
        }
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
        let block = self.block.as_ref()?;
        if matches!(fault, TransferFault::Timeout) {
            let silent = silent_members(&self.target.client, block.block, &block.members).await;
            if !silent.is_empty() {
                return Some(silent);
            }
        }
        // The member we talk to.
        Some(vec![0])
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
        let gives_up = Instant::now() + self.file.fs.wait;
        let mut pause = FIRST_OUTAGE_DELAY;
        loop {
            let name = self.remove_members(&mut block, &bad);
            if block.members.is_empty() {
                if Instant::now() + pause >= gives_up {
                    return Err(self.given_up(&block, name, fault).await);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_OUTAGE_DELAY);
                self.find_again(&mut roster).await;
                block.members.clone_from(&roster);
            }
            let closing = self.only_last_is_left();
            if !closing && self.needs_member(&block) {
                self.add_member(&mut block).await?;
            }
            let stamp = self.target.new_stamp(block.block).await?;
            let stage = if closing {
                BlockConstructionStage::PipelineCloseRecovery
            } else if block.established {
                BlockConstructionStage::PipelineSetupStreamingRecovery
            } else {
                BlockConstructionStage::PipelineSetupAppendRecovery
            };
            let setup = PipelineSetup {
                client: &self.target.client,
                block: block.block,
                members: &block.members,
                stage,
                new_stamp: stamp,
                sent: block.sent,
                checksum: self.target.checksum,
                random_access: true,
            };
            match open_watched(&self.target.client, &setup, Vec::new()).await {
                Ok(pipeline) => {
                    self.established(block, pipeline, stamp).await?;
                    if closing {
                        // The replicas are closed; the connection is not used again.
                        self.forget_last();
                        if let Some(block) = &mut self.block {
                            block.pipeline = None;
                            block.synced = false;
                        }
                        self.finish_block();
                    }
                    return Ok(());
                }
                Err(failure) => (bad, fault) = (failure.bad, failure.fault),
            }
        }
    }

    /// Takes members out and remembers them as bad; returns the name of one.
    fn remove_members(&mut self, block: &mut OpenBlock, bad: &[usize]) -> String {
        let mut name = String::new();
        let mut left: Vec<ReplicaLocation> = Vec::with_capacity(block.members.len());
        for (index, member) in block.members.drain(..).enumerate() {
            if bad.contains(&index) {
                name = datanode::name(&member);
                self.exclusions.add(datanode::uuid(&member), Instant::now());
            } else {
                left.push(member);
            }
        }
        block.members = left;
        name
    }

    /// As HDFS decides when readers rely on what is there: with replication 3 or more, whenever one is lost.
    fn needs_member(&self, block: &OpenBlock) -> bool {
        let (wanted, left) = (self.target.replication, block.members.len());
        block.established && wanted >= 3 && left < wanted
    }

    /// Adds a member that first gets a copy of the replica; one that failed before if there is no other. If none can be
    /// had, the pipeline goes on with fewer.
    async fn add_member(&mut self, block: &mut OpenBlock) -> Result<(), DfsError> {
        let excluded = self.exclusions.uuids(Instant::now());
        let mut found = self.target.additional_member(block.block, &block.members, excluded).await?;
        if found.is_none() && self.exclusions.forgive(Instant::now()) {
            let excluded = self.exclusions.uuids(Instant::now());
            found = self.target.additional_member(block.block, &block.members, excluded).await?;
        }
        let Some(target) = found else { return Ok(()) };
        let replica = block.block;
        for source in &block.members {
            match transfer(&self.target.client, replica, source, &target).await {
                Ok(()) => {
                    block.members.push(target);
                    // What was on disk on all members is not on the new one's.
                    self.file.member_added(self.index);
                    return Ok(());
                }
                Err(fault) => {
                    tracing::debug!(block = %replica, source = %datanode::name(source),
                        target = %datanode::name(&target), %fault, "replica not copied");
                }
            }
        }
        self.exclusions.add(datanode::uuid(&target), Instant::now());
        Ok(())
    }
}
