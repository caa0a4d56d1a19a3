//! Changes that were answered and that the namenode has not carried out yet.
//!
//! Pure. Invariants: changes are carried out in the order in which they came; one that touches a node is queued as long as
//! [`Queue::is_settled`] says no.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// Changes at once, after which callers wait: what a namenode carries out in some tens of milliseconds.
pub(super) const MAX_QUEUED: usize = 4_096;
/// Changes in a batch: what the namenode takes.
pub(super) const MAX_BATCH: usize = 256;
/// Most nodes that one change touches: two directories, and what was moved and replaced.
const MAX_TOUCHED: usize = 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Queue<C> {
    waiting: VecDeque<Queued<C>>,
    /// Last change of each node that one touches.
    touched: HashMap<u64, u64>,
    last: u64,
}

/// A change.
#[derive(Debug)]
pub(super) struct Queued<C> {
    pub(super) number: u64,
    pub(super) change: C,
    /// Nodes; 0: none.
    pub(super) touched: [u64; MAX_TOUCHED],
    pub(super) since: Instant,
}

impl<C> Default for Queue<C> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), touched: HashMap::new(), last: 0 }
    }
}

impl<C> Queue<C> {
    /// Adds a change that touches these nodes, at most four of them.
    pub(super) fn push(&mut self, change: C, nodes: &[u64], since: Instant) {
        self.last += 1;
        let mut touched = [0; MAX_TOUCHED];
        for (to, inode) in touched.iter_mut().zip(nodes) {
            *to = *inode;
            self.touched.insert(*inode, self.last);
        }
        self.waiting.push_back(Queued { number: self.last, change, touched, since });
    }

    /// Number of the last change that was queued.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Since when the first one waits.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiting.front().map(|first| first.since)
    }

    /// Whether no queued change touches the node.
    pub(super) fn is_settled(&self, inode: u64) -> bool {
        !self.touched.contains_key(&inode)
    }

    /// Whether everything up to this number was carried out.
    pub(super) fn is_done(&self, number: u64) -> bool {
        self.waiting.front().is_none_or(|first| first.number > number)
    }

    /// The first changes, as many as go into one batch.
    pub(super) fn batch(&self) -> impl Iterator<Item = &Queued<C>> {
        self.waiting.iter().take(MAX_BATCH)
    }

    /// The first changes were tried; those that are not `done` stay first. Answers the others, each with the nodes of it that no later
    /// change touches.
    pub(super) fn tried(&mut self, done: &[bool]) -> Vec<(Queued<C>, [u64; MAX_TOUCHED])> {
        let tried: Vec<Queued<C>> = self.waiting.drain(..done.len().min(self.waiting.len())).collect();
        let (mut over, mut again) = (Vec::with_capacity(tried.len()), Vec::new());
        for (queued, done) in tried.into_iter().zip(done) {
            if !done {
                again.push(queued);
                continue;
            }
            let mut settled = [0; MAX_TOUCHED];
            for (to, inode) in settled.iter_mut().zip(queued.touched) {
                if self.touched.get(&inode) == Some(&queued.number) {
                    self.touched.remove(&inode);
                    *to = inode;
                }
            }
            over.push((queued, settled));
        }
        for queued in again.into_iter().rev() {
            self.waiting.push_front(queued);
        }
        if self.waiting.is_empty() {
            self.touched.shrink_to(MAX_QUEUED);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(changes: &[&[u64]]) -> Queue<usize> {
        let mut queue = Queue::default();
        for (at, nodes) in changes.iter().enumerate() {
            queue.push(at, nodes, Instant::now());
        }
        queue
    }

    #[test]
    fn a_node_is_settled_by_its_last_change() {
        let mut queue = queue(&[&[1, 5], &[1, 6], &[2, 5]]);
        assert!(!queue.is_settled(1) && !queue.is_settled(5) && queue.is_settled(7));
        let over = queue.tried(&[true]);
        assert_eq!(over[0].1, [0; 4], "both are touched again later");
        let over = queue.tried(&[true]);
        assert_eq!(over[0].1, [1, 6, 0, 0]);
        assert!(queue.is_settled(1) && !queue.is_settled(5));
        assert!(queue.is_done(2) && !queue.is_done(3));
        assert_eq!(queue.tried(&[true])[0].1, [2, 5, 0, 0]);
        assert!(queue.is_empty() && queue.is_done(3) && queue.last() == 3);
    }

    #[test]
    fn what_was_not_done_is_first_again_in_its_order() {
        let mut queue = queue(&[&[1], &[2], &[3], &[4]]);
        let over = queue.tried(&[true, false, false]);
        assert_eq!(over.iter().map(|(queued, _)| queued.change).collect::<Vec<_>>(), [0]);
        assert_eq!(queue.batch().map(|queued| queued.change).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(queue.is_done(1) && !queue.is_done(2) && !queue.is_settled(2));
    }

    #[test]
    fn batches_are_bounded() {
        let nodes: Vec<[u64; 1]> = (1..=1_000).map(|inode| [inode]).collect();
        let nodes: Vec<&[u64]> = nodes.iter().map(|inode| &inode[..]).collect();
        assert_eq!(queue(&nodes).batch().count(), MAX_BATCH);
    }
}
