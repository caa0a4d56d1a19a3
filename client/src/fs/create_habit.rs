//! Whether new files are being written, or only made.
//!
//! A file that will be written is best made with its lease and first block: two calls less. A file that stays empty is best made
//! without: nothing is to be given back. What programs did with the last files tells which it will be; a wrong guess
//! costs a call or two, never more.

use std::sync::atomic::{AtomicU32, Ordering};

/// Files in a row that were closed without having been written, after which the next one is expected to be.
const EMPTY_IN_A_ROW: u32 = 2;

/// What became of the last new files of a session.
#[derive(Debug, Default)]
pub(super) struct CreateHabit {
    empty_in_a_row: AtomicU32,
}

impl CreateHabit {
    /// The next new file is expected to be written.
    pub(super) fn writes(&self) -> bool {
        self.empty_in_a_row.load(Ordering::Relaxed) < EMPTY_IN_A_ROW
    }

    /// A new file was written for the first time.
    pub(super) fn written(&self) {
        self.empty_in_a_row.store(0, Ordering::Relaxed);
    }

    /// A new file was closed empty.
    pub(super) fn left_empty(&self) {
        // Saturates far above the limit; a lost count is one more guess.
        let count = self.empty_in_a_row.load(Ordering::Relaxed);
        self.empty_in_a_row.store(count.saturating_add(1).min(EMPTY_IN_A_ROW), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_empty_files_make_a_habit_and_one_write_ends_it() {
        let habit = CreateHabit::default();
        assert!(habit.writes());
        habit.left_empty();
        assert!(habit.writes());
        habit.left_empty();
        habit.left_empty();
        assert!(!habit.writes());
        habit.written();
        assert!(habit.writes());
    }
}
