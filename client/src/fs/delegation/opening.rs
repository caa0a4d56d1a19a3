//! Opening files of delegated directories for reading, without a call.
//!
//! Invariants:
//! - A file is opened here only if the namenode would say the same: it is firm, nobody writes it, and the caller may surely read it.
//! - It is counted as open under the delegations' lock, so that who gives its directory back afterwards tells of it before.
//! - The block of a file that was told counts until a call of this session that changes the file begins, and only
//!   if it was asked for after the directory was granted, and after the last such call.

use std::time::Instant;

use dfs_proto::InodeId;
use dfs_proto::v1::{FileStatus, FileType, LocatedBlock, LocatedBlocks};

use super::Shared;
use super::nodes::{Directory, Nodes};
use crate::fs::Caller;
use crate::fs::file_system::FsInner;

/// Blocks that are remembered, with some 700 bytes each; beyond that all are forgotten.
const MAX_ROWS: usize = 16_384;
/// Mode bits with which everybody may read.
const READ_BITS: u32 = 0o444;
/// Mode bit with which the owner may.
const OWNER_READ_BIT: u32 = 0o400;

/// What became of an attempt to open a file.
pub(in crate::fs) enum Opening {
    /// The namenode is to be asked.
    Ask,
    /// It could be opened, but its block is not known, which was wanted.
    Unlocated,
    /// It is open, and counted. Not complete: its blocks are not known.
    Open(Box<LocatedBlocks>),
}

impl Nodes {
    /// The directory, if `caller` may look up and list what is in it.
    pub(super) fn readable(&self, caller: &Caller, dir: u64) -> Option<&Directory> {
        self.directories.get(&dir).filter(|directory| directory.caller == *caller)
    }

    /// Whether a directory is delegated for reading.
    pub(super) fn is_shared(&self, dir: u64) -> bool {
        self.directories.get(&dir).is_some_and(|directory| directory.shared)
    }

    /// Something was read in a directory.
    pub(super) fn was_read(&mut self, dir: u64, at: Instant) {
        if let Some(directory) = self.directories.get_mut(&dir).filter(|directory| directory.shared) {
            directory.used = at;
        }
    }

    /// A file that `caller` may open here, with its block if that is known.
    fn openable(&self, caller: &Caller, inode: u64) -> Option<(&FileStatus, Option<&LocatedBlock>)> {
        let node = self.nodes.get(&inode).filter(|node| node.is_firm())?;
        let status = &node.status;
        let is_settled = status.r#type() == FileType::File && !status.under_construction && status.nlink > 0;
        (is_settled && may_read(caller, status)).then_some((status, node.row.as_deref()))
    }

    /// The blocks of a whole file were told, asked for at `moment`.
    fn locate(&mut self, located: &LocatedBlocks, moment: u64) {
        let (Some(status), [row]) = (&located.status, located.blocks.as_slice()) else { return };
        let Some(node) = self.nodes.get_mut(&status.inode) else { return };
        let is_whole = row.offset == 0 && row.block.is_some_and(|block| block.length == status.size);
        let is_settled = located.complete && !status.under_construction && !row.under_construction;
        let is_same = node.is_firm() && node.status.change == status.change && node.row_since <= moment;
        if !is_whole || !is_settled || !is_same || row.corrupt || row.locations.is_empty() {
            return;
        }
        node.row = Some(Box::new(row.clone()));
        self.rows += 1;
        if self.rows > MAX_ROWS {
            self.nodes.values_mut().for_each(|node| node.row = None);
            self.rows = 0;
        }
    }

    /// A call that changes a file begins or ends: what was asked about its block does not count.
    pub(super) fn unlocate(&mut self, inode: u64) {
        if let Some(node) = self.nodes.get_mut(&inode) {
            self.doubts += 1;
            node.row_since = self.doubts;
            node.row = None;
        }
    }
}

impl Shared {
    /// Whether a file can be opened here, and what is known of it.
    fn open(&mut self, caller: &Caller, inode: u64, wants_row: bool) -> Opening {
        let at = Instant::now();
        let dir = self.nodes.place(inode).filter(|dir| self.may_read(*dir, at) && !self.doubted);
        let (Some(dir), false) = (dir, self.is_direct(inode)) else { return Opening::Ask };
        let Some((status, row)) = self.nodes.openable(caller, inode) else { return Opening::Ask };
        let is_known = row.is_some() || status.size == 0;
        if wants_row && !is_known {
            return Opening::Unlocated;
        }
        let blocks = row.cloned().into_iter().collect();
        let located = LocatedBlocks { status: Some(status.clone()), blocks, complete: is_known };
        self.nodes.was_read(dir, at);
        Opening::Open(Box::new(located))
    }
}

impl FsInner {
    /// Opens a file for reading, if that can be done here; with `wants_row`, only if its block is known.
    pub(in crate::fs) fn open_delegated(&self, caller: &Caller, inode: InodeId, wants_row: bool) -> Opening {
        let mut shared = self.delegations.lock();
        let opening = shared.open(caller, inode.get(), wants_row);
        if let Opening::Open(_) = opening {
            if !self.files.opening_here(inode) {
                return Opening::Ask;
            }
            shared.counts.opened += 1;
        }
        opening
    }

    /// The namenode told where all blocks of a file are, asked at `moment`.
    pub(in crate::fs) fn told_located(&self, located: &LocatedBlocks, moment: u64) {
        let Some(inode) = located.status.as_ref().map(|status| status.inode) else { return };
        let mut shared = self.delegations.lock();
        if shared.queue.is_settled(inode) && !shared.is_direct(inode) {
            shared.nodes.locate(located, moment);
        }
    }
}

/// Whether the namenode surely lets `caller` read a file. Who is in which groups, who is the superuser, and what access control lists say,
/// it knows better.
fn may_read(caller: &Caller, status: &FileStatus) -> bool {
    let is_owner = *caller.user == status.owner;
    let everybody = status.mode & READ_BITS == READ_BITS;
    !status.has_xattrs && (everybody || is_owner && status.mode & OWNER_READ_BIT != 0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use dfs_proto::v1::{Block, ReplicaLocation};

    use super::super::nodes::Grant;
    use super::*;

    const FILE: u64 = 7;

    fn status(inode: u64, kind: FileType, mode: u32) -> FileStatus {
        FileStatus {
            inode,
            r#type: kind.into(),
            name: Bytes::from_static(b"f"),
            owner: "anne".into(),
            group: "staff".into(),
            mode,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            size: 3,
            change: 5,
            ..FileStatus::default()
        }
    }

    fn with(file: FileStatus) -> Nodes {
        let mut nodes = Nodes::default();
        let directory = status(3, FileType::Directory, 0o755);
        let caller = Caller::named("anne");
        let grant =
            Grant { caller, shared: true, directory, entries: vec![file], epoch: 1, asked: Instant::now() };
        nodes.grant(grant, &HashMap::new(), Instant::now());
        nodes
    }

    fn located(status: FileStatus) -> LocatedBlocks {
        let row = LocatedBlock {
            block: Some(Block { id: 9, generation_stamp: 1, length: 3 }),
            locations: vec![ReplicaLocation::default()],
            ..LocatedBlock::default()
        };
        LocatedBlocks { status: Some(status), blocks: vec![row], complete: true }
    }

    fn row(nodes: &Nodes) -> Option<u64> {
        nodes.openable(&Caller::named("anne"), FILE)?.1?.block.map(|block| block.id)
    }

    #[test]
    fn only_what_the_namenode_would_let_open_is_opened() {
        let plain = status(FILE, FileType::File, 0o640);
        let cases = [
            ("anne", plain.clone(), true),
            ("ben", plain.clone(), false),
            ("ben", FileStatus { mode: 0o644, ..plain.clone() }, true),
            ("ben", FileStatus { mode: 0o604, ..plain.clone() }, false),
            ("anne", FileStatus { mode: 0o244, ..plain.clone() }, false),
            ("anne", FileStatus { has_xattrs: true, ..plain.clone() }, false),
            ("anne", FileStatus { under_construction: true, ..plain.clone() }, false),
            ("anne", FileStatus { nlink: 2, ..plain.clone() }, false),
            ("anne", status(FILE, FileType::Fifo, 0o644), false),
            ("anne", status(FILE, FileType::Directory, 0o755), false),
        ];
        for (caller, file, opens) in cases {
            let nodes = with(file.clone());
            let opened = nodes.openable(&Caller::named(caller), FILE);
            assert_eq!(opened.is_some(), opens, "{caller}: {file:?}");
        }
    }

    #[test]
    fn a_block_counts_if_it_was_asked_for_since_the_last_change() {
        let file = status(FILE, FileType::File, 0o644);
        let before = Nodes::default().moment();
        let mut nodes = with(file.clone());
        nodes.locate(&located(file.clone()), before);
        assert_eq!(row(&nodes), None, "asked before the grant");
        let asked = nodes.moment();
        nodes.locate(&located(file.clone()), asked);
        assert_eq!(row(&nodes), Some(9));
        nodes.unlocate(FILE);
        nodes.locate(&located(file.clone()), asked);
        assert_eq!(row(&nodes), None, "asked before the change");
        let asked = nodes.moment();
        for other in [
            FileStatus { change: 6, ..file.clone() },
            FileStatus { under_construction: true, ..file.clone() },
            FileStatus { size: 4, ..file.clone() },
        ] {
            nodes.locate(&located(other), asked);
            assert_eq!(row(&nodes), None);
        }
        nodes.locate(&LocatedBlocks { complete: false, ..located(file.clone()) }, asked);
        assert_eq!(row(&nodes), None);
        nodes.locate(&located(file.clone()), asked);
        assert_eq!(row(&nodes), Some(9));
        nodes.told(&FileStatus { change: 6, ..file }, asked, false);
        assert_eq!(row(&nodes), None, "it was changed");
    }
}
