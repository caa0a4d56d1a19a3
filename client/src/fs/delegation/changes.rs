//! Changes that are answered here: made in what is known of delegated directories, and queued for the namenode.

use std::time::Instant;

use bytes::Bytes;
use dfs_proto::InodeId;
use dfs_proto::v1::change::Change as What;
use dfs_proto::v1::{
    Change, FileStatus, FileType, MakeNodeRequest, MoveMode, MoveRequest, NodeRef, SetAttributesRequest,
    UnlinkRequest,
};

use super::Shared;
use super::node_changes::{Done, FileShape, Moment};
use super::nodes::{Nodes, Verdict};
use crate::fs::file_system::FsInner;
use crate::fs::{Caller, NewNode, SetAttributes};

/// A name in a directory.
pub(in crate::fs) type Spot<'a> = (InodeId, &'a [u8]);

fn node_ref((dir, name): Spot<'_>) -> Option<NodeRef> {
    Some(NodeRef { base: dir.get(), path: Bytes::copy_from_slice(name) })
}

fn then<T, U>(verdict: Verdict<T>, value: impl FnOnce(T) -> U) -> Verdict<U> {
    match verdict {
        Verdict::Given(outcome) => Verdict::Given(outcome.map(value)),
        Verdict::Ask => Verdict::Ask,
    }
}

impl FsInner {
    /// Queues a change that touches these nodes, in the name of `caller`.
    pub(super) fn queue_change(
        &self,
        shared: &mut Shared,
        caller: &Caller,
        moment: Moment,
        touched: &[u64],
        mut change: Change,
    ) {
        change.context = Some(self.client.namenode.context_as(&caller.user, &caller.groups, true));
        shared.queue.push(change, touched, moment.at);
    }

    /// Makes a node. `opens`: a file is opened for writing, with its lease and first block (`Some(true)`) or without (`Some(false)`).
    pub(in crate::fs) fn make_here(
        &self,
        shared: &mut Shared,
        moment: Moment,
        caller: &Caller,
        spot: Spot<'_>,
        new: &NewNode,
        opens: Option<bool>,
    ) -> Verdict<FileStatus> {
        let is_file = new.kind == FileType::File;
        let (config, defaults) = (&self.client.config, &self.client.defaults);
        let shape = FileShape {
            replication: config.replication.map_or(defaults.replication, u32::from),
            block_size: config.block_size.unwrap_or(defaults.block_size),
            lease: opens == Some(true),
        };
        let Shared { nodes, numbers, .. } = &mut *shared;
        let at = (spot.0.get(), spot.1);
        let made = nodes.make(caller, at, new, shape, moment, || numbers.take());
        then(made, |Done { status, now_ns, .. }| {
            let request = MakeNodeRequest {
                context: None,
                node: node_ref(spot),
                r#type: new.kind.into(),
                mode: new.mode,
                group: new.group.clone(),
                rdev: 0,
                symlink: new.symlink.clone(),
                session: if opens.is_some() { self.session().to_owned() } else { String::new() },
                replication: if is_file { shape.replication } else { 0 },
                block_size: if is_file { shape.block_size } else { 0 },
                allocate_block: opens == Some(true),
                umask: new.umask,
                without_lease: opens == Some(false),
            };
            let change = Change {
                now_ns,
                inode: status.inode,
                delegate: new.kind == FileType::Directory,
                change: Some(What::Make(request)),
                ..Change::default()
            };
            self.queue_change(shared, caller, moment, &[at.0, status.inode], change);
            status
        })
    }

    /// Removes a name.
    pub(in crate::fs) fn unlink_here(
        &self,
        shared: &mut Shared,
        moment: Moment,
        caller: &Caller,
        spot: Spot<'_>,
        directory: bool,
    ) -> Verdict<FileStatus> {
        let at = (spot.0.get(), spot.1);
        let unlinked = shared.nodes.unlink(caller, at, directory, moment);
        then(unlinked, |Done { status, now_ns, .. }| {
            let request = UnlinkRequest { context: None, node: node_ref(spot), directory };
            let change = Change {
                now_ns,
                inode: status.inode,
                change: Some(What::Unlink(request)),
                ..Change::default()
            };
            self.queue_change(shared, caller, moment, &[at.0, status.inode], change);
            status
        })
    }

    /// Moves a node. Answers it, and the one that was replaced.
    pub(in crate::fs) fn rename_here(
        &self,
        shared: &mut Shared,
        moment: Moment,
        caller: &Caller,
        (from, to): (Spot<'_>, Spot<'_>),
        mode: MoveMode,
    ) -> Verdict<(FileStatus, Option<FileStatus>)> {
        let ends = ((from.0.get(), from.1), (to.0.get(), to.1));
        let moved = shared.nodes.rename(caller, ends.0, ends.1, mode, moment);
        then(moved, |Done { status, other, now_ns }| {
            let request =
                MoveRequest { context: None, src: node_ref(from), dst: node_ref(to), mode: mode.into() };
            let other_inode = other.as_ref().map_or(0, |other| other.inode);
            let change = Change {
                now_ns,
                inode: status.inode,
                other_inode,
                change: Some(What::Move(request)),
                ..Change::default()
            };
            let touched = [ends.0.0, status.inode, ends.1.0, other_inode];
            let touched = if other_inode == 0 { &touched[..3] } else { &touched[..] };
            self.queue_change(shared, caller, moment, touched, change);
            (status, other)
        })
    }

    /// Sets mode and times.
    pub(in crate::fs) fn set_here(
        &self,
        shared: &mut Shared,
        moment: Moment,
        caller: &Caller,
        inode: InodeId,
        set: &SetAttributes,
    ) -> Verdict<FileStatus> {
        if shared.is_direct(inode.get()) {
            return Verdict::Ask;
        }
        let done = shared.nodes.set(caller, inode.get(), set, moment);
        let dir = shared.nodes.place(inode.get()).unwrap_or(inode.get());
        then(done, |Done { status, now_ns, .. }| {
            let request = SetAttributesRequest {
                node: Some(NodeRef { base: inode.get(), path: Bytes::new() }),
                session: self.session().to_owned(),
                ..set.clone().into_request()
            };
            let change =
                Change { now_ns, inode: status.inode, change: Some(What::Set(request)), ..Change::default() };
            self.queue_change(shared, caller, moment, &[inode.get(), dir], change);
            status
        })
    }

    /// Attributes behind a name, if they are known here.
    pub(in crate::fs) fn look_up_here(&self, caller: &Caller, (dir, name): Spot<'_>) -> Verdict<FileStatus> {
        self.read_here(dir.get(), |nodes| nodes.look_up(caller, dir.get(), name)).unwrap_or(Verdict::Ask)
    }

    /// Attributes of a node, if they are known here.
    pub(in crate::fs) fn stat_here(&self, inode: InodeId) -> Verdict<FileStatus> {
        let mut shared = self.delegations.lock();
        let nodes = &shared.nodes;
        let dir = if nodes.is_delegated(inode.get()) { Some(inode.get()) } else { nodes.place(inode.get()) };
        let Some(dir) = dir.filter(|dir| shared.may_read(*dir, Instant::now())) else { return Verdict::Ask };
        let known = shared.nodes.stat(inode.get());
        if let Verdict::Given(_) = known {
            shared.nodes.was_read(dir, Instant::now());
        }
        known
    }

    /// Answers a question from what is known of a directory; none if nothing counts.
    pub(super) fn read_here<T>(&self, dir: u64, look: impl FnOnce(&Nodes) -> T) -> Option<T> {
        let mut shared = self.delegations.lock();
        let at = Instant::now();
        if !shared.may_read(dir, at) {
            return None;
        }
        shared.nodes.was_read(dir, at);
        Some(look(&shared.nodes))
    }

    /// Directory that a node is an entry of, if that is delegated.
    pub(in crate::fs) fn place_of(&self, inode: InodeId) -> Option<InodeId> {
        self.delegations.lock().nodes.place(inode.get()).map(InodeId)
    }

    /// Whether a directory below one that is being worked through should be asked for before it is listed: `rm -r` and the like.
    pub(in crate::fs) fn is_worked_through(&self, caller: &Caller, dir: InodeId) -> bool {
        let shared = self.delegations.lock();
        let nodes = &shared.nodes;
        let above = nodes.place(dir.get()).and_then(|above| nodes.of(caller, above));
        let has_it_alone = nodes.is_delegated(dir.get()) && !nodes.is_shared(dir.get());
        !has_it_alone
            && above.is_some_and(|above| above.used.elapsed() < super::WORKED_ON)
            && !shared.habit.is_resting(dir.get(), Instant::now())
    }
}
