//! Where a volume's directory is mounted, and which directory it is.
//!
//! When a disk is unmounted, or fails to be mounted, its mount point is an empty directory of the system's disk, which must not
//! be taken for a new, empty volume: it would be filled.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A directory, whatever its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectoryId {
    device: u64,
    inode: u64,
}

impl DirectoryId {
    /// Which directory has a name now.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(dir)?;
        if !metadata.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// The mount point that a directory is below; `None`: it is on the file system of the root directory.
pub fn mount_point_of(dir: &Path) -> io::Result<Option<PathBuf>> {
    let dir = fs::canonicalize(dir)?;
    Ok(dir.ancestors().find(|above| is_mount_point(above)).map(Path::to_owned))
}

/// Whether something other than what its parent directory is on is mounted at a directory.
pub fn is_mount_point(dir: &Path) -> bool {
    let Some(parent) = dir.parent() else { return false };
    match (fs::metadata(dir), fs::metadata(parent)) {
        (Ok(here), Ok(above)) => here.dev() != above.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_above_a_directory() {
        assert_eq!(mount_point_of(Path::new("/proc/sys/kernel")).expect("found"), Some("/proc".into()));
        assert!(is_mount_point(Path::new("/proc")) && !is_mount_point(Path::new("/")));
        let dir = tempfile::tempdir().expect("temporary directory");
        assert!(!is_mount_point(dir.path()));
        let first = DirectoryId::of(dir.path()).expect("a directory");
        assert_eq!(DirectoryId::of(dir.path()).expect("a directory"), first);
        assert!(DirectoryId::of(&dir.path().join("none")).is_err());
    }
}
