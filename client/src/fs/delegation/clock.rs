//! The namenode's wall clock, as this session knows it.
//!
//! Pure. It is never ahead of the namenode's, which takes no time from the future: what was told is taken for the time at which it
//! arrived.

use std::time::Instant;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    told_ns: i64,
    arrived: Instant,
}

impl Clock {
    /// The namenode's clock showed `told_ns` before `arrived`.
    pub(super) fn new(told_ns: i64, arrived: Instant) -> Self {
        Self { told_ns, arrived }
    }

    /// What it shows at least.
    pub(super) fn now_ns(&self, at: Instant) -> i64 {
        let passed = at.saturating_duration_since(self.arrived).as_nanos();
        self.told_ns.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX))
    }

    /// It was told again: what makes it later, or much earlier (it was set back), counts.
    pub(super) fn told(&mut self, other: Clock, at: Instant) {
        const SET_BACK_NS: i64 = 1_000_000_000;
        let (known, told) = (self.now_ns(at), other.now_ns(at));
        if told > known || told < known - SET_BACK_NS {
            *self = other;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_latest_that_it_shows_at_least_counts() {
        let at = Instant::now();
        let mut clock = Clock::new(1_000, at);
        assert_eq!(clock.now_ns(at + Duration::from_nanos(5)), 1_005);
        clock.told(Clock::new(900, at), at);
        assert_eq!(clock.now_ns(at), 1_000, "it took longer to arrive");
        clock.told(Clock::new(1_200, at), at);
        assert_eq!(clock.now_ns(at), 1_200);
        clock.told(Clock::new(-5_000_000_000, at), at);
        assert_eq!(clock.now_ns(at), -5_000_000_000, "it was set back");
    }
}
