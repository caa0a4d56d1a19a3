//! Attributes of namespace nodes.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dfs_proto::v1;

use crate::name_text::unescape_name;
use crate::path;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// UNIX socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// Attributes of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStatus {
    /// Full path as asked for; of a listing, the directory's path and the entry's name (see
    /// [`escape_name`](crate::escape_name) for names that are no UTF-8).
    pub path: String,
    /// Name in its directory as stored; empty for the root.
    pub raw_name: Bytes,
    /// Inode id; never used again after deletion.
    pub inode: u64,
    /// Type.
    pub kind: FileKind,
    /// Permission bits, 07777.
    pub mode: u32,
    /// Owner.
    pub owner: String,
    /// Group.
    pub group: String,
    /// Link count.
    pub nlink: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Length in bytes; of a file being written, what the namenode knows.
    pub size: u64,
    /// Last access, ns since the epoch.
    pub atime_ns: i64,
    /// Last change of the content, ns since the epoch.
    pub mtime_ns: i64,
    /// Last change of the attributes, ns since the epoch.
    pub ctime_ns: i64,
    /// Creation, ns since the epoch.
    pub btime_ns: i64,
    /// Block size of a file in bytes; 0 for others.
    pub block_size: u64,
    /// Replication of a file; 0 for others.
    pub replication: u16,
    /// Rises with every change of content or attributes.
    pub change: u64,
    /// Target of a symbolic link; empty for others.
    pub symlink: Bytes,
    /// Open for writing.
    pub under_construction: bool,
}

impl FileStatus {
    /// Attributes of the node at `path`.
    pub(crate) fn of_path(path: &str, status: v1::FileStatus) -> Self {
        let name = path.rsplit('/').next().unwrap_or_default();
        let raw_name = Bytes::copy_from_slice(&unescape_name(name));
        Self::build(path.to_owned(), raw_name, status)
    }

    /// Attributes of an entry of the directory at `parent`; a file lists itself under an empty name.
    pub(crate) fn of_entry(parent: &str, status: v1::FileStatus) -> Self {
        if status.name.is_empty() {
            return Self::of_path(parent, status);
        }
        let path = path::join(parent, &status.name);
        let raw_name = status.name.clone();
        Self::build(path, raw_name, status)
    }

    fn build(path: String, raw_name: Bytes, status: v1::FileStatus) -> Self {
        let kind = match status.r#type() {
            v1::FileType::Unspecified | v1::FileType::File => FileKind::File,
            v1::FileType::Directory => FileKind::Directory,
            v1::FileType::Symlink => FileKind::Symlink,
            v1::FileType::Fifo => FileKind::Fifo,
            v1::FileType::Socket => FileKind::Socket,
            v1::FileType::CharDevice => FileKind::CharDevice,
            v1::FileType::BlockDevice => FileKind::BlockDevice,
        };
        Self {
            path,
            raw_name,
            inode: status.inode,
            kind,
            mode: status.mode,
            owner: status.owner,
            group: status.group,
            nlink: status.nlink,
            rdev: status.rdev,
            size: status.size,
            atime_ns: status.atime_ns,
            mtime_ns: status.mtime_ns,
            ctime_ns: status.ctime_ns,
            btime_ns: status.btime_ns,
            block_size: status.block_size,
            replication: u16::try_from(status.replication).unwrap_or(u16::MAX),
            change: status.change,
            symlink: status.symlink,
            under_construction: status.under_construction,
        }
    }

    /// Name in its directory as the path has it; empty for the root.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// Whether this is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == FileKind::File
    }

    /// Last change of the content.
    pub fn modified(&self) -> SystemTime {
        from_ns(self.mtime_ns)
    }

    /// Last access.
    pub fn accessed(&self) -> SystemTime {
        from_ns(self.atime_ns)
    }
}

/// One page of a directory.
#[derive(Clone, Debug)]
pub struct ListPage {
    /// Entries in bytewise order of their names.
    pub entries: Vec<FileStatus>,
    /// More entries follow; ask again with the last entry's `raw_name`.
    pub has_more: bool,
}

/// A listed node and, if it is a file, its blocks.
#[derive(Clone, Debug)]
pub struct LocatedStatus {
    /// Attributes.
    pub status: FileStatus,
    /// Blocks in order and where their replicas are; empty for what is not a file.
    pub blocks: Vec<v1::LocatedBlock>,
    /// False if the file has more blocks than one answer holds: [`DfsClient::locate`](crate::DfsClient::locate) tells all.
    pub complete: bool,
}

/// A time of a namespace record.
pub(crate) fn from_ns(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns >= 0 { SystemTime::UNIX_EPOCH + distance } else { SystemTime::UNIX_EPOCH - distance }
}

/// A time for a namespace record; what does not fit becomes the nearest that does.
pub(crate) fn to_ns(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_both_ways() {
        for ns in [0, 1, -1, 1_700_000_000_123_456_789, i64::MAX, i64::MIN + 1] {
            assert_eq!(to_ns(from_ns(ns)), ns);
        }
    }

    #[test]
    fn entries_get_the_path_of_their_directory() {
        let entry = v1::FileStatus { name: Bytes::from_static(b"x"), ..Default::default() };
        assert_eq!(FileStatus::of_entry("/a", entry.clone()).path, "/a/x");
        assert_eq!(FileStatus::of_entry("/", entry).path, "/x");
        let itself = FileStatus::of_entry("/a/f", v1::FileStatus::default());
        assert_eq!((itself.path.as_str(), itself.name(), itself.raw_name.as_ref()), ("/a/f", "f", &b"f"[..]));
        assert_eq!(FileStatus::of_path("/", v1::FileStatus::default()).name(), "");
        let odd = v1::FileStatus { name: Bytes::from_static(b"\xff"), ..Default::default() };
        let odd = FileStatus::of_entry("/", odd);
        assert_eq!((odd.path.as_str(), odd.raw_name.as_ref()), ("/\\xff", &b"\xff"[..]));
        assert_eq!(FileStatus::of_path("/\\xff", v1::FileStatus::default()).raw_name, odd.raw_name);
    }
}
