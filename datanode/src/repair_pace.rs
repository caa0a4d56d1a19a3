//! Paces the copies that the namenode orders, so that repair does not get in the way of clients.
//!
//! A copy is paid for as a whole before it begins; who comes after a large one waits the longer. The rate is what an administrator
//! set, or else follows from what clients do: it halves at each look while they move data, down to a floor that
//! lets repair end in sensible time, and grows while they do not. Only the sender paces: the namenode spreads copies over
//! targets by their load.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::error::DatanodeError;
use crate::sync::lock;
use crate::throttle::Throttle;

/// Rate that is as good as none, in bytes a second: faster than disks and networks.
const CEILING: u64 = 4 << 30;

/// Rate beside busy clients, in bytes a second: about a tenth of a disk. A disk of 10 TB whose replicas are on 30 others
/// is replaced in under 12 hours at this rate.
const FLOOR: u64 = 8 << 20;

/// Clients that move fewer bytes a second are no reason to go slower.
const IDLE: u64 = 1 << 20;

/// Time between two looks at what clients do.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Longest wait between two looks of one who waits for the rate to let him pass.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct State {
    /// Set by an administrator.
    limit: Option<u64>,
    /// Bytes a second that follow from what clients do.
    rate: u64,
    looked: Instant,
    /// Bytes of clients at the last look.
    client_bytes: u64,
}

impl State {
    /// The rate from now on.
    fn look(&mut self, now: Instant, client_bytes: u64) -> u64 {
        let passed = now.saturating_duration_since(self.looked);
        if passed >= LOOK_INTERVAL {
            let moved = client_bytes.saturating_sub(self.client_bytes) as f64 / passed.as_secs_f64();
            self.rate = adapted(self.rate, moved as u64);
            (self.looked, self.client_bytes) = (now, client_bytes);
        }
        self.limit.unwrap_or(self.rate)
    }
}

/// The next rate, when clients move so many bytes a second. It grows by half: from the floor to a disk's speed in a second.
fn adapted(rate: u64, clients: u64) -> u64 {
    if clients > IDLE { (rate / 2).max(FLOOR) } else { (rate + rate / 2).min(CEILING) }
}

/// The pace of all copies of a datanode.
#[derive(Debug)]
pub struct RepairPace {
    state: Mutex<State>,
    throttle: Throttle,
}

impl Default for RepairPace {
    fn default() -> Self {
        let state = State { limit: None, rate: CEILING, looked: Instant::now(), client_bytes: 0 };
        Self { state: Mutex::new(state), throttle: Throttle::new(CEILING) }
    }
}

impl RepairPace {
    /// Sets the rate in bytes a second; 0: it follows from what clients do.
    pub fn set_limit(&self, bytes_per_second: u64) {
        let limit = Some(bytes_per_second).filter(|bytes| *bytes > 0);
        let mut state = lock(&self.state);
        state.limit = limit;
        self.throttle.set_rate(limit.unwrap_or(state.rate));
    }

    /// Waits until a copy of `bytes` may begin. `client_bytes` tells what clients have moved so far.
    pub fn pay(&self, bytes: u64, client_bytes: impl Fn() -> u64) -> Result<(), DatanodeError> {
        loop {
            {
                let mut state = lock(&self.state);
                self.throttle.set_rate(state.look(Instant::now(), client_bytes()));
            }
            if self.throttle.pay_within(bytes, LONGEST_WAIT)? {
                return Ok(());
            }
        }
    }

    /// Refuses everybody from now on: the datanode stops.
    pub fn close(&self) {
        self.throttle.close();
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
            rate = adapted(rate, 50_000_000);
        }
        assert_eq!(rate, FLOOR, "busy clients");
        for _ in 0..10 {
            rate = adapted(rate, 1_000);
        }
        assert!(rate > 300_000_000, "a second of idleness: {rate}");
        for _ in 0..100 {
            rate = adapted(rate, 0);
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
