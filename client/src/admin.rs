//! What administrators ask of datanodes and of single blocks.

use std::time::Duration;

use dfs_proto::v1::{
    self, BlockDescription, DatanodeInfo, ReplicaDescription, ReplicaLocation, ScrubProgress,
};
use tonic::Streaming;

use crate::{DfsClient, DfsError, TransferFault, datanode};

/// Longest wait for a description that reads nothing.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for one that verifies a replica: a datanode gives up answering after that time, too.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(60);

/// A scrub that a datanode carries out.
#[derive(Debug)]
pub struct Scrub {
    name: String,
    messages: Streaming<ScrubProgress>,
}

impl DfsClient {
    /// A block by its id: its file and every replica known, the bad ones too. For the superuser.
    pub async fn describe_block(&self, id: u64) -> Result<BlockDescription, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::DescribeBlockRequest { context: nn.context(), block_id: id };
        let subject = format!("blk_{id}");
        nn.call(&subject, request, |mut s, r| async move { s.describe_block(r).await }).await
    }

    /// What a datanode has of a block, and where. With `verify` it rereads it from the disk first.
    pub async fn describe_replica(
        &self,
        at: &DatanodeInfo,
        block: v1::Block,
        verify: bool,
    ) -> Result<ReplicaDescription, DfsError> {
        let location = location(at);
        let timeout = if verify { VERIFY_TIMEOUT } else { DESCRIBE_TIMEOUT };
        let described =
            datanode::describe_replica(&location, block, verify, &self.inner.config, timeout).await;
        described.map_err(|fault| failed(&location, fault))
    }

    /// Has a datanode reread and verify all its replicas now. Dropping the answer ends it.
    pub async fn scrub(&self, at: &DatanodeInfo) -> Result<Scrub, DfsError> {
        let location = location(at);
        let messages = datanode::scrub(&location, self.inner.namenode.context(), &self.inner.config).await;
        let messages = messages.map_err(|fault| failed(&location, fault))?;
        Ok(Scrub { name: datanode::name(&location), messages })
    }
}

impl Scrub {
    /// The next news of one of the volumes; `None`: all are done.
    pub async fn progress(&mut self) -> Result<Option<ScrubProgress>, DfsError> {
        let message = self.messages.message().await;
        message.map_err(|status| DfsError::refused(&self.name, dfs_proto::RpcError::from_status(&status)))
    }
}

fn location(at: &DatanodeInfo) -> ReplicaLocation {
    ReplicaLocation { datanode: Some(at.clone()), storage_id: String::new() }
}

fn failed(location: &ReplicaLocation, fault: TransferFault) -> DfsError {
    let name = datanode::name(location);
    match fault {
        TransferFault::Control(error) => DfsError::refused(&name, error),
        other => {
            let error = dfs_proto::RpcError::new(dfs_proto::ErrorKind::Unavailable, &name, other.to_string());
            DfsError::refused(&name, error)
        }
    }
}
