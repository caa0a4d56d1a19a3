//! Full and incremental reports.

use super::*;
use dfs_proto::v1::DatanodeState;

#[test]
fn strangers_must_register() {
    let mut world = World::new();
    assert!(matches!(world.beat(0)[..], [Command::Reregister(_)]));
    world.register(0);
    assert!(world.beat(0).is_empty());
    world.change(9, ReplicaEvent::Received, v1::Block { id: 1, generation_stamp: 1, length: 1 });
    assert!(!world.manager.knows(BlockId(1)));
}

#[test]
fn replicas_are_judged_by_state_stamp_and_length() {
    use ReplicaState::{Finalized, Rbw, Rwr, Temporary};
    let complete = BlockState::Complete;
    let open = BlockState::UnderConstruction;
    // Block state; replica state, stamp difference, length difference; is it located, is it corrupt.
    for (state, replica, stamp, length, located, corrupt) in [
        (complete, Finalized, 0, 0, true, false),
        (complete, Finalized, 0, -1, false, true),
        (complete, Finalized, 0, 50, true, false),
        (complete, Finalized, 1, 0, false, true),
        (complete, Finalized, -1, 0, false, false),
        (complete, Rwr, 0, 0, true, false),
        (complete, Rwr, 0, -1, false, true),
        (complete, Rwr, 0, 50, true, false),
        (complete, Rwr, 1, 0, false, true),
        (complete, Rwr, -1, 0, false, false),
        (complete, Rbw, 0, 0, false, false),
        (complete, Temporary, 0, 0, false, false),
        (open, Finalized, 0, 0, true, false),
        (open, Rbw, 0, -50, true, false),
        (open, Rwr, 0, 0, true, false),
        (open, Finalized, -1, 0, false, false),
        (open, Rbw, 1, 0, false, false),
        (open, Temporary, 0, 0, false, false),
    ] {
        let mut world = World::cluster(4);
        let block = world.allocate(1, &[0]);
        if state == complete {
            world.commit(block.id, 100, &[0]);
        }
        let block = world.stored.get_mut(&block.id).expect("just made");
        block.length = 100;
        block.hints.clear();
        let block = block.clone();
        let reported = ReportedReplica {
            id: block.id,
            stamp: GenerationStamp(block.stamp.get().saturating_add_signed(stamp)),
            length: 100u64.saturating_add_signed(length),
            state: replica,
        };
        // Excess would be trimmed at once.
        world.set_replication(block.id, 2);
        world.full_report(1, &[reported]);
        let case = format!("{state:?} {replica:?} {stamp} {length}");
        assert_eq!(world.holders(block.id).contains(&1), located, "{case}");
        assert_eq!(world.located(block.id).corrupt_replicas == 1, corrupt, "{case}");
    }
}

#[test]
fn whole_replicas_found_unfinished_are_used_and_closed() {
    let mut world = World::cluster(3);
    let block = world.write(3, &[0, 1, 2]);
    let unfinished = ReportedReplica { state: ReplicaState::Rwr, ..finalized(&block) };
    for node in 0..3 {
        world.register(node);
        world.full_report(node, &[unfinished]);
    }
    assert_eq!(world.holders(block.id), [0, 1, 2]);
    let closed = |commands: &[(usize, Command)]| -> Vec<(usize, Vec<v1::Block>)> {
        let order = |(node, command): &(usize, Command)| match command {
            Command::Finalize(order) => Some((*node, order.blocks.clone())),
            other => panic!("nothing else is to be done: {other:?}"),
        };
        commands.iter().filter_map(order).collect()
    };
    let order = vec![block.to_proto()];
    let expected: Vec<_> = (0..3).map(|node| (node, order.clone())).collect();
    assert_eq!(closed(&world.second(&[0, 1, 2])), expected);
    world.received(0, &block);
    world.received(1, &block);
    // Only what is not confirmed is ordered again.
    let again = world.seconds(40, &[0, 1, 2]);
    assert_eq!(closed(&again), [(2, order.clone())]);
    // What is no longer complete is left to recovery.
    world.full_report(2, &[unfinished]);
    world.remove(block.id);
    let commands = world.seconds(40, &[0, 1, 2]);
    assert!(!commands.iter().any(|(_, command)| matches!(command, Command::Finalize(_))), "{commands:?}");
}

#[test]
fn a_full_report_in_slices_removes_what_it_lacks() {
    let mut world = World::cluster(3);
    let blocks: Vec<StoredBlock> = (0..10).map(|_| world.write(2, &[0, 1])).collect();
    // Replicas added a moment ago may be missing from a report that is older.
    world.full_report(0, &[]);
    assert_eq!(world.holders(blocks[3].id), [0, 1]);

    world.seconds(70, &[0, 1, 2]);
    let stored: Vec<StoredBlock> = world.stored.values().cloned().collect();
    let present: Vec<ReportedReplica> =
        blocks.iter().enumerate().filter(|(at, _)| ![2, 7].contains(at)).map(|(_, b)| finalized(b)).collect();
    let middle = blocks[5].id;
    let (low, high): (Vec<_>, Vec<_>) = present.into_iter().partition(|replica| replica.id < middle);
    world.manager.begin_full_report(world.now, &storage(0));
    let ranges = [
        (low, (Bound::Unbounded, Bound::Excluded(middle)), false),
        (high, (Bound::Included(middle), Bound::Unbounded), true),
    ];
    for (slice, range, last) in ranges {
        world.manager.full_report_slice(world.now, &uuid(0), &storage(0), &slice, &stored, range, last);
        world.manager.check_invariants();
    }
    for (at, block) in blocks.iter().enumerate() {
        let expected: &[usize] = if [2, 7].contains(&at) { &[1] } else { &[0, 1] };
        assert_eq!(world.holders(block.id), expected, "block {at}");
    }
    assert_eq!(transfers(&world.seconds(2, &[0, 1, 2])).len(), 2);
}

#[test]
fn a_replica_that_moved_to_another_volume_counts_once() {
    let mut world = World::cluster(2);
    let block = world.write(2, &[0, 1]);
    let volumes = vec![volume(&storage(0), GIB, 0), volume("dn0-s1", GIB, 0)];
    world.beat_with(0, volumes);
    let change = v1::ReplicaChange {
        event: ReplicaEvent::Received.into(),
        block: Some(block.to_proto()),
        storage_id: "dn0-s1".to_owned(),
        ..Default::default()
    };
    world.manager.incremental(world.now, &uuid(0), &change, None);
    world.manager.check_invariants();
    assert_eq!(world.holders(block.id), [0, 1]);
    let ids: Vec<String> = world.located(block.id).locations.into_iter().map(|l| l.storage_id).collect();
    assert!(ids.contains(&"dn0-s1".to_owned()) && !ids.contains(&storage(0)));
}

#[test]
fn a_storage_without_a_report_is_asked_for_one() {
    let mut world = World::new();
    world.register(0);
    let commands = world.seconds(59, &[0]);
    assert!(commands.is_empty(), "{commands:?}");
    let commands = world.seconds(2, &[0]);
    assert!(matches!(commands[..], [(0, Command::BlockReport(_))]), "{commands:?}");
    world.full_report(0, &[]);
    assert!(world.seconds(200, &[0]).is_empty());
}

#[test]
fn a_new_datanode_at_the_same_address_replaces_the_old_one() {
    let mut world = World::cluster(3);
    let block = world.write(2, &[0, 1]);
    let info = v1::DatanodeInfo { uuid: "dn7".to_owned(), ..world.info(1) };
    world.manager.register(world.now, info, &[volume("dn7-s0", GIB, 0)], "test");
    assert_eq!(world.holders(block.id), [0]);
    let report = world.manager.datanode_report(world.now);
    let states: Vec<(String, DatanodeState)> =
        report.iter().filter_map(|row| row.info.as_ref()).map(|i| (i.uuid.clone(), i.state())).collect();
    assert!(states.contains(&("dn1".to_owned(), DatanodeState::Dead)), "{states:?}");
    assert!(states.contains(&("dn7".to_owned(), DatanodeState::Live)), "{states:?}");
}

#[test]
fn the_background_check_finds_missing_blocks_and_forgotten_ones() {
    let mut world = World::cluster(2);
    let known = world.write(1, &[0]);
    let mut lost = known.clone();
    lost.id = BlockId(known.id.get() + 2);
    let zombie = BlockId(known.id.get() + 1);
    let ghost = StoredBlock { id: zombie, ..known.clone() };
    world
        .manager
        .effect(world.now, &Effect::BlockCommitted { block: ghost.clone(), storage_ids: storages(&[1]) });
    world.stored.insert(lost.id, lost.clone());
    let stored: Vec<StoredBlock> = world.stored.values().cloned().collect();
    world.manager.check_slice(world.now, &stored);
    world.manager.check_invariants();
    assert_eq!(world.manager.stats(world.now).missing_blocks, 1);
    assert!(!world.manager.knows(zombie));
    assert_eq!(deletions(&world.second(&[0, 1])), [(1, zombie.get(), ghost.stamp.get())]);
    world.received(1, &lost);
    assert_eq!(world.manager.stats(world.now).missing_blocks, 0);
}
