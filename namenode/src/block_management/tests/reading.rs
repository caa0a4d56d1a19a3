//! Locations for readers.

use super::*;
use dfs_proto::v1::DatanodeState;

fn order(world: &World, block: &StoredBlock, reader: &str, seed: u64) -> Vec<usize> {
    let located = world.manager.locate(block, Some(reader.parse().expect("an address")), seed);
    located.locations.iter().map(node_of).collect()
}

#[test]
fn the_nearest_replica_comes_first() {
    let mut world = World::on_racks(&["/dc1/r1", "/dc1/r1", "/dc1/r2", "/dc2/r1", "/dc1/r1"]);
    let block = world.write(4, &[3, 2, 1, 0]);
    for seed in 0..20 {
        assert_eq!(order(&world, &block, "10.0.0.1", seed), [0, 1, 2, 3]);
        let from_neighbour = order(&world, &block, "10.0.0.5", seed);
        assert_eq!(from_neighbour[2..], [2, 3]);
    }
    let first: std::collections::BTreeSet<usize> =
        (0..50).map(|seed| order(&world, &block, "192.168.1.1", seed)[0]).collect();
    assert_eq!(first.len(), 4, "strangers are spread over all replicas");
}

#[test]
fn stale_datanodes_come_last_and_dead_ones_not_at_all() {
    let mut world = World::cluster(3);
    let block = world.write(3, &[0, 1, 2]);
    world.seconds(10, &[1, 2]);
    let located = world.manager.locate(&block, Some("10.0.0.1".parse().expect("an address")), 1);
    assert_eq!(node_of(&located.locations[2]), 0);
    assert_eq!(located.locations[2].datanode.as_ref().map(|d| d.state()), Some(DatanodeState::Stale));
    world.seconds(30, &[1, 2]);
    assert_eq!(world.holders(block.id), [1, 2]);
    world.seconds(40, &[]);
    // Nobody is left: what the namespace remembers is better than nothing.
    let located = world.located(block.id);
    assert_eq!(located.locations.len(), 3);
    assert!(!located.corrupt);
}

#[test]
fn a_block_being_written_is_found_on_its_pipeline() {
    let mut world = World::cluster(3);
    let block = world.allocate(3, &[0, 1, 2]);
    assert_eq!(world.holders(block.id), [0, 1, 2]);
    assert!(world.manager.location_of("dn1-s0").is_some());
    assert!(world.manager.location_of("nobody").is_none());
}
