//! Targets of new blocks.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

#[test]
fn the_writers_datanode_comes_first_and_load_spreads() {
    let world = World::cluster(6);
    let mut counts = BTreeMap::new();
    for seed in 0..600 {
        let targets = world.place(3, Some(2), seed);
        assert_eq!(targets[0], 2);
        assert_eq!(targets.iter().collect::<BTreeSet<_>>().len(), 3);
        for node in &targets[1..] {
            *counts.entry(*node).or_insert(0) += 1;
        }
    }
    // 1,200 replicas on five datanodes.
    assert!(counts.values().all(|count| (180..300).contains(count)), "{counts:?}");
    assert_eq!(world.place(9, None, 1).len(), 6, "as many as there are");
}

#[test]
fn racks_get_one_and_two_replicas_and_a_cap() {
    let racks = ["/r1", "/r1", "/r1", "/r2", "/r2", "/r2", "/r3", "/r3", "/r3"];
    let world = World::on_racks(&racks);
    for seed in 0..200 {
        let targets = world.place(3, Some(0), seed);
        let rack = |at: usize| racks[targets[at]];
        assert_eq!(targets[0], 0);
        assert_ne!(rack(1), "/r1");
        assert_eq!(rack(1), rack(2));
        let targets = world.place(9, Some(0), seed);
        assert_eq!(targets.len(), 9);
        let six = world.place(6, None, seed);
        for name in ["/r1", "/r2", "/r3"] {
            // (6 - 1) / 3 + 2
            assert!(six.iter().filter(|node| racks[**node] == name).count() <= 3);
        }
    }
}

#[test]
fn stale_full_excluded_and_taken_datanodes_are_not_used() {
    let mut world = World::cluster(5);
    world.seconds(10, &[0, 1, 2, 3]);
    // Datanode 0 has less room than a block needs.
    world.beat_with(0, vec![volume(&storage(0), 100 * GIB, 100 * GIB - 1)]);
    let exclude = [uuid(1)];
    let existing = storages(&[2]);
    for seed in 0..50 {
        let request = PlacementRequest {
            replication: 4,
            block_size: GIB,
            exclude: &exclude,
            existing: &existing,
            seed,
            ..Default::default()
        };
        let targets: Vec<usize> = world.manager.choose_targets(&request).iter().map(node_of).collect();
        assert_eq!(targets, [3]);
    }
}

#[test]
fn room_is_kept_for_blocks_being_written_while_there_is_a_choice() {
    let mut world = World::cluster(2);
    world.beat_with(0, vec![volume(&storage(0), 3 * GIB, 0)]);
    world.allocate(1, &[0]);
    world.allocate(1, &[0]);
    world.allocate(1, &[0]);
    for seed in 0..50 {
        assert_eq!(world.place(1, None, seed), [1]);
    }
    assert_eq!(world.place(2, None, 1).len(), 2, "better a tight datanode than none");
}

#[test]
fn busy_and_full_datanodes_get_less() {
    let mut world = World::cluster(4);
    for node in 0..4 {
        let used = if node == 0 { 95 * GIB } else { 10 * GIB };
        let request = v1::HeartbeatRequest {
            uuid: uuid(node),
            storages: vec![volume(&storage(node), 100 * GIB, used)],
            xceivers: if node == 1 { 200 } else { 2 },
            transfers_in_progress: 0,
        };
        world.manager.heartbeat(world.now, &request);
    }
    world.manager.tick(world.now);
    let mut counts = [0; 4];
    for seed in 0..400 {
        counts[world.place(1, None, seed)[0]] += 1;
    }
    assert_eq!(counts[1], 0, "more than twice the mean load");
    assert!(counts[0] < counts[2] / 2 && counts[0] < counts[3] / 2, "{counts:?}");
}

#[test]
fn several_datanodes_on_the_writers_machine_share_the_work() {
    let mut world = World::new();
    for node in 0..3 {
        let mut info = world.info(node);
        info.ip = "127.0.0.1".to_owned();
        info.xfer_port = 9_866 + u32::try_from(node).expect("small");
        world.manager.register(world.now, info, &[volume(&storage(node), 100 * GIB, 0)], "test");
    }
    let request = |seed| PlacementRequest {
        writer_ip: Some("127.0.0.1".parse().expect("an address")),
        replication: 3,
        block_size: GIB,
        seed,
        ..Default::default()
    };
    let mut first = [0; 3];
    for seed in 0..300 {
        let targets = world.manager.choose_targets(&request(seed));
        assert_eq!(nodes_of(&targets), [0, 1, 2]);
        first[node_of(&targets[0])] += 1;
    }
    assert!(first.iter().all(|count| *count > 60), "{first:?}");
}

#[test]
fn a_large_cluster_is_sampled() {
    let mut world = World::new();
    for node in 0..200 {
        world.register(node);
    }
    let mut used = BTreeSet::new();
    for seed in 0..500 {
        let targets = world.place(3, None, seed);
        assert_eq!(targets.iter().collect::<BTreeSet<_>>().len(), 3);
        used.extend(targets);
    }
    assert!(used.len() > 190, "{} of 200 used", used.len());
}
