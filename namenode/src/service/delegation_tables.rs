//! Which session has which directory delegated, alone or for reading.
//!
//! Pure soft state. A directory is delegated in one of these ways at a time; a session that asks for it alone gives back what it had
//! for reading.

use std::sync::Arc;

use super::delegation_table::{ClientId, DelegationTable, Granting};
use super::shared_delegations::{SHARED_PATIENCE_MS, SharedDelegations};

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It looks at something.
    Look,
    /// It changes something.
    Change,
}

/// Who has which directory, in both ways.
#[derive(Debug, Default)]
pub struct Tables {
    /// What one session has alone.
    pub alone: DelegationTable,
    /// What sessions have for reading.
    pub shared: SharedDelegations,
}

impl Tables {
    /// Delegates a directory to a session, alone or for reading.
    pub fn grant(
        &mut self,
        now_ms: u64,
        (session, client): (&str, ClientId),
        directory: u64,
        shared: bool,
    ) -> Granting {
        let is_held_alone = self.alone.holder(directory).is_some();
        if is_held_alone {
            return self.alone.grant(now_ms, session, client, directory);
        }
        if !shared {
            // Who asks for it alone does not have it for reading any longer.
            self.shared.give_back(now_ms, session, directory);
            let others = self.shared.is_held(directory);
            return if others {
                Granting::Refused
            } else {
                self.alone.grant(now_ms, session, client, directory)
            };
        }
        if self.alone.is_resting(now_ms, directory) {
            return Granting::Refused;
        }
        self.shared.grant(now_ms, session, client, directory)
    }

    /// Whether a session has a directory, alone or for reading, that nobody wants back from it.
    pub fn has(&self, session: &str, directory: u64) -> bool {
        self.alone.has(session, directory) || self.shared.has(session, directory)
    }

    /// Whether a directory that is looked at, or changed, is delegated to somebody who is not `client`, so that this is in the way.
    pub fn is_others(&self, client: Option<&[u8]>, directory: u64, purpose: Purpose) -> bool {
        self.alone.is_others(client, directory)
            || purpose == Purpose::Change && self.shared.is_others(client, directory)
    }

    /// All such directories.
    pub fn others(&self, client: Option<&[u8]>, purpose: Purpose) -> Vec<u64> {
        let mut others = self.alone.others(client);
        if purpose == Purpose::Change {
            others.extend(self.shared.others(client));
        }
        others
    }

    /// Whether everything that is in the way of such calls is delegated to one client.
    pub fn are_all_of(&self, client: Option<&[u8]>, purpose: Purpose) -> bool {
        self.alone.are_all_of(client) && (purpose == Purpose::Look || self.shared.are_all_of(client))
    }

    /// Wants a directory back from all but `spared`. Answers the sessions that are to be woken to hear of it.
    pub fn recall(&mut self, now_ms: u64, directory: u64, spared: Option<&[u8]>) -> Vec<Arc<str>> {
        let mut told = self.shared.recall(now_ms, directory, spared);
        if self.alone.is_others(spared, directory) {
            told.extend(self.alone.recall(now_ms, directory));
        }
        told
    }

    /// Wants a directory back from one session.
    pub fn recall_from(&mut self, now_ms: u64, directory: u64, session: &str) {
        if self.alone.has(session, directory) {
            self.alone.recall(now_ms, directory);
        }
        self.shared.recall_from(now_ms, directory, session);
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
        let (mut revoked, mut awaited) =
            self.shared.revoke(now_ms, directory, patience_ms.min(SHARED_PATIENCE_MS), spared);
        match self.alone.recalled_ms(directory).filter(|_| self.alone.is_others(spared, directory)) {
            Some(since) if now_ms.saturating_sub(since) >= patience_ms => {
                revoked += usize::from(self.alone.forget(now_ms, directory));
            }
            Some(_) => awaited = true,
            None => {}
        }
        (revoked, awaited)
    }

    /// A session gives a directory back.
    pub fn give_back(&mut self, now_ms: u64, session: &str, directory: u64) {
        self.alone.give_back(now_ms, session, directory);
        self.shared.give_back(now_ms, session, directory);
    }

    /// Directories that are wanted back from a session, and whether it has not heard of some yet. Now it has.
    pub fn take_recalled(&mut self, session: &str) -> (Vec<u64>, bool) {
        let (mut directories, untold) = self.alone.take_recalled(session);
        let (shared, shared_untold) = self.shared.take_recalled(session);
        directories.extend(shared);
        (directories, untold || shared_untold)
    }

    /// Delegated directories.
    pub fn len(&self) -> usize {
        self.alone.len() + self.shared.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: ClientId = [1; 16];
    const BEN: ClientId = [2; 16];

    #[test]
    fn a_directory_is_had_alone_or_shared() {
        let mut tables = Tables::default();
        assert_eq!(tables.grant(0, ("a", ANN), 5, true), Granting::New);
        assert_eq!(tables.grant(0, ("b", BEN), 5, true), Granting::New);
        assert!(tables.is_others(Some(&ANN), 5, Purpose::Change));
        assert!(!tables.is_others(Some(&ANN), 5, Purpose::Look));
        assert_eq!(tables.grant(0, ("a", ANN), 5, false), Granting::Refused);
        assert!(!tables.has("a", 5), "it gave back what it had");
        assert_eq!(tables.grant(0, ("b", BEN), 5, false), Granting::New, "the only reader");
        assert!(tables.alone.has("b", 5) && !tables.shared.is_held(5));
        assert!(tables.is_others(Some(&ANN), 5, Purpose::Look));
        assert_eq!(tables.grant(0, ("a", ANN), 5, true), Granting::Refused);
        assert_eq!(tables.grant(0, ("b", BEN), 5, true), Granting::Known);
        assert!(tables.alone.has("b", 5), "it keeps it alone");
        assert_eq!(tables.recall(10, 5, Some(&BEN)).len(), 0, "its own");
        assert_eq!(tables.recall(10, 5, Some(&ANN)).len(), 1);
        assert_eq!(tables.revoke(20, 5, 100, Some(&ANN)), (0, true));
        assert_eq!(tables.take_recalled("b"), (vec![5], true));
        assert_eq!(tables.revoke(110, 5, 100, Some(&ANN)), (1, false));
        assert_eq!((tables.len(), tables.others(None, Purpose::Change)), (0, vec![]));
    }
}
