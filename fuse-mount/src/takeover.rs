//! Mount points: what is there now, and making room.
//!
//! The mount point of a killed `dfs-fuse` stays in the mount table and answers "Transport endpoint is not connected" to everything. It
//! is cleaned up and taken over. A mount that lives is left alone, and another one there is refused.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::ops::xattrs::IDENTITY;

/// The kernel's table of mounts.
const MOUNT_TABLE: &str = "/proc/self/mountinfo";
/// Program that unmounts for ordinary users.
const FUSERMOUNT: &str = "fusermount3";
/// Longest identity of a mount: numbers, namenodes, a path.
const MAX_IDENTITY_BYTES: usize = 8_192;

/// A line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Device number, `MAJOR:MINOR`.
    pub device: String,
    /// Type, such as `fuse.dfs`.
    pub kind: String,
    /// What is mounted.
    pub source: OsString,
}

impl Mounted {
    /// The device number as `stat` tells it.
    pub fn device_number(&self) -> Option<u64> {
        let (major, minor) = self.device.split_once(':')?;
        Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
    }
}

/// What is at a mount point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing that is in the way.
    Free,
    /// A mount whose process is gone.
    Dead,
    /// A mount of dfs that serves.
    Alive(Mounted),
}

/// The absolute path of a mount point, which may be dead and cannot be looked at then.
pub fn absolute(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let whole = fs::canonicalize(parent)?.join(name);
            // A symbolic link is followed; anything else, a dead mount among them, is as it is.
            match fs::symlink_metadata(&whole) {
                Ok(found) if found.is_symlink() => fs::canonicalize(&whole),
                _ => Ok(whole),
            }
        }
        _ => fs::canonicalize(path),
    }
}

/// What is at the absolute path `mountpoint`.
pub fn look(mountpoint: &Path) -> io::Result<Place> {
    let Some(mounted) = find(&fs::read(MOUNT_TABLE)?, mountpoint) else { return Ok(Place::Free) };
    if !mounted.kind.starts_with("fuse") {
        return Ok(Place::Free);
    }
    match identity(mountpoint) {
        Err(Errno::ENOTCONN | Errno::ECONNABORTED) => Ok(Place::Dead),
        _ if mounted.kind == "fuse.dfs" => Ok(Place::Alive(mounted)),
        _ => Ok(Place::Free),
    }
}

/// The line of the table for what is mounted last at `mountpoint`.
pub fn mounted_at(mountpoint: &Path) -> io::Result<Option<Mounted>> {
    Ok(find(&fs::read(MOUNT_TABLE)?, mountpoint))
}

/// Takes a mount away from its mount point; processes that still use it keep it until they are done.
pub fn detach(mountpoint: &Path) -> io::Result<()> {
    match umount2(mountpoint, MntFlags::MNT_DETACH) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => {
            let mut command = Command::new(FUSERMOUNT);
            let outcome = command.args(["-u", "-z", "--"]).arg(mountpoint).stdin(Stdio::null()).output()?;
            if outcome.status.success() {
                return Ok(());
            }
            let text = String::from_utf8_lossy(&outcome.stderr).trim().to_owned();
            Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
        }
        Err(errno) => Err(errno.into()),
    }
}

/// What the process of a mount tells about itself. Answered by the process, never by the kernel alone.
pub fn identity(mountpoint: &Path) -> Result<String, Errno> {
    let path = CString::new(mountpoint.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let name = CString::new(IDENTITY).map_err(|_| Errno::EINVAL)?;
    let mut value = vec![0u8; MAX_IDENTITY_BYTES];
    // SAFETY: path and name end with NUL and live through the call; the kernel writes at most the given number of bytes.
    let length =
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    let length = usize::try_from(Errno::result(length)?).map_err(|_| Errno::EINVAL)?;
    value.truncate(length);
    String::from_utf8(value).map_err(|_| Errno::EINVAL)
}

fn find(table: &[u8], mountpoint: &Path) -> Option<Mounted> {
    table.split(|byte| *byte == b'\n').rev().find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = fields.by_ref().nth(2)?;
        let place = fields.nth(1)?;
        if unescaped(place) != mountpoint.as_os_str() {
            return None;
        }
        let mut behind = fields.skip_while(|field| *field != b"-").skip(1);
        let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
        Some(Mounted { device: text(device), kind: text(behind.next()?), source: unescaped(behind.next()?) })
    })
}

/// The table writes space, tab, line end and backslash as `\ooo`.
fn unescaped(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let code =
            behind.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[3..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        97 22 0:48 / /mnt/a\\040b rw,nosuid shared:4 master:1 - fuse.dfs 127.0.0.1:9820/x rw,user_id=0\n\
        98 22 0:49 / /mnt/c rw - tmpfs tmpfs rw\n\
        99 98 0:50 / /mnt/c rw - fuse.dfs nn1:1;nn2:2 rw\n";

    #[test]
    fn the_mount_table_is_understood() {
        let found = find(TABLE, Path::new("/mnt/a b")).unwrap();
        assert_eq!((found.device.as_str(), found.kind.as_str()), ("0:48", "fuse.dfs"));
        assert_eq!((found.source.to_str(), found.device_number()), (Some("127.0.0.1:9820/x"), Some(48)));
        assert_eq!(find(TABLE, Path::new("/mnt/c")).unwrap().source, "nn1:1;nn2:2", "the last one is on top");
        assert_eq!(find(TABLE, Path::new("/mnt")), None);
        assert_eq!(find(b"\n12\n1 2 3\n", Path::new("/")), None);
    }

    #[test]
    fn ordinary_directories_are_free() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(look(&fs::canonicalize(dir.path()).unwrap()).unwrap(), Place::Free);
        assert!(identity(dir.path()).is_err());
    }

    #[test]
    fn paths_become_absolute_without_a_look_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        assert_eq!(absolute(&dir.path().join("not there")).unwrap(), real.join("not there"));
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(absolute(&real.join("link")).unwrap(), real);
        assert_eq!(absolute(Path::new("/")).unwrap(), Path::new("/"));
        assert!(absolute(&real.join("no/such")).is_err());
    }
}
