//! Medians and latency percentiles.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest latency told apart; longer ones count as this.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;

/// Decimal digits kept of a latency.
const LATENCY_DIGITS: u8 = 3;

/// The middle value, the mean of the two middle ones for an even number; `None` for no values.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The median of values of which none may be missing: one unknown makes the result unknown.
pub fn median_if_known(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    values.into_iter().collect::<Option<Vec<f64>>>().and_then(median)
}

/// Latencies of many calls, in bounded memory.
#[derive(Clone)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

impl Latencies {
    /// No latency yet.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { histogram: Histogram::new_with_bounds(1, LATENCY_MAX_NS, LATENCY_DIGITS)? })
    }

    /// Adds one call.
    pub fn record(&mut self, latency: Duration) {
        self.histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds all calls of `other`.
    pub fn merge(&mut self, other: &Self) -> anyhow::Result<()> {
        Ok(self.histogram.add(&other.histogram)?)
    }

    /// Microseconds within which `percent` of the calls were answered; `None` if there were none.
    pub fn percentile_us(&self, percent: f64) -> Option<f64> {
        (!self.histogram.is_empty()).then(|| self.histogram.value_at_percentile(percent) as f64 / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([4.0]), Some(4.0));
        assert_eq!(median([9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median([9.0, 1.0, 5.0, 7.0]), Some(6.0));
        assert_eq!(median_if_known([Some(1.0), None, Some(2.0)]), None);
        assert_eq!(median_if_known([Some(1.0), Some(3.0)]), Some(2.0));
    }

    #[test]
    fn percentiles_of_merged_callers() {
        let (mut all, mut other) = (Latencies::new().expect("bounds"), Latencies::new().expect("bounds"));
        assert_eq!(all.percentile_us(50.0), None);
        for i in 1..=500u64 {
            all.record(Duration::from_micros(i));
            other.record(Duration::from_micros(500 + i));
        }
        all.merge(&other).expect("same bounds");
        for (percent, expected) in [(50.0, 500.0), (99.0, 990.0), (100.0, 1000.0)] {
            let us = all.percentile_us(percent).expect("values");
            assert!((us - expected).abs() <= expected / 500.0, "p{percent}: {us}");
        }
    }

    #[test]
    fn an_endless_call_counts_as_the_longest() {
        let mut latencies = Latencies::new().expect("bounds");
        latencies.record(Duration::MAX);
        assert!(latencies.percentile_us(99.0).expect("a value") >= LATENCY_MAX_NS as f64 / 1e3);
    }
}
