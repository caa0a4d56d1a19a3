//! How fast the replicas of a volume are reread. Pure: times and byte counts come in.
//!
//! A pass over the volume shall end within a period, whatever the size of the disk. The rate follows from what is left to
//! read and the time left for it, so a pass that had to wait catches up, and one that was interrupted by a restart, too.

use std::time::Duration;

/// Least rate in bytes a second: no disk notices it, and small volumes are verified long before they must be.
pub const MIN_RATE: u64 = 1 << 20;

/// A pass aims at this part of the period, in percent: what is written meanwhile has to be read as well.
const AIM_PERCENT: u32 = 90;

/// While the rate that is needed is below this part of the greatest one, the volume's users go first, however long.
const PATIENT_DIVISOR: u64 = 2;

/// The limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Time in which all replicas are read.
    pub period: Duration,
    /// Greatest rate in bytes a second.
    pub max_rate: u64,
}

impl Pace {
    /// Rate, in bytes a second, for what is left of a pass that began `elapsed` ago.
    pub fn rate(&self, bytes_left: u64, elapsed: Duration) -> u64 {
        self.needed(bytes_left, elapsed).clamp(MIN_RATE.min(self.max_rate), self.max_rate)
    }

    /// Whether the pass may wait for the volume's users.
    pub fn may_wait(&self, bytes_left: u64, elapsed: Duration) -> bool {
        self.needed(bytes_left, elapsed) <= self.max_rate / PATIENT_DIVISOR
    }

    /// Whether the pass cannot end in time.
    pub fn is_late(&self, bytes_left: u64, elapsed: Duration) -> bool {
        let left = self.period.saturating_sub(elapsed).as_secs_f64();
        bytes_left as f64 > left * self.max_rate as f64
    }

    /// When the pass after this one begins: nothing is read more often than it must be.
    pub fn next_pass_in(&self, elapsed: Duration) -> Duration {
        self.aim().saturating_sub(elapsed)
    }

    /// Time that a read of `bytes` takes at a rate.
    pub fn time_for(bytes: u64, rate: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)
    }

    fn aim(&self) -> Duration {
        self.period * AIM_PERCENT / 100
    }

    fn needed(&self, bytes_left: u64, elapsed: Duration) -> u64 {
        let left = self.aim().saturating_sub(elapsed).as_secs_f64();
        // Saturates: with no time left, as fast as possible.
        (bytes_left as f64 / left.max(f64::MIN_POSITIVE)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const TB: u64 = 1_000_000_000_000;
    const PACE: Pace = Pace { period: Duration::from_secs(14 * 24 * 3600), max_rate: 64 << 20 };

    #[test]
    fn the_rate_follows_from_what_is_left_and_the_time_left() {
        // (bytes left, days since the pass began, bytes a second)
        let cases = [
            (0, 0, MIN_RATE),
            (TB / 10, 0, MIN_RATE),
            (20 * TB, 0, 18_371_546),
            (10 * TB, 6, 17_536_475),
            (20 * TB, 10, 64 << 20),
            (TB, 13, 64 << 20),
            (1, 400, 64 << 20),
        ];
        for (left, days, expected) in cases {
            assert_eq!(PACE.rate(left, DAY * days), expected, "{left} bytes after {days} days");
        }
    }

    #[test]
    fn users_go_first_until_the_end_of_the_period_is_in_danger() {
        assert!(PACE.may_wait(20 * TB, DAY));
        assert!(!PACE.may_wait(20 * TB, DAY * 9));
        assert!(!PACE.is_late(20 * TB, DAY * 9));
        assert!(PACE.is_late(20 * TB, DAY * 12));
        assert!(PACE.is_late(1, DAY * 15));
    }

    /// A pass simulated in steps of a given clock, with a disk that is busy for some of the time.
    fn days_for(bytes: u64, busy: impl Fn(Duration) -> bool) -> f64 {
        let (mut elapsed, mut left) = (Duration::ZERO, bytes);
        let step = Duration::from_secs(600);
        while left > 0 {
            let waits = busy(elapsed) && PACE.may_wait(left, elapsed);
            let read = if waits { 0 } else { PACE.rate(left, elapsed) * step.as_secs() };
            left = left.saturating_sub(read);
            elapsed += step;
        }
        elapsed.as_secs_f64() / DAY.as_secs_f64()
    }

    #[test]
    fn passes_end_in_time_on_disks_of_any_size_and_load() {
        for terabytes in [1, 4, 20, 40] {
            let idle = days_for(terabytes * TB, |_| false);
            assert!((0.1..=14.0).contains(&idle), "{terabytes} TB, idle: {idle} days");
            let by_day = days_for(terabytes * TB, |at| at.as_secs() % DAY.as_secs() < 16 * 3600);
            assert!(by_day <= 14.0, "{terabytes} TB, 16 hours a day busy: {by_day} days");
            let always = days_for(terabytes * TB, |_| true);
            assert!(always <= 14.0, "{terabytes} TB, always busy: {always} days");
        }
    }

    #[test]
    fn the_next_pass_waits_for_its_time() {
        assert_eq!(PACE.next_pass_in(DAY), DAY * 14 * 9 / 10 - DAY);
        assert_eq!(PACE.next_pass_in(DAY * 20), Duration::ZERO);
        assert_eq!(Pace::time_for(1 << 20, 1 << 21), Duration::from_millis(500));
    }
}
