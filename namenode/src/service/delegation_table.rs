//! Which session has which directory delegated to it alone, and which directories are wanted back. The locks of files are delegated by the same
//! rules, with a table of their own.
//!
//! Pure soft state: time comes as an argument. After a restart of the namenode nobody has anything.
//!
//! Invariants:
//! * A directory is delegated to one session at most.
//! * `holders` and `held` say the same; a session without directories is in neither.
//! * All directories of a session are delegated to the same client.
//! * A directory that was recalled is not delegated again before [`REST_MS`](super::resting::REST_MS) have passed since it was given back.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::resting::Resting;

/// Delegated directories of one session: clients keep to less, and with 4,096 entries each they fill a mount's memory.
const DIRECTORIES_OF_A_SESSION_MAX: usize = 4_096;

/// Delegated directories of all sessions together: about 10 MB of tables.
const DIRECTORIES_MAX: usize = 65_536;

/// Id of the client that a session belongs to.
pub type ClientId = [u8; 16];

/// What became of an attempt to delegate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granting {
    /// Delegated now.
    New,
    /// The session had it before.
    Known,
    /// Somebody else has it, it is wanted back or rests, or there are too many.
    Refused,
}

#[derive(Debug)]
struct Held {
    session: Arc<str>,
    client: ClientId,
    recalled_ms: Option<u64>,
}

#[derive(Debug)]
struct Holder {
    client: ClientId,
    directories: HashSet<u64>,
    recalled: BTreeSet<u64>,
    /// Some of `recalled` were not told yet.
    untold: bool,
}

impl Holder {
    fn of(client: ClientId) -> Self {
        Self { client, directories: HashSet::new(), recalled: BTreeSet::new(), untold: false }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct DelegationTable {
    held: HashMap<u64, Held>,
    holders: HashMap<Arc<str>, Holder>,
    resting: Resting,
}

impl DelegationTable {
    /// Delegates a directory to a session of a client.
    pub fn grant(&mut self, now_ms: u64, session: &str, client: ClientId, directory: u64) -> Granting {
        if let Some(held) = self.held.get(&directory) {
            let known = *held.session == *session && held.client == client && held.recalled_ms.is_none();
            return if known { Granting::Known } else { Granting::Refused };
        }
        let of_session = self.holders.get(session).map_or(0, |holder| holder.directories.len());
        let is_another_client = self.holders.get(session).is_some_and(|holder| holder.client != client);
        if is_another_client
            || self.is_resting(now_ms, directory)
            || of_session >= DIRECTORIES_OF_A_SESSION_MAX
            || self.held.len() >= DIRECTORIES_MAX
        {
            return Granting::Refused;
        }
        let session: Arc<str> = match self.holders.get_key_value(session) {
            Some((name, _)) => name.clone(),
            None => session.into(),
        };
        let holder = self.holders.entry(session.clone()).or_insert_with(|| Holder::of(client));
        holder.directories.insert(directory);
        self.held.insert(directory, Held { session, client, recalled_ms: None });
        Granting::New
    }

    /// Whether a session has a directory that nobody wants back.
    pub fn has(&self, session: &str, directory: u64) -> bool {
        self.held.get(&directory).is_some_and(|held| *held.session == *session && held.recalled_ms.is_none())
    }

    /// The session that a directory is delegated to.
    pub fn holder(&self, directory: u64) -> Option<&Arc<str>> {
        self.held.get(&directory).map(|held| &held.session)
    }

    /// Whether a directory is delegated to somebody who is not `client`.
    pub fn is_others(&self, client: Option<&[u8]>, directory: u64) -> bool {
        self.held.get(&directory).is_some_and(|held| client != Some(&held.client))
    }

    /// Directories that are delegated to others than `client`.
    pub fn others(&self, client: Option<&[u8]>) -> Vec<u64> {
        let others = self.held.iter().filter(|(_, held)| client != Some(&held.client));
        others.map(|(directory, _)| *directory).collect()
    }

    /// Whether everything is delegated to one client.
    pub fn are_all_of(&self, client: Option<&[u8]>) -> bool {
        // Sessions are few where there are few mounts, and the first other one ends the search.
        self.holders.values().all(|holder| client == Some(&holder.client))
    }

    /// Wants a directory back. Answers the session that is to be woken to hear of it, if it is wanted for the first time.
    pub fn recall(&mut self, now_ms: u64, directory: u64) -> Option<Arc<str>> {
        let held = self.held.get_mut(&directory).filter(|held| held.recalled_ms.is_none())?;
        held.recalled_ms = Some(now_ms);
        let holder = self.holders.get_mut(&held.session)?;
        holder.recalled.insert(directory);
        holder.untold = true;
        Some(held.session.clone())
    }

    /// Time that passed while nobody could answer does not count against holders.
    pub fn postpone(&mut self, gap_ms: u64) {
        for since in self.held.values_mut().filter_map(|held| held.recalled_ms.as_mut()) {
            *since = since.saturating_add(gap_ms);
        }
    }

    /// When a directory was recalled; `None`: it is delegated to nobody, or not recalled.
    pub fn recalled_ms(&self, directory: u64) -> Option<u64> {
        self.held.get(&directory)?.recalled_ms
    }

    /// Directories that are wanted back from a session, and whether it has not heard of some yet. Now it has.
    pub fn take_recalled(&mut self, session: &str) -> (Vec<u64>, bool) {
        match self.holders.get_mut(session) {
            Some(holder) => (holder.recalled.iter().copied().collect(), std::mem::take(&mut holder.untold)),
            None => (Vec::new(), false),
        }
    }

    /// A session gives a directory back. False if it did not have it.
    pub fn give_back(&mut self, now_ms: u64, session: &str, directory: u64) -> bool {
        let has = self.held.get(&directory).is_some_and(|held| *held.session == *session);
        has && self.forget(now_ms, directory)
    }

    /// A directory is delegated to nobody any longer. False if it was not.
    pub fn forget(&mut self, now_ms: u64, directory: u64) -> bool {
        let Some(held) = self.held.remove(&directory) else { return false };
        if let Some(holder) = self.holders.get_mut(&held.session) {
            holder.directories.remove(&directory);
            holder.recalled.remove(&directory);
            if holder.directories.is_empty() {
                self.holders.remove(&held.session);
            }
        }
        if held.recalled_ms.is_some() {
            self.resting.rest(now_ms, directory);
        }
        true
    }

    /// A session has nothing any longer. Answers what it had.
    pub fn end(&mut self, session: &str) -> Vec<u64> {
        let Some(holder) = self.holders.remove(session) else { return Vec::new() };
        for directory in &holder.directories {
            self.held.remove(directory);
        }
        holder.directories.into_iter().collect()
    }

    /// Whether a directory was recalled a moment ago.
    pub fn is_resting(&mut self, now_ms: u64, directory: u64) -> bool {
        self.resting.is_resting(now_ms, directory)
    }

    /// Delegated directories.
    pub fn len(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::resting::REST_MS;
    use super::*;

    const ANN: ClientId = [1; 16];
    const BEN: ClientId = [2; 16];

    #[test]
    fn a_directory_is_one_sessions() {
        let mut table = DelegationTable::default();
        assert_eq!(table.grant(0, "a", ANN, 5), Granting::New);
        assert_eq!(table.grant(0, "a", ANN, 5), Granting::Known);
        assert_eq!(table.grant(0, "b", BEN, 5), Granting::Refused);
        assert!(table.has("a", 5) && !table.has("b", 5));
        assert!(table.is_others(Some(&BEN), 5) && table.is_others(None, 5));
        assert!(!table.is_others(Some(&ANN), 5) && !table.is_others(None, 6));
        assert_eq!((table.others(Some(&ANN)), table.others(Some(&BEN))), (vec![], vec![5]));
        assert!(!table.give_back(0, "b", 5));
        assert!(table.give_back(0, "a", 5));
        assert!(!table.give_back(0, "a", 5));
        assert_eq!(table.grant(0, "b", BEN, 5), Granting::New, "given back unasked: it does not rest");
    }

    #[test]
    fn recalls_are_told_until_the_directory_is_back() {
        let mut table = DelegationTable::default();
        for directory in [5, 6, 7] {
            assert_eq!(table.grant(0, "a", ANN, directory), Granting::New);
        }
        assert_eq!(table.take_recalled("a"), (vec![], false));
        assert_eq!(table.recall(10, 6).as_deref(), Some("a"));
        assert_eq!(table.recall(20, 6), None, "the session knows");
        assert_eq!(table.recall(20, 9), None, "nobody has it");
        assert_eq!(table.recalled_ms(6), Some(10));
        assert!(!table.has("a", 6));
        assert_eq!(table.grant(20, "a", ANN, 6), Granting::Refused);
        assert_eq!(table.take_recalled("a"), (vec![6], true));
        assert_eq!(table.take_recalled("a"), (vec![6], false));
        assert_eq!(table.recall(30, 5).as_deref(), Some("a"));
        assert_eq!(table.take_recalled("a"), (vec![5, 6], true));
        assert!(table.give_back(40, "a", 6));
        assert_eq!(table.take_recalled("a"), (vec![5], false));
    }

    #[test]
    fn what_was_recalled_rests() {
        let mut table = DelegationTable::default();
        assert_eq!(table.grant(0, "a", ANN, 5), Granting::New);
        table.recall(0, 5);
        table.give_back(1_000, "a", 5);
        assert_eq!(table.grant(1_000 + REST_MS - 1, "a", ANN, 5), Granting::Refused);
        assert_eq!(table.grant(1_000 + REST_MS, "b", BEN, 5), Granting::New);
    }

    #[test]
    fn the_end_of_a_session_frees_what_it_had() {
        let mut table = DelegationTable::default();
        for directory in [5, 6] {
            assert_eq!(table.grant(0, "a", ANN, directory), Granting::New);
        }
        assert_eq!(table.grant(0, "b", BEN, 7), Granting::New);
        table.recall(0, 5);
        let mut ended = table.end("a");
        ended.sort_unstable();
        assert_eq!(ended, [5, 6]);
        assert!(table.end("a").is_empty());
        assert_eq!(table.len(), 1);
        assert_eq!(
            table.grant(0, "b", BEN, 5),
            Granting::New,
            "its holder is gone: nobody hands it to and fro"
        );
    }

    #[test]
    fn there_are_bounds() {
        let mut table = DelegationTable::default();
        for directory in 0..DIRECTORIES_OF_A_SESSION_MAX as u64 {
            assert_eq!(table.grant(0, "a", ANN, directory), Granting::New);
        }
        assert_eq!(table.grant(0, "a", ANN, 1 << 40), Granting::Refused);
        for session in 1..(DIRECTORIES_MAX / DIRECTORIES_OF_A_SESSION_MAX) as u64 {
            for directory in 0..DIRECTORIES_OF_A_SESSION_MAX as u64 {
                let directory = session << 20 | directory;
                assert_eq!(table.grant(0, &session.to_string(), BEN, directory), Granting::New);
            }
        }
        assert_eq!(table.grant(0, "z", BEN, 1 << 40), Granting::Refused);
        for directory in 0..DIRECTORIES_OF_A_SESSION_MAX as u64 {
            table.recall(0, directory);
            table.give_back(0, "a", directory);
        }
        assert_eq!(table.grant(0, "z", BEN, 1 << 40), Granting::New);
    }
}
