//! How far datanodes are that shall leave or may be down: which blocks still lack replicas elsewhere.
//!
//! Such blocks are in the queues of repair, so those are walked, a slice at a time, once a second while some datanode is
//! to leave or in maintenance. A round that began after the datanode's order was gone through (`sweep`) gives the
//! figures; a datanode on which nothing depends any longer may be stopped.

use std::collections::BTreeMap;

use dfs_proto::{BlockId, v1};

use super::administration::{Admin, Worth};
use super::block_manager::BlockManager;
use super::datanode_manager::NodeIndex;
use super::low_redundancy::LACKING;

/// Queue entries that one slice looks at: about 5 ms under the lock.
const ENTRIES_PER_SLICE: usize = 65_536;

/// Time between two slices.
const SLICE_INTERVAL_MS: u64 = 500;

/// Figures of one datanode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Drain {
    /// Figures of the last round, if there was one since the order.
    counted: Option<Counts>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Blocks that lack replicas elsewhere.
    left: u64,
    /// Those that no other datanode can take, because there are too few.
    stuck: u64,
}

/// A round through the queues.
#[derive(Debug, Default)]
pub(super) struct DrainScan {
    /// Position: queue and last block; `None`: no round is on.
    at: Option<(usize, Option<BlockId>)>,
    counts: BTreeMap<NodeIndex, Counts>,
    last_slice: u64,
}

impl BlockManager {
    /// Goes on with a round, or begins one.
    pub(super) fn scan_drains(&mut self, now: u64) {
        let watched = |node: &super::datanode_manager::Datanode| node.admin != Admin::Normal;
        if self.is_sweeping() || !self.startup.over || !self.datanodes.nodes().iter().any(watched) {
            self.drain_scan.at = None;
            return;
        }
        if now.saturating_sub(self.drain_scan.last_slice) < SLICE_INTERVAL_MS {
            return;
        }
        let mut scan = std::mem::take(&mut self.drain_scan);
        scan.last_slice = now;
        let (mut at, mut after) = scan.at.take().unwrap_or_else(|| {
            scan.counts.clear();
            (0, None)
        });
        let mut budget = ENTRIES_PER_SLICE;
        while let Some(level) = LACKING.get(at).copied() {
            let ids: Vec<BlockId> = self.queues.after(level, after, budget).collect();
            for id in &ids {
                self.count_dependents(*id, &mut scan.counts);
            }
            budget -= ids.len();
            if budget == 0 {
                scan.at = Some((at, ids.last().copied().or(after)));
                break;
            }
            (at, after) = (at + 1, None);
        }
        if scan.at.is_none() {
            for node in self.datanodes.indices() {
                let counts = scan.counts.get(&node).copied().unwrap_or_default();
                self.datanodes.node_mut(node).drain.counted = Some(counts);
            }
        }
        self.drain_scan = scan;
    }

    /// Adds a block that lacks replicas to the figures of the datanodes whose replicas it depends on.
    fn count_dependents(&self, id: BlockId, counts: &mut BTreeMap<NodeIndex, Counts>) {
        let Some(entry) = self.blocks.get(id) else { return };
        let tally = self.tally(entry);
        let need = tally.need(usize::from(entry.replication));
        if tally.staying.len() >= need {
            return;
        }
        let holders: Vec<NodeIndex> =
            entry.replicas.iter().map(|replica| self.datanodes.node_of(replica.storage())).collect();
        let others = self.datanodes.live().iter().filter(|node| !holders.contains(node)).take(need).count();
        let stuck = tally.staying.len() + others < need;
        for replica in entry.replicas.iter() {
            if matches!(self.datanodes.worth(replica.storage()), Worth::Leaves | Worth::Absent { .. }) {
                let figures = counts.entry(self.datanodes.node_of(replica.storage())).or_default();
                figures.left += 1;
                figures.stuck += u64::from(stuck);
            }
        }
    }

    /// How far the order about a datanode is.
    pub(super) fn admin_progress(&self, now: u64, node: NodeIndex) -> v1::AdminProgress {
        let datanode = self.datanodes.node(node);
        let mut progress = v1::AdminProgress { blocks_open: datanode.writing, ..Default::default() };
        match datanode.admin {
            Admin::Normal => return v1::AdminProgress::default(),
            Admin::Leaving => progress.set_state(v1::AdminState::Decommission),
            Admin::Maintenance { until } => {
                progress.set_state(v1::AdminState::Maintenance);
                progress.remaining_ms = until.saturating_sub(now);
            }
        }
        match datanode.drain.counted {
            None => progress.counting = true,
            Some(counts) => {
                progress.blocks_left = counts.left;
                progress.blocks_stuck = counts.stuck;
                progress.done = counts.left == 0 && datanode.writing == 0;
            }
        }
        progress
    }
}
