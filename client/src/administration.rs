//! What administrators ask of a cluster.

use std::time::Duration;

use dfs_proto::{ErrorKind, RpcError, v1};

use crate::dfs_client::DfsClient;
use crate::error::DfsError;
use crate::{AdminState, DatanodeReport, TransferFault};

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

    /// Forgets a dead datanode (uuid, host name, address, address:port) that will not come back. Should it come back, it
    /// is a new one.
    pub async fn remove_datanode(&self, node: &str) -> Result<(), DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::RemoveDatanodeRequest { context: nn.context(), node: node.to_owned() };
        nn.call(node, request, |mut s, r| async move { s.remove_datanode(r).await }).await.map(drop)
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

    /// Looks at, starts, stops or sets balancing of the datanodes; who calls is filled in.
    pub async fn balance(&self, request: v1::BalanceRequest) -> Result<v1::BalanceStatus, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::BalanceRequest { context: nn.context(), ..request };
        nn.call("balancer", request, |mut s, r| async move { s.balance(r).await }).await
    }

    /// Asks a datanode how even its volumes are, or has it even them out, which superusers may. It is asked itself, at its
    /// control port; who calls is filled in.
    pub async fn balance_disks(
        &self,
        datanode: v1::DatanodeInfo,
        request: v1::BalanceDisksRequest,
    ) -> Result<v1::BalanceDisksStatus, DfsError> {
        let location = v1::ReplicaLocation { datanode: Some(datanode), storage_id: String::new() };
        let request = v1::BalanceDisksRequest { context: self.inner.namenode.context(), ..request };
        let answer = crate::datanode::balance_disks(&location, request, &self.inner.config).await;
        answer.map_err(|fault| DfsError::Refused {
            subject: format!("datanode {}", crate::datanode::name(&location)),
            error: match fault {
                TransferFault::Control(error) => error,
                other => RpcError::new(ErrorKind::Unavailable, "", other.to_string()),
            },
        })
    }
}
