//! Which directories are worth being asked for: those that the session changes a lot, or reads a lot.
//!
//! Pure. A directory that was refused, or that somebody else wanted back, rests for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::fs::Caller;

/// Changes within [`WINDOW`] after which a directory is asked for: a grant costs a listing, which some changes pay for.
const CHANGES: u32 = 3;
/// Look-ups and opens within [`WINDOW`] after which it is asked for, for reading: others wait for it when they change something there.
const READS: u32 = 4;
/// See [`CHANGES`] and [`READS`].
const WINDOW: Duration = Duration::from_secs(1);
/// Time for which a directory that was refused or recalled is not asked for again: longer than the namenode would refuse it in any case.
const REST: Duration = Duration::from_secs(5);
/// Directories that are remembered; beyond that those that no longer count are forgotten, or all.
const MAX_REMEMBERED: usize = 1_024;

/// See the module.
#[derive(Debug)]
pub(super) struct Habit {
    /// What makes a habit.
    enough: u32,
    counts: HashMap<u64, Count>,
    resting: HashMap<u64, Instant>,
}

#[derive(Debug)]
struct Count {
    caller: Caller,
    since: Instant,
    times: u32,
}

impl Habit {
    /// Of changing.
    pub(super) fn of_changes() -> Self {
        Self { enough: CHANGES, counts: HashMap::new(), resting: HashMap::new() }
    }

    /// Of reading.
    pub(super) fn of_reads() -> Self {
        Self { enough: READS, ..Self::of_changes() }
    }

    /// `caller` did it once more in `dir`. True if that should be asked for.
    pub(super) fn again(&mut self, caller: &Caller, dir: u64, at: Instant) -> bool {
        if self.is_resting(dir, at) {
            return false;
        }
        if self.counts.len() >= MAX_REMEMBERED && !self.counts.contains_key(&dir) {
            self.counts.retain(|_, count| at.saturating_duration_since(count.since) <= WINDOW);
            if self.counts.len() >= MAX_REMEMBERED {
                self.counts.clear();
            }
        }
        let fresh = || Count { caller: caller.clone(), since: at, times: 0 };
        let count = self.counts.entry(dir).or_insert_with(fresh);
        if at.saturating_duration_since(count.since) > WINDOW || count.caller != *caller {
            *count = fresh();
        }
        count.times += 1;
        if count.times < self.enough {
            return false;
        }
        self.counts.remove(&dir);
        true
    }

    /// Whether a directory is not to be asked for now.
    pub(super) fn is_resting(&self, dir: u64, at: Instant) -> bool {
        self.resting.get(&dir).is_some_and(|until| at < *until)
    }

    /// A directory was refused or recalled.
    pub(super) fn rest(&mut self, dir: u64, at: Instant) {
        if self.resting.len() >= MAX_REMEMBERED {
            self.resting.retain(|_, until| at < *until);
            if self.resting.len() >= MAX_REMEMBERED {
                self.resting.clear();
            }
        }
        self.resting.insert(dir, at + REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_changes_in_a_second_by_one_caller_make_a_habit() {
        let (mut habit, at) = (Habit::of_changes(), Instant::now());
        let (anne, bob) = (Caller::named("anne"), Caller::named("bob"));
        assert!(!habit.again(&anne, 1, at));
        assert!(!habit.again(&anne, 2, at));
        assert!(!habit.again(&anne, 1, at));
        assert!(habit.again(&anne, 1, at));
        assert!(!habit.again(&anne, 1, at), "counted anew");
        assert!(!habit.again(&bob, 1, at));
        assert!(!habit.again(&bob, 1, at + WINDOW / 2));
        assert!(!habit.again(&bob, 1, at + WINDOW * 2), "too slow");
    }

    #[test]
    fn who_was_refused_rests() {
        let (mut habit, at) = (Habit::of_changes(), Instant::now());
        let anne = Caller::named("anne");
        habit.rest(1, at);
        assert!((0..9).all(|_| !habit.again(&anne, 1, at + REST / 2)));
        assert!(!habit.is_resting(1, at + REST));
        assert_eq!((0..3).filter(|_| habit.again(&anne, 1, at + REST)).count(), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut habit, at) = (Habit::of_changes(), Instant::now());
        for dir in 0..10 * MAX_REMEMBERED as u64 {
            habit.again(&Caller::named("anne"), dir, at);
            habit.rest(dir + (1 << 40), at);
        }
        assert!(habit.counts.len() <= MAX_REMEMBERED && habit.resting.len() <= MAX_REMEMBERED);
    }
}
