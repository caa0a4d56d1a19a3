//! Room on the disk: seen to before something is written, so that a full disk is a refusal and not a failed write. What cannot
//! be refused any more waits for room.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;

use super::durable_file;

/// Bytes that are taken from the disk at once.
const STEP: u64 = 1 << 20;

/// Bytes that stay ahead of what is asked for: for sync marks, of which one follows each sync of entries.
const MARGIN: u64 = 64 << 10;

/// Bytes that a restart on a full disk may take: a vote, and pages of the store.
const RESERVE: u64 = 4 << 20;

/// Name of the file that holds them.
const RESERVE_NAME: &str = "reserve";

/// Room behind the end of a file that nobody else can take.
#[derive(Debug, Default)]
pub struct RoomAhead {
    /// Up to here.
    end: u64,
    /// The file system cannot reserve; then a full disk is found out by writing.
    is_unsupported: bool,
}

impl RoomAhead {
    /// Sees to it that `bytes` can be written at `offset`, the end of `file`. False if the disk has no room.
    pub fn ensure(&mut self, file: &File, offset: u64, bytes: u64) -> io::Result<bool> {
        let needed = offset + bytes + MARGIN;
        if self.is_unsupported || needed <= self.end {
            return Ok(true);
        }
        let end = needed.next_multiple_of(STEP);
        match allocate(file, offset, end - offset) {
            Ok(()) => self.end = end,
            Err(Errno::ENOSPC | Errno::EDQUOT) => return Ok(false),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => self.is_unsupported = true,
            Err(errno) => return Err(errno.into()),
        }
        Ok(true)
    }

    /// Gives back what was not used: `file` ends at `offset` for good.
    pub fn give_back(&mut self, file: &File, offset: u64) {
        if self.end > offset {
            // Kept until the file is deleted otherwise, which is not long.
            let _ = file.set_len(offset);
        }
        self.end = 0;
    }
}

/// Takes the room of `bytes` of a file from the disk, beyond its end or not, if the disk has it and can do so.
pub fn take_ahead(file: &File, offset: u64, bytes: u64) {
    // Without it, what is written there may find the disk full and wait.
    let _ = allocate(file, offset, bytes);
}

fn allocate(file: &File, offset: u64, bytes: u64) -> Result<(), Errno> {
    let number = |value: u64| i64::try_from(value).map_err(|_| Errno::EFBIG);
    fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, number(offset)?, number(bytes)?)
}

/// Pause between two attempts to write to a full disk: somebody has to make room by hand, or another program ends.
const FULL_PAUSE: Duration = Duration::from_millis(200);

/// What a full disk means to writers of the store, who share it: from [`WaitForRoom::begin`] to [`WaitForRoom::end`] they wait for
/// room, otherwise they fail. Clients are refused meanwhile, since the log has no room either.
#[derive(Clone, Debug, Default)]
pub struct WaitForRoom(Arc<AtomicBool>);

impl WaitForRoom {
    /// From now on they wait.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// From now on they fail, also those who wait.
    pub fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Writes to the file at `path` with `write`, which is called again after it found the disk full.
    pub fn write(&self, path: &Path, mut write: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        let mut waited = false;
        loop {
            let outcome = write();
            let is_full = outcome.as_ref().is_err_and(|error| {
                matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            });
            if !is_full || !self.0.load(Ordering::Relaxed) {
                if waited && outcome.is_ok() {
                    tracing::info!(path = %path.display(), "the disk has room again");
                }
                return outcome;
            }
            if !waited {
                tracing::error!(path = %path.display(), "disk full in the middle of a checkpoint: waiting for room");
                waited = true;
            }
            thread::sleep(FULL_PAUSE);
        }
    }
}

/// Room of the disk that a directory is on.
#[derive(Clone, Debug)]
pub struct DiskRoom {
    dir: PathBuf,
    low: u64,
}

impl DiskRoom {
    /// With less than `low` bytes the disk is full.
    pub fn new(dir: &Path, low: u64) -> Self {
        Self { dir: dir.to_owned(), low }
    }

    /// Whether there is room. A disk that cannot be asked counts as having it: if it is broken, the next write tells.
    pub fn is_there(&self) -> bool {
        free(&self.dir).is_none_or(|free| free >= self.low)
    }
}

fn free(dir: &Path) -> Option<u64> {
    let stat = statvfs(dir).ok()?;
    Some(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// Gives a start on a full disk the room that was kept for it.
pub fn release_reserve(dir: &Path) {
    if free(dir).is_some_and(|free| free < RESERVE) {
        // Not there, or not ours to delete: then the start fails where there is no room, and says so.
        let _ = durable_file::remove(&dir.join(RESERVE_NAME));
    }
}

/// Keeps room for a start on a full disk, if there is enough now. Without it such a start fails, and loses nothing.
pub fn keep_reserve(dir: &Path) {
    let path = dir.join(RESERVE_NAME);
    if path.exists() || free(dir).is_none_or(|free| free < 4 * RESERVE) {
        return;
    }
    if let Ok(file) = File::create(&path)
        && allocate(&file, 0, RESERVE).is_err()
    {
        let _ = durable_file::remove(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_reserved_in_steps_and_given_back() {
        let dir = tempfile::tempdir().expect("directory");
        let file = File::create(dir.path().join("f")).expect("file");
        let mut room = RoomAhead::default();
        assert!(room.ensure(&file, 0, 100).expect("reserves"));
        if room.is_unsupported {
            return;
        }
        assert_eq!(room.end, STEP);
        assert_eq!(file.metadata().expect("stat").len(), 0, "nobody reads what was not written");
        assert!(room.ensure(&file, STEP, 100).expect("reserves"));
        assert_eq!(room.end, 2 * STEP);
        room.give_back(&file, 10);
        assert_eq!((room.end, file.metadata().expect("stat").len()), (0, 10));
    }
}
