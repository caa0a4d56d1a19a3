//! Registration, heartbeats and the passing of time.

use dfs_proto::{BlockId, v1};
use v1::datanode_command::Command;

use super::administration::Admin;
use super::block_manager::BlockManager;
use super::datanode_manager::{Liveness, NodeIndex, RackIndex, StorageIndex};
use crate::namesystem::BlockState;

/// Commands of one kind are few and large; this bounds the replica copies ordered by one heartbeat.
const TRANSFERS_PER_HEARTBEAT: usize = 1_000;

/// Replicas that one heartbeat asks a datanode to close: two renames each.
const FINALIZATIONS_PER_HEARTBEAT: usize = 1_000;

/// Longest directory and reason of a failed volume that are kept: a path has at most 4,096 bytes.
const TEXT_BYTES_MAX: usize = 8 << 10;

impl BlockManager {
    /// A datanode is known from the namespace as it was before this namenode started: an earlier leader
    /// served it, whose orders may still be on their way. To be called before anything registers.
    pub fn recall_datanode(&mut self, info: v1::DatanodeInfo, storage_ids: &[String]) {
        self.startup.restarted = true;
        self.load_datanode(info, storage_ids);
    }

    /// The namespace names a datanode: recalled after a start, or recorded a moment ago, here because it
    /// is about to register or by another leader. It can be named in locations; it counts for nothing
    /// before it registers.
    pub(super) fn load_datanode(&mut self, info: v1::DatanodeInfo, storage_ids: &[String]) {
        if self.datanodes.find_node(&info.uuid).is_some_and(|node| self.datanodes.node(node).serves()) {
            // The effect of its own registration, which brought the same facts.
            return;
        }
        let Some(node) = self.datanodes.intern_node(info) else { return };
        for id in storage_ids {
            self.adopt_storage(node, id);
        }
    }

    /// A datanode has started, or was told to register again. Full reports of its storages follow.
    pub fn register(
        &mut self,
        now: u64,
        info: v1::DatanodeInfo,
        storages: &[v1::StorageReport],
        software_version: &str,
    ) {
        self.startup.began.get_or_insert(now);
        self.retire_predecessors(&info);
        let before = self.topology_of(&info.uuid);
        let Some(node) = self.datanodes.intern_node(info) else { return };
        // Copies from and to it did not survive its restart.
        self.cancel_transfers_of(now, node);
        self.recoveries_lost_with(now, node);
        if self.datanodes.node(node).liveness == Liveness::Dead {
            self.note_return(now, node);
        }
        let datanode = self.datanodes.node_mut(node);
        datanode.liveness = Liveness::Live;
        datanode.last_heartbeat = now;
        datanode.report_asked = now;
        datanode.report_wanted = false;
        datanode.xceivers = 0;
        datanode.software_version = software_version.to_owned();
        datanode.invalidates.restart();
        datanode.finalizations.clear();
        datanode.recoveries.clear();
        datanode.withdrawals.clear();
        datanode.verifications.clear();
        for storage in datanode.storages.clone() {
            self.datanodes.storage_mut(storage).reported = false;
        }
        self.take_storage_reports(node, storages, true);
        self.datanodes.refresh();
        let uuid = self.datanodes.node(node).info.uuid.clone();
        if self.startup.over && before != self.topology_of(&uuid) {
            // Blocks on one rack are misplaced once there are two, or once their datanode moved to the rack of others.
            self.sweep.request();
        }
    }

    /// What decides whether blocks are misplaced: racks, data centres, and the rack of one datanode.
    fn topology_of(&self, uuid: &str) -> (usize, usize, Option<RackIndex>) {
        let rack = self.datanodes.find_node(uuid).map(|node| self.datanodes.node(node).rack);
        (self.datanodes.serving_racks(), self.datanodes.serving_sites(), rack)
    }

    /// A sign of life; answers what the datanode shall do.
    pub fn heartbeat(&mut self, now: u64, request: &v1::HeartbeatRequest) -> Vec<v1::DatanodeCommand> {
        let registered =
            self.datanodes.find_node(&request.uuid).filter(|node| self.datanodes.node(*node).serves());
        let Some(node) = registered else {
            return vec![command(Command::Reregister(v1::ReregisterCommand {}))];
        };
        let datanode = self.datanodes.node_mut(node);
        datanode.last_heartbeat = now;
        datanode.xceivers = request.xceivers;
        let was_stale = datanode.liveness == Liveness::Stale;
        datanode.liveness = Liveness::Live;
        self.take_storage_reports(node, &request.storages, false);
        if was_stale {
            self.datanodes.refresh();
        }

        let mut commands = Vec::new();
        self.take_recovery_commands(now, node, &mut commands);
        self.take_finalize_command(now, node, &mut commands);
        self.take_withdraw_command(node, &mut commands);
        self.take_transfer_commands(now, node, &mut commands);
        self.take_move_commands(now, node, &mut commands);
        let blocks = self.take_verifications(node);
        if !blocks.is_empty() {
            commands.push(command(Command::Verify(v1::VerifyCommand { blocks })));
        }
        let blocks = self.take_deletions(now, node);
        if !blocks.is_empty() {
            commands.push(command(Command::Invalidate(v1::InvalidateCommand { blocks })));
        }
        if self.lacks_report(now, node) {
            let datanode = self.datanodes.node_mut(node);
            datanode.report_asked = now;
            datanode.report_wanted = false;
            commands.push(command(Command::BlockReport(v1::BlockReportCommand {})));
        }
        commands
    }

    /// Time passes: notices datanodes that went silent, gives up what takes too long, and plans repair.
    /// To be called about once a second; more often speeds up the start of repair.
    ///
    /// If it was not called for long (the process was stopped, or the machine slept), the time without
    /// it does not count against the datanodes: their heartbeats could not arrive either.
    pub fn tick(&mut self, now: u64) {
        let began = *self.startup.began.get_or_insert(now);
        let gap = now.saturating_sub(self.last_tick.unwrap_or(now));
        self.last_tick = Some(now);
        if gap > self.config.stale_after_ms {
            for node in self.datanodes.indices() {
                let datanode = self.datanodes.node_mut(node);
                datanode.last_heartbeat = datanode.last_heartbeat.saturating_add(gap).min(now);
            }
        }
        self.check_liveness(now, began);
        self.check_absences(now);
        self.check_startup(now, began);
        self.removed.expire(now);
        self.deleted.expire(now);
        self.failed_copies.expire(now);
        self.check_recoveries(now);
        for id in self.pending.overdue(now) {
            self.cancel_pending(id);
            self.evaluate(now, id);
        }
        self.run_sweep(now);
        self.retry_excess(now);
        self.plan_repair(now);
        self.run_balancer(now);
        self.datanodes.refresh();
        self.scan_drains(now);
    }

    fn check_liveness(&mut self, now: u64, began: u64) {
        for node in self.datanodes.indices() {
            let datanode = self.datanodes.node_mut(node);
            let silent_ms = now.saturating_sub(datanode.last_heartbeat);
            match datanode.liveness {
                Liveness::Dead => {}
                Liveness::Expected => {
                    if now.saturating_sub(began) >= self.config.dead_after_ms {
                        datanode.liveness = Liveness::Dead;
                    }
                }
                Liveness::Live | Liveness::Stale if silent_ms >= self.config.dead_after_ms => {
                    self.bury(now, node);
                }
                Liveness::Live if silent_ms >= self.config.stale_after_ms => {
                    datanode.liveness = Liveness::Stale;
                }
                Liveness::Live | Liveness::Stale => {}
            }
        }
        self.datanodes.refresh();
    }

    /// Startup ends when every datanode known has registered and reported, or after the grace.
    fn check_startup(&mut self, now: u64, began: u64) {
        if self.startup.over {
            return;
        }
        let reported = self.datanodes.nodes().iter().all(|node| {
            // Nobody waits for one that is in maintenance or was to leave; should it come, it reports.
            let expected_away = node.admin != Admin::Normal && !node.serves();
            expected_away
                || node.removed
                || node.serves()
                    && node.storages.iter().all(|storage| {
                        let storage = self.datanodes.storage(*storage);
                        storage.reported || storage.failed
                    })
        });
        if reported || now.saturating_sub(began) >= self.config.startup_grace_ms {
            self.startup.over = true;
            self.sweep.request();
        }
    }

    /// Gives a datanode up. Its replicas stop counting at once and leave the block map in slices.
    fn bury(&mut self, now: u64, node: NodeIndex) {
        let datanode = self.datanodes.node_mut(node);
        datanode.liveness = Liveness::Dead;
        datanode.xceivers = 0;
        datanode.invalidates.clear();
        datanode.finalizations.clear();
        datanode.recoveries.clear();
        datanode.withdrawals.clear();
        datanode.verifications.clear();
        self.await_return(now, node);
        self.datanodes.refresh();
        self.cancel_transfers_of(now, node);
        self.sweep.request();
    }

    /// Another datanode served at the same address before: it cannot be alive.
    fn retire_predecessors(&mut self, info: &v1::DatanodeInfo) {
        let Ok(ip) = info.ip.parse() else { return };
        let gone: Vec<NodeIndex> = self
            .datanodes
            .at_ip(ip)
            .iter()
            .copied()
            .filter(|node| {
                let known = self.datanodes.node(*node);
                known.info.xfer_port == info.xfer_port
                    && known.info.uuid != info.uuid
                    && known.liveness != Liveness::Dead
            })
            .collect();
        for node in gone {
            let now = self.datanodes.node(node).last_heartbeat;
            self.bury(now, node);
            self.datanodes.node_mut(node).awaited_until = None;
        }
    }

    /// A datanode takes no more replicas: copies that are to go there are ordered elsewhere.
    pub(super) fn withdraw_copies_to(&mut self, now: u64, node: NodeIndex) {
        if self.datanodes.node(node).takes() {
            return;
        }
        let datanodes = &self.datanodes;
        let sent_to = self
            .pending
            .matching(|order| order.targets.iter().any(|target| datanodes.node_of(*target) == node));
        for id in sent_to {
            self.cancel_pending(id);
            self.evaluate(now, id);
        }
    }

    fn cancel_transfers_of(&mut self, now: u64, node: NodeIndex) {
        let datanodes = &self.datanodes;
        let sent_by = self.pending.matching(|order| order.source == node);
        let sent_to = self
            .pending
            .matching(|order| order.targets.iter().any(|target| datanodes.node_of(*target) == node));
        for id in &sent_by {
            self.cancel_pending(*id);
        }
        for id in &sent_to {
            self.settle_pending(*id, node);
        }
        for id in sent_by.into_iter().chain(sent_to) {
            self.evaluate(now, id);
        }
    }

    fn take_deletions(&mut self, now: u64, node: NodeIndex) -> Vec<v1::Block> {
        let config = &self.config;
        let delay = if self.datanodes.is_short_of_room(node) { 0 } else { config.invalidate_delay_ms };
        let (retry, limit) = (config.invalidate_retry_ms, config.invalidate_limit);
        self.datanodes.node_mut(node).invalidates.take(now, delay, retry, limit)
    }

    /// Takes over the state of volumes. A registration lists all of them; one that is missing has failed.
    fn take_storage_reports(&mut self, node: NodeIndex, reports: &[v1::StorageReport], complete: bool) {
        for report in reports {
            let Some(index) = self.adopt_storage(node, &report.storage_id) else { continue };
            let storage = self.datanodes.storage_mut(index);
            storage.capacity = report.capacity;
            storage.used = report.used;
            storage.remaining = report.remaining;
            storage.listed = true;
            storage.scrubbed_s = report.scrubbed_s;
            storage.scrub_done_milli = report.scrub_done_milli;
            storage.scrub_bad = report.scrub_bad;
            for (known, told) in [(&mut storage.path, &report.path), (&mut storage.failure, &report.failure)]
            {
                if known != told && told.len() <= TEXT_BYTES_MAX {
                    known.clone_from(told);
                }
            }
            self.set_failed(index, report.failed);
        }
        // A heartbeat without any storage comes from a datanode that is still starting.
        if complete || !reports.is_empty() {
            for index in self.datanodes.node(node).storages.clone() {
                let id = &self.datanodes.storage(index).id;
                if !reports.iter().any(|report| report.storage_id == *id) {
                    self.datanodes.storage_mut(index).listed = false;
                    self.set_failed(index, true);
                }
            }
        }
    }

    fn set_failed(&mut self, index: StorageIndex, failed: bool) {
        let storage = self.datanodes.storage_mut(index);
        if storage.failed != failed {
            storage.failed = failed;
            // What it holds is known again only after a report.
            storage.reported = false;
            if failed {
                self.sweep.request();
            }
        }
    }

    /// Number of a storage of `node`. A storage that belongs to another datanode which serves stays there.
    pub(super) fn adopt_storage(&mut self, node: NodeIndex, id: &str) -> Option<StorageIndex> {
        if let Some(index) = self.datanodes.find_storage(id) {
            let owner = self.datanodes.node_of(index);
            if owner != node {
                if self.datanodes.node(owner).serves() {
                    return None;
                }
                for id in self.pending.matching(|order| order.targets.contains(&index)) {
                    self.settle_pending(id, owner);
                }
            }
        }
        self.datanodes.intern_storage(node, id)
    }

    fn lacks_report(&self, now: u64, node: NodeIndex) -> bool {
        let datanode = self.datanodes.node(node);
        let waited = now.saturating_sub(datanode.report_asked) >= self.config.report_wait_ms;
        datanode.report_wanted
            || waited
                && datanode.storages.iter().any(|storage| {
                    let storage = self.datanodes.storage(*storage);
                    !storage.reported && !storage.failed
                })
    }

    fn take_finalize_command(&mut self, now: u64, node: NodeIndex, commands: &mut Vec<v1::DatanodeCommand>) {
        let queued = &mut self.datanodes.node_mut(node).finalizations;
        let due = queued.take(now, self.config.pending_timeout_ms, FINALIZATIONS_PER_HEARTBEAT);
        let blocks: Vec<v1::Block> = due
            .into_iter()
            .filter_map(|id| self.blocks.get(id))
            .filter(|entry| entry.state == BlockState::Complete)
            .map(|entry| v1::Block {
                id: entry.id.get(),
                generation_stamp: entry.stamp.get(),
                length: entry.length,
            })
            .collect();
        if !blocks.is_empty() {
            commands.push(command(Command::Finalize(v1::FinalizeCommand { blocks })));
        }
    }

    fn take_withdraw_command(&mut self, node: NodeIndex, commands: &mut Vec<v1::DatanodeCommand>) {
        let withdrawn = std::mem::take(&mut self.datanodes.node_mut(node).withdrawals);
        if !withdrawn.is_empty() {
            let block_ids = withdrawn.iter().map(|id| id.get()).collect();
            commands.push(command(Command::Withdraw(v1::WithdrawCommand { block_ids })));
        }
    }

    fn take_transfer_commands(&mut self, now: u64, node: NodeIndex, commands: &mut Vec<v1::DatanodeCommand>) {
        let queued = &mut self.datanodes.node_mut(node).transfers;
        let due: Vec<BlockId> = queued.drain(..queued.len().min(TRANSFERS_PER_HEARTBEAT)).collect();
        for id in due {
            let Some(entry) = self.blocks.get(id) else { continue };
            let block = v1::Block { id: id.get(), generation_stamp: entry.stamp.get(), length: entry.length };
            let queued_bytes = self.datanodes.node(node).outgoing.bytes;
            let Some(order) = self.pending.get_mut(id) else { continue };
            order.sent = true;
            order.deadline = super::pending::deadline(
                now,
                self.config.pending_timeout_ms,
                order.bytes,
                queued_bytes,
                self.repair_bandwidth,
            );
            let targets = order.targets.iter().map(|target| self.datanodes.location(*target)).collect();
            commands.push(command(Command::Transfer(v1::TransferCommand {
                block: Some(block),
                targets,
                balancing: false,
            })));
        }
    }
}

/// A command in its message.
pub(super) fn command(command: Command) -> v1::DatanodeCommand {
    v1::DatanodeCommand { command: Some(command) }
}
