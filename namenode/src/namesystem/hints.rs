//! What a transaction knows of the tables without looking.
//!
//! Rows that were removed stay in a layer of the store as marks until they are flushed, and a scan has to step over
//! each. Where the same scan begins at the same place again and again while rows go, it would take longer and longer;
//! so it is remembered where the rows begin, or how many there are.
//!
//! Hints never decide anything: each says what a scan would find. They are gone with a restart or a transaction that is
//! not committed, and found again by looking.

use std::collections::HashMap;

use dfs_proto::InodeId;

/// See the module head. The default knows nothing.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// No row of `retry_order` has a lower log index.
    pub(super) retries_from: u64,
    /// Time of the first row of `retry_order`.
    pub(super) oldest_retry: Option<i64>,
    /// No row of `reclaim` has a lower inode.
    pub(super) reclaim_from: u64,
    /// The directory that was being freed last, and a name up to which it has no entries any more. Nobody enters
    /// anything into a directory that waits to be freed.
    pub(super) freed_up_to: Option<(InodeId, Vec<u8>)>,
    /// Leases of holders: of those that have any, and of some that had.
    leases: HashMap<String, u64>,
}

/// Holders whose leases are counted beside those that have any.
const HOLDERS_MAX: usize = 1_024;

impl Hints {
    /// Leases of a holder, if that is known.
    pub(super) fn leases(&self, holder: &str) -> Option<u64> {
        self.leases.get(holder).copied()
    }

    /// Notes how many leases a holder has now.
    pub(super) fn note_leases(&mut self, holder: &str, leases: u64) {
        if let Some(known) = self.leases.get_mut(holder) {
            *known = leases;
            return;
        }
        if self.leases.len() >= HOLDERS_MAX {
            self.leases.retain(|_, leases| *leases > 0);
        }
        self.leases.insert(holder.to_owned(), leases);
    }
}
