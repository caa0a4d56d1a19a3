//! Paces the copies that the namenode orders, so that repair does not get in the way of clients.
//!
//! A copy is paid for as a whole before it begins; who comes after a large one waits the longer. The rate is what an administrator
//! set, or else follows from what clients do: it halves at each look while they move data, down to a floor that
//! lets repair end in sensible time, and grows while they do not. Only the sender paces: the namenode spreads copies over
//! targets by their load.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::DatanodeError;
use crate::sync::lock;

/// Rate that is as good as none, in bytes a second: faster than disks and networks.
const CEILING: f64 = (4u64 << 30) as f64;

/// Rate beside busy clients, in bytes a second: about a tenth of a disk. A disk of 10 TB whose replicas are on 30 others
/// is replaced in under 12 hours at this rate.
const FLOOR: f64 = (8 << 20) as f64;

/// Clients that move fewer bytes a second are no reason to go slower.
const IDLE: f64 = (1 << 20) as f64;

/// Time between two looks at what clients do.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Growth of the rate at a look that finds clients idle: from the floor to a disk's speed in a second.
const GROWTH: f64 = 1.5;

/// Longest wait between two looks of one who waits for the rate to let him pass.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// Time whose unused bytes are kept: short pauses are made up for, longer ones do not lead to a burst.
const KEPT: f64 = 0.2;

#[derive(Debug)]
struct State {
    /// Set by an administrator.
    limit: Option<u64>,
    /// Bytes a second now.
    rate: f64,
    /// Bytes that may pass now; below 0 after a large copy.
    credit: f64,
    refilled: Instant,
    looked: Instant,
    /// Bytes of clients at the last look.
    client_bytes: u64,
    closed: bool,
}

impl State {
    fn look(&mut self, now: Instant, client_bytes: u64) {
        let passed = now.saturating_duration_since(self.looked);
        if let Some(limit) = self.limit {
            self.rate = limit.max(1) as f64;
        } else if passed >= LOOK_INTERVAL {
            let moved = client_bytes.saturating_sub(self.client_bytes) as f64 / passed.as_secs_f64();
            self.rate = adapted(self.rate, moved);
        }
        if passed >= LOOK_INTERVAL {
            (self.looked, self.client_bytes) = (now, client_bytes);
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.credit = (self.credit + self.rate * passed).min(self.rate * KEPT);
        self.refilled = now;
    }
}

/// The next rate, when clients move so many bytes a second.
fn adapted(rate: f64, clients: f64) -> f64 {
    if clients > IDLE { (rate / 2.0).max(FLOOR) } else { (rate * GROWTH).min(CEILING) }
}

/// The pace of all copies of a datanode.
#[derive(Debug)]
pub struct RepairPace {
    state: Mutex<State>,
    changed: Condvar,
}

impl Default for RepairPace {
    fn default() -> Self {
        let now = Instant::now();
        let state = State {
            limit: None,
            rate: CEILING,
            credit: 0.0,
            refilled: now,
            looked: now,
            client_bytes: 0,
            closed: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }
}

impl RepairPace {
    /// Sets the rate in bytes a second; 0: it follows from what clients do.
    pub fn set_limit(&self, bytes_per_second: u64) {
        let limit = Some(bytes_per_second).filter(|bytes| *bytes > 0);
        let mut state = lock(&self.state);
        if state.limit != limit {
            state.limit = limit;
            self.changed.notify_all();
        }
    }

    /// Waits until a copy of `bytes` may begin. `client_bytes` tells what clients have moved so far.
    pub fn pay(&self, bytes: u64, client_bytes: impl Fn() -> u64) -> Result<(), DatanodeError> {
        let mut state = lock(&self.state);
        loop {
            let now = Instant::now();
            state.look(now, client_bytes());
            state.refill(now);
            if state.closed {
                return Err(DatanodeError::Stopping);
            }
            if state.credit >= 0.0 {
                state.credit -= bytes as f64;
                return Ok(());
            }
            let wait = Duration::from_secs_f64((-state.credit / state.rate).min(LONGEST_WAIT.as_secs_f64()));
            let waited = self.changed.wait_timeout(state, wait.max(Duration::from_millis(1)));
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
    fn the_rate_follows_from_what_clients_do() {
        let mut rate = CEILING;
        for _ in 0..12 {
            rate = adapted(rate, 50e6);
        }
        assert_eq!(rate, FLOOR, "busy clients");
        for _ in 0..10 {
            rate = adapted(rate, 1e3);
        }
        assert!(rate > 300e6, "a second of idleness: {rate}");
        for _ in 0..100 {
            rate = adapted(rate, 0.0);
        }
        assert_eq!(rate, CEILING);
    }

    #[test]
    fn a_limit_holds_and_can_be_changed_while_somebody_waits() {
        let pace = Arc::new(RepairPace::default());
        pace.set_limit(1 << 20);
        let begun = Instant::now();
        for _ in 0..5 {
            pace.pay(64 << 10, || 0).expect("open");
        }
        // The rate before the limit may let the first few pass; three at least are waited for.
        assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
        pace.pay(1 << 30, || 0).expect("open");
        pace.set_limit(1);
        let waiting = Arc::clone(&pace);
        let thread = std::thread::spawn(move || waiting.pay(1, || 0));
        pace.set_limit(8 << 30);
        thread.join().expect("the waiting thread ends").expect("open");
        pace.close();
        assert!(matches!(pace.pay(1, || 0), Err(DatanodeError::Stopping)));
    }
}
