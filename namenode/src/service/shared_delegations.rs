//! Which sessions have which directories delegated for reading, and from whom they are wanted back.
//!
//! Pure soft state: time comes as an argument. After a restart of the namenode nobody has anything.
//!
//! Invariants:
//! * `held` and `directories` of `holders` say the same; a directory without holders, and a session without anything, is in neither.
//! * A session from which a directory was taken is told that it is wanted back until it has given it back, and does not get it again before:
//!   it may have been stopped, and go on believing that it has it.
//! * All directories of a session are delegated to the same client.
//! * While a directory is wanted back from one session, and [`REST_MS`](super::resting::REST_MS) after it was given back, no session gets it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::delegation_table::{ClientId, Granting};
use super::resting::Resting;

/// Directories of one session: clients keep to less.
const DIRECTORIES_OF_A_SESSION_MAX: usize = 4_096;

/// How long a session has to give a directory back: it answers nothing from it when it has heard nothing for 4 s (`SHARED_TRUST` in the
/// client), and a reader that is gone must not hold up writers for the whole time of a session.
pub const SHARED_PATIENCE_MS: u64 = 4_500;

/// Sessions that have one directory: a change waits for all of them.
const HOLDERS_MAX: usize = 64;

/// Directories of all sessions, counted for each of them: about 15 MB of tables.
const HOLDINGS_MAX: usize = 131_072;

#[derive(Debug)]
struct Holding {
    session: Arc<str>,
    client: ClientId,
    recalled_ms: Option<u64>,
}

#[derive(Debug)]
struct Holder {
    client: ClientId,
    directories: HashSet<u64>,
    /// Wanted back, or taken away.
    recalled: BTreeSet<u64>,
    /// Some of `recalled` were not told yet.
    untold: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct SharedDelegations {
    held: HashMap<u64, Vec<Holding>>,
    holders: HashMap<Arc<str>, Holder>,
    holdings: usize,
    /// What was taken from sessions that have not given it back.
    taken: usize,
    resting: Resting,
}

impl SharedDelegations {
    /// Delegates a directory to a session of a client, beside others.
    pub fn grant(&mut self, now_ms: u64, session: &str, client: ClientId, directory: u64) -> Granting {
        let held = self.held.get(&directory).map_or(&[][..], Vec::as_slice);
        if held.iter().any(|holding| holding.recalled_ms.is_some()) {
            return Granting::Refused;
        }
        if let Some(known) = held.iter().find(|holding| *holding.session == *session) {
            return if known.client == client { Granting::Known } else { Granting::Refused };
        }
        let holder = self.holders.get(session);
        if held.len() >= HOLDERS_MAX
            || self.holdings >= HOLDINGS_MAX
            || holder.is_some_and(|holder| {
                holder.client != client
                    || holder.directories.len() + holder.recalled.len() >= DIRECTORIES_OF_A_SESSION_MAX
                    || holder.recalled.contains(&directory)
            })
            || self.resting.is_resting(now_ms, directory)
        {
            return Granting::Refused;
        }
        let session: Arc<str> = match self.holders.get_key_value(session) {
            Some((name, _)) => name.clone(),
            None => session.into(),
        };
        let fresh =
            || Holder { client, directories: HashSet::new(), recalled: BTreeSet::new(), untold: false };
        self.holders.entry(session.clone()).or_insert_with(fresh).directories.insert(directory);
        self.held.entry(directory).or_default().push(Holding { session, client, recalled_ms: None });
        self.holdings += 1;
        Granting::New
    }

    /// Whether a session has a directory that nobody wants back from it.
    pub fn has(&self, session: &str, directory: u64) -> bool {
        let holdings = self.held.get(&directory).into_iter().flatten();
        holdings.into_iter().any(|holding| *holding.session == *session && holding.recalled_ms.is_none())
    }

    /// Whether anybody has a directory.
    pub fn is_held(&self, directory: u64) -> bool {
        self.held.contains_key(&directory)
    }

    /// Whether a directory is delegated to somebody who is not `client`.
    pub fn is_others(&self, client: Option<&[u8]>, directory: u64) -> bool {
        let holdings = self.held.get(&directory);
        holdings.is_some_and(|holdings| holdings.iter().any(|holding| client != Some(&holding.client)))
    }

    /// Directories that are delegated to others than `client`.
    pub fn others(&self, client: Option<&[u8]>) -> Vec<u64> {
        self.held.keys().copied().filter(|directory| self.is_others(client, *directory)).collect()
    }

    /// Whether everything is delegated to one client.
    pub fn are_all_of(&self, client: Option<&[u8]>) -> bool {
        self.holders.values().all(|holder| client == Some(&holder.client))
    }

    /// Wants a directory back from all but `spared`. Answers the sessions that are to be woken to hear of it.
    pub fn recall(&mut self, now_ms: u64, directory: u64, spared: Option<&[u8]>) -> Vec<Arc<str>> {
        self.recall_those(now_ms, directory, |holding| spared != Some(&holding.client))
    }

    /// Wants a directory back from one session.
    pub fn recall_from(&mut self, now_ms: u64, directory: u64, session: &str) {
        self.recall_those(now_ms, directory, |holding| *holding.session == *session);
    }

    fn recall_those(
        &mut self,
        now_ms: u64,
        directory: u64,
        those: impl Fn(&Holding) -> bool,
    ) -> Vec<Arc<str>> {
        let holdings = self.held.get_mut(&directory).into_iter().flatten();
        let wanted = holdings.filter(|holding| holding.recalled_ms.is_none() && those(holding));
        let mut told = Vec::new();
        for holding in wanted {
            holding.recalled_ms = Some(now_ms);
            if let Some(holder) = self.holders.get_mut(&holding.session) {
                holder.recalled.insert(directory);
                holder.untold = true;
            }
            told.push(holding.session.clone());
        }
        told
    }

    /// Time that passed while nobody could answer does not count against holders.
    pub fn postpone(&mut self, gap_ms: u64) {
        let holdings = self.held.values_mut().flatten();
        for since in holdings.filter_map(|holding| holding.recalled_ms.as_mut()) {
            *since = since.saturating_add(gap_ms);
        }
    }

    /// Takes a directory away from those but `spared` who have had `patience_ms` to give it back. Answers how many those were, and
    /// whether others are still waited for.
    pub fn revoke(
        &mut self,
        now_ms: u64,
        directory: u64,
        patience_ms: u64,
        spared: Option<&[u8]>,
    ) -> (usize, bool) {
        let mut awaited = false;
        let mut overdue = Vec::new();
        for holding in self.held.get(&directory).into_iter().flatten() {
            match holding.recalled_ms.filter(|_| spared != Some(&holding.client)) {
                Some(since) if now_ms.saturating_sub(since) >= patience_ms => {
                    overdue.push(holding.session.clone());
                }
                Some(_) => awaited = true,
                None => {}
            }
        }
        for session in &overdue {
            self.take(now_ms, session, directory);
            self.taken += 1;
        }
        (overdue.len(), awaited)
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
        let had = self.take(now_ms, session, directory);
        if let Some(holder) = self.holders.get_mut(session) {
            let recalled = holder.recalled.remove(&directory);
            self.taken -= usize::from(recalled && !had);
            if holder.directories.is_empty() && holder.recalled.is_empty() {
                self.holders.remove(session);
            }
        }
        had
    }

    fn take(&mut self, now_ms: u64, session: &str, directory: u64) -> bool {
        let Some(holdings) = self.held.get_mut(&directory) else { return false };
        let Some(at) = holdings.iter().position(|holding| *holding.session == *session) else { return false };
        let holding = holdings.swap_remove(at);
        if holdings.is_empty() {
            self.held.remove(&directory);
        }
        self.holdings -= 1;
        if let Some(holder) = self.holders.get_mut(session) {
            holder.directories.remove(&directory);
        }
        if holding.recalled_ms.is_some() {
            self.resting.rest(now_ms, directory);
        }
        true
    }

    /// A directory is gone.
    pub fn forget(&mut self, now_ms: u64, directory: u64) {
        let holdings = self.held.get(&directory).into_iter().flatten();
        let sessions: Vec<Arc<str>> = holdings.map(|holding| holding.session.clone()).collect();
        for session in sessions {
            self.give_back(now_ms, &session, directory);
        }
    }

    /// A session has nothing any longer. Answers how many directories it had.
    pub fn end(&mut self, session: &str) -> usize {
        let Some(holder) = self.holders.remove(session) else { return 0 };
        self.taken -= holder.recalled.iter().filter(|taken| !holder.directories.contains(taken)).count();
        for directory in &holder.directories {
            if let Some(holdings) = self.held.get_mut(directory) {
                holdings.retain(|holding| *holding.session != *session);
                if holdings.is_empty() {
                    self.held.remove(directory);
                }
            }
        }
        self.holdings -= holder.directories.len();
        holder.directories.len()
    }

    /// Directories that somebody has, or has not given back since they were taken away.
    pub fn len(&self) -> usize {
        self.held.len() + self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::super::resting::REST_MS;
    use super::*;

    const ANN: ClientId = [1; 16];
    const BEN: ClientId = [2; 16];

    #[test]
    fn several_sessions_have_a_directory_and_a_change_recalls_it_from_all_others() {
        let mut table = SharedDelegations::default();
        assert_eq!(table.grant(0, "a", ANN, 5), Granting::New);
        assert_eq!(table.grant(0, "b", BEN, 5), Granting::New);
        assert_eq!(table.grant(0, "b", BEN, 5), Granting::Known);
        assert_eq!(table.grant(0, "b", ANN, 5), Granting::Refused, "a session has one client");
        assert!(table.is_others(Some(&ANN), 5) && table.is_others(None, 5) && !table.is_others(None, 6));
        assert!(!table.are_all_of(Some(&ANN)));
        assert_eq!(table.others(Some(&BEN)), [5]);
        let told = table.recall(10, 5, Some(&ANN));
        assert_eq!(told.iter().map(|name| &**name).collect::<Vec<_>>(), ["b"]);
        assert!(table.recall(11, 5, Some(&ANN)).is_empty(), "it knows");
        assert!(table.has("a", 5) && !table.has("b", 5));
        assert_eq!((table.take_recalled("b"), table.take_recalled("a")), ((vec![5], true), (vec![], false)));
        assert_eq!(table.take_recalled("b"), (vec![5], false));
        assert_eq!(table.grant(20, "c", [3; 16], 5), Granting::Refused, "it is wanted back");
        assert!(table.give_back(30, "b", 5) && !table.give_back(30, "b", 5));
        assert!(!table.is_others(Some(&ANN), 5));
        assert_eq!(table.grant(30 + REST_MS - 1, "b", BEN, 5), Granting::Refused, "it rests");
        assert_eq!(table.grant(30 + REST_MS, "b", BEN, 5), Granting::New);
        assert!(table.give_back(40 + REST_MS, "b", 5));
        assert_eq!(table.grant(40 + REST_MS, "b", BEN, 5), Granting::New, "given back unasked");
    }

    #[test]
    fn who_does_not_give_it_back_loses_it() {
        let mut table = SharedDelegations::default();
        for (session, client) in [("a", ANN), ("b", BEN)] {
            assert_eq!(table.grant(0, session, client, 5), Granting::New);
        }
        assert_eq!(table.recall(100, 5, None).len(), 2);
        assert_eq!(table.revoke(150, 5, 100, None), (0, true));
        table.postpone(50);
        assert_eq!(table.revoke(200, 5, 100, None), (0, true));
        assert!(table.give_back(200, "a", 5));
        assert_eq!(table.revoke(250, 5, 100, Some(&BEN)), (0, false), "its own is not in its way");
        assert_eq!(table.revoke(250, 5, 100, None), (1, false));
        assert!(!table.is_held(5) && table.holdings == 0);
        // It may not know yet, and is told until it does.
        assert_eq!((table.len(), table.take_recalled("b").0), (1, vec![5]));
        assert_eq!(table.grant(250 + REST_MS, "b", BEN, 5), Granting::Refused);
        assert_eq!(table.grant(250 + REST_MS, "a", ANN, 5), Granting::New);
        assert!(!table.give_back(300 + REST_MS, "b", 5), "it had lost it");
        assert_eq!((table.len(), table.take_recalled("b").0), (1, vec![]));
        assert_eq!(table.grant(300 + REST_MS, "b", BEN, 5), Granting::New);
        assert_eq!(table.recall(3_000, 5, Some(&ANN)).len(), 1);
        assert_eq!(table.revoke(3_100, 5, 100, Some(&ANN)), (1, false));
        assert_eq!((table.end("b"), table.end("a"), table.len()), (0, 1, 0));
    }

    #[test]
    fn the_end_of_a_session_or_directory_leaves_the_others() {
        let mut table = SharedDelegations::default();
        for directory in [5, 6] {
            for (session, client) in [("a", ANN), ("b", BEN)] {
                assert_eq!(table.grant(0, session, client, directory), Granting::New);
            }
        }
        assert_eq!((table.end("a"), table.end("a")), (2, 0));
        assert!(table.has("b", 5) && table.has("b", 6) && table.are_all_of(Some(&BEN)));
        table.forget(0, 5);
        assert!(!table.is_held(5) && table.has("b", 6) && table.holdings == 1);
        assert_eq!(table.end("b"), 1);
        assert!(table.held.is_empty() && table.holders.is_empty());
    }

    #[test]
    fn there_are_bounds() {
        let mut table = SharedDelegations::default();
        for directory in 0..DIRECTORIES_OF_A_SESSION_MAX as u64 {
            assert_eq!(table.grant(0, "a", ANN, directory), Granting::New);
        }
        assert_eq!(table.grant(0, "a", ANN, 1 << 40), Granting::Refused);
        for session in 0..HOLDERS_MAX {
            assert_eq!(table.grant(0, &session.to_string(), BEN, 1 << 41), Granting::New);
        }
        assert_eq!(table.grant(0, "z", BEN, 1 << 41), Granting::Refused);
    }
}
