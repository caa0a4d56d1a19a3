//! What administrators order about datanodes, and how long a dead one is waited for.
//!
//! A replica is worth what its datanode is ([`Worth`]):
//! * *Stays*: the datanode serves and nobody wants anything of it. Only such replicas count in full.
//! * *Leaves*: it is being decommissioned. The replica is read and copied from, but another one is to be made.
//! * *Absent*: it may be down for a while (maintenance, whether it is up now or not), or it is dead and is given
//!   more time to come back because it died and came back several times lately. Such replicas count as long as
//!   enough others stay: one for maintenance, two for a datanode that nobody announced.
//! * *Gone*: failed or dead. The replica is forgotten.
//!
//! Nothing new goes to a datanode that leaves or is in maintenance. Orders are kept by the namespace; what follows
//! from them, and the memory of deaths, is soft state.

use dfs_proto::v1;

use super::block_manager::BlockManager;
use super::datanode_manager::{Datanode, DatanodeManager, Liveness, NodeIndex, StorageIndex};
use super::drain::Drain;

/// Replicas that must stay elsewhere before those of a datanode in maintenance count (HDFS's default).
const FLOOR_MAINTENANCE: usize = 1;

/// Replicas that must stay elsewhere before those of a dead datanode that is waited for count: its data is not
/// known to come back.
const FLOOR_AWAITED: usize = 2;

/// Longest silence after which the replicas of a datanode that comes and goes are replaced in any case: the time that HDFS
/// takes to notice any death.
const PATIENCE_MAX_MS: u64 = 630_000;

/// Time in which the number of deaths remembered halves.
const FLAP_MEMORY_MS: u64 = 24 * 3_600_000;

/// Deaths remembered at most: enough to reach [`PATIENCE_MAX_MS`] from any sensible limit.
const FLAPS_MAX: u32 = 16;

/// From so many deaths on a datanode gets new replicas only if no other can, and loses excess ones first.
const UNRELIABLE_FLAPS: u32 = 2;

/// What an administrator wants of a datanode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Admin {
    /// Nothing special.
    #[default]
    Normal,
    /// It shall leave.
    Leaving,
    /// It may be down until then.
    Maintenance {
        /// By the monotonic clock.
        until: u64,
    },
}

/// How often a datanode died and came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flaps {
    count: u32,
    last: u64,
}

impl Flaps {
    /// Deaths that still count.
    pub(super) fn count(self, now: u64) -> u32 {
        let halvings = now.saturating_sub(self.last) / FLAP_MEMORY_MS;
        self.count >> u32::try_from(halvings).unwrap_or(u32::MAX).min(u32::BITS - 1)
    }

    fn add(&mut self, now: u64) {
        *self = Self { count: (self.count(now) + 1).min(FLAPS_MAX), last: now };
    }
}

/// What a replica on a storage is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// Counts.
    Stays,
    /// A source only.
    Leaves,
    /// Counts as long as `floor` others stay.
    Absent {
        /// See there.
        floor: usize,
    },
    /// Nothing.
    Gone,
}

impl Datanode {
    /// New replicas may go there.
    pub(super) fn takes(&self) -> bool {
        self.liveness == Liveness::Live && self.admin == Admin::Normal
    }

    /// Its replicas count in full.
    pub(super) fn stays(&self) -> bool {
        self.serves() && self.admin == Admin::Normal
    }

    /// It came and went too often to be relied on.
    pub(super) fn unreliable(&self, now: u64) -> bool {
        self.flaps.count(now) >= UNRELIABLE_FLAPS
    }

    fn worth(&self) -> Worth {
        match (self.admin, self.serves()) {
            (Admin::Normal, true) => Worth::Stays,
            (Admin::Leaving, true) => Worth::Leaves,
            (Admin::Maintenance { .. }, _) => Worth::Absent { floor: FLOOR_MAINTENANCE },
            (Admin::Normal, false) if self.awaited_until.is_some() => Worth::Absent { floor: FLOOR_AWAITED },
            (Admin::Normal | Admin::Leaving, false) => Worth::Gone,
        }
    }
}

impl DatanodeManager {
    pub(super) fn worth(&self, storage: StorageIndex) -> Worth {
        let held = self.storage(storage);
        if held.failed { Worth::Gone } else { self.node(held.node).worth() }
    }
}

impl BlockManager {
    /// An administrator ordered what is to become of a datanode; maintenance ends after `remaining_ms`.
    pub fn set_admin(&mut self, now: u64, uuid: &str, state: v1::AdminState, remaining_ms: u64) {
        let Some(node) = self.datanodes.find_node(uuid) else { return };
        let admin = match state {
            v1::AdminState::Normal => Admin::Normal,
            v1::AdminState::Decommission => Admin::Leaving,
            v1::AdminState::Maintenance if remaining_ms == 0 => Admin::Normal,
            v1::AdminState::Maintenance => Admin::Maintenance { until: now.saturating_add(remaining_ms) },
        };
        let datanode = self.datanodes.node_mut(node);
        if datanode.admin == admin {
            return;
        }
        datanode.admin = admin;
        datanode.drain = Drain::default();
        if admin != Admin::Normal {
            datanode.awaited_until = None;
        }
        self.datanodes.refresh();
        self.withdraw_copies_to(now, node);
        self.sweep.request();
    }

    /// Whether a datanode may be forgotten: it is dead, and nobody waits for it. Otherwise why not.
    pub fn may_remove(&self, uuid: &str) -> Result<(), &'static str> {
        let Some(node) = self.datanodes.find_node(uuid) else { return Err("no such datanode") };
        let datanode = self.datanodes.node(node);
        match (datanode.liveness, datanode.admin) {
            (_, Admin::Maintenance { .. }) => Err("it is in maintenance: recommission it first"),
            (Liveness::Live | Liveness::Stale, _) => Err("it is alive: decommission it, then stop it"),
            (Liveness::Expected, _) => {
                Err("the namenode has just started and waits for it: try again in a minute")
            }
            (Liveness::Dead, Admin::Normal | Admin::Leaving) => Ok(()),
        }
    }

    /// A datanode was removed from the namespace's record. One that serves again in this moment stays.
    pub(super) fn remove_datanode(&mut self, uuid: &str) {
        let Some(node) = self.datanodes.find_node(uuid) else { return };
        let datanode = self.datanodes.node_mut(node);
        if !datanode.serves() {
            (datanode.liveness, datanode.removed, datanode.admin) = (Liveness::Dead, true, Admin::Normal);
            datanode.awaited_until = None;
            self.datanodes.refresh();
            self.sweep.request();
        }
    }

    /// What each datanode may spend on repair, in bytes a second; 0: as it sees fit.
    pub fn set_repair_bandwidth(&mut self, bytes_per_second: u64) {
        self.repair_bandwidth = bytes_per_second;
    }

    /// See [`BlockManager::set_repair_bandwidth`].
    pub fn repair_bandwidth(&self) -> u64 {
        self.repair_bandwidth
    }

    /// A dead datanode registers again.
    pub(super) fn note_return(&mut self, now: u64, node: NodeIndex) {
        let datanode = self.datanodes.node_mut(node);
        datanode.awaited_until = None;
        if datanode.admin == Admin::Normal {
            datanode.flaps.add(now);
        }
        // Its replicas that were waited for count again, beside those that were made in their place: its reports say
        // nothing new about them.
        self.sweep.request();
    }

    /// A datanode was given up: its replicas are replaced at once, unless it came back so often that it is likely to.
    pub(super) fn await_return(&mut self, now: u64, node: NodeIndex) {
        let dead_after_ms = self.config.dead_after_ms;
        let datanode = self.datanodes.node_mut(node);
        let doublings = datanode.flaps.count(now).min(FLAPS_MAX);
        let patience_ms = (dead_after_ms << doublings).min(PATIENCE_MAX_MS.max(dead_after_ms));
        let until = datanode.last_heartbeat.saturating_add(patience_ms);
        datanode.awaited_until = (datanode.admin == Admin::Normal && until > now).then_some(until);
    }

    /// Ends maintenance and waiting whose time is over.
    pub(super) fn check_absences(&mut self, now: u64) {
        let mut over = false;
        for node in self.datanodes.indices() {
            let datanode = self.datanodes.node_mut(node);
            if matches!(datanode.admin, Admin::Maintenance { until } if until <= now) {
                datanode.admin = Admin::Normal;
                datanode.drain = Drain::default();
                over = true;
            }
            if datanode.awaited_until.is_some_and(|until| until <= now) {
                datanode.awaited_until = None;
                over = true;
            }
        }
        if over {
            self.datanodes.refresh();
            self.sweep.request();
        }
    }

    /// The one datanode that `name` means: its uuid, host name, address or address and port. Otherwise all that it
    /// could mean.
    pub fn find_datanode(&self, name: &str) -> Result<String, Vec<String>> {
        if self.datanodes.find_node(name).is_some_and(|node| !self.datanodes.node(node).removed) {
            return Ok(name.to_owned());
        }
        let named = |info: &v1::DatanodeInfo| {
            let address = format!("{}:{}", info.ip, info.xfer_port);
            let host = format!("{}:{}", info.hostname, info.xfer_port);
            [&info.ip, &info.hostname, &address, &host].into_iter().any(|known| known == name)
        };
        let known = self.datanodes.nodes().iter().filter(|node| !node.removed);
        let all = known.filter(|node| named(&node.info));
        // A datanode that died for good may have left its name to another one.
        let serving: Vec<&Datanode> = all.clone().filter(|node| node.serves()).collect();
        let found: Vec<&Datanode> = if serving.is_empty() { all.collect() } else { serving };
        match found[..] {
            [only] => Ok(only.info.uuid.clone()),
            _ => Err(found
                .iter()
                .map(|node| format!("{}:{} {}", node.info.ip, node.info.xfer_port, node.info.uuid))
                .collect()),
        }
    }
}
