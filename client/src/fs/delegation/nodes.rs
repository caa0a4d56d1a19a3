//! What a session knows of its delegated directories and of what is in them.
//!
//! Pure: no lock, no clock, no calls. The owner keeps the order of answers and of the changes that the namenode is told of.
//!
//! Invariants ([`Nodes::check`] in the tests):
//! - A node is known if it is a delegated directory or an entry of one, and has the place by which it was reached.
//! - A node is *firm* if its attributes are what the namenode will say once it has carried out all queued changes. Never firm: what has
//!   several names or is a directory that is not delegated itself, since others may change that without asking here.
//! - `names` of a delegated directory are all its names.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use bytes::Bytes;
use dfs_proto::v1::{FileStatus, FileType, LocatedBlock};
use dfs_proto::{ErrorKind, MAX_NAME_BYTES};

use crate::fs::Caller;

/// Delegated directories at once: what a program that works through a tree has in hand, and few enough to look through.
pub(super) const MAX_DIRECTORIES: usize = 1_024;
/// Entries of all of them together: some 30 MB.
pub(super) const MAX_ENTRIES: usize = 65_536;

/// Mode bits that make more of a node than who may read, write and run it.
pub(super) const SPECIAL_BITS: u32 = 0o7000;

/// What is said to a question or a change.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::fs) enum Verdict<T> {
    /// What the namenode would answer.
    Given(Result<T, ErrorKind>),
    /// Only the namenode can say.
    Ask,
}

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    pub(super) nodes: HashMap<u64, Node>,
    pub(super) directories: HashMap<u64, Directory>,
    /// Names in all directories.
    entries: usize,
    /// Rises whenever a node is doubted: what was asked before does not end the doubt.
    pub(super) doubts: u64,
    /// Blocks of files that are known, and some that were.
    pub(super) rows: usize,
}

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    /// Attributes, without a name.
    pub(super) status: FileStatus,
    /// Delegated directory that it is an entry of, and its name there.
    pub(super) place: Option<(u64, Bytes)>,
    /// Doubt since when; none: firm.
    doubt: Option<u64>,
    /// The block of a file that has one, if that was told.
    pub(super) row: Option<Box<LocatedBlock>>,
    /// What was asked before about its block does not count.
    pub(super) row_since: u64,
}

/// A delegated directory.
#[derive(Debug)]
pub(super) struct Directory {
    /// In whose name it was asked for: whose permissions are known.
    pub(super) caller: Caller,
    /// For reading only.
    pub(super) shared: bool,
    pub(super) names: BTreeMap<Bytes, Named>,
    /// When it was granted or last changed; of one that is for reading, last read.
    pub(super) used: Instant,
    /// Epoch of the session when it was granted.
    pub(super) epoch: u64,
    /// When it was asked for.
    pub(super) asked: Instant,
}

/// What a name stands for: enough to list it without looking at the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) inode: u64,
    pub(super) kind: FileType,
}

/// A directory as it was granted.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) caller: Caller,
    pub(super) shared: bool,
    pub(super) directory: FileStatus,
    pub(super) entries: Vec<FileStatus>,
    pub(super) epoch: u64,
    pub(super) asked: Instant,
}

impl Node {
    pub(super) fn is_firm(&self) -> bool {
        self.doubt.is_none()
    }

    fn kind(&self) -> FileType {
        self.status.r#type()
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind() == FileType::Directory
    }
}

impl Nodes {
    /// Takes a grant over. `heard` are attributes of nodes that were told while it was asked for, `None` where they became doubtful.
    pub(super) fn grant(&mut self, grant: Grant, heard: &HashMap<u64, Option<FileStatus>>, at: Instant) {
        let Grant { caller, shared, directory, entries, epoch, asked } = grant;
        let dir = directory.inode;
        if self.directories.contains_key(&dir) {
            return;
        }
        // What was asked before it was granted may have changed before.
        self.doubts += 1;
        let mut names = BTreeMap::new();
        for mut status in entries {
            let name = std::mem::take(&mut status.name);
            names.insert(name.clone(), Named { inode: status.inode, kind: status.r#type() });
            self.enter(dir, name, status, heard);
        }
        self.entries += names.len();
        self.directories.insert(dir, Directory { caller, shared, names, used: at, epoch, asked });
        let place = self.nodes.remove(&dir).and_then(|node| node.place);
        self.nodes.insert(dir, self.node(directory, place, None));
    }

    fn enter(
        &mut self,
        dir: u64,
        name: Bytes,
        mut status: FileStatus,
        heard: &HashMap<u64, Option<FileStatus>>,
    ) {
        let inode = status.inode;
        if self.directories.contains_key(&inode) {
            // Changes of its own may be queued: what is known is newer.
            if let Some(node) = self.nodes.get_mut(&inode) {
                node.place = Some((dir, name));
                return;
            }
        }
        let mut firm = can_be_firm(&status) && !status.under_construction;
        match heard.get(&inode) {
            Some(Some(told)) if told.change >= status.change => {
                status = told.clone();
                status.name = Bytes::new();
                firm = can_be_firm(&status);
            }
            Some(Some(_)) | None => {}
            Some(None) => firm = false,
        }
        let doubt = (!firm).then_some(self.doubts);
        self.nodes.insert(inode, self.node(status, Some((dir, name)), doubt));
    }

    fn node(&self, status: FileStatus, place: Option<(u64, Bytes)>, doubt: Option<u64>) -> Node {
        Node { status, place, doubt, row: None, row_since: self.doubts }
    }

    /// Forgets a directory. False if it was not delegated.
    pub(super) fn forget(&mut self, dir: u64) -> bool {
        let Some(directory) = self.directories.remove(&dir) else { return false };
        self.entries -= directory.names.len();
        for Named { inode, .. } in directory.names.into_values() {
            self.displace(inode);
        }
        match self.nodes.get(&dir) {
            Some(node) if node.place.is_some() => self.doubt(dir),
            Some(_) | None => drop(self.nodes.remove(&dir)),
        }
        true
    }

    /// A node is no entry any longer.
    fn displace(&mut self, inode: u64) {
        if self.directories.contains_key(&inode) {
            if let Some(node) = self.nodes.get_mut(&inode) {
                node.place = None;
            }
        } else {
            self.nodes.remove(&inode);
        }
    }

    /// What is known of a node's attributes may be wrong from now on.
    pub(super) fn doubt(&mut self, inode: u64) {
        if let Some(node) = self.nodes.get_mut(&inode) {
            self.doubts += 1;
            node.doubt = Some(self.doubts);
        }
    }

    /// To be taken before a question is asked, for [`Self::told`].
    pub(super) fn moment(&self) -> u64 {
        self.doubts
    }

    /// The namenode told of a node, asked at `moment`, and no change of it is queued or under way. `ours`: if somebody writes it, it is
    /// this session.
    pub(super) fn told(&mut self, status: &FileStatus, moment: u64, ours: bool) {
        let is_delegated = self.directories.contains_key(&status.inode);
        let Some(node) = self.nodes.get_mut(&status.inode) else { return };
        let newer = match node.doubt {
            None => node.status.change <= status.change,
            Some(since) => since <= moment,
        };
        if !newer {
            return;
        }
        let settled = ours || !status.under_construction || node.doubt.is_none();
        let firm = is_delegated || settled && can_be_firm(status);
        if node.status.change != status.change {
            node.row = None;
        }
        node.status = FileStatus { name: Bytes::new(), ..status.clone() };
        node.doubt = if firm { None } else { Some(node.doubt.unwrap_or(moment)) };
    }

    /// The namenode carried out the last change of a node, and this is what it is now. True if it is not what was taken for it.
    pub(super) fn confirmed(&mut self, status: &FileStatus) -> bool {
        let Some(node) = self.nodes.get_mut(&status.inode) else { return false };
        if node.status == *status {
            return false;
        }
        node.status.clone_from(status);
        node.row = None;
        true
    }

    /// The last change of a directory got another time than was thought.
    pub(super) fn changed_at(&mut self, dir: u64, now_ns: i64) {
        if let Some(node) = self.nodes.get_mut(&dir).filter(|_| self.directories.contains_key(&dir)) {
            node.status.mtime_ns = now_ns;
            node.status.ctime_ns = now_ns;
        }
    }

    /// The delegated directory that a node is an entry of.
    pub(super) fn place(&self, inode: u64) -> Option<u64> {
        self.nodes.get(&inode)?.place.as_ref().map(|(dir, _)| *dir)
    }

    /// Whether a directory is delegated.
    pub(super) fn is_delegated(&self, dir: u64) -> bool {
        self.directories.contains_key(&dir)
    }

    /// Directories that are to be given back so that the bounds hold: those that were not changed for longest.
    pub(super) fn surplus(&self) -> Vec<u64> {
        let (mut directories, mut entries) = (self.directories.len(), self.entries);
        if directories <= MAX_DIRECTORIES && entries <= MAX_ENTRIES {
            return Vec::new();
        }
        let mut by_age: Vec<(Instant, u64, usize)> = Vec::with_capacity(directories);
        by_age.extend(self.directories.iter().map(|(dir, d)| (d.used, *dir, d.names.len())));
        by_age.sort_unstable();
        let mut surplus = Vec::new();
        for (_, dir, names) in by_age {
            // An eighth more than needed, so that this is not done for each change.
            if directories <= MAX_DIRECTORIES / 8 * 7 && entries <= MAX_ENTRIES / 8 * 7 {
                break;
            }
            directories -= 1;
            entries -= names;
            surplus.push(dir);
        }
        surplus
    }

    /// Directories that were not changed since `before`.
    pub(super) fn idle_since(&self, before: Instant) -> Vec<u64> {
        let idle = self.directories.iter().filter(|(_, directory)| directory.used < before);
        idle.map(|(dir, _)| *dir).collect()
    }

    /// Directories that were granted in another epoch.
    pub(super) fn not_of_epoch(&self, epoch: u64) -> Vec<u64> {
        let other = self.directories.iter().filter(|(_, directory)| directory.epoch != epoch);
        other.map(|(dir, _)| *dir).collect()
    }

    // ---- questions ----

    /// The directory, if `caller` may do everything in it, and here.
    pub(super) fn of(&self, caller: &Caller, dir: u64) -> Option<&Directory> {
        self.readable(caller, dir).filter(|directory| !directory.shared)
    }

    /// Attributes behind a name.
    pub(super) fn look_up(&self, caller: &Caller, dir: u64, name: &[u8]) -> Verdict<FileStatus> {
        let Some(directory) = self.readable(caller, dir).filter(|_| is_name(name)) else {
            return Verdict::Ask;
        };
        match directory.names.get(name) {
            None => Verdict::Given(Err(ErrorKind::NotFound)),
            Some(named) => self.stat(named.inode),
        }
    }

    /// Attributes of a node.
    pub(super) fn stat(&self, inode: u64) -> Verdict<FileStatus> {
        match self.nodes.get(&inode).filter(|node| node.is_firm()) {
            Some(node) => Verdict::Given(Ok(node.status.clone())),
            None => Verdict::Ask,
        }
    }

    // ---- the parts of changes ----

    /// A name was made or removed in `dir`, `links` more or fewer directories are in it.
    pub(super) fn touch(&mut self, dir: u64, links: i32, now_ns: i64, at: Instant) {
        if let Some(node) = self.nodes.get_mut(&dir) {
            let status = &mut node.status;
            status.nlink = status.nlink.saturating_add_signed(links);
            status.mtime_ns = now_ns;
            status.ctime_ns = now_ns;
            status.change += 1;
        }
        if let Some(directory) = self.directories.get_mut(&dir) {
            directory.used = at;
        }
    }

    /// Enters a node under a name that is free.
    pub(super) fn insert(&mut self, dir: u64, name: Bytes, inode: u64) {
        let kind = self.nodes.get(&inode).map_or(FileType::Unspecified, Node::kind);
        if let Some(directory) = self.directories.get_mut(&dir)
            && directory.names.insert(name.clone(), Named { inode, kind }).is_none()
        {
            self.entries += 1;
        }
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.place = Some((dir, name));
        }
    }

    /// Takes a name away; the node behind it stays.
    pub(super) fn take(&mut self, dir: u64, name: &[u8]) {
        if let Some(directory) = self.directories.get_mut(&dir)
            && directory.names.remove(name).is_some()
        {
            self.entries -= 1;
        }
    }

    /// A node without a name is gone.
    pub(super) fn remove(&mut self, inode: u64) {
        if let Some(directory) = self.directories.remove(&inode) {
            self.entries -= directory.names.len();
        }
        self.nodes.remove(&inode);
    }

    /// A node that did not exist before.
    pub(super) fn add(&mut self, status: FileStatus) {
        let doubt = (!can_be_firm(&status) && status.r#type() != FileType::Directory).then_some(self.doubts);
        self.nodes.insert(status.inode, self.node(status, None, doubt));
    }

    /// A directory that was made a moment ago in a delegated one: empty, and delegated too.
    pub(super) fn add_directory(&mut self, dir: u64, caller: Caller, epoch: u64, at: Instant) {
        let names = BTreeMap::new();
        self.directories.insert(dir, Directory { caller, shared: false, names, used: at, epoch, asked: at });
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut entries = 0;
        for (dir, directory) in &self.directories {
            assert!(self.nodes.contains_key(dir), "a directory is a node");
            entries += directory.names.len();
            for (name, Named { inode, kind }) in &directory.names {
                let node = &self.nodes[inode];
                assert_eq!((&node.place, node.kind()), (&Some((*dir, name.clone())), *kind));
            }
        }
        assert_eq!(entries, self.entries);
        for (inode, node) in &self.nodes {
            match &node.place {
                Some((dir, name)) => {
                    let named = self.directories[dir].names.get(name).map(|named| named.inode);
                    assert_eq!(named.as_ref(), Some(inode));
                }
                None => assert!(self.directories.contains_key(inode)),
            }
            if node.is_firm() && node.is_directory() {
                assert!(self.directories.contains_key(inode));
            }
        }
    }
}

/// Whether nobody can change the node without the delegation of the directory that it is in.
fn can_be_firm(status: &FileStatus) -> bool {
    status.r#type() != FileType::Directory && status.nlink == 1
}

/// Whether the namenode takes this for a name.
pub(super) fn is_name(name: &[u8]) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}
