//! The block that a writer is writing: identity, pipeline members, and the namenode calls about it.

use dfs_proto::ErrorKind;
use dfs_proto::checksum::Checksum;
use dfs_proto::v1::{self, Block, CommittedBlock, LocatedBlock, ReplicaLocation};

use tokio::sync::watch;

use crate::dfs_client::Inner;
use crate::pipeline::Pipeline;
use crate::{DfsError, FileStatus, ReplicaFault, TransferFault};

/// The file being written.
pub(crate) struct WriteTarget {
    pub client: std::sync::Arc<Inner>,
    pub path: String,
    pub inode: u64,
    pub replication: usize,
    pub checksum: Checksum,
    /// Shows the pipeline's members to the writer's owner.
    pub shown: watch::Sender<Vec<ReplicaLocation>>,
}

/// A block under construction.
pub(crate) struct OpenBlock {
    /// The block with the stamp that the namenode has, and the acknowledged length.
    pub block: Block,
    /// Stamp that its replicas have at least.
    pub replica_stamp: u64,
    /// Pipeline, first member first.
    pub members: Vec<ReplicaLocation>,
    /// Absent before the first packet and while a failure is being handled.
    pub pipeline: Option<Pipeline>,
    /// Bytes handed to a pipeline so far.
    pub sent: u64,
    /// Reopened by an append: it cannot be given up and begun anew.
    pub reopened: bool,
    /// A flush was acknowledged: readers may rely on what is there.
    pub flushed: bool,
    /// A pipeline was set up with success at least once.
    pub established: bool,
    /// Failures since the last ack.
    pub failures: u32,
}

impl OpenBlock {
    /// A new block.
    pub(crate) fn new(path: &str, located: LocatedBlock) -> Result<Self, DfsError> {
        let mut block = located.block.ok_or_else(|| DfsError::incomplete(path, "block"))?;
        block.length = 0;
        if located.locations.is_empty() {
            return Err(DfsError::NoUsableDatanode { path: path.to_owned() });
        }
        Ok(Self {
            block,
            replica_stamp: block.generation_stamp,
            members: located.locations,
            pipeline: None,
            sent: 0,
            reopened: false,
            flushed: false,
            established: false,
            failures: 0,
        })
    }

    /// A block reopened by an append; its replicas get `new_stamp`.
    pub(crate) fn reopened(path: &str, located: LocatedBlock, new_stamp: u64) -> Result<Self, DfsError> {
        let length = located.block.as_ref().map_or(0, |b| b.length);
        let mut open = Self::new(path, located)?;
        open.block.length = length;
        open.block.generation_stamp = new_stamp;
        open.sent = length;
        open.reopened = true;
        Ok(open)
    }

    /// The block with the stamp that its replicas have at least.
    pub(crate) fn on_replicas(&self) -> Block {
        Block { generation_stamp: self.replica_stamp, ..self.block }
    }

    /// A pipeline was set up: all members have the block's stamp.
    pub(crate) fn established(&mut self, pipeline: Pipeline) {
        self.replica_stamp = self.block.generation_stamp;
        self.established = true;
        self.pipeline = Some(pipeline);
    }

    /// The block as its writer finished it.
    pub(crate) fn committed(&self) -> CommittedBlock {
        CommittedBlock {
            block: Some(self.block),
            storage_ids: self.members.iter().map(|m| m.storage_id.clone()).collect(),
        }
    }
}

impl WriteTarget {
    /// The error of a block that cannot be written.
    pub(crate) fn pipeline_failed(
        &self,
        block: &OpenBlock,
        datanode: String,
        fault: TransferFault,
    ) -> DfsError {
        DfsError::PipelineFailed {
            path: self.path.clone(),
            block: block.block.to_string(),
            last: Box::new(ReplicaFault { datanode, fault }),
        }
    }

    pub(crate) async fn add_block(
        &self,
        previous: Option<CommittedBlock>,
        exclude: Vec<String>,
    ) -> Result<LocatedBlock, DfsError> {
        let nn = &self.client.namenode;
        let request = v1::AddBlockRequest {
            context: nn.context(),
            inode: self.inode,
            holder: self.client.holder.clone(),
            previous,
            exclude,
        };
        nn.call(&self.path, request, |mut s, r| async move { s.add_block(r).await }).await
    }

    pub(crate) async fn abandon_block(&self, block: Block) -> Result<(), DfsError> {
        let nn = &self.client.namenode;
        let request = v1::AbandonBlockRequest {
            context: nn.context(),
            inode: self.inode,
            holder: self.client.holder.clone(),
            block: Some(block),
        };
        nn.call(&self.path, request, |mut s, r| async move { s.abandon_block(r).await }).await.map(drop)
    }

    pub(crate) async fn complete(&self, last: Option<CommittedBlock>) -> Result<FileStatus, DfsError> {
        let nn = &self.client.namenode;
        let request = v1::CompleteRequest {
            context: nn.context(),
            inode: self.inode,
            holder: self.client.holder.clone(),
            last,
        };
        let status = nn.call(&self.path, request, |mut s, r| async move { s.complete(r).await }).await?;
        Ok(FileStatus::of_path(&self.path, status))
    }

    /// Records the length on disk in the namespace.
    pub(crate) async fn fsync(&self, block: Block) -> Result<(), DfsError> {
        let nn = &self.client.namenode;
        let request = v1::FsyncRequest {
            context: nn.context(),
            inode: self.inode,
            holder: self.client.holder.clone(),
            block: Some(block),
        };
        nn.call(&self.path, request, |mut s, r| async move { s.fsync(r).await }).await.map(drop)
    }

    pub(crate) async fn new_stamp(&self, block: Block) -> Result<u64, DfsError> {
        let nn = &self.client.namenode;
        let request = v1::UpdateBlockForPipelineRequest {
            context: nn.context(),
            inode: self.inode,
            holder: self.client.holder.clone(),
            block: Some(block),
        };
        let answer = nn
            .call(&self.path, request, |mut s, r| async move { s.update_block_for_pipeline(r).await })
            .await?;
        Ok(answer.new_generation_stamp)
    }

    pub(crate) async fn update_pipeline(
        &self,
        old_block: Block,
        new_block: Block,
        members: &[ReplicaLocation],
    ) -> Result<(), DfsError> {
        let nn = &self.client.namenode;
        let request = v1::UpdatePipelineRequest {
            context: nn.context(),
            inode: self.inode,
            holder: self.client.holder.clone(),
            old_block: Some(old_block),
            new_block: Some(new_block),
            storage_ids: members.iter().map(|m| m.storage_id.clone()).collect(),
        };
        nn.call(&self.path, request, |mut s, r| async move { s.update_pipeline(r).await }).await.map(drop)
    }

    /// One more member for the pipeline, if the namenode knows one.
    pub(crate) async fn additional_member(
        &self,
        block: Block,
        members: &[ReplicaLocation],
        exclude: Vec<String>,
    ) -> Result<Option<ReplicaLocation>, DfsError> {
        let nn = &self.client.namenode;
        let request = v1::GetAdditionalDatanodesRequest {
            context: nn.context(),
            inode: self.inode,
            holder: self.client.holder.clone(),
            block: Some(block),
            existing: members.iter().map(|m| m.storage_id.clone()).collect(),
            exclude,
            count: 1,
        };
        let answer =
            nn.call(&self.path, request, |mut s, r| async move { s.get_additional_datanodes(r).await }).await;
        match answer {
            Ok(answer) => Ok(answer.locations.into_iter().next()),
            Err(error) if error.kind() == ErrorKind::NoUsableDatanode => Ok(None),
            Err(error) => Err(error),
        }
    }
}
