//! Inode numbers that the namenode has set aside for this session.
//!
//! Pure. They are used in rising order within a range, ranges one after the other, as the namenode wants them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Numbers that are asked for at once: what some tens of milliseconds of creating use.
pub(super) const RESERVED_AT_ONCE: u32 = 1_024;
/// Numbers left below which more are asked for.
const LOW: u64 = RESERVED_AT_ONCE as u64 / 2;
/// Ranges that are kept: fewer than the namenode keeps.
const MAX_RANGES: usize = 3;

/// Time without a question after one was refused.
const REST: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    ranges: VecDeque<(u64, u64)>,
    asking: bool,
    refused: Option<Instant>,
}

impl Numbers {
    /// The next one.
    pub(super) fn take(&mut self) -> Option<u64> {
        let (next, end) = self.ranges.front_mut()?;
        let number = *next;
        *next += 1;
        if *next >= *end {
            self.ranges.pop_front();
        }
        Some(number)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether more are to be asked for now. If so, [`Self::reserved`] or [`Self::refused`] follows.
    pub(super) fn ask(&mut self, at: Instant) -> bool {
        let left: u64 = self.ranges.iter().map(|(next, end)| end - next).sum();
        let rests = self.refused.is_some_and(|refused| at.saturating_duration_since(refused) < REST);
        let ask = !self.asking && !rests && left < LOW && self.ranges.len() < MAX_RANGES;
        self.asking |= ask;
        ask
    }

    /// A range was set aside.
    pub(super) fn reserved(&mut self, first: u64, count: u32) {
        self.asking = false;
        if count > 0 && first > 0 {
            self.ranges.push_back((first, first.saturating_add(u64::from(count))));
        }
    }

    /// Whether a question is under way.
    pub(super) fn is_asked(&self) -> bool {
        self.asking
    }

    /// None were.
    pub(super) fn refused(&mut self, at: Instant) {
        self.asking = false;
        self.refused = Some(at);
    }

    /// The session began anew at the namenode: what was set aside before is lost.
    pub(super) fn forget(&mut self) {
        self.ranges.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_and_are_asked_for_in_time() {
        let (mut numbers, at) = (Numbers::default(), Instant::now());
        assert!(numbers.is_empty() && numbers.take().is_none());
        assert!(numbers.ask(at) && !numbers.ask(at), "one question at a time");
        numbers.reserved(100, RESERVED_AT_ONCE);
        assert!(!numbers.ask(at));
        let taken: Vec<u64> = (0..RESERVED_AT_ONCE).filter_map(|_| numbers.take()).collect();
        assert_eq!((taken[0], taken[1_023]), (100, 1_123));
        assert!(numbers.ask(at));
        numbers.refused(at);
        assert!(!numbers.ask(at) && numbers.ask(at + REST));
        numbers.reserved(5_000, 2);
        numbers.reserved(9_000, 1);
        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [Some(5_000), Some(5_001), Some(9_000)]);
    }
}
