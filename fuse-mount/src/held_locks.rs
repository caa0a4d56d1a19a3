//! Which owners hold fcntl locks in which files, so that closing a file drops them.
//!
//! POSIX drops all locks of a process in a file when the process closes any descriptor of it. The kernel tells of a close with FLUSH,
//! which names the owner; asking the namenode at every close would cost a round trip, so that only owners in
//! this table are asked for. Files opened for reading only are closed without FLUSH, unless they were ever locked here; locks
//! taken through a handle that was opened so before are dropped when that handle is gone.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dfs_client::fs::InodeId;

/// Most files remembered as having been locked; beyond, a first lock in a read-only file may be dropped a moment after the close.
const MAX_EVER_LOCKED: usize = 100_000;

/// The table.
#[derive(Debug, Default)]
pub struct HeldLocks {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Bounded by the locks that a session may hold.
    owners: HashMap<InodeId, HashSet<u64>>,
    ever: HashSet<InodeId>,
}

impl HeldLocks {
    /// `owner` asks for a lock in a file.
    pub fn taking(&self, inode: InodeId, owner: u64) {
        let mut table = self.lock();
        table.owners.entry(inode).or_default().insert(owner);
        if table.ever.len() < MAX_EVER_LOCKED {
            table.ever.insert(inode);
        }
    }

    /// `owner` closes the file: whether it may hold locks there. They are to be dropped now.
    pub fn closing(&self, inode: InodeId, owner: u64) -> bool {
        let mut table = self.lock();
        let Some(owners) = table.owners.get_mut(&inode) else { return false };
        let held = owners.remove(&owner);
        if owners.is_empty() {
            table.owners.remove(&inode);
        }
        held
    }

    /// Whether the kernel must tell of every close of the file.
    pub fn ever_locked(&self, inode: InodeId) -> bool {
        self.lock().ever.contains(&inode)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: InodeId = InodeId(3);

    #[test]
    fn only_owners_of_locks_cost_a_call_at_close() {
        let locks = HeldLocks::default();
        assert!(!locks.closing(FILE, 1) && !locks.ever_locked(FILE));
        locks.taking(FILE, 1);
        locks.taking(FILE, 2);
        assert!(!locks.closing(FILE, 3));
        assert!(locks.closing(FILE, 1) && !locks.closing(FILE, 1));
        assert!(locks.closing(FILE, 2) && locks.lock().owners.is_empty() && locks.ever_locked(FILE));
    }
}
