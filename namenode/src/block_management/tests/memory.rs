//! Memory of a million blocks.

use super::*;

/// Resident bytes of this process.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split(' ').nth(1).and_then(|field| field.parse().ok()).expect("statm");
    pages * 4_096
}

#[test]
fn a_million_blocks_with_three_replicas_take_less_than_100_mb() {
    let mut world = World::cluster(3);
    let before = resident_bytes();
    let all = storages(&[0, 1, 2]);
    for id in 1..=1_000_000 {
        let block = StoredBlock {
            id: BlockId(id),
            stamp: GenerationStamp(id),
            length: 1,
            replication: 3,
            state: BlockState::Complete,
            inode: InodeId(id),
            index: 0,
            hints: Vec::new(),
        };
        world.manager.effect(world.now, &Effect::BlockCommitted { block, storage_ids: all.clone() });
    }
    let grown = resident_bytes().saturating_sub(before);
    println!("a million blocks: {} MB", grown >> 20);
    // Other tests of the same process run beside this one, hence the slack; the entries take 48 MB.
    assert!(grown < 100 << 20, "{} MB", grown >> 20);
    assert_eq!(world.manager.stats(world.now).under_replicated_blocks, 0);
}
