//! Shapes of `--json` output. Scripts read them: names and units stay as they are.

use dfs_client::{FileKind, FileStatus, escape_name};
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
    /// Names that it has; a directory's also from its entries.
    pub links: u32,
    /// Target of a symbolic link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Number of a device, as `major:minor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
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
            links: status.nlink,
            target: (status.kind == FileKind::Symlink).then(|| escape_name(&status.symlink)),
            device: device_number(status).map(|(major, minor)| format!("{major}:{minor}")),
            open: status.under_construction,
        }
    }
}

/// Major and minor number of a device node, in Linux's encoding.
pub fn device_number(status: &FileStatus) -> Option<(u32, u32)> {
    match status.kind {
        FileKind::CharDevice | FileKind::BlockDevice => {
            Some((libc::major(status.rdev), libc::minor(status.rdev)))
        }
        FileKind::File | FileKind::Directory | FileKind::Symlink | FileKind::Fifo | FileKind::Socket => None,
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
