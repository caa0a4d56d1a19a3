//! Which leader made which entries of the log that were applied, also of those that were purged long ago.
//!
//! Changes may be answered before they are on disk. A leader whose log lost such entries, or one that took another's place without them,
//! makes others under the same indexes; with this record it can say whether an entry that somebody was told of is in its log. It is part
//! of the state, changes with it in one transaction, is the same on all members and goes with snapshots and backups.
//!
//! The value of `raft.terms` in the `meta` table; integers are little-endian:
//!
//! | offset    | size | field   | rule                                                                  |
//! |-----------|------|---------|-----------------------------------------------------------------------|
//! | 0         | 1    | version | 1                                                                     |
//! | 1 + 24 n  | 8    | term    | of the n-th leader that is remembered; with the node id, rising       |
//! | 9 + 24 n  | 8    | node id | that leader                                                           |
//! | 17 + 24 n | 8    | first   | index of its first entry, rising; its last one is before the next first |

use super::error::Damage;
use super::raft_types::LogId;
use super::record::u64_at;
use super::segment::EntryId;

/// Leaders that are remembered: each start and each election makes one. A session asks about what it was told soon after it has
/// noticed a new one, so that nobody asks about so old ones. What is older counts as lost.
const LEADERS_MAX: usize = 1_024;

const VERSION: u8 = 1;
const LEADER_BYTES: usize = 24;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// First entry of each leader, in the log's order.
    firsts: Vec<EntryId>,
}

impl Terms {
    /// The entry is the next one of the log. True if it is its leader's first.
    pub fn applied(&mut self, id: EntryId) -> bool {
        if self.firsts.last().is_some_and(|last| leader(last) == leader(&id)) {
            return false;
        }
        if self.firsts.len() >= LEADERS_MAX {
            self.firsts.remove(0);
        }
        self.firsts.push(id);
        true
    }

    /// Whether the log, which was applied up to `last`, has exactly this entry.
    pub fn contains(&self, last: Option<&LogId>, id: &EntryId) -> bool {
        let Some(at) = self.firsts.iter().position(|first| leader(first) == leader(id)) else { return false };
        let end = match self.firsts.get(at + 1) {
            Some(next) => next.index,
            None => last.map_or(0, |last| last.index + 1),
        };
        (self.firsts[at].index..end).contains(&id.index)
    }

    /// The value in the store.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(1 + LEADER_BYTES * self.firsts.len());
        value.push(VERSION);
        for EntryId { term, node_id, index } in &self.firsts {
            [term, node_id, index].iter().for_each(|field| value.extend_from_slice(&field.to_le_bytes()));
        }
        value
    }

    /// Reads the value in the store.
    pub fn decode(value: &[u8]) -> Result<Self, Damage> {
        let leaders = match value {
            [VERSION, leaders @ ..] => leaders,
            [other, ..] => return Err(Damage::Layout(u32::from(*other))),
            [] => return Err(Damage::Short),
        };
        let (leaders, rest) = leaders.as_chunks::<LEADER_BYTES>();
        if !rest.is_empty() {
            return Err(Damage::Short);
        }
        let read = |raw| EntryId { term: u64_at(raw, 0), node_id: u64_at(raw, 8), index: u64_at(raw, 16) };
        let firsts: Vec<EntryId> = leaders.iter().map(|raw| read(raw)).collect();
        let rises = |pair: &[EntryId]| leader(&pair[0]) < leader(&pair[1]) && pair[0].index < pair[1].index;
        if firsts.len() > LEADERS_MAX || !firsts.windows(2).all(rises) {
            return Err(Damage::Payload);
        }
        Ok(Self { firsts })
    }
}

const fn leader(id: &EntryId) -> (u64, u64) {
    (id.term, id.node_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::raft_types::log_id;

    const fn entry(term: u64, node_id: u64, index: u64) -> EntryId {
        EntryId { term, node_id, index }
    }

    fn terms() -> Terms {
        let mut terms = Terms::default();
        let entries = [entry(0, 0, 0), entry(1, 1, 1), entry(1, 1, 2), entry(4, 2, 3), entry(4, 2, 4)];
        let firsts = entries.map(|id| terms.applied(id));
        assert_eq!(firsts, [true, true, false, true, false]);
        terms
    }

    #[test]
    fn an_entry_is_known_by_its_leader_and_index() {
        let (terms, last) = (terms(), log_id(entry(4, 2, 4)));
        let contains = |id| terms.contains(Some(&last), &id);
        assert!(contains(entry(1, 1, 1)) && contains(entry(1, 1, 2)));
        assert!(contains(entry(4, 2, 3)) && contains(entry(4, 2, 4)));
        assert!(!contains(entry(1, 1, 3)), "another leader took its place");
        assert!(!contains(entry(4, 2, 5)), "it was not applied");
        assert!(!contains(entry(4, 2, 2)), "before its leader");
        assert!(!contains(entry(2, 1, 2)) && !contains(entry(4, 1, 4)) && !contains(entry(9, 2, 4)));
        assert!(!Terms::default().contains(None, &entry(1, 1, 0)));
    }

    #[test]
    fn golden_bytes() {
        let mut two = Terms::default();
        two.applied(entry(2, 3, 4));
        two.applied(entry(5, 3, 0x0607));
        let value = two.encode();
        let mut expected = vec![1]; // version
        expected.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]); // term
        expected.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]); // node id
        expected.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0]); // first
        expected.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0]); // term
        expected.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]); // node id
        expected.extend_from_slice(&[7, 6, 0, 0, 0, 0, 0, 0]); // first
        assert_eq!(value, expected);
        assert_eq!(Terms::decode(&value), Ok(two));
        for end in (0..value.len()).filter(|end| end % LEADER_BYTES != 1) {
            assert_eq!(Terms::decode(&value[..end]), Err(Damage::Short), "cut at {end}");
        }
        expected[25] = 1;
        assert_eq!(Terms::decode(&expected), Err(Damage::Payload), "terms fall");
        assert_eq!(Terms::decode(&[2]), Err(Damage::Layout(2)));
    }

    #[test]
    fn leaders_are_bounded_and_the_oldest_is_forgotten() {
        let mut terms = Terms::default();
        for term in 1..=LEADERS_MAX as u64 + 1 {
            terms.applied(entry(term, 1, term));
        }
        let last = log_id(entry(LEADERS_MAX as u64 + 1, 1, LEADERS_MAX as u64 + 1));
        assert!(!terms.contains(Some(&last), &entry(1, 1, 1)));
        assert!(terms.contains(Some(&last), &entry(2, 1, 2)));
        assert_eq!(Terms::decode(&terms.encode()), Ok(terms));
    }
}
