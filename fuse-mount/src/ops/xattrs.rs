//! Extended attributes.
//!
//! Most files have none, which is part of what is kept of a node: the kernel's questions for `security.capability` (before
//! writes) and for ACLs (at permission checks) are then answered at once.
//!
//! The root of a mount has two more, which are not listed: [`IDENTITY`], from which `dfs umount` learns which process to wait for, and
//! [`METRICS`].

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use dfs_client::fs::{FileStatus, InodeId, XattrMode};
use fuser::{INodeNo, ReplyEmpty, ReplyXattr};

use crate::caller::{Asker, Who};
use crate::errno::Refusal;
use crate::metrics::{GROWTH_BYTES, METRICS};
use crate::mount::Mount;

/// Process, its start time, namenode and directory of a mount, separated by spaces.
pub const IDENTITY: &[u8] = b"user.dfs.mount";
/// Longest value, as everywhere on Linux.
const MAX_VALUE_BYTES: usize = 65_536;
/// Namespaces of names that files can have.
const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system.posix_acl_"];

fn is_known(name: &[u8]) -> bool {
    NAMESPACES.iter().any(|space| name.len() > space.len() && name.starts_with(space))
}

/// Answers with a value, or with its length if only that is asked for.
fn give(reply: ReplyXattr, size: u32, value: &[u8]) {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    if size == 0 {
        reply.size(length);
    } else if length > size {
        Mount::refuse(reply, &Refusal::BufferTooSmall);
    } else {
        reply.data(value);
    }
}

/// `getxattr`.
pub fn get(mount: &Arc<Mount>, who: Who, ino: INodeNo, name: &[u8], size: u32, reply: ReplyXattr) {
    if ino == INodeNo::ROOT && name == IDENTITY {
        return give(reply, size, mount.identity().as_bytes());
    }
    if ino == INodeNo::ROOT && name == METRICS {
        let text = mount.metrics();
        return match size {
            0 => reply.size(u32::try_from(text.len() + GROWTH_BYTES).unwrap_or(u32::MAX)),
            _ => give(reply, size, text.as_bytes()),
        };
    }
    if !is_known(name) {
        return Mount::refuse(reply, &Refusal::NotSupported);
    }
    let inode = mount.inode(ino);
    if mount.attrs.get(inode, Instant::now()).is_some_and(|(node, _)| !node.has_xattrs) {
        return Mount::refuse(reply, &Refusal::NoAttribute);
    }
    let (name, shared) = (name.to_vec(), mount.clone());
    let work = async move {
        if !shared.current(who, inode).await?.has_xattrs {
            return Err(Refusal::NoAttribute);
        }
        let mut asker = Asker::new(who, &shared.owners);
        loop {
            match shared.fs.get_xattr(asker.caller(), inode, &name).await {
                Err(refusal) if asker.widen(&refusal) => {}
                answer => return Ok(answer?),
            }
        }
    };
    mount.answer(who, reply, work, move |reply, value: Bytes| give(reply, size, &value));
}

/// `listxattr`.
pub fn list(mount: &Arc<Mount>, who: Who, ino: INodeNo, size: u32, reply: ReplyXattr) {
    let inode = mount.inode(ino);
    if mount.attrs.get(inode, Instant::now()).is_some_and(|(node, _)| !node.has_xattrs) {
        return give(reply, size, b"");
    }
    let shared = mount.clone();
    let work = async move {
        let mut asker = Asker::new(who, &shared.owners);
        let names = loop {
            match shared.fs.list_xattrs(asker.caller(), inode).await {
                Err(refusal) if asker.widen(&refusal) => {}
                answer => break answer?,
            }
        };
        let mut list = BytesMut::new();
        for name in names {
            list.extend_from_slice(&name);
            list.extend_from_slice(b"\0");
        }
        Ok(list)
    };
    mount.answer(who, reply, work, move |reply, list| give(reply, size, &list));
}

/// `setxattr`.
pub fn set(
    mount: &Arc<Mount>,
    who: Who,
    ino: INodeNo,
    (name, value): (&[u8], &[u8]),
    flags: i32,
    reply: ReplyEmpty,
) {
    let mode = match flags {
        0 => XattrMode::Any,
        libc::XATTR_CREATE => XattrMode::Create,
        libc::XATTR_REPLACE => XattrMode::Replace,
        _ => return Mount::refuse(reply, &Refusal::InvalidArgument),
    };
    if !is_known(name) {
        return Mount::refuse(reply, &Refusal::NotSupported);
    }
    if value.len() > MAX_VALUE_BYTES {
        return reply.error(fuser::Errno::E2BIG);
    }
    let (inode, name, value) = (mount.inode(ino), name.to_vec(), value.to_vec());
    let shared = mount.clone();
    let work = async move {
        let mut asker = Asker::new(who, &shared.owners);
        let status = loop {
            match shared.fs.set_xattr(asker.caller(), inode, &name, &value, mode).await {
                Err(refusal) if asker.widen(&refusal) => {}
                answer => break answer?,
            }
        };
        shared.xattr_changed(inode, &status);
        Ok(())
    };
    mount.answer(who, reply, work, |reply, ()| reply.ok());
}

/// `removexattr`.
pub fn remove(mount: &Arc<Mount>, who: Who, ino: INodeNo, name: &[u8], reply: ReplyEmpty) {
    if !is_known(name) {
        return Mount::refuse(reply, &Refusal::NotSupported);
    }
    let (inode, name, shared) = (mount.inode(ino), name.to_vec(), mount.clone());
    let work = async move {
        let mut asker = Asker::new(who, &shared.owners);
        let status = loop {
            match shared.fs.remove_xattr(asker.caller(), inode, &name).await {
                Err(refusal) if asker.widen(&refusal) => {}
                answer => break answer?,
            }
        };
        shared.xattr_changed(inode, &status);
        Ok(())
    };
    mount.answer(who, reply, work, |reply, ()| reply.ok());
}

impl Mount {
    /// Extended attributes were changed through this mount; an ACL changes the permission bits too.
    fn xattr_changed(&self, inode: InodeId, status: &FileStatus) {
        self.contents.changed_once(inode, status.change);
        self.learn_change(status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_namespaces_are_not_known() {
        assert!(is_known(b"user.note") && is_known(b"security.capability"));
        assert!(is_known(b"system.posix_acl_access"));
        for name in [&b"user."[..], b"note", b"system.other", b"", b"lustre.x"] {
            assert!(!is_known(name), "{name:?}");
        }
    }
}
