//! How a block of a file becomes writable: the call at the namenode, and the first pipeline.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::ErrorKind;
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage;

use super::write_block::BlockWriter;
use crate::open_block::OpenBlock;
use crate::pipeline::{Pipeline, PipelineSetup};
use crate::pipeline_watch::open_watched;
use crate::{DfsError, TransferFault, datanode};

/// Attempts to find a pipeline for a new block at once; each excludes one more datanode. Further ones take their time.
const MAX_BLOCK_ATTEMPTS: u32 = 5;

/// Largest block that is sent behind the pipeline request without waiting for the response: fits the smallest default
/// socket buffers with its framing.
const MAX_EAGER_BYTES: usize = 64 << 10;

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
            let (stage, eager) = if block.is_reopened() {
                (BlockConstructionStage::PipelineSetupAppend, Vec::new())
            } else {
                (BlockConstructionStage::PipelineSetupCreate, self.eager_segments(&mut block))
            };
            let new_stamp = block.append_stamp.unwrap_or(block.block.generation_stamp);
            let setup = PipelineSetup {
                client: &self.target.client,
                block: block.block,
                members: &block.members,
                stage,
                new_stamp,
                sent: block.sent,
                checksum: self.target.checksum,
                random_access: true,
            };
            match open_watched(&self.target.client, &setup, eager).await {
                Ok(pipeline) => return self.established(block, pipeline, new_stamp).await,
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

    /// A pipeline stands: its stamp is recorded if it is new, before anything that it acknowledges is relied on.
    pub(super) async fn established(
        &mut self,
        mut block: OpenBlock,
        pipeline: Pipeline,
        stamp: u64,
    ) -> Result<(), DfsError> {
        let (old, new) = (block.block, block.with_stamp(stamp));
        if old != new {
            self.target.update_pipeline(old, new, &block.members).await?;
        }
        block.block = new;
        block.established = true;
        self.file.block_established(self.index, block.block, &block.members);
        block.pipeline = Some(pipeline);
        self.block = Some(block);
        Ok(())
    }

    /// The block that was allocated with the file, or what the namenode answers. If no datanode can take a new block, those
    /// that failed get another chance.
    async fn obtain_block(&mut self) -> Result<OpenBlock, DfsError> {
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
                    if now >= outage || (now >= deadline && self.file.has_live_datanodes().await) {
                        return Err(error);
                    }
                    tokio::time::sleep(NO_DATANODE_DELAY).await;
                    continue;
                }
            };
            let located = answer.block.ok_or_else(|| DfsError::incomplete(&self.target.path, "block"))?;
            return match answer.new_generation_stamp {
                0 => OpenBlock::new(&self.target.path, located),
                stamp => OpenBlock::reopened(&self.target.path, located, stamp),
            };
        }
    }

    /// Packets to send behind the request: those of a new block that is small and whole.
    fn eager_segments(&mut self, block: &mut OpenBlock) -> Vec<Bytes> {
        let whole = self.unsent.len() == 2 && self.unsent.back().is_some_and(|queued| queued.packet.last);
        let bytes: usize = self.unsent.iter().map(|q| q.packet.head.len() + q.packet.data.len()).sum();
        if !whole || bytes > MAX_EAGER_BYTES {
            return Vec::new();
        }
        let mut segments = Vec::with_capacity(3);
        for queued in self.unsent.drain(..) {
            segments.push(queued.packet.head.clone());
            if !queued.packet.data.is_empty() {
                segments.push(queued.packet.data.clone());
            }
            block.sent = block.sent.max(queued.packet.end());
            self.unacked.push_back(queued);
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
        let mut name = String::new();
        for member in bad.iter().filter_map(|index| block.members.get(*index)) {
            name = datanode::name(member);
            self.exclusions.add(datanode::uuid(member), Instant::now());
        }
        tracing::debug!(file = %self.target.path, block = %block.block, datanode = %name, %fault, "block begun anew");
        self.target.abandon_block(block.block).await?;
        self.file.block_given_up(self.index);
        self.restarts += 1;
        let since = *self.restarting_since.get_or_insert_with(Instant::now);
        if self.restarts >= MAX_BLOCK_ATTEMPTS {
            // Everybody who could be asked has failed: they are full, or this is an outage.
            let error = self.given_up(&block, name, fault).await;
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
