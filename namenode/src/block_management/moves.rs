//! Moves of balancing: finding blocks for them, ordering the copies, and deleting the other replica when they arrived.
//! See `balancer` for the invariants.

use std::cmp::Reverse;
use std::ops::ControlFlow;

use dfs_proto::{BlockId, v1};
use smallvec::SmallVec;
use v1::datanode_command::Command;

use super::balancer::{Accounts, Iteration, Mode, Move, Phase};
use super::block_manager::BlockManager;
use super::block_map::BlockEntry;
use super::datanode_manager::{CopyLoad, Datanode, NodeIndex, StorageIndex};
use super::liveness::command;
use super::utilization::{Share, Shares};

/// Entries that one tick looks at: a millisecond or two under the lock.
const ENTRIES_PER_TICK: usize = 65_536;

/// Blocks that one tick tries to plan: each compares all targets.
const PLANNED_PER_TICK: usize = 1_024;

/// Blocks smaller than this are moved only when no larger ones are left (HDFS's number): a move has a price of its own.
const SMALL_BYTES: u64 = 10 << 20;

/// Moves that one datanode sends, and that one receives, at a time: small blocks, which bytes do not limit, keep
/// flowing at one heartbeat a second.
const NODE_MOVES_MAX: u32 = 64;

/// Seconds of bandwidth that the moves of a datanode may have on their way: what is ordered can hardly be called back.
const SECONDS_UNDER_WAY: u64 = 10;

/// Pace that is granted to copies at least, in bytes a second: a slow disk.
const SLOW_PACE: u64 = 4_000_000;

impl Iteration {
    pub(super) fn new(shares: Shares) -> Self {
        Self {
            shares,
            cursor: BlockId(0),
            least_bytes: SMALL_BYTES,
            fruitful: false,
            searched: false,
            planned_bytes: 0,
        }
    }
}

/// Which side of a move a datanode is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Sending,
    Receiving,
}

impl BlockManager {
    /// Plans moves of the present iteration for as much bandwidth as there is.
    pub(super) fn plan_moves(&mut self, now: u64, mode: Mode) {
        let Some(mut iteration) = self.balancer.iteration.take() else { return };
        if iteration.shares.is_used_up() {
            iteration.searched = true;
        } else if !iteration.searched && self.may_trim(now) {
            self.search(now, mode, &mut iteration);
        }
        self.balancer.iteration = Some(iteration);
    }

    /// One slice of the walk over the block map.
    fn search(&mut self, now: u64, mode: Mode, iteration: &mut Iteration) {
        let free = |node: &NodeIndex| !self.is_busy(*node, Side::Sending, 0, mode);
        if !iteration.shares.give.iter().any(|(node, share)| share.bytes > 0 && free(node)) {
            iteration.fruitful = true;
            return;
        }
        let (mut looked_at, mut found) = (0, Vec::new());
        let walk = self.blocks.range(iteration.cursor, BlockId(u64::MAX)).try_for_each(|entry| {
            if looked_at == ENTRIES_PER_TICK || found.len() == PLANNED_PER_TICK {
                return ControlFlow::Break(entry.id);
            }
            looked_at += 1;
            if self.is_wanted(entry, iteration) {
                found.push(entry.id);
            }
            ControlFlow::Continue(())
        });
        for id in found {
            self.plan_move(now, mode, id, iteration);
        }
        match walk {
            ControlFlow::Break(next) => iteration.cursor = next,
            ControlFlow::Continue(()) => {
                iteration.cursor = BlockId(0);
                if !std::mem::take(&mut iteration.fruitful) {
                    iteration.searched = iteration.least_bytes == 0;
                    iteration.least_bytes = 0;
                }
            }
        }
    }

    /// The block lacks nothing, and one of its replicas is on a datanode that gives as much.
    fn is_wanted(&self, entry: &BlockEntry, iteration: &Iteration) -> bool {
        let gives = |storage: StorageIndex| {
            let share = iteration.shares.give.get(&self.datanodes.node_of(storage));
            share.is_some_and(|share| share.bytes >= entry.length)
        };
        entry.length >= iteration.least_bytes.max(1)
            && entry.replicas.iter().any(|replica| gives(replica.storage()))
            && self.lacks_nothing(entry)
    }

    fn plan_move(&mut self, now: u64, mode: Mode, id: BlockId, iteration: &mut Iteration) {
        let Some(entry) = self.blocks.get(id) else { return };
        let (bytes, stamp) = (entry.length, entry.stamp);
        let mut sources: SmallVec<[(StorageIndex, Share); 4]> = SmallVec::new();
        for replica in entry.replicas.iter() {
            let node = self.datanodes.node_of(replica.storage());
            let Some(share) = iteration.shares.give.get(&node).filter(|share| share.bytes >= bytes) else {
                continue;
            };
            if self.is_busy(node, Side::Sending, bytes, mode) {
                iteration.fruitful = true;
            } else {
                sources.push((replica.storage(), *share));
            }
        }
        sources.sort_by_key(|(storage, share)| (Reverse(share.extreme), Reverse(share.bytes), *storage));
        let chosen = sources.into_iter().find_map(|(source, share)| {
            let target = self.choose_move_target(entry, source, share, mode, iteration)?;
            Some((source, target))
        });
        let Some((source, target)) = chosen else { return };
        let Some(target) = self.storage_for(target, bytes) else { return };
        iteration.fruitful = true;
        iteration.planned_bytes += bytes;
        let (from, to) = (self.datanodes.node_of(source), self.datanodes.node_of(target));
        let shares = &mut iteration.shares;
        for share in [shares.give.get_mut(&from), shares.take.get_mut(&to)].into_iter().flatten() {
            share.bytes = share.bytes.saturating_sub(bytes);
        }
        let accounts = &mut self.balancer.accounts;
        let debt = i64::try_from(bytes).unwrap_or(i64::MAX);
        for (side, node) in [(&mut accounts.sending, from), (&mut accounts.receiving, to)] {
            let account = Accounts::open(side, node, mode.bandwidth);
            account.credit = account.credit.saturating_sub(debt);
            account.load.add(bytes);
        }
        let deadline = self.move_deadline(now, from, mode.bandwidth);
        let (of_run, phase) = (mode.of_run, Phase::Planned);
        self.balancer
            .moves
            .insert(id, Move { source, target, from, to, bytes, stamp, deadline, of_run, phase });
        self.balancer.outbox.entry(from).or_default().push(id);
    }

    /// A datanode to move the replica at `source` to: under-utilized ones first, then the same rack, then the one that
    /// takes most.
    fn choose_move_target(
        &self,
        entry: &BlockEntry,
        source: StorageIndex,
        gives: Share,
        mode: Mode,
        iteration: &mut Iteration,
    ) -> Option<NodeIndex> {
        let rack = self.datanodes.rack_of(source);
        let mut best = None;
        let mut waits = false;
        for (node, takes) in &iteration.shares.take {
            let worth = takes.bytes >= entry.length && (gives.extreme || takes.extreme);
            if !worth || !self.may_receive(entry, source, *node) {
                continue;
            }
            if self.is_busy(*node, Side::Receiving, entry.length, mode) {
                waits = true;
                continue;
            }
            let other_rack = self.datanodes.node(*node).rack != rack;
            let key = (!takes.extreme, other_rack, Reverse(takes.bytes), *node);
            if best.is_none_or(|known| key < known) {
                best = Some(key);
            }
        }
        iteration.fruitful |= waits;
        best.map(|(.., node)| node)
    }

    /// Storage of a datanode for a copy: each with room as likely as its free space is large.
    fn storage_for(&mut self, node: NodeIndex, bytes: u64) -> Option<StorageIndex> {
        let coming = self.balancer.accounts.receiving.get(&node).map_or(0, |account| account.load.bytes);
        let room = |storage: &StorageIndex| {
            let storage = self.datanodes.storage(*storage);
            if storage.failed { 0 } else { storage.remaining.saturating_sub(coming) }
        };
        let able: SmallVec<[(StorageIndex, u64); 8]> = self
            .datanodes
            .node(node)
            .storages
            .iter()
            .map(|storage| (*storage, room(storage)))
            .filter(|(_, room)| *room >= bytes)
            .collect();
        let total = able.iter().fold(0u64, |sum, (_, room)| sum.saturating_add(*room));
        let mut draw = self.random.below(total);
        for (storage, room) in &able {
            if draw < *room {
                return Some(*storage);
            }
            draw -= room;
        }
        able.last().map(|(storage, _)| *storage)
    }

    /// The datanode repairs, or has no bandwidth left at present.
    fn is_busy(&self, node: NodeIndex, side: Side, bytes: u64, mode: Mode) -> bool {
        let datanode = self.datanodes.node(node);
        let accounts = &self.balancer.accounts;
        let (repair, accounts) = match side {
            Side::Sending => (datanode.outgoing, &accounts.sending),
            Side::Receiving => (datanode.incoming, &accounts.receiving),
        };
        let bytes_max = mode.bandwidth.saturating_mul(SECONDS_UNDER_WAY);
        let full = accounts.get(&node).is_some_and(|account| {
            account.credit <= 0 || !account.load.allows(bytes, NODE_MOVES_MAX, bytes_max)
        });
        repair.count > 0 || full || !can_take_part(datanode)
    }

    /// When the moves that a datanode sends are given up: all of them may have to pass before the last one.
    fn move_deadline(&self, now: u64, source: NodeIndex, bandwidth: u64) -> u64 {
        let load = self.balancer.accounts.sending.get(&source).map_or(CopyLoad::default(), |a| a.load);
        let pace = bandwidth.clamp(1, SLOW_PACE);
        let ms = u128::from(load.bytes) * 2_000 / u128::from(pace);
        now.saturating_add(self.config.pending_timeout_ms)
            .saturating_add(u64::try_from(ms).unwrap_or(u64::MAX))
    }

    /// The bandwidth has changed: copies on their way may take longer.
    pub(super) fn extend_deadlines(&mut self, now: u64) {
        let bandwidth = self.mode().bandwidth;
        let sources: Vec<(BlockId, NodeIndex)> =
            self.balancer.moves.iter().map(|(id, moved)| (*id, moved.from)).collect();
        for (id, source) in sources {
            let deadline = self.move_deadline(now, source, bandwidth);
            if let Some(moved) = self.balancer.moves.get_mut(&id) {
                moved.deadline = moved.deadline.max(deadline);
            }
        }
    }

    /// Gives up moves that make no sense any more or take too long, and forgets those whose deletion is confirmed.
    pub(super) fn check_moves(&mut self, now: u64) {
        let mut over = Vec::new();
        for (id, moved) in &self.balancer.moves {
            let source = self.datanodes.node(moved.from);
            let is_over = match moved.phase {
                Phase::Leaving => !source.serves() || source.invalidates.stamp_of(*id).is_none(),
                Phase::Planned | Phase::Sent => now >= moved.deadline || !self.makes_sense(*id, moved),
            };
            if is_over {
                over.push(*id);
            }
        }
        for id in over {
            self.forget_move(now, id);
        }
    }

    /// Ends a move, whatever became of it. A copy that arrives later is one replica too many.
    fn forget_move(&mut self, now: u64, id: BlockId) {
        let Some(moved) = self.balancer.moves.remove(&id) else { return };
        if moved.phase == Phase::Leaving {
            self.balancer.settled_since = now;
        } else {
            self.release_accounts(&moved);
            self.count_move(now, &moved, false);
        }
    }

    /// Datanode `source` has not sent a replica to `target`; answers whether that was a move.
    pub(super) fn move_failed(
        &mut self,
        now: u64,
        id: BlockId,
        source: NodeIndex,
        target: StorageIndex,
    ) -> bool {
        let sent =
            |moved: &&Move| moved.phase == Phase::Sent && moved.from == source && moved.target == target;
        if self.balancer.moves.get(&id).filter(sent).is_none() {
            return false;
        }
        self.forget_move(now, id);
        true
    }

    fn release_accounts(&mut self, moved: &Move) {
        let (from, to) = (moved.from, moved.to);
        let accounts = &mut self.balancer.accounts;
        for account in
            [accounts.sending.get_mut(&from), accounts.receiving.get_mut(&to)].into_iter().flatten()
        {
            account.load.sub(moved.bytes);
        }
    }

    /// Takes back the moves that no datanode knows of.
    pub(super) fn drop_unsent_moves(&mut self) {
        let planned = |moved: &&Move| moved.phase == Phase::Planned;
        let dropped: Vec<Move> = self.balancer.moves.values().filter(planned).cloned().collect();
        self.balancer.moves.retain(|_, moved| moved.phase != Phase::Planned);
        self.balancer.outbox.clear();
        for moved in dropped {
            self.release_accounts(&moved);
        }
    }

    /// Moves that a datanode shall begin now.
    pub(super) fn take_move_commands(
        &mut self,
        now: u64,
        node: NodeIndex,
        commands: &mut Vec<v1::DatanodeCommand>,
    ) {
        for id in self.balancer.outbox.remove(&node).unwrap_or_default() {
            let planned = self.balancer.moves.get(&id).filter(|moved| moved.phase == Phase::Planned);
            let Some(moved) = planned.filter(|moved| self.makes_sense(id, moved)) else { continue };
            let block = v1::Block { id: id.get(), generation_stamp: moved.stamp.get(), length: moved.bytes };
            let targets = vec![self.datanodes.location(moved.target)];
            let deadline = self.move_deadline(now, node, self.mode().bandwidth);
            if let Some(moved) = self.balancer.moves.get_mut(&id) {
                moved.phase = Phase::Sent;
                moved.deadline = deadline;
            }
            let order = v1::TransferCommand { block: Some(block), targets, balancing: true };
            commands.push(command(Command::Transfer(order)));
        }
    }

    /// A good replica appeared on a datanode: if it is the copy of a move, the replica at the source goes. To be called
    /// before the block is judged, which would delete any one.
    pub(super) fn copy_arrived(&mut self, now: u64, id: BlockId, node: NodeIndex) {
        let arrived = |moved: &&Move| moved.phase != Phase::Leaving && moved.to == node;
        let Some(moved) = self.balancer.moves.get(&id).filter(arrived).cloned() else { return };
        if !self.may_leave(now, id, &moved) {
            self.forget_move(now, id);
            return;
        }
        self.invalidate(id, moved.source, moved.stamp);
        self.hint_outdated(id);
        self.release_accounts(&moved);
        self.count_move(now, &moved, true);
        if let Some(moved) = self.balancer.moves.get_mut(&id) {
            moved.phase = Phase::Leaving;
        }
    }
}

/// Whether balancing may use the datanode.
fn can_take_part(datanode: &Datanode) -> bool {
    datanode.takes()
}
