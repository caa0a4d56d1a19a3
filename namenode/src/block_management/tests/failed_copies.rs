//! Copies that datanodes say they could not make.

use super::*;

impl World {
    /// Datanode `source` tells that it has not copied the block to `target`.
    fn copy_failed(&mut self, source: usize, target: usize, block: &StoredBlock, unsendable: bool) {
        let change = v1::ReplicaChange {
            event: ReplicaEvent::CopyFailed.into(),
            block: Some(block.to_proto()),
            storage_id: storage(target),
            unsendable,
        };
        self.manager.incremental(self.now, &uuid(source), &change, None);
        self.manager.check_invariants();
    }

    /// Orders that heartbeats bring now, without any time passing.
    fn orders(&mut self, alive: &[usize]) -> Vec<(usize, u64, Vec<usize>)> {
        let mut commands = Vec::new();
        for node in alive {
            commands.extend(self.beat(*node).into_iter().map(|command| (*node, command)));
        }
        transfers(&commands)
    }
}

#[test]
fn a_copy_that_its_target_refuses_goes_elsewhere_at_once() {
    let mut world = World::cluster(5);
    let block = world.write(3, &[0, 1]);
    let copies = transfers(&world.seconds(2, &[0, 1, 2, 3, 4]));
    let (source, target) = (copies[0].0, copies[0].2[0]);
    world.copy_failed(source, target, &block, false);
    let again = world.orders(&[0, 1, 2, 3, 4]);
    assert_eq!(again.len(), 1, "ordered again without waiting");
    assert_ne!(again[0].2, [target]);
    // Others are not sent there either, as long as there is somebody else.
    let other = world.write(3, &[0, 1]);
    world.manager.tick(world.now);
    let elsewhere = world.orders(&[0, 1, 2, 3, 4]);
    assert_eq!(elsewhere.len(), 1);
    assert_eq!(elsewhere[0].1, other.id.get());
    assert_ne!(elsewhere[0].2, [target]);
    world.received(again[0].2[0], &block);
    assert_eq!(world.holders(block.id).len(), 3);
}

#[test]
fn a_source_that_cannot_send_is_replaced_at_once() {
    for seed in 0..8 {
        let mut world = World::with(BlockManagementConfig { seed, ..Default::default() });
        world.join(4);
        let block = world.write(3, &[0, 1]);
        let copies = transfers(&world.seconds(2, &[0, 1, 2, 3]));
        let (source, target) = (copies[0].0, copies[0].2[0]);
        world.copy_failed(source, target, &block, true);
        let again = world.orders(&[0, 1, 2, 3]);
        assert_eq!((again.len(), again[0].0), (1, 1 - source));
    }
}

#[test]
fn failures_without_an_alternative_are_tried_again_with_growing_pauses() {
    let mut world = World::cluster(2);
    let block = world.write(2, &[0]);
    let nodes = [0, 1];
    assert_eq!(transfers(&world.seconds(2, &nodes)), [(0, block.id.get(), vec![1])]);
    let mut waited = Vec::new();
    for _ in 0..7 {
        world.copy_failed(0, 1, &block, false);
        // Other news of the same failure change nothing.
        world.copy_failed(0, 1, &block, false);
        let mut passed = 0;
        while world.orders(&nodes).is_empty() {
            assert!(passed < 40, "never ordered again");
            world.now += 1_000;
            passed += 1;
            world.manager.tick(world.now);
        }
        waited.push(passed);
    }
    assert_eq!(waited, [0, 1, 2, 4, 8, 16, 30]);
    world.received(1, &block);
    assert_eq!(world.holders(block.id), [0, 1]);
    let stats = world.manager.stats(world.now);
    assert_eq!((stats.under_replicated_blocks, stats.pending_replication_blocks), (0, 0));
    assert_eq!(stats.failed_copies, 7);
}

#[test]
fn one_target_of_several_may_fail_alone() {
    let mut world = World::cluster(5);
    let block = world.write(2, &[0]);
    world.set_replication(block.id, 3);
    let copies = transfers(&world.seconds(2, &[0, 1, 2, 3, 4]));
    let targets = copies[0].2.clone();
    assert_eq!(targets.len(), 2);
    world.copy_failed(0, targets[0], &block, false);
    assert_eq!(world.orders(&[0, 1, 2, 3, 4]), [], "a block has one order at a time");
    world.received(targets[1], &block);
    let again = transfers(&world.seconds(2, &[0, 1, 2, 3, 4]));
    assert_eq!(again.len(), 1);
    assert_ne!(again[0].2, [targets[0]]);
}

#[test]
fn news_of_copies_that_nobody_ordered_mean_nothing() {
    let mut world = World::cluster(4);
    let block = world.write(3, &[0, 1]);
    world.copy_failed(0, 2, &block, false);
    let copies = transfers(&world.seconds(2, &[0, 1, 2, 3]));
    let (source, target) = (copies[0].0, copies[0].2[0]);
    world.copy_failed(1 - source, target, &block, false);
    assert_eq!(world.orders(&[0, 1, 2, 3]), []);
    world.received(target, &block);
    world.copy_failed(source, target, &block, false);
    assert_eq!(world.orders(&[0, 1, 2, 3]), []);
    assert_eq!(world.manager.stats(world.now).failed_copies, 0);
}
