//! What is told about nodes that are made, changed or opened.

use bytes::Bytes;
use dfs_proto::v1::{FileType, SetAttributesRequest};

/// A node to be made.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// Type.
    pub kind: FileType,
    /// Permission bits, 07777; the umask already applied unless `umask` is set.
    pub mode: u32,
    /// umask of the caller, for directories with a default ACL: `mode` then comes unmasked. Otherwise 0.
    pub umask: u32,
    /// Group; empty, or in a directory with the set-group-id bit: the directory's.
    pub group: String,
    /// Device number of a device node.
    pub rdev: u64,
    /// Target of a symbolic link.
    pub symlink: Bytes,
}

impl NewNode {
    /// A node of type `kind` with the group `group`.
    pub fn new(kind: FileType, mode: u32, group: &str) -> Self {
        Self { kind, mode, umask: 0, group: group.to_owned(), rdev: 0, symlink: Bytes::new() }
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// For writing (and reading). Takes the file's lease for the session.
    pub write: bool,
    /// Cut to length 0 (with `write`).
    pub truncate: bool,
}

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the call.
    Now,
    /// Nanoseconds since the epoch.
    At(i64),
}

/// Attributes to be set in one step; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct SetAttributes {
    /// Permission bits, 07777.
    pub mode: Option<u32>,
    /// Owner.
    pub owner: Option<String>,
    /// Group.
    pub group: Option<String>,
    /// Length of a file: cut, or grown with a hole.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// Clear set-user-id and set-group-id as a write by an ordinary user does.
    pub kill_privileges: bool,
    /// The caller has the file open for writing: no write permission is needed to set its size.
    pub opened: bool,
}

impl SetAttributes {
    /// Whether anything but the size is to be set.
    pub(super) fn more_than_size(&self) -> bool {
        self.mode.is_some()
            || self.owner.is_some()
            || self.group.is_some()
            || self.atime.is_some()
            || self.mtime.is_some()
            || self.kill_privileges
    }

    /// The request, without context, node and session.
    pub(super) fn into_request(self) -> SetAttributesRequest {
        let at = |time: Option<SetTime>| match time {
            Some(SetTime::At(ns)) => Some(ns),
            Some(SetTime::Now) | None => None,
        };
        SetAttributesRequest {
            context: None,
            node: None,
            mode: self.mode,
            atime_ns: at(self.atime),
            mtime_ns: at(self.mtime),
            atime_now: self.atime == Some(SetTime::Now),
            mtime_now: self.mtime == Some(SetTime::Now),
            owner: self.owner,
            group: self.group,
            size: self.size,
            session: String::new(),
            kill_privileges: self.kill_privileges,
            opened: self.opened,
        }
    }
}
