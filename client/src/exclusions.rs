//! Datanodes that a writer would rather not use again, because they failed.
//!
//! A preference, not a ban: a datanode that was restarted is as good as any other. When the namenode knows too few others, those
//! whose hold is over are forgiven and may be chosen again; one that fails again is held twice as long. The first hold of a
//! datanode also ends when another one fails: in a rolling restart each is back before the next goes.
//! Without that need an exclusion ends after [`LIFETIME`]. Time comes with each call. Invariants: at most
//! [`MAX_EXCLUDED`] entries, one a datanode, the latest failure last.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Datanodes remembered; the one that failed the longest ago is forgotten first. More than one file meets in practice.
const MAX_EXCLUDED: usize = 64;

/// How long a datanode that failed once is left alone: less than a restart takes.
const FIRST_HOLD: Duration = Duration::from_millis(500);

/// Longest hold: a dead datanode that the namenode still offers costs a writer one attempt a minute.
const MAX_HOLD: Duration = Duration::from_secs(60);

/// Time after its last failure when a datanode is as good as any other (HDFS's number).
const LIFETIME: Duration = Duration::from_secs(600);

struct Exclusion {
    uuid: String,
    failed: Instant,
    hold: Duration,
    /// May be chosen again; remembered because of its hold.
    forgiven: bool,
}

/// The datanodes that failed one writer.
#[derive(Default)]
pub(crate) struct Exclusions {
    entries: VecDeque<Exclusion>,
}

impl Exclusions {
    /// Remembers a failure.
    pub(crate) fn add(&mut self, uuid: &str, now: Instant) {
        let known = self.entries.iter().position(|entry| entry.uuid == uuid);
        let hold = match known.and_then(|index| self.entries.remove(index)) {
            Some(before) if before.forgiven => before.hold.max(FIRST_HOLD).saturating_mul(2).min(MAX_HOLD),
            Some(before) => before.hold,
            None => FIRST_HOLD,
        };
        for other in self.entries.iter_mut().filter(|other| other.hold == FIRST_HOLD) {
            other.hold = Duration::ZERO;
        }
        if self.entries.len() == MAX_EXCLUDED {
            self.entries.pop_front();
        }
        self.entries.push_back(Exclusion { uuid: uuid.to_owned(), failed: now, hold, forgiven: false });
    }

    /// The datanodes to avoid.
    pub(crate) fn uuids(&mut self, now: Instant) -> Vec<String> {
        self.entries.retain(|entry| now.saturating_duration_since(entry.failed) < LIFETIME);
        self.entries.iter().filter(|entry| !entry.forgiven).map(|entry| entry.uuid.clone()).collect()
    }

    /// Gives those another chance whose hold is over. False if there are none.
    pub(crate) fn forgive(&mut self, now: Instant) -> bool {
        self.forgive_if(|entry| now.saturating_duration_since(entry.failed) >= entry.hold)
    }

    /// Gives all another chance. False if there are none.
    pub(crate) fn forgive_all(&mut self) -> bool {
        self.forgive_if(|_| true)
    }

    fn forgive_if(&mut self, may_return: impl Fn(&Exclusion) -> bool) -> bool {
        let mut any = false;
        for entry in self.entries.iter_mut().filter(|entry| !entry.forgiven && may_return(entry)) {
            entry.forgiven = true;
            any = true;
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datanode_comes_back_after_its_hold_when_it_is_needed() {
        let (mut exclusions, start) = (Exclusions::default(), Instant::now());
        exclusions.add("a", start);
        assert!(!exclusions.forgive(start), "still held");
        assert!(!exclusions.forgive(start + FIRST_HOLD - Duration::from_millis(1)), "still held");
        exclusions.add("b", start + FIRST_HOLD);
        assert_eq!(exclusions.uuids(start + FIRST_HOLD), ["a", "b"]);
        assert!(exclusions.forgive(start + FIRST_HOLD));
        assert_eq!(exclusions.uuids(start + FIRST_HOLD), ["b"]);
        assert!(!exclusions.forgive(start + FIRST_HOLD), "nothing new");
        assert!(exclusions.forgive_all() && !exclusions.forgive_all());
        assert!(exclusions.uuids(start + FIRST_HOLD).is_empty());
    }

    #[test]
    fn another_failure_ends_a_first_hold_and_no_other() {
        let (mut exclusions, now) = (Exclusions::default(), Instant::now());
        exclusions.add("a", now);
        exclusions.add("b", now);
        assert!(exclusions.forgive(now));
        assert_eq!(exclusions.uuids(now), ["b"]);
        exclusions.add("a", now);
        exclusions.add("c", now);
        assert!(exclusions.forgive(now));
        assert_eq!(exclusions.uuids(now), ["a", "c"], "a relapsed");
        assert!(exclusions.forgive(now + FIRST_HOLD * 2));
        assert!(exclusions.uuids(now + FIRST_HOLD * 2).is_empty());
    }

    #[test]
    fn each_relapse_doubles_the_hold_up_to_the_longest() {
        let (mut exclusions, mut now) = (Exclusions::default(), Instant::now());
        let mut hold = FIRST_HOLD;
        exclusions.add("a", now);
        for _ in 0..12 {
            // A second failure before it was used again says nothing new.
            exclusions.add("a", now);
            assert!(!exclusions.forgive(now + hold - Duration::from_millis(1)));
            now += hold;
            assert!(exclusions.forgive(now));
            exclusions.add("a", now);
            hold = (hold * 2).min(MAX_HOLD);
        }
        assert_eq!(hold, MAX_HOLD);
    }

    #[test]
    fn exclusions_end_and_are_bounded() {
        let (mut exclusions, start) = (Exclusions::default(), Instant::now());
        for number in 0..=MAX_EXCLUDED {
            exclusions.add(&number.to_string(), start);
        }
        let known = exclusions.uuids(start);
        assert_eq!((known.len(), known[0].as_str()), (MAX_EXCLUDED, "1"));
        exclusions.add("1", start + LIFETIME);
        assert_eq!(exclusions.uuids(start + LIFETIME), ["1"]);
    }
}
