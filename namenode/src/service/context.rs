//! What the services share: the way from a request to a command and its reply, and to reads.
//!
//! Point reads (one path, one block) run on the calling task: they are a few lookups in cached pages.
//! Scans run on the runtime's blocking threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dfs_proto::v1::{self, CallContext, LogPosition};
use dfs_proto::{ErrorKind, RpcError};
use tokio::sync::Notify;

use crate::block_management::{BlockManager, LeaseManager};
use crate::config::NamenodeConfig;
use crate::consensus::{Consensus, ProposeError};
use crate::groups::GroupMapping;
use crate::log::{self, Caller, Command, Reply, command::Op, reply};
use crate::namesystem::{Effect, NamesystemError, Snapshot};
use crate::service::changed;
use crate::service::delegation_table::ClientId;
use crate::service::sessions::Sessions;
use crate::service::status::{NO_ROOM, rpc_error, rpc_error_of_proposal, wrong_reply};
use crate::service::touched::Touched;
use crate::service::turnstile::Turn;

/// Groups that a call may name; a host's limit is 65,536, but nobody has so many, and each change logs them.
const GROUPS_MAX: usize = 1_024;

/// Positions of the log that a call may ask for: more than leaders that a client remembers.
const TOLD_MAX: usize = 1_024;

/// Soft state fed by effects: what blocks and leases are doing.
pub struct SoftState {
    started: Instant,
    blocks: Mutex<BlockManager>,
    leases: Mutex<LeaseManager>,
    /// Woken when something was unlinked and waits to be freed.
    pub reclaim: Notify,
}

impl SoftState {
    /// Nothing known yet.
    pub fn new(blocks: BlockManager, leases: LeaseManager) -> Self {
        Self {
            started: Instant::now(),
            blocks: Mutex::new(blocks),
            leases: Mutex::new(leases),
            reclaim: Notify::new(),
        }
    }

    /// Milliseconds since the namenode started: the clock of block management.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Block management. Nothing slow is done under this lock, and no await.
    pub fn blocks(&self) -> MutexGuard<'_, BlockManager> {
        self.blocks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Leases, as [`Self::blocks`]. Never taken while holding blocks' lock by anyone but
    /// [`Self::take_effects`].
    pub fn leases(&self) -> MutexGuard<'_, LeaseManager> {
        self.leases.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes in what applied commands did, in their order.
    pub fn take_effects(&self, effects: &[Effect]) {
        let now = self.now_ms();
        let mut blocks = self.blocks();
        for effect in effects {
            match effect {
                Effect::LeaseTaken { holder } => self.leases().added(now, holder),
                Effect::LeaseReleased { holder } => self.leases().removed(holder),
                _ => blocks.effect(now, effect),
            }
        }
    }
}

/// Shared by all services of one namenode.
pub struct Context {
    /// Settings.
    pub config: NamenodeConfig,
    /// Name of the superuser.
    pub superuser: String,
    /// Cluster id.
    pub cluster_id: String,
    /// Block pool id.
    pub block_pool_id: String,
    /// Log and store.
    pub consensus: Consensus,
    /// Blocks and leases.
    pub soft: Arc<SoftState>,
    /// Groups of users.
    pub groups: Arc<GroupMapping>,
    /// Sessions of mounts, and locks.
    pub sessions: Sessions,
    /// Safe mode, entered by an administrator: no changes by clients.
    pub safe_mode: AtomicBool,
    /// The disk of the log has less room than the reserve: no changes by clients.
    pub disk_full: AtomicBool,
}

/// The client that a call says it comes from.
pub fn client_id(context: &CallContext) -> Result<ClientId, RpcError> {
    ClientId::try_from(&*context.client_id)
        .map_err(|_| RpcError::new(ErrorKind::InvalidArgument, "client id", "16 bytes are needed"))
}

/// Wall clock, ns since the epoch.
pub fn wall_clock_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Bits to choose by among equally good datanodes: other ones with each call and each start, and no secret.
pub fn seed() -> u64 {
    static START: LazyLock<u64> = LazyLock::new(|| {
        u64::from_le_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().unwrap_or(&[0; 8]))
    });
    static CALLS: AtomicU64 = AtomicU64::new(0);
    // Spread over all bits: who uses it directly takes any of them.
    let calls = CALLS.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    START.wrapping_add(calls)
}

impl Context {
    /// Who calls, with groups and privileges.
    pub async fn caller(&self, context: Option<&CallContext>) -> Result<Caller, RpcError> {
        let user = context.map(|c| c.user.as_str()).unwrap_or_default();
        if user.is_empty() {
            return Err(RpcError::new(ErrorKind::AccessDenied, "", "the call names no user"));
        }
        let named = context.map(|c| c.groups.as_slice()).unwrap_or_default();
        if named.len() > GROUPS_MAX {
            let reason = format!("at most {GROUPS_MAX} groups of a user");
            return Err(RpcError::new(ErrorKind::InvalidArgument, "groups", reason));
        }
        let groups = match self.groups.cached(user) {
            _ if !named.is_empty() => named.to_vec(),
            Some(groups) => groups,
            None => {
                let (mapping, user) = (self.groups.clone(), user.to_owned());
                tokio::task::spawn_blocking(move || mapping.look_up(&user))
                    .await
                    .map_err(|e| RpcError::new(ErrorKind::Internal, "groups", e.to_string()))?
            }
        };
        let superuser = user == self.superuser || groups.contains(&self.config.supergroup);
        Ok(Caller { user: user.to_owned(), groups, superuser })
    }

    /// The namenode as a caller: no permission is checked.
    pub fn own_caller() -> Caller {
        Caller { superuser: true, ..Caller::default() }
    }

    /// Refuses changes of clients while there are to be none.
    fn check_takes_changes(&self) -> Result<(), RpcError> {
        if self.safe_mode.load(Ordering::Relaxed) {
            return Err(RpcError::new(ErrorKind::SafeMode, "", "an administrator has to leave it"));
        }
        if self.disk_full.load(Ordering::Relaxed) {
            return Err(RpcError::new(ErrorKind::NoSpace, "", NO_ROOM));
        }
        Ok(())
    }

    /// Waits until nobody else has what a read has to do with delegated.
    pub async fn settle(
        &self,
        context: Option<&CallContext>,
        touched: impl FnOnce() -> Touched,
    ) -> Result<(), RpcError> {
        // Who does not say who it is, is somebody else.
        let client = context.map(|context| &*context.client_id).unwrap_or_default();
        self.sessions.grace.wait_for_changes(&self.soft, client).await;
        let delegations = &self.sessions.delegations;
        if delegations.are_all_shared() {
            return Ok(());
        }
        let asker = self.sessions.asker(&self.soft, Some(client));
        delegations.settle(&asker, &touched(), || self.snapshot()).await
    }

    /// Waits until nobody else has one of these directories delegated. True if that was the case: what was read of them
    /// before is old.
    pub async fn settle_directories(
        &self,
        context: Option<&CallContext>,
        entries: &[v1::FileStatus],
    ) -> Result<bool, RpcError> {
        let delegations = &self.sessions.delegations;
        if delegations.are_all_shared() {
            return Ok(false);
        }
        let client = context.map(|context| &*context.client_id).unwrap_or_default();
        let directories = entries.iter().filter(|entry| entry.r#type() == v1::FileType::Directory);
        let directories: Vec<u64> = directories.map(|entry| entry.inode).collect();
        if !delegations.is_any_others(Some(client), &directories) {
            return Ok(false);
        }
        self.settle(context, || Touched::nodes(directories.into_iter())).await?;
        Ok(true)
    }

    /// Carries out a client's change: permission, retry cache, log, state. Returns when it is on disk; a relaxed
    /// call when it is applied and written to the log file, provided that the client is told where.
    pub async fn change(&self, context: Option<CallContext>, op: Op) -> Result<Reply, RpcError> {
        self.check_takes_changes()?;
        let caller = self.caller(context.as_ref()).await?;
        let touched = || vec![Touched::of(&op, Some(&caller))];
        let _begun = self.begin(context.as_ref(), touched).await?;
        self.carry_out(caller, context, op).await
    }

    /// Begins a client's change: nothing that it has to do with is delegated to somebody else until the answer is dropped.
    pub async fn begin(
        &self,
        context: Option<&CallContext>,
        touched: impl FnOnce() -> Vec<Touched>,
    ) -> Result<Turn<'_>, RpcError> {
        // Who does not say who it is, is somebody else.
        let client = context.map(|context| &*context.client_id).unwrap_or_default();
        self.sessions.grace.wait_for_changes(&self.soft, client).await;
        self.begin_changes(Some(client), touched).await
    }

    /// As [`Self::change`], of a change that was begun with all that it has to do with.
    pub async fn change_begun(
        &self,
        _begun: &Turn<'_>,
        context: Option<CallContext>,
        op: Op,
    ) -> Result<Reply, RpcError> {
        self.check_takes_changes()?;
        let caller = self.caller(context.as_ref()).await?;
        self.carry_out(caller, context, op).await
    }

    async fn carry_out(
        &self,
        caller: Caller,
        context: Option<CallContext>,
        op: Op,
    ) -> Result<Reply, RpcError> {
        let context = context.unwrap_or_default();
        client_id(&context)?;
        self.check_has(&context)?;
        let command = Command {
            now_ns: wall_clock_ns(),
            caller: Some(caller),
            client_id: context.client_id.to_vec(),
            call_id: context.call_id,
            op: Some(op),
        };
        if context.relaxed && changed::is_told() {
            self.propose_relaxed(command).await
        } else {
            self.propose(command).await
        }
    }

    /// Refuses a call that is to make earlier changes durable if the log does not have all of them.
    fn check_has(&self, context: &CallContext) -> Result<(), RpcError> {
        if context.told.len() > TOLD_MAX {
            let reason = format!("at most {TOLD_MAX} positions of a log");
            return Err(RpcError::new(ErrorKind::InvalidArgument, "told", reason));
        }
        for position in &context.told {
            if !self.consensus.has(position).map_err(|e| rpc_error_of_proposal(&e))? {
                let LogPosition { term, node_id, index } = position;
                tracing::error!(
                    term,
                    leader = node_id,
                    index,
                    user = context.user,
                    "a client was answered by an entry of the log that is lost: its next sync of each file and directory concerned fails"
                );
                let reason = format!("entry {index} of term {term} is not in the namenode's log");
                return Err(RpcError::new(ErrorKind::ChangesLost, "", reason));
            }
        }
        Ok(())
    }

    /// Begins changes: nothing that they have to do with is delegated to somebody else until the answer is dropped. They are the
    /// namenode's own, or answered by the client already: they wait for no session from before a restart.
    pub async fn begin_changes(
        &self,
        client: Option<&[u8]>,
        touched: impl FnOnce() -> Vec<Touched>,
    ) -> Result<Turn<'_>, RpcError> {
        let asker = self.sessions.asker(&self.soft, client);
        self.sessions.delegations.begin_changes(&asker, touched, || self.snapshot()).await
    }

    /// Carries out changes of one client in their order, relaxed, which were begun. An answer for each; an error if they could
    /// not be tried, or not all of them: then they are to be sent again.
    pub async fn change_all_begun(
        &self,
        _begun: &Turn<'_>,
        commands: Vec<Command>,
    ) -> Result<Vec<Result<Reply, RpcError>>, RpcError> {
        self.check_takes_changes()?;
        let mut answers = Vec::with_capacity(commands.len());
        for outcome in self.consensus.propose_all_relaxed(commands).await {
            match outcome {
                Ok((reply, position)) => {
                    changed::note(position);
                    answers.push(Ok(reply));
                }
                Err(ProposeError::Refused(refusal)) => answers.push(Err(rpc_error(&refusal))),
                Err(error) => return Err(rpc_error_of_proposal(&error)),
            }
        }
        Ok(answers)
    }

    /// A client's change whose reply is the node's status.
    pub async fn change_status(
        &self,
        context: Option<CallContext>,
        op: Op,
    ) -> Result<v1::FileStatus, RpcError> {
        match self.change(context, op).await? {
            Reply { reply: Some(reply::Reply::Status(status)) } => Ok(status),
            _ => Err(wrong_reply("change")),
        }
    }

    /// Carries out a change of the namenode's own.
    pub async fn own_change(&self, op: Op) -> Result<Reply, RpcError> {
        let _turn = self.begin_changes(None, || vec![Touched::of(&op, None)]).await?;
        self.propose(Command { now_ns: wall_clock_ns(), op: Some(op), ..Command::default() }).await
    }

    /// Carries out a change of the namenode's own that may be lost with the power: it would be made again.
    pub async fn own_change_relaxed(&self, op: Op) -> Result<Reply, RpcError> {
        let _turn = self.begin_changes(None, || vec![Touched::of(&op, None)]).await?;
        self.propose_relaxed(Command { now_ns: wall_clock_ns(), op: Some(op), ..Command::default() }).await
    }

    async fn propose(&self, command: Command) -> Result<Reply, RpcError> {
        self.consensus.propose(command).await.map_err(|e| rpc_error_of_proposal(&e))
    }

    async fn propose_relaxed(&self, command: Command) -> Result<Reply, RpcError> {
        let answered = self.consensus.propose_relaxed(command).await;
        let (reply, position) = answered.map_err(|e| rpc_error_of_proposal(&e))?;
        changed::note(position);
        Ok(reply)
    }

    /// Returns when every change answered before is on disk in the log; of those that `context` tells of, if they are there at all.
    pub async fn sync(&self, context: Option<&CallContext>) -> Result<(), RpcError> {
        context.map_or(Ok(()), |context| self.check_has(context))?;
        self.consensus.sync().await.map_err(|e| rpc_error_of_proposal(&e))
    }

    /// The namespace as it stands.
    pub fn snapshot(&self) -> Result<Snapshot, RpcError> {
        Ok(Snapshot::open(&self.consensus.store()))
    }

    /// Runs a scan of the namespace on a blocking thread.
    pub async fn scan<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Snapshot) -> Result<T, NamesystemError> + Send + 'static,
    ) -> Result<T, RpcError> {
        let snapshot = self.snapshot()?;
        tokio::task::spawn_blocking(move || read(&snapshot))
            .await
            .map_err(|e| RpcError::new(ErrorKind::Internal, "scan", e.to_string()))?
            .map_err(|e| rpc_error(&e))
    }

    /// A block of a reply with the addresses of its pipeline.
    pub fn located(&self, spec: log::BlockSpec) -> v1::LocatedBlock {
        let blocks = self.soft.blocks();
        v1::LocatedBlock {
            locations: spec.storage_ids.iter().filter_map(|storage| blocks.location_of(storage)).collect(),
            block: spec.block,
            offset: spec.offset,
            corrupt: false,
            under_construction: true,
            corrupt_replicas: 0,
        }
    }
}
