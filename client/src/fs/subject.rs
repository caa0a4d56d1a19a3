//! What a call is about, for error texts: rendered only if the call fails.

use std::fmt;

use dfs_proto::InodeId;

/// A node by inode, or a name in a directory.
pub(super) enum Subject<'a> {
    /// A node.
    Inode(InodeId),
    /// A name in a directory.
    Entry(InodeId, &'a [u8]),
    /// Everything that the session changed.
    Session,
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inode(inode) => write!(f, "{inode}"),
            Self::Entry(parent, name) => write!(f, "{} in {parent}", name.escape_ascii()),
            Self::Session => f.write_str("changes of this session"),
        }
    }
}
