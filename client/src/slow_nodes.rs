//! Datanodes that were silent for too long, lately.
//!
//! Shared by all readers and writers of a client, so that one stopped datanode costs its timeout once and not once a
//! file. It is a preference, not an exclusion: who has no other choice still asks a slow datanode. Invariant: at
//! most [`MAX_SLOW_NODES`] are remembered, each for [`SLOW_FOR`].

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a datanode counts as slow: long enough that asking again costs little, short enough that one that was
/// only busy is soon used again.
const SLOW_FOR: Duration = Duration::from_secs(60);

/// Datanodes remembered; the one noticed first is forgotten first. With more than this the cluster is the problem.
const MAX_SLOW_NODES: usize = 256;

/// The datanodes, by uuid, with the time at which they were noticed.
#[derive(Debug, Default)]
pub(crate) struct SlowNodes {
    since: Mutex<HashMap<String, Instant>>,
}

impl SlowNodes {
    /// Remembers a datanode as slow from now on.
    pub(crate) fn note(&self, uuid: &str) {
        self.note_at(uuid, Instant::now());
    }

    fn note_at(&self, uuid: &str, now: Instant) {
        let mut since = self.lock();
        if since.len() >= MAX_SLOW_NODES && !since.contains_key(uuid) {
            let oldest = since.iter().min_by_key(|(_, at)| **at).map(|(uuid, _)| uuid.clone());
            if let Some(oldest) = oldest {
                since.remove(&oldest);
            }
        }
        since.insert(uuid.to_owned(), now);
    }

    /// Whether a datanode was slow lately.
    pub(crate) fn contains(&self, uuid: &str) -> bool {
        self.contains_at(uuid, Instant::now())
    }

    fn contains_at(&self, uuid: &str, now: Instant) -> bool {
        let mut since = self.lock();
        match since.get(uuid) {
            None => false,
            Some(at) if now.saturating_duration_since(*at) < SLOW_FOR => true,
            Some(_) => {
                since.remove(uuid);
                false
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_datanodes_are_forgotten_after_a_while_and_when_there_are_too_many() {
        let (slow, start) = (SlowNodes::default(), Instant::now());
        slow.note_at("first", start);
        assert!(slow.contains_at("first", start) && !slow.contains_at("other", start));
        assert!(!slow.contains_at("first", start + SLOW_FOR));
        slow.note_at("first", start);
        for n in 0..MAX_SLOW_NODES {
            slow.note_at(&n.to_string(), start + Duration::from_millis(1));
        }
        assert_eq!(slow.lock().len(), MAX_SLOW_NODES);
        assert!(!slow.contains_at("first", start), "noticed first, forgotten first");
    }
}
