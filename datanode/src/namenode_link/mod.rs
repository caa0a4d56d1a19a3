//! What the datanode and the namenode tell each other.
//!
//! Two tasks: [`heartbeat`] registers, sends heartbeats and hands the commands in the answers to
//! [`commands`]; [`reports`] sends replica changes and full reports, one call at a time, so that the
//! namenode hears of changes in their order. Both wait for the registration.

pub mod changes;
pub mod commands;
pub mod copies;
pub mod heartbeat;
pub mod recovery;
mod recovery_outcome;
pub mod reports;
mod small_orders;
pub mod superusers;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dfs_proto::v1::DatanodeInfo;
use dfs_proto::v1::datanode_protocol_client::DatanodeProtocolClient;
use dfs_proto::{MAX_RPC_BYTES, RpcError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use self::changes::ChangeQueue;
use self::copies::CopyOrders;
use self::superusers::Superusers;
use crate::error::DatanodeError;
use crate::scrub::verifications::Verifications;
use crate::transfer::Shared;
use crate::workers::Workers;

/// Longest wait for a connection to the namenode.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest wait for an answer to a small call. A namenode that syncs its log on a slow disk takes this long.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// First and last pause between attempts to reach the namenode.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// See [`BACKOFF_FIRST`].
const BACKOFF_LAST: Duration = Duration::from_secs(3);

/// How the registration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Not registered, or to be registered again.
    Wanted,
    /// Registered for the n-th time.
    Done(u64),
    /// The namenode refuses this datanode for good.
    Refused,
}

/// The namenode and what is needed to serve it.
#[derive(Clone, Debug)]
pub struct NamenodeLink {
    /// Everything about data.
    pub shared: Arc<Shared>,
    /// Changes to report.
    pub changes: Arc<ChangeQueue>,
    /// Disk work of async code.
    pub disk_workers: Arc<Workers>,
    /// Copies to other datanodes.
    pub copy_workers: Arc<Workers>,
    /// Copies to other datanodes for balancing.
    pub move_workers: Arc<Workers>,
    /// Deletions.
    pub delete_workers: Arc<Workers>,
    /// Replicas that the namenode wants verified.
    pub verifications: Arc<Verifications>,
    /// Block recoveries in progress; who stops the datanode ends them, because they hold its volumes.
    pub recoveries: Arc<Mutex<JoinSet<()>>>,
    copies: Arc<CopyOrders>,
    channel: Channel,
    namenode: Arc<str>,
    info: watch::Sender<DatanodeInfo>,
    registration: watch::Sender<Registration>,
}

/// The parts of a link.
#[derive(Debug)]
pub struct LinkParts {
    /// Everything about data.
    pub shared: Arc<Shared>,
    /// Changes to report.
    pub changes: Arc<ChangeQueue>,
    /// Disk work of async code.
    pub disk_workers: Arc<Workers>,
    /// Copies to other datanodes.
    pub copy_workers: Arc<Workers>,
    /// Copies to other datanodes for balancing.
    pub move_workers: Arc<Workers>,
    /// Deletions.
    pub delete_workers: Arc<Workers>,
    /// Replicas that the namenode wants verified.
    pub verifications: Arc<Verifications>,
    /// This datanode's address and identity.
    pub info: DatanodeInfo,
}

impl NamenodeLink {
    /// A link that connects when it is first used.
    pub fn new(parts: LinkParts) -> Result<Self, DatanodeError> {
        let namenode = parts.shared.config.namenode.clone();
        let channel = endpoint(&namenode, CALL_TIMEOUT)?.connect_lazy();
        Ok(Self {
            shared: parts.shared,
            changes: parts.changes,
            disk_workers: parts.disk_workers,
            copy_workers: parts.copy_workers,
            move_workers: parts.move_workers,
            delete_workers: parts.delete_workers,
            verifications: parts.verifications,
            recoveries: Arc::default(),
            copies: Arc::default(),
            channel,
            namenode: namenode.into(),
            info: watch::Sender::new(parts.info),
            registration: watch::Sender::new(Registration::Wanted),
        })
    }

    fn client(&self) -> DatanodeProtocolClient<Channel> {
        DatanodeProtocolClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_RPC_BYTES)
            .max_encoding_message_size(MAX_RPC_BYTES)
    }

    /// Who asks the namenode who may give orders.
    pub fn superusers(&self) -> Superusers {
        Superusers::new(self.channel.clone())
    }

    /// Names the namenode in a failed call.
    fn failed(&self, status: &tonic::Status) -> DatanodeError {
        DatanodeError::Rpc { peer: self.namenode.to_string(), error: RpcError::from_status(status) }
    }

    /// This datanode as the namenode recorded it.
    pub fn info(&self) -> DatanodeInfo {
        self.info.borrow().clone()
    }

    /// Follows the registration.
    pub fn registration(&self) -> watch::Receiver<Registration> {
        self.registration.subscribe()
    }

    fn want_registration(&self) {
        self.registration.send_if_modified(|now| {
            let wanted = matches!(now, Registration::Done(_));
            if wanted {
                *now = Registration::Wanted;
            }
            wanted
        });
    }
}

/// How to reach a gRPC server.
fn endpoint(addr: &str, timeout: Duration) -> Result<Endpoint, DatanodeError> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))
        .map_err(|_| DatanodeError::Address(addr.to_owned()))?;
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(timeout).tcp_nodelay(true))
}

/// The pause after `pause`.
fn longer(pause: Duration) -> Duration {
    (pause * 2).min(BACKOFF_LAST)
}
