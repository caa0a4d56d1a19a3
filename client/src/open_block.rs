//! The block that a writer is writing: identity, pipeline members, and the namenode calls about it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_proto::ErrorKind;
use dfs_proto::checksum::Checksum;
use dfs_proto::v1::{self, Block, CommittedBlock, LocatedBlock, ReplicaLocation};

use crate::dfs_client::Inner;
use crate::pipeline::Pipeline;
use crate::pipeline_watch::Watch;
use crate::{DfsError, FileStatus, ReplicaFault, TransferFault};

/// How long a new block is asked for while no datanode can take it: two heartbeats and some.
const NO_DATANODE_PATIENCE: Duration = Duration::from_secs(3);

/// Time between two such questions.
const NO_DATANODE_DELAY: Duration = Duration::from_millis(250);

/// The file being written.
pub(crate) struct WriteTarget {
    pub client: Arc<Inner>,
    pub path: String,
    pub inode: u64,
    pub replication: usize,
    pub checksum: Checksum,
    /// Packets may be at any offset of a block.
    pub random_access: bool,
}

/// A block under construction.
pub(crate) struct OpenBlock {
    /// The block with the stamp that the namenode has recorded (its replicas have it or a later one), and the
    /// acknowledged length.
    pub block: Block,
    /// Stamp that the first pipeline of an append sets.
    pub append_stamp: Option<u64>,
    /// Pipeline, first member first.
    pub members: Vec<ReplicaLocation>,
    /// Absent before the first packet and while a failure is being handled.
    pub pipeline: Option<Pipeline>,
    /// Watches how it gets on.
    pub watch: Watch,
    /// Its packets go to every member at once, not from one to the next.
    pub direct: bool,
    /// Bytes handed to a pipeline so far.
    pub sent: u64,
    /// A flush was acknowledged: readers may rely on what is there.
    pub flushed: bool,
    /// A pipeline was set up with success at least once.
    pub established: bool,
    /// Its end was acknowledged with a sync.
    pub synced: bool,
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
            append_stamp: None,
            members: located.locations,
            pipeline: None,
            watch: Watch::default(),
            direct: false,
            sent: 0,
            flushed: false,
            established: false,
            synced: false,
            failures: 0,
        })
    }

    /// A block reopened by an append; its replicas get `new_stamp`.
    pub(crate) fn reopened(path: &str, located: LocatedBlock, new_stamp: u64) -> Result<Self, DfsError> {
        let length = located.block.as_ref().map_or(0, |b| b.length);
        let mut open = Self::new(path, located)?;
        open.block.length = length;
        open.sent = length;
        open.append_stamp = Some(new_stamp);
        Ok(open)
    }

    /// Reopened by an append: it cannot be given up and begun anew.
    pub(crate) fn is_reopened(&self) -> bool {
        self.append_stamp.is_some()
    }

    /// Nobody relies on what is there of it: it can be given back and begun anew elsewhere.
    pub(crate) fn can_begin_anew(&self) -> bool {
        !self.is_reopened() && !self.flushed && self.block.length == 0
    }

    /// The block under another stamp.
    pub(crate) fn with_stamp(&self, stamp: u64) -> Block {
        Block { generation_stamp: stamp, ..self.block }
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

    /// A new block. Waits a little if no datanode can take it: after a restart of the namenode the datanodes come
    /// back one by one.
    pub(crate) async fn add_block(
        &self,
        previous: Option<CommittedBlock>,
        exclude: Vec<String>,
    ) -> Result<LocatedBlock, DfsError> {
        let nn = &self.client.namenode;
        let deadline = Instant::now() + NO_DATANODE_PATIENCE;
        loop {
            let request = v1::AddBlockRequest {
                context: nn.context(),
                inode: self.inode,
                holder: self.client.holder.clone(),
                previous: previous.clone(),
                exclude: exclude.clone(),
            };
            match nn.call(&self.path, request, |mut s, r| async move { s.add_block(r).await }).await {
                Err(error)
                    if error.kind() == ErrorKind::NoUsableDatanode
                        && exclude.is_empty()
                        && Instant::now() < deadline =>
                {
                    tokio::time::sleep(NO_DATANODE_DELAY).await;
                }
                result => return result,
            }
        }
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
