//! A namenode among several: openraft, its tasks and threads.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::{BasicNode, Raft, ServerState, SnapshotPolicy};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::acks::Acks;
use super::applier::Applier;
use super::apply_thread::{self, ApplyRequest, ApplyThread};
use super::batch::{Level, Outcome, Waiter};
use super::batcher::{self, Proposal};
use super::catalog::Catalog;
use super::config::{self, ConsensusConfig};
use super::error::{ConsensusError, ProposeError};
use super::health::Health;
use super::log_cache::LogCache;
use super::log_reader::{self, LogReader};
use super::log_store::LogStore;
use super::log_thread::{self, LogThread};
use super::network::Network;
use super::node::Opened;
use super::raft_types::{LogId, TypeConfig};
use super::state_machine::{self, StateMachine};
use super::threads::spawn;
use crate::log;

/// See the module. Dropped without [`Member::shutdown`], it stops as if the process had been killed.
pub struct Member {
    node_id: u64,
    raft: Raft<TypeConfig>,
    proposals: mpsc::Sender<Proposal>,
    apply: mpsc::Sender<ApplyRequest>,
    applied: watch::Receiver<Option<LogId>>,
    /// Has openraft purge the log behind checkpoints; nothing after a shutdown.
    purging: Mutex<Option<JoinHandle<()>>>,
}

impl Member {
    /// Starts Raft and its threads; each receiver closes when one of them ends.
    pub async fn start(
        config: &ConsensusConfig,
        opened: Opened,
        applier: Applier,
        acks: Acks,
        health: &Health,
    ) -> Result<(Self, Vec<oneshot::Receiver<()>>), ConsensusError> {
        let Opened { lock, votes, vote, position, log, recovered, is_new, .. } = opened;
        let acks = Arc::new(acks);
        let catalog: Arc<Catalog> = log.catalog();
        let cache = Arc::new(Mutex::new(LogCache::new(recovered.previous, recovered.last, recovered.tail)));
        let (log_requests, log_queue) = mpsc::channel(log_thread::REQUESTS_MAX);
        let (read_requests, read_queue) = mpsc::channel(log_reader::REQUESTS_MAX);
        let (apply_requests, apply_queue) = mpsc::channel(apply_thread::REQUESTS_MAX);
        let applied = applier.watch();
        let (checkpointed_sender, checkpointed) = watch::channel(position.clone());

        let log_thread = LogThread {
            log,
            votes,
            cache: Arc::clone(&cache),
            acks: Arc::clone(&acks),
            health: health.clone(),
            lock: Arc::clone(&lock),
        };
        let apply_thread =
            ApplyThread { applier, acks, health: health.clone(), checkpointed: checkpointed_sender, lock };
        let reader_health = health.clone();
        let threads = vec![
            spawn("raft-log", health, move || log_thread.run(log_queue))?,
            spawn("raft-log-reader", health, move || log_reader::run(&catalog, &reader_health, read_queue))?,
            spawn("raft-apply", health, move || apply_thread.run(apply_queue))?,
        ];

        let reader = LogReader::new(Arc::clone(&cache), read_requests);
        let log_store = LogStore::new(config.node_id, cache, log_requests, reader, vote, false);
        let state_machine = StateMachine::new(apply_requests.clone(), checkpointed.clone());
        let network = Network { store_path: config.dir.clone(), health: health.clone() };
        let raft_config = Arc::new(raft_config(config));
        let raft = Raft::new(config.node_id, raft_config, network, log_store, state_machine)
            .await
            .map_err(|fatal| ConsensusError::Raft { source: Box::new(fatal) })?;

        let (proposals, queue) = mpsc::channel(batcher::PROPOSALS_MAX);
        tokio::spawn(batcher::run(raft.clone(), queue));
        let purging = tokio::spawn(state_machine::purge_behind_checkpoints(raft.clone(), checkpointed));
        tokio::spawn(tick(apply_requests.downgrade(), config.checkpoint_interval / 4));

        let member = Self {
            node_id: config.node_id,
            raft,
            proposals,
            apply: apply_requests,
            applied,
            purging: Mutex::new(Some(purging)),
        };
        if is_new {
            member.initialize(config).await?;
        }
        Ok((member, threads))
    }

    /// Writes the first entry: who the members are. Every member writes the same one.
    async fn initialize(&self, config: &ConsensusConfig) -> Result<(), ConsensusError> {
        let mut members: BTreeMap<u64, BasicNode> =
            config.peers.iter().map(|(id, address)| (*id, BasicNode::new(address))).collect();
        members.entry(config.node_id).or_default();
        match self.raft.initialize(members).await {
            // Refused if a leader was quicker and has sent us the log.
            Ok(()) | Err(openraft::error::RaftError::APIError(_)) => Ok(()),
            Err(openraft::error::RaftError::Fatal(fatal)) => Err(raft_stopped(fatal)),
        }
    }

    /// Has a command put into the log.
    pub async fn propose(&self, command: log::Command, level: Level, health: &Health) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        let proposal = Proposal { command, waiter: Waiter { reply, level } };
        self.proposals.send(proposal).await.map_err(|_| ProposeError::Stopped)?;
        self.outcome(outcome, health).await
    }

    /// Has commands put into the log in their order.
    pub async fn propose_all(
        &self,
        commands: Vec<log::Command>,
        level: Level,
        health: &Health,
    ) -> Vec<Outcome> {
        let mut waiting = Vec::with_capacity(commands.len());
        for command in commands {
            let (reply, outcome) = oneshot::channel();
            let proposal = Proposal { command, waiter: Waiter { reply, level } };
            let sent = self.proposals.send(proposal).await;
            waiting.push(sent.map(|()| outcome).map_err(|_| ProposeError::Stopped));
        }
        let mut outcomes = Vec::with_capacity(waiting.len());
        for outcome in waiting {
            outcomes.push(match outcome {
                Ok(outcome) => self.outcome(outcome, health).await,
                Err(stopped) => Err(stopped),
            });
        }
        outcomes
    }

    async fn outcome(&self, outcome: oneshot::Receiver<Outcome>, health: &Health) -> Outcome {
        match outcome.await {
            Ok(outcome) => outcome,
            // The entry was cut off the log by another leader, or everything stopped.
            Err(_) if health.failure().is_some() => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::NotLeader { leader: self.leader() }),
        }
    }

    /// The Raft.
    pub const fn raft(&self) -> &Raft<TypeConfig> {
        &self.raft
    }

    /// Whether this node leads and has applied everything that earlier leaders committed.
    pub fn is_leader(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let applied = self.applied.borrow().map(|id| id.leader_id);
        metrics.state == ServerState::Leader && applied == Some(metrics.vote.leader_id)
    }

    /// "host:port" of the leader, if it is known.
    pub fn leader(&self) -> Option<String> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let node = metrics.membership_config.membership().get_node(&metrics.current_leader?)?;
        Some(node.addr.clone()).filter(|address| !address.is_empty())
    }

    /// Returns when this node leads or knows another leader.
    pub async fn wait_for_leader(&self, health: &Health) -> Result<(), ConsensusError> {
        let mut metrics = self.raft.server_metrics();
        let mut applied = self.applied.clone();
        let mut failure = health.watch();
        loop {
            let leader = metrics.borrow_and_update().current_leader;
            applied.borrow_and_update();
            if leader.is_some_and(|id| id != self.node_id) || self.is_leader() {
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
    }

    /// Stops: proposals under way are finished or refused, the log is synced and the state is made durable.
    pub async fn shutdown(&self) {
        // A checkpoint made while openraft stops would be told to nobody.
        let purging = self.purging.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(purging) = purging {
            purging.abort();
            // Cancelled, which is what was asked for.
            let _ = purging.await;
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        let (done, finished) = oneshot::channel();
        if self.apply.send(ApplyRequest::Finish(done)).await.is_ok() {
            // An error means that the store failed, which was logged.
            let _ = finished.await;
        }
    }
}

impl Drop for Member {
    /// Ends openraft's tasks, which would otherwise keep the threads and the directory for ever.
    fn drop(&mut self) {
        let was_shut_down = self.purging.get_mut().unwrap_or_else(PoisonError::into_inner).is_none();
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

fn raft_config(config: &ConsensusConfig) -> openraft::Config {
    let election = config::millis(config.election);
    openraft::Config {
        cluster_name: "dfs".to_owned(),
        heartbeat_interval: config::millis(config.heartbeat),
        election_timeout_min: election,
        election_timeout_max: 2 * election,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: config.keep_entries,
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
