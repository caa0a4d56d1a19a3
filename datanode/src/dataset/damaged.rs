//! Replicas known to be bad.
//!
//! The namenode keeps what it was told of bad replicas in memory only. So that its restart does not make them good ones
//! again, they are reported anew with every registration, from here, before the full report that names them; and a
//! restart of the datanode finds them in the volume's scrub record.

use std::collections::BTreeMap;
use std::sync::Mutex;

use dfs_proto::BlockId;

use crate::replica::BlockRef;
use crate::sync::lock;

/// Replicas remembered at most. With more than this a disk is beyond repair; what is left out is found again by scrubs and
/// readers.
pub const DAMAGED_MAX: usize = 10_000;

/// A bad replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Which.
    pub block: BlockRef,
    /// Length that it should have.
    pub length: u64,
    /// Storage that it is on.
    pub storage_id: String,
    /// What is wrong.
    pub reason: String,
}

/// All of them.
#[derive(Debug, Default)]
pub struct DamagedReplicas {
    known: Mutex<BTreeMap<BlockId, Damaged>>,
}

impl DamagedReplicas {
    /// Remembers one. Answers whether it is news.
    pub fn note(&self, damaged: Damaged) -> bool {
        let mut known = lock(&self.known);
        let id = damaged.block.id;
        let news = known.get(&id).is_none_or(|before| before.block != damaged.block);
        if known.len() < DAMAGED_MAX || !news {
            known.insert(id, damaged);
        }
        news
    }

    /// It is good after all, or gone.
    pub fn forget(&self, id: BlockId) {
        lock(&self.known).remove(&id);
    }

    /// Those that `still` says of that they are there; forgets the others.
    pub fn list(&self, still: impl Fn(&Damaged) -> bool) -> Vec<Damaged> {
        // `still` looks at the replica map, whose lock is never held while this one is asked for.
        let all: Vec<Damaged> = lock(&self.known).values().cloned().collect();
        let (here, gone): (Vec<_>, Vec<_>) = all.into_iter().partition(|damaged| still(damaged));
        gone.iter().for_each(|damaged| self.forget(damaged.block.id));
        here
    }

    /// What is wrong with a replica, if it is known to be bad.
    pub fn reason(&self, block: BlockRef) -> Option<String> {
        lock(&self.known).get(&block.id).filter(|d| d.block == block).map(|d| d.reason.clone())
    }
}
