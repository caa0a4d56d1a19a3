//! What is deleted: removed blocks, orphans, outdated replicas.

use super::*;

#[test]
fn replicas_of_a_removed_block_are_deleted() {
    let mut world = World::cluster(3);
    let block = world.write(3, &[0, 1, 2]);
    let stamp = block.stamp.get();
    world.remove(block.id);
    // A report that was on its way does not bring the block back.
    world.received(1, &block);
    world.stored.insert(block.id, block.clone());
    world.full_report(2, &[finalized(&block)]);
    world.stored.remove(&block.id);
    let id = block.id.get();
    assert_eq!(deletions(&world.second(&[0, 1, 2])), [(0, id, stamp), (1, id, stamp), (2, id, stamp)]);
    assert_eq!(world.manager.stats(world.now).pending_deletion_blocks, 3);
    for node in 0..3 {
        world.deleted(node, block.to_proto());
    }
    assert_eq!(world.manager.stats(world.now).pending_deletion_blocks, 0);
    assert!(!world.manager.knows(block.id));
    assert_eq!(world.manager.stats(world.now).missing_blocks, 0);
}

#[test]
fn a_heartbeat_orders_a_bounded_number_of_deletions() {
    let mut world = World::cluster(1);
    let blocks: Vec<BlockId> = (0..2_500).map(|_| world.write(1, &[0]).id).collect();
    for id in blocks {
        world.manager.effect(world.now, &Effect::BlockRemoved { id, stamp: GenerationStamp(1) });
    }
    let counts: Vec<usize> = (0..4).map(|_| deletions(&world.second(&[0])).len()).collect();
    assert_eq!(counts, [1_000, 1_000, 500, 0]);
}

#[test]
fn orphans_are_deleted_unless_they_are_still_coming_in() {
    let mut world = World::cluster(1);
    let orphan = |id, state| ReportedReplica { id: BlockId(id), stamp: GenerationStamp(7), length: 1, state };
    world.full_report(
        0,
        &[
            orphan(1, ReplicaState::Finalized),
            orphan(2, ReplicaState::Temporary),
            orphan(3, ReplicaState::Rbw),
        ],
    );
    assert_eq!(deletions(&world.second(&[0])), [(0, 1, 7), (0, 3, 7)]);
}

#[test]
fn outdated_replicas_go_once_a_good_one_exists() {
    let mut world = World::cluster(3);
    let block = world.write(2, &[0, 1]);
    let old = ReportedReplica { stamp: GenerationStamp(block.stamp.get() - 1), ..finalized(&block) };
    world.full_report(2, &[old]);
    assert_eq!(deletions(&world.second(&[0, 1, 2])), [(2, block.id.get(), block.stamp.get() - 1)]);

    let lonely = world.write(1, &[0]);
    world.deleted(0, lonely.to_proto());
    let old = ReportedReplica { stamp: GenerationStamp(lonely.stamp.get() - 1), ..finalized(&lonely) };
    world.full_report(2, &[old]);
    assert_eq!(deletions(&world.seconds(5, &[0, 1, 2])), []);
    assert_eq!(world.manager.stats(world.now).missing_blocks, 1);
}

#[test]
fn a_member_that_left_the_pipeline_is_cleaned_up_after_the_write() {
    let mut world = World::cluster(4);
    let block = world.allocate(3, &[0, 1, 2]);
    let old_stamp = block.stamp.get();
    // Datanode 1 failed; 3 took its place under a new stamp.
    let mut renewed = block.clone();
    renewed.stamp = GenerationStamp(old_stamp + 100);
    renewed.hints = storages(&[0, 2, 3]);
    world.stored.insert(block.id, renewed.clone());
    world.effect(Effect::BlockAllocated { block: renewed, targets: storages(&[0, 2, 3]) });
    assert_eq!(world.holders(block.id), [0, 2, 3]);
    assert_eq!(deletions(&world.second(&[0, 1, 2, 3])), []);
    world.commit(block.id, 100, &[0, 2, 3]);
    assert_eq!(deletions(&world.second(&[0, 1, 2, 3])), [(1, block.id.get(), old_stamp + 99)]);
    assert_eq!(world.holders(block.id), [0, 2, 3]);
}

#[test]
fn append_outdates_replicas_that_do_not_take_part() {
    let mut world = World::cluster(3);
    let block = world.write(3, &[0, 1, 2]);
    let mut reopened = block.clone();
    reopened.stamp = GenerationStamp(block.stamp.get() + 10);
    reopened.state = BlockState::UnderConstruction;
    reopened.hints = storages(&[0, 1]);
    world.stored.insert(block.id, reopened.clone());
    world.effect(Effect::BlockAllocated { block: reopened.clone(), targets: storages(&[0, 1]) });
    // The datanodes still report the old stamp until the pipeline reaches them.
    world.full_report(0, &[finalized(&block)]);
    world.full_report(2, &[finalized(&block)]);
    assert_eq!(world.holders(block.id), [0, 1]);
    world.commit(block.id, 200, &[0, 1]);
    let commands = world.seconds(1, &[0, 1, 2]);
    assert_eq!(deletions(&commands), [(2, block.id.get(), reopened.stamp.get() - 1)]);
    world.deleted(2, block.to_proto());
    let copies = transfers(&world.seconds(2, &[0, 1, 2]));
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].2, [2]);
}

#[test]
fn a_deletion_report_of_an_older_incarnation_is_ignored() {
    let mut world = World::cluster(2);
    let block = world.write(2, &[0, 1]);
    let mut old = block.to_proto();
    old.generation_stamp -= 1;
    world.deleted(1, old);
    assert_eq!(world.holders(block.id), [0, 1]);
    world.deleted(1, block.to_proto());
    assert_eq!(world.holders(block.id), [0]);
}

#[test]
fn deletions_are_called_off_when_the_kept_replica_turns_out_bad() {
    let mut world = World::cluster(2);
    let block = world.write(2, &[0, 1]);
    world.set_replication(block.id, 1);
    let kept = world.holders(block.id)[0];
    world.bad(kept, &block);
    assert!(world.located(block.id).corrupt);
    let commands = world.second(&[0, 1]);
    assert_eq!(deletions(&commands), []);
    assert!(matches!(commands[..], [(node, Command::BlockReport(_))] if node == 1 - kept), "{commands:?}");
    world.full_report(1 - kept, &[finalized(&block)]);
    assert_eq!(world.holders(block.id), [1 - kept]);
    assert_eq!(deletions(&world.seconds(9, &[0, 1])), []);
    world.verified(1 - kept, &block);
    assert_eq!(deletions(&world.seconds(3, &[0, 1])), [(kept, block.id.get(), block.stamp.get())]);
}

#[test]
fn a_full_report_older_than_a_deletion_does_not_bring_the_replica_back() {
    let mut world = World::cluster(3);
    let block = world.write(2, &[0, 1, 2]);
    let deleted = deletions(&world.seconds(2, &[0, 1, 2]));
    assert_eq!(deleted.len(), 1);
    let node = deleted[0].0;
    world.deleted(node, block.to_proto());
    let holders = world.holders(block.id);
    // Were it believed, a real replica would be in excess now.
    world.full_report(node, &[finalized(&block)]);
    assert_eq!(deletions(&world.seconds(2, &[0, 1, 2])), []);
    assert_eq!(world.holders(block.id), holders);
    // Later the same statement is news.
    world.seconds(61, &[0, 1, 2]);
    world.full_report(node, &[finalized(&block)]);
    assert_eq!(deletions(&world.seconds(2, &[0, 1, 2])).len(), 1);
}
