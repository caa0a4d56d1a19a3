//! Whether a volume's disk does what a disk must do.
//!
//! An error of one file may be one bad sector, which costs one replica; it may be the whole disk. So after an error, and now and
//! then without one, the volume is tried: a small file is written, put on disk, read and removed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::mount_point::DirectoryId;
use super::version_file;

/// File that is written to try a volume.
const PROBE_FILE: &str = "probe";

/// Its size: a block of any file system.
const PROBE_BYTES: usize = 4096;

/// What is wrong with a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeFault {
    /// Its directory cannot be looked at.
    #[error("directory cannot be used: {0}")]
    Directory(#[source] io::Error),
    /// Another directory has taken the place of the one that was opened: it was unmounted, or something was mounted over it.
    #[error("directory is not the one that was in use: unmounted, or replaced")]
    Replaced,
    /// Its `VERSION` file is gone.
    #[error("{} is missing", version_file::FILE_NAME)]
    Emptied,
    /// Its file system turned read-only.
    #[error("file system is read-only")]
    ReadOnly,
    /// Writing and reading a small file failed.
    #[error("a small file cannot be written and read: {0}")]
    Probe(#[source] io::Error),
    /// What was written is not what was read.
    #[error("a small file was not read as it was written")]
    Content,
}

impl VolumeFault {
    /// Whether another directory is there now, or none.
    pub fn means_away(&self) -> bool {
        match self {
            Self::Directory(error) => error.kind() == io::ErrorKind::NotFound,
            Self::Replaced | Self::Emptied => true,
            Self::ReadOnly | Self::Probe(_) | Self::Content => false,
        }
    }
}

/// Looks at what the kernel knows without asking the disk.
pub fn look(dir: &Path, opened: DirectoryId, formatted: bool) -> Result<(), VolumeFault> {
    if DirectoryId::of(dir).map_err(VolumeFault::Directory)? != opened {
        return Err(VolumeFault::Replaced);
    }
    check_writable(dir)?;
    match fs::symlink_metadata(dir.join(version_file::FILE_NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && formatted => Err(VolumeFault::Emptied),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(VolumeFault::Directory(error)),
        _ => Ok(()),
    }
}

/// Whether the file system takes changes.
pub fn check_writable(dir: &Path) -> Result<(), VolumeFault> {
    let stat = statvfs(dir).map_err(|errno| VolumeFault::Directory(errno.into()))?;
    if stat.flags().contains(FsFlags::ST_RDONLY) { Err(VolumeFault::ReadOnly) } else { Ok(()) }
}

/// Writes, syncs, reads and removes a small file. A full disk is no fault.
pub fn probe(dir: &Path) -> Result<(), VolumeFault> {
    let path = dir.join(PROBE_FILE);
    let outcome = write_and_read(&path);
    let removed = match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(VolumeFault::Probe(error)),
        _ => Ok(()),
    };
    match outcome {
        Err(VolumeFault::Probe(error)) if is_full(&error) => removed,
        Err(VolumeFault::Probe(error)) if error.raw_os_error() == Some(Errno::EROFS as i32) => {
            Err(VolumeFault::ReadOnly)
        }
        other => other.and(removed),
    }
}

fn is_full(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    // Too many open files say nothing of the disk either.
    matches!(errno, Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM))
}

fn write_and_read(path: &Path) -> Result<(), VolumeFault> {
    let content: Vec<u8> = (0..PROBE_BYTES).map(|i| (i % 251) as u8).collect();
    let mut file = File::create(path).map_err(VolumeFault::Probe)?;
    file.write_all(&content).and_then(|()| file.sync_all()).map_err(VolumeFault::Probe)?;
    let read = fs::read(path).map_err(VolumeFault::Probe)?;
    if read == content { Ok(()) } else { Err(VolumeFault::Content) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_directory_passes_and_others_are_told_apart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let id = DirectoryId::of(dir.path()).expect("a directory");
        probe(dir.path()).expect("good");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0, "nothing is left");
        look(dir.path(), id, false).expect("good");
        assert!(matches!(look(dir.path(), id, true), Err(VolumeFault::Emptied)));
        fs::remove_dir(dir.path()).expect("removed");
        assert!(matches!(look(dir.path(), id, false), Err(VolumeFault::Directory(_))));
        assert!(probe(dir.path()).is_err());
        fs::create_dir(dir.path()).expect("made");
        let other = DirectoryId::of(Path::new("/")).expect("a directory");
        assert!(matches!(look(dir.path(), other, false), Err(VolumeFault::Replaced)));
    }
}
