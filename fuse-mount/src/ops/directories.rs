//! Reading directories.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dfs_client::fs::{FileStatus, InodeId};
use fuser::{
    FileAttr, FileHandle, FileType, FopenFlags, INodeNo, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyOpen,
};

use crate::caller::Who;
use crate::calls::Fail;
use crate::directory_cache::Following;
use crate::directory_page::Entry;
use crate::directory_stream::{DOTS, DirectoryHandle, Room};
use crate::errno::Refusal;
use crate::mount::{Mount, PAGE_ENTRIES, Wanted};
use crate::ops::names::GENERATION;

/// Entries asked for with their attributes before it is known whether a program looks at them: with the kernel's
/// work, each takes 10 us. Most directories have fewer.
const FIRST_ENTRIES: u32 = 64;

/// An entry with the position behind it.
type Placed = (u64, Bytes, Entry);

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

/// `fsyncdir`: all changes answered before are on disk, or those of this directory are lost.
pub fn fsync(mount: &Arc<Mount>, who: Who, ino: INodeNo, reply: ReplyEmpty) {
    let shared = mount.clone();
    let inode = InodeId(ino.0);
    let sync = async move { Ok(shared.fs.sync_directory(inode).await?) };
    mount.answer(who, reply, sync, |reply, ()| reply.ok());
}

/// `readdir` and `readdirplus`.
pub fn read<L: Listing>(
    mount: &Arc<Mount>,
    who: Who,
    handle: FileHandle,
    (position, bytes): (u64, usize),
    reply: L,
) {
    let handle = match mount.streams.get(handle) {
        Ok(handle) => handle,
        Err(refusal) => return Mount::refuse(reply, &refusal),
    };
    // The kernel always takes attributes with the first names, whether or not a program wants them.
    let most = if L::ATTRIBUTES && position == 0 { FIRST_ENTRIES as usize } else { usize::MAX };
    let room = Room::new(bytes, most, L::ATTRIBUTES);
    let (shared, reading) = (mount.clone(), handle.clone());
    let work = async move { shared.next_entries(who, &reading, position, room, L::ATTRIBUTES).await };
    let shared = mount.clone();
    mount.answer(who, reply, work, move |mut reply, (entries, unknown_after)| {
        // All fit; if one did not, the kernel would ask for it next.
        let all = entries.iter().all(|entry| reply.put(&shared, entry));
        reply.send();
        if let Some(start) = unknown_after.filter(|_| all) {
            shared.fetch_names(who, &handle, start);
        }
    });
}

impl Mount {
    /// Entries behind a position, as many as are known and have room, none at the end; and the name behind which nothing is
    /// known, if it is about to be reached.
    async fn next_entries(
        &self,
        who: Who,
        handle: &DirectoryHandle,
        position: u64,
        mut room: Room,
        attributes: bool,
    ) -> Result<(Vec<Placed>, Option<Bytes>), Refusal> {
        let mut placed = Vec::new();
        let dots: [&[u8]; 2] = [b".", b".."];
        for (at, name) in (1..).zip(dots) {
            if position < at && room.take(name) {
                // What ".." is does not matter to the kernel, which knows the parent itself.
                let entry = Entry { inode: handle.dir, kind: FileType::Directory };
                placed.push((at, Bytes::from_static(name), entry));
            }
        }
        let mut positions = handle.positions.lock().await;
        let (mut at, after) = positions.name(position).ok_or(Refusal::InvalidArgument)?;
        let following = match self.known_entries(handle.dir, &after, room, attributes) {
            Some(following) => following,
            None => {
                let wanted = match (attributes, position) {
                    (false, _) => Wanted::Names,
                    (true, 0) => Wanted::Attributes(FIRST_ENTRIES),
                    (true, _) => Wanted::Attributes(PAGE_ENTRIES),
                };
                self.fetched_entries(who, handle, &after, room, wanted).await?
            }
        };
        placed.reserve(following.entries.len());
        for (name, entry) in following.entries {
            at = positions.push(at, &name);
            placed.push((at, name, entry));
        }
        Ok((placed, following.unknown_after))
    }

    /// Entries after a name that are known, with their attributes if those are wanted, and have room.
    fn known_entries(
        &self,
        dir: InodeId,
        after: &[u8],
        mut room: Room,
        attributes: bool,
    ) -> Option<Following> {
        let now = Instant::now();
        let known = self.directories.after(dir, after, |name| room.take(name), now)?;
        let has_attributes = |(_, entry): &(_, Entry)| self.attrs.get(entry.inode, now).is_some();
        (!attributes || known.entries.iter().all(has_attributes)).then_some(known)
    }

    /// The same from the cluster, or from a listing that is under way.
    async fn fetched_entries(
        &self,
        who: Who,
        handle: &DirectoryHandle,
        after: &[u8],
        mut room: Room,
        wanted: Wanted,
    ) -> Result<Following, Refusal> {
        let _one_at_a_time = handle.fetching.lock().await;
        let attributes = matches!(wanted, Wanted::Attributes(_));
        if let Some(known) = self.known_entries(handle.dir, after, room, attributes) {
            return Ok(known);
        }
        let mut entries = self.page(who, handle.dir, after, wanted).await?;
        if let Some(known) = self.known_entries(handle.dir, after, room, attributes) {
            return Ok(known);
        }
        // The caches are small, or off.
        let fitting = entries.iter().take_while(|(name, _)| room.take(name)).count();
        entries.truncate(fitting);
        Ok(Following { entries, unknown_after: None })
    }

    /// Fetches the names after `start`, which a reader of `handle` will ask for next, unless something is being fetched for it.
    fn fetch_names(self: &Arc<Self>, who: Who, handle: &DirectoryHandle, start: Bytes) {
        let Ok(turn) = handle.fetching.clone().try_lock_owned() else { return };
        let (shared, dir) = (self.clone(), handle.dir);
        self.spawn(async move {
            // The reader asks again, and hears of the error.
            if let Err(error) = shared.page(who, dir, &start, Wanted::Names).await {
                tracing::debug!(dir = dir.get(), %error, "names were not fetched ahead");
            }
            drop(turn);
        });
    }
}
