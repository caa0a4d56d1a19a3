//! The lock that keeps a second namenode out of a directory.

use std::fs::{File, OpenOptions};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::ConsensusError;

/// Name of the lock file. It stays behind; only the lock on it counts, which the kernel releases when
/// the process ends, however it ends.
pub const FILE_NAME: &str = "LOCK";

/// Held as long as the directory is in use.
#[derive(Debug)]
pub struct DirLock {
    _lock: Flock<File>,
}

impl DirLock {
    /// Takes the lock of `dir`.
    pub fn take(dir: &Path) -> Result<Self, ConsensusError> {
        let path = dir.join(FILE_NAME);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| ConsensusError::io(&path, "open", error))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => Err(ConsensusError::Locked { path }),
            Err((_, errno)) => Err(ConsensusError::io(path, "lock", errno.into())),
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
        drop(first);
        DirLock::take(dir.path()).expect("free again");
    }
}
