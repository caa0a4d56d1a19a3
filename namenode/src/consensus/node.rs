//! A namenode's part in consensus: starting it, proposing, stopping it.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use dfs_proto::v1::LogPosition;
use openraft::BasicNode;
use prost::Message;
use redb::ReadTransaction;
use tokio::sync::{mpsc, oneshot, watch};

use super::acks::Acks;
use super::alone::{Alone, Parts};
use super::applier::{Applier, CheckpointPolicy, OnEffects};
use super::batch::{Level, Outcome};
use super::batcher::COMMAND_BYTES_MAX;
use super::config::{self, ConsensusConfig};
use super::dir_lock::DirLock;
use super::durable_file;
use super::error::{ConsensusError, ProposeError};
use super::flusher::Flusher;
use super::health::Health;
use super::log_cache::CACHE_BYTES_MAX;
use super::member::Member;
use super::network::MESSAGE_BYTES_MAX;
use super::page_cache;
use super::raft_service::RaftService;
use super::raft_types::{self, LogId, Membership, Vote};
use super::room::{self, DiskRoom};
use super::segment::EntryId;
use super::segmented_log::{Recovered, SegmentedLog};
use super::snapshot;
use super::state_store::{Position, StateStore};
use super::terms::Terms;
use super::threads::spawn;
use super::vote_file::{self, VoteFile};
use crate::log;
use crate::log::raft_protocol_server::RaftProtocolServer;
use crate::namesystem::Store;

/// A running member of consensus. Clones share it; when the last one is dropped without
/// [`Consensus::shutdown`], it stops as if the process had been killed.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    node_id: u64,
    role: Role,
    store: StateStore,
    synced: watch::Receiver<u64>,
    applied: watch::Receiver<Option<LogId>>,
    terms: Arc<RwLock<Terms>>,
    health: Health,
    /// Each closes when a thread ends.
    threads: Mutex<Vec<oneshot::Receiver<()>>>,
}

/// With whom log and state are kept.
enum Role {
    Alone(Arc<Alone>),
    Member(Member),
}

/// What opening the directory yields.
pub struct Opened {
    /// Lock of the directory.
    pub lock: Arc<DirLock>,
    /// Where votes are saved.
    pub votes: VoteFile,
    /// The last vote.
    pub vote: Vote,
    /// State.
    pub store: StateStore,
    /// How far the log is applied in it.
    pub position: Position,
    /// Log.
    pub log: SegmentedLog,
    /// What was found in it.
    pub recovered: Recovered,
    /// Nothing was ever written.
    pub is_new: bool,
}

fn open(config: &ConsensusConfig) -> Result<Opened, ConsensusError> {
    durable_file::make_dir(&config.dir)?;
    vote_file::check_directory(&config.dir)?;
    let lock = Arc::new(DirLock::take(&config.dir)?);
    room::release_reserve(&config.dir);
    page_cache::renew(&config.dir)?;
    let (votes, vote) = VoteFile::open(&config.dir, config.node_id)?;
    let (store, position) = StateStore::open(&config.dir, config.cache_bytes, config.layer_bytes)?;
    let (log, recovered) = SegmentedLog::open(
        config.dir.join("log"),
        config.segment_bytes,
        CACHE_BYTES_MAX,
        position.next_index(),
    )?;
    room::keep_reserve(&config.dir);
    let is_new = recovered.last.is_none() && position.last.is_none();
    Ok(Opened { lock, votes, vote, store, position, log, recovered, is_new })
}

/// The membership of a log that has none yet, if this node is alone in it.
fn first_membership(config: &ConsensusConfig) -> Option<Membership> {
    let address = match config.peers.len() {
        0 => String::new(),
        1 => config.peers.get(&config.node_id)?.clone(),
        _ => return None,
    };
    let voters = [config.node_id].into();
    Some(Membership::new(
        vec![voters],
        std::collections::BTreeMap::from([(config.node_id, BasicNode::new(address))]),
    ))
}

/// What both roles are made of.
struct Ready {
    opened: Opened,
    applier: Applier,
    acks: Acks,
}

/// Opens the directory and, on a node that is alone, brings the state up to date.
fn prepare(
    config: &ConsensusConfig,
    on_effects: OnEffects,
    health: &Health,
) -> Result<(Result<Arc<Alone>, Ready>, Watches), ConsensusError> {
    let opened = open(config)?;
    let acks = Acks::new(opened.log.synced());
    let policy = CheckpointPolicy {
        commands: config.checkpoint_commands,
        bytes: config.checkpoint_bytes,
        interval: config.checkpoint_interval,
    };
    let flusher = Flusher::start(health)?;
    let disk = DiskRoom::new(&config.dir, config.checkpoint_room_bytes);
    let (store, position) = (opened.store.clone(), opened.position.clone());
    let applier = Applier::new(store, position, on_effects, policy, flusher, disk);
    let watches = Watches {
        store: opened.store.clone(),
        synced: acks.watch(),
        applied: applier.watch(),
        terms: applier.terms(),
    };
    let membership =
        opened.recovered.membership.as_ref().unwrap_or_else(|| opened.position.membership.membership());
    let first = if opened.is_new { first_membership(config) } else { None };
    if first.is_none() && !raft_types::is_alone(membership, config.node_id) {
        return Ok((Err(Ready { opened, applier, acks }), watches));
    }
    let Opened { lock, votes, vote, log, position, .. } = opened;
    log.check_reaches(position.next_index())?;
    let alone = Alone::open(Parts {
        node_id: config.node_id,
        log,
        votes: (votes, vote),
        applier,
        first,
        lock,
        acks,
        health: health.clone(),
        checkpoint_interval: config.checkpoint_interval,
    })?;
    Ok((Ok(alone), watches))
}

/// What the outside looks at.
struct Watches {
    store: StateStore,
    synced: watch::Receiver<u64>,
    applied: watch::Receiver<Option<LogId>>,
    terms: Arc<RwLock<Terms>>,
}

impl Consensus {
    /// Opens log and state (making them in an empty directory) and brings the state up to date; with other nodes,
    /// starts Raft. `on_effects` is called after each committed transaction, in order, also for entries that
    /// are applied again after a crash. See [`Consensus::wait_for_leader`].
    pub async fn start(config: ConsensusConfig, on_effects: OnEffects) -> Result<Self, ConsensusError> {
        config.validate()?;
        let health = Health::new();
        let (answer, prepared) = oneshot::channel();
        let (opening, opening_health) = (config.clone(), health.clone());
        spawn("raft-open", &health, move || {
            let _ = answer.send(prepare(&opening, on_effects, &opening_health));
        })?;
        let (role, watches) = prepared.await.map_err(|_| ConsensusError::Stopped)??;
        let started = match role {
            Ok(alone) => {
                let thread = alone.clone();
                spawn("raft-log", &health, move || thread.run())
                    .map(|ended| (Role::Alone(alone), vec![ended]))
            }
            Err(Ready { opened, applier, acks }) => {
                let started = Member::start(&config, opened, applier, acks, &health).await;
                started.map(|(member, threads)| (Role::Member(member), threads))
            }
        };
        let (role, threads) = match started {
            Ok(started) => started,
            // The thread that failed knows better than openraft why.
            Err(error) => return Err(health.failure().and_then(Arc::into_inner).unwrap_or(error)),
        };
        let Watches { store, synced, applied, terms } = watches;
        // From here on there is somebody to serve, if only readers.
        store.room().begin();
        let threads = Mutex::new(threads);
        let inner = Inner { node_id: config.node_id, role, store, synced, applied, terms, health, threads };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Proposes a command. On return it is applied and on disk (of a quorum), or refused.
    pub async fn propose(&self, command: log::Command) -> Result<log::Reply, ProposeError> {
        self.submit(command, Level::Durable).await.map(|(reply, _)| reply)
    }

    /// Proposes a command and returns when it is applied and its entry is written to the log file, with its position
    /// in the log: the end of this process does not lose it. It is durable when [`Consensus::wait_synced`] returns
    /// for that position, at the latest a second later. What is durable is always a prefix of the log. Whether it was lost before
    /// that, [`Consensus::has`] tells.
    pub async fn propose_relaxed(
        &self,
        command: log::Command,
    ) -> Result<(log::Reply, LogPosition), ProposeError> {
        let (reply, id) = self.submit(command, Level::Written).await?;
        Ok((reply, raft_types::position(&id)))
    }

    /// As [`Consensus::propose_relaxed`], for commands that are carried out in their order. An outcome for each: one that is
    /// refused does not keep the next ones from being carried out.
    pub async fn propose_all_relaxed(
        &self,
        commands: Vec<log::Command>,
    ) -> Vec<Result<(log::Reply, LogPosition), ProposeError>> {
        let outcomes = self.submit_all(commands).await.into_iter();
        outcomes.map(|outcome| outcome.map(|(reply, id)| (reply, raft_types::position(&id)))).collect()
    }

    async fn submit_all(&self, commands: Vec<log::Command>) -> Vec<Outcome> {
        let bytes = commands.iter().map(Message::encoded_len).max().unwrap_or(0);
        if bytes > COMMAND_BYTES_MAX {
            let too_large = || Err(ProposeError::TooLarge { bytes, max: COMMAND_BYTES_MAX });
            return commands.iter().map(|_| too_large()).collect();
        }
        match &self.inner.role {
            Role::Alone(alone) => alone.propose_all(commands, Level::Written).await,
            Role::Member(member) => member.propose_all(commands, Level::Written, &self.inner.health).await,
        }
    }

    async fn submit(&self, command: log::Command, level: Level) -> Outcome {
        let bytes = command.encoded_len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes, max: COMMAND_BYTES_MAX });
        }
        match &self.inner.role {
            Role::Alone(alone) => alone.propose(command, level).await,
            Role::Member(member) => member.propose(command, level, &self.inner.health).await,
        }
    }

    /// Whether this entry is in the log, with all that was before it when it was made. Answered by who leads, who has everything that
    /// was ever committed.
    pub fn has(&self, position: &LogPosition) -> Result<bool, ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        let LogPosition { term, node_id, index } = *position;
        let applied = *self.inner.applied.borrow();
        let terms = self.inner.terms.read().unwrap_or_else(PoisonError::into_inner);
        Ok(terms.contains(applied.as_ref(), &EntryId { term, node_id, index }))
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
        if *synced.borrow() > index {
            return Ok(());
        }
        if let Role::Alone(alone) = &self.inner.role {
            alone.want_sync();
        }
        let mut failure = self.inner.health.watch();
        tokio::select! {
            reached = synced.wait_for(|next| *next > index) => match reached {
                Ok(_) => Ok(()),
                Err(_) => Err(ProposeError::Stopped),
            },
            _ = failure.wait_for(Option::is_some) => Err(ProposeError::Stopped),
        }
    }

    /// All entries before this index are on disk here.
    pub fn synced(&self) -> u64 {
        *self.inner.synced.borrow()
    }

    /// The state as redb's own transaction, and how far the log is applied in it; what that says is on disk in the log.
    /// Blocks on the disk.
    pub fn begin_backup(&self) -> Result<(ReadTransaction, Position), ConsensusError> {
        self.inner.store.begin_backup()
    }

    /// Starts a thread that streams the rows of a state; see [`Consensus::begin_backup`].
    pub fn stream_rows(
        &self,
        txn: ReadTransaction,
    ) -> Result<mpsc::Receiver<log::RaftSnapshotPart>, ConsensusError> {
        snapshot::send(txn, self.inner.store.path().to_owned(), self.inner.health.clone())
    }

    /// Keeps room for a start on a full disk again, if there is enough now. Blocks on the disk.
    pub fn keep_reserve(&self) {
        if let Some(dir) = self.inner.store.path().parent() {
            room::keep_reserve(dir);
        }
    }

    /// The namespace, for [`crate::namesystem::Snapshot::open`]. It may be another one after a snapshot
    /// was installed: ask for each request.
    pub fn store(&self) -> Arc<Store> {
        self.inner.store.rows()
    }

    /// Whether this node leads and has applied everything that earlier leaders committed.
    pub fn is_leader(&self) -> bool {
        match &self.inner.role {
            Role::Alone(alone) => alone.serves(),
            Role::Member(member) => member.is_leader(),
        }
    }

    /// "host:port" of the leader, if it is known; a node alone has no address.
    pub fn leader(&self) -> Option<String> {
        match &self.inner.role {
            Role::Alone(_) => None,
            Role::Member(member) => member.leader(),
        }
    }

    /// Returns when this node leads (see [`Consensus::is_leader`]) or knows another leader.
    pub async fn wait_for_leader(&self, patience: Duration) -> Result<(), ConsensusError> {
        let Role::Member(member) = &self.inner.role else { return Ok(()) };
        let waited_ms = config::millis(patience);
        let wait = member.wait_for_leader(&self.inner.health);
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
        let raft = match &inner.role {
            Role::Alone(_) => None,
            Role::Member(member) => Some(member.raft().clone()),
        };
        let received = inner.store.received_path();
        let service = RaftService::new(inner.node_id, raft, received, inner.health.clone());
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
        self.inner.store.room().end();
        match &self.inner.role {
            Role::Alone(alone) => alone.end(true),
            Role::Member(member) => member.shutdown().await,
        }
        for ended in threads {
            let _ = ended.await;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.store.room().end();
        if let Role::Alone(alone) = &self.role {
            // Does nothing after a shutdown.
            alone.end(false);
        }
    }
}
