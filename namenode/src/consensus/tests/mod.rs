//! Tests of consensus as a whole.

mod cluster;
mod damage;
mod fuzz;
mod log_files;
mod lost;
mod single;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dfs_proto::InodeId;
use dfs_proto::v1::NodeRef;

use super::{Consensus, ConsensusConfig, OnEffects};
use crate::log::command::Op;
use crate::log::{Command, InitializeOp, MkdirOp};
use crate::namesystem::{Effect, Snapshot};

/// Longest wait for anything; only a defect takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two looks at what is waited for.
const POLL: Duration = Duration::from_millis(5);

fn command(op: Op) -> Command {
    Command { now_ns: 1, op: Some(op), ..Command::default() }
}

fn initialize() -> Command {
    command(Op::Initialize(InitializeOp {
        cluster_id: "cluster".into(),
        block_pool_id: "pool".into(),
        superuser: "root".into(),
        supergroup: "wheel".into(),
    }))
}

fn node(path: &str) -> NodeRef {
    NodeRef { base: InodeId::ROOT.get(), path: path.as_bytes().to_vec().into() }
}

fn mkdir(path: &str) -> Command {
    command(Op::Mkdir(MkdirOp { node: Some(node(path)), mode: 0o755, create_parents: false }))
}

/// Small sizes, so that segments, checkpoints and purging happen often.
fn small(dir: &std::path::Path, node_id: u64) -> ConsensusConfig {
    ConsensusConfig {
        cache_bytes: 4 << 20,
        layer_bytes: 4 << 10,
        segment_bytes: 4 << 10,
        checkpoint_commands: 50,
        keep_entries: 20,
        heartbeat: Duration::from_millis(50),
        election: Duration::from_millis(300),
        ..ConsensusConfig::new(dir, node_id)
    }
}

fn ignore_effects() -> OnEffects {
    Arc::new(|_| ())
}

/// Collects effects.
#[derive(Clone, Default)]
struct Effects(Arc<Mutex<Vec<Effect>>>);

impl Effects {
    fn sink(&self) -> OnEffects {
        let effects = Arc::clone(&self.0);
        Arc::new(move |more| effects.lock().unwrap_or_else(PoisonError::into_inner).extend(more))
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Whether a directory exists in the state of a node.
fn exists(consensus: &Consensus, path: &str) -> bool {
    let snapshot = Snapshot::open(&consensus.store());
    let caller = crate::log::Caller { user: "root".into(), groups: Vec::new(), superuser: true };
    snapshot.stat(&caller, &node(path)).is_ok()
}

/// Waits for a condition.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Starts a node that is alone, and waits until it leads. The directory may still be locked by a node
/// that was dropped a moment ago.
async fn start(config: ConsensusConfig) -> Consensus {
    let deadline = Instant::now() + PATIENCE;
    let consensus = loop {
        match Consensus::start(config.clone(), ignore_effects()).await {
            Err(super::ConsensusError::Locked { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(POLL).await;
            }
            other => break other.expect("started"),
        }
    };
    consensus.wait_for_leader(PATIENCE).await.expect("leads");
    consensus
}
