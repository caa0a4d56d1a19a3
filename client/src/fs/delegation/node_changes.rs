//! Changes of what is in delegated directories, by the namenode's rules.
//!
//! Each is checked, then done here; what is done is queued by the caller, who has the lock. Whatever these rules do not cover is left to the
//! namenode: [`Verdict::Ask`]. Change counters and times move as the namenode's do, so that its answers will say the same.

use std::time::Instant;

use bytes::Bytes;
use dfs_proto::ErrorKind;
use dfs_proto::v1::{FileStatus, FileType, MoveMode};

use super::nodes::{Nodes, SPECIAL_BITS, Verdict, is_name};
use crate::fs::{Caller, NewNode, SetAttributes, SetTime};

/// Longest target of a symbolic link.
const MAX_SYMLINK_BYTES: usize = 4_095;
/// What the owner of a directory must keep so that the delegation's rights are still its own.
const OWNER_BITS: u32 = 0o700;

/// When a change is made.
#[derive(Clone, Copy, Debug)]
pub(in crate::fs) struct Moment {
    /// By this machine's clock.
    pub(super) at: Instant,
    /// By the namenode's wall clock, as far as it is known.
    pub(super) now_ns: i64,
}

/// What was made, moved or removed, and the time that it got.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Done {
    /// The node afterwards.
    pub(super) status: FileStatus,
    /// The one that was replaced.
    pub(super) other: Option<FileStatus>,
    /// Time of the change.
    pub(super) now_ns: i64,
}

/// A file's settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileShape {
    pub(super) replication: u32,
    pub(super) block_size: u64,
    /// The session opens it for writing.
    pub(super) lease: bool,
}

macro_rules! given {
    ($verdict:expr) => {
        match $verdict {
            Verdict::Given(Ok(value)) => value,
            Verdict::Given(Err(kind)) => return Verdict::Given(Err(kind)),
            Verdict::Ask => return Verdict::Ask,
        }
    };
}

impl Nodes {
    /// Makes a node whose number `number` gives, if it comes to that.
    pub(super) fn make(
        &mut self,
        caller: &Caller,
        (dir, name): (u64, &[u8]),
        new: &NewNode,
        shape: FileShape,
        moment: Moment,
        number: impl FnOnce() -> Option<u64>,
    ) -> Verdict<Done> {
        let Some(directory) = self.of(caller, dir).filter(|_| is_name(name)) else { return Verdict::Ask };
        let group_is_own = new.group.is_empty() || caller.groups.contains(&new.group);
        if !is_plain(new) || !group_is_own {
            return Verdict::Ask;
        }
        if directory.names.contains_key(name) {
            return Verdict::Given(Err(ErrorKind::AlreadyExists));
        }
        let epoch = directory.epoch;
        let Some(above) = self.nodes.get(&dir) else { return Verdict::Ask };
        let group = if new.group.is_empty() { above.status.group.clone() } else { new.group.clone() };
        let now_ns = moment.now_ns.max(above.status.ctime_ns);
        let Some(inode) = number() else { return Verdict::Ask };
        let is_directory = new.kind == FileType::Directory;
        let is_file = new.kind == FileType::File;
        let status = FileStatus {
            inode,
            r#type: new.kind.into(),
            mode: if new.kind == FileType::Symlink { 0o777 } else { new.mode & !new.umask },
            owner: caller.user.to_string(),
            group,
            nlink: if is_directory { 2 } else { 1 },
            size: new.symlink.len() as u64,
            atime_ns: now_ns,
            mtime_ns: now_ns,
            ctime_ns: now_ns,
            btime_ns: now_ns,
            block_size: if is_file { shape.block_size } else { 0 },
            replication: if is_file { shape.replication } else { 0 },
            change: 1,
            symlink: new.symlink.clone(),
            under_construction: is_file && shape.lease,
            ..FileStatus::default()
        };
        self.add(status.clone());
        if is_directory {
            self.add_directory(inode, caller.clone(), epoch, moment.at);
        }
        self.insert(dir, Bytes::copy_from_slice(name), inode);
        self.touch(dir, i32::from(is_directory), now_ns, moment.at);
        Verdict::Given(Ok(Done { status, other: None, now_ns }))
    }

    /// Removes a name: of an empty directory if `directory`, else of anything that is no directory.
    pub(super) fn unlink(
        &mut self,
        caller: &Caller,
        (dir, name): (u64, &[u8]),
        directory: bool,
        moment: Moment,
    ) -> Verdict<Done> {
        let inode = given!(self.find(caller, dir, name));
        let Some(node) = self.nodes.get(&inode) else { return Verdict::Ask };
        match (directory, node.is_directory()) {
            (true, false) => return Verdict::Given(Err(ErrorKind::NotADirectory)),
            (false, true) => return Verdict::Given(Err(ErrorKind::IsADirectory)),
            (true, true) => given!(self.is_empty(inode)),
            (false, false) => {}
        }
        if !node.is_firm() || self.is_shared(inode) {
            return Verdict::Ask;
        }
        let now_ns = self.time_of(&[dir, inode], moment);
        let status = self.drop_name(inode, now_ns);
        self.take(dir, name);
        self.remove(inode);
        self.touch(dir, -i32::from(directory), now_ns, moment.at);
        Verdict::Given(Ok(Done { status, other: None, now_ns }))
    }

    /// Moves a node, within what is delegated.
    pub(super) fn rename(
        &mut self,
        caller: &Caller,
        (dir, name): (u64, &[u8]),
        (to, new_name): (u64, &[u8]),
        mode: MoveMode,
        moment: Moment,
    ) -> Verdict<Done> {
        if mode == MoveMode::Exchange || self.of(caller, to).is_none() || !is_name(new_name) {
            return Verdict::Ask;
        }
        let inode = given!(self.find(caller, dir, name));
        let Some(node) = self.nodes.get(&inode).filter(|node| node.is_firm()) else { return Verdict::Ask };
        let is_directory = node.is_directory();
        if is_directory && dir != to || self.is_shared(inode) {
            // Whether it would come to be below itself is not known here; others may have it for reading.
            return Verdict::Ask;
        }
        let other = self.directories.get(&to).and_then(|directory| directory.names.get(new_name));
        let other = other.map(|named| named.inode);
        if let Some(other) = other {
            let Some(there) = self.nodes.get(&other).filter(|there| there.is_firm()) else {
                return Verdict::Ask;
            };
            if other == inode || self.is_shared(other) {
                return Verdict::Ask;
            }
            if mode == MoveMode::NoReplace {
                return Verdict::Given(Err(ErrorKind::AlreadyExists));
            }
            match (is_directory, there.is_directory()) {
                (true, false) => return Verdict::Given(Err(ErrorKind::NotADirectory)),
                (false, true) => return Verdict::Given(Err(ErrorKind::IsADirectory)),
                (true, true) => given!(self.is_empty(other)),
                (false, false) => {}
            }
        }
        let now_ns = self.time_of(&[dir, to, inode, other.unwrap_or(inode)], moment);
        let links = i32::from(is_directory);
        self.take(dir, name);
        self.touch(dir, -links, now_ns, moment.at);
        let replaced = other.map(|other| {
            let status = self.drop_name(other, now_ns);
            self.take(to, new_name);
            self.remove(other);
            self.touch(to, -links, now_ns, moment.at);
            status
        });
        self.insert(to, Bytes::copy_from_slice(new_name), inode);
        self.touch(to, links, now_ns, moment.at);
        let status = self.touch_attributes(inode, now_ns);
        Verdict::Given(Ok(Done { status, other: replaced, now_ns }))
    }

    /// Sets mode and times of what the caller owns, and owner and group to what they are.
    pub(super) fn set(
        &mut self,
        caller: &Caller,
        inode: u64,
        set: &SetAttributes,
        moment: Moment,
    ) -> Verdict<Done> {
        let Some(node) = self.nodes.get(&inode).filter(|node| node.is_firm()) else { return Verdict::Ask };
        let by = node.place.as_ref().map_or(inode, |(dir, _)| *dir);
        let status = &node.status;
        let known = self.of(caller, by).is_some() && status.owner == *caller.user;
        let something = set.more_than_size();
        // Setting what is set already is what tar does.
        let stays = set.owner.as_ref().is_none_or(|owner| *owner == status.owner)
            && set.group.as_ref().is_none_or(|group| *group == status.group);
        if !known || !something || !stays || set.size.is_some() || self.is_shared(inode) {
            return Verdict::Ask;
        }
        let mode = set.mode.unwrap_or(status.mode);
        if (mode | status.mode) & SPECIAL_BITS != 0 || mode > 0o777 {
            return Verdict::Ask;
        }
        if set.mode.is_some() {
            let keeps = !node.is_directory() || mode & OWNER_BITS == OWNER_BITS;
            if status.has_xattrs || !keeps || status.r#type() == FileType::Symlink {
                return Verdict::Ask;
            }
        }
        let now_ns = self.time_of(&[inode], moment);
        let at = |time: SetTime| match time {
            SetTime::Now => now_ns,
            SetTime::At(ns) => ns,
        };
        if let Some(node) = self.nodes.get_mut(&inode) {
            let status = &mut node.status;
            status.mode = mode;
            status.atime_ns = set.atime.map_or(status.atime_ns, at);
            status.mtime_ns = set.mtime.map_or(status.mtime_ns, at);
        }
        let status = self.touch_attributes(inode, now_ns);
        if let Some(directory) = self.directories.get_mut(&by) {
            directory.used = moment.at;
        }
        Verdict::Given(Ok(Done { status, other: None, now_ns }))
    }

    fn find(&self, caller: &Caller, dir: u64, name: &[u8]) -> Verdict<u64> {
        let Some(directory) = self.of(caller, dir).filter(|_| is_name(name)) else { return Verdict::Ask };
        Verdict::Given(directory.names.get(name).map(|named| named.inode).ok_or(ErrorKind::NotFound))
    }

    fn is_empty(&self, dir: u64) -> Verdict<()> {
        match self.directories.get(&dir) {
            Some(directory) if directory.names.is_empty() => Verdict::Given(Ok(())),
            Some(_) => Verdict::Given(Err(ErrorKind::DirectoryNotEmpty)),
            None => Verdict::Ask,
        }
    }

    /// Time of a change: no node's attributes become older by it.
    pub(super) fn time_of(&self, inodes: &[u64], moment: Moment) -> i64 {
        let known = inodes.iter().filter_map(|inode| self.nodes.get(inode));
        known.map(|node| node.status.ctime_ns).fold(moment.now_ns, i64::max)
    }

    fn touch_attributes(&mut self, inode: u64, now_ns: i64) -> FileStatus {
        let Some(node) = self.nodes.get_mut(&inode) else { return FileStatus::default() };
        node.status.ctime_ns = now_ns;
        node.status.change += 1;
        node.status.clone()
    }

    /// The only name of a node goes.
    fn drop_name(&mut self, inode: u64, now_ns: i64) -> FileStatus {
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.status.nlink = 0;
        }
        self.touch_attributes(inode, now_ns)
    }
}

/// Whether anybody may make such a node, and it is what is asked for.
fn is_plain(new: &NewNode) -> bool {
    let kind = match new.kind {
        FileType::File | FileType::Directory | FileType::Fifo | FileType::Socket => true,
        FileType::Symlink => {
            (1..=MAX_SYMLINK_BYTES).contains(&new.symlink.len()) && !new.symlink.contains(&0)
        }
        FileType::CharDevice | FileType::BlockDevice | FileType::Unspecified => false,
    };
    kind && (new.mode & SPECIAL_BITS) == 0 && new.mode <= 0o777 && new.umask <= 0o777
}
