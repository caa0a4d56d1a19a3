//! Chooses the datanodes and storages of new replicas.
//!
//! With one rack: the writer's own datanode first, then others. With several: the writer's datanode,
//! then two datanodes of one other rack, then spread, at most `(r - 1) / racks + 2` on a rack (HDFS's
//! rule). With several data centres (`topology::site`) that other rack is in another one: the bytes cross the long line
//! once, as they cross between racks once, and the loss of either data centre leaves a replica. Never two replicas on one datanode; only live datanodes with room. Among the candidates two
//! are drawn at random and the one with less load and more free space is taken: that spreads load nearly
//! as well as comparing all, and callers that ask at the same moment do not all pick the same one.

use std::net::IpAddr;

use dfs_proto::v1;
use smallvec::SmallVec;

use super::block_manager::BlockManager;
use super::datanode_manager::{Datanode, DatanodeManager, NodeIndex, RackIndex, SiteIndex, StorageIndex};
use super::random::Random;

/// A datanode counts as overloaded above twice the mean load and this much: small differences on an
/// idle cluster mean nothing.
const LOAD_SLACK: u64 = 8;

/// Pools up to this size are looked through; larger ones are sampled.
const SMALL_POOL: usize = 32;

/// Random draws from a large pool before it is looked through after all.
const SAMPLES: usize = 24;

/// Where replicas are wanted.
#[derive(Clone, Debug, Default)]
pub struct PlacementRequest<'a> {
    /// Address of the writer, to place the first replica near it.
    pub writer_ip: Option<IpAddr>,
    /// Replicas of the block wanted in total, those on `existing` included.
    pub replication: usize,
    /// Room that each replica needs.
    pub block_size: u64,
    /// Datanodes (uuid) not to use.
    pub exclude: &'a [String],
    /// Storages that have a replica already; their datanodes are not used again.
    pub existing: &'a [String],
    /// Decides all random choices.
    pub seed: u64,
}

impl BlockManager {
    /// Chooses `replication - existing.len()` storages, in pipeline order. Answers fewer, or none, if there
    /// are not enough datanodes with room.
    pub fn choose_targets(&self, request: &PlacementRequest<'_>) -> Vec<v1::ReplicaLocation> {
        let exclude = request.exclude.iter().filter_map(|uuid| self.datanodes.find_node(uuid)).collect();
        let present: Vec<NodeIndex> = request
            .existing
            .iter()
            .filter_map(|id| self.datanodes.find_storage(id))
            .map(|storage| self.datanodes.node_of(storage))
            .collect();
        let mut chooser = Chooser::new(
            &self.datanodes,
            request.replication,
            request.block_size,
            request.seed,
            exclude,
            present,
        );
        chooser.writer_ip = request.writer_ip;
        let targets = chooser.choose(request.replication.saturating_sub(request.existing.len()));
        targets.into_iter().map(|storage| self.datanodes.location(storage)).collect()
    }
}

/// Further condition on a datanode.
type Allow<'a> = Box<dyn Fn(&Datanode) -> bool + 'a>;

/// One choice of targets.
pub(super) struct Chooser<'a> {
    datanodes: &'a DatanodeManager,
    replication: usize,
    block_size: u64,
    random: Random,
    exclude: Vec<NodeIndex>,
    /// Datanodes that have or get a replica.
    chosen: Vec<NodeIndex>,
    pub(super) writer_ip: Option<IpAddr>,
    pub(super) allow: Option<Allow<'a>>,
    /// Take only what ends that all are on one rack or in one data centre.
    pub(super) elsewhere_only: bool,
    /// Time, to know whom not to rely on.
    pub(super) now: u64,
}

/// Where the next replica shall go.
#[derive(Clone, Copy, Debug)]
enum Place {
    WriterNode,
    WriterRack,
    Rack(RackIndex),
    OtherRack(RackIndex),
    OtherSite(SiteIndex),
    /// Any rack that is below its cap.
    Spread,
    Anywhere,
}

/// How much is asked of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    /// Not overloaded, not coming and going, and room for the block beside all that is being written there.
    Comfortable,
    /// Room for the block.
    Possible,
}

impl<'a> Chooser<'a> {
    pub(super) fn new(
        datanodes: &'a DatanodeManager,
        replication: usize,
        block_size: u64,
        seed: u64,
        exclude: Vec<NodeIndex>,
        present: Vec<NodeIndex>,
    ) -> Self {
        Self {
            datanodes,
            replication,
            block_size,
            random: Random::new(seed),
            exclude,
            chosen: present,
            writer_ip: None,
            allow: None,
            elsewhere_only: false,
            now: 0,
        }
    }

    /// Up to `count` storages in pipeline order.
    pub(super) fn choose(&mut self, count: usize) -> Vec<StorageIndex> {
        let mut targets = Vec::with_capacity(count.min(self.datanodes.live().len()));
        for _ in 0..count {
            let Some((node, storage)) = self.next() else { break };
            self.chosen.push(node);
            targets.push(storage);
        }
        targets
    }

    fn next(&mut self) -> Option<(NodeIndex, StorageIndex)> {
        for (place, demand) in self.preferences() {
            if let Some(found) = self.pick(place, demand) {
                return Some(found);
            }
        }
        None
    }

    /// Places for the next replica, best first. Rack safety goes before comfort; nearness to the writer
    /// does not.
    fn preferences(&self) -> SmallVec<[(Place, Demand); 8]> {
        use Demand::{Comfortable, Possible};
        let mut places = SmallVec::new();
        let mut both = |place| places.extend([(place, Comfortable), (place, Possible)]);
        let racks = self.datanodes.serving_racks();
        let rack = |node: NodeIndex| self.datanodes.node(node).rack;
        match self.chosen[..] {
            [] => {
                places.extend([(Place::WriterNode, Comfortable), (Place::WriterRack, Comfortable)]);
                places.extend([(Place::Anywhere, Comfortable), (Place::Anywhere, Possible)]);
                return places;
            }
            [first, ref rest @ ..] if racks > 1 => {
                let site = |node: NodeIndex| self.datanodes.site_of(rack(node));
                let one_site = rest.iter().all(|node| site(*node) == site(first));
                let one_rack = rest.iter().all(|node| rack(*node) == rack(first));
                if one_site && self.datanodes.serving_sites() > 1 {
                    both(Place::OtherSite(site(first)));
                    if self.elsewhere_only {
                        return places;
                    }
                }
                if one_rack {
                    both(Place::OtherRack(rack(first)));
                    if self.elsewhere_only {
                        return places;
                    }
                } else if let [second] = rest[..] {
                    both(Place::Rack(rack(second)));
                }
                both(Place::Spread);
            }
            _ => {}
        }
        both(Place::Anywhere);
        places
    }

    fn pick(&mut self, place: Place, demand: Demand) -> Option<(NodeIndex, StorageIndex)> {
        let datanodes = self.datanodes;
        let pool: &[NodeIndex] = match place {
            Place::WriterNode => datanodes.at_ip(self.writer_ip?),
            Place::WriterRack => {
                let neighbour = datanodes.at_ip(self.writer_ip?).first()?;
                datanodes.in_rack(datanodes.node(*neighbour).rack)
            }
            Place::Rack(rack) => datanodes.in_rack(rack),
            Place::OtherRack(_) | Place::OtherSite(_) | Place::Spread | Place::Anywhere => datanodes.live(),
        };
        let node = self.pick_from(pool, place, demand)?;
        let storage = self.pick_storage(node, demand)?;
        Some((node, storage))
    }

    /// The better of two candidates drawn from `pool`.
    fn pick_from(&mut self, pool: &[NodeIndex], place: Place, demand: Demand) -> Option<NodeIndex> {
        let mut drawn: SmallVec<[NodeIndex; 2]> = SmallVec::new();
        if pool.len() > SMALL_POOL {
            for _ in 0..SAMPLES {
                let node = pool[self.random.index(pool.len())];
                if !drawn.contains(&node) && self.suits(node, place, demand) {
                    drawn.push(node);
                    if drawn.len() == 2 {
                        break;
                    }
                }
            }
        }
        if drawn.is_empty() {
            let candidates: SmallVec<[NodeIndex; SMALL_POOL]> =
                pool.iter().copied().filter(|node| self.suits(*node, place, demand)).collect();
            if candidates.is_empty() {
                return None;
            }
            let first = self.random.index(candidates.len());
            drawn.push(candidates[first]);
            if candidates.len() > 1 {
                let step = 1 + self.random.index(candidates.len() - 1);
                drawn.push(candidates[(first + step) % candidates.len()]);
            }
        }
        drawn.into_iter().min_by_key(|node| self.cost(*node))
    }

    fn suits(&self, node: NodeIndex, place: Place, demand: Demand) -> bool {
        let datanode = self.datanodes.node(node);
        let placed = match place {
            Place::OtherRack(rack) => datanode.rack != rack,
            Place::OtherSite(site) => self.datanodes.site_of(datanode.rack) != site,
            Place::Spread => self.below_rack_cap(datanode.rack),
            Place::WriterNode | Place::WriterRack | Place::Rack(_) | Place::Anywhere => true,
        };
        let overloaded = datanode.load() > 2 * self.datanodes.mean_load() + LOAD_SLACK;
        let comfortable = !overloaded && !datanode.unreliable(self.now);
        placed
            && datanode.takes()
            && (demand == Demand::Possible || comfortable)
            && !self.chosen.contains(&node)
            && !self.exclude.contains(&node)
            && self.allow.as_ref().is_none_or(|allow| allow(datanode))
            && datanode.storages.iter().any(|storage| self.has_room(*storage, demand))
    }

    fn below_rack_cap(&self, rack: RackIndex) -> bool {
        let cap = self.replication.saturating_sub(1) / self.datanodes.serving_racks().max(1) + 2;
        let there = self.chosen.iter().filter(|node| self.datanodes.node(**node).rack == rack).count();
        there < cap
    }

    /// Blocks being written are counted at the size asked for: their real sizes are not known.
    fn has_room(&self, storage: StorageIndex, demand: Demand) -> bool {
        let storage = self.datanodes.storage(storage);
        let needed = match demand {
            Demand::Comfortable => self.block_size.saturating_mul(storage.writing.saturating_add(1)),
            Demand::Possible => self.block_size,
        };
        !storage.failed && storage.remaining >= needed
    }

    /// Load relative to the mean and used share of the space, both in thousandths.
    fn cost(&self, node: NodeIndex) -> u64 {
        let datanode = self.datanodes.node(node);
        let (mut capacity, mut remaining) = (0u64, 0u64);
        for storage in &datanode.storages {
            let storage = self.datanodes.storage(*storage);
            if !storage.failed {
                capacity = capacity.saturating_add(storage.capacity);
                remaining = remaining.saturating_add(storage.remaining);
            }
        }
        let used = capacity.saturating_sub(remaining);
        let used = u128::from(used) * 1_000 / u128::from(capacity.max(1));
        let load = datanode.load().saturating_mul(1_000) / (self.datanodes.mean_load() + 1);
        load.saturating_add(u64::try_from(used).unwrap_or(1_000))
    }

    /// One of the storages with room, each as likely as its free space is large.
    fn pick_storage(&mut self, node: NodeIndex, demand: Demand) -> Option<StorageIndex> {
        let datanodes = self.datanodes;
        let able: SmallVec<[StorageIndex; 8]> = datanodes
            .node(node)
            .storages
            .iter()
            .copied()
            .filter(|storage| self.has_room(*storage, demand))
            .collect();
        let room = |storage: StorageIndex| datanodes.storage(storage).remaining;
        let total = able.iter().fold(0u64, |sum, storage| sum.saturating_add(room(*storage)));
        let mut draw = self.random.below(total);
        for storage in &able {
            if draw < room(*storage) {
                return Some(*storage);
            }
            draw -= room(*storage);
        }
        able.last().copied()
    }
}
