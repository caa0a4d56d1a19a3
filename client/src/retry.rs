//! When and how often a call is sent again.
//!
//! Only what [`ErrorKind::is_retriable`](dfs_proto::ErrorKind::is_retriable) names is retried: the delay doubles from
//! [`RetryPolicy::first_delay`] to [`RetryPolicy::max_delay`] with jitter, until [`RetryPolicy::deadline`] has passed.
//! A retried call carries the same call id, so the namenode's retry cache makes it act once.

use std::time::{Duration, Instant};

/// Bounds of retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Delay before the first retry. Default 20 ms.
    pub first_delay: Duration,
    /// Longest delay. Default 2 s.
    pub max_delay: Duration,
    /// Time after which a call fails for good. Default 60 s.
    pub deadline: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first_delay: Duration::from_millis(20),
            max_delay: Duration::from_secs(2),
            deadline: Duration::from_secs(60),
        }
    }
}

/// The course of one call's retries.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: RetryPolicy,
    ends: Instant,
    delay: Duration,
    random: u64,
}

impl Backoff {
    /// Starts the clock. `seed` spreads the delays of different calls.
    pub(crate) fn start(policy: RetryPolicy, now: Instant, seed: u64) -> Self {
        Self { policy, ends: now + policy.deadline, delay: policy.first_delay, random: seed | 1 }
    }

    /// Time until the deadline.
    pub(crate) fn remaining(&self, now: Instant) -> Duration {
        self.ends.saturating_duration_since(now)
    }

    /// How long to wait before the next attempt: half of the present delay and a random part of the other
    /// half. `None` if the deadline passes before.
    pub(crate) fn next_delay(&mut self, now: Instant) -> Option<Duration> {
        // xorshift64: spreading retries needs no better randomness.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let share = f64::from((self.random >> 32) as u32) / f64::from(u32::MAX);
        let delay = self.delay.mul_f64(0.5 + share / 2.0);
        self.delay = (self.delay * 2).min(self.policy.max_delay);
        (now + delay < self.ends).then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_with_jitter_and_end_at_the_deadline() {
        let policy = RetryPolicy {
            first_delay: Duration::from_millis(10),
            max_delay: Duration::from_millis(80),
            deadline: Duration::from_secs(1),
        };
        let start = Instant::now();
        let mut backoff = Backoff::start(policy, start, 42);
        for upper_ms in [10, 20, 40, 80, 80] {
            let delay = backoff.next_delay(start).expect("before the deadline");
            let upper = Duration::from_millis(upper_ms);
            assert!(delay >= upper / 2 && delay <= upper, "{delay:?} of {upper:?}");
        }
        assert_eq!(backoff.next_delay(start + Duration::from_millis(999)), None);
        assert_eq!(backoff.remaining(start + Duration::from_secs(2)), Duration::ZERO);
    }
}
