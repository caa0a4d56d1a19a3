//! Datanodes that were silent for too long, or slower than others, lately.
//!
//! Shared by all readers and writers of a client, so that one stopped datanode costs its timeout once and not once a
//! file. It is a preference, not an exclusion: who has no other choice still asks a slow datanode. One that was silent counts as slow for
//! [`SLOW_FOR`]; one that was slower, for a moment at first, and twice as long each time when it is slow again soon after. Invariant: at
//! most [`MAX_SLOW_NODES`] are remembered.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a datanode counts as slow: long enough that asking again costs little, short enough that one that was
/// only busy is soon used again.
const SLOW_FOR: Duration = Duration::from_secs(60);

/// The same for one that was slower than others once.
const FIRST_SLOWER_FOR: Duration = Duration::from_secs(1);

/// Datanodes remembered; the one noticed first is forgotten first. With more than this the cluster is the problem.
const MAX_SLOW_NODES: usize = 256;

/// What was noticed of a datanode.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    /// It counts as slow for this long, and is remembered for twice as long.
    hold: Duration,
    /// It did not answer at all.
    silent: bool,
}

impl Mark {
    fn holds(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < self.hold
    }
}

/// The datanodes, by uuid.
#[derive(Debug, Default)]
pub(crate) struct SlowNodes {
    marks: Mutex<HashMap<String, Mark>>,
    /// The last datanode to which our own link was slow, and when.
    first_hop: Mutex<Option<(String, Instant)>>,
}

impl SlowNodes {
    /// Remembers a datanode as silent.
    pub(crate) fn note(&self, uuid: &str) {
        self.note_at(uuid, Mark { at: Instant::now(), hold: SLOW_FOR, silent: true });
    }

    /// Remembers a datanode as slower than others.
    pub(crate) fn note_slower(&self, uuid: &str) {
        self.note_slower_at(uuid, Instant::now());
    }

    fn note_slower_at(&self, uuid: &str, now: Instant) {
        let before = self.lock().get(uuid).copied();
        let hold = match before {
            // It is left alone already: this is an older read's experience.
            Some(before) if before.holds(now) => return,
            Some(before) if now.saturating_duration_since(before.at) < before.hold * 2 => {
                (before.hold * 2).min(SLOW_FOR)
            }
            Some(_) | None => FIRST_SLOWER_FOR,
        };
        self.note_at(uuid, Mark { at: now, hold, silent: false });
    }

    fn note_at(&self, uuid: &str, mark: Mark) {
        let mut marks = self.lock();
        if marks.len() >= MAX_SLOW_NODES && !marks.contains_key(uuid) {
            let oldest = marks.iter().min_by_key(|(_, mark)| mark.at).map(|(uuid, _)| uuid.clone());
            if let Some(oldest) = oldest {
                marks.remove(&oldest);
            }
        }
        marks.insert(uuid.to_owned(), mark);
    }

    /// Asked when the link from here to a datanode crawls: true if another one's did lately, since then it is this machine's.
    pub(crate) fn is_our_link(&self, uuid: &str) -> bool {
        let now = Instant::now();
        let mut first_hop = self.first_hop.lock().unwrap_or_else(PoisonError::into_inner);
        let before = first_hop.replace((uuid.to_owned(), now));
        before.is_some_and(|(other, at)| other != uuid && now.saturating_duration_since(at) < SLOW_FOR)
    }

    /// Whether a datanode was silent or slow lately.
    pub(crate) fn contains(&self, uuid: &str) -> bool {
        self.mark(uuid, Instant::now()).is_some()
    }

    /// Whether a datanode was silent lately.
    pub(crate) fn is_silent(&self, uuid: &str) -> bool {
        self.mark(uuid, Instant::now()).is_some_and(|mark| mark.silent)
    }

    fn mark(&self, uuid: &str, now: Instant) -> Option<Mark> {
        let mut marks = self.lock();
        let mark = *marks.get(uuid)?;
        if now.saturating_duration_since(mark.at) >= mark.hold * 2 {
            marks.remove(uuid);
        }
        mark.holds(now).then_some(mark)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Mark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_datanodes_are_forgotten_after_a_while_and_when_there_are_too_many() {
        let (slow, start) = (SlowNodes::default(), Instant::now());
        let silent = |at| Mark { at, hold: SLOW_FOR, silent: true };
        slow.note_at("first", silent(start));
        assert!(
            slow.mark("first", start).is_some_and(|mark| mark.silent) && slow.mark("other", start).is_none()
        );
        assert!(slow.mark("first", start + SLOW_FOR).is_none());
        slow.note_at("first", silent(start));
        for n in 0..MAX_SLOW_NODES {
            slow.note_at(&n.to_string(), silent(start + Duration::from_millis(1)));
        }
        assert_eq!(slow.lock().len(), MAX_SLOW_NODES);
        assert!(slow.mark("first", start).is_none(), "noticed first, forgotten first");
    }

    #[test]
    fn a_datanode_that_is_slow_again_and_again_is_left_alone_for_longer() {
        let (slow, mut now) = (SlowNodes::default(), Instant::now());
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            slow.note_slower_at("a", now);
            slow.note_slower_at("a", now);
            let hold = Duration::from_secs(expected);
            let mark = slow.mark("a", now + hold - Duration::from_millis(1)).expect("slow");
            assert!(!mark.silent && mark.hold == hold, "{mark:?}");
            assert!(slow.mark("a", now + hold).is_none());
            now += hold;
        }
        now += SLOW_FOR * 2;
        slow.note_slower_at("a", now);
        assert!(slow.mark("a", now + FIRST_SLOWER_FOR).is_none(), "long ago");
    }
}
