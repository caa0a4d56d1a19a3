//! Shapes of `--json` output. Scripts read them: names and units stay as they are.

use dfs_client::{FileKind, FileStatus};
use serde::Serialize;

use crate::times;

/// A node, as `ls`, `stat` and `find` tell it. Times are milliseconds since 1970.
#[derive(Debug, Serialize)]
pub struct NodeRow {
    /// Absolute path.
    pub path: String,
    /// `file`, `directory`, `symlink`, ...
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Permission bits in octal, such as `755`.
    pub permission: String,
    /// Replicas wanted; 0 for what is not a file.
    pub replication: u16,
    /// Owner.
    pub owner: String,
    /// Group.
    pub group: String,
    /// Bytes.
    pub length: u64,
    /// Bytes of a full block; 0 for what is not a file.
    pub block_size: u64,
    /// Last change of the content.
    pub modification_time_ms: i64,
    /// Last access.
    pub access_time_ms: i64,
    /// Inode id.
    pub inode: u64,
    /// Being written.
    pub open: bool,
}

impl NodeRow {
    /// The row of a node.
    pub fn new(path: &str, status: &FileStatus) -> Self {
        Self {
            path: path.to_owned(),
            kind: kind_word(status.kind),
            permission: format!("{:o}", status.mode),
            replication: status.replication,
            owner: status.owner.clone(),
            group: status.group.clone(),
            length: status.size,
            block_size: status.block_size,
            modification_time_ms: times::millis(status.mtime_ns),
            access_time_ms: times::millis(status.atime_ns),
            inode: status.inode,
            open: status.under_construction,
        }
    }
}

/// Word for a type.
pub fn kind_word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "character device",
        FileKind::BlockDevice => "block device",
    }
}

/// Letter for a type, as `ls` puts it before the permission bits.
pub fn kind_letter(kind: FileKind) -> char {
    match kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
    }
}
