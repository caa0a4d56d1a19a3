//! How fast copies arrive.

/// Seconds that the rates are the mean of.
const WINDOW_S: usize = 10;

/// Counts copies.
#[derive(Clone, Debug, Default)]
pub(super) struct RepairMeter {
    /// Copies and bytes since the start.
    blocks: u64,
    bytes: u64,
    /// Those of the last seconds, by second modulo the window.
    recent: [(u64, u64); WINDOW_S],
    /// Second that was counted last.
    second: u64,
}

impl RepairMeter {
    /// A copy has arrived.
    pub(super) fn add(&mut self, now: u64, bytes: u64) {
        self.forget(now);
        self.blocks += 1;
        self.bytes += bytes;
        let slot = &mut self.recent[(now / 1_000) as usize % WINDOW_S];
        *slot = (slot.0 + 1, slot.1 + bytes);
    }

    /// Copies and bytes since the start.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.blocks, self.bytes)
    }

    /// Copies (in thousandths) and bytes a second, over the last seconds.
    pub(super) fn rates(&self, now: u64) -> (u64, u64) {
        let mut meter = self.clone();
        meter.forget(now);
        let (blocks, bytes) = meter.recent.iter().fold((0, 0), |sum, slot| (sum.0 + slot.0, sum.1 + slot.1));
        (blocks * 1_000 / WINDOW_S as u64, bytes / WINDOW_S as u64)
    }

    /// Empties the slots of seconds that have passed.
    fn forget(&mut self, now: u64) {
        let second = now / 1_000;
        let passed = second.saturating_sub(self.second).min(WINDOW_S as u64);
        for back in 0..passed {
            self.recent[(second - back) as usize % WINDOW_S] = (0, 0);
        }
        self.second = self.second.max(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_the_mean_of_the_last_seconds() {
        let mut meter = RepairMeter::default();
        for second in 100..105 {
            meter.add(second * 1_000, 50);
            meter.add(second * 1_000 + 999, 150);
        }
        assert_eq!(meter.totals(), (10, 1_000));
        assert_eq!(meter.rates(104_999), (1_000, 100));
        assert_eq!(meter.rates(112_000), (400, 40), "the first three seconds are forgotten");
        assert_eq!(meter.rates(500_000), (0, 0));
    }
}
