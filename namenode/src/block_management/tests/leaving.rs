//! Replicas that are ordered to be deleted, or just were, are no locations; nor are corrupt ones where
//! others exist.

use super::*;

/// How far the removal of the replica on datanode 1 has got.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Queued,
    Sent,
    Confirmed,
    Corrupt,
}

const STAGES: [Stage; 4] = [Stage::Queued, Stage::Sent, Stage::Confirmed, Stage::Corrupt];

/// A block on datanodes 0 to 2 of which one is leaving, with hints that still name all three. Answers the
/// block, the datanode that is leaving, and those that stay.
fn leaving(world: &mut World, stage: Stage) -> (StoredBlock, usize, Vec<usize>) {
    let block = world.write(3, &[0, 1, 2]);
    let node = if stage == Stage::Corrupt {
        world.bad(1, &block);
        1
    } else {
        world.set_replication(block.id, 2);
        let node = (0..3).find(|node| !world.holders(block.id).contains(node)).expect("one leaves");
        if stage != Stage::Queued {
            assert_eq!(deletions(&world.second(&[0, 1, 2, 3])).len(), 1);
        }
        if stage == Stage::Confirmed {
            world.deleted(node, block.to_proto());
        }
        node
    };
    let stay = (0..3).filter(|other| *other != node).collect();
    (world.stored[&block.id].clone(), node, stay)
}

fn reopen(world: &mut World, block: &StoredBlock) -> StoredBlock {
    let reopened = StoredBlock { state: BlockState::UnderConstruction, ..block.clone() };
    world.stored.insert(block.id, reopened.clone());
    world.effect(Effect::BlockAllocated { block: reopened.clone(), targets: block.hints.clone() });
    reopened
}

#[test]
fn readers_are_not_sent_to_it() {
    for stage in STAGES {
        let mut world = World::cluster(4);
        let (block, _, stay) = leaving(&mut world, stage);
        assert_eq!(world.holders(block.id), stay, "{stage:?}");
        // Neither when nothing else is known and hints are all there is.
        if matches!(stage, Stage::Queued | Stage::Sent) {
            for node in &stay {
                world.full_report(*node, &[]);
                world.deleted(*node, block.to_proto());
            }
            assert!(world.holders(block.id).iter().all(|node| !stay.contains(node)), "{stage:?}");
        }
    }
}

#[test]
fn an_append_goes_on_without_it() {
    for stage in STAGES {
        let mut world = World::cluster(4);
        let (block, node, stay) = leaving(&mut world, stage);
        let reopened = reopen(&mut world, &block);
        assert_eq!(world.holders(block.id), stay, "{stage:?}");
        // A late report does not bring it back, nor one that the deletion overtook.
        world.full_report(node, &[finalized(&block)]);
        assert_eq!(world.holders(block.id), stay, "{stage:?}: reported");
        // Nor does the end of an append that wrote nothing and names what the namespace remembered.
        if stage != Stage::Confirmed {
            world.commit(block.id, 100, &[0, 1, 2]);
            assert_eq!(world.holders(block.id), stay, "{stage:?}: closed");
            reopen(&mut world, &block);
        }
        // The append's pipeline, under its own stamp.
        let renewed = StoredBlock {
            stamp: GenerationStamp(reopened.stamp.get() + 10),
            hints: storages(&stay),
            ..reopened
        };
        world.stored.insert(block.id, renewed.clone());
        world.effect(Effect::BlockAllocated { block: renewed, targets: storages(&stay) });
        world.commit(block.id, 200, &stay);
        assert_eq!(world.holders(block.id), stay, "{stage:?}: appended");
    }
}

#[test]
fn an_append_goes_on_with_all_good_replicas_whatever_the_hints_say() {
    let mut world = World::cluster(4);
    let block = world.write(3, &[0, 1]);
    let copies = transfers(&world.seconds(2, &[0, 1, 2, 3]));
    let target = copies[0].2[0];
    world.received(target, &block);
    reopen(&mut world, &block);
    assert_eq!(world.holders(block.id), [0, 1, target]);
}

#[test]
fn copies_do_not_start_from_it() {
    for stage in STAGES {
        let mut world = World::cluster(5);
        let (block, node, stay) = leaving(&mut world, stage);
        world.set_replication(block.id, 4);
        let commands = world.seconds(90, &[0, 1, 2, 3, 4]);
        let copies = transfers(&commands);
        assert!(!copies.is_empty(), "{stage:?}");
        for (source, _, targets) in copies {
            assert!(stay.contains(&source), "{stage:?}: from {source}");
            assert!(stage == Stage::Confirmed || !targets.contains(&node), "{stage:?}: to {targets:?}");
        }
    }
}

#[test]
fn a_recovery_takes_no_account_of_it() {
    for stage in STAGES {
        let mut world = World::cluster(4);
        let (block, _, stay) = leaving(&mut world, stage);
        let block = StoredBlock { state: BlockState::UnderRecovery, ..block };
        world.stored.insert(block.id, block.clone());
        world.effect(Effect::RecoveryStarted {
            storage_ids: block.hints.clone(),
            block,
            new_stamp: GenerationStamp(5_000),
            truncate_length: Some(10),
        });
        let commands = world.second(&[0, 1, 2, 3]);
        let orders: Vec<&v1::RecoverBlockCommand> = commands
            .iter()
            .filter_map(|(_, command)| match command {
                Command::RecoverBlock(order) => Some(order),
                _ => None,
            })
            .collect();
        assert_eq!(orders.len(), 1, "{stage:?}");
        assert_eq!(nodes_of(&orders[0].locations), stay, "{stage:?}");
    }
}
