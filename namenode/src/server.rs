//! A running namenode: log and store, services, ports, background loops.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use dfs_proto::v1::client_protocol_server::ClientProtocolServer;
use dfs_proto::v1::datanode_protocol_server::DatanodeProtocolServer;
use dfs_proto::v1::file_system_protocol_server::FileSystemProtocolServer;
use dfs_proto::{InodeId, MAX_RPC_BYTES};
use nix::unistd::{Uid, User};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::block_management::{BlockManagementConfig, BlockManager, LeaseConfig, LeaseManager};
use crate::config::NamenodeConfig;
use crate::consensus::{Consensus, ConsensusConfig};
use crate::error::NamenodeError;
use crate::groups::GroupMapping;
use crate::log::backup_protocol_server::BackupProtocolServer;
use crate::log::{InitializeOp, PassOverOp, command::Op};
use crate::namesystem::{Effect, NamesystemError, Snapshot};
use crate::rpc_threads::Served;
use crate::service::{
    BackupService, ClientService, Context, DatanodeService, FileSystemService, NAME_PREFIX, Sessions,
    SoftState, seed, wall_clock_ns,
};
use crate::unary_services::UnaryServices;
use crate::{http, monitor, rpc_threads};

/// Ids and stamps of each kind that a start passes over: more than a namenode gives in the time that it takes to sync its log.
const GIVEN_AND_LOST_MAX: u64 = 1 << 24;

/// How long a start waits for a leader: an election among reachable nodes takes a second or two.
const LEADER_DEADLINE: Duration = Duration::from_secs(30);

/// How long a port may stay taken by a predecessor that was killed.
const PORT_PATIENCE: Duration = Duration::from_secs(2);

/// Time between two attempts to have it.
const PORT_INTERVAL: Duration = Duration::from_millis(20);

/// This node among the voters; a namenode of its own is the only one.
pub const NODE_ID: u64 = 1;

/// Part of the reserved room that a checkpoint has to find, and the most that it needs: two layers of the store.
const CHECKPOINT_SHARE: u64 = 4;
const CHECKPOINT_ROOM_MAX: u64 = 16 << 20;

/// Orphans read at once at a start.
const ORPHANS_PAGE: usize = 10_000;

/// A running namenode. Dropping it stops the services at once, like a crash; [`Namenode::shutdown`] is
/// the clean way.
pub struct Namenode {
    context: Arc<Context>,
    rpc_addr: SocketAddr,
    http_addr: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    rpc_threads: rpc_threads::Ended,
}

impl Namenode {
    /// Opens the directory (formatting an empty one), replays the log and serves. On return both ports
    /// are bound and this node leads or knows its leader.
    pub async fn start(config: NamenodeConfig) -> Result<Self, NamenodeError> {
        config.validate()?;
        let block_management = BlockManagementConfig {
            stale_after_ms: config.stale_after_ms,
            dead_after_ms: config.dead_after_ms,
            balance_threshold: config.balance_threshold,
            background_balance_bandwidth: config.background_balance_bandwidth,
            seed: seed(),
            ..BlockManagementConfig::default()
        };
        block_management.validate()?;
        let superuser = match &config.superuser {
            Some(name) => name.clone(),
            None => User::from_uid(Uid::effective()).ok().flatten().ok_or(NamenodeError::UnknownUser)?.name,
        };
        let (rpc, rpc_addr) = bind(SocketAddr::new(config.bind, config.rpc_port)).await?;
        let (http, http_addr) = bind(SocketAddr::new(config.bind, config.http_port)).await?;

        let soft = Arc::new(SoftState::new(
            BlockManager::new(block_management),
            LeaseManager::new(LeaseConfig {
                soft_limit_ms: config.soft_lease_ms,
                hard_limit_ms: config.hard_lease_ms,
            }),
        ));
        let effects_to = soft.clone();
        let consensus = Consensus::start(
            ConsensusConfig {
                cache_bytes: config.cache_bytes,
                checkpoint_room_bytes: (config.reserved_bytes / CHECKPOINT_SHARE).min(CHECKPOINT_ROOM_MAX),
                ..ConsensusConfig::new(config.dir.clone(), NODE_ID)
            },
            Arc::new(move |effects: Vec<Effect>| effects_to.take_effects(&effects)),
        )
        .await?;
        consensus.wait_for_leader(LEADER_DEADLINE).await?;
        let (cluster_id, block_pool_id) = identity(&config, &superuser, &consensus).await?;
        let sessions = Sessions::new(config.session_timeout_ms);
        recall(&soft, &sessions, &consensus)?;

        let context = Arc::new(Context {
            groups: Arc::new(GroupMapping::new(config.static_groups.clone())),
            sessions,
            safe_mode: AtomicBool::new(false),
            disk_full: AtomicBool::new(false),
            config,
            superuser,
            cluster_id,
            block_pool_id,
            consensus,
            soft,
        });
        let (stop, mut tasks) = (watch::Sender::new(false), JoinSet::new());
        let listener = rpc.into_std().map_err(|source| NamenodeError::Listen { addr: rpc_addr, source })?;
        let rpc_threads = rpc_threads::spawn(&listener, &served(&context), || stopped(&stop))
            .map_err(|source| NamenodeError::Listen { addr: rpc_addr, source })?;
        let app = http::router(context.clone(), http::recorder());
        let http_stopped = stopped(&stop);
        tasks.spawn(async move {
            let serving = axum::serve(http, app).with_graceful_shutdown(http_stopped);
            if let Err(error) = serving.await {
                tracing::error!(%error, "HTTP service ended");
            }
        });
        monitor::watch_disk_once(&context).await;
        monitor::spawn_all(&mut tasks, &context);
        tracing::info!(%rpc_addr, %http_addr, cluster_id = context.cluster_id, "namenode serves");
        Ok(Self { context, rpc_addr, http_addr, stop, tasks, rpc_threads })
    }

    /// Where gRPC is served.
    pub const fn rpc_addr(&self) -> SocketAddr {
        self.rpc_addr
    }

    /// Where HTTP is served.
    pub const fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// What the services share, for tests and tools in the same process.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Ends when log or store failed: the namenode acknowledges nothing any more and has to be stopped.
    pub async fn failed(&self) -> NamenodeError {
        NamenodeError::Failed(self.context.consensus.failed().await)
    }

    /// Stops serving and makes the store durable, so that the next start replays nothing.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        self.tasks.shutdown().await;
        for ended in self.rpc_threads {
            // Closed when the thread ends.
            let _ = ended.await;
        }
        self.context.consensus.shutdown().await;
    }
}

/// Listens; waits a moment for a predecessor that was killed to be gone.
async fn bind(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), NamenodeError> {
    let listen = |source| NamenodeError::Listen { addr, source };
    let deadline = Instant::now() + PORT_PATIENCE;
    let socket = loop {
        match TcpListener::bind(addr).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(PORT_INTERVAL).await;
            }
            bound => break bound.map_err(listen)?,
        }
    };
    let addr = socket.local_addr().map_err(listen)?;
    Ok((socket, addr))
}

/// The cluster's identity; made at the first start of a cluster.
async fn identity(
    config: &NamenodeConfig,
    superuser: &str,
    consensus: &Consensus,
) -> Result<(String, String), NamenodeError> {
    let read = || Ok::<_, NamenodeError>(Snapshot::open(&consensus.store()).identity()?);
    if let Some(identity) = read()? {
        pass_over(consensus).await;
        return Ok(identity);
    }
    let unique = uuid::Uuid::new_v4();
    let command = crate::log::Command {
        now_ns: wall_clock_ns(),
        op: Some(Op::Initialize(InitializeOp {
            cluster_id: format!("CID-{unique}"),
            block_pool_id: format!("BP-{}", uuid::Uuid::new_v4().simple()),
            superuser: superuser.to_owned(),
            supergroup: config.supergroup.clone(),
        })),
        ..Default::default()
    };
    if let Err(error) = consensus.propose(command).await {
        return Err(NamenodeError::Initialise(crate::service::rpc_error_of_proposal(&error)));
    }
    read()?.ok_or_else(|| NamenodeError::NoIdentity { dir: config.dir.clone() })
}

/// Passes over numbers that answers may have given which the disk never heard of: datanodes may have replicas of such blocks, and
/// mounts such inodes.
async fn pass_over(consensus: &Consensus) {
    let op = Op::PassOver(PassOverOp { count: GIVEN_AND_LOST_MAX });
    let command = crate::log::Command { now_ns: wall_clock_ns(), op: Some(op), ..Default::default() };
    if let Err(error) = consensus.propose(command).await {
        // Not the leader, who has given them; or the disk is full, and this start is one of those that pass over nothing.
        tracing::warn!(%error, "numbers that were given and lost are not passed over");
    }
}

/// Tells soft state what the namespace knows from before the start.
fn recall(soft: &SoftState, sessions: &Sessions, consensus: &Consensus) -> Result<(), NamenodeError> {
    let snapshot = Snapshot::open(&consensus.store());
    let now = soft.now_ms();
    for record in snapshot.datanodes()? {
        let info = record.info.clone().unwrap_or_default();
        let remaining_ns = record.maintenance_until_ns.saturating_sub(wall_clock_ns());
        let remaining_ms = u64::try_from(remaining_ns / 1_000_000).unwrap_or(0);
        let uuid = info.uuid.clone();
        let mut blocks = soft.blocks();
        blocks.recall_datanode(info, &record.storage_ids);
        blocks.set_admin(now, &uuid, record.admin_state(), remaining_ms);
    }
    soft.blocks().set_repair_bandwidth(snapshot.repair_bandwidth()?);
    let mut holders = Vec::new();
    for (holder, _) in snapshot.leases()? {
        soft.leases().added(now, &holder);
        holders.push(holder);
    }
    holders.retain(|holder| holder.starts_with(NAME_PREFIX));
    holders.extend(snapshot.reserving_sessions()?);
    holders.sort_unstable();
    holders.dedup();
    let mut orphans: Vec<u64> = Vec::new();
    loop {
        let after = InodeId(orphans.last().copied().unwrap_or(0));
        let page = snapshot.orphans(after, ORPHANS_PAGE)?;
        orphans.extend(page.iter().map(|inode| inode.get()));
        if page.len() < ORPHANS_PAGE {
            break;
        }
    }
    sessions.expect(now, &holders, &orphans);
    let restored_from = snapshot.restored_from().map_err(NamesystemError::from)?;
    soft.blocks().keep_unknown(restored_from.is_some());
    // A new cluster has nobody to wait for: its start is over before the first datanode registers.
    soft.blocks().tick(now);
    Ok(())
}

/// Ends when the namenode is told to stop, or dropped.
fn stopped(stop: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + 'static {
    let mut told = stop.subscribe();
    async move {
        // An error means that the sender is gone: stopped as well.
        let _ = told.wait_for(|stop| *stop).await;
    }
}

/// What is served.
fn served(context: &Arc<Context>) -> Served {
    let clients = ClientProtocolServer::new(ClientService::new(context.clone()))
        .max_decoding_message_size(MAX_RPC_BYTES)
        .max_encoding_message_size(MAX_RPC_BYTES);
    let datanodes = DatanodeProtocolServer::new(DatanodeService::new(context.clone()))
        .max_decoding_message_size(MAX_RPC_BYTES)
        .max_encoding_message_size(MAX_RPC_BYTES);
    let mounts = FileSystemProtocolServer::new(FileSystemService::new(context.clone()))
        .max_decoding_message_size(MAX_RPC_BYTES)
        .max_encoding_message_size(MAX_RPC_BYTES);
    let raft = context.consensus.raft_service();
    let unary = UnaryServices { clients: clients.clone(), mounts: mounts.clone() };
    let backups = BackupProtocolServer::new(BackupService::new(context.clone()));
    let routes = Routes::new(clients)
        .add_service(datanodes)
        .add_service(mounts)
        .add_service(raft)
        .add_service(backups)
        .prepare();
    Served { routes, unary }
}
