//! What administrators ask of a cluster.

use std::time::Duration;

use dfs_proto::v1;

use crate::dfs_client::DfsClient;
use crate::error::DfsError;
use crate::{AdminState, DatanodeReport};

impl DfsClient {
    /// Orders what is to become of the datanode that `node` means (uuid, host name, address, address:port);
    /// maintenance ends by itself after `duration`. Answers how the datanode stands.
    pub async fn set_datanode_admin(
        &self,
        node: &str,
        state: AdminState,
        duration: Duration,
    ) -> Result<DatanodeReport, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::SetDatanodeAdminRequest {
            context: nn.context(),
            node: node.to_owned(),
            state: state.into(),
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        };
        nn.call(node, request, |mut s, r| async move { s.set_datanode_admin(r).await }).await
    }

    /// Bytes a second that each datanode may spend on repair; `None`: it decides by how busy it is.
    pub async fn repair_bandwidth(&self) -> Result<Option<u64>, DfsError> {
        self.bandwidth(None).await
    }

    /// Sets what each datanode may spend on repair; `None`: it decides by how busy it is.
    pub async fn set_repair_bandwidth(&self, bytes_per_second: Option<u64>) -> Result<(), DfsError> {
        self.bandwidth(Some(bytes_per_second.unwrap_or(0))).await.map(drop)
    }

    async fn bandwidth(&self, bytes_per_second: Option<u64>) -> Result<Option<u64>, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::RepairBandwidthRequest { context: nn.context(), bytes_per_second };
        let answer = nn.call("", request, |mut s, r| async move { s.repair_bandwidth(r).await }).await?;
        Ok(Some(answer.bytes_per_second).filter(|bytes| *bytes > 0))
    }
}
