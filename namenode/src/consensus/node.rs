//! A namenode's part in consensus: starting it, proposing, stopping it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::{BasicNode, Raft, ServerState, SnapshotPolicy};
use prost::Message;
use redb::Database;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::acks::Acks;
use super::apply_thread::{self, ApplyRequest, ApplyThread, CheckpointPolicy, OnEffects};
use super::batch::{Level, Outcome, Waiter};
use super::batcher::{self, COMMAND_BYTES_MAX, Proposal};
use super::catalog::Catalog;
use super::config::{self, ConsensusConfig};
use super::dir_lock::DirLock;
use super::durable_file;
use super::error::{ConsensusError, ProposeError};
use super::health::Health;
use super::log_cache::{CACHE_BYTES_MAX, LogCache};
use super::log_reader::{self, LogReader};
use super::log_store::LogStore;
use super::log_thread::{self, LogThread};
use super::network::{MESSAGE_BYTES_MAX, Network};
use super::raft_service::RaftService;
use super::raft_types::{self, LogId, TypeConfig, Vote};
use super::segmented_log::{Recovered, SegmentedLog};
use super::state_machine::{self, StateMachine};
use super::state_store::{Position, StateStore};
use super::threads::spawn;
use super::vote_file::{self, VoteFile};
use crate::log;
use crate::log::raft_protocol_server::RaftProtocolServer;

/// A running member of consensus. Clones share it; when the last one is dropped without
/// [`Consensus::shutdown`], it stops as if the process had been killed.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    node_id: u64,
    raft: Raft<TypeConfig>,
    store: StateStore,
    proposals: mpsc::Sender<Proposal>,
    apply: mpsc::Sender<ApplyRequest>,
    synced: watch::Receiver<u64>,
    applied: watch::Receiver<Option<LogId>>,
    health: Health,
    /// Has openraft purge the log behind checkpoints.
    purging: Mutex<Option<JoinHandle<()>>>,
    /// Each closes when a thread ends.
    threads: Mutex<Vec<oneshot::Receiver<()>>>,
}

/// What opening the directory yields.
struct Opened {
    lock: Arc<DirLock>,
    votes: VoteFile,
    vote: Vote,
    store: StateStore,
    position: Position,
    log: SegmentedLog,
    recovered: Recovered,
}

fn open(config: &ConsensusConfig) -> Result<Opened, ConsensusError> {
    durable_file::make_dir(&config.dir)?;
    vote_file::check_directory(&config.dir)?;
    let lock = Arc::new(DirLock::take(&config.dir)?);
    let (votes, vote) = VoteFile::open(&config.dir, config.node_id)?;
    let (store, position) = StateStore::open(&config.dir, config.cache_bytes)?;
    let (log, recovered) = SegmentedLog::open(
        config.dir.join("log"),
        config.segment_bytes,
        CACHE_BYTES_MAX,
        position.next_index(),
    )?;
    Ok(Opened { lock, votes, vote, store, position, log, recovered })
}

impl Consensus {
    /// Opens log and state (making them in an empty directory), brings the state up to date, and starts
    /// Raft. `on_effects` is called on the apply thread after each committed transaction, also for
    /// entries that are applied again after a crash. A node alone leads a moment later; see
    /// [`Consensus::wait_for_leader`].
    pub async fn start(config: ConsensusConfig, on_effects: OnEffects) -> Result<Self, ConsensusError> {
        config.validate()?;
        let health = Health::new();
        let (answer, opened) = oneshot::channel();
        let opening = config.clone();
        spawn("raft-open", &health, move || {
            let _ = answer.send(open(&opening));
        })?;
        let opened = opened.await.map_err(|_| ConsensusError::Stopped)??;
        match Self::run(&config, opened, on_effects, health.clone()).await {
            Ok(consensus) => Ok(consensus),
            // The thread that failed knows better than openraft why.
            Err(error) => match health.failure().and_then(Arc::into_inner) {
                Some(first) => Err(first),
                None => Err(error),
            },
        }
    }

    async fn run(
        config: &ConsensusConfig,
        opened: Opened,
        on_effects: OnEffects,
        health: Health,
    ) -> Result<Self, ConsensusError> {
        let Opened { lock, votes, vote, store, position, log, recovered } = opened;
        let membership = recovered.membership.as_ref().unwrap_or_else(|| position.membership.membership());
        let alone = raft_types::is_alone(membership, config.node_id);
        let is_new = recovered.last.is_none() && position.last.is_none();

        let acks = Arc::new(Acks::new(log.synced()));
        let synced = acks.watch();
        let catalog: Arc<Catalog> = log.catalog();
        let cache = Arc::new(Mutex::new(LogCache::new(recovered.previous, recovered.last, recovered.tail)));
        let (log_requests, log_queue) = mpsc::channel(log_thread::REQUESTS_MAX);
        let (read_requests, read_queue) = mpsc::channel(log_reader::REQUESTS_MAX);
        let (apply_requests, apply_queue) = mpsc::channel(apply_thread::REQUESTS_MAX);
        let (applied_sender, applied) = watch::channel(position.last);
        let (checkpointed_sender, checkpointed) = watch::channel(position.clone());

        let log_thread = LogThread {
            log,
            votes,
            cache: Arc::clone(&cache),
            acks: Arc::clone(&acks),
            health: health.clone(),
            lock: Arc::clone(&lock),
        };
        let apply_thread = ApplyThread {
            store: store.clone(),
            position,
            acks,
            health: health.clone(),
            on_effects,
            policy: CheckpointPolicy {
                commands: config.checkpoint_commands,
                bytes: config.checkpoint_bytes,
                interval: config.checkpoint_interval,
            },
            applied: applied_sender,
            checkpointed: checkpointed_sender,
            lock,
        };
        let reader_health = health.clone();
        let threads = vec![
            spawn("raft-log", &health, move || log_thread.run(log_queue))?,
            spawn("raft-log-reader", &health, move || log_reader::run(&catalog, &reader_health, read_queue))?,
            spawn("raft-apply", &health, move || apply_thread.run(apply_queue))?,
        ];

        let reader = LogReader::new(Arc::clone(&cache), read_requests);
        let log_store = LogStore::new(config.node_id, cache, log_requests, reader, vote, alone);
        let state_machine = StateMachine::new(apply_requests.clone(), checkpointed.clone());
        let network = Network { store_path: config.dir.clone(), health: health.clone() };
        let raft_config = Arc::new(raft_config(config, alone));
        let raft = Raft::new(config.node_id, raft_config, network, log_store, state_machine)
            .await
            .map_err(|fatal| ConsensusError::Raft { source: Box::new(fatal) })?;

        let (proposals, queue) = mpsc::channel(batcher::PROPOSALS_MAX);
        tokio::spawn(batcher::run(raft.clone(), queue));
        let purging = tokio::spawn(state_machine::purge_behind_checkpoints(raft.clone(), checkpointed));
        tokio::spawn(tick(apply_requests.downgrade(), config.checkpoint_interval / 4));

        let inner = Inner {
            node_id: config.node_id,
            raft,
            store,
            proposals,
            apply: apply_requests,
            synced,
            applied,
            health,
            purging: Mutex::new(Some(purging)),
            threads: Mutex::new(threads),
        };
        let consensus = Self { inner: Arc::new(inner) };
        if is_new {
            consensus.initialize(config).await?;
        } else if alone {
            // Nobody to wait for.
            consensus.inner.raft.trigger().elect().await.map_err(raft_stopped)?;
        }
        Ok(consensus)
    }

    /// Writes the first entry: who the members are. Every member writes the same one.
    async fn initialize(&self, config: &ConsensusConfig) -> Result<(), ConsensusError> {
        let mut members: BTreeMap<u64, BasicNode> =
            config.peers.iter().map(|(id, address)| (*id, BasicNode::new(address))).collect();
        members.entry(config.node_id).or_default();
        match self.inner.raft.initialize(members).await {
            // Refused if a leader was quicker and has sent us the log.
            Ok(()) | Err(openraft::error::RaftError::APIError(_)) => Ok(()),
            Err(openraft::error::RaftError::Fatal(fatal)) => Err(raft_stopped(fatal)),
        }
    }

    /// Proposes a command. On return it is applied and on disk (of a quorum), or refused.
    pub async fn propose(&self, command: log::Command) -> Result<log::Reply, ProposeError> {
        self.submit(command, Level::Durable).await.map(|(reply, _)| reply)
    }

    /// Proposes a command and returns when it is applied and its entry is written to the log file, with its position
    /// in the log: the end of this process does not lose it. It is durable when [`Consensus::wait_synced`] returns
    /// for that position, at the latest a second later. What is durable is always a prefix of the log.
    pub async fn propose_relaxed(&self, command: log::Command) -> Result<(log::Reply, u64), ProposeError> {
        self.submit(command, Level::Written).await
    }

    async fn submit(&self, command: log::Command, level: Level) -> Outcome {
        let bytes = command.encoded_len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes, max: COMMAND_BYTES_MAX });
        }
        let (reply, outcome) = oneshot::channel();
        let proposal = Proposal { command, waiter: Waiter { reply, level } };
        self.inner.proposals.send(proposal).await.map_err(|_| ProposeError::Stopped)?;
        match outcome.await {
            Ok(outcome) => outcome,
            // The entry was cut off the log by another leader, or everything stopped.
            Err(_) if self.inner.health.failure().is_some() => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::NotLeader { leader: self.leader() }),
        }
    }

    /// Returns when everything that was answered before is on disk here.
    pub async fn sync(&self) -> Result<(), ProposeError> {
        let applied = *self.inner.applied.borrow();
        match applied {
            Some(last) => self.wait_synced(last.index).await,
            None => Ok(()),
        }
    }

    /// Returns when the entry at `index` is on disk here.
    pub async fn wait_synced(&self, index: u64) -> Result<(), ProposeError> {
        let mut synced = self.inner.synced.clone();
        match synced.wait_for(|next| *next > index).await {
            Ok(_) => Ok(()),
            Err(_) => Err(ProposeError::Stopped),
        }
    }

    /// All entries before this index are on disk here.
    pub fn synced(&self) -> u64 {
        *self.inner.synced.borrow()
    }

    /// The database, for [`crate::namesystem::Snapshot::open`]. It may be another one after a snapshot
    /// was installed: ask for each request.
    pub fn database(&self) -> Arc<Database> {
        self.inner.store.database()
    }

    /// Whether this node leads and has applied everything that earlier leaders committed.
    pub fn is_leader(&self) -> bool {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow();
        let applied = self.inner.applied.borrow().map(|id| id.leader_id);
        metrics.state == ServerState::Leader && applied == Some(metrics.vote.leader_id)
    }

    /// "host:port" of the leader, if it is known; empty addresses (a node alone) count as unknown.
    pub fn leader(&self) -> Option<String> {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow();
        let node = metrics.membership_config.membership().get_node(&metrics.current_leader?)?;
        Some(node.addr.clone()).filter(|address| !address.is_empty())
    }

    /// Returns when this node leads (see [`Consensus::is_leader`]) or knows another leader.
    pub async fn wait_for_leader(&self, patience: Duration) -> Result<(), ConsensusError> {
        let mut metrics = self.inner.raft.server_metrics();
        let mut applied = self.inner.applied.clone();
        let mut failure = self.inner.health.watch();
        let wait = async {
            loop {
                let leader = metrics.borrow_and_update().current_leader;
                applied.borrow_and_update();
                if leader.is_some_and(|id| id != self.inner.node_id) || self.is_leader() {
                    return Ok(());
                }
                if failure.borrow_and_update().is_some() {
                    return Err(ConsensusError::Stopped);
                }
                let changed = tokio::select! {
                    changed = metrics.changed() => changed,
                    changed = applied.changed() => changed,
                    changed = failure.changed() => changed,
                };
                changed.map_err(|_| ConsensusError::Stopped)?;
            }
        };
        let waited_ms = config::millis(patience);
        tokio::time::timeout(patience, wait).await.unwrap_or(Err(ConsensusError::NoLeader { waited_ms }))
    }

    /// Returns when the log or the store has failed: then nothing can be proposed any more, and the
    /// process should end. Pending forever otherwise.
    pub async fn failed(&self) -> Arc<ConsensusError> {
        let mut failure = self.inner.health.watch();
        loop {
            if let Some(error) = failure.borrow_and_update().clone() {
                return error;
            }
            if failure.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The gRPC service for other namenodes.
    pub fn raft_service(&self) -> RaftProtocolServer<RaftService> {
        let inner = &self.inner;
        let received = inner.store.received_path();
        let service = RaftService::new(inner.node_id, inner.raft.clone(), received, inner.health.clone());
        RaftProtocolServer::new(service)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Stops: proposals under way are finished or refused, the log is synced and the state is made
    /// durable. The directory is free when also all clones and databases taken from them are dropped.
    /// The second call does nothing.
    pub async fn shutdown(&self) {
        let threads = std::mem::take(&mut *self.inner.threads.lock().unwrap_or_else(PoisonError::into_inner));
        if threads.is_empty() {
            return;
        }
        // A checkpoint made while openraft stops would be told to nobody.
        let purging = self.inner.purging.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(purging) = purging {
            purging.abort();
            // Cancelled, which is what was asked for.
            let _ = purging.await;
        }
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        let (done, finished) = oneshot::channel();
        if self.inner.apply.send(ApplyRequest::Finish(done)).await.is_ok() {
            // An error means that the store failed, which was logged.
            let _ = finished.await;
        }
        for ended in threads {
            let _ = ended.await;
        }
    }
}

impl Drop for Inner {
    /// Ends openraft's tasks, which would otherwise keep the threads and the directory for ever.
    fn drop(&mut self) {
        let was_shut_down = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).is_empty();
        if let Ok(runtime) = Handle::try_current()
            && !was_shut_down
        {
            let raft = self.raft.clone();
            runtime.spawn(async move { raft.shutdown().await });
        }
    }
}

fn raft_stopped(fatal: openraft::error::Fatal<u64>) -> ConsensusError {
    ConsensusError::Raft { source: Box::new(fatal) }
}

fn raft_config(config: &ConsensusConfig, alone: bool) -> openraft::Config {
    let election = config::millis(config.election);
    openraft::Config {
        cluster_name: "dfs".to_owned(),
        heartbeat_interval: config::millis(config.heartbeat),
        election_timeout_min: election,
        election_timeout_max: 2 * election,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: if alone { 0 } else { config.keep_entries },
        ..openraft::Config::default()
    }
}

/// Reminds the apply thread of the time until that has ended.
fn tick(apply: mpsc::WeakSender<ApplyRequest>, period: Duration) -> impl Future<Output = ()> {
    let mut interval = tokio::time::interval(period.max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    async move {
        loop {
            interval.tick().await;
            let Some(apply) = apply.upgrade() else { return };
            if apply.send(ApplyRequest::Tick).await.is_err() {
                return;
            }
        }
    }
}
