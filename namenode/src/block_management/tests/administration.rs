//! Decommission and maintenance.

use dfs_proto::v1::AdminState;

use super::*;

const HOUR_MS: u64 = 3_600_000;

impl World {
    fn order(&mut self, node: usize, state: AdminState) {
        self.manager.set_admin(self.now, &uuid(node), state, HOUR_MS);
        self.manager.check_invariants();
    }

    fn progress(&self, node: usize) -> v1::AdminProgress {
        let rows = self.manager.datanode_report(self.now);
        let row = rows.iter().find(|row| row.info.as_ref().is_some_and(|info| info.uuid == uuid(node)));
        row.and_then(|row| row.admin).expect("a datanode that is known")
    }

    /// Seconds in which every copy ordered arrives; answers the copies.
    fn copying(&mut self, seconds: usize, alive: &[usize]) -> Vec<(usize, u64, Vec<usize>)> {
        let mut all = Vec::new();
        for _ in 0..seconds {
            let copies = transfers(&self.second(alive));
            for (_, id, targets) in &copies {
                let block = self.stored[&BlockId(*id)].clone();
                targets.iter().for_each(|target| self.received(*target, &block));
            }
            all.extend(copies);
        }
        all
    }
}

#[test]
fn a_datanode_that_shall_leave_is_drained_and_keeps_what_it_has() {
    let mut world = World::cluster(5);
    let blocks: Vec<StoredBlock> = (0..20).map(|_| world.write(3, &[0, 1, 2])).collect();
    let alone = world.write(1, &[0]);
    world.order(0, AdminState::Decommission);
    assert!(world.progress(0).counting);
    world.seconds(2, &[0, 1, 2, 3, 4]);
    let progress = world.progress(0);
    assert_eq!((progress.blocks_left, progress.blocks_stuck, progress.done), (21, 0, false));
    let copies = world.copying(40, &[0, 1, 2, 3, 4]);
    assert!(copies.iter().all(|(_, _, targets)| !targets.contains(&0)), "{copies:?}");
    assert!(world.progress(0).done, "{:?}", world.progress(0));
    assert_eq!(world.manager.stats(world.now).decommissioned_datanodes, 1);
    for block in &blocks {
        assert_eq!(world.holders(block.id).len(), 4, "nothing is deleted");
        let order: Vec<usize> = world.located(block.id).locations.iter().map(node_of).collect();
        assert_eq!(order.last(), Some(&0), "read from last");
    }
    // Its end changes nothing.
    assert_eq!(transfers(&world.seconds(60, &[1, 2, 3, 4])), []);
    assert_eq!(world.holders(alone.id).len(), 1);
    let stats = world.manager.stats(world.now);
    assert_eq!((stats.under_replicated_blocks, stats.missing_blocks), (0, 0));
    assert_eq!((stats.dead_datanodes, stats.expected_dead_datanodes), (1, 1));
}

#[test]
fn a_datanode_that_is_taken_back_counts_again_and_excess_goes() {
    let mut world = World::cluster(5);
    let block = world.write(3, &[0, 1, 2]);
    world.order(0, AdminState::Decommission);
    world.copying(4, &[0, 1, 2, 3, 4]);
    assert_eq!(world.holders(block.id).len(), 4);
    world.order(0, AdminState::Normal);
    assert_eq!(world.progress(0), v1::AdminProgress::default());
    let deleted = deletions(&world.seconds(3, &[0, 1, 2, 3, 4]));
    assert_eq!(deleted.len(), 1);
    assert_eq!(world.holders(block.id).len(), 3);
}

#[test]
fn taking_a_datanode_back_withdraws_copies_that_have_not_begun() {
    let mut world = World::cluster(5);
    let block = world.write(3, &[0, 1, 2]);
    world.order(0, AdminState::Decommission);
    let sent = transfers(&world.seconds(3, &[0, 1, 2, 3, 4]));
    assert_eq!(sent.len(), 1);
    world.order(0, AdminState::Normal);
    let commands = world.seconds(2, &[0, 1, 2, 3, 4]);
    let withdrawn: Vec<(usize, Vec<u64>)> = commands
        .iter()
        .filter_map(|(node, command)| match command {
            Command::Withdraw(order) => Some((*node, order.block_ids.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(withdrawn, [(sent[0].0, vec![block.id.get()])]);
    assert_eq!(transfers(&commands), []);
    assert_eq!(world.manager.stats(world.now).pending_replication_blocks, 0);
}

#[test]
fn nothing_new_goes_to_a_datanode_that_shall_leave() {
    let mut world = World::cluster(4);
    let open = world.allocate(2, &[0, 1]);
    world.order(0, AdminState::Decommission);
    for seed in 0..100 {
        assert!(!world.place(3, Some(0), seed).contains(&0), "not even its own");
    }
    world.copying(3, &[0, 1, 2, 3]);
    assert_eq!(world.progress(0).blocks_open, 1);
    assert!(!world.progress(0).done);
    world.commit(open.id, 100, &[0, 1]);
    assert_eq!(world.copying(4, &[0, 1, 2, 3]).len(), 1);
    assert!(world.progress(0).done);
}

#[test]
fn a_cluster_too_small_to_drain_says_so() {
    let mut world = World::cluster(3);
    let small = world.write(2, &[0, 1]);
    world.write(3, &[0, 1, 2]);
    world.order(0, AdminState::Decommission);
    world.copying(6, &[0, 1, 2]);
    let progress = world.progress(0);
    assert_eq!((progress.blocks_left, progress.blocks_stuck, progress.done), (1, 1, false));
    assert_eq!(world.holders(small.id).len(), 3);
    world.register(3);
    world.full_report(3, &[]);
    world.copying(6, &[0, 1, 2, 3]);
    assert!(world.progress(0).done);
}

#[test]
fn a_datanode_in_maintenance_may_be_down_until_its_time_is_over() {
    let mut world = World::cluster(4);
    let block = world.write(3, &[0, 1, 2]);
    let alone = world.write(1, &[0]);
    world.order(0, AdminState::Maintenance);
    let copies = world.copying(4, &[0, 1, 2, 3]);
    assert_eq!(copies.len(), 1, "a block without another replica gets one first");
    assert_eq!(copies[0].1, alone.id.get());
    assert!(world.progress(0).done);
    assert_eq!(transfers(&world.seconds(600, &[1, 2, 3])), []);
    let stats = world.manager.stats(world.now);
    assert_eq!((stats.dead_datanodes, stats.expected_dead_datanodes), (1, 1));
    assert_eq!((stats.under_replicated_blocks, stats.maintenance_datanodes), (0, 1));
    assert_eq!(world.holders(block.id), [1, 2], "nobody reads from a dead one");
    world.now += HOUR_MS;
    for node in 1..4 {
        world.beat(node);
    }
    world.manager.tick(world.now);
    let copies = world.copying(4, &[1, 2, 3]);
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].1, block.id.get());
}

#[test]
fn a_datanode_back_from_maintenance_has_what_it_had() {
    let mut world = World::cluster(4);
    let block = world.write(3, &[0, 1, 2]);
    let changed = world.write(3, &[0, 1, 2]);
    let removed = world.write(3, &[0, 1, 2]);
    world.order(0, AdminState::Maintenance);
    world.seconds(60, &[1, 2, 3]);
    // An append and a deletion that it does not hear of.
    world.next += 1;
    let stamp = GenerationStamp(world.next);
    let reopened =
        StoredBlock { stamp, state: BlockState::UnderConstruction, ..world.stored[&changed.id].clone() };
    world.stored.insert(changed.id, reopened.clone());
    world.effect(Effect::BlockAllocated { block: reopened, targets: storages(&[1, 2]) });
    world.commit(changed.id, 200, &[1, 2]);
    world.remove(removed.id);
    let copies = world.copying(4, &[1, 2, 3]);
    assert_eq!(copies.len(), 1, "its replica of the block that changed counts no longer: {copies:?}");
    world.register(0);
    world.full_report(0, &[finalized(&block), finalized(&changed), finalized(&removed)]);
    world.order(0, AdminState::Normal);
    let commands = world.seconds(3, &[0, 1, 2, 3]);
    assert_eq!(transfers(&commands), []);
    let at_0: Vec<u64> = deletions(&commands).iter().filter(|d| d.0 == 0).map(|d| d.1).collect();
    assert_eq!(at_0, [changed.id.get(), removed.id.get()]);
    assert_eq!(world.holders(block.id), [0, 1, 2]);
}

#[test]
fn orders_hold_across_a_restart_of_the_namenode() {
    let mut world = World::cluster(5);
    let kept = world.write(3, &[0, 1, 2]);
    let drained = world.write(3, &[1, 2, 3]);
    let mut after = World::new();
    after.stored = world.stored.clone();
    after.next = world.next;
    for node in 0..5 {
        after.manager.recall_datanode(world.info(node), &storages(&[node]));
    }
    after.order(0, AdminState::Maintenance);
    after.order(1, AdminState::Decommission);
    // Datanode 0 is down and does not report.
    for node in 1..5 {
        after.register(node);
        let held: Vec<ReportedReplica> = [(&kept, [0, 1, 2]), (&drained, [1, 2, 3])]
            .iter()
            .filter(|(_, nodes)| nodes.contains(&node))
            .map(|(block, _)| finalized(block))
            .collect();
        after.full_report(node, &held);
    }
    after.second(&[1, 2, 3, 4]);
    assert!(!after.manager.is_starting(), "nobody waits for a datanode in maintenance");
    let copies = after.copying(6, &[1, 2, 3, 4]);
    let mut copied: Vec<u64> = copies.iter().map(|(_, id, _)| *id).collect();
    copied.sort_unstable();
    assert_eq!(copied, [kept.id.get(), drained.id.get()], "for the one that leaves, none for the other");
    assert!(after.progress(1).done && after.progress(0).done);
}

#[test]
fn a_datanode_is_found_by_any_of_its_names() {
    let mut world = World::cluster(2);
    for name in ["dn1", "host1", "10.0.0.2", "10.0.0.2:9866", "host1:9866"] {
        assert_eq!(world.manager.find_datanode(name), Ok(uuid(1)), "{name}");
    }
    assert_eq!(world.manager.find_datanode("host9"), Err(vec![]));
    let mut info = world.info(2);
    info.ip = "10.0.0.2".to_owned();
    info.xfer_port = 9_966;
    world.manager.register(world.now, info, &[volume(&storage(2), GIB, 0)], "test");
    assert_eq!(world.manager.find_datanode("10.0.0.2").map_err(|meant| meant.len()), Err(2));
    assert_eq!(world.manager.find_datanode("10.0.0.2:9966"), Ok(uuid(2)));
}

#[test]
fn only_a_dead_datanode_is_removed_and_may_come_back() {
    let mut world = World::cluster(4);
    let block = world.write(3, &[0, 1, 2]);
    assert!(world.manager.may_remove(&uuid(2)).is_err(), "it lives");
    world.seconds(20, &[0, 1, 3]);
    assert!(world.manager.may_remove(&uuid(2)).is_err(), "it is only silent");
    let copies = transfers(&world.seconds(15, &[0, 1, 3]));
    world.received(copies[0].2[0], &block);
    assert_eq!(world.manager.may_remove(&uuid(2)), Ok(()));
    world.effect(Effect::DatanodeRemoved { uuid: uuid(2) });
    let stats = world.manager.stats(world.now);
    assert_eq!((stats.live_datanodes, stats.dead_datanodes), (3, 0));
    assert_eq!(world.manager.datanode_report(world.now).len(), 3);
    assert_eq!(world.manager.find_datanode("host2"), Err(vec![]));
    assert_eq!(world.manager.find_datanode(&uuid(2)), Err(vec![]));
    world.seconds(5, &[0, 1, 3]);
    world.register(2);
    world.full_report(2, &[finalized(&block)]);
    assert_eq!(world.manager.stats(world.now).live_datanodes, 4);
    assert_eq!(world.manager.datanode_report(world.now).len(), 4);
    let deleted = deletions(&world.seconds(2, &[0, 1, 2, 3]));
    assert_eq!(deleted.len(), 1, "one replica too many");
}
