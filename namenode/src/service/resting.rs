//! What was recalled a moment ago and is left alone for a while: sessions that use it in turns would otherwise hand it to and fro.
//!
//! Pure soft state: time comes as an argument.

use std::collections::{HashMap, VecDeque};

/// How long something that was recalled is delegated to nobody.
pub const REST_MS: u64 = 2_000;

/// What rests, at most; more is delegated again earlier.
const RESTING_MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub struct Resting {
    until: HashMap<u64, u64>,
    order: VecDeque<(u64, u64)>,
}

impl Resting {
    /// It rests from now on.
    pub fn rest(&mut self, now_ms: u64, id: u64) {
        self.wake(now_ms);
        if self.order.len() >= RESTING_MAX
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.until.remove(&oldest);
        }
        let until = now_ms.saturating_add(REST_MS);
        if self.until.insert(id, until).is_none() {
            self.order.push_back((until, id));
        }
    }

    /// Whether it rests.
    pub fn is_resting(&mut self, now_ms: u64, id: u64) -> bool {
        self.wake(now_ms);
        self.until.contains_key(&id)
    }

    fn wake(&mut self, now_ms: u64) {
        while let Some((until, id)) = self.order.front().copied()
            && until <= now_ms
        {
            self.order.pop_front();
            self.until.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_ends_and_the_memory_is_bounded() {
        let mut resting = Resting::default();
        resting.rest(10, 5);
        assert!(resting.is_resting(10 + REST_MS - 1, 5) && !resting.is_resting(10, 6));
        assert!(!resting.is_resting(10 + REST_MS, 5));
        for id in 0..2 * RESTING_MAX as u64 {
            resting.rest(20 + REST_MS, id);
        }
        assert!(resting.until.len() <= RESTING_MAX && resting.order.len() <= RESTING_MAX);
        assert!(!resting.is_resting(20 + REST_MS, 0));
    }
}
