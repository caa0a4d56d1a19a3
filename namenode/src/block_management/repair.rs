//! Plans copies of blocks that have too few replicas or have them on too few racks.
//!
//! The most endangered blocks come first. Each datanode sends and receives a limited number of copies
//! and bytes at a time; sources are the least loaded of two drawn at random. Whoever failed a moment ago is passed over
//! as long as others can do it (`failed_copies`).

use dfs_proto::BlockId;
use smallvec::SmallVec;

use super::block_manager::BlockManager;
use super::datanode_manager::{Datanode, Liveness, NodeIndex, StorageIndex};
use super::low_redundancy::{Level, REPAIRED};
use super::pending::{Pending, deadline};
use super::placement::Chooser;
use super::redundancy::Tally;

/// Blocks that one tick tries to plan: a bound on the time under the lock (about 10 ms).
const PLANNED_PER_TICK: usize = 8_192;

/// Targets of one copy, which passes through them like a write pipeline. Longer pipelines fail as a
/// whole too easily; the rest follows when these have arrived.
const TARGETS_MAX: usize = 3;

impl BlockManager {
    pub(super) fn plan_repair(&mut self, now: u64) {
        if !self.startup.over {
            return;
        }
        let mut budget = PLANNED_PER_TICK;
        for level in REPAIRED {
            for id in self.queues.batch(level, budget) {
                if !self.some_node_can_send() {
                    return;
                }
                budget -= 1;
                self.plan_copy(now, id, level);
            }
        }
    }

    /// Plans one copy if a source and a target have room for it; otherwise the block keeps its place.
    pub(super) fn plan_copy(&mut self, now: u64, id: BlockId, level: Level) {
        let Some(entry) = self.blocks.get(id) else { return };
        if self.pending.get(id).is_some() || self.failed_copies.waits(now, id) {
            return;
        }
        let tally = self.tally(entry);
        let (wanted, bytes) = (usize::from(entry.replication), entry.length);
        // Datanodes that were stale when the block was judged may have come back, so that a corrupt
        // replica can now make room.
        self.drop_bad(now, id, &tally);
        let count = match level {
            Level::Misplaced => 1,
            _ => tally.need(wanted).saturating_sub(tally.staying.len()).min(TARGETS_MAX),
        };
        let Some(source) = self.choose_source(id, &tally, bytes) else { return };
        let mut targets = self.choose_repair_targets(now, id, &tally, bytes, count, level, false);
        if targets.is_empty() && self.failed_copies.total() > 0 {
            targets = self.choose_repair_targets(now, id, &tally, bytes, count, level, true);
        }
        if targets.is_empty() {
            return;
        }
        let queued = self.datanodes.node(source).outgoing.bytes;
        let deadline = deadline(now, self.config.pending_timeout_ms, bytes, queued, self.repair_bandwidth);
        self.add_pending(id, Pending { source, targets, bytes, deadline, sent: false });
        self.evaluate(now, id);
    }

    /// A datanode with a good replica and room to send it.
    fn choose_source(&mut self, id: BlockId, tally: &Tally, bytes: u64) -> Option<NodeIndex> {
        let mut able: SmallVec<[NodeIndex; 4]> = SmallVec::new();
        // A stale datanode would get the order late or never.
        for storage in tally.good.iter().filter(|storage| self.datanodes.fresh(**storage)) {
            let node = self.datanodes.node_of(*storage);
            let outgoing = self.datanodes.node(node).outgoing;
            if outgoing.allows(bytes, self.config.node_transfers_max, self.config.node_transfer_bytes_max) {
                able.push(node);
            }
        }
        if able.iter().any(|node| !self.failed_copies.is_bad_source(id, *node)) {
            able.retain(|node| !self.failed_copies.is_bad_source(id, *node));
        }
        if able.is_empty() {
            return None;
        }
        let first = able[self.random.index(able.len())];
        let second = able[self.random.index(able.len())];
        [first, second].into_iter().min_by_key(|node| {
            let node = self.datanodes.node(*node);
            (node.outgoing.bytes, node.outgoing.count, node.xceivers)
        })
    }

    /// `shunned`: datanodes that failed a moment ago, too.
    #[allow(clippy::too_many_arguments)]
    fn choose_repair_targets(
        &mut self,
        now: u64,
        id: BlockId,
        tally: &Tally,
        bytes: u64,
        count: usize,
        level: Level,
        shunned: bool,
    ) -> SmallVec<[StorageIndex; 2]> {
        let Some(entry) = self.blocks.get(id) else { return SmallVec::new() };
        let mut exclude: Vec<NodeIndex> =
            entry.replicas.iter().map(|replica| self.datanodes.node_of(replica.storage())).collect();
        let (count_max, bytes_max) = (self.config.node_transfers_max, self.config.node_transfer_bytes_max);
        if exclude.len() >= self.datanodes.live().len()
            && self.datanodes.live().iter().all(|node| exclude.contains(node))
        {
            // The usual case of a cluster smaller than the replication: every datanode has one.
            return SmallVec::new();
        }
        let seed = self.random.next();
        let counting = tally.staying.iter().chain(&tally.absent);
        let present: Vec<NodeIndex> = counting.map(|storage| self.datanodes.node_of(*storage)).collect();
        exclude.retain(|node| !present.contains(node));
        if !shunned {
            let failed = self.failed_copies.bad_target(id);
            exclude.extend(failed.filter(|node| !present.contains(node)));
        }
        let mut chooser =
            Chooser::new(&self.datanodes, usize::from(entry.replication), bytes, seed, exclude, present);
        chooser.allow = Some(Box::new(move |node| {
            node.incoming.allows(bytes, count_max, bytes_max)
                && node.invalidates.stamp_of(id).is_none()
                && (shunned || node.shunned_until <= now)
        }));
        chooser.elsewhere_only = level == Level::Misplaced;
        chooser.now = now;
        chooser.choose(count).into_iter().collect()
    }

    fn some_node_can_send(&self) -> bool {
        let (count_max, bytes_max) = (self.config.node_transfers_max, self.config.node_transfer_bytes_max);
        let sends = |node: &Datanode| node.liveness == Liveness::Live;
        let nodes = self.datanodes.nodes();
        nodes.iter().any(|node| sends(node) && node.outgoing.allows(0, count_max, bytes_max))
    }
}
