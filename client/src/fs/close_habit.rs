//! Whether new files are closed after their first sync, or go on being written.
//!
//! A small file that is written, synced and closed is best ended with the sync: its one block goes to all members whole, the
//! lease is given back in the same call, and closing it costs nothing more. A file that goes on (a log, a journal) is best left
//! open: its block would have to be reopened. What became of the last new files tells which it will be; a wrong guess costs a call or two, never more.

use std::sync::atomic::{AtomicU32, Ordering};

/// New files in a row that were closed after their first sync, after which the next one is expected to be.
const CLOSED_IN_A_ROW: u32 = 2;

/// What became of the last new files of a session that were synced.
#[derive(Debug, Default)]
pub(super) struct CloseHabit {
    closed_in_a_row: AtomicU32,
}

impl CloseHabit {
    /// The next new file is expected to be closed after its first sync.
    pub(super) fn closes(&self) -> bool {
        self.closed_in_a_row.load(Ordering::Relaxed) >= CLOSED_IN_A_ROW
    }

    /// A new file was closed after its first sync.
    pub(super) fn closed(&self) {
        // A lost count is one more guess.
        let count = self.closed_in_a_row.load(Ordering::Relaxed);
        self.closed_in_a_row.store(count.saturating_add(1).min(CLOSED_IN_A_ROW), Ordering::Relaxed);
    }

    /// A new file was written after its first sync.
    pub(super) fn went_on(&self) {
        self.closed_in_a_row.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_closed_files_make_a_habit_and_one_that_goes_on_ends_it() {
        let habit = CloseHabit::default();
        habit.closed();
        assert!(!habit.closes());
        habit.closed();
        habit.closed();
        assert!(habit.closes());
        habit.went_on();
        habit.closed();
        assert!(!habit.closes());
    }
}
