//! The lock that keeps a second namenode out of a directory.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::ConsensusError;

/// Name of the lock file. It stays behind; only the lock on it counts, which the kernel releases when
/// the process ends, however it ends.
pub const FILE_NAME: &str = "LOCK";

/// How long a predecessor that was killed may take to be gone: the kernel frees its memory first.
const PATIENCE: Duration = Duration::from_secs(2);

/// Time between two attempts.
const INTERVAL: Duration = Duration::from_millis(20);

/// Held as long as the directory is in use.
#[derive(Debug)]
pub struct DirLock {
    _lock: Flock<File>,
}

impl DirLock {
    /// Takes the lock of `dir`; waits a moment for a predecessor that was killed.
    pub fn take(dir: &Path) -> Result<Self, ConsensusError> {
        let path = dir.join(FILE_NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| ConsensusError::io(&path, "open", error))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Self { _lock: lock }),
                Err((unlocked, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                    file = unlocked;
                    std::thread::sleep(INTERVAL);
                }
                Err((_, Errno::EWOULDBLOCK)) => return Err(ConsensusError::Locked { path }),
                Err((_, errno)) => return Err(ConsensusError::io(path, "lock", errno.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_locked_once() {
        let dir = tempfile::tempdir().expect("directory");
        let first = DirLock::take(dir.path()).expect("free");
        assert!(matches!(DirLock::take(dir.path()), Err(ConsensusError::Locked { .. })));
        let path = dir.path().to_owned();
        let waiting = std::thread::spawn(move || DirLock::take(&path));
        drop(first);
        waiting.join().expect("no panic").expect("free again, at once or while it was waited for");
    }
}
