//! A namenode that starts again knows datanodes and blocks from the namespace, and replicas from nobody.

use super::*;

fn restarted(world: &World, nodes: usize) -> World {
    let mut after = World::new();
    after.stored = world.stored.clone();
    after.next = world.next;
    for node in 0..nodes {
        let info = after.info(node);
        after.manager.recall_datanode(info, &storages(&[node]));
    }
    after.manager.tick(after.now);
    after
}

#[test]
fn files_are_readable_at_once_from_hints() {
    let mut world = World::cluster(3);
    let block = world.write(3, &[0, 1, 2]);
    let mut world = restarted(&world, 3);
    assert!(world.manager.is_starting());
    assert_eq!(world.holders(block.id), [0, 1, 2]);
    // Reported replicas come first.
    world.register(2);
    world.full_report(2, &[finalized(&block)]);
    let located = world.located(block.id);
    assert_eq!(node_of(&located.locations[0]), 2);
    assert_eq!(located.locations.len(), 3);
    assert_eq!(world.place(1, None, 1), [2], "what has registered can be written to");
}

#[test]
fn nothing_is_copied_or_deleted_before_all_have_reported() {
    let mut world = World::cluster(4);
    let blocks: Vec<StoredBlock> = (0..50).map(|_| world.write(3, &[0, 1, 2])).collect();
    let mut world = restarted(&world, 4);
    let replicas: Vec<ReportedReplica> = blocks.iter().map(finalized).collect();
    let mut commands = Vec::new();
    for node in 0..4 {
        world.register(node);
        commands.extend(world.seconds(2, &(0..=node).collect::<Vec<_>>()));
        world.full_report(node, if node < 3 { &replicas } else { &[] });
    }
    assert!(world.manager.is_starting());
    commands.extend(world.seconds(3, &[0, 1, 2, 3]));
    assert!(!world.manager.is_starting());
    assert_eq!((transfers(&commands), deletions(&commands)), (vec![], vec![]));
    assert_eq!(world.manager.stats(world.now).under_replicated_blocks, 0);
    let stored: Vec<StoredBlock> = world.stored.values().cloned().collect();
    world.manager.check_slice(world.now, &stored);
    assert_eq!(world.manager.stats(world.now).missing_blocks, 0);
}

#[test]
fn a_datanode_that_stays_away_is_replaced_after_the_grace() {
    let mut world = World::cluster(4);
    let blocks: Vec<StoredBlock> = (0..50).map(|_| world.write(3, &[0, 1, 2])).collect();
    let mut world = restarted(&world, 4);
    let replicas: Vec<ReportedReplica> = blocks.iter().map(finalized).collect();
    for node in [0, 1, 3] {
        world.register(node);
        world.full_report(node, if node == 3 { &[] } else { &replicas });
    }
    assert_eq!(transfers(&world.seconds(29, &[0, 1, 3])), []);
    assert!(world.manager.is_starting());
    let copies = transfers(&world.seconds(3, &[0, 1, 3]));
    assert_eq!(copies.len(), 50);
    assert!(copies.iter().all(|(_, _, targets)| *targets == [3]));
}

#[test]
fn excess_is_not_trimmed_while_an_earlier_leaders_orders_may_be_under_way() {
    let mut world = World::cluster(4);
    let block = world.write(3, &[0, 1, 2]);
    let mut world = restarted(&world, 4);
    for node in 0..4 {
        world.register(node);
        world.full_report(node, &[finalized(&block)]);
    }
    assert_eq!(deletions(&world.seconds(28, &[0, 1, 2, 3])), []);
    assert!(!world.manager.is_starting());
    assert_eq!(deletions(&world.seconds(5, &[0, 1, 2, 3])).len(), 1);
}

#[test]
fn a_new_cluster_trims_excess_at_once() {
    let mut world = World::new();
    // All of them register before the namenode's clock ticks for the first time.
    for node in 0..3 {
        world.register(node);
        world.full_report(node, &[]);
    }
    world.manager.tick(world.now);
    let block = world.write(3, &[0, 1, 2]);
    world.set_replication(block.id, 2);
    assert_eq!(world.holders(block.id).len(), 2);
    assert_eq!(deletions(&world.seconds(1, &[0, 1, 2])).len(), 1);
}

#[test]
fn hints_are_corrected_by_full_reports() {
    let mut world = World::cluster(3);
    let block = world.write(1, &[0]);
    let mut world = restarted(&world, 3);
    for node in 0..3 {
        world.register(node);
        world.full_report(
            node,
            if node == 2 { std::slice::from_ref(&block) } else { &[] }
                .iter()
                .map(finalized)
                .collect::<Vec<_>>()
                .as_slice(),
        );
    }
    let updates = world.manager.take_hint_updates(10);
    assert_eq!(updates.len(), 1);
    assert_eq!(updates[0].storage_ids, storages(&[2]));
}

#[test]
fn a_recovery_that_the_restart_interrupted_goes_on_when_the_datanodes_of_its_block_are_back() {
    for comes_back in [true, false] {
        let mut world = World::cluster(4);
        let block = world.allocate(2, &[0, 1]);
        world.stored.get_mut(&block.id).expect("a block of the test").state = BlockState::UnderRecovery;
        let mut world = restarted(&world, 4);
        world.manager.config.dead_after_ms = 10_000;
        let (id, stamp) = (block.id, block.stamp);
        let found = ReportedReplica { id, stamp, length: 100, state: ReplicaState::Rur };
        for node in [0, 2] {
            world.register(node);
        }
        world.full_report(0, &[found]);
        world.full_report(2, &[]);
        world.seconds(5, &[0, 2]);
        assert_eq!(world.manager.take_overdue_recoveries(), [], "datanode 1 may have a better replica");
        if comes_back {
            world.register(1);
            world.full_report(1, &[found]);
            world.second(&[0, 1, 2]);
        } else {
            world.seconds(6, &[0, 2]);
        }
        assert!(world.manager.is_starting(), "datanode 3 is away");
        assert_eq!(world.manager.take_overdue_recoveries(), [(block.inode, block.id)], "{comes_back}");
    }
}

#[test]
fn a_recovery_that_is_replayed_from_the_log_does_not_wait_until_it_is_overdue() {
    let mut world = World::new();
    let block = StoredBlock { state: BlockState::UnderRecovery, ..World::cluster(3).allocate(2, &[0, 1]) };
    world.stored.insert(block.id, block.clone());
    // Datanodes are recalled when the log was replayed.
    world.effect(Effect::RecoveryStarted {
        block: block.clone(),
        storage_ids: block.hints.clone(),
        new_stamp: GenerationStamp(5_000),
        truncate_length: Some(70),
    });
    for node in 0..3 {
        let info = world.info(node);
        world.manager.recall_datanode(info, &storages(&[node]));
    }
    world.manager.tick(world.now);
    let found = [ReportedReplica { id: block.id, stamp: block.stamp, length: 100, state: ReplicaState::Rur }];
    for node in 0..3 {
        world.register(node);
        world.full_report(node, if node < 2 { &found } else { &[] });
    }
    world.seconds(2, &[0, 1, 2]);
    assert!(!world.manager.is_starting());
    assert_eq!(world.manager.take_overdue_recoveries(), [(block.inode, block.id)]);
}
