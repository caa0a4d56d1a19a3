//! Balancing on a simulated cluster: datanodes with disks, copies that take their time, racks and data centres. What is
//! on the disks is looked at after every step: no block ever has fewer replicas, racks or data centres than before.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::block_management::balancer::RUN_BANDWIDTH;
use crate::block_management::random::Random;
use crate::namesystem::Effect;
use v1::BalanceState;

const MIB: u64 = 1 << 20;

/// Seconds that a run may take before a test gives up.
const PATIENCE_S: usize = 20_000;

/// Replicas, racks and data centres of each block.
type Safety = BTreeMap<BlockId, (usize, (usize, usize))>;

/// A copy on its way.
struct Flight {
    arrives: u64,
    block: v1::Block,
    from: usize,
    to: usize,
}

struct Cluster {
    world: World,
    capacity: Vec<u64>,
    /// Blocks on each datanode's disk with their lengths.
    disks: Vec<BTreeMap<u64, u64>>,
    alive: BTreeSet<usize>,
    flights: Vec<Flight>,
    random: Random,
    /// Percent of copies that fail.
    failures: u64,
    /// Bytes that each datanode was ordered to send, and to receive, for balancing.
    sent: Vec<u64>,
    received: Vec<u64>,
}

impl Cluster {
    fn new(seed: u64, racks: &[&str], capacity: &[u64]) -> Self {
        println!("seed {seed}");
        let mut world = World::with(BlockManagementConfig {
            background_balance_bandwidth: 0,
            seed,
            ..BlockManagementConfig::default()
        });
        world.racks = racks.iter().enumerate().map(|(node, rack)| (node, (*rack).to_owned())).collect();
        let nodes = capacity.len();
        let mut cluster = Self {
            world,
            capacity: capacity.to_vec(),
            disks: vec![BTreeMap::new(); nodes],
            alive: (0..nodes).collect(),
            flights: Vec::new(),
            random: Random::new(seed),
            failures: 0,
            sent: vec![0; nodes],
            received: vec![0; nodes],
        };
        for node in 0..nodes {
            cluster.join(node);
        }
        cluster.world.manager.tick(cluster.world.now);
        assert!(!cluster.world.manager.is_starting());
        cluster
    }

    fn report(&self, node: usize) -> Vec<ReportedReplica> {
        let row = |id: &u64| self.world.stored.get(&BlockId(*id)).map(finalized);
        self.disks[node].keys().filter_map(row).collect()
    }

    fn join(&mut self, node: usize) {
        let info = self.world.info(node);
        let storage_ids = storages(&[node]);
        self.world.effect(Effect::DatanodeRecorded { info: info.clone(), storage_ids });
        let volume = self.volume(node);
        self.world.manager.register(self.world.now, info, &[volume], "test");
        let report = self.report(node);
        self.world.full_report(node, &report);
    }

    fn used(&self, node: usize) -> u64 {
        self.disks[node].values().sum()
    }

    fn volume(&self, node: usize) -> v1::StorageReport {
        volume(&storage(node), self.capacity[node], self.used(node).min(self.capacity[node]))
    }

    /// A complete block of `length` bytes on `nodes`.
    fn write(&mut self, nodes: &[usize], length: u64) -> BlockId {
        let id = self.world.allocate(u16::try_from(nodes.len()).expect("few"), nodes).id;
        self.world.commit(id, length, nodes);
        for node in nodes {
            self.disks[*node].insert(id.get(), length);
        }
        id
    }

    /// Percent of its capacity that a datanode uses.
    fn percent(&self, node: usize) -> f64 {
        self.used(node) as f64 * 100.0 / self.capacity[node] as f64
    }

    fn average(&self) -> f64 {
        let used: u64 = (0..self.disks.len()).map(|node| self.used(node)).sum();
        used as f64 * 100.0 / self.capacity.iter().sum::<u64>() as f64
    }

    fn holders(&self, id: BlockId) -> Vec<usize> {
        (0..self.disks.len()).filter(|node| self.disks[*node].contains_key(&id.get())).collect()
    }

    fn rack(&self, node: usize) -> &str {
        self.world.racks.get(&node).map_or("", String::as_str)
    }

    /// Racks and data centres of a block.
    fn spread(&self, id: BlockId) -> (usize, usize) {
        let racks: BTreeSet<&str> = self.holders(id).into_iter().map(|node| self.rack(node)).collect();
        let centres: BTreeSet<&str> =
            racks.iter().map(|rack| rack.rsplit_once('/').map_or("", |(centre, _)| centre)).collect();
        (racks.len(), centres.len())
    }

    /// What every block must keep.
    fn safety(&self) -> Safety {
        let stored = self.world.stored.values();
        let replicas = |block: &StoredBlock| self.holders(block.id).len().min(usize::from(block.replication));
        stored.map(|block| (block.id, (replicas(block), self.spread(block.id)))).collect()
    }

    fn assert_safe(&self, safety: &Safety) {
        for (id, (replication, (racks, centres))) in safety {
            let (held, (racks_now, centres_now)) = (self.holders(*id), self.spread(*id));
            assert!(held.len() >= *replication, "{id} has too few replicas: {held:?}");
            assert!(
                racks_now >= *racks && centres_now >= *centres,
                "{id} is spread less than before: {held:?}"
            );
        }
    }

    fn tell(&mut self, node: usize, event: ReplicaEvent, block: v1::Block) {
        let stored = self.world.stored.get(&block.block_id()).cloned();
        let change = v1::ReplicaChange {
            event: event.into(),
            block: Some(block),
            storage_id: storage(node),
            ..Default::default()
        };
        self.world.manager.incremental(self.world.now, &uuid(node), &change, stored.as_ref());
    }

    /// One second.
    fn second(&mut self) {
        self.world.now += 1_000;
        let now = self.world.now;
        let (arrived, flying): (Vec<Flight>, Vec<Flight>) =
            std::mem::take(&mut self.flights).into_iter().partition(|flight| flight.arrives <= now);
        self.flights = flying;
        for flight in arrived {
            let whole = self.disks[flight.from].contains_key(&flight.block.id)
                && !self.disks[flight.to].contains_key(&flight.block.id);
            let fails = self.random.below(100) < self.failures;
            if whole && !fails && self.alive.contains(&flight.from) && self.alive.contains(&flight.to) {
                self.disks[flight.to].insert(flight.block.id, flight.block.length);
                self.tell(flight.to, ReplicaEvent::Received, flight.block);
            }
        }
        for node in self.alive.clone() {
            let volume = self.volume(node);
            let request =
                v1::HeartbeatRequest { uuid: uuid(node), storages: vec![volume], ..Default::default() };
            for command in self.world.manager.heartbeat(now, &request) {
                self.obey(node, command.command.expect("a command"));
            }
        }
        self.world.manager.tick(now);
        // Often enough to find what is wrong, and not all the time of the test.
        if self.random.below(10) == 0 {
            self.world.manager.check_invariants();
        }
    }

    fn obey(&mut self, node: usize, command: Command) {
        match command {
            Command::Transfer(order) => {
                let block = order.block.expect("a block");
                for to in order.targets.iter().map(node_of) {
                    if order.balancing {
                        self.sent[node] += block.length;
                        self.received[to] += block.length;
                    }
                    let arrives = self.world.now + 500 + self.random.below(4_000);
                    self.flights.push(Flight { arrives, block, from: node, to });
                }
            }
            Command::Invalidate(order) => {
                for block in order.blocks {
                    if self.disks[node].remove(&block.id).is_some() {
                        self.tell(node, ReplicaEvent::Deleted, block);
                    }
                    let Some(stored) = self.world.stored.get(&block.block_id()) else { continue };
                    let held = self.holders(stored.id);
                    assert!(held.len() >= usize::from(stored.replication), "{block} is left on {held:?}");
                }
            }
            Command::Reregister(_) => self.join(node),
            Command::BlockReport(_) => {
                let report = self.report(node);
                self.world.full_report(node, &report);
            }
            // Copies that have begun go on.
            Command::Withdraw(_) => {}
            other => panic!("not expected: {other:?}"),
        }
    }

    fn status(&mut self) -> v1::BalanceStatus {
        let now = self.world.now;
        let run = self.world.manager.balance_status(now, 0).run_id;
        self.world.manager.balance_status(now, run)
    }

    /// Runs to the end; answers the state and the seconds.
    fn balance(&mut self, threshold: u32, bandwidth: u64) -> (v1::BalanceStatus, usize) {
        let safety = self.safety();
        let now = self.world.now;
        self.world.manager.start_balancing(now, Some(threshold), Some(bandwidth));
        let begun = (self.sent.clone(), self.received.clone());
        for seconds in 1..PATIENCE_S {
            self.second();
            if seconds % 20 == 0 {
                self.assert_safe(&safety);
            }
            let allowed = bandwidth * (seconds as u64 + 4) + 128 * MIB;
            for node in 0..self.disks.len() {
                let sent = self.sent[node] - begun.0[node];
                let received = self.received[node] - begun.1[node];
                assert!(
                    sent.max(received) <= allowed,
                    "datanode {node} moved {sent}, {received} in {seconds} s"
                );
            }
            let status = self.status();
            if status.state() != BalanceState::Running {
                self.assert_safe(&safety);
                return (status, seconds);
            }
        }
        panic!("no end: {:?}", self.status());
    }

    fn assert_within(&self, percent: f64) {
        for node in 0..self.disks.len() {
            let off = (self.percent(node) - self.average()).abs();
            assert!(off <= percent + 0.5, "datanode {node}: {} of {}", self.percent(node), self.average());
        }
    }
}

/// A cluster of two data centres with racks, unevenly filled with blocks of all sizes.
fn uneven(seed: u64) -> Cluster {
    let racks = ["/a/1", "/b/1", "/a/1", "/b/1", "/a/2", "/b/2", "/a/2", "/b/2", "/b/2"];
    let capacity: Vec<u64> = (0..9).map(|node| (28 + 6 * (node % 3)) * GIB).collect();
    let mut cluster = Cluster::new(seed, &racks, &capacity);
    for _ in 0..1_100 {
        let length = match cluster.random.index(4) {
            0 => 1 + cluster.random.below(MIB),
            1 => 1 + cluster.random.below(64 * MIB),
            _ => 64 * MIB,
        };
        // The higher its number, the emptier a datanode is.
        let mut nodes: Vec<usize> = Vec::new();
        while nodes.len() < 3 {
            let (one, other) = (cluster.random.index(9), cluster.random.index(9));
            let node = one.min(other);
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        cluster.write(&nodes, length);
    }
    // Blocks that happened to lie on one rack, or in one data centre, are spread first.
    for _ in 0..120 {
        cluster.second();
    }
    cluster
}

#[test]
fn an_uneven_cluster_is_balanced_and_no_block_is_less_safe_at_any_time() {
    for seed in 1..=3 {
        let mut cluster = uneven(seed);
        assert!(cluster.status().over_utilized + cluster.status().under_utilized > 0);
        let (status, seconds) = cluster.balance(500, RUN_BANDWIDTH);
        println!("balanced in {seconds} s: {status:?}");
        assert_eq!(status.state(), BalanceState::Balanced, "{status:?}");
        assert_eq!((status.bytes_left, status.bytes_being_moved, status.moves_failed), (0, 0, 0));
        cluster.assert_within(5.0);
        let (again, _) = cluster.balance(500, RUN_BANDWIDTH);
        assert_eq!((again.state(), again.blocks_moved), (BalanceState::Balanced, 0), "nothing is left to do");
    }
}

#[test]
fn a_new_datanode_is_filled_by_the_background_alone_and_within_its_bandwidth() {
    let mut cluster = Cluster::new(3, &[], &[20 * GIB; 4]);
    cluster.alive.remove(&3);
    for number in 0..480 {
        let nodes = [[0, 1], [1, 2], [2, 0]][number % 3];
        cluster.write(&nodes, 64 * MIB);
    }
    // The fourth one is away while the others fill up, and comes empty.
    for _ in 0..60 {
        cluster.second();
    }
    cluster.alive.insert(3);
    cluster.join(3);
    let safety = cluster.safety();
    let bandwidth = 20 * MIB;
    let now = cluster.world.now;
    cluster.world.manager.set_balance_bandwidth(now, None, Some(bandwidth));
    let mut seconds = 0;
    while cluster.percent(3) < cluster.average() - 10.0 {
        cluster.second();
        seconds += 1;
        assert!(cluster.received[3] <= bandwidth * (seconds + 4) + 64 * MIB);
        assert!(seconds < 5_000, "it does not fill: {} %", cluster.percent(3));
    }
    cluster.assert_safe(&safety);
    let rate = cluster.received[3] / seconds / MIB;
    println!("filled in {seconds} s at {rate} MiB/s");
    assert!(rate >= 15, "the bandwidth is used: {rate} MiB/s");
    assert_eq!(cluster.status().state(), BalanceState::None, "nobody asked for it");
    assert!(cluster.status().background_bytes_moved > 0);
}

#[test]
fn a_run_is_stopped_resumed_slowed_down_and_ends_when_nobody_looks() {
    let mut cluster = uneven(7);
    let start = |cluster: &mut Cluster, bandwidth| {
        let now = cluster.world.now;
        cluster.world.manager.start_balancing(now, Some(200), bandwidth);
    };
    start(&mut cluster, Some(50 * MIB));
    for _ in 0..60 {
        cluster.second();
        cluster.status();
    }
    let running = cluster.status();
    assert!(running.state() == BalanceState::Running && running.bytes_moved > 0, "{running:?}");
    cluster.world.manager.stop_balancing();
    assert_eq!(cluster.status().state(), BalanceState::Stopped);
    for _ in 0..60 {
        cluster.second();
    }
    let sent: u64 = cluster.sent.iter().sum();
    let stopped = cluster.status();
    assert_eq!(stopped.bytes_being_moved, 0, "what was on its way arrived");
    for block in cluster.world.stored.values() {
        assert_eq!(
            cluster.holders(block.id).len(),
            usize::from(block.replication),
            "no replica is left over"
        );
    }

    // On again, very slowly: a second call changes the rate of the run that is on.
    start(&mut cluster, None);
    start(&mut cluster, Some(MIB));
    assert_eq!(cluster.status().run_id, running.run_id + 1);
    for _ in 0..100 {
        cluster.second();
        cluster.status();
    }
    let slow: u64 = cluster.sent.iter().sum::<u64>() - sent;
    let most = 9 * (103 * MIB + 64 * MIB);
    assert!(slow > 0 && slow <= most, "{slow} bytes in 100 s at 1 MiB/s a datanode");
    for _ in 0..61 {
        cluster.second();
    }
    assert_eq!(cluster.status().state(), BalanceState::Forsaken);
}

#[test]
fn blocks_that_lack_something_are_not_moved_and_repair_goes_first() {
    let mut cluster = Cluster::new(5, &[], &[GIB, GIB, 4 * GIB]);
    // One replica of three wanted: cannot be repaired, is not moved.
    let id = cluster.write(&[0], 64 * MIB);
    cluster.world.set_replication(id, 4);
    // Being written.
    let open = cluster.world.allocate(1, &[0]).id;
    cluster.disks[0].insert(open.get(), 400 * MIB);
    cluster.second();
    let (status, _) = cluster.balance(100, RUN_BANDWIDTH);
    assert_eq!(status.state(), BalanceState::NoMove, "{status:?}");
    assert_eq!(status.blocks_moved, 0);
}

#[test]
fn a_run_that_begins_right_after_writing_waits_for_what_datanodes_tell() {
    let mut cluster = Cluster::new(10, &[], &[4 * GIB; 4]);
    for _ in 0..60 {
        cluster.second();
    }
    for _ in 0..20 {
        cluster.write(&[0, 1], 64 * MIB);
    }
    let now = cluster.world.now;
    cluster.world.manager.start_balancing(now, Some(500), Some(RUN_BANDWIDTH));
    for ms in [0, 50, 900] {
        cluster.world.manager.tick(now + ms);
        let status = cluster.status();
        assert_eq!((status.state(), status.iteration), (BalanceState::Running, 0), "after {ms} ms");
    }
    // One that has fallen silent is not waited for.
    cluster.alive.remove(&3);
    let (status, _) = cluster.balance(500, RUN_BANDWIDTH);
    assert_eq!(status.state(), BalanceState::Balanced, "{status:?}");
    assert!(status.blocks_moved > 0);
}

#[test]
fn a_replica_that_would_take_a_rack_away_stays() {
    let mut cluster = Cluster::new(6, &["/r1", "/r2", "/r2"], &[GIB, GIB, 4 * GIB]);
    for _ in 0..10 {
        cluster.write(&[0, 1], 64 * MIB);
    }
    cluster.second();
    let (status, _) = cluster.balance(500, RUN_BANDWIDTH);
    // Those of the second datanode may go to the third, which shares its rack; those of the first may not.
    assert_eq!(cluster.disks[0].len(), 10);
    assert!(cluster.disks[1].len() < 10 && !cluster.disks[2].is_empty(), "{status:?}");
    assert_eq!(status.state(), BalanceState::NoMove);
}

#[test]
fn under_failing_copies_deaths_and_deletions_nothing_is_lost_and_the_run_ends() {
    for seed in 1..=2 {
        let mut cluster = uneven(seed);
        cluster.failures = 20;
        let now = cluster.world.now;
        cluster.world.manager.start_balancing(now, Some(500), Some(RUN_BANDWIDTH));
        for step in 0..400 {
            cluster.second();
            cluster.status();
            match cluster.random.below(100) {
                0..3 if cluster.alive.len() > 7 => {
                    let node = cluster.random.index(9);
                    cluster.alive.remove(&node);
                }
                3..8 => {
                    let node = cluster.random.index(9);
                    if cluster.alive.insert(node) {
                        cluster.join(node);
                    }
                }
                8..12 => {
                    let at = cluster.random.index(cluster.world.stored.len());
                    let id = cluster.world.stored.keys().nth(at).copied().expect("a block");
                    cluster.world.remove(id);
                }
                _ => {}
            }
            for block in cluster.world.stored.values().filter(|_| step % 10 == 0) {
                let held = cluster.holders(block.id).len();
                assert!(held >= usize::from(block.replication), "second {step}: {} has {held}", block.id);
            }
        }
        cluster.failures = 0;
        for node in 0..9 {
            if cluster.alive.insert(node) {
                cluster.join(node);
            }
        }
        for _ in 0..300 {
            cluster.second();
            cluster.status();
        }
        let (status, _) = cluster.balance(500, RUN_BANDWIDTH);
        assert_eq!(status.state(), BalanceState::Balanced, "{status:?}");
        for block in cluster.world.stored.values() {
            assert_eq!(cluster.holders(block.id).len(), usize::from(block.replication), "{}", block.id);
        }
        cluster.assert_within(5.0);
    }
}

#[test]
fn new_blocks_prefer_a_new_datanode_and_do_not_flood_it() {
    let mut cluster = Cluster::new(8, &[], &[100 * GIB; 10]);
    for node in 0..9 {
        // What the datanodes had before.
        cluster.disks[node].insert(1 << 40, 70 * GIB);
    }
    cluster.second();
    let mut written = [0usize; 10];
    for seed in 0..3_000 {
        for node in cluster.world.place(3, Some(seed % 9), seed as u64) {
            written[node] += 1;
        }
    }
    let mean = written.iter().sum::<usize>() as f64 / 10.0;
    let share = written[9] as f64 / mean;
    println!("{written:?}: the new one gets {share:.2} times the mean");
    assert!((1.0..3.0).contains(&share));
}
