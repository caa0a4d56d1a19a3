//! How far the scrub of a volume is: told to the namenode with heartbeats, and on the metrics page.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// All of a pass, in thousandths.
const WHOLE: u64 = 1_000;

/// Counts of one volume. Written by its scrub thread, read by anybody.
#[derive(Debug, Default)]
pub struct ScrubCounts {
    ended_s: AtomicU64,
    done_milli: AtomicU32,
    replicas: AtomicU64,
    bytes: AtomicU64,
    bad: AtomicU64,
}

/// Counts at a moment. All but the first two are since the datanode started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubFigures {
    /// When all replicas had last been verified, in seconds since the epoch; 0: not yet.
    pub ended_s: u64,
    /// Share of the pass in hand that is verified, in thousandths; 1,000 between two passes.
    pub done_milli: u32,
    /// Replicas verified.
    pub replicas: u64,
    /// Bytes of data read for that.
    pub bytes: u64,
    /// Bad replicas found.
    pub bad: u64,
}

impl ScrubCounts {
    /// Bytes are read.
    pub fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A replica was verified.
    pub fn add_replica(&self, bad: bool) {
        self.replicas.fetch_add(1, Ordering::Relaxed);
        self.bad.fetch_add(u64::from(bad), Ordering::Relaxed);
    }

    /// The pass in hand has come so far.
    pub fn set_progress(&self, work_done: u64, work: u64) {
        // What is written meanwhile makes a pass longer; it is never said to be over before it is.
        let done = u128::from(work_done) * u128::from(WHOLE) / u128::from(work.max(1));
        let done = u32::try_from(done).unwrap_or(u32::MAX).min(WHOLE as u32 - 1);
        self.done_milli.store(done, Ordering::Relaxed);
    }

    /// A pass ended at that time, in seconds since the epoch; 0: none has.
    pub fn set_ended(&self, at_s: u64) {
        self.ended_s.store(at_s, Ordering::Relaxed);
        let done = if at_s == 0 { 0 } else { WHOLE as u32 };
        self.done_milli.store(done, Ordering::Relaxed);
    }

    /// Counts now.
    pub fn figures(&self) -> ScrubFigures {
        ScrubFigures {
            ended_s: self.ended_s.load(Ordering::Relaxed),
            done_milli: self.done_milli.load(Ordering::Relaxed),
            replicas: self.replicas.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            bad: self.bad.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_over_when_it_has_ended_and_not_before() {
        let counts = ScrubCounts::default();
        assert_eq!(counts.figures(), ScrubFigures::default());
        counts.set_progress(50, 200);
        counts.add_bytes(4_196);
        counts.add_replica(false);
        counts.add_replica(true);
        let expected = ScrubFigures { done_milli: 250, replicas: 2, bytes: 4_196, bad: 1, ended_s: 0 };
        assert_eq!(counts.figures(), expected);
        counts.set_progress(300, 200);
        assert_eq!(counts.figures().done_milli, 999);
        counts.set_progress(1, 0);
        assert_eq!(counts.figures().done_milli, 999);
        counts.set_ended(77);
        assert_eq!((counts.figures().done_milli, counts.figures().ended_s), (1_000, 77));
    }
}
