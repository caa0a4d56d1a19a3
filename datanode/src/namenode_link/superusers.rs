//! Who may give a datanode orders: superusers, whom the namenode knows.

use dfs_proto::v1::datanode_protocol_client::DatanodeProtocolClient;
use dfs_proto::v1::{CallContext, CheckSuperuserRequest};
use dfs_proto::{ErrorKind, RpcError};
use tonic::Status;
use tonic::transport::Channel;

/// Asks the namenode. It holds nothing of the datanode, as connections may outlive that.
#[derive(Clone, Debug)]
pub struct Superusers(Channel);

impl Superusers {
    /// Asks over `channel`.
    pub(super) const fn new(channel: Channel) -> Self {
        Self(channel)
    }

    /// Refuses everybody but superusers, and everybody as long as the namenode does not answer. `order` is what was
    /// ordered.
    pub async fn check(&self, context: Option<CallContext>, order: &str) -> Result<(), Status> {
        let request = CheckSuperuserRequest { context, subject: order.to_owned() };
        let checked = DatanodeProtocolClient::new(self.0.clone()).check_superuser(request).await;
        checked.map(drop).map_err(|status| {
            let error = RpcError::from_status(&status);
            tracing::info!(order, %error, "order refused");
            match error.kind {
                ErrorKind::Unavailable => {
                    let reason = format!("the namenode has to say who may order this: {}", error.reason);
                    RpcError::new(ErrorKind::Unavailable, order, reason).to_status()
                }
                _ => error.to_status(),
            }
        })
    }
}
