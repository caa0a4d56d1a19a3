//! Where a mount in the background logs: a file, or systemd's journal.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::error::MountError;

/// Socket on which the journal takes lines of text.
const JOURNAL: &str = "/run/systemd/journal/stdout";
/// What the journal wants to know first, a line each: identifier, unit, priority (6 is "info"), whether lines carry a level prefix, and
/// whether they are copied to syslog, the kernel's log and the console.
const JOURNAL_HEADER: &[u8] = b"dfs-fuse\n\n6\n0\n0\n0\n0\n";
/// A log file larger than this is put aside when a mount starts.
const ROTATE_BYTES: u64 = 16 << 20;

/// Opens the log: `file` if named, else the journal if there is one, else a file of its own for the mount point. The text names
/// it for people.
pub fn open(file: Option<&Path>, mountpoint: &Path) -> Result<(OwnedFd, String), MountError> {
    if file.is_none()
        && let Ok(journal) = journal()
    {
        return Ok((journal, "the journal (journalctl -t dfs-fuse)".to_owned()));
    }
    let path = match file {
        Some(path) => path.to_owned(),
        None => default_file(mountpoint)?,
    };
    match open_file(&path) {
        Ok(opened) => Ok((opened, path.display().to_string())),
        Err(source) => Err(MountError::Log { path, source }),
    }
}

fn journal() -> io::Result<OwnedFd> {
    let mut stream = UnixStream::connect(JOURNAL)?;
    stream.write_all(JOURNAL_HEADER)?;
    Ok(stream.into())
}

fn open_file(path: &Path) -> io::Result<OwnedFd> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > ROTATE_BYTES) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    Ok(OpenOptions::new().create(true).append(true).open(path)?.into())
}

/// `$XDG_STATE_HOME/dfs/logs/mount-mnt-dfs.log` for `/mnt/dfs`, or the same below `~/.dfs`.
fn default_file(mountpoint: &Path) -> Result<PathBuf, MountError> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME")
        .map(|dir| dir.join("dfs"))
        .or_else(|| set("HOME").map(|home| home.join(".dfs")))
        .ok_or(MountError::NoLogPlace)?;
    Ok(state.join("logs").join(file_name(mountpoint)))
}

fn file_name(mountpoint: &Path) -> PathBuf {
    let mut name = b"mount".to_vec();
    name.extend(
        mountpoint.as_os_str().as_bytes().iter().map(|byte| if *byte == b'/' { b'-' } else { *byte }),
    );
    name.extend(b".log");
    OsStr::from_bytes(&name).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_file_is_named_after_the_mount_point() {
        assert_eq!(file_name(Path::new("/mnt/dfs")), Path::new("mount-mnt-dfs.log"));
    }

    #[test]
    fn a_named_file_is_appended_to_and_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/a.log");
        let (log, shown) = open(Some(&path), Path::new("/mnt")).unwrap();
        std::fs::File::from(log).write_all(b"one\n").unwrap();
        std::fs::File::from(open(Some(&path), Path::new("/mnt")).unwrap().0).write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(shown, path.display().to_string());
        std::fs::File::options().write(true).open(&path).unwrap().set_len(ROTATE_BYTES + 1).unwrap();
        open(Some(&path), Path::new("/mnt")).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        assert!(path.with_extension("log.1").exists());
    }
}
