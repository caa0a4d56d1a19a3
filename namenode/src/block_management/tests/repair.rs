//! Dead datanodes, failed volumes, lost replicas: what is copied where.

use dfs_proto::v1::{self, ReplicaEvent};

use super::*;

#[test]
fn a_dead_datanodes_blocks_are_copied_the_most_endangered_first() {
    let mut world = World::with(BlockManagementConfig { node_transfers_max: 1, ..Default::default() });
    world.join(4);
    let safe = world.write(3, &[0, 1, 2]);
    let endangered = world.write(2, &[2, 0]);
    // Silent for 30 s: stale first, then dead.
    assert_eq!(transfers(&world.seconds(29, &[0, 1, 3])), []);
    assert_eq!(world.manager.stats(world.now).stale_datanodes, 1);
    let commands = world.seconds(2, &[0, 1, 3]);
    let stats = world.manager.stats(world.now);
    assert_eq!((stats.dead_datanodes, stats.under_replicated_blocks), (1, 2));
    // Datanode 0 may send one copy only: that of the block with one replica left.
    let copies = transfers(&commands);
    assert!(
        copies.contains(&(0, endangered.id.get(), vec![1]))
            || copies.contains(&(0, endangered.id.get(), vec![3])),
        "{copies:?}"
    );
    for (source, id, targets) in copies {
        let block = world.stored[&BlockId(id)].clone();
        assert!(id == endangered.id.get() || (source == 1 && id == safe.id.get()));
        world.received(targets[0], &block);
    }
    for (_, id, targets) in transfers(&world.seconds(2, &[0, 1, 3])) {
        let block = world.stored[&BlockId(id)].clone();
        world.received(targets[0], &block);
    }
    assert_eq!(world.holders(safe.id), [0, 1, 3]);
    assert_eq!(world.holders(endangered.id).len(), 2);
    let stats = world.manager.stats(world.now);
    assert_eq!((stats.under_replicated_blocks, stats.pending_replication_blocks), (0, 0));
}

#[test]
fn a_returning_datanode_cancels_copies_that_were_not_ordered_yet() {
    let mut world = World::cluster(4);
    let block = world.write(3, &[0, 1, 2]);
    world.seconds(29, &[0, 1, 3]);
    world.now += 1_000;
    world.manager.tick(world.now);
    assert_eq!(world.manager.stats(world.now).pending_replication_blocks, 1);
    assert!(matches!(world.beat(2)[..], [Command::Reregister(_)]));
    world.register(2);
    world.full_report(2, &[finalized(&block)]);
    let stats = world.manager.stats(world.now);
    assert_eq!((stats.pending_replication_blocks, stats.under_replicated_blocks), (0, 0));
    let commands = world.seconds(5, &[0, 1, 2, 3]);
    assert_eq!((transfers(&commands), deletions(&commands)), (vec![], vec![]));
    assert_eq!(world.holders(block.id), [0, 1, 2]);
}

#[test]
fn a_datanode_that_returns_after_repair_loses_the_excess() {
    let mut world = World::cluster(4);
    let block = world.write(3, &[0, 1, 2]);
    let copies = transfers(&world.seconds(32, &[0, 1, 3]));
    assert_eq!(copies.len(), 1);
    world.received(3, &block);
    world.register(2);
    world.full_report(2, &[finalized(&block)]);
    let deleted = deletions(&world.seconds(2, &[0, 1, 2, 3]));
    assert_eq!(deleted.len(), 1);
    let (node, id, stamp) = deleted[0];
    assert_eq!((id, stamp), (block.id.get(), block.stamp.get()));
    world.deleted(node, block.to_proto());
    assert_eq!(world.holders(block.id).len(), 3);
    assert!(!world.holders(block.id).contains(&node));
    assert_eq!(world.manager.stats(world.now).pending_deletion_blocks, 0);
}

#[test]
fn a_copy_that_does_not_arrive_is_ordered_again() {
    let mut world = World::cluster(3);
    let block = world.write(2, &[0]);
    let commands = world.seconds(3, &[0, 1, 2]);
    assert_eq!(transfers(&commands).len(), 1);
    assert_eq!(transfers(&world.seconds(25, &[0, 1, 2])), []);
    assert_eq!(transfers(&world.seconds(10, &[0, 1, 2])).len(), 1);
    assert_eq!(world.holders(block.id), [0]);
}

#[test]
fn a_failed_volume_takes_only_its_own_replicas_with_it() {
    let mut world = World::cluster(4);
    let two = |failed| {
        let mut broken = volume("dn0-s1", 50 * GIB, 0);
        broken.failed = failed;
        vec![volume(&storage(0), 100 * GIB, 0), broken]
    };
    world.beat_with(0, two(false));
    let there = world.write(3, &[0, 1, 2]);
    let gone = world.allocate(3, &[1, 2]);
    let targets = vec!["dn0-s1".to_owned(), storage(1), storage(2)];
    let block = StoredBlock { state: BlockState::Complete, length: 100, ..gone };
    world.stored.insert(block.id, block.clone());
    world.effect(Effect::BlockCommitted { block: block.clone(), storage_ids: targets });
    assert_eq!(world.holders(block.id), [0, 1, 2]);

    world.beat_with(0, two(true));
    assert_eq!(world.holders(block.id), [1, 2]);
    let mut commands = Vec::new();
    for _ in 0..3 {
        world.now += 1_000;
        for node in 1..4 {
            commands.extend(world.beat(node).into_iter().map(|command| (node, command)));
        }
        commands.extend(world.beat_with(0, two(true)).into_iter().map(|command| (0, command)));
        world.manager.tick(world.now);
    }
    let copies = transfers(&commands);
    assert_eq!(copies.len(), 1);
    // The datanode itself may take the copy on its good volume.
    assert_eq!(copies[0].1, block.id.get());
    assert!([vec![0], vec![3]].contains(&copies[0].2));
    assert_eq!(world.holders(there.id), [0, 1, 2]);
}

#[test]
fn blocks_under_construction_are_left_alone() {
    let mut world = World::cluster(4);
    let block = world.allocate(3, &[0, 1, 2]);
    let commands = world.seconds(40, &[0, 1, 3]);
    assert_eq!((transfers(&commands), deletions(&commands)), (vec![], vec![]));
    assert_eq!(world.manager.stats(world.now).under_replicated_blocks, 0);
    world.commit(block.id, 100, &[0, 1]);
    assert_eq!(transfers(&world.seconds(2, &[0, 1, 3])).len(), 1);
}

#[test]
fn many_blocks_are_limited_by_count_and_bytes() {
    let config =
        BlockManagementConfig { node_transfers_max: 8, node_transfer_bytes_max: 300, ..Default::default() };
    let mut world = World::with(config);
    world.join(3);
    for _ in 0..20 {
        world.write(2, &[0]);
    }
    // 100 bytes each: three at a time from the only source.
    assert_eq!(transfers(&world.seconds(5, &[0, 1, 2])).len(), 3);
}

#[test]
fn a_stopped_namenode_does_not_take_its_datanodes_for_dead() {
    let mut world = World::cluster(3);
    world.write(3, &[0, 1, 2]);
    world.now += 3_600_000;
    world.manager.tick(world.now);
    assert_eq!(world.manager.stats(world.now).live_datanodes, 3);
    world.seconds(40, &[0, 1]);
    assert_eq!(world.manager.stats(world.now).dead_datanodes, 1);
}

#[test]
fn replication_is_raised_and_lowered() {
    let mut world = World::cluster(5);
    let block = world.write(2, &[0, 1]);
    world.set_replication(block.id, 5);
    let copies = transfers(&world.seconds(2, &[0, 1, 2, 3, 4]));
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].2, [2, 3, 4]);
    for node in [2, 3, 4] {
        world.received(node, &block);
    }
    assert_eq!(world.holders(block.id), [0, 1, 2, 3, 4]);
    world.set_replication(block.id, 1);
    let deleted = deletions(&world.seconds(1, &[0, 1, 2, 3, 4]));
    assert_eq!(deleted.len(), 4);
    assert_eq!(world.holders(block.id).len(), 1);
}

#[test]
fn excess_replicas_wait_while_a_holder_is_stale() {
    let mut world = World::cluster(3);
    let block = world.write(3, &[0, 1, 2]);
    world.seconds(10, &[0, 1]);
    world.set_replication(block.id, 2);
    // Two replicas are certain: exactly as many as wanted.
    assert_eq!(deletions(&world.seconds(2, &[0, 1])), []);
    // The third turns up again.
    assert_eq!(deletions(&world.seconds(3, &[0, 1, 2])).len(), 1);
    assert_eq!(world.holders(block.id).len(), 2);
}

#[test]
fn a_replica_that_vanishes_is_replaced() {
    let mut world = World::cluster(3);
    let block = world.write(2, &[0, 1]);
    world.deleted(1, block.to_proto());
    let copies = transfers(&world.seconds(2, &[0, 1, 2]));
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].0, 0);
}

#[test]
fn blocks_on_one_rack_get_a_replica_on_another() {
    let mut world = World::on_racks(&["/r1", "/r1", "/r1"]);
    let block = world.write(3, &[0, 1, 2]);
    world.seconds(2, &[0, 1, 2]);
    world.racks.insert(3, "/r2".to_owned());
    world.register(3);
    world.full_report(3, &[]);
    let copies = transfers(&world.seconds(3, &[0, 1, 2, 3]));
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].2, [3]);
    world.received(3, &block);
    let deleted = deletions(&world.seconds(2, &[0, 1, 2, 3]));
    assert_eq!(deleted.len(), 1);
    assert_ne!(deleted[0].0, 3, "the only replica of its rack stays");
    assert!(world.holders(block.id).contains(&3));
}

#[test]
fn an_order_is_settled_when_its_target_restarts() {
    let mut world = World::cluster(3);
    let block = world.write(2, &[0]);
    let copies = transfers(&world.seconds(2, &[0, 1, 2]));
    let target = copies[0].2[0];
    world.register(target);
    world.full_report(target, &[]);
    assert_eq!(world.manager.stats(world.now).pending_replication_blocks, 0);
    assert_eq!(transfers(&world.seconds(2, &[0, 1, 2])).len(), 1);
    world.change(target, ReplicaEvent::Receiving, block.to_proto());
    assert_eq!(world.holders(block.id), [0], "a copy counts when it has arrived");
}

#[test]
fn hints_follow_the_replicas() {
    let mut world = World::cluster(3);
    let block = world.write(2, &[0]);
    assert_eq!(world.manager.take_hint_updates(10), []);
    let copies = transfers(&world.seconds(2, &[0, 1, 2]));
    let target = copies[0].2[0];
    world.received(target, &block);
    let updates = world.manager.take_hint_updates(10);
    let expected = v1::CommittedBlock { block: Some(block.to_proto()), storage_ids: storages(&[0, target]) };
    assert_eq!(updates, [expected]);
    assert_eq!(world.manager.take_hint_updates(10), []);
}
