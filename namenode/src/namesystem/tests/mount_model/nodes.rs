//! The model: nodes by inode and entries by directory and name.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::v1::{FileStatus, FileType};
use dfs_proto::{ErrorKind, v1};

use super::super::fixture::BLOCK;
use crate::log::Caller;

/// A block of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) id: u64,
    pub(super) stamp: u64,
    pub(super) issued: u64,
    pub(super) length: u64,
    pub(super) open: bool,
    pub(super) settled: Option<u64>,
}

impl Row {
    pub(super) fn named(&self, length: u64) -> v1::Block {
        v1::Block { id: self.id, generation_stamp: self.issued, length }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: FileType,
    pub(super) mode: u32,
    pub(super) owner: String,
    pub(super) group: String,
    pub(super) nlink: u32,
    pub(super) size: u64,
    pub(super) mtime_ns: i64,
    pub(super) ctime_ns: i64,
    pub(super) rows: BTreeMap<u64, Row>,
    pub(super) holder: Option<String>,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
}

impl Node {
    pub(super) fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    pub(super) fn is_file(&self) -> bool {
        self.kind == FileType::File
    }

    pub(super) fn touch(&mut self, now_ns: i64) {
        self.mtime_ns = now_ns;
        self.ctime_ns = now_ns;
    }

    /// Bits of a file after a change by somebody who is not the superuser.
    pub(super) fn lose_set_id(&mut self, outsider: bool) {
        self.mode &= !0o4000;
        if outsider || self.mode & 0o010 != 0 {
            self.mode &= !0o2000;
        }
    }

    #[track_caller]
    pub(super) fn assert_is(&self, id: u64, status: &FileStatus) {
        let allocated: u64 = self.rows.values().map(|row| row.settled.unwrap_or(row.length)).sum();
        let expected = FileStatus {
            inode: id,
            r#type: self.kind.into(),
            mode: self.mode,
            owner: self.owner.clone(),
            group: self.group.clone(),
            nlink: self.nlink,
            size: self.size,
            mtime_ns: self.mtime_ns,
            ctime_ns: self.ctime_ns,
            under_construction: self.holder.is_some(),
            allocated,
            has_xattrs: !self.xattrs.is_empty(),
            ..status.clone()
        };
        assert_eq!(*status, expected);
    }
}

pub(super) struct Model {
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) entries: BTreeMap<(u64, String), u64>,
    pub(super) orphans: BTreeSet<u64>,
}

pub(super) type Outcome<T> = Result<T, ErrorKind>;

impl Model {
    pub(super) fn new(root: &FileStatus) -> Self {
        let mut model = Self { nodes: BTreeMap::new(), entries: BTreeMap::new(), orphans: BTreeSet::new() };
        model.take(root);
        model
    }

    /// A node as it was just made.
    pub(super) fn take(&mut self, status: &FileStatus) {
        let node = Node {
            kind: status.r#type(),
            mode: status.mode,
            owner: status.owner.clone(),
            group: status.group.clone(),
            nlink: status.nlink,
            size: status.size,
            mtime_ns: status.mtime_ns,
            ctime_ns: status.ctime_ns,
            rows: BTreeMap::new(),
            holder: None,
            xattrs: BTreeMap::new(),
        };
        self.nodes.insert(status.inode, node);
    }

    pub(super) fn list(&self, directory: u64) -> Vec<(Vec<u8>, u64)> {
        let of = self.entries.iter().filter(|((parent, _), _)| *parent == directory);
        of.map(|((_, name), id)| (name.clone().into_bytes(), *id)).collect()
    }

    pub(super) fn permits(caller: &Caller, node: &Node, bits: u32) -> bool {
        let class = if caller.user == node.owner {
            node.mode >> 6
        } else if caller.groups.contains(&node.group) {
            node.mode >> 3
        } else {
            node.mode
        };
        caller.superuser || class & bits == bits
    }

    pub(super) fn need(caller: &Caller, node: &Node, bits: u32) -> Outcome<()> {
        if Self::permits(caller, node, bits) { Ok(()) } else { Err(ErrorKind::AccessDenied) }
    }

    pub(super) fn owned(caller: &Caller, node: &Node) -> Outcome<()> {
        if caller.superuser || caller.user == node.owner { Ok(()) } else { Err(ErrorKind::NotPermitted) }
    }

    /// The node with this id, if somebody can still get at it.
    pub(super) fn live(&self, id: u64) -> Outcome<&Node> {
        self.nodes.get(&id).ok_or(ErrorKind::NotFound)
    }

    /// What a name in a directory stands for, once the caller has found that it may look.
    pub(super) fn look_up(&self, caller: &Caller, directory: u64, name: &str) -> Outcome<Option<u64>> {
        let node = self.live(directory)?;
        if node.nlink == 0 {
            return Err(ErrorKind::NotFound);
        }
        if !node.is_directory() {
            return Err(ErrorKind::NotADirectory);
        }
        Self::need(caller, node, 1)?;
        Ok(self.entries.get(&(directory, name.to_owned())).copied())
    }

    /// The caller may take the child out of the directory.
    pub(super) fn may_remove(&self, caller: &Caller, directory: u64, child: u64) -> Outcome<()> {
        let (directory, child) = (self.live(directory)?, self.live(child)?);
        Self::need(caller, directory, 3)?;
        let sticky = directory.mode & 0o1000 != 0;
        if sticky && !caller.superuser && ![&directory.owner, &child.owner].contains(&&caller.user) {
            return Err(ErrorKind::NotPermitted);
        }
        Ok(())
    }

    pub(super) fn has_entries(&self, directory: u64) -> bool {
        !self.list(directory).is_empty()
    }

    /// Whether `directory` is `ancestor` or below it.
    pub(super) fn is_below(&self, directory: u64, ancestor: u64) -> bool {
        if directory == ancestor {
            return true;
        }
        let parent = self.entries.iter().find(|(_, id)| **id == directory).map(|((parent, _), _)| *parent);
        parent.is_some_and(|parent| self.is_below(parent, ancestor))
    }

    /// A name is entered.
    pub(super) fn enter(&mut self, directory: u64, name: &str, id: u64, now_ns: i64) {
        self.entries.insert((directory, name.to_owned()), id);
        let is_directory = self.nodes[&id].is_directory();
        self.change_directory(directory, i64::from(is_directory), now_ns);
    }

    /// A name is taken out.
    pub(super) fn leave(&mut self, directory: u64, name: &str, now_ns: i64) {
        let id = self.entries.remove(&(directory, name.to_owned())).expect("it was there");
        let is_directory = self.nodes[&id].is_directory();
        self.change_directory(directory, -i64::from(is_directory), now_ns);
    }

    fn change_directory(&mut self, id: u64, links: i64, now_ns: i64) {
        let directory = self.nodes.get_mut(&id).expect("a directory");
        directory.nlink = u32::try_from(i64::from(directory.nlink) + links).expect("counts");
        directory.touch(now_ns);
    }

    /// A node has lost a name.
    pub(super) fn drop_name(&mut self, id: u64, opened: bool, now_ns: i64) {
        let node = self.nodes.get_mut(&id).expect("it was there");
        node.nlink = if node.is_directory() { 0 } else { node.nlink - 1 };
        node.ctime_ns = now_ns;
        if node.nlink > 0 {
            return;
        }
        if opened {
            self.orphans.insert(id);
        } else {
            self.nodes.remove(&id);
        }
    }
}

/// Blocks of the model's files are as long as the fixture's.
pub(super) const fn index_of(offset: u64) -> u64 {
    offset / BLOCK
}
