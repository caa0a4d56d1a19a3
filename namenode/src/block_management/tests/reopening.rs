//! Complete blocks that a mount writes again in place, or cuts.

use super::*;

impl World {
    /// The block is open again; its pipeline does not stand yet.
    fn reopen(&mut self, id: BlockId) {
        let block = self.stored.get_mut(&id).expect("a block of the test");
        block.state = BlockState::UnderConstruction;
        let block = block.clone();
        let targets = block.hints.clone();
        self.effect(Effect::BlockAllocated { block, targets });
    }

    /// A pipeline of `nodes` writes the block under a new stamp.
    fn pipeline(&mut self, id: BlockId, stamp: u64, nodes: &[usize]) {
        let block = self.stored.get_mut(&id).expect("a block of the test");
        block.stamp = GenerationStamp(stamp);
        block.hints = storages(nodes);
        let block = block.clone();
        self.effect(Effect::BlockAllocated { block, targets: storages(nodes) });
    }

    fn cut(&mut self, id: BlockId, length: u64) {
        let block = self.stored.get_mut(&id).expect("a block of the test");
        block.length = length;
        let block = block.clone();
        self.effect(Effect::BlockCut { block });
    }
}

#[test]
fn repair_waits_until_the_writer_is_done_and_stale_replicas_go() {
    let mut world = World::cluster(4);
    let old = world.write(3, &[0, 1, 2]);
    world.reopen(old.id);
    // One of its datanodes dies: the writer's business.
    let alive = [0, 1, 3];
    let commands = world.seconds(700, &alive);
    assert!(transfers(&commands).is_empty() && deletions(&commands).is_empty());
    world.pipeline(old.id, 9_000, &[0, 1]);
    assert_eq!(world.holders(old.id), [0, 1]);
    let commands = world.seconds(30, &alive);
    assert!(transfers(&commands).is_empty() && deletions(&commands).is_empty());

    // The other one returns with what it had, before and after the end of the write.
    world.register(2);
    world.full_report(2, &[finalized(&old)]);
    assert_eq!(world.holders(old.id), [0, 1]);
    let commands = world.seconds(10, &[0, 1, 2]);
    assert!(deletions(&commands).is_empty(), "not while it is being written");
    let new = world.commit(old.id, 100, &[0, 1]);
    let commands = world.seconds(10, &[0, 1, 2]);
    assert_eq!(deletions(&commands), [(2, old.id.get(), 8_999)]);
    world.deleted(2, old.to_proto());
    let commands = world.seconds(10, &[0, 1, 2]);
    assert_eq!(transfers(&commands).len(), 1);
    world.received(2, &new);
    assert_eq!(world.holders(old.id), [0, 1, 2]);
}

#[test]
fn several_blocks_of_a_file_are_open_at_once() {
    let mut world = World::cluster(3);
    let blocks = [0, 1, 2].map(|_| world.write(3, &[0, 1, 2]));
    for block in &blocks {
        world.reopen(block.id);
    }
    for (at, block) in blocks.iter().enumerate() {
        world.pipeline(block.id, 9_000 + at as u64, &[0, 1, 2]);
    }
    world.commit(blocks[1].id, 120, &[0, 1, 2]);
    for node in 0..3 {
        let open = |block: &StoredBlock| ReportedReplica { state: ReplicaState::Rbw, ..finalized(block) };
        let reported: Vec<_> = [
            open(&world.stored[&blocks[0].id]),
            finalized(&world.stored[&blocks[1].id]),
            open(&world.stored[&blocks[2].id]),
        ]
        .into();
        world.full_report(node, &reported);
    }
    let commands = world.seconds(60, &[0, 1, 2]);
    assert!(transfers(&commands).is_empty() && deletions(&commands).is_empty());
    for block in &blocks {
        assert_eq!(world.holders(block.id), [0, 1, 2]);
    }
}

#[test]
fn replicas_of_a_cut_block_may_be_longer_but_not_shorter() {
    let mut world = World::cluster(4);
    let block = world.write(3, &[0, 1, 2]);
    world.cut(block.id, 60);
    world.full_report(0, &[finalized(&block)]);
    let kept = finalized(&world.stored[&block.id]);
    world.full_report(1, &[kept]);
    assert_eq!(world.located(block.id).corrupt_replicas, 0);
    world.full_report(2, &[ReportedReplica { length: 59, ..kept }]);
    assert_eq!(world.located(block.id).corrupt_replicas, 1);
    assert_eq!(world.holders(block.id), [0, 1]);
    let commands = world.seconds(10, &[0, 1, 2, 3]);
    assert_eq!(transfers(&commands).len(), 1);
    // Cut to nothing known here: nothing to do.
    world.remove(block.id);
    world.effect(Effect::BlockCut { block });
}
