//! Nodes whose changes were answered before they were on the namenode's disk, and what of that was lost with it.
//!
//! Where in the log the changes are, [`crate::told_positions`] knows; this knows what they were about, so that a loss is told to those
//! who ask for the durability of just that: the next sync of each such file or directory fails, once for each writer, as after a failed
//! write-back. Pure but for its lock, which is held for moments and under which no other one is taken.
//!
//! Invariant: a node is in `changed` from before a call about it is sent until a sync that began after its answer has succeeded, or until
//! the changes are found to be lost.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dfs_proto::v1::LogPosition;

/// Nodes remembered, of each kind: some MB. Of more it is only known that there are some.
const NODES_MAX: usize = 1 << 16;

/// So many nodes are worth a sync that nobody has asked for.
const NODES_MANY: usize = NODES_MAX / 2;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts syncs that have begun.
    moment: u64,
    changed: HashMap<u64, Change>,
    /// There was no room for some.
    more_changed: Option<u64>,
    /// Nodes of which changes are lost, and how often that is still to be told.
    lost: HashMap<u64, u32>,
    /// There was no room for some: told once, to whoever is next.
    more_lost: bool,
    /// Something was lost since the whole session was synced.
    session_lost: bool,
    /// A sync for lack of room is under way.
    making_room: bool,
}

/// Changes of a node.
#[derive(Clone, Copy, Debug)]
struct Change {
    /// Of the last one that was answered, if any.
    moment: Option<u64>,
    /// Calls.
    under_way: u32,
}

/// A sync, as it began.
#[derive(Debug)]
pub(super) struct Asked {
    moment: u64,
    /// What the namenode's log has to have.
    pub(super) positions: Vec<LogPosition>,
}

impl Unsynced {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call that changes these nodes is about to be sent. True if there are so many that a sync is due, which the caller begins.
    #[must_use]
    pub(super) fn begin(&self, nodes: impl IntoIterator<Item = u64>) -> bool {
        let mut state = self.state();
        for node in nodes {
            if let Some(change) = state.change(node) {
                change.under_way = change.under_way.saturating_add(1);
            }
        }
        let is_due = state.changed.len() >= NODES_MANY && !state.making_room;
        state.making_room |= is_due;
        is_due
    }

    /// The call was answered, and may have changed the nodes (`changed`), or nothing of it is relied on.
    pub(super) fn end(&self, nodes: impl IntoIterator<Item = u64>, changed: bool) {
        let mut state = self.state();
        let moment = state.moment;
        for node in nodes {
            let Some(change) = state.change(node) else { continue };
            change.under_way = change.under_way.saturating_sub(1);
            if changed {
                change.moment = Some(moment);
            } else if change.under_way == 0 && change.moment.is_none() {
                state.changed.remove(&node);
            }
        }
    }

    /// A call told that it has changed this node, too.
    pub(super) fn changed(&self, node: u64) {
        let mut state = self.state();
        let moment = state.moment;
        if let Some(change) = state.change(node) {
            change.moment = Some(moment);
        }
    }

    /// A sync begins, of everything up to these positions.
    pub(super) fn ask(&self, positions: Vec<LogPosition>) -> Asked {
        let mut state = self.state();
        state.moment += 1;
        Asked { moment: state.moment, positions }
    }

    /// It has succeeded.
    pub(super) fn synced(&self, asked: &Asked) {
        let mut state = self.state();
        state.over(asked.moment);
        if state.changed.capacity() > NODES_MAX && state.changed.len() < NODES_MANY {
            state.changed.shrink_to_fit();
        }
        state.more_changed = state.more_changed.filter(|moment| *moment >= asked.moment);
    }

    /// The sync for lack of room has ended.
    pub(super) fn made_room(&self) {
        self.state().making_room = false;
    }

    /// It found that changes are lost: which nodes they were about, and whether there are others.
    pub(super) fn lost(&self, asked: &Asked) -> (Vec<u64>, bool) {
        let mut state = self.state();
        let is_old = |moment: u64| moment < asked.moment;
        let is_hit = |change: &Change| change.under_way > 0 || change.moment.is_some_and(is_old);
        let hit: Vec<u64> =
            state.changed.iter().filter(|(_, change)| is_hit(change)).map(|(node, _)| *node).collect();
        state.over(asked.moment);
        let more = state.more_changed.take().is_some();
        state.more_lost |= more;
        state.session_lost |= more || !hit.is_empty();
        (hit, more)
    }

    /// The loss of changes of a node is to be told so many times.
    pub(super) fn to_be_told(&self, node: u64, times: u32) {
        let mut state = self.state();
        if state.lost.len() >= NODES_MAX && !state.lost.contains_key(&node) {
            state.more_lost = true;
        } else {
            let left = state.lost.entry(node).or_default();
            *left = times.max(*left);
        }
    }

    /// A sync of this node would succeed. True if its caller is to be told that changes are lost.
    pub(super) fn take_lost(&self, node: u64) -> bool {
        let mut state = self.state();
        match state.lost.get_mut(&node) {
            Some(left) => {
                *left -= 1;
                if *left == 0 {
                    state.lost.remove(&node);
                }
                true
            }
            None => std::mem::take(&mut state.more_lost),
        }
    }

    /// The same for everything that the session has changed.
    pub(super) fn take_session_lost(&self) -> bool {
        std::mem::take(&mut self.state().session_lost)
    }
}

impl State {
    /// Where a change of a node is noted, if there is room.
    fn change(&mut self, node: u64) -> Option<&mut Change> {
        if node == 0 {
            return None;
        }
        if self.changed.len() >= NODES_MAX && !self.changed.contains_key(&node) {
            self.more_changed = Some(self.moment);
            return None;
        }
        Some(self.changed.entry(node).or_insert(Change { moment: None, under_way: 0 }))
    }

    /// What was answered before this moment is on disk, or lost.
    fn over(&mut self, moment: u64) {
        self.changed.retain(|_, change| {
            change.moment = change.moment.filter(|answered| *answered >= moment);
            change.under_way > 0 || change.moment.is_some()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(unsynced: &Unsynced, node: u64) {
        assert!(!unsynced.begin([node]));
        unsynced.end([node], true);
    }

    fn lose(unsynced: &Unsynced) -> Vec<u64> {
        let (mut hit, _) = unsynced.lost(&unsynced.ask(Vec::new()));
        hit.sort_unstable();
        hit.iter().for_each(|node| unsynced.to_be_told(*node, 1));
        hit
    }

    #[test]
    fn what_was_not_synced_is_lost_and_told_once() {
        let unsynced = Unsynced::default();
        change(&unsynced, 1);
        let sync = unsynced.ask(Vec::new());
        change(&unsynced, 2);
        assert!(!unsynced.begin([3]));
        unsynced.synced(&sync);
        assert_eq!(lose(&unsynced), [2, 3], "one was answered after the sync began, one is under way");
        assert!(!unsynced.take_lost(1));
        assert!(unsynced.take_lost(2) && !unsynced.take_lost(2));
        assert!(unsynced.take_session_lost() && !unsynced.take_session_lost());
        unsynced.end([3], true);
        assert_eq!(lose(&unsynced), [3], "its answer came later");
        assert!(lose(&unsynced).is_empty() && !unsynced.take_session_lost() || unsynced.take_lost(3));
    }

    #[test]
    fn a_loss_is_about_what_was_answered_before_it_was_asked_for() {
        let unsynced = Unsynced::default();
        change(&unsynced, 1);
        let asked = unsynced.ask(Vec::new());
        change(&unsynced, 2);
        assert_eq!(unsynced.lost(&asked), (vec![1], false));
        unsynced.synced(&unsynced.ask(Vec::new()));
        assert!(lose(&unsynced).is_empty());
    }

    #[test]
    fn what_changed_nothing_loses_nothing() {
        let unsynced = Unsynced::default();
        assert!(!unsynced.begin([1, 2]));
        unsynced.end([1], false);
        assert_eq!(lose(&unsynced), [2]);
        unsynced.end([2], false);
        change(&unsynced, 3);
        assert!(!unsynced.begin([3]));
        unsynced.end([3], false);
        assert_eq!(lose(&unsynced), [3], "another call did");
    }

    #[test]
    fn each_writer_is_told() {
        let unsynced = Unsynced::default();
        unsynced.to_be_told(7, 2);
        assert!(unsynced.take_lost(7) && unsynced.take_lost(7) && !unsynced.take_lost(7));
    }

    #[test]
    fn nodes_are_bounded_and_none_is_forgotten_in_silence() {
        let unsynced = Unsynced::default();
        let mut due = 0;
        for node in 1..=NODES_MAX as u64 + 1 {
            due += u32::from(unsynced.begin([node]));
            unsynced.end([node], true);
        }
        assert_eq!(due, 1, "one sync at a time");
        let (hit, more) = unsynced.lost(&unsynced.ask(Vec::new()));
        assert_eq!((hit.len(), more), (NODES_MAX, true));
        assert!(unsynced.take_lost(u64::MAX) && !unsynced.take_lost(u64::MAX));
        unsynced.made_room();
        change(&unsynced, 1);
        unsynced.synced(&unsynced.ask(Vec::new()));
        assert!(lose(&unsynced).is_empty());
    }
}
