//! Who is in the pipeline of a block: members at fault leave, others join with a copy of the replica.
//!
//! Invariants: writing goes on with one member only if no other live datanode can be had, because what is then
//! acknowledged is gone with that one; and only if what that one has was read and found good, because its new stamp makes
//! the other replicas stale.

use std::time::{Duration, Instant};

use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage;
use dfs_proto::transfer::{PipelineAckProto, Status};
use dfs_proto::v1::{self, ReplicaLocation};
use tokio::time::timeout;

use crate::exclusions::Exclusions;
use crate::open_block::{OpenBlock, WriteTarget};
use crate::pipeline::{Pipeline, PipelineSetup, transfer};
use crate::pipeline_watch::{Findings, SUSPECT_AFTER, Watch, inquire, open_watched, silent_members};
use crate::{DfsError, TransferFault, datanode};

/// Members without which a block is not written while other datanodes live.
const SAFE_MEMBERS: usize = 2;

/// How long such a second member is looked for: in a rolling restart one is back, and registered, within this time.
const MEMBER_PATIENCE: Duration = Duration::from_secs(2);

/// Time between two such looks.
const MEMBER_DELAY: Duration = Duration::from_millis(100);

/// Longest copy of nothing to a new member without which the block would not be safe.
const COPY_PATIENCE: Duration = Duration::from_secs(2);

/// How long further members are looked for when enough are left: with the time that it takes to find out who is at fault, nothing
/// moves for five seconds at most. The namenode makes what is missing later.
const SPARE_PATIENCE: Duration = SUSPECT_AFTER;

/// Bytes a second at which a copy goes at the least: slower ones are not worth waiting for while others can be had.
const COPY_RATE: u64 = 16 << 20;

/// The member at fault, and what it said, if an acknowledgement tells of a failure: the furthest away that failed,
/// since those before it only pass the news on.
pub(crate) fn bad_member(ack: &PipelineAckProto) -> Option<(usize, TransferFault)> {
    let bad = ack.reply.iter().rposition(|status| *status != i32::from(Status::Success))?;
    Some((bad, TransferFault::BadAck { status: ack.reply[bad] }))
}

impl OpenBlock {
    /// Names of all members.
    pub(crate) fn member_names(&self) -> String {
        let names: Vec<String> = self.members.iter().map(datanode::name).collect();
        names.join(", ")
    }

    /// Remembers the members at `bad` as failed; returns the name of one.
    pub(crate) fn blame(&self, bad: &[usize], exclusions: &mut Exclusions) -> String {
        let mut name = String::new();
        for member in bad.iter().filter_map(|index| self.members.get(*index)) {
            name = datanode::name(member);
            exclusions.add(datanode::uuid(member), Instant::now());
        }
        name
    }

    /// Takes the members at `bad` out and remembers them as failed; returns the name of one.
    pub(crate) fn remove_members(&mut self, bad: &[usize], exclusions: &mut Exclusions) -> String {
        let name = self.blame(bad, exclusions);
        let mut index = 0..;
        self.members.retain(|_| index.next().is_some_and(|index| !bad.contains(&index)));
        name
    }

    /// How the pipeline is set up again; `closing`: only the last packet is outstanding.
    fn recovery_stage(&self, closing: bool) -> BlockConstructionStage {
        if closing {
            BlockConstructionStage::PipelineCloseRecovery
        } else if self.established {
            BlockConstructionStage::PipelineSetupStreamingRecovery
        } else {
            BlockConstructionStage::PipelineSetupAppendRecovery
        }
    }
}

impl WriteTarget {
    /// Members at fault when the connection failed or fell silent and no acknowledgement told: those that do not answer,
    /// otherwise the one that bytes wait for, otherwise the one we talk to.
    pub(crate) async fn suspects(&self, block: &OpenBlock, star: bool, fault: &TransferFault) -> Vec<usize> {
        if matches!(fault, TransferFault::Timeout) {
            let queued = block.watch.queued();
            let found = inquire(&self.client, (block.block, &block.members), queued, star).await;
            if !found.silent.is_empty() {
                return found.silent;
            }
            if let Some(culprit) = found.stuck.or(found.hung) {
                return vec![culprit];
            }
        }
        vec![0]
    }

    /// The members that are to leave for what an inquiry found, if any: the silent ones, or one that crawls or hangs if it can be done
    /// without.
    pub(crate) async fn guilty(&self, block: Option<&OpenBlock>, found: Findings) -> Option<Vec<usize>> {
        let block = block?;
        if !found.silent.is_empty() {
            return Some(found.silent);
        }
        let stuck = found.stuck.or(found.hung)?;
        let member = block.members.get(stuck)?;
        let hangs = found.stuck.is_none();
        let left = block.members.len() - 1;
        let enough = left >= SAFE_MEMBERS.min(self.replication).max(1);
        let dispensable = enough
            || block.can_begin_anew()
            || (left > 0 && self.live_datanodes().await > block.members.len());
        let uuid = datanode::uuid(member);
        // The link to the first member is ours as well: if another one's was as slow, it is ours that is slow.
        let chain = !block.is_star();
        if !dispensable || (!hangs && chain && stuck == 0 && self.client.slow.is_our_link(uuid)) {
            return None;
        }
        if hangs {
            tracing::warn!(path = %self.path, block = %block.block, datanode = %datanode::name(member), "pipeline member hangs");
            return Some(vec![stuck]);
        }
        tracing::warn!(path = %self.path, block = %block.block, datanode = %datanode::name(member), "pipeline member crawls");
        self.client.slow.note_slower(uuid);
        Some(vec![stuck])
    }

    /// Members that were away may have come back at other addresses.
    pub(crate) async fn find_again(&self, roster: &mut [ReplicaLocation]) {
        let namenode = &self.client.namenode;
        let request = v1::DatanodeReportRequest { context: namenode.context() };
        let asked = namenode.call("", request, |mut s, r| async move { s.get_datanode_report(r).await });
        let Ok(report) = asked.await else { return };
        for member in roster {
            let mut found = report.datanodes.iter().filter_map(|row| row.info.as_ref());
            if let Some(found) = found.find(|info| info.uuid == datanode::uuid(member)) {
                member.datanode = Some(found.clone());
            }
        }
    }

    /// Sets up the pipeline of the members that are left, under a new stamp, which is recorded. The error is who failed.
    pub(crate) async fn recover_pipeline(
        &self,
        block: &mut OpenBlock,
        closing: bool,
    ) -> Result<Result<(), (Vec<usize>, TransferFault)>, DfsError> {
        let stamp = self.new_stamp(block.block).await?;
        let setup = self.setup(block, block.recovery_stage(closing), stamp);
        match open_watched(&self.client, &setup, Vec::new()).await {
            Ok(pipeline) => self.established(block, pipeline, stamp).await.map(Ok),
            Err(failure) => Ok(Err((failure.bad, failure.fault))),
        }
    }

    /// What a pipeline of the block's members is set up for.
    pub(crate) fn setup<'a>(
        &'a self,
        block: &'a OpenBlock,
        stage: BlockConstructionStage,
        new_stamp: u64,
    ) -> PipelineSetup<'a> {
        let is_new = stage == BlockConstructionStage::PipelineSetupCreate;
        PipelineSetup {
            client: &self.client,
            block: block.block,
            members: &block.members,
            stage,
            new_stamp,
            sent: block.sent,
            checksum: self.checksum,
            random_access: self.random_access,
            direct: block.direct,
            verify_first: !is_new && block.members.len() == 1 && self.replication > 1,
        }
    }

    /// A pipeline stands: its stamp is recorded if it is new, before anything that it acknowledges is relied on.
    pub(crate) async fn established(
        &self,
        block: &mut OpenBlock,
        pipeline: Pipeline,
        stamp: u64,
    ) -> Result<(), DfsError> {
        let (old, new) = (block.block, block.with_stamp(stamp));
        if old != new {
            self.update_pipeline(old, new, &block.members).await?;
        }
        block.block = new;
        block.established = true;
        block.watch = Watch::default();
        block.pipeline = Some(pipeline);
        Ok(())
    }

    /// Whether writing on would put what is acknowledged on one datanode only.
    pub(crate) fn is_short_of_members(&self, block: &OpenBlock) -> bool {
        block.members.len() < SAFE_MEMBERS.min(self.replication)
    }

    /// Adds members, each with a copy of the replica first, up to the file's replication or as many as can be had; those
    /// that failed before if there are no others. True if any was added.
    pub(crate) async fn add_members(
        &self,
        block: &mut OpenBlock,
        exclusions: &mut Exclusions,
    ) -> Result<bool, DfsError> {
        let before = block.members.len();
        let began = Instant::now();
        let deadline = began + MEMBER_PATIENCE;
        while block.members.len() < self.replication {
            if !self.is_short_of_members(block) && began.elapsed() >= SPARE_PATIENCE {
                break;
            }
            if let Some(target) = self.candidate(block, exclusions).await? {
                match self.copy_replica(block, &target).await {
                    Copied::Yes => block.members.push(target),
                    Copied::TargetFailed => exclusions.add(datanode::uuid(&target), Instant::now()),
                    // Setting up the pipeline finds out who is left.
                    Copied::SourcesFailed => break,
                }
            } else if self.is_short_of_members(block)
                && Instant::now() < deadline
                && self.live_datanodes().await > block.members.len()
            {
                tokio::time::sleep(MEMBER_DELAY).await;
                exclusions.forgive_all();
            } else {
                break;
            }
        }
        Ok(block.members.len() > before)
    }

    async fn candidate(
        &self,
        block: &OpenBlock,
        exclusions: &mut Exclusions,
    ) -> Result<Option<ReplicaLocation>, DfsError> {
        let excluded = exclusions.uuids(Instant::now());
        let found = self.additional_member(block.block, &block.members, excluded).await?;
        if found.is_some() || !exclusions.forgive(Instant::now()) {
            return Ok(found);
        }
        let excluded = exclusions.uuids(Instant::now());
        self.additional_member(block.block, &block.members, excluded).await
    }

    async fn copy_replica(&self, block: &OpenBlock, target: &ReplicaLocation) -> Copied {
        let mut outcome = Copied::SourcesFailed;
        for source in &block.members {
            match self.transfer_watched(block, source, target).await {
                Ok(()) => return Copied::Yes,
                Err((fault, target_failed)) => {
                    tracing::debug!(block = %block.block, source = %datanode::name(source),
                        target = %datanode::name(target), %fault, "replica not copied");
                    if target_failed {
                        outcome = Copied::TargetFailed;
                    }
                    if matches!(fault, TransferFault::Timeout) && target_failed {
                        break;
                    }
                }
            }
        }
        outcome
    }

    /// Has one member copied to, and finds out who is to blame if that takes too long. The error is what happened, and whether it
    /// was the target's doing.
    async fn transfer_watched(
        &self,
        block: &OpenBlock,
        source: &ReplicaLocation,
        target: &ReplicaLocation,
    ) -> Result<(), (TransferFault, bool)> {
        let patience = if self.is_short_of_members(block) { COPY_PATIENCE } else { Duration::ZERO };
        let gives_up = Instant::now() + patience + Duration::from_secs(block.block.length / COPY_RATE);
        let both = [source.clone(), target.clone()];
        let mut copying = std::pin::pin!(transfer(&self.client, block.block, source, target));
        loop {
            if let Ok(outcome) = timeout(SUSPECT_AFTER, &mut copying).await {
                return outcome.map_err(|fault| {
                    let told = matches!(fault, TransferFault::Refused { .. });
                    (fault, told)
                });
            }
            let silent = silent_members(&self.client, block.block, &both).await;
            if !silent.is_empty() || Instant::now() >= gives_up {
                return Err((TransferFault::Timeout, !silent.contains(&0)));
            }
        }
    }

    /// Datanodes that the namenode hears of; zero if it cannot be asked.
    pub(crate) async fn live_datanodes(&self) -> usize {
        let namenode = &self.client.namenode;
        let request = v1::GetStatsRequest { context: namenode.context() };
        let asked = namenode.call("", request, |mut s, r| async move { s.get_stats(r).await });
        asked.await.map_or(0, |stats| stats.live_datanodes as usize)
    }
}

/// What became of a copy.
enum Copied {
    Yes,
    /// A source lives and could not copy.
    TargetFailed,
    SourcesFailed,
}
