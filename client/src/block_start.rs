//! How a writer begins a block: allocation, pipeline set-up, and a new start elsewhere when that fails.

use std::time::Instant;

use bytes::Bytes;
use dfs_proto::ErrorKind;
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage;
use dfs_proto::v1::LocatedBlock;

use crate::open_block::OpenBlock;
use crate::out_packet::OutPacket;
use crate::pipeline::eager_segments;
use crate::pipeline_watch::open_watched;
use crate::streamer::Streamer;
use crate::{DfsError, TransferFault};

/// Attempts to find a pipeline for a new block; each excludes one more datanode.
const MAX_BLOCK_ATTEMPTS: u32 = 5;

impl Streamer {
    /// Sets up the pipeline of a new or reopened block.
    pub(crate) async fn open_pipeline(&mut self) -> Result<(), DfsError> {
        loop {
            let mut block = match self.block.take() {
                Some(block) => block,
                None => self.new_block().await?,
            };
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
                    self.queue.unacked.iter().for_each(|packet| block.watch.sent(packet.data.len()));
                    self.shown.send_replace(block.members.clone());
                    self.block = Some(block);
                    return Ok(());
                }
                Err(failure) => {
                    self.queue.requeue();
                    if block.is_reopened() {
                        self.block = Some(block);
                        return self.rebuild(failure.bad, failure.fault).await;
                    }
                    self.restart_block(block, &failure.bad, failure.fault).await?;
                }
            }
        }
    }

    /// The block allocated with the file, or another one. If too few datanodes are left, those that failed a while ago get
    /// another chance; if none is left, all do.
    async fn new_block(&mut self) -> Result<OpenBlock, DfsError> {
        let located = match self.prepared.take() {
            Some(located) => located,
            None => self.add_block().await?,
        };
        let block = OpenBlock::new(&self.target.path, located)?;
        if block.members.len() >= self.target.replication || !self.exclusions.forgive(Instant::now()) {
            return Ok(block);
        }
        // Asked again as long as the block is there, the namenode would answer the same members.
        self.target.abandon_block(block.block).await?;
        let located = self.add_block().await?;
        OpenBlock::new(&self.target.path, located)
    }

    async fn add_block(&mut self) -> Result<LocatedBlock, DfsError> {
        let excluded = self.excluded();
        match self.target.add_block(self.committable(), excluded).await {
            Err(error) if error.kind() == ErrorKind::NoUsableDatanode && self.exclusions.forgive_all() => {
                self.target.add_block(self.committable(), Vec::new()).await
            }
            result => result,
        }
    }

    /// Packets to send behind the request: those of a new block that is small and whole.
    fn eager_segments(&mut self, block: &mut OpenBlock) -> Vec<Bytes> {
        let segments = eager_segments(self.queue.unsent.iter(), block.direct);
        if !segments.is_empty() {
            block.sent = self.queue.unsent.iter().map(OutPacket::end).fold(block.sent, u64::max);
            self.queue.unacked.append(&mut self.queue.unsent);
        }
        segments
    }

    /// Gives a new block back and remembers the members at fault; the next pipeline is another block's.
    pub(crate) async fn restart_block(
        &mut self,
        block: OpenBlock,
        bad: &[usize],
        fault: TransferFault,
    ) -> Result<(), DfsError> {
        let name = block.blame(bad, &mut self.exclusions);
        tracing::debug!(path = %self.target.path, block = %block.block, datanode = %name, %fault, "block begun anew");
        self.target.abandon_block(block.block).await?;
        self.restarts += 1;
        if self.restarts >= MAX_BLOCK_ATTEMPTS {
            return Err(self.target.pipeline_failed(&block, name, fault));
        }
        Ok(())
    }
}
