//! Moves blocks from full datanodes to empty ones: the state of it, its settings, and the passing of time.
//!
//! A move is a copy, and once the copy has arrived the deletion of one particular other replica. Two things start moves: a
//! *run*, which an administrator asks for, and the *background*, which is always on unless its bandwidth is 0. Both
//! work in iterations, as HDFS's balancer does: at the beginning of one, datanodes that are to give and to take bytes are
//! chosen (`utilization`); during one, a walk over the block map finds blocks for them (`moves`).
//!
//! Nothing here is durable: a namenode that starts has no run. A run ends by itself when nobody has looked at it for
//! [`FORSAKEN_MS`], so that no run goes on that nobody knows of.
//!
//! Invariants:
//! 1. Only a block that lacks nothing is moved: complete, exactly the wanted number of replicas, all of them good and on
//!    datanodes that are not stale, in no queue, no copy ordered, no replica suspected.
//! 2. The replica at the source is ordered to be deleted only when the copy was reported, and then only if without it as
//!    many good replicas as wanted stay on datanodes that are not stale, and no fewer racks and data centres than with it.
//! 3. Repair comes first: a datanode that sends or receives copies for repair is neither source nor target of new moves,
//!    and nothing is planned while a dead datanode's blocks are being gone through.

use std::collections::BTreeMap;

use dfs_proto::{BlockId, GenerationStamp, v1};

use super::block_manager::BlockManager;
use super::datanode_manager::{CopyLoad, Liveness, NodeIndex, StorageIndex};
use super::utilization::Shares;

/// Bandwidth of a run unless it asks for another: HDFS's `dfs.datanode.balance.bandwidthPerSec`.
pub const RUN_BANDWIDTH: u64 = 100 << 20;

/// Least bandwidth that can be set: below, a packet of several copies at once would look like a silent peer.
pub const BANDWIDTH_MIN: u64 = 256 << 10;

/// A run that nobody has looked at for this long ends.
pub const FORSAKEN_MS: u64 = 60_000;

/// Iterations of a run in a row that move nothing, after which it ends (HDFS's number).
const IDLE_ITERATIONS_MAX: u32 = 5;

/// A heartbeat that arrives so long after the beginning of a run has figures from after it: how long one may have been on its way.
const HEARTBEAT_TRAVEL_MS: u64 = 100;

/// Milliseconds of unused bandwidth that a datanode keeps: a few ticks.
const CREDIT_MS: u64 = 3_000;

/// One move.
#[derive(Clone, Debug)]
pub(super) struct Move {
    pub(super) source: StorageIndex,
    pub(super) target: StorageIndex,
    /// Datanodes of the two, whose accounts the move is on; a storage can be carried to another one.
    pub(super) from: NodeIndex,
    /// See `from`.
    pub(super) to: NodeIndex,
    pub(super) bytes: u64,
    pub(super) stamp: GenerationStamp,
    /// When it is given up.
    pub(super) deadline: u64,
    /// Of a run, and not of the background.
    pub(super) of_run: bool,
    pub(super) phase: Phase,
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The source has not been told.
    Planned,
    /// The source has been told.
    Sent,
    /// The copy is there, the deletion is ordered and not confirmed.
    Leaving,
}

/// One choice of sources and targets, and the search for blocks.
#[derive(Debug)]
pub(super) struct Iteration {
    /// What is to be sent and received.
    pub(super) shares: Shares,
    /// Next block to look at.
    pub(super) cursor: BlockId,
    /// Blocks smaller than this are passed over.
    pub(super) least_bytes: u64,
    /// Something was planned, or only waits for bandwidth, since the walk began at the lowest block.
    pub(super) fruitful: bool,
    /// No further block is looked for.
    pub(super) searched: bool,
    /// Bytes planned in it.
    pub(super) planned_bytes: u64,
}

/// A run.
#[derive(Clone, Debug)]
struct Run {
    id: u64,
    state: v1::BalanceState,
    threshold: u32,
    bandwidth: u64,
    /// When it was asked for, last.
    began: u64,
    /// When somebody last looked at it.
    watched: u64,
    iteration: u32,
    idle_iterations: u32,
    bytes_moved: u64,
    blocks_moved: u64,
    moves_failed: u64,
}

impl Run {
    fn is_on(&self) -> bool {
        self.state == v1::BalanceState::Running
    }
}

/// Bandwidth and moves of one datanode.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    /// Bytes that it may still send or receive now; less than 0 after a large block.
    pub(super) credit: i64,
    /// Moves that have not arrived.
    pub(super) load: CopyLoad,
}

/// What balancing is for a datanode.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    pub(super) sending: BTreeMap<NodeIndex, Account>,
    pub(super) receiving: BTreeMap<NodeIndex, Account>,
}

/// All of balancing.
#[derive(Debug, Default)]
pub(super) struct Balancer {
    run: Option<Run>,
    background_bytes_moved: u64,
    pub(super) iteration: Option<Iteration>,
    pub(super) moves: BTreeMap<BlockId, Move>,
    pub(super) accounts: Accounts,
    /// Moves to order on the next heartbeat of their source.
    pub(super) outbox: BTreeMap<NodeIndex, Vec<BlockId>>,
    /// When a move last ended.
    pub(super) settled_since: u64,
    refilled: u64,
}

/// Settings of whoever balances now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    pub(super) threshold: u32,
    pub(super) bandwidth: u64,
    pub(super) of_run: bool,
}

impl BlockManager {
    /// Starts a run, or changes the one that is on. `None` leaves a setting as it is, or at its default.
    pub fn start_balancing(&mut self, now: u64, threshold: Option<u32>, bandwidth: Option<u64>) {
        if let Some(run) = self.balancer.run.as_mut().filter(|run| run.is_on()) {
            (run.began, run.watched) = (now, now);
            run.threshold = threshold.unwrap_or(run.threshold);
            run.bandwidth = bandwidth.unwrap_or(run.bandwidth);
        } else {
            let id = self.balancer.run.as_ref().map_or(1, |run| run.id + 1);
            self.balancer.run = Some(Run {
                id,
                state: v1::BalanceState::Running,
                threshold: threshold.unwrap_or(self.config.balance_threshold),
                bandwidth: bandwidth.unwrap_or(RUN_BANDWIDTH),
                began: now,
                watched: now,
                iteration: 0,
                idle_iterations: 0,
                bytes_moved: 0,
                blocks_moved: 0,
                moves_failed: 0,
            });
        }
        // Sources and targets are chosen anew, by the new settings.
        self.balancer.iteration = None;
        self.extend_deadlines(now);
    }

    /// Ends the run. Copies on their way arrive, and their moves are finished.
    pub fn stop_balancing(&mut self) {
        self.end_run(v1::BalanceState::Stopped);
    }

    /// Changes bandwidths: of the run, and of the background.
    pub fn set_balance_bandwidth(&mut self, now: u64, run: Option<u64>, background: Option<u64>) {
        if let (Some(bandwidth), Some(running)) = (run, self.balancer.run.as_mut()) {
            running.bandwidth = bandwidth;
        }
        if let Some(bandwidth) = background {
            self.config.background_balance_bandwidth = bandwidth;
            if bandwidth == 0 && !self.mode().of_run {
                self.balancer.iteration = None;
                self.drop_unsent_moves();
            }
        }
        self.extend_deadlines(now);
    }

    /// Tells how balancing stands. `watched` is the run that the caller follows.
    pub fn balance_status(&mut self, now: u64, watched: u64) -> v1::BalanceStatus {
        if let Some(run) = self.balancer.run.as_mut().filter(|run| run.id == watched) {
            run.watched = now;
        }
        let run = self.balancer.run.as_ref();
        let threshold = run.map_or(self.config.balance_threshold, |run| run.threshold);
        let utilization = self.utilization();
        let being_moved = self.balancer.moves.values().filter(|moved| moved.phase != Phase::Leaving);
        v1::BalanceStatus {
            run_id: run.map_or(0, |run| run.id),
            state: run.map_or(v1::BalanceState::None, |run| run.state).into(),
            iteration: run.map_or(0, |run| run.iteration),
            bytes_moved: run.map_or(0, |run| run.bytes_moved),
            blocks_moved: run.map_or(0, |run| run.blocks_moved),
            moves_failed: run.map_or(0, |run| run.moves_failed),
            bytes_left: utilization.bytes_left(threshold),
            bytes_being_moved: being_moved.map(|moved| moved.bytes).sum(),
            threshold,
            bandwidth: run.map_or(RUN_BANDWIDTH, |run| run.bandwidth),
            average: utilization.average,
            over_utilized: utilization.over(threshold),
            under_utilized: utilization.under(threshold),
            background_bandwidth: self.config.background_balance_bandwidth,
            background_bytes_moved: self.balancer.background_bytes_moved,
        }
    }

    /// Bytes a second that a datanode may spend on balancing at present; `None`: nobody balances.
    pub fn balance_bandwidth(&self) -> Option<u64> {
        Some(self.mode().bandwidth).filter(|bandwidth| *bandwidth > 0)
    }

    /// Whoever balances: a run goes before the background.
    pub(super) fn mode(&self) -> Mode {
        match self.balancer.run.as_ref().filter(|run| run.is_on()) {
            Some(run) => Mode { threshold: run.threshold, bandwidth: run.bandwidth, of_run: true },
            None => Mode {
                threshold: self.config.balance_threshold,
                bandwidth: self.config.background_balance_bandwidth,
                of_run: false,
            },
        }
    }

    /// Time passes: part of [`BlockManager::tick`].
    pub(super) fn run_balancer(&mut self, now: u64) {
        let forsaken = |run: &Run| run.is_on() && now.saturating_sub(run.watched) >= FORSAKEN_MS;
        if self.balancer.run.as_ref().is_some_and(forsaken) {
            self.end_run(v1::BalanceState::Forsaken);
        }
        self.check_moves(now);
        let mode = self.mode();
        self.refill(now, mode.bandwidth);
        if !self.startup.over || self.is_sweeping() || mode.bandwidth == 0 {
            return;
        }
        if self.balancer.iteration.is_none() {
            self.begin_iteration(now, mode);
        }
        self.plan_moves(now, mode);
        self.end_iteration(mode);
    }

    fn begin_iteration(&mut self, now: u64, mode: Mode) {
        // Figures come with heartbeats; those of a datanode that is not stale are not older than this.
        let settled = now.saturating_sub(self.balancer.settled_since) >= self.config.stale_after_ms;
        if !self.balancer.moves.is_empty() || !settled {
            // Figures of datanodes whose content changes are not to be judged by.
            return;
        }
        if mode.of_run && !self.has_fresh_figures() {
            return;
        }
        let utilization = self.utilization();
        if utilization.is_balanced(mode.threshold) {
            if mode.of_run {
                self.end_run(v1::BalanceState::Balanced);
            }
            return;
        }
        if let Some(run) = self.balancer.run.as_mut().filter(|run| run.is_on()) {
            run.iteration += 1;
        }
        self.balancer.iteration = Some(Iteration::new(utilization.shares(mode.threshold)));
    }

    /// Whether all datanodes have told how full they are since the run was asked for: what was written just before counts. One that
    /// has fallen silent is not waited for.
    fn has_fresh_figures(&self) -> bool {
        let began = self.balancer.run.as_ref().map_or(0, |run| run.began);
        self.datanodes
            .live()
            .iter()
            .map(|index| self.datanodes.node(*index))
            .all(|node| node.liveness != Liveness::Live || node.last_heartbeat > began + HEARTBEAT_TRAVEL_MS)
    }

    fn end_iteration(&mut self, mode: Mode) {
        let Some(iteration) = &self.balancer.iteration else { return };
        if !iteration.searched || !self.balancer.moves.is_empty() {
            return;
        }
        let idle = iteration.planned_bytes == 0;
        self.balancer.iteration = None;
        if !mode.of_run {
            return;
        }
        let Some(run) = self.balancer.run.as_mut() else { return };
        run.idle_iterations = if idle { run.idle_iterations + 1 } else { 0 };
        if run.idle_iterations >= IDLE_ITERATIONS_MAX {
            self.end_run(v1::BalanceState::NoMove);
        }
    }

    fn end_run(&mut self, state: v1::BalanceState) {
        let Some(run) = self.balancer.run.as_mut().filter(|run| run.is_on()) else { return };
        run.state = state;
        self.balancer.iteration = None;
        self.drop_unsent_moves();
    }

    /// A move is over; `arrived` tells how.
    pub(super) fn count_move(&mut self, now: u64, moved: &Move, arrived: bool) {
        self.balancer.settled_since = now;
        match self.balancer.run.as_mut().filter(|_| moved.of_run) {
            Some(run) if arrived => {
                run.bytes_moved += moved.bytes;
                run.blocks_moved += 1;
            }
            Some(run) => run.moves_failed += 1,
            None if arrived => self.balancer.background_bytes_moved += moved.bytes,
            None => {}
        }
    }

    /// Gives every datanode that has an account the bandwidth of the time passed.
    fn refill(&mut self, now: u64, bandwidth: u64) {
        let passed = now.saturating_sub(self.balancer.refilled).min(CREDIT_MS);
        self.balancer.refilled = now;
        let most = bytes_in(bandwidth, CREDIT_MS);
        let more = bytes_in(bandwidth, passed);
        let accounts = &mut self.balancer.accounts;
        for side in [&mut accounts.sending, &mut accounts.receiving] {
            for account in side.values_mut() {
                account.credit = account.credit.saturating_add(more).min(most);
            }
            // A datanode without moves and debts begins anew when it is needed.
            side.retain(|_, account| account.load.count > 0 || account.credit < most);
        }
    }
}

impl Accounts {
    /// The account of a datanode, with the bandwidth of a second if it is new.
    pub(super) fn open(
        side: &mut BTreeMap<NodeIndex, Account>,
        node: NodeIndex,
        bandwidth: u64,
    ) -> &mut Account {
        side.entry(node)
            .or_insert_with(|| Account { credit: bytes_in(bandwidth, 1_000), load: CopyLoad::default() })
    }
}

/// Bytes that pass in a time.
fn bytes_in(bandwidth: u64, ms: u64) -> i64 {
    i64::try_from(u128::from(bandwidth) * u128::from(ms) / 1_000).unwrap_or(i64::MAX)
}
