//! Hard and symbolic links.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dfs_client::fs::FileType as Kind;
use fuser::{INodeNo, ReplyData, ReplyEntry};

use crate::caller::{Asker, Who};
use crate::errno::Refusal;
use crate::mount::Mount;
use crate::ops::names::{GENERATION, Making, checked, make};

/// Permission bits of symbolic links, as everywhere on Linux.
const SYMLINK_MODE: u32 = 0o777;

/// `symlink`.
pub fn symlink(mount: &Arc<Mount>, who: Who, at: (INodeNo, &[u8]), target: &[u8], reply: ReplyEntry) {
    let symlink = Bytes::copy_from_slice(target);
    let making = Making { symlink, ..Making::new(Kind::Symlink, SYMLINK_MODE, 0) };
    make(mount, who, at, making, reply);
}

/// `readlink`.
pub fn readlink(mount: &Arc<Mount>, who: Who, ino: INodeNo, reply: ReplyData) {
    let inode = mount.inode(ino);
    if let Some((node, _)) = mount.attrs.get(inode, Instant::now())
        && let Some(target) = node.symlink
    {
        return reply.data(&target);
    }
    let shared = mount.clone();
    let work = async move { shared.stat(who, inode).await?.symlink.ok_or(Refusal::InvalidArgument) };
    mount.answer(who, reply, work, |reply, target| reply.data(&target));
}

/// `link`.
pub fn link(mount: &Arc<Mount>, who: Who, ino: INodeNo, at: (INodeNo, &[u8]), reply: ReplyEntry) {
    let (inode, dir) = (mount.inode(ino), mount.inode(at.0));
    let (name, shared) = (checked(at.1), mount.clone());
    let work = async move {
        let name = name?;
        let mut asker = Asker::new(who, &shared.owners);
        let status = loop {
            match shared.fs.link(asker.caller(), inode, dir, &name).await {
                Err(refusal) if asker.widen(&refusal) => {}
                answer => break answer?,
            }
        };
        shared.contents.changed_once(inode, status.change);
        Ok((shared.entry_made(dir, &name, &status).attr, shared.ttl()))
    };
    mount.answer(who, reply, work, |reply, (attr, ttl)| reply.entry(&ttl, &attr, GENERATION));
}
