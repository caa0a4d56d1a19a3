//! Block recovery.

use super::*;

fn start(world: &mut World, id: BlockId, new_stamp: u64) {
    let block = world.stored.get_mut(&id).expect("a block of the test");
    block.state = BlockState::UnderRecovery;
    let (block, storage_ids) = (block.clone(), block.hints.clone());
    let new_stamp = GenerationStamp(new_stamp);
    world.effect(Effect::RecoveryStarted { block, storage_ids, new_stamp, truncate_length: None });
}

fn recoveries(commands: &[(usize, Command)]) -> Vec<(usize, v1::RecoverBlockCommand)> {
    commands
        .iter()
        .filter_map(|(node, command)| match command {
            Command::RecoverBlock(recover) => Some((*node, recover.clone())),
            _ => None,
        })
        .collect()
}

#[test]
fn the_first_live_datanode_is_primary() {
    let mut world = World::cluster(3);
    let block = world.allocate(3, &[2, 0, 1]);
    world.seconds(10, &[0, 1]);
    start(&mut world, block.id, 5_000);
    let orders = recoveries(&world.second(&[0, 1]));
    assert_eq!(orders.len(), 1);
    let (primary, order) = &orders[0];
    assert_eq!(*primary, 0, "datanode 2 is stale");
    assert_eq!(order.block.as_ref().map(|b| b.generation_stamp), Some(block.stamp.get()));
    assert_eq!((order.new_generation_stamp, order.truncate_length), (5_000, None));
    assert_eq!(nodes_of(&order.locations), [0, 1, 2]);
    // Done: the block is complete under its new stamp.
    let stored = world.stored.get_mut(&block.id).expect("a block of the test");
    stored.stamp = GenerationStamp(5_000);
    world.commit(block.id, 70, &[0, 1]);
    let commands = world.seconds(60, &[0, 1]);
    assert!(recoveries(&commands).is_empty());
    assert_eq!(world.manager.take_overdue_recoveries(), []);
    assert_eq!(world.holders(block.id), [0, 1]);
}

#[test]
fn whoever_asks_for_orders_first_is_primary() {
    let mut world = World::cluster(3);
    let block = world.allocate(3, &[0, 1, 2]);
    world.seconds(10, &[0, 1, 2]);
    // Two have stopped a moment ago, which nobody can know yet.
    start(&mut world, block.id, 5_000);
    let orders = recoveries(&world.second(&[1]));
    assert_eq!(orders.iter().map(|(node, _)| *node).collect::<Vec<_>>(), [1]);
    assert_eq!(recoveries(&world.seconds(3, &[0, 1, 2])), [], "one primary");
    // It stops as well: until the recovery has a new stamp, nobody else gets it.
    assert_eq!(recoveries(&world.seconds(8, &[0, 2])), []);
    assert_eq!(world.manager.take_overdue_recoveries(), [(block.inode, block.id)]);
    start(&mut world, block.id, 5_001);
    let orders = recoveries(&world.second(&[0, 1, 2]));
    let [(primary, order)] = &orders[..] else { panic!("one order: {orders:?}") };
    assert!(*primary != 1 && order.new_generation_stamp == 5_001, "another one is tried");
}

#[test]
fn replicas_that_are_away_are_told_of_for_some_minutes() {
    let mut world = World::cluster(3);
    let block = world.allocate(3, &[0, 1, 2]);
    world.stored.get_mut(&block.id).expect("a block of the test").hints.push("DS-never-seen".to_owned());
    // Two datanodes die, and of another one's storage nothing has been heard since the start.
    world.seconds(40, &[0]);
    for attempt in 0..25 {
        start(&mut world, block.id, 5_000 + attempt);
        let orders = recoveries(&world.second(&[0]));
        let [(0, order)] = &orders[..] else { panic!("one order to the datanode that is there: {orders:?}") };
        assert_eq!(nodes_of(&order.locations), [0]);
        assert_eq!(order.away, if attempt < 20 { 3 } else { 0 }, "attempt {attempt}");
        world.manager.recovery_failed(world.now, block.id, GenerationStamp(5_000 + attempt));
        world.seconds(15, &[0]);
        assert_eq!(world.manager.take_overdue_recoveries(), [(block.inode, block.id)]);
    }
}

#[test]
fn an_overdue_recovery_is_asked_for_again_and_given_to_another_primary() {
    let mut world = World::cluster(2);
    let block = world.allocate(2, &[0, 1]);
    start(&mut world, block.id, 5_000);
    assert_eq!(recoveries(&world.seconds(14, &[0, 1])).len(), 1);
    assert_eq!(world.manager.take_overdue_recoveries(), []);
    world.seconds(2, &[0, 1]);
    assert_eq!(world.manager.take_overdue_recoveries(), [(block.inode, block.id)]);
    assert_eq!(world.manager.take_overdue_recoveries(), []);
    start(&mut world, block.id, 5_001);
    let orders = recoveries(&world.second(&[0, 1]));
    assert_eq!(orders.len(), 1);
    assert_eq!((orders[0].0, orders[0].1.new_generation_stamp), (1, 5_001));
}

#[test]
fn a_primary_that_falls_silent_is_replaced_before_the_recovery_is_overdue() {
    let mut world = World::cluster(3);
    let block = world.allocate(3, &[0, 1, 2]);
    start(&mut world, block.id, 5_000);
    let orders = recoveries(&world.second(&[0, 1, 2]));
    let primary = orders[0].0;
    let others: Vec<usize> = (0..3).filter(|node| *node != primary).collect();
    world.seconds(4, &others);
    assert_eq!(world.manager.take_overdue_recoveries(), []);
    world.seconds(3, &others);
    assert_eq!(world.manager.take_overdue_recoveries(), [(block.inode, block.id)]);
    start(&mut world, block.id, 5_001);
    let orders = recoveries(&world.second(&others));
    assert_eq!(orders.len(), 1);
    assert!(others.contains(&orders[0].0), "another one is asked");
    // Nobody else could do it: it is waited for.
    let lone = world.allocate(1, &[primary]);
    start(&mut world, lone.id, 5_002);
    world.seconds(7, &others);
    assert_eq!(world.manager.take_overdue_recoveries(), []);
}

#[test]
fn a_file_with_several_overdue_blocks_is_named_once() {
    let mut world = World::cluster(2);
    let (one, two) = (world.allocate(2, &[0, 1]), world.allocate(2, &[0, 1]));
    world.stored.get_mut(&two.id).expect("a block of the test").inode = one.inode;
    start(&mut world, one.id, 5_000);
    start(&mut world, two.id, 5_001);
    assert_eq!(recoveries(&world.seconds(20, &[0, 1])).len(), 2);
    assert_eq!(world.manager.take_overdue_recoveries(), [(one.inode, one.id)]);
    assert!(world.manager.recovers(world.now, one.inode));
    // Both run again; one ends before the other.
    start(&mut world, one.id, 5_002);
    start(&mut world, two.id, 5_003);
    assert_eq!(recoveries(&world.seconds(2, &[0, 1])).len(), 2);
    world.stored.get_mut(&one.id).expect("a block of the test").stamp = GenerationStamp(5_002);
    world.commit(one.id, 70, &[0, 1]);
    assert!(world.manager.recovers(world.now, one.inode));
    world.stored.get_mut(&two.id).expect("a block of the test").stamp = GenerationStamp(5_003);
    world.commit(two.id, 70, &[0, 1]);
    assert!(!world.manager.recovers(world.now, one.inode));
}

#[test]
fn a_recovery_waits_for_a_datanode_and_survives_the_loss_of_its_primary() {
    let mut world = World::cluster(2);
    let block = world.allocate(1, &[1]);
    world.seconds(40, &[0]);
    start(&mut world, block.id, 5_000);
    assert!(recoveries(&world.seconds(3, &[0])).is_empty());
    world.register(1);
    world.full_report(1, &[]);
    assert_eq!(recoveries(&world.seconds(2, &[0, 1])).len(), 1);
    world.manager.take_overdue_recoveries();
    world.seconds(40, &[0]);
    assert_eq!(world.manager.take_overdue_recoveries(), [(block.inode, block.id)]);
}

#[test]
fn a_recovery_that_nobody_runs_is_found_by_the_background_check() {
    let mut world = World::cluster(1);
    let block = world.allocate(1, &[0]);
    let stored = StoredBlock { state: BlockState::UnderRecovery, ..block };
    world.manager.check_slice(world.now, std::slice::from_ref(&stored));
    assert_eq!(world.manager.take_overdue_recoveries(), [(stored.inode, stored.id)]);
}

#[test]
fn a_recovery_whose_primary_restarts_is_begun_anew_at_once() {
    let mut world = World::cluster(2);
    let block = world.allocate(2, &[0, 1]);
    start(&mut world, block.id, 5_000);
    let primary = recoveries(&world.second(&[0, 1]))[0].0;
    world.register(1 - primary);
    assert_eq!(world.manager.take_overdue_recoveries(), [], "it is not the other one's");
    world.register(primary);
    assert_eq!(world.manager.take_overdue_recoveries(), [(block.inode, block.id)]);
    start(&mut world, block.id, 5_001);
    let orders = recoveries(&world.second(&[0, 1]));
    assert_eq!(orders.len(), 1);
    assert_eq!((orders[0].0, orders[0].1.new_generation_stamp), (1 - primary, 5_001));
}

#[test]
fn a_recovery_that_failed_is_begun_anew_after_a_pause_that_grows() {
    let mut world = World::cluster(2);
    let block = world.allocate(2, &[0, 1]);
    let mut pauses = Vec::new();
    for stamp in 5_000..5_007 {
        start(&mut world, block.id, stamp);
        assert_eq!(recoveries(&world.second(&[0, 1])).len(), 1);
        // An earlier one says nothing about this one.
        world.manager.recovery_failed(world.now, block.id, GenerationStamp(stamp - 1));
        assert_eq!(world.manager.take_overdue_recoveries(), []);
        world.manager.recovery_failed(world.now, block.id, GenerationStamp(stamp));
        let failed = world.now;
        while world.manager.take_overdue_recoveries().is_empty() {
            world.second(&[0, 1]);
        }
        pauses.push((world.now - failed) / 1_000);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 15, 15, 15]);
}
