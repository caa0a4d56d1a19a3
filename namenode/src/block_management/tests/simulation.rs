//! A simulated cluster under random writes, deletions and faults: datanodes with disks, late and lost
//! messages, restarts of either side, orders of an administrator, datanodes that change racks. The block manager's invariants hold after every step, its orders
//! never delete the last good replica, and once faults end everything converges.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::v1::AdminState;

use super::*;
use crate::block_management::random::Random;

const NODES: usize = 6;
const STEPS: usize = 1_500;
const SEEDS: u64 = 6;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Copy {
    stamp: u64,
    length: u64,
    state: ReplicaState,
    bad: bool,
}

#[derive(Default)]
struct Disk {
    alive: bool,
    replicas: BTreeMap<u64, Copy>,
    /// Changes not reported yet.
    changes: Vec<v1::ReplicaChange>,
    /// A full report put together and still on its way.
    report: Option<Vec<ReportedReplica>>,
}

/// Two racks of one data centre and one of another, or all one place.
const RACKS: [&str; 3] = ["/a/r0", "/a/r1", "/b/r0"];

/// How long maintenance lasts.
const ORDER_MS: u64 = 90_000;

struct Simulation {
    world: World,
    /// What an administrator wants of each datanode.
    orders: [AdminState; NODES],
    disks: Vec<Disk>,
    random: Random,
    faults: bool,
}

impl Simulation {
    fn new(seed: u64, racks: bool) -> Self {
        let mut world = World::new();
        if racks {
            world.racks = (0..NODES).map(|node| (node, RACKS[node % 3].to_owned())).collect();
        }
        world.join(NODES);
        let disks = (0..NODES).map(|_| Disk { alive: true, ..Disk::default() }).collect();
        let orders = [AdminState::Normal; NODES];
        Self { world, orders, disks, random: Random::new(seed), faults: true }
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn tell(&mut self, node: usize, event: ReplicaEvent, id: u64, copy: Copy) {
        let block = v1::Block { id, generation_stamp: copy.stamp, length: copy.length };
        let change = v1::ReplicaChange {
            event: event.into(),
            block: Some(block),
            storage_id: storage(node),
            ..Default::default()
        };
        self.disks[node].changes.push(change);
    }

    fn good_copies(&self, block: &StoredBlock) -> Vec<usize> {
        let whole = |copy: &Copy| {
            copy.stamp == block.stamp.get()
                && copy.length == block.length
                && matches!(copy.state, ReplicaState::Finalized | ReplicaState::Rwr)
                && !copy.bad
        };
        let holds = |disk: &Disk| disk.replicas.get(&block.id.get()).is_some_and(whole);
        (0..NODES).filter(|node| holds(&self.disks[*node])).collect()
    }

    fn alive(&self) -> Vec<usize> {
        (0..NODES).filter(|node| self.disks[*node].alive).collect()
    }

    fn pick_block(&mut self) -> Option<StoredBlock> {
        let complete: Vec<&StoredBlock> =
            self.world.stored.values().filter(|block| block.state == BlockState::Complete).collect();
        let at = self.random.index(complete.len());
        complete.get(at).map(|block| (*block).clone())
    }

    /// Ends a write: some members of the pipeline acknowledge everything, at least one.
    fn finish(&mut self, id: BlockId, pipeline: &[usize], length: u64) {
        let stamp = self.world.stored[&id].stamp.get();
        let keep = self.random.index(pipeline.len());
        let mut acknowledged = Vec::new();
        for (at, node) in pipeline.iter().enumerate() {
            let mut copy = Copy { stamp, length, state: ReplicaState::Finalized, bad: false };
            if at == keep || self.chance(85) {
                acknowledged.push(*node);
                self.disks[*node].replicas.insert(id.get(), copy);
                self.tell(*node, ReplicaEvent::Received, id.get(), copy);
            } else {
                copy.length = length / 2;
                copy.state = ReplicaState::Rwr;
                self.disks[*node].replicas.insert(id.get(), copy);
            }
        }
        self.world.commit(id, length, &acknowledged);
    }

    fn write(&mut self) {
        let replication = 1 + self.random.index(4);
        let writer = self.random.index(NODES);
        let seed = self.random.next();
        let targets: Vec<usize> = self
            .world
            .place(replication, Some(writer), seed)
            .into_iter()
            .filter(|node| self.disks[*node].alive)
            .collect();
        targets.iter().for_each(|target| self.assert_takes(*target));
        if !targets.is_empty() {
            let block = self.world.allocate(u16::try_from(replication).expect("small"), &targets);
            self.finish(block.id, &targets, 100);
        }
    }

    fn append(&mut self) {
        let Some(block) = self.pick_block() else { return };
        let located = self.world.holders(block.id);
        let pipeline: Vec<usize> = self
            .good_copies(&block)
            .into_iter()
            .filter(|node| located.contains(node) && self.disks[*node].alive)
            .filter(|node| self.disks[*node].replicas[&block.id.get()].state == ReplicaState::Finalized)
            .collect();
        if pipeline.is_empty() {
            return;
        }
        self.world.next += 1;
        let reopened = StoredBlock {
            stamp: GenerationStamp(self.world.next),
            state: BlockState::UnderConstruction,
            hints: storages(&pipeline),
            ..block.clone()
        };
        self.world.stored.insert(block.id, reopened.clone());
        self.world.effect(Effect::BlockAllocated { block: reopened, targets: storages(&pipeline) });
        self.finish(block.id, &pipeline, block.length + 1);
    }

    fn remove(&mut self) {
        if let Some(block) = self.pick_block() {
            self.world.remove(block.id);
        }
    }

    fn set_replication(&mut self) {
        if let Some(block) = self.pick_block() {
            let replication = 1 + self.random.index(5);
            self.world.set_replication(block.id, u16::try_from(replication).expect("small"));
        }
    }

    fn corrupt(&mut self) {
        let Some(block) = self.pick_block() else { return };
        let good: Vec<usize> =
            self.good_copies(&block).into_iter().filter(|node| self.disks[*node].alive).collect();
        // A block with one good replica is spared: nothing could save it.
        if good.len() < 2 {
            return;
        }
        let node = good[self.random.index(good.len())];
        if let Some(copy) = self.disks[node].replicas.get_mut(&block.id.get()) {
            copy.bad = true;
        }
        self.report_bad(node);
    }

    fn report_bad(&mut self, node: usize) {
        let bad: Vec<(u64, Copy)> =
            self.disks[node].replicas.iter().filter(|(_, c)| c.bad).map(|(id, c)| (*id, *c)).collect();
        for (id, copy) in bad {
            let block = v1::Block { id, generation_stamp: copy.stamp, length: copy.length };
            let stored = self.world.stored.get(&BlockId(id)).cloned();
            let (now, storage) = (self.world.now, storage(node));
            self.world.manager.report_bad(now, &block, &storage, stored.as_ref());
        }
    }

    fn register(&mut self, node: usize) {
        self.disks[node].changes.clear();
        self.disks[node].report = None;
        self.world.register(node);
        // What is known to be bad comes first, so that it never counts.
        self.report_bad(node);
        let report = self.report_of(node);
        self.world.full_report(node, &report);
    }

    fn report_of(&self, node: usize) -> Vec<ReportedReplica> {
        let row = |(id, copy): (&u64, &Copy)| ReportedReplica {
            id: BlockId(*id),
            stamp: GenerationStamp(copy.stamp),
            length: copy.length,
            state: copy.state,
        };
        self.disks[node].replicas.iter().map(row).collect()
    }

    fn kill(&mut self) {
        let node = self.random.index(NODES);
        if self.alive().len() > 3 {
            self.disks[node].alive = false;
            // Some die by loss of power: names of closed replicas were not on disk.
            let share = self.random.below(60);
            let ids: Vec<u64> = self.disks[node].replicas.keys().copied().collect();
            for id in ids {
                let lost = self.chance(share);
                if let Some(copy) = self.disks[node].replicas.get_mut(&id).filter(|c| lost && !c.bad) {
                    copy.state = ReplicaState::Rwr;
                }
            }
        }
    }

    fn revive(&mut self, node: usize) {
        if !self.disks[node].alive {
            self.disks[node].alive = true;
            self.register(node);
        }
    }

    fn restart_namenode(&mut self) {
        let config = self.world.manager.config.clone();
        self.world.manager = BlockManager::new(config);
        for node in 0..NODES {
            let info = self.world.info(node);
            self.world.manager.recall_datanode(info, &storages(&[node]));
            // As the namespace recorded it.
            self.world.manager.set_admin(self.world.now, &uuid(node), self.orders[node], ORDER_MS);
        }
    }

    /// An administrator wants something of a datanode; of two at a time at most, or writers find nobody.
    fn administer(&mut self) {
        let node = self.random.index(NODES);
        let state =
            [AdminState::Normal, AdminState::Decommission, AdminState::Maintenance][self.random.index(3)];
        let others = (0..NODES).filter(|other| *other != node);
        if others.filter(|other| self.orders[*other] != AdminState::Normal).count() < 2 {
            self.order(node, state);
        }
    }

    fn order(&mut self, node: usize, state: AdminState) {
        self.orders[node] = state;
        self.world.manager.set_admin(self.world.now, &uuid(node), state, ORDER_MS);
    }

    /// A datanode is put into another rack: it restarts there.
    fn change_rack(&mut self) {
        let node = self.random.index(NODES);
        if self.disks[node].alive && !self.world.racks.is_empty() {
            let rack = RACKS[self.random.index(RACKS.len())].to_owned();
            self.world.racks.insert(node, rack);
            self.register(node);
        }
    }

    fn assert_takes(&self, node: usize) {
        assert_eq!(self.orders[node], AdminState::Normal, "datanode {node} got a new replica");
    }

    fn obey(&mut self, node: usize, command: Command) {
        match command {
            Command::Reregister(_) => self.register(node),
            Command::BlockReport(_) => {
                let report = self.report_of(node);
                self.world.full_report(node, &report);
            }
            Command::Finalize(order) => {
                for block in order.blocks {
                    let Some(copy) = self.disks[node].replicas.get_mut(&block.id) else { continue };
                    if copy.stamp == block.generation_stamp
                        && copy.length == block.length
                        && copy.state == ReplicaState::Rwr
                    {
                        copy.state = ReplicaState::Finalized;
                        let copy = *copy;
                        self.tell(node, ReplicaEvent::Received, block.id, copy);
                    }
                }
            }
            Command::Verify(order) => {
                for block in order.blocks {
                    let Some(copy) = self.disks[node].replicas.get(&block.id).copied() else { continue };
                    let here = v1::Block { id: block.id, generation_stamp: copy.stamp, length: copy.length };
                    if copy.bad {
                        self.report_bad(node);
                    } else if copy.state == ReplicaState::Finalized {
                        self.world.manager.report_verified(self.world.now, &here, &storage(node));
                    }
                }
            }
            Command::RecoverBlock(order) => panic!("nothing is recovered here: {order:?}"),
            Command::Transfer(order) => {
                let block = order.block.expect("a block");
                let source = self.disks[node].replicas.get(&block.id).copied();
                let Some(copy) = source.filter(|copy| {
                    copy.stamp == block.generation_stamp
                        && copy.length == block.length
                        && copy.state == ReplicaState::Finalized
                        && !copy.bad
                }) else {
                    return;
                };
                for target in order.targets.iter().map(node_of) {
                    self.assert_takes(target);
                    let occupied = self.disks[target].replicas.contains_key(&block.id);
                    let fails = self.faults && self.chance(10);
                    if self.disks[target].alive && !occupied && !fails {
                        self.disks[target].replicas.insert(block.id, copy);
                        self.tell(target, ReplicaEvent::Received, block.id, copy);
                    }
                }
            }
            // Copies are made at once here.
            Command::Withdraw(_) => {}
            Command::Invalidate(order) => {
                for block in order.blocks {
                    self.delete(node, block);
                }
            }
        }
    }

    fn delete(&mut self, node: usize, block: v1::Block) {
        let held = self.disks[node].replicas.get(&block.id).copied();
        let Some(copy) = held.filter(|copy| copy.stamp <= block.generation_stamp) else { return };
        self.disks[node].replicas.remove(&block.id);
        self.tell(node, ReplicaEvent::Deleted, block.id, copy);
        if let Some(stored) = self.world.stored.get(&block.block_id())
            && stored.state == BlockState::Complete
        {
            assert!(!self.good_copies(stored).is_empty(), "{block} lost its last good replica");
        }
    }

    /// One second: messages of every datanode arrive, some of them late or never.
    fn second(&mut self) {
        self.world.now += 1_000;
        for node in 0..NODES {
            let rows = self.world.manager.datanode_report(self.world.now);
            let row = rows.iter().find(|row| row.info.as_ref().is_some_and(|info| info.uuid == uuid(node)));
            if let Some(progress) = row.and_then(|row| row.admin)
                && self.orders[node] == AdminState::Maintenance
                && progress.state() == AdminState::Normal
            {
                // Its time is over.
                self.orders[node] = AdminState::Normal;
            }
        }
        for node in self.alive() {
            if self.faults && self.chance(10) {
                continue;
            }
            if self.disks[node].report.is_none() && self.chance(3) {
                self.disks[node].report = Some(self.report_of(node));
            }
            for change in std::mem::take(&mut self.disks[node].changes) {
                let id = change.block.expect("a block").block_id();
                let stored = self.world.stored.get(&id).cloned();
                let now = self.world.now;
                self.world.manager.incremental(now, &uuid(node), &change, stored.as_ref());
            }
            if self.chance(50)
                && let Some(report) = self.disks[node].report.take()
            {
                self.world.full_report(node, &report);
            }
            let commands = self.world.beat(node);
            if self.faults && self.chance(5) {
                continue;
            }
            for command in commands {
                self.obey(node, command);
            }
        }
        self.world.manager.tick(self.world.now);
        self.world.manager.check_invariants();
        for update in self.world.manager.take_hint_updates(10) {
            let id = update.block.expect("a block").block_id();
            if let Some(block) = self.world.stored.get_mut(&id) {
                block.hints = update.storage_ids;
            }
        }
        let stored: Vec<StoredBlock> = self.world.stored.values().cloned().collect();
        self.world.manager.check_slice(self.world.now, &stored);
        self.world.manager.check_invariants();
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..12 => self.write(),
            12..16 => self.append(),
            16..22 => self.remove(),
            22..27 => self.set_replication(),
            27..32 => self.corrupt(),
            32..34 => self.kill(),
            34..38 => {
                let node = self.random.index(NODES);
                self.revive(node);
            }
            38 if self.chance(20) => self.restart_namenode(),
            39 => self.administer(),
            40 if self.chance(30) => self.change_rack(),
            _ => self.second(),
        }
        self.world.manager.check_invariants();
    }

    /// Without faults, until everything that takes time has had it.
    fn quiesce(&mut self) {
        self.faults = false;
        for node in 0..NODES {
            self.order(node, AdminState::Normal);
            self.revive(node);
            if !self.world.racks.is_empty() {
                self.world.racks.insert(node, RACKS[node % 3].to_owned());
                self.register(node);
            }
        }
        for round in 0..3 {
            for _ in 0..120 {
                self.second();
            }
            if round < 2 {
                for node in 0..NODES {
                    let report = self.report_of(node);
                    self.world.full_report(node, &report);
                }
            }
        }
    }

    fn check_converged(&self, racks: bool) {
        let stats = self.world.manager.stats(self.world.now);
        assert_eq!(stats.live_datanodes as usize, NODES);
        assert_eq!(stats.missing_blocks + stats.corrupt_blocks, 0, "{stats:?}");
        assert_eq!(stats.under_replicated_blocks, 0, "{stats:?}");
        assert_eq!((stats.pending_replication_blocks, stats.pending_deletion_blocks), (0, 0));
        for block in self.world.stored.values() {
            let good = self.good_copies(block);
            assert_eq!(good.len(), usize::from(block.replication), "{block:?} on {good:?}");
            assert_eq!(self.world.holders(block.id), good, "{block:?}");
            let sites: BTreeSet<&str> = good.iter().map(|node| &RACKS[node % 3][..2]).collect();
            assert!(!racks || good.len() < 2 || sites.len() > 1, "{block:?} in one data centre: {good:?}");
        }
        for (node, disk) in self.disks.iter().enumerate() {
            for (id, copy) in &disk.replicas {
                let wanted = self.world.stored.get(&BlockId(*id));
                let good = wanted.is_some_and(|block| self.good_copies(block).contains(&node));
                assert!(good, "left on datanode {node}: block {id} {copy:?} of {wanted:?}");
                assert_eq!(
                    copy.state,
                    ReplicaState::Finalized,
                    "never closed on datanode {node}: block {id}"
                );
            }
        }
    }
}

impl Simulation {
    /// A datanode leaves a healthy cluster: in the end the others have everything.
    fn drain_one(&mut self, racks: bool) {
        let node = self.random.index(NODES);
        self.order(node, AdminState::Decommission);
        (0..120).for_each(|_| self.second());
        let rows = self.world.manager.datanode_report(self.world.now);
        let row = rows.iter().find(|row| row.info.as_ref().is_some_and(|info| info.uuid == uuid(node)));
        let progress = row.and_then(|row| row.admin).expect("it is known");
        assert!(progress.done, "{progress:?}");
        for block in self.world.stored.values() {
            let others = self.good_copies(block).into_iter().filter(|holder| *holder != node).count();
            assert_eq!(others, usize::from(block.replication), "{block:?}");
        }
        self.order(node, AdminState::Normal);
        (0..120).for_each(|_| self.second());
        self.check_converged(racks);
    }
}

fn run(seed: u64) {
    println!("seed {seed} (DFS_TEST_SEED repeats one)");
    let racks = seed.is_multiple_of(2);
    let mut simulation = Simulation::new(seed, racks);
    for _ in 0..STEPS {
        simulation.step();
    }
    simulation.quiesce();
    simulation.check_converged(racks);
    simulation.drain_one(racks);
}

#[test]
fn a_cluster_under_random_faults_loses_nothing_and_converges() {
    match std::env::var("DFS_TEST_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => run(seed),
        None => (1..=SEEDS).for_each(run),
    }
}
