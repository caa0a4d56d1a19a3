//! A datanode that comes and goes: how many copies that causes.

use super::*;

const NODES: usize = 6;
const BLOCKS: usize = 100;
const FLAPS: usize = 120;

/// Copies that one datanode sends in a second.
const PACE: usize = 10;

struct Flapping {
    world: World,
    /// Blocks by datanode.
    disks: Vec<Vec<u64>>,
    /// Copies that datanodes were told of and have not made, in order.
    queues: Vec<Vec<(u64, Vec<usize>)>>,
    copies: usize,
}

impl Flapping {
    fn new(replication: u16) -> Self {
        let mut world = World::cluster(NODES);
        let mut disks = vec![Vec::new(); NODES];
        for number in 0..BLOCKS {
            let others = (0..usize::from(replication) - 1).map(|at| 1 + (number + at) % (NODES - 1));
            let holders: Vec<usize> = std::iter::once(0).chain(others).collect();
            let block = world.write(replication, &holders);
            holders.iter().for_each(|node| disks[*node].push(block.id.get()));
        }
        Self { world, disks, queues: vec![Vec::new(); NODES], copies: 0 }
    }

    /// A second in which all datanodes but, if it is away, the first do their work.
    fn second(&mut self, away: bool) {
        let alive: Vec<usize> = (usize::from(away)..NODES).collect();
        // Past the checks of `World` after every event, which would make this test slow.
        self.world.now += 1_000;
        let now = self.world.now;
        let mut commands = Vec::new();
        for node in &alive {
            let storages = vec![volume(&storage(*node), 100 * GIB, 0)];
            let request = v1::HeartbeatRequest { uuid: uuid(*node), storages, ..Default::default() };
            let answer = self.world.manager.heartbeat(now, &request);
            commands.extend(answer.into_iter().filter_map(|command| Some((*node, command.command?))));
        }
        self.world.manager.tick(now);
        for (node, command) in commands {
            match command {
                Command::Transfer(order) => {
                    let id = order.block.expect("a block").id;
                    self.queues[node].push((id, order.targets.iter().map(node_of).collect()));
                }
                Command::Withdraw(order) => {
                    self.queues[node].retain(|(id, _)| !order.block_ids.contains(id));
                }
                Command::Invalidate(order) => {
                    for block in order.blocks {
                        self.disks[node].retain(|id| *id != block.id);
                        self.report(node, ReplicaEvent::Deleted, block);
                    }
                }
                Command::Reregister(_) => self.come_back(node),
                other => panic!("{other:?}"),
            }
        }
        for node in alive {
            let due = self.queues[node].len().min(PACE);
            let begun: Vec<(u64, Vec<usize>)> = self.queues[node].drain(..due).collect();
            for (id, targets) in begun {
                let block = self.world.stored[&BlockId(id)].clone();
                for target in targets.into_iter().filter(|target| !away || *target != 0) {
                    self.disks[target].push(id);
                    self.copies += 1;
                    self.report(target, ReplicaEvent::Received, block.to_proto());
                }
            }
        }
    }

    fn report(&mut self, node: usize, event: ReplicaEvent, block: v1::Block) {
        let change = v1::ReplicaChange {
            event: event.into(),
            block: Some(block),
            storage_id: storage(node),
            ..Default::default()
        };
        let stored = self.world.stored.get(&block.block_id());
        self.world.manager.incremental(self.world.now, &uuid(node), &change, stored);
    }

    fn come_back(&mut self, node: usize) {
        self.queues[node].clear();
        self.world.register(node);
        let mut held: Vec<ReportedReplica> =
            self.disks[node].iter().map(|id| finalized(&self.world.stored[&BlockId(*id)])).collect();
        held.sort_by_key(|replica| replica.id);
        self.world.full_report(node, &held);
    }

    fn flap(&mut self, down_s: usize, up_s: usize) {
        (0..down_s).for_each(|_| self.second(true));
        (0..up_s).for_each(|_| self.second(false));
    }
}

/// Every copy is needless: the datanode always comes back with all it had.
#[test]
fn a_flapping_datanode_causes_next_to_no_copies() {
    for replication in [2, 3] {
        for (down_s, up_s) in [(8, 4), (28, 3), (31, 5), (35, 20), (60, 60), (200, 100)] {
            let mut cluster = Flapping::new(replication);
            for _ in 0..FLAPS {
                cluster.flap(down_s, up_s);
            }
            let share = cluster.copies as f64 / (FLAPS * BLOCKS) as f64;
            println!("{down_s} s down, {up_s} s up, {replication} replicas: {} copies", cluster.copies);
            assert!(share < 0.01, "{share} of the replicas that were away ({down_s} s, {up_s} s)");
            let before = cluster.copies;
            for _ in 0..10 {
                cluster.flap(down_s, up_s);
            }
            assert_eq!(cluster.copies, before, "it has been learnt ({down_s} s, {up_s} s)");
            (0..700).for_each(|_| cluster.second(true));
            let stats = cluster.world.manager.stats(cluster.world.now);
            let left = (stats.under_replicated_blocks, stats.missing_blocks);
            assert_eq!(left, (0, 0), "in the end it is dead: {stats:?}");
        }
    }
}

#[test]
fn a_block_with_one_replica_left_is_copied_at_once_whoever_is_expected_back() {
    let mut world = World::cluster(5);
    let block = world.write(3, &[0, 1, 2]);
    for _ in 0..4 {
        world.seconds(31, &[1, 2, 3, 4]);
        world.register(0);
        world.full_report(0, &[finalized(&block)]);
        world.seconds(2, &[0, 1, 2, 3, 4]);
    }
    let flaps = world.manager.datanode_report(world.now)[0].flaps;
    assert_eq!(flaps, 4);
    assert_eq!(transfers(&world.seconds(31, &[1, 2, 3, 4])), [], "two others are there");
    let copies = transfers(&world.seconds(32, &[2, 3, 4]));
    assert_eq!(copies.len(), 1, "one other is there");
    assert_eq!((copies[0].0, copies[0].1), (2, block.id.get()));
}

#[test]
fn a_copy_made_while_a_datanode_was_expected_back_is_one_too_many_when_it_is_back() {
    let mut world = World::cluster(4);
    let block = world.write(2, &[0, 1]);
    let all = [0, 1, 2, 3];
    for _ in 0..3 {
        world.seconds(31, &all[1..]);
        world.register(0);
        world.full_report(0, &[finalized(&block)]);
        world.seconds(2, &all);
    }
    let copies = transfers(&world.seconds(35, &all[1..]));
    let (_, _, targets) = copies.last().expect("one replica is left, and is copied");
    world.received(targets[0], &block);
    world.seconds(2, &all[1..]);
    assert_eq!(world.holders(block.id).len(), 2);
    world.register(0);
    world.full_report(0, &[finalized(&block)]);
    let deleted = deletions(&world.seconds(5, &all));
    assert_eq!(deleted.len(), 1, "{deleted:?}");
    assert_eq!(world.holders(block.id).len(), 2);
}
