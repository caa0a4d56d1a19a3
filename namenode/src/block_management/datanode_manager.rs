//! Datanodes and storages known, their state, and what is under way on them.
//!
//! Datanodes and storages are interned: they get a number when first seen and keep it as long as the
//! namenode runs, so that replicas take four bytes.
//!
//! Invariants:
//! * `live` holds exactly the datanodes that take new replicas, `by_ip` and `racks` every registered one.
//! * `Storage::replicas` counts the block map's replicas on it that are not being written,
//!   `Storage::writing` those that are; the block manager changes them with the map.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use dfs_proto::{BlockId, v1};

use super::administration::{Admin, Flaps};
use super::drain::Drain;
use super::finalizations::Finalizations;
use super::invalidate::Invalidates;
use super::topology;

/// Datanodes that can be known: far beyond any cluster, yet a bound on what registrations can fill.
const DATANODES_MAX: usize = 65_536;

/// Storages that can be known; fits the 30 bits that a replica has for them.
const STORAGES_MAX: usize = 1 << 20;

/// Racks that can be known; datanodes that name yet another one count to the first.
const RACKS_MAX: usize = 65_536;

/// Number of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct StorageIndex(u32);

impl StorageIndex {
    pub(super) const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    pub(super) const fn raw(self) -> u32 {
        self.0
    }
}

/// Number of a datanode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeIndex(u32);

/// Number of a rack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RackIndex(u32);

/// Life of a datanode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Liveness {
    /// Known from the namespace after a restart, not registered yet.
    Expected,
    /// Heartbeats arrive.
    Live,
    /// Heartbeats are late.
    Stale,
    /// Given up; must register again.
    Dead,
}

/// A volume with a smaller part of its capacity left is short of room: what is to be deleted there is deleted at once.
const ROOM_PART: u64 = 10;

/// One volume of a datanode.
#[derive(Debug)]
pub(super) struct Storage {
    pub(super) id: String,
    pub(super) node: NodeIndex,
    pub(super) capacity: u64,
    pub(super) used: u64,
    pub(super) remaining: u64,
    /// Serves nothing: reported failed, or not listed by its datanode any more.
    pub(super) failed: bool,
    /// Its datanode names it. One that it named before and does not any more was replaced.
    pub(super) listed: bool,
    /// Directory on its datanode.
    pub(super) path: String,
    /// Why it failed.
    pub(super) failure: String,
    /// When all of its replicas had last been verified, in seconds since the epoch; 0: not yet.
    pub(super) scrubbed_s: u64,
    /// Share of the present pass that is verified, in thousandths.
    pub(super) scrub_done_milli: u32,
    /// Bad replicas found by that since its datanode started.
    pub(super) scrub_bad: u64,
    /// A full report has arrived since its datanode registered.
    pub(super) reported: bool,
    pub(super) replicas: u64,
    pub(super) writing: u64,
}

/// Copies under way on one side of a datanode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CopyLoad {
    pub(super) count: u32,
    pub(super) bytes: u64,
}

impl CopyLoad {
    pub(super) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }

    pub(super) fn sub(&mut self, bytes: u64) {
        self.count -= 1;
        self.bytes -= bytes;
    }

    /// One more copy of `bytes` may be added.
    pub(super) fn allows(&self, bytes: u64, count_max: u32, bytes_max: u64) -> bool {
        self.count == 0 || (self.count < count_max && self.bytes.saturating_add(bytes) <= bytes_max)
    }
}

/// One datanode.
#[derive(Debug)]
pub(super) struct Datanode {
    pub(super) info: v1::DatanodeInfo,
    pub(super) ip: Option<IpAddr>,
    pub(super) rack: RackIndex,
    pub(super) liveness: Liveness,
    pub(super) last_heartbeat: u64,
    /// When it registered or was last asked for full reports.
    pub(super) report_asked: u64,
    /// Its replicas are to be looked at again: full reports are asked for on its next heartbeat.
    pub(super) report_wanted: bool,
    pub(super) xceivers: u32,
    pub(super) software_version: String,
    pub(super) storages: Vec<StorageIndex>,
    /// Sum of `Storage::writing` over its storages.
    pub(super) writing: u64,
    pub(super) outgoing: CopyLoad,
    pub(super) incoming: CopyLoad,
    /// It did not take a copy: others get copies first until then.
    pub(super) shunned_until: u64,
    pub(super) invalidates: Invalidates,
    pub(super) finalizations: Finalizations,
    /// Copies to order on its next heartbeat.
    pub(super) transfers: Vec<BlockId>,
    /// Recoveries to order on its next heartbeat.
    pub(super) recoveries: Vec<BlockId>,
    /// Copies it was told of that are not wanted any longer; no more than it may be told of at a time.
    pub(super) withdrawals: Vec<BlockId>,
    /// Dead, and not to be told of any longer: its number stays taken until the namenode starts anew.
    pub(super) removed: bool,
    /// What an administrator wants of it.
    pub(super) admin: Admin,
    /// How far that is.
    pub(super) drain: Drain,
    /// Dead, and expected back until then: its replicas are not replaced yet.
    pub(super) awaited_until: Option<u64>,
    /// How often it died and came back.
    pub(super) flaps: Flaps,
    /// Replicas that it is to verify, to be asked for on its next heartbeats.
    pub(super) verifications: BTreeSet<BlockId>,
}

impl Datanode {
    /// It is registered and heartbeats have not stopped for long: its replicas count.
    pub(super) fn serves(&self) -> bool {
        matches!(self.liveness, Liveness::Live | Liveness::Stale)
    }

    /// What it has to do, for comparison with others.
    pub(super) fn load(&self) -> u64 {
        u64::from(self.xceivers).max(self.writing) + u64::from(self.incoming.count)
    }
}

/// Number of a data centre.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SiteIndex(u32);

#[derive(Debug)]
struct Rack {
    name: String,
    site: SiteIndex,
    nodes: Vec<NodeIndex>,
}

/// All datanodes.
#[derive(Debug, Default)]
pub(super) struct DatanodeManager {
    nodes: Vec<Datanode>,
    storages: Vec<Storage>,
    racks: Vec<Rack>,
    /// Data centres, by name; no more than racks.
    sites: Vec<String>,
    by_uuid: HashMap<String, NodeIndex>,
    by_storage_id: HashMap<String, StorageIndex>,
    by_ip: HashMap<IpAddr, Vec<NodeIndex>>,
    live: Vec<NodeIndex>,
    /// Racks with a datanode whose replicas count.
    serving_racks: usize,
    /// Data centres with such a rack.
    serving_sites: usize,
    mean_load: u64,
}

impl DatanodeManager {
    pub(super) fn node(&self, node: NodeIndex) -> &Datanode {
        &self.nodes[node.0 as usize]
    }

    pub(super) fn node_mut(&mut self, node: NodeIndex) -> &mut Datanode {
        &mut self.nodes[node.0 as usize]
    }

    pub(super) fn storage(&self, storage: StorageIndex) -> &Storage {
        &self.storages[storage.0 as usize]
    }

    pub(super) fn storage_mut(&mut self, storage: StorageIndex) -> &mut Storage {
        &mut self.storages[storage.0 as usize]
    }

    pub(super) fn node_of(&self, storage: StorageIndex) -> NodeIndex {
        self.storage(storage).node
    }

    pub(super) fn rack_of(&self, storage: StorageIndex) -> RackIndex {
        self.node(self.node_of(storage)).rack
    }

    pub(super) fn find_node(&self, uuid: &str) -> Option<NodeIndex> {
        self.by_uuid.get(uuid).copied()
    }

    pub(super) fn find_storage(&self, id: &str) -> Option<StorageIndex> {
        self.by_storage_id.get(id).copied()
    }

    /// The storage and its datanode serve.
    pub(super) fn usable(&self, storage: StorageIndex) -> bool {
        let storage = self.storage(storage);
        !storage.failed && self.node(storage.node).serves()
    }

    /// The storage serves and its datanode is not even stale.
    pub(super) fn fresh(&self, storage: StorageIndex) -> bool {
        let storage = self.storage(storage);
        !storage.failed && self.node(storage.node).liveness == Liveness::Live
    }

    /// All datanodes.
    pub(super) fn indices(&self) -> impl Iterator<Item = NodeIndex> + use<> {
        // `intern_node` keeps the number within u32.
        (0..self.nodes.len() as u32).map(NodeIndex)
    }

    pub(super) fn nodes(&self) -> &[Datanode] {
        &self.nodes
    }

    /// One of its volumes has less than a [`ROOM_PART`]th of its capacity left.
    pub(super) fn is_short_of_room(&self, node: NodeIndex) -> bool {
        let volumes = self.node(node).storages.iter().map(|storage| self.storage(*storage));
        volumes.filter(|volume| !volume.failed).any(|volume| volume.remaining < volume.capacity / ROOM_PART)
    }

    pub(super) fn storages(&self) -> &[Storage] {
        &self.storages
    }

    /// Datanodes that can be written to.
    pub(super) fn live(&self) -> &[NodeIndex] {
        &self.live
    }

    /// Datanodes at an address, in whatever state.
    pub(super) fn at_ip(&self, ip: IpAddr) -> &[NodeIndex] {
        self.by_ip.get(&ip).map_or(&[], Vec::as_slice)
    }

    /// Datanodes of a rack, in whatever state.
    pub(super) fn in_rack(&self, rack: RackIndex) -> &[NodeIndex] {
        &self.racks[rack.0 as usize].nodes
    }

    pub(super) fn rack_name(&self, rack: RackIndex) -> &str {
        &self.racks[rack.0 as usize].name
    }

    /// Racks with a datanode whose replicas count.
    pub(super) fn serving_racks(&self) -> usize {
        self.serving_racks
    }

    /// Data centres with such a rack.
    pub(super) fn serving_sites(&self) -> usize {
        self.serving_sites
    }

    /// Data centre of a rack.
    pub(super) fn site_of(&self, rack: RackIndex) -> SiteIndex {
        self.racks[rack.0 as usize].site
    }

    /// Mean of [`Datanode::load`] over live datanodes, as of the last [`Self::refresh`].
    pub(super) fn mean_load(&self) -> u64 {
        self.mean_load
    }

    /// Answers the number of the datanode, recording its address, or `None` if too many are known.
    pub(super) fn intern_node(&mut self, mut info: v1::DatanodeInfo) -> Option<NodeIndex> {
        info.rack = topology::normalized(&info.rack);
        let ip = info.ip.parse().ok();
        let rack = self.intern_rack(&info.rack);
        let node = match self.by_uuid.entry(info.uuid.clone()) {
            Entry::Occupied(known) => {
                let index = *known.get();
                let node = &mut self.nodes[index.0 as usize];
                self.racks[node.rack.0 as usize].nodes.retain(|other| *other != index);
                if let Some(at) = node.ip.and_then(|ip| self.by_ip.get_mut(&ip)) {
                    at.retain(|other| *other != index);
                }
                node.info = info;
                node.ip = ip;
                node.rack = rack;
                node.removed = false;
                index
            }
            Entry::Vacant(vacant) => {
                if self.nodes.len() >= DATANODES_MAX {
                    return None;
                }
                let index = NodeIndex(self.nodes.len() as u32);
                vacant.insert(index);
                self.nodes.push(Datanode {
                    info,
                    ip,
                    rack,
                    liveness: Liveness::Expected,
                    last_heartbeat: 0,
                    report_asked: 0,
                    report_wanted: false,
                    xceivers: 0,
                    software_version: String::new(),
                    storages: Vec::new(),
                    writing: 0,
                    outgoing: CopyLoad::default(),
                    incoming: CopyLoad::default(),
                    shunned_until: 0,
                    invalidates: Invalidates::default(),
                    finalizations: Finalizations::default(),
                    transfers: Vec::new(),
                    recoveries: Vec::new(),
                    withdrawals: Vec::new(),
                    removed: false,
                    admin: Admin::Normal,
                    drain: Drain::default(),
                    awaited_until: None,
                    flaps: Flaps::default(),
                    verifications: BTreeSet::new(),
                });
                index
            }
        };
        self.racks[rack.0 as usize].nodes.push(node);
        if let Some(ip) = ip {
            self.by_ip.entry(ip).or_default().push(node);
        }
        Some(node)
    }

    /// Answers the number of a storage, moving it to `node` if it belonged to another datanode (its disk
    /// was moved), or `None` if too many are known. A storage that is new on its node is unreported.
    pub(super) fn intern_storage(&mut self, node: NodeIndex, id: &str) -> Option<StorageIndex> {
        if let Some(index) = self.find_storage(id) {
            let storage = &mut self.storages[index.0 as usize];
            let before = storage.node;
            if before != node {
                storage.node = node;
                storage.reported = false;
                let writing = storage.writing;
                self.node_mut(before).storages.retain(|other| *other != index);
                self.node_mut(before).writing -= writing;
                self.node_mut(node).storages.push(index);
                self.node_mut(node).writing += writing;
            }
            return Some(index);
        }
        if self.storages.len() >= STORAGES_MAX {
            return None;
        }
        let index = StorageIndex(self.storages.len() as u32);
        self.storages.push(Storage {
            id: id.to_owned(),
            node,
            capacity: 0,
            used: 0,
            remaining: 0,
            failed: false,
            listed: true,
            path: String::new(),
            failure: String::new(),
            scrubbed_s: 0,
            scrub_done_milli: 0,
            scrub_bad: 0,
            reported: false,
            replicas: 0,
            writing: 0,
        });
        self.by_storage_id.insert(id.to_owned(), index);
        self.node_mut(node).storages.push(index);
        Some(index)
    }

    fn intern_rack(&mut self, name: &str) -> RackIndex {
        // One rack a datanode at most, and few; racks are looked up by registrations only.
        if let Some(at) = self.racks.iter().position(|rack| rack.name == name) {
            return RackIndex(at as u32);
        }
        if self.racks.len() >= RACKS_MAX {
            return RackIndex(0);
        }
        let site_name = topology::site(name);
        let site = self.sites.iter().position(|known| known == site_name).unwrap_or_else(|| {
            self.sites.push(site_name.to_owned());
            self.sites.len() - 1
        });
        self.racks.push(Rack { name: name.to_owned(), site: SiteIndex(site as u32), nodes: Vec::new() });
        RackIndex(self.racks.len() as u32 - 1)
    }

    /// Brings what is derived from states and loads up to date. To be called after any change of
    /// [`Datanode::liveness`], and now and then for the mean load.
    pub(super) fn refresh(&mut self) {
        self.live = self.indices().filter(|node| self.node(*node).takes()).collect();
        let stays = |rack: &&Rack| rack.nodes.iter().any(|node| self.node(*node).stays());
        let mut sites: Vec<SiteIndex> = self.racks.iter().filter(stays).map(|rack| rack.site).collect();
        self.serving_racks = sites.len();
        sites.sort_unstable();
        sites.dedup();
        self.serving_sites = sites.len();
        let load: u64 = self.live.iter().map(|node| self.node(*node).load()).sum();
        self.mean_load = load / (self.live.len() as u64).max(1);
    }

    /// Where a storage is, as messages name it.
    pub(super) fn location(&self, storage: StorageIndex) -> v1::ReplicaLocation {
        let storage = self.storage(storage);
        let mut info = self.node(storage.node).info.clone();
        info.set_state(self.state_of(storage.node));
        info.set_admin_state(self.admin_state_of(storage.node));
        v1::ReplicaLocation { datanode: Some(info), storage_id: storage.id.clone() }
    }

    /// Order as messages name it.
    pub(super) fn admin_state_of(&self, node: NodeIndex) -> v1::AdminState {
        match self.node(node).admin {
            Admin::Normal => v1::AdminState::Normal,
            Admin::Leaving => v1::AdminState::Decommission,
            Admin::Maintenance { .. } => v1::AdminState::Maintenance,
        }
    }

    /// State as messages name it. A datanode that is still expected after a restart is worth a try.
    pub(super) fn state_of(&self, node: NodeIndex) -> v1::DatanodeState {
        match self.node(node).liveness {
            Liveness::Live => v1::DatanodeState::Live,
            Liveness::Stale | Liveness::Expected => v1::DatanodeState::Stale,
            Liveness::Dead => v1::DatanodeState::Dead,
        }
    }
}
