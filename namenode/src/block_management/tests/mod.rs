//! Tests of block management: tables of events and the commands they lead to, and a simulated cluster.

mod administration;
mod balancing;
mod corruption;
mod deletion;
mod failed_copies;
mod flapping;
mod invariants;
mod leaving;
mod placement;
mod reading;
mod recovery;
mod reopening;
mod repair;
mod reports;
mod restart;
mod simulation;
mod topology;

use std::collections::BTreeMap;
use std::ops::Bound;

use dfs_proto::v1::datanode_command::Command;
use dfs_proto::v1::{self, ReplicaEvent, ReplicaState};
use dfs_proto::{BlockId, GenerationStamp, InodeId};

use super::{BlockManagementConfig, BlockManager, PlacementRequest, ReportedReplica};
use crate::namesystem::{BlockState, Effect, StoredBlock};

const GIB: u64 = 1 << 30;

/// A block manager, a namespace of a few blocks, and a clock.
struct World {
    manager: BlockManager,
    now: u64,
    stored: BTreeMap<BlockId, StoredBlock>,
    next: u64,
    racks: BTreeMap<usize, String>,
}

fn uuid(node: usize) -> String {
    format!("dn{node}")
}

fn storage(node: usize) -> String {
    format!("dn{node}-s0")
}

fn storages(nodes: &[usize]) -> Vec<String> {
    nodes.iter().map(|node| storage(*node)).collect()
}

/// Node number of a location.
fn node_of(location: &v1::ReplicaLocation) -> usize {
    let uuid = &location.datanode.as_ref().expect("a datanode").uuid;
    uuid.trim_start_matches("dn").parse().expect("a test datanode")
}

fn nodes_of(locations: &[v1::ReplicaLocation]) -> Vec<usize> {
    let mut nodes: Vec<usize> = locations.iter().map(node_of).collect();
    nodes.sort_unstable();
    nodes
}

fn volume(id: &str, capacity: u64, used: u64) -> v1::StorageReport {
    v1::StorageReport {
        storage_id: id.to_owned(),
        capacity,
        used,
        remaining: capacity - used,
        ..Default::default()
    }
}

impl World {
    fn new() -> Self {
        Self::with(BlockManagementConfig { invalidate_delay_ms: 0, ..BlockManagementConfig::default() })
    }

    fn with(config: BlockManagementConfig) -> Self {
        let manager = BlockManager::new(config);
        Self { manager, now: 1_000, stored: BTreeMap::new(), next: 1_000, racks: BTreeMap::new() }
    }

    /// `count` datanodes that have registered and reported nothing; startup is over.
    fn cluster(count: usize) -> Self {
        let mut world = Self::new();
        world.join(count);
        world
    }

    /// Datanodes on racks named by `racks`, one each.
    fn on_racks(racks: &[&str]) -> Self {
        let mut world = Self::new();
        world.racks = racks.iter().enumerate().map(|(node, rack)| (node, (*rack).to_owned())).collect();
        world.join(racks.len());
        world
    }

    fn join(&mut self, count: usize) {
        for node in 0..count {
            self.register(node);
            self.full_report(node, &[]);
        }
        self.manager.tick(self.now);
        assert!(!self.manager.is_starting());
    }

    fn info(&self, node: usize) -> v1::DatanodeInfo {
        v1::DatanodeInfo {
            uuid: uuid(node),
            ip: format!("10.0.0.{}", node + 1),
            hostname: format!("host{node}"),
            xfer_port: 9866,
            rack: self.racks.get(&node).cloned().unwrap_or_default(),
            ..Default::default()
        }
    }

    /// As the service does it: the namespace records what it does not know yet, then it registers.
    fn register(&mut self, node: usize) {
        let info = self.info(node);
        self.effect(Effect::DatanodeRecorded { info: info.clone(), storage_ids: storages(&[node]) });
        self.manager.register(self.now, info, &[volume(&storage(node), 100 * GIB, 0)], "test");
    }

    fn beat(&mut self, node: usize) -> Vec<Command> {
        self.beat_with(node, vec![volume(&storage(node), 100 * GIB, 0)])
    }

    fn beat_with(&mut self, node: usize, storages: Vec<v1::StorageReport>) -> Vec<Command> {
        let request = v1::HeartbeatRequest { uuid: uuid(node), storages, ..Default::default() };
        let commands = self.manager.heartbeat(self.now, &request);
        self.manager.check_invariants();
        commands.into_iter().filter_map(|command| command.command).collect()
    }

    /// One second: heartbeats of `alive`, then a tick. Answers the commands by node.
    fn second(&mut self, alive: &[usize]) -> Vec<(usize, Command)> {
        self.now += 1_000;
        let mut commands = Vec::new();
        for node in alive {
            commands.extend(self.beat(*node).into_iter().map(|command| (*node, command)));
        }
        self.manager.tick(self.now);
        self.manager.check_invariants();
        commands
    }

    fn seconds(&mut self, count: usize, alive: &[usize]) -> Vec<(usize, Command)> {
        (0..count).flat_map(|_| self.second(alive)).collect()
    }

    fn effect(&mut self, effect: Effect) {
        self.manager.effect(self.now, &effect);
        self.manager.check_invariants();
    }

    /// A new block with a pipeline of `nodes`, under construction.
    fn allocate(&mut self, replication: u16, nodes: &[usize]) -> StoredBlock {
        self.next += 1;
        let block = StoredBlock {
            id: BlockId(self.next),
            stamp: GenerationStamp(self.next),
            length: 0,
            replication,
            state: BlockState::UnderConstruction,
            inode: InodeId(self.next),
            index: 0,
            hints: storages(nodes),
        };
        self.stored.insert(block.id, block.clone());
        self.effect(Effect::BlockAllocated { block: block.clone(), targets: storages(nodes) });
        block
    }

    fn commit(&mut self, id: BlockId, length: u64, nodes: &[usize]) -> StoredBlock {
        let block = self.stored.get_mut(&id).expect("a block of the test");
        block.length = length;
        block.state = BlockState::Complete;
        block.hints = storages(nodes);
        let block = block.clone();
        self.effect(Effect::BlockCommitted { block: block.clone(), storage_ids: storages(nodes) });
        block
    }

    /// A complete block of 100 bytes on `nodes`.
    fn write(&mut self, replication: u16, nodes: &[usize]) -> StoredBlock {
        let id = self.allocate(replication, nodes).id;
        self.commit(id, 100, nodes)
    }

    fn remove(&mut self, id: BlockId) {
        let block = self.stored.remove(&id).expect("a block of the test");
        self.effect(Effect::BlockRemoved { id, stamp: block.stamp });
    }

    fn set_replication(&mut self, id: BlockId, replication: u16) {
        let block = self.stored.get_mut(&id).expect("a block of the test");
        block.replication = replication;
        let block = block.clone();
        self.effect(Effect::ReplicationChanged { block });
    }

    fn change(&mut self, node: usize, event: ReplicaEvent, block: v1::Block) {
        let stored = self.stored.get(&block.block_id()).cloned();
        let change = v1::ReplicaChange {
            event: event.into(),
            block: Some(block),
            storage_id: storage(node),
            ..Default::default()
        };
        self.manager.incremental(self.now, &uuid(node), &change, stored.as_ref());
        self.manager.check_invariants();
    }

    fn received(&mut self, node: usize, block: &StoredBlock) {
        self.change(node, ReplicaEvent::Received, block.to_proto());
    }

    fn deleted(&mut self, node: usize, block: v1::Block) {
        self.change(node, ReplicaEvent::Deleted, block);
    }

    fn bad(&mut self, node: usize, block: &StoredBlock) {
        let stored = self.stored.get(&block.id).cloned();
        self.manager.report_bad(self.now, &block.to_proto(), &storage(node), stored.as_ref());
        self.manager.check_invariants();
    }

    /// A datanode has verified its replica, as asked.
    fn verified(&mut self, node: usize, block: &StoredBlock) {
        self.manager.report_verified(self.now, &block.to_proto(), &storage(node));
        self.manager.check_invariants();
    }

    /// A full report in one slice.
    fn full_report(&mut self, node: usize, replicas: &[ReportedReplica]) {
        let stored: Vec<StoredBlock> = self.stored.values().cloned().collect();
        self.manager.begin_full_report(self.now, &storage(node));
        let range = (Bound::Unbounded, Bound::Unbounded);
        self.manager.full_report_slice(self.now, &uuid(node), &storage(node), replicas, &stored, range, true);
        self.manager.check_invariants();
    }

    fn located(&self, id: BlockId) -> super::Located {
        self.manager.locate(&self.stored[&id], None, 1)
    }

    fn holders(&self, id: BlockId) -> Vec<usize> {
        nodes_of(&self.located(id).locations)
    }

    fn place(&self, replication: usize, writer: Option<usize>, seed: u64) -> Vec<usize> {
        let request = PlacementRequest {
            writer_ip: writer.map(|node| self.info(node).ip.parse().expect("an address")),
            replication,
            block_size: GIB,
            seed,
            ..Default::default()
        };
        self.manager.choose_targets(&request).iter().map(node_of).collect()
    }
}

fn finalized(block: &StoredBlock) -> ReportedReplica {
    ReportedReplica { id: block.id, stamp: block.stamp, length: block.length, state: ReplicaState::Finalized }
}

/// Copies among commands: (source, block, targets).
fn transfers(commands: &[(usize, Command)]) -> Vec<(usize, u64, Vec<usize>)> {
    let mut found: Vec<(usize, u64, Vec<usize>)> = commands
        .iter()
        .filter_map(|(node, command)| match command {
            Command::Transfer(transfer) => {
                let block = transfer.block.as_ref().expect("a block");
                Some((*node, block.id, nodes_of(&transfer.targets)))
            }
            _ => None,
        })
        .collect();
    found.sort();
    found
}

/// Verifications among commands: (node, block).
fn verifications(commands: &[(usize, Command)]) -> Vec<(usize, u64)> {
    let mut found: Vec<(usize, u64)> = commands
        .iter()
        .filter_map(|(node, command)| match command {
            Command::Verify(verify) => Some((*node, verify)),
            _ => None,
        })
        .flat_map(|(node, verify)| verify.blocks.iter().map(move |block| (node, block.id)))
        .collect();
    found.sort_unstable();
    found
}

/// Deletions among commands: (node, block, stamp).
fn deletions(commands: &[(usize, Command)]) -> Vec<(usize, u64, u64)> {
    let mut found: Vec<(usize, u64, u64)> = commands
        .iter()
        .filter_map(|(node, command)| match command {
            Command::Invalidate(invalidate) => Some((*node, invalidate)),
            _ => None,
        })
        .flat_map(|(node, invalidate)| {
            invalidate.blocks.iter().map(move |block| (node, block.id, block.generation_stamp))
        })
        .collect();
    found.sort_unstable();
    found
}
