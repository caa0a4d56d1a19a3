//! What all benchmarks share: the client, the processes' clocks and a directory of their own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use dfs_client::{DfsClient, MkdirOptions};
use dfs_proto::v1;
use indicatif::ProgressBar;

use super::cpu::CpuClocks;
use super::servers;
use crate::cluster::processes::LocalCluster;
use crate::exit::message;
use crate::globals::Globals;

/// Longest wait for the cluster to free what was deleted, before the next measurement begins.
const SETTLE_MAX: Duration = Duration::from_secs(15);

/// Time between two looks at what is still to be freed.
const SETTLE_POLL: Duration = Duration::from_millis(100);

/// Space that may stay in use beyond what files need: checksums, partial figures of heartbeats.
const SETTLE_SLACK_BYTES: u64 = 64 << 20;

/// Longest wait for the removal of the benchmark's directory.
const REMOVE_MAX: Duration = Duration::from_secs(20);

/// A connected benchmark.
pub struct Session {
    /// The client that all callers share.
    pub client: DfsClient,
    /// Clocks of the servers.
    pub clocks: CpuClocks,
    /// What is being done, for people.
    pub progress: ProgressBar,
    live_datanodes: usize,
    used_at_start: u64,
    /// Whether the message about slow deletions was printed.
    said_late: AtomicBool,
}

/// How full the cluster was at some moment.
#[derive(Clone, Copy, Debug)]
pub struct Occupancy {
    inodes: u64,
    blocks: u64,
    pending_deletions_max: u64,
    used_max: u64,
}

impl Session {
    /// Connects and finds the servers' processes.
    pub async fn open(globals: &Globals, local: Option<&LocalCluster>) -> anyhow::Result<Self> {
        if cfg!(debug_assertions) {
            message(format_args!("bench: this is a debug build: its figures say little"));
        }
        let client = globals.connect().await?;
        let datanodes = client.datanodes().await?;
        let clocks = servers::clocks(&globals.namenode, &datanodes, local).await;
        if !clocks.complete() {
            message(format_args!(
                "bench: not all servers' processes are known: their processor time is not shown"
            ));
        }
        let live = |report: &&v1::DatanodeReport| {
            report.info.as_ref().is_some_and(|info| info.state() == v1::DatanodeState::Live)
        };
        let stats = client.stats().await?;
        Ok(Self {
            clocks,
            progress: ProgressBar::no_length(),
            live_datanodes: datanodes.iter().filter(live).count(),
            used_at_start: stats.used,
            said_late: false.into(),
            client,
        })
    }

    /// Datanodes that can take blocks.
    pub fn live_datanodes(&self) -> usize {
        self.live_datanodes
    }

    /// Tells what is being done now.
    pub fn step(&self, what: String) {
        self.progress.set_message(what);
        self.progress.tick();
    }

    /// Makes a directory.
    pub async fn mkdir(&self, path: &str) -> anyhow::Result<()> {
        self.client.mkdir(path, MkdirOptions::default()).await?;
        Ok(())
    }

    /// How full the namespace is now. Blocks without data, which empty files had while they were open, are
    /// no matter.
    pub async fn namespace_occupancy(&self) -> anyhow::Result<Occupancy> {
        let stats = self.client.stats().await?;
        let (inodes, blocks) = (stats.inodes, stats.blocks);
        Ok(Occupancy { inodes, blocks, pending_deletions_max: u64::MAX, used_max: u64::MAX })
    }

    /// How full the cluster is now, when `live_bytes` (replicas included) of this benchmark's files are
    /// to stay. Space in use is what datanodes last told, which may be a heartbeat ago: so it is
    /// computed from the figure before the benchmark began.
    pub async fn occupancy(&self, live_bytes: u64) -> anyhow::Result<Occupancy> {
        let stats = self.client.stats().await?;
        Ok(Occupancy {
            inodes: stats.inodes,
            blocks: stats.blocks,
            pending_deletions_max: stats.pending_deletion_blocks,
            used_max: self.used_at_start + live_bytes + live_bytes / 16 + SETTLE_SLACK_BYTES,
        })
    }

    /// Waits until everything made since `before` and deleted again is really gone, so that one
    /// measurement does not pay for the deletions of another. Gives up, with a message, after a while.
    pub async fn settle(&self, before: Occupancy) -> anyhow::Result<()> {
        let deadline = Instant::now() + SETTLE_MAX;
        loop {
            let now = self.client.stats().await?;
            let gone = now.inodes <= before.inodes
                && now.blocks <= before.blocks
                && now.pending_deletion_blocks <= before.pending_deletions_max
                && now.used <= before.used_max;
            if gone {
                return Ok(());
            }
            if Instant::now() >= deadline {
                if !self.said_late.swap(true, Ordering::Relaxed) {
                    message(format_args!(
                        "bench: deleted files are not freed after {} s, or others use the cluster; going on",
                        SETTLE_MAX.as_secs()
                    ));
                }
                return Ok(());
            }
            tokio::time::sleep(SETTLE_POLL).await;
        }
    }
}

/// A directory of the benchmark's own.
pub struct OwnDirectory {
    path: String,
}

impl OwnDirectory {
    /// Makes it below `parent` (empty for the root).
    pub async fn create(session: &Session, parent: &str) -> anyhow::Result<Self> {
        let path = format!("{parent}/dfs-bench-{}", uuid::Uuid::new_v4().simple());
        session.mkdir(&path).await?;
        Ok(Self { path })
    }

    /// Its path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Removes it with all below it; says so if that fails, since a person must do it then.
    pub async fn remove(self, session: &Session) {
        let removal = session.client.delete(&self.path, true);
        let outcome = match tokio::time::timeout(REMOVE_MAX, removal).await {
            Ok(result) => result.map_err(anyhow::Error::from),
            Err(late) => Err(late.into()),
        };
        if let Err(error) = outcome {
            message(format_args!("bench: cannot remove {}: {error:#}", self.path));
        }
    }
}

/// Completes when the user or the system asks this process to end.
pub async fn interrupted() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot watch for SIGHUP")?;
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => outcome.context("cannot watch for SIGINT"),
        _ = terminate.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    }
}
