//! Which changes were answered by namenodes before they were on disk, and are not known to be there yet.
//!
//! A position in the log stands for everything before it, so one is kept for each leader that answered: the newest. A leader that has
//! lost its place, or its disk, may have taken with it what it answered; the next one is asked about each of them. Called from any
//! task.

use std::sync::{Mutex, MutexGuard, PoisonError};

use dfs_proto::v1::LogPosition;

/// Leaders that are remembered. A session asks about what it was told when it finds that the namenode was started anew, so that more than
/// two are rare. What still more have answered counts as lost.
const LEADERS_MAX: usize = 64;

/// Where no log has an entry: terms begin with 1.
const NOWHERE: LogPosition = LogPosition { term: 0, node_id: 0, index: u64::MAX };

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct ToldPositions {
    /// In the order of their terms; one for each leader.
    newest: Mutex<Vec<LogPosition>>,
}

impl ToldPositions {
    fn newest(&self) -> MutexGuard<'_, Vec<LogPosition>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change was answered that is there.
    pub(crate) fn note(&self, position: LogPosition) {
        let mut newest = self.newest();
        // Nearly always the last one.
        match newest.iter_mut().rev().find(|known| leader(known) == leader(&position)) {
            Some(known) => known.index = known.index.max(position.index),
            None => {
                let at = newest.partition_point(|known| leader(known) < leader(&position));
                newest.insert(at, position);
                if newest.len() > LEADERS_MAX {
                    newest[0] = NOWHERE;
                    newest.remove(1);
                }
            }
        }
    }

    /// What a call that makes everything durable has to ask for.
    pub(crate) fn all(&self) -> Vec<LogPosition> {
        self.newest().clone()
    }

    /// These, which [`Self::all`] has answered, are on disk, or lost: they are not asked for again. False if none of them was
    /// asked for any more.
    pub(crate) fn settled(&self, positions: &[LogPosition]) -> bool {
        let is_over = |known: &LogPosition| {
            positions.iter().any(|over| leader(over) == leader(known) && over.index >= known.index)
        };
        let mut newest = self.newest();
        let mut found = false;
        newest.retain(|known| {
            found |= positions.iter().any(|over| leader(over) == leader(known));
            !is_over(known)
        });
        found
    }
}

const fn leader(position: &LogPosition) -> (u64, u64) {
    (position.term, position.node_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, index: u64) -> LogPosition {
        LogPosition { term, node_id: 1, index }
    }

    #[test]
    fn the_newest_of_each_leader_is_asked_for_until_it_is_settled() {
        let told = ToldPositions::default();
        for position in [at(1, 5), at(1, 9), at(3, 4), at(1, 7), at(2, 6)] {
            told.note(position);
        }
        let asked = told.all();
        assert_eq!(asked, [at(1, 9), at(2, 6), at(3, 4)]);
        told.note(at(3, 8));
        assert!(told.settled(&asked));
        assert_eq!(told.all(), [at(3, 8)], "what was told meanwhile is not settled");
        assert!(told.settled(&told.all()) && !told.settled(&asked));
        assert!(told.all().is_empty());
    }

    #[test]
    fn leaders_are_bounded() {
        let told = ToldPositions::default();
        (1..1_000).for_each(|term| told.note(at(term, term)));
        let kept = told.all();
        assert_eq!(kept.len(), LEADERS_MAX);
        assert_eq!((kept.first(), kept.last()), (Some(&NOWHERE), Some(&at(999, 999))));
        assert!(told.settled(&kept));
        assert!(told.all().is_empty());
    }
}
