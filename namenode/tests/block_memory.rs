//! Memory of a million blocks. A test program of its own, because it measures the whole process.

use dfs_namenode::block_management::{BlockManagementConfig, BlockManager};
use dfs_namenode::namesystem::{BlockState, Effect, StoredBlock};
use dfs_proto::v1::{DatanodeInfo, StorageReport};
use dfs_proto::{BlockId, GenerationStamp, InodeId};

/// Resident bytes of this process.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split(' ').nth(1).and_then(|field| field.parse().ok()).expect("statm");
    pages * 4_096
}

#[test]
fn a_million_blocks_with_three_replicas_take_less_than_64_mb() {
    let mut manager = BlockManager::new(BlockManagementConfig::default());
    let storages = ["DS-0", "DS-1", "DS-2"].map(str::to_owned);
    for (i, storage) in storages.iter().enumerate() {
        let info = DatanodeInfo {
            uuid: format!("dn-{i}"),
            ip: format!("127.0.0.{}", i + 1),
            xfer_port: 9866,
            ipc_port: 9867,
            rack: "/default-rack".to_owned(),
            ..DatanodeInfo::default()
        };
        let report = StorageReport {
            storage_id: storage.clone(),
            capacity: 1 << 40,
            remaining: 1 << 40,
            ..StorageReport::default()
        };
        manager.register(0, info, &[report], "test");
    }
    let before = resident_bytes();
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
        manager.effect(0, &Effect::BlockCommitted { block, storage_ids: storages.to_vec() });
    }
    let grown = resident_bytes().saturating_sub(before);
    println!("a million blocks: {} MB", grown >> 20);
    assert!(grown < 64 << 20, "{} MB", grown >> 20);
    assert_eq!(manager.stats(0).under_replicated_blocks, 0);
}
