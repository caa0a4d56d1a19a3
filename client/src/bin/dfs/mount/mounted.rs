//! A mount point, what is there, and taking it away.
//!
//! The process behind a mount tells its number and start time in an extended attribute of the root, so that its end can be waited
//! for: only then is everything written back. A process number alone would not do, since numbers are used again.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::cluster::process::stat_of;

/// The attribute: `PID START SOURCE`.
const IDENTITY: &str = "user.dfs.mount";
/// Longest value.
const MAX_IDENTITY_BYTES: usize = 8_192;
/// Program that unmounts for ordinary users.
const FUSERMOUNT: &str = "fusermount3";
/// Time between two looks at a process that is ending.
const POLL: Duration = Duration::from_millis(10);

/// A place where a cluster may be mounted.
#[derive(Clone, Debug)]
pub struct MountPoint {
    path: PathBuf,
}

/// What is at a mount point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No mount of dfs.
    Nothing,
    /// A mount whose process is gone.
    Dead,
    /// A mount that serves.
    Alive {
        /// Its process.
        pid: i32,
        start_ticks: u64,
        /// What is mounted.
        source: String,
    },
}

/// Why a mount cannot be taken away.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// The kernel refuses.
    #[error("{path}: {source}")]
    Refused {
        /// Mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `fusermount3` refuses.
    #[error("{reason}")]
    Fusermount {
        /// What it said.
        reason: String,
    },
    /// The process still writes back.
    #[error("{path}: unmounted, but process {pid} is still writing back")]
    Unfinished {
        /// Mount point.
        path: PathBuf,
        /// Process.
        pid: i32,
    },
}

impl MountPoint {
    /// The mount point at `path`. The last part is not looked at: a dead mount cannot be.
    pub fn new(path: &Path) -> io::Result<Self> {
        let path = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                let whole = std::fs::canonicalize(parent)?.join(name);
                match std::fs::symlink_metadata(&whole) {
                    Ok(found) if found.is_symlink() => std::fs::canonicalize(&whole)?,
                    _ => whole,
                }
            }
            _ => std::fs::canonicalize(path)?,
        };
        Ok(Self { path })
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is there now.
    pub fn state(&self) -> State {
        match self.identity() {
            Ok(text) => parse(&text).unwrap_or(State::Nothing),
            Err(Errno::ENOTCONN | Errno::ECONNABORTED) => State::Dead,
            Err(_) => State::Nothing,
        }
    }

    /// Unmounts and waits up to `timeout` until everything is written back; `false` if nothing of dfs is mounted.
    pub fn unmount(&self, timeout: Duration) -> Result<bool, UnmountError> {
        match self.state() {
            State::Nothing => Ok(false),
            State::Dead => self.take_away(true).map(|()| true),
            State::Alive { pid, start_ticks, .. } => {
                self.take_away(false)?;
                let deadline = Instant::now() + timeout;
                let runs =
                    || stat_of(pid).is_some_and(|(start, state)| start == start_ticks && state != b'Z');
                while runs() {
                    if Instant::now() >= deadline {
                        return Err(UnmountError::Unfinished { path: self.path.clone(), pid });
                    }
                    std::thread::sleep(POLL);
                }
                Ok(true)
            }
        }
    }

    fn take_away(&self, lazily: bool) -> Result<(), UnmountError> {
        let refused = |source| UnmountError::Refused { path: self.path.clone(), source };
        let path = CString::new(self.path.as_os_str().as_bytes()).map_err(|error| refused(error.into()))?;
        let flags = if lazily { libc::MNT_DETACH } else { 0 };
        // SAFETY: the path ends with NUL and lives through the call.
        let outcome = Errno::result(unsafe { libc::umount2(path.as_ptr(), flags) });
        match outcome {
            Ok(_) => Ok(()),
            Err(Errno::EPERM) => self.fusermount(lazily),
            Err(errno) => Err(refused(errno.into())),
        }
    }

    fn fusermount(&self, lazily: bool) -> Result<(), UnmountError> {
        let refused = |source| UnmountError::Refused { path: self.path.clone(), source };
        let mut command = Command::new(FUSERMOUNT);
        command.arg(if lazily { "-uz" } else { "-u" }).arg("--").arg(&self.path).stdin(Stdio::null());
        let outcome = command.output().map_err(refused)?;
        if outcome.status.success() {
            return Ok(());
        }
        let reason = String::from_utf8_lossy(&outcome.stderr).trim().replace('\n', " ");
        Err(UnmountError::Fusermount { reason })
    }

    fn identity(&self) -> Result<String, Errno> {
        let path = CString::new(self.path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        let name = CString::new(IDENTITY).map_err(|_| Errno::EINVAL)?;
        let mut value = vec![0u8; MAX_IDENTITY_BYTES];
        // SAFETY: path and name end with NUL and live through the call; the kernel writes at most the given number of bytes.
        let length =
            unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        value.truncate(usize::try_from(Errno::result(length)?).map_err(|_| Errno::EINVAL)?);
        String::from_utf8(value).map_err(|_| Errno::EINVAL)
    }
}

fn parse(identity: &str) -> Option<State> {
    let mut words = identity.splitn(3, ' ');
    let pid = words.next()?.parse().ok().filter(|pid| *pid > 0)?;
    let start_ticks = words.next()?.parse().ok()?;
    Some(State::Alive { pid, start_ticks, source: words.next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_mount_tells_about_itself() {
        let alive = State::Alive { pid: 12, start_ticks: 345, source: "nn:1/a b".into() };
        assert_eq!(parse("12 345 nn:1/a b"), Some(alive));
        for text in ["", "12", "12 345", "x 345 nn:1", "0 1 nn:1", "-1 1 nn:1"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_ordinary_directory_is_no_mount() {
        let dir = tempfile::tempdir().unwrap();
        let place = MountPoint::new(dir.path()).unwrap();
        assert_eq!(place.state(), State::Nothing);
        assert!(!place.unmount(Duration::from_secs(1)).unwrap());
    }
}
