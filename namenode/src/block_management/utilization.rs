//! How full datanodes are, who is to give bytes and who is to take them. Pure arithmetic on a snapshot.
//!
//! As in HDFS: the utilization of a datanode is what replicas use of its capacity; the average is the cluster's. A
//! datanode is over- or under-utilized if it is further from the average than the threshold. Over-utilized ones give to
//! all below the average, under-utilized ones take from all above it; the others exchange nothing among themselves. Each
//! gives or takes as much as brings it to the average, at most [`NODE_BYTES_MAX`] an iteration.

use std::collections::BTreeMap;

use super::block_manager::BlockManager;
use super::datanode_manager::NodeIndex;

/// Bytes that one datanode gives or takes in an iteration at most (HDFS's): then it is judged anew.
const NODE_BYTES_MAX: u64 = 10 << 30;

/// All of it, in hundredths of a percent.
const WHOLE: u64 = 10_000;

/// How full one datanode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filling {
    pub(super) node: NodeIndex,
    pub(super) capacity: u64,
    pub(super) used: u64,
    pub(super) remaining: u64,
}

/// How full all datanodes are that balancing is about.
#[derive(Debug, Default)]
pub(super) struct Utilization {
    pub(super) nodes: Vec<Filling>,
    /// Used share of the whole capacity in hundredths of a percent.
    pub(super) average: u32,
}

/// Bytes that a datanode still gives or takes in an iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) bytes: u64,
    /// It is further from the average than the threshold.
    pub(super) extreme: bool,
}

/// Who gives and who takes.
#[derive(Debug, Default)]
pub(super) struct Shares {
    pub(super) give: BTreeMap<NodeIndex, Share>,
    pub(super) take: BTreeMap<NodeIndex, Share>,
}

impl BlockManager {
    /// How full the datanodes are that are alive and stay; others are no business of balancing.
    pub(super) fn utilization(&self) -> Utilization {
        let nodes = self.datanodes.live().iter().filter_map(|index| {
            let node = self.datanodes.node(*index);
            if !node.takes() {
                return None;
            }
            let mut filling = Filling { node: *index, capacity: 0, used: 0, remaining: 0 };
            for storage in node.storages.iter().map(|storage| self.datanodes.storage(*storage)) {
                if !storage.failed {
                    filling.capacity = filling.capacity.saturating_add(storage.capacity);
                    filling.used = filling.used.saturating_add(storage.used);
                    filling.remaining = filling.remaining.saturating_add(storage.remaining);
                }
            }
            (filling.capacity > 0).then_some(filling)
        });
        Utilization::of(nodes.collect())
    }
}

impl Utilization {
    pub(super) fn of(nodes: Vec<Filling>) -> Self {
        let (mut capacity, mut used) = (0u64, 0u64);
        for node in &nodes {
            capacity = capacity.saturating_add(node.capacity);
            used = used.saturating_add(node.used);
        }
        Self { average: share(used, capacity), nodes }
    }

    /// Bytes that a datanode has above (positive) or lacks below (negative) a used share.
    fn above(node: &Filling, level: u32) -> i128 {
        i128::from(node.used) - i128::from(node.capacity) * i128::from(level) / i128::from(WHOLE)
    }

    fn is_over(&self, node: &Filling, threshold: u32) -> bool {
        Self::above(node, self.average.saturating_add(threshold)) > 0
    }

    fn is_under(&self, node: &Filling, threshold: u32) -> bool {
        self.average > threshold && Self::above(node, self.average - threshold) < 0
    }

    /// Datanodes above the average and the threshold.
    pub(super) fn over(&self, threshold: u32) -> u32 {
        self.nodes.iter().map(|node| u32::from(self.is_over(node, threshold))).sum()
    }

    /// Datanodes below the average without the threshold.
    pub(super) fn under(&self, threshold: u32) -> u32 {
        self.nodes.iter().map(|node| u32::from(self.is_under(node, threshold))).sum()
    }

    pub(super) fn is_balanced(&self, threshold: u32) -> bool {
        self.nodes.len() < 2 || self.over(threshold) + self.under(threshold) == 0
    }

    /// Bytes that are too many on the over-utilized ones or too few on the under-utilized, whichever is more.
    pub(super) fn bytes_left(&self, threshold: u32) -> u64 {
        let (mut much, mut little) = (0i128, 0i128);
        for node in &self.nodes {
            if self.is_over(node, threshold) {
                much += Self::above(node, self.average.saturating_add(threshold));
            } else if self.is_under(node, threshold) {
                little -= Self::above(node, self.average - threshold);
            }
        }
        u64::try_from(much.max(little)).unwrap_or(u64::MAX)
    }

    /// Who gives and takes how much.
    pub(super) fn shares(&self, threshold: u32) -> Shares {
        let mut shares = Shares::default();
        for node in &self.nodes {
            let above = Self::above(node, self.average);
            let bytes = u64::try_from(above.unsigned_abs()).unwrap_or(u64::MAX).min(NODE_BYTES_MAX);
            if above > 0 {
                let extreme = self.is_over(node, threshold);
                shares.give.insert(node.node, Share { bytes, extreme });
            } else if above < 0 {
                let bytes = bytes.min(node.remaining);
                let extreme = self.is_under(node, threshold);
                shares.take.insert(node.node, Share { bytes, extreme });
            }
        }
        shares
    }
}

impl Shares {
    /// Whether nothing can be given by anybody to anybody.
    pub(super) fn is_used_up(&self) -> bool {
        let left = |side: &BTreeMap<NodeIndex, Share>| {
            let some = side.values().any(|share| share.bytes > 0);
            let extreme = side.values().any(|share| share.bytes > 0 && share.extreme);
            (some, extreme)
        };
        let ((gives, over), (takes, under)) = (left(&self.give), left(&self.take));
        !(over && takes || gives && under)
    }
}

/// `part` of `whole` in hundredths of a percent.
fn share(part: u64, whole: u64) -> u32 {
    let share = u128::from(part) * u128::from(WHOLE) / u128::from(whole.max(1));
    u32::try_from(share).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_management::datanode_manager::DatanodeManager;
    use dfs_proto::v1;

    fn fillings(percents: &[u64]) -> Vec<Filling> {
        let mut datanodes = DatanodeManager::default();
        let mut filling = |(index, percent): (usize, &u64)| {
            let info = v1::DatanodeInfo { uuid: index.to_string(), ..Default::default() };
            let node = datanodes.intern_node(info).expect("few datanodes");
            Filling { node, capacity: 1_000, used: percent * 10, remaining: 1_000 - percent * 10 }
        };
        percents.iter().enumerate().map(&mut filling).collect()
    }

    #[test]
    fn datanodes_give_and_take_what_brings_them_to_the_average() {
        let nodes = fillings(&[80, 55, 50, 45, 20]);
        let all = Utilization::of(nodes.clone());
        assert_eq!((all.average, all.over(1_000), all.under(1_000)), (5_000, 1, 1));
        assert!(!all.is_balanced(1_000) && all.is_balanced(3_000));
        assert_eq!(all.bytes_left(1_000), 200);
        let mut shares = all.shares(1_000);
        let bytes = |side: &BTreeMap<NodeIndex, Share>, at: usize| {
            side.get(&nodes[at].node).map(|share| (share.bytes, share.extreme))
        };
        assert_eq!(bytes(&shares.give, 0), Some((300, true)));
        assert_eq!(bytes(&shares.give, 1), Some((50, false)));
        assert_eq!((bytes(&shares.give, 2), bytes(&shares.take, 2)), (None, None));
        assert_eq!(bytes(&shares.take, 3), Some((50, false)));
        assert_eq!(bytes(&shares.take, 4), Some((300, true)));
        assert!(!shares.is_used_up());
        for node in [0, 4] {
            shares.give.remove(&nodes[node].node);
            shares.take.remove(&nodes[node].node);
        }
        assert!(shares.is_used_up(), "datanodes within the threshold exchange nothing");
    }

    #[test]
    fn an_empty_cluster_and_a_lone_datanode_are_balanced() {
        assert!(Utilization::default().is_balanced(1));
        assert!(Utilization::of(fillings(&[90])).is_balanced(1));
        assert!(Utilization::of(fillings(&[0, 0, 0])).is_balanced(1));
    }
}
