//! Names: looking up, making, removing and moving them.

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use dfs_client::ErrorKind;
use dfs_client::fs::{FileType as Kind, InodeId, MoveMode, MoveResponse, NewNode};
use fuser::{FileAttr, FileType, Generation, INodeNo, ReplyEmpty, ReplyEntry};

use crate::attributes::{self, kind_of_mode};
use crate::caller::{Asker, Who};
use crate::directory_page::{Entry, MAX_NAME_BYTES};
use crate::errno::Refusal;
use crate::mount::{Believed, Mount};

/// Inode numbers are never used again, so that one generation is enough.
pub const GENERATION: Generation = Generation(0);

/// How a node is to be made.
#[derive(Clone, Debug)]
pub struct Making {
    /// Type.
    pub kind: Kind,
    /// Permission bits, unmasked.
    pub mode: u32,
    /// umask of the asking process.
    pub umask: u32,
    /// Device number.
    pub rdev: u32,
    /// Target of a symbolic link.
    pub symlink: Bytes,
}

impl Making {
    /// A node without device number and target. The type of `mode` is not looked at.
    pub fn new(kind: Kind, mode: u32, umask: u32) -> Self {
        Self { kind, mode: mode & 0o7777, umask: umask & 0o777, rdev: 0, symlink: Bytes::new() }
    }

    /// For the cluster, made by `who`.
    pub fn new_node(self, mount: &Mount, who: Who) -> NewNode {
        NewNode {
            umask: self.umask,
            rdev: u64::from(self.rdev),
            symlink: self.symlink,
            ..NewNode::new(self.kind, self.mode, &mount.owners.group_name(who.gid))
        }
    }
}

/// Refuses names that are too long before they cost a call.
pub fn checked(name: &[u8]) -> Result<Vec<u8>, Refusal> {
    if name.len() > MAX_NAME_BYTES { Err(Refusal::NameTooLong) } else { Ok(name.to_vec()) }
}

/// Answers with a name's node, or that there is none.
fn give(reply: ReplyEntry, found: Result<Believed, Duration>) {
    match found {
        Ok((attr, ttl)) => reply.entry(&ttl, &attr, GENERATION),
        // Number 0 says that the name is not there, which the kernel may believe as long.
        Err(ttl) if !ttl.is_zero() => reply.entry(&ttl, &no_node(), GENERATION),
        Err(_) => reply.error(fuser::Errno::ENOENT),
    }
}

fn no_node() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// `lookup`. "." and ".." are asked for when a file handle that left the kernel's memory is opened
/// (open_by_handle_at, NFS); the parent is not known then.
pub fn lookup(mount: &Arc<Mount>, who: Who, parent: INodeNo, name: &[u8], reply: ReplyEntry) {
    let dir = mount.inode(parent);
    if name == b".." {
        return Mount::refuse(reply, &Refusal::Stale);
    }
    let name = match checked(name) {
        Ok(name) => name,
        Err(refusal) => return Mount::refuse(reply, &refusal),
    };
    if name != b"."
        && let Some(known) = mount.known_name(dir, &name, Instant::now())
    {
        return give(reply, known);
    }
    let shared = mount.clone();
    let work = async move {
        if name == b"." {
            return Ok(Ok((shared.current(who, dir).await?.attr, shared.ttl())));
        }
        shared.look_up(who, dir, &name).await
    };
    mount.answer(who, reply, work, give);
}

/// `mknod`: files, pipes, sockets and devices.
pub fn mknod(
    mount: &Arc<Mount>,
    who: Who,
    at: (INodeNo, &[u8]),
    (mode, umask, rdev): (u32, u32, u32),
    reply: ReplyEntry,
) {
    match kind_of_mode(mode) {
        Some(kind) => make(mount, who, at, Making { rdev, ..Making::new(kind, mode, umask) }, reply),
        None => Mount::refuse(reply, &Refusal::InvalidArgument),
    }
}

/// Makes a node that is not opened.
pub fn make(mount: &Arc<Mount>, who: Who, at: (INodeNo, &[u8]), making: Making, reply: ReplyEntry) {
    let (dir, name, shared) = (mount.inode(at.0), checked(at.1), mount.clone());
    let work = async move {
        let name = name?;
        let directory = making.kind == Kind::Directory;
        let new = making.new_node(&shared, who);
        let mut asker = Asker::new(who, &shared.owners);
        let status = loop {
            match shared.fs.make_node(asker.caller(), dir, &name, new.clone()).await {
                Err(refusal) if asker.widen(&refusal) => {}
                answer => break answer?,
            }
        };
        if directory {
            shared.directories.made(InodeId(status.inode), Instant::now());
        }
        Ok((shared.entry_made(dir, &name, &status).attr, shared.ttl()))
    };
    mount.answer(who, reply, work, |reply, made| give(reply, Ok(made)));
}

/// `unlink` and `rmdir`.
pub fn remove(mount: &Arc<Mount>, who: Who, at: (INodeNo, &[u8]), directory: bool, reply: ReplyEmpty) {
    let (dir, name, shared) = (mount.inode(at.0), checked(at.1), mount.clone());
    let work = async move {
        let name = name?;
        let mut asker = Asker::new(who, &shared.owners);
        let status = loop {
            match shared.fs.unlink(asker.caller(), dir, &name, directory).await {
                Err(refusal) if asker.widen(&refusal) => {}
                Err(refusal) => {
                    if refusal.kind() == ErrorKind::NotFound {
                        // Another mount was first.
                        shared.directories.changed(dir, &name, None);
                    }
                    return Err(refusal.into());
                }
                Ok(status) => break status,
            }
        };
        if directory {
            shared.directories.forget(InodeId(status.inode));
        }
        shared.entry_removed(dir, &name, &status);
        Ok(())
    };
    mount.answer(who, reply, work, |reply, ()| reply.ok());
}

/// `rename`.
pub fn rename(
    mount: &Arc<Mount>,
    who: Who,
    from: (INodeNo, &[u8]),
    to: (INodeNo, &[u8]),
    mode: MoveMode,
    reply: ReplyEmpty,
) {
    let (src_dir, dst_dir) = (mount.inode(from.0), mount.inode(to.0));
    let (src, dst, shared) = (checked(from.1), checked(to.1), mount.clone());
    let work = async move {
        let (src, dst) = (src?, dst?);
        let mut asker = Asker::new(who, &shared.owners);
        let answer = loop {
            match shared.fs.rename(asker.caller(), src_dir, &src, dst_dir, &dst, mode).await {
                Err(refusal) if asker.widen(&refusal) => {}
                answer => break answer?,
            }
        };
        shared.moved((src_dir, &src), (dst_dir, &dst), mode, &answer);
        Ok(())
    };
    mount.answer(who, reply, work, |reply, ()| reply.ok());
}

impl Mount {
    /// Makes the caches agree with a move that was made through this mount.
    fn moved(&self, src: (InodeId, &[u8]), dst: (InodeId, &[u8]), mode: MoveMode, answer: &MoveResponse) {
        let Some(moved) = &answer.moved else {
            // Nothing can be said of either directory.
            for (dir, _) in [src, dst] {
                self.directories.forget(dir);
                self.attrs.expire(dir);
            }
            return;
        };
        let node = self.learn_change(moved);
        let other = answer.other.as_ref().map(|other| (self.learn_change(other), InodeId(other.inode)));
        if other.as_ref().is_some_and(|(_, inode)| inode.get() == moved.inode) {
            // Two names of one file: POSIX wants nothing done.
            return;
        }
        let exchanged = mode == MoveMode::Exchange;
        let back = other
            .as_ref()
            .filter(|_| exchanged)
            .map(|(other, inode)| Entry { inode: *inode, kind: other.attr.kind });
        let came = Entry { inode: InodeId(moved.inode), kind: node.attr.kind };
        self.directories.changed(src.0, src.1, back);
        self.directories.changed(dst.0, dst.1, Some(came));
        let directory = |kind: FileType| i32::from(kind == FileType::Directory);
        let to_dst = directory(node.attr.kind);
        let from_dst = other.as_ref().map_or(0, |(other, _)| directory(other.attr.kind));
        let to_src = if exchanged { from_dst } else { 0 };
        let at = attributes::time(moved.ctime_ns);
        self.attrs.entry_changed(src.0, at, to_src - to_dst);
        self.attrs.entry_changed(dst.0, at, to_dst - from_dst);
        if let (Some((_, replaced)), false) = (other, exchanged) {
            self.directories.forget(replaced);
        }
    }
}
