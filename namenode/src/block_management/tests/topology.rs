//! Racks and data centres: where replicas go, and what happens when the topology changes.

use super::*;

const TWO_SITES: [&str; 8] =
    ["/dc1/r1", "/dc1/r1", "/dc1/r2", "/dc1/r2", "/dc2/r1", "/dc2/r1", "/dc2/r2", "/dc2/r2"];

fn site(node: usize) -> &'static str {
    &TWO_SITES[node][..4]
}

/// Seconds in which copies arrive and deletions are carried out; answers the copies' targets and the deletions.
fn settle(world: &mut World, seconds: usize, nodes: usize) -> (Vec<usize>, Vec<usize>) {
    let alive: Vec<usize> = (0..nodes).collect();
    let (mut copied, mut deleted) = (Vec::new(), Vec::new());
    for _ in 0..seconds {
        let commands = world.second(&alive);
        for (_, id, targets) in transfers(&commands) {
            let block = world.stored[&BlockId(id)].clone();
            targets.iter().for_each(|target| world.received(*target, &block));
            copied.extend(targets);
        }
        for (node, id, stamp) in deletions(&commands) {
            world.deleted(node, v1::Block { id, generation_stamp: stamp, length: 100 });
            deleted.push(node);
        }
    }
    (copied, deleted)
}

#[test]
fn with_several_data_centres_the_other_two_replicas_are_on_one_rack_of_another() {
    let world = World::on_racks(&TWO_SITES);
    for seed in 0..200 {
        let targets = world.place(3, Some(0), seed);
        assert_eq!(targets[0], 0);
        assert_eq!(site(targets[1]), "/dc2");
        assert_eq!(TWO_SITES[targets[1]], TWO_SITES[targets[2]]);
        let two = world.place(2, None, seed);
        assert_ne!(site(two[0]), site(two[1]));
    }
}

#[test]
fn a_block_in_one_data_centre_gets_a_replica_in_another() {
    let mut world = World::on_racks(&TWO_SITES);
    let block = world.write(3, &[0, 1, 2]);
    world.manager.check_slice(world.now, std::slice::from_ref(&block));
    let (copied, deleted) = settle(&mut world, 6, 8);
    assert_eq!(copied.len(), 1);
    assert_eq!(site(copied[0]), "/dc2");
    assert_eq!(deleted.len(), 1);
    assert_ne!(site(deleted[0]), "/dc2");
    assert!([0, 1].contains(&deleted[0]), "the rack with two replicas loses one");
}

#[test]
fn excess_never_takes_the_last_replica_of_a_data_centre() {
    let mut world = World::on_racks(&TWO_SITES);
    let block = world.write(4, &[0, 2, 3, 4]);
    world.set_replication(block.id, 2);
    let (copied, deleted) = settle(&mut world, 4, 8);
    assert_eq!((copied.len(), deleted.len()), (0, 2));
    let left = world.holders(block.id);
    assert!(left.contains(&4), "{left:?}");
}

#[test]
fn a_datanode_that_moves_to_another_rack_has_its_blocks_spread_anew() {
    let mut world = World::on_racks(&["/r1", "/r1", "/r2", "/r2"]);
    let block = world.write(2, &[0, 2]);
    assert_eq!(settle(&mut world, 3, 4), (vec![], vec![]));
    world.racks.insert(2, "/r1".to_owned());
    world.register(2);
    world.full_report(2, &[finalized(&block)]);
    let (copied, deleted) = settle(&mut world, 6, 4);
    assert_eq!(copied, [3]);
    assert_eq!(deleted.len(), 1);
    assert!(world.holders(block.id).contains(&3));
}

#[test]
fn the_first_second_data_centre_spreads_what_is_there() {
    let mut world = World::on_racks(&["/dc1/r1", "/dc1/r2", "/dc1/r2"]);
    let block = world.write(2, &[0, 1]);
    assert_eq!(settle(&mut world, 3, 3), (vec![], vec![]));
    world.racks.insert(3, "/dc2/r1".to_owned());
    world.register(3);
    world.full_report(3, &[]);
    let (copied, deleted) = settle(&mut world, 6, 4);
    assert_eq!((copied, deleted.len()), (vec![3], 1));
    assert_eq!(world.holders(block.id).len(), 2);
}
