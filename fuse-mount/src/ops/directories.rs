//! Reading directories.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Instant;

use dfs_client::fs::FileStatus;
use fuser::{
    FileAttr, FileHandle, FileType, FopenFlags, INodeNo, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyOpen,
};

use crate::caller::Who;
use crate::calls::Fail;
use crate::directory_page::Entry;
use crate::directory_stream::{DOTS, DirectoryHandle};
use crate::errno::Refusal;
use crate::mount::{Mount, PAGE_ENTRIES, Wanted};
use crate::ops::names::GENERATION;

/// Entries asked for with their attributes before it is known whether a program looks at them. Most directories have fewer.
const FIRST_ENTRIES: u32 = 128;

/// An entry with the position behind it.
type Placed = (u64, Box<[u8]>, Entry);

/// A reply that takes entries until it is full.
pub trait Listing: Fail {
    /// Whether it takes attributes.
    const ATTRIBUTES: bool;
    /// Adds an entry; `false` if it did not fit.
    fn put(&mut self, mount: &Mount, placed: &Placed) -> bool;
    /// Sends what was added.
    fn send(self);
}

impl Listing for ReplyDirectory {
    const ATTRIBUTES: bool = false;

    fn put(&mut self, mount: &Mount, (position, name, entry): &Placed) -> bool {
        !self.add(mount.ino(entry.inode), *position, entry.kind, OsStr::from_bytes(name))
    }

    fn send(self) {
        self.ok();
    }
}

impl Listing for ReplyDirectoryPlus {
    const ATTRIBUTES: bool = true;

    fn put(&mut self, mount: &Mount, (position, name, entry): &Placed) -> bool {
        // The kernel keeps nodes with their attributes but of ".", ".." and those with number 0: attributes may have left the
        // cache meanwhile.
        let known = if *position <= DOTS { None } else { mount.known(entry.inode, Instant::now()) };
        let (ino, attr, ttl) = match known {
            Some((node, left)) => (node.attr.ino, node.attr, left),
            None => (INodeNo(0), bare(mount, *entry), mount.ttl()),
        };
        !self.add(ino, *position, OsStr::from_bytes(name), &ttl, &attr, GENERATION)
    }

    fn send(self) {
        self.ok();
    }
}

/// Number and type, which is all that the kernel looks at where it does not keep the node.
fn bare(mount: &Mount, entry: Entry) -> FileAttr {
    let status = FileStatus { inode: entry.inode.get(), ..FileStatus::default() };
    let mut attr = mount.node(&status).attr;
    attr.kind = entry.kind;
    attr
}

/// `opendir`.
pub fn open(mount: &Arc<Mount>, ino: INodeNo, reply: ReplyOpen) {
    let handle = mount.streams.insert(DirectoryHandle::new(mount.inode(ino)));
    reply.opened(handle, FopenFlags::empty());
}

/// `releasedir`.
pub fn release(mount: &Arc<Mount>, handle: FileHandle, reply: ReplyEmpty) {
    match mount.streams.remove(handle) {
        Ok(_) => reply.ok(),
        Err(refusal) => Mount::refuse(reply, &refusal),
    }
}

/// `fsyncdir`: all changes answered before are on disk.
pub fn fsync(mount: &Arc<Mount>, who: Who, reply: ReplyEmpty) {
    let shared = mount.clone();
    mount.answer(who, reply, async move { Ok(shared.fs.sync().await?) }, |reply, ()| reply.ok());
}

/// `readdir` and `readdirplus`.
pub fn read<L: Listing>(mount: &Arc<Mount>, who: Who, handle: FileHandle, position: u64, reply: L) {
    let handle = match mount.streams.get(handle) {
        Ok(handle) => handle,
        Err(refusal) => return Mount::refuse(reply, &refusal),
    };
    let (shared, reading) = (mount.clone(), handle.clone());
    let work = async move { shared.next_entries(who, &reading, position, L::ATTRIBUTES).await };
    let shared = mount.clone();
    mount.answer(who, reply, work, move |mut reply, entries| {
        let fitted = entries.iter().take_while(|entry| reply.put(&shared, entry)).count();
        handle.took(fitted, entries.len());
        reply.send();
    });
}

impl Mount {
    /// Entries behind a position, as many as will fit into an answer and perhaps more; none at the end.
    async fn next_entries(
        &self,
        who: Who,
        handle: &DirectoryHandle,
        position: u64,
        attributes: bool,
    ) -> Result<Vec<Placed>, Refusal> {
        let mut placed = Vec::new();
        let dots: [&[u8]; 2] = [b".", b".."];
        for (at, name) in (1..).zip(dots) {
            if position < at {
                // What ".." is does not matter to the kernel, which knows the parent itself.
                placed.push((at, name.into(), Entry { inode: handle.dir, kind: FileType::Directory }));
            }
        }
        let mut positions = handle.positions.lock().await;
        let (mut at, after) = positions.name(position).ok_or(Refusal::InvalidArgument)?;
        let limit = handle.wanted();
        let now = Instant::now();
        let known = self.directories.after(handle.dir, &after, limit, now);
        let has_attributes = |(_, entry): &(_, Entry)| self.attrs.get(entry.inode, now).is_some();
        let entries = match known {
            Some((entries, _)) if !attributes || entries.iter().all(has_attributes) => entries,
            _ => {
                let wanted = match (attributes, position) {
                    (false, _) => Wanted::Names,
                    // The kernel always takes attributes with the first names, whether or not a program wants them.
                    (true, 0) => Wanted::Attributes(FIRST_ENTRIES),
                    (true, _) => Wanted::Attributes(PAGE_ENTRIES),
                };
                let mut entries = self.page(who, handle.dir, &after, wanted).await?;
                entries.truncate(limit);
                entries
            }
        };
        for (name, entry) in entries {
            at = positions.push(at, &name);
            placed.push((at, name, entry));
        }
        Ok(placed)
    }
}
