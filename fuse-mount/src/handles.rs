//! What the kernel has open.
//!
//! Handle numbers are never used again, so that a late request cannot meet a stranger's file.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use dfs_client::fs::{InodeId, OpenFile};
use fuser::FileHandle;

use crate::errno::Refusal;
use crate::passthrough::Place;

/// A handle that was not written to for so long may have lost its lease to another mount meanwhile: a little less than the second
/// after which a lease is given back.
const LEASE_MAY_BE_GONE: Duration = Duration::from_millis(900);

/// Open handles of one sort.
#[derive(Debug)]
pub struct Handles<T> {
    last: AtomicU64,
    open: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self { last: AtomicU64::new(0), open: RwLock::default() }
    }
}

impl<T> Handles<T> {
    /// Opens a handle.
    pub fn insert(&self, handle: impl Into<Arc<T>>) -> FileHandle {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(number, handle.into());
        FileHandle(number)
    }

    /// An open handle.
    pub fn get(&self, handle: FileHandle) -> Result<Arc<T>, Refusal> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&handle.0).cloned().ok_or(Refusal::BadHandle)
    }

    /// Closes a handle.
    pub fn remove(&self, handle: FileHandle) -> Result<Arc<T>, Refusal> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.remove(&handle.0).ok_or(Refusal::BadHandle)
    }
}

/// An open file description.
pub struct OpenHandle {
    /// The file.
    pub inode: InodeId,
    /// The library's side, shared by all handles of the file.
    pub file: Arc<OpenFile>,
    /// Counted as a writer by the library.
    pub writer: bool,
    /// The kernel does not tell of its closing before the last descriptor is gone.
    quiet: bool,
    /// Owners of fcntl locks taken through a quiet handle.
    lockers: Mutex<Vec<u64>>,
    /// How the kernel has it open, on a mount that passes through.
    pub place: Option<Place>,
    /// When it was opened or last written to.
    written: Mutex<Instant>,
    lease_kept: AtomicBool,
    failed: AtomicBool,
}

impl OpenHandle {
    /// A handle that was just opened.
    pub fn new(inode: InodeId, file: Arc<OpenFile>, writer: bool, quiet: bool, place: Option<Place>) -> Self {
        Self {
            place,
            inode,
            file,
            writer,
            quiet,
            lockers: Mutex::default(),
            written: Mutex::new(Instant::now()),
            lease_kept: AtomicBool::new(true),
            failed: AtomicBool::new(false),
        }
    }

    /// `owner` takes an fcntl lock through this handle.
    pub fn locking(&self, owner: u64) {
        let mut lockers = self.lockers.lock().unwrap_or_else(PoisonError::into_inner);
        if self.quiet && !lockers.contains(&owner) {
            lockers.push(owner);
        }
    }

    /// Owners whose locks nobody has dropped when the handle goes.
    pub fn lockers(&self) -> Vec<u64> {
        std::mem::take(&mut *self.lockers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// It is being written to.
    pub fn writing(&self) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now.saturating_duration_since(*written) > LEASE_MAY_BE_GONE {
            self.lease_kept.store(false, Ordering::Relaxed);
        }
        *written = now;
    }

    /// Something that was written could not be written back: the kernel's pages may have it all the same.
    pub fn failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// What the kernel's pages have is what was written: no other mount can have written since this handle was opened and
    /// before its last write, and nothing has failed.
    pub fn fits_the_pages(&self) -> bool {
        self.lease_kept.load(Ordering::Relaxed) && !self.failed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_not_used_again() {
        let handles = Handles::default();
        let first = handles.insert('a');
        assert_eq!(*handles.get(first).unwrap(), 'a');
        assert_eq!(*handles.remove(first).unwrap(), 'a');
        assert!(matches!(handles.get(first), Err(Refusal::BadHandle)));
        assert!(matches!(handles.remove(first), Err(Refusal::BadHandle)));
        assert_ne!(handles.insert('b'), first);
    }
}
