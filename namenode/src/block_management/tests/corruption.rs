//! Corrupt replicas: when they are replaced, and when deleted.

use super::*;

#[test]
fn a_corrupt_replica_is_deleted_after_it_was_replaced() {
    let mut world = World::cluster(4);
    let block = world.write(3, &[0, 1, 2]);
    world.bad(1, &block);
    let located = world.located(block.id);
    assert_eq!((nodes_of(&located.locations), located.corrupt_replicas), (vec![0, 2], 1));
    let commands = world.seconds(2, &[0, 1, 2, 3]);
    assert_eq!(deletions(&commands), []);
    assert_eq!(verifications(&commands), [(0, block.id.get()), (2, block.id.get())]);
    let copies = transfers(&commands);
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].2, [3]);
    world.received(3, &block);
    world.verified(0, &block);
    assert_eq!(deletions(&world.seconds(100, &[0, 1, 2, 3])), [], "datanode 2 has not verified its replica");
    world.verified(2, &block);
    assert_eq!(deletions(&world.seconds(1, &[0, 1, 2, 3])), [(1, block.id.get(), block.stamp.get())]);
    assert_eq!(world.located(block.id).corrupt_replicas, 0);
}

#[test]
fn on_a_small_cluster_the_corrupt_replica_makes_room_for_the_good_one() {
    let mut world = World::cluster(3);
    let block = world.write(3, &[0, 1, 2]);
    world.bad(1, &block);
    // Nobody says that the two others are good.
    let commands = world.seconds(100, &[0, 1, 2]);
    assert_eq!(deletions(&commands), []);
    assert_eq!(verifications(&commands).len(), 2 * 4, "they are asked again every 30 s");
    world.verified(0, &block);
    world.verified(2, &block);
    let commands = world.seconds(3, &[0, 1, 2]);
    assert_eq!(deletions(&commands), [(1, block.id.get(), block.stamp.get())]);
    // No copy to datanode 1 before it has confirmed the deletion.
    assert_eq!(transfers(&commands), []);
    world.deleted(1, block.to_proto());
    let copies = transfers(&world.seconds(2, &[0, 1, 2]));
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].2, [1]);
    world.received(1, &block);
    assert_eq!(world.holders(block.id), [0, 1, 2]);
}

#[test]
fn the_last_replicas_are_kept_even_if_all_are_corrupt() {
    let mut world = World::cluster(3);
    let block = world.write(2, &[0, 1]);
    world.bad(0, &block);
    world.bad(1, &block);
    let commands = world.seconds(60, &[0, 1, 2]);
    // With one corrupt and one good one, the first could be copied over; both bad, nothing is touched.
    let deleted = deletions(&commands);
    assert!(deleted.is_empty(), "{deleted:?}");
    let located = world.located(block.id);
    assert!(located.corrupt);
    assert_eq!(nodes_of(&located.locations), [0, 1]);
    assert_eq!(world.manager.stats(world.now).corrupt_blocks, 1);
    // A full report does not turn a corrupt replica into a good one.
    world.full_report(0, &[finalized(&block)]);
    assert!(world.located(block.id).corrupt);
}

/// What happens to a block whose replicas on datanodes 0, 1 and 2 turn out bad one after the other.
#[test]
fn damage_found_bit_by_bit_deletes_nothing() {
    // (datanodes in the cluster, seconds between the reports)
    for (count, pause) in [(3, 0), (3, 1), (3, 5), (3, 9), (4, 0), (6, 0)] {
        let mut world = World::cluster(count);
        let alive: Vec<usize> = (0..count).collect();
        let block = world.write(3, &[0, 1, 2]);
        let mut commands = Vec::new();
        for node in 0..3 {
            world.bad(node, &block);
            commands.extend(world.seconds(pause, &alive));
        }
        // A copy that was ordered meanwhile fails: its source is bad.
        commands.extend(world.seconds(120, &alive));
        assert_eq!(deletions(&commands), [], "{count} datanodes, {pause} s");
        let located = world.located(block.id);
        assert!(located.corrupt);
        assert_eq!((nodes_of(&located.locations), located.corrupt_replicas), (vec![0, 1, 2], 3));
        assert_eq!(world.manager.stats(world.now).corrupt_blocks, 1);
    }
}

#[test]
fn a_report_of_the_same_replica_again_does_not_undo_verifications() {
    let mut world = World::cluster(3);
    let block = world.write(3, &[0, 1, 2]);
    let mut commands = Vec::new();
    for node in [0, 2] {
        world.bad(1, &block);
        commands.extend(world.second(&[0, 1, 2]));
        world.verified(node, &block);
    }
    world.bad(1, &block);
    commands.extend(world.second(&[0, 1, 2]));
    assert_eq!(deletions(&commands), [(1, block.id.get(), block.stamp.get())]);
}

#[test]
fn without_room_one_corrupt_replica_goes_and_the_next_waits_for_the_copy() {
    let mut world = World::cluster(3);
    let block = world.write(3, &[0, 1, 2]);
    world.bad(1, &block);
    world.bad(2, &block);
    assert_eq!(deletions(&world.seconds(60, &[0, 1, 2])), []);
    world.verified(0, &block);
    let deleted = deletions(&world.seconds(60, &[0, 1, 2]));
    assert_eq!(deleted.len(), 1, "{deleted:?}");
    let first = deleted[0].0;
    let second = 3 - first;
    world.deleted(first, block.to_proto());
    let copies = transfers(&world.seconds(2, &[0, 1, 2]));
    assert_eq!(copies, [(0, block.id.get(), vec![first])]);
    assert_eq!(deletions(&world.seconds(20, &[0, 1, 2])), [], "the copy has not arrived");
    world.received(first, &block);
    assert_eq!(deletions(&world.seconds(2, &[0, 1, 2])), [(second, block.id.get(), block.stamp.get())]);
    world.deleted(second, block.to_proto());
    let copies = transfers(&world.seconds(2, &[0, 1, 2]));
    assert_eq!(copies.len(), 1);
    world.received(second, &block);
    world.seconds(3, &[0, 1, 2]);
    assert_eq!(world.holders(block.id), [0, 1, 2]);
    assert_eq!(world.manager.stats(world.now).under_replicated_blocks, 0);
}

#[test]
fn a_copy_from_before_the_last_report_proves_nothing() {
    let mut world = World::cluster(5);
    let alive = [0, 1, 2, 3, 4];
    let block = world.write(3, &[0, 1, 2]);
    world.bad(0, &block);
    let copies = transfers(&world.seconds(2, &alive));
    let target = copies[0].2[0];
    world.received(target, &block);
    world.verified(1, &block);
    world.verified(2, &block);
    // The deletion is planned; then the copy itself turns out bad.
    world.bad(target, &block);
    let commands = world.seconds(1, &alive);
    assert_eq!(deletions(&commands), []);
    let asked = verifications(&commands);
    assert!(asked.contains(&(1, block.id.get())) && asked.contains(&(2, block.id.get())), "{asked:?}");
    let located = world.located(block.id);
    assert_eq!((nodes_of(&located.locations), located.corrupt_replicas), (vec![1, 2], 2));
    // Another copy, and another look at the others, settle it.
    let commands = world.seconds(2, &alive);
    let copies = transfers(&commands);
    assert_eq!(copies.len(), 1);
    world.received(copies[0].2[0], &block);
    world.verified(1, &block);
    world.verified(2, &block);
    let deleted: Vec<usize> = deletions(&world.seconds(2, &alive)).iter().map(|(node, ..)| *node).collect();
    assert_eq!(deleted, [0, target]);
}

#[test]
fn a_full_report_does_not_prove_a_copy() {
    let mut world = World::cluster(4);
    let block = world.write(3, &[0, 1, 2]);
    world.bad(0, &block);
    assert_eq!(transfers(&world.seconds(2, &[0, 1, 2, 3])).len(), 1);
    world.full_report(3, &[finalized(&block)]);
    assert_eq!(world.holders(block.id), [1, 2, 3]);
    world.verified(1, &block);
    world.verified(2, &block);
    let commands = world.seconds(60, &[0, 1, 2, 3]);
    assert_eq!(deletions(&commands), []);
    assert!(verifications(&commands).contains(&(3, block.id.get())), "its datanode is asked");
    world.verified(3, &block);
    assert_eq!(deletions(&world.seconds(2, &[0, 1, 2, 3])).len(), 1);
}

#[test]
fn an_ordered_deletion_is_called_back_and_its_replica_stays_corrupt() {
    let mut world = World::cluster(3);
    let block = world.write(3, &[0, 1, 2]);
    world.bad(1, &block);
    world.verified(0, &block);
    world.verified(2, &block);
    let deleted = deletions(&world.seconds(12, &[0, 1, 2]));
    assert_eq!(deleted.len(), 1);
    // The order was lost. Now the others turn out bad.
    world.bad(0, &block);
    world.bad(2, &block);
    assert_eq!(deletions(&world.seconds(200, &[0, 1, 2])), []);
    // That it is there does not make it good.
    world.full_report(1, &[finalized(&block)]);
    let located = world.located(block.id);
    assert!(located.corrupt);
    assert_eq!((nodes_of(&located.locations), located.corrupt_replicas), (vec![0, 1, 2], 3));
    // If it was carried out after all, that is believed.
    world.deleted(1, block.to_proto());
    assert_eq!(world.holders(block.id), [0, 2]);
}

#[test]
fn no_good_replica_goes_while_a_corrupt_one_is_there() {
    let mut world = World::cluster(3);
    let block = world.write(3, &[0, 1, 2]);
    world.bad(1, &block);
    world.set_replication(block.id, 1);
    assert_eq!(deletions(&world.seconds(9, &[0, 1, 2])), []);
    world.verified(0, &block);
    assert_eq!(deletions(&world.seconds(3, &[0, 1, 2])), [(1, block.id.get(), block.stamp.get())]);
    assert_eq!(deletions(&world.seconds(3, &[0, 1, 2])), []);
    assert_eq!(world.holders(block.id), [0, 2]);
    world.deleted(1, block.to_proto());
    assert_eq!(deletions(&world.seconds(3, &[0, 1, 2])).len(), 1);
    assert_eq!(world.holders(block.id).len(), 1);
}
