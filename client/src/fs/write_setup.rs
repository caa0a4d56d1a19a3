//! How a block of a file becomes writable: the call at the namenode, and the first pipeline.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::ErrorKind;
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage;

use super::write_block::BlockWriter;
use crate::open_block::OpenBlock;
use crate::pipeline::eager_segments;
use crate::pipeline_watch::open_watched;
use crate::{DfsError, TransferFault};

/// Attempts to find a pipeline for a new block at once; each excludes one more datanode. Further ones take their time.
const MAX_BLOCK_ATTEMPTS: u32 = 5;

/// How long a new block is asked for while no datanode can take it: two heartbeats and some. After a restart of the
/// namenode the datanodes come back one by one.
const NO_DATANODE_PATIENCE: Duration = Duration::from_secs(3);

/// Time between two such questions.
const NO_DATANODE_DELAY: Duration = Duration::from_millis(250);

impl BlockWriter {
    /// Makes the block writable and sets up its pipeline.
    pub(super) async fn open_pipeline(&mut self) -> Result<(), DfsError> {
        if self.permit.is_none() {
            self.permit = self.file.pipelines().permit().await;
        }
        loop {
            let mut block = match self.block.take() {
                Some(block) => block,
                None => self.obtain_block().await?,
            };
            block.direct = self.form.is_star();
            let (stage, eager) = if block.is_reopened() {
                (BlockConstructionStage::PipelineSetupAppend, Vec::new())
            } else {
                (BlockConstructionStage::PipelineSetupCreate, self.eager_segments(&mut block))
            };
            let new_stamp = block.append_stamp.unwrap_or(block.block.generation_stamp);
            let setup = self.target.setup(&block, stage, new_stamp);
            match open_watched(&self.target.client, &setup, eager).await {
                Ok(pipeline) => {
                    self.target.established(&mut block, pipeline, new_stamp).await?;
                    self.unacked.iter().for_each(|queued| block.watch.sent(queued.packet.data.len()));
                    self.file.block_established(self.index, block.block, &block.members);
                    let short = block.is_reopened() && self.target.is_short_of_members(&block);
                    self.block = Some(block);
                    if short {
                        // Nobody failed; the others of the block are away.
                        return self.rebuild(Vec::new(), TransferFault::Timeout).await;
                    }
                    return Ok(());
                }
                Err(failure) => {
                    self.requeue();
                    if block.is_reopened() {
                        self.block = Some(block);
                        return self.rebuild(failure.bad, failure.fault).await;
                    }
                    self.restart_block(block, &failure.bad, failure.fault).await?;
                }
            }
        }
    }

    /// The block that was allocated with the file, or what the namenode answers. If too few datanodes are left for a new
    /// block, those that failed a while ago get another chance; if none is left, all do.
    async fn obtain_block(&mut self) -> Result<OpenBlock, DfsError> {
        // A file that was made a moment ago may not be known to the namenode yet, nor its first block here.
        self.file.fs.settled(&[self.file.inode]).await?;
        if let Some(located) = self.file.take_prepared(self.index) {
            return OpenBlock::new(&self.target.path, located);
        }
        self.file.settle(self.index).await?;
        let deadline = Instant::now() + NO_DATANODE_PATIENCE;
        let outage = Instant::now() + self.file.fs.wait;
        loop {
            let exclude = self.exclusions.uuids(Instant::now());
            let answer = match self.file.fs.write_block(self.file.inode, self.index, exclude).await {
                Ok(answer) => answer,
                Err(error) if error.kind() != ErrorKind::NoUsableDatanode => return Err(error),
                Err(_) if self.exclusions.forgive_all() => continue,
                Err(error) => {
                    let now = Instant::now();
                    // Without any datanode this is an outage, otherwise they are full.
                    if now >= outage || (now >= deadline && self.target.live_datanodes().await > 0) {
                        return Err(error);
                    }
                    tokio::time::sleep(NO_DATANODE_DELAY).await;
                    continue;
                }
            };
            let located = answer.block.ok_or_else(|| DfsError::incomplete(&self.target.path, "block"))?;
            if answer.new_generation_stamp > 0 {
                return OpenBlock::reopened(&self.target.path, located, answer.new_generation_stamp);
            }
            let block = OpenBlock::new(&self.target.path, located)?;
            if block.members.len() >= self.target.replication || !self.exclusions.forgive(Instant::now()) {
                return Ok(block);
            }
            // Too few, while some that failed have had time to come back. Asked again as long as the block is there, the
            // namenode would answer the same members.
            self.target.abandon_block(block.block).await?;
        }
    }

    /// Packets to send behind the request for a new block: small ones that are all of it, or go to every member.
    fn eager_segments(&mut self, block: &mut OpenBlock) -> Vec<Bytes> {
        let segments = eager_segments(self.unsent.iter().map(|queued| &queued.packet), block.direct);
        if !segments.is_empty() {
            block.sent = self.unsent.iter().map(|queued| queued.packet.end()).fold(block.sent, u64::max);
            self.unacked.append(&mut self.unsent);
        }
        segments
    }

    /// Gives a new block, of which nothing was acknowledged, back and remembers the members at fault; the next pipeline is
    /// another block's.
    pub(super) async fn restart_block(
        &mut self,
        block: OpenBlock,
        bad: &[usize],
        fault: TransferFault,
    ) -> Result<(), DfsError> {
        let name = block.blame(bad, &mut self.exclusions);
        tracing::debug!(file = %self.target.path, block = %block.block, datanode = %name, %fault, "block begun anew");
        self.target.abandon_block(block.block).await?;
        self.file.block_given_up(self.index);
        self.restarts += 1;
        let since = *self.restarting_since.get_or_insert_with(Instant::now);
        if self.restarts >= MAX_BLOCK_ATTEMPTS {
            // Everybody who could be asked has failed: they are full, or this is an outage.
            let error = self.target.pipeline_failed(&block, name, fault);
            if error.kind() == ErrorKind::NoSpace || since.elapsed() >= self.file.fs.wait {
                return Err(error);
            }
            tokio::time::sleep(NO_DATANODE_DELAY).await;
        }
        self.take_back_last();
        self.queue_last();
        Ok(())
    }
}
