//! How long datanodes take to answer reads: when a read has waited so long that a second datanode is asked.
//!
//! Shared by all readers of a client. A read is *late* when it takes much longer than is usual for its datanode and its kind; then the
//! same bytes are asked of another one, whoever is first is believed, and a datanode that lost is asked last for a while
//! ([`SlowNodes`](crate::slow_nodes::SlowNodes)). So is one whose reads take several times as long as others'.
//!
//! Invariants: at most [`MAX_NODES`] datanodes are remembered, those used last; second questions are at most a twentieth of all
//! reads, but for [`MAX_SAVED`] saved ones, so that a cluster in which everything is slow is not asked twice for everything.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Datanodes remembered: a client that reads from more of them at a time knows little of each anyway.
const MAX_NODES: usize = 1024;

/// Reads that pay for a second question.
const READS_A_HEDGE: u32 = 20;

/// Second questions that can be saved up: readers at once on a datanode that stops.
const MAX_SAVED: u32 = 16;

/// Before this many reads nothing is usual.
const LEAST_SAMPLES: u32 = 8;

/// Patience while nothing is known: several seeks of a busy disk.
const FIRST_PATIENCE: Duration = Duration::from_millis(100);

/// Least patience: what a busy machine's scheduler may cost.
const LEAST_PATIENCE: Duration = Duration::from_millis(5);

/// Most patience while another datanode can be asked.
const MOST_PATIENCE: Duration = Duration::from_millis(400);

/// Deviations above the mean from which on a read is late.
const LATE_DEVIATIONS: f32 = 4.0;

/// How many times longer than others a datanode's reads take before it is asked after them.
const SLOWER_FACTOR: f32 = 5.0;

/// By how much longer, in microseconds, besides: differences below are not worth a longer way.
const SLOWER_BY_US: f32 = 2_000.0;

/// Largest read of the smallest kind.
const SMALL_BYTES: usize = 64 << 10;

/// Largest read of the middle kind.
const PIECE_BYTES: usize = 256 << 10;

/// Kinds of reads, which take different times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadKind {
    /// A few chunks.
    Small,
    /// A piece.
    Piece,
    /// More.
    Large,
    /// Asking for a range, and its first bytes.
    Opening,
}

impl ReadKind {
    /// Kind of a read of `bytes`.
    pub(crate) const fn of(bytes: usize) -> Self {
        if bytes <= SMALL_BYTES {
            Self::Small
        } else if bytes <= PIECE_BYTES {
            Self::Piece
        } else {
            Self::Large
        }
    }
}

/// Mean and mean deviation in microseconds, both moving.
#[derive(Clone, Copy, Debug, Default)]
struct Usual {
    mean: f32,
    deviation: f32,
    samples: u32,
}

impl Usual {
    fn add(&mut self, sample: f32) {
        if self.samples == 0 {
            (self.mean, self.deviation) = (sample, sample / 2.0);
        } else {
            self.deviation += ((sample - self.mean).abs() - self.deviation) / 4.0;
            self.mean += (sample - self.mean) / 8.0;
        }
        self.samples = self.samples.saturating_add(1);
    }

    fn patience(&self) -> Option<Duration> {
        let known = self.samples >= LEAST_SAMPLES;
        let late = self.mean + LATE_DEVIATIONS * self.deviation;
        known.then(|| Duration::from_micros(late as u64).clamp(LEAST_PATIENCE, MOST_PATIENCE))
    }
}

const KINDS: usize = 4;

#[derive(Default)]
struct Node {
    usual: [Usual; KINDS],
    /// Clock of the last use.
    used: u64,
}

#[derive(Default)]
struct State {
    nodes: HashMap<String, Node>,
    /// All datanodes together.
    all: [Usual; KINDS],
    clock: u64,
    /// Saved second questions, in parts of [`READS_A_HEDGE`].
    saved: u32,
}

/// Second questions of a client's readers, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HedgeCounts {
    /// Asked.
    pub asked: u64,
    /// Of these, those whose answer was used.
    pub won: u64,
    /// Reads that were late and of which nobody else was asked, because reads had not paid for it.
    pub refused: u64,
}

/// The times.
pub(crate) struct ReadTimes {
    state: Mutex<State>,
    asked: AtomicU64,
    won: AtomicU64,
    refused: AtomicU64,
}

impl Default for ReadTimes {
    fn default() -> Self {
        let state = Mutex::new(State { saved: MAX_SAVED * READS_A_HEDGE, ..State::default() });
        Self { state, asked: AtomicU64::new(0), won: AtomicU64::new(0), refused: AtomicU64::new(0) }
    }
}

impl ReadTimes {
    /// How long a read is waited for before another datanode is asked, if there is one.
    pub(crate) fn patience(&self, uuid: &str, kind: ReadKind) -> Duration {
        let state = self.lock();
        let own = state.nodes.get(uuid).and_then(|node| node.usual[kind as usize].patience());
        own.or_else(|| state.all[kind as usize].patience()).unwrap_or(FIRST_PATIENCE)
    }

    /// Remembers how long a read took. True if the datanode takes much longer than others.
    pub(crate) fn note(&self, uuid: &str, kind: ReadKind, took: Duration) -> bool {
        let mut state = self.lock();
        let state = &mut *state;
        state.clock += 1;
        state.saved = (state.saved + 1).min(MAX_SAVED * READS_A_HEDGE);
        let sample = took.as_secs_f32() * 1e6;
        state.all[kind as usize].add(sample);
        if !state.nodes.contains_key(uuid) {
            if state.nodes.len() >= MAX_NODES {
                let oldest = state.nodes.iter().min_by_key(|(_, node)| node.used);
                if let Some(oldest) = oldest.map(|(uuid, _)| uuid.clone()) {
                    state.nodes.remove(&oldest);
                }
            }
            state.nodes.insert(uuid.to_owned(), Node::default());
        }
        let Some(node) = state.nodes.get_mut(uuid) else { return false };
        node.used = state.clock;
        let own = &mut node.usual[kind as usize];
        own.add(sample);
        let own = *own;
        // Comparing takes a look at all: only what could be slow is compared.
        if own.samples < LEAST_SAMPLES || own.mean < SLOWER_BY_US {
            return false;
        }
        let others = state.nodes.iter().filter(|(other, _)| *other != uuid);
        let others = others.map(|(_, node)| node.usual[kind as usize]);
        let best = others.filter(|other| other.samples >= LEAST_SAMPLES).map(|other| other.mean);
        let best = best.fold(f32::INFINITY, f32::min);
        let slower = own.mean > best * SLOWER_FACTOR + SLOWER_BY_US;
        if slower {
            self.forget_in(state, uuid);
        }
        slower
    }

    /// What is usual for a datanode is found out anew: it is left alone now, and may be as good as any other when it is asked again.
    pub(crate) fn forget(&self, uuid: &str) {
        self.forget_in(&mut self.lock(), uuid);
    }

    fn forget_in(&self, state: &mut State, uuid: &str) {
        state.nodes.remove(uuid);
    }

    /// Leave to ask a second datanode for the same bytes.
    pub(crate) fn may_hedge(&self) -> bool {
        let mut state = self.lock();
        match state.saved.checked_sub(READS_A_HEDGE) {
            Some(left) => {
                state.saved = left;
                self.asked.fetch_add(1, Ordering::Relaxed);
                true
            }
            None => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    /// The second question's answer was used.
    pub(crate) fn note_won(&self) {
        self.won.fetch_add(1, Ordering::Relaxed);
    }

    /// Second questions so far.
    pub(crate) fn hedges(&self) -> HedgeCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HedgeCounts { asked: count(&self.asked), won: count(&self.won), refused: count(&self.refused) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: ReadKind = ReadKind::Small;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn patience_follows_what_is_usual_for_the_datanode() {
        let times = ReadTimes::default();
        assert_eq!(times.patience("a", KIND), FIRST_PATIENCE);
        for _ in 0..50 {
            times.note("a", KIND, Duration::from_micros(300));
            times.note("b", KIND, ms(20));
        }
        assert_eq!(times.patience("a", KIND), LEAST_PATIENCE);
        assert_eq!(times.patience("a", ReadKind::Large), FIRST_PATIENCE, "another kind");
        for _ in 0..50 {
            times.note("far", ReadKind::Piece, ms(40));
        }
        let far = times.patience("far", ReadKind::Piece);
        assert!(far >= ms(40) && far < ms(60), "{far:?}");
        for _ in 0..50 {
            times.note("far", ReadKind::Piece, ms(9000));
        }
        assert_eq!(times.patience("far", ReadKind::Piece), MOST_PATIENCE);
    }

    #[test]
    fn a_datanode_that_takes_much_longer_than_others_is_told_of_once() {
        let times = ReadTimes::default();
        for _ in 0..20 {
            assert!(!times.note("a", KIND, Duration::from_micros(300)));
        }
        let told = (0..20).filter(|_| times.note("b", KIND, ms(30))).count();
        assert_eq!(told, 2, "anew after each {LEAST_SAMPLES} reads");
        assert_eq!((0..20).filter(|_| times.note("c", KIND, ms(1))).count(), 0, "not worth it");
    }

    #[test]
    fn second_questions_are_paid_for_by_reads() {
        let times = ReadTimes::default();
        assert_eq!((0..100).filter(|_| times.may_hedge()).count(), MAX_SAVED as usize);
        for n in 0..1000 {
            times.note(&n.to_string(), KIND, ms(1));
            assert!(!times.may_hedge() || (n + 1) % READS_A_HEDGE == 0, "{n}");
        }
        let paid = u64::from(MAX_SAVED) + 1000 / u64::from(READS_A_HEDGE);
        assert_eq!(times.hedges(), HedgeCounts { asked: paid, won: 0, refused: 1100 - paid });
        for n in 0..2 * MAX_NODES {
            times.note(&n.to_string(), KIND, ms(1));
        }
        assert_eq!(times.lock().nodes.len(), MAX_NODES);
    }
}
