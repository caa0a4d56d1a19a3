//! Limits the bytes a second of work that must not get in the way of clients.
//!
//! Many threads share one throttle, and with it its rate, which can be changed at any time: those who wait notice at
//! once. Whoever pays for a piece waits until the pieces before it have had their time; so a piece larger than a
//! second's worth is let through, and the next one waits the longer.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::DatanodeError;
use crate::sync::lock;

/// Time whose unused bytes are kept: short pauses are made up for, longer ones do not lead to a burst.
const KEPT: Duration = Duration::from_millis(200);

/// Longest wait between two looks at the limit; a change of it wakes who waits at once.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct State {
    bytes_per_second: u64,
    /// Bytes that may pass now; below 0 after a large piece.
    credit: f64,
    at: Instant,
    closed: bool,
}

impl State {
    fn refill(&mut self, now: Instant) {
        let rate = self.bytes_per_second as f64;
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.credit = (self.credit + rate * passed).min(rate * KEPT.as_secs_f64());
        self.at = now;
    }
}

/// A limit.
#[derive(Debug)]
pub struct Throttle {
    state: Mutex<State>,
    changed: Condvar,
}

impl Throttle {
    /// With this rate, at least one byte a second.
    pub fn new(bytes_per_second: u64) -> Self {
        let (bytes_per_second, at) = (bytes_per_second.max(1), Instant::now());
        let state = State { bytes_per_second, credit: 0.0, at, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Changes the rate.
    pub fn set_rate(&self, bytes_per_second: u64) {
        let mut state = lock(&self.state);
        if state.bytes_per_second != bytes_per_second.max(1) {
            state.refill(Instant::now());
            state.bytes_per_second = bytes_per_second.max(1);
            self.changed.notify_all();
        }
    }

    /// Waits until `bytes` may pass.
    pub fn pay(&self, bytes: u64) -> Result<(), DatanodeError> {
        while !self.pay_within(bytes, LONGEST_WAIT)? {}
        Ok(())
    }

    /// The same for at most `patience`. False if it was not enough, and nothing was paid.
    pub fn pay_within(&self, bytes: u64, patience: Duration) -> Result<bool, DatanodeError> {
        let until = Instant::now() + patience;
        let mut state = lock(&self.state);
        loop {
            let now = Instant::now();
            state.refill(now);
            if state.closed {
                return Err(DatanodeError::Stopping);
            }
            if state.credit >= 0.0 {
                state.credit -= bytes as f64;
                return Ok(true);
            }
            let left = until.saturating_duration_since(now);
            if left.is_zero() {
                return Ok(false);
            }
            let debt = Duration::from_secs_f64(-state.credit / state.bytes_per_second as f64);
            let waited = self.changed.wait_timeout(state, debt.min(left).max(Duration::from_millis(1)));
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Refuses everybody from now on: the datanode stops.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn bytes_pass_at_the_rate_and_a_new_rate_counts_at_once() {
        let throttle = Throttle::new(1 << 20);
        let begun = Instant::now();
        for _ in 0..5 {
            throttle.pay(64 << 10).expect("open");
        }
        // Four pieces of 1/16 s have to be waited for; the first needs no waiting.
        assert!(begun.elapsed() >= Duration::from_millis(240), "{:?}", begun.elapsed());

        let slow = Arc::new(Throttle::new(1));
        slow.pay(3600).expect("open");
        let waiting = Arc::clone(&slow);
        let thread = std::thread::spawn(move || waiting.pay(1));
        slow.set_rate(1 << 30);
        thread.join().expect("the waiting thread ends").expect("open");
        slow.set_rate(1);
        slow.pay(1 << 40).expect("open");
        slow.close();
        assert!(matches!(slow.pay(1), Err(DatanodeError::Stopping)));
        assert!(begun.elapsed() < Duration::from_secs(60), "nobody waited an hour");
    }
}
