//! What all operations of a mount share: the session at the cluster, the caches, the open handles.
//!
//! Kernel and cluster number nodes alike, but for the root of a mounted subdirectory: the kernel calls any root 1.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_client::DfsError;
use dfs_client::fs::{Caller, FileStatus, FileSystem, FileType, InodeId, ListedName, MAX_AHEAD_BYTES};
use fuser::{FileAttr, INodeNo, Notifier};
use tokio::runtime::Handle;

use crate::attr_cache::AttrCache;
use crate::attributes::{self, Node};
use crate::background::Background;
use crate::caller::{Asker, Who};
use crate::contents::Contents;
use crate::directory_cache::{DirectoryCache, Known};
use crate::directory_page::{Entries, Entry, Page, just_before};
use crate::directory_stream::DirectoryHandle;
use crate::errno::Refusal;
use crate::event_loops::EventLoops;
use crate::executed::Whereabouts;
use crate::handles::{Handles, OpenHandle};
use crate::held_locks::HeldLocks;
use crate::metrics;
use crate::options::Options;
use crate::owners::Owners;
use crate::passthrough::Passthrough;
use crate::reading_order::ReadingOrder;

/// What a node or name costs in memory, for the caches' bounds: the largest of their entries with the tables' slack.
const CACHED_ENTRY_BYTES: u64 = 512;
/// Part of the memory for each of the two caches of names and attributes: an eighth of it, with the default of 512 MiB 131,072 entries.
const CACHE_SHARE: u64 = 8;
/// Entries asked for at once: what the namenode gives at most.
pub const PAGE_ENTRIES: u32 = dfs_client::LIST_PAGE_ENTRIES as u32;
/// Names asked for at once, the same.
const PAGE_NAMES: u32 = dfs_client::LIST_PAGE_NAMES as u32;

/// What is asked about the entries of a directory.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// Their attributes, of so many at once.
    Attributes(u32),
    /// Names, inodes and types, which cost a third.
    Names,
}

/// A mount.
pub struct Mount {
    /// The cluster.
    pub fs: FileSystem,
    /// Where operations go on that wait long.
    pub runtime: Handle,
    /// The threads that take requests.
    pub event_loops: EventLoops,
    /// Users and groups.
    pub owners: Owners,
    /// Attributes of nodes.
    pub attrs: AttrCache,
    /// Entries of directories.
    pub directories: DirectoryCache,
    /// In which order files are read.
    pub order: ReadingOrder,
    /// Open files.
    pub files: Handles<OpenHandle>,
    /// Open directories.
    pub streams: Handles<DirectoryHandle>,
    /// What the kernel's page cache holds.
    pub contents: Contents,
    /// Locks to be dropped at close.
    pub locks: HeldLocks,
    /// Work that nobody waits for.
    pub background: Background,
    /// Figures of the whole cluster, kept for a moment.
    pub stats: tokio::sync::Mutex<Option<(dfs_client::ClusterStats, Instant)>>,
    /// Tells the kernel what it should not believe any longer, once there is a mount.
    pub notifier: OnceLock<Notifier>,
    /// Set if the kernel reads files of this machine by itself.
    pub passthrough: OnceLock<Arc<Passthrough>>,
    /// The kernel gathers what is written.
    pub writeback: OnceLock<()>,
    /// Where the mount is, once it is.
    pub place: OnceLock<Whereabouts>,
    root: InodeId,
    ttl: Duration,
    identity: String,
}

/// Attributes for the kernel and how long it may believe them.
pub type Believed = (FileAttr, Duration);

impl Mount {
    /// A mount of the directory `root`. `identity` is told to who asks for it.
    pub fn new(
        fs: FileSystem,
        root: &FileStatus,
        options: &Options,
        identity: String,
        runtime: Handle,
    ) -> Self {
        let entries =
            usize::try_from(options.memory / CACHE_SHARE / CACHED_ENTRY_BYTES).unwrap_or(usize::MAX);
        Self {
            fs,
            runtime,
            event_loops: EventLoops::new(options.event_loops()),
            owners: Owners::new(options.uid, options.gid),
            attrs: AttrCache::new(options.cache_ttl, entries),
            directories: DirectoryCache::new(options.cache_ttl, entries),
            order: ReadingOrder::default(),
            files: Handles::default(),
            streams: Handles::default(),
            contents: Contents::default(),
            locks: HeldLocks::default(),
            background: Background::default(),
            stats: tokio::sync::Mutex::default(),
            notifier: OnceLock::new(),
            passthrough: OnceLock::new(),
            writeback: OnceLock::new(),
            place: OnceLock::new(),
            root: InodeId(root.inode),
            ttl: options.cache_ttl,
            identity,
        }
    }

    /// Which process serves what.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What it counted so far, for Prometheus.
    pub fn metrics(&self) -> String {
        metrics::text(self.fs.hedge_counts(), self.fs.delegation_counts(), self.fs.lock_delegation_counts())
    }

    /// How long the kernel may believe what the cluster just said.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The cluster's number of a node.
    pub fn inode(&self, ino: INodeNo) -> InodeId {
        if ino == INodeNo::ROOT { self.root } else { InodeId(ino.0) }
    }

    /// The kernel's number of a node.
    pub fn ino(&self, inode: InodeId) -> INodeNo {
        if inode == self.root { INodeNo::ROOT } else { INodeNo(inode.get()) }
    }

    /// The node of an answer.
    pub fn node(&self, status: &FileStatus) -> Node {
        Node::new(status, self.ino(InodeId(status.inode)), &self.owners)
    }

    /// Keeps the answer to a question that was asked at `asked`.
    pub fn learn(&self, status: &FileStatus, asked: Instant) -> Node {
        let node = self.node(status);
        self.attrs.put(InodeId(status.inode), node.clone(), asked);
        node
    }

    /// Keeps what a change made through this mount answered.
    pub fn learn_change(&self, status: &FileStatus) -> Node {
        let node = self.node(status);
        self.attrs.changed(InodeId(status.inode), node.clone());
        node
    }

    /// A file was opened and this is what the cluster says about it, asked at `asked`: an open sees what others closed before. If the
    /// kernel believes something else, it is told to ask again; otherwise it would read up to the old length.
    pub fn learn_at_open(&self, status: &FileStatus, asked: Instant) {
        let inode = InodeId(status.inode);
        let believed = self.attrs.get(inode, Instant::now());
        self.learn(status, asked);
        let other =
            believed.is_none_or(|(node, _)| node.change != status.change || node.attr.size != status.size);
        if other && let Some(notifier) = self.notifier.get() {
            // A negative offset stands for attributes without pages. A node that the kernel does not have is none to forget.
            if let Err(error) = notifier.inval_inode(self.ino(inode), -1, 0) {
                tracing::debug!(inode = inode.get(), %error, "the kernel keeps its attributes");
            }
        }
    }

    /// Attributes that are known now, with what is being written.
    pub fn known(&self, inode: InodeId, now: Instant) -> Option<(Node, Duration)> {
        let (mut node, left) = self.attrs.get(inode, now)?;
        if let Some(written) = self.fs.written(inode) {
            node.overlay(&written);
        }
        Some((node, left))
    }

    /// What is known about a name, with the attributes behind it.
    pub fn known_name(&self, dir: InodeId, name: &[u8], now: Instant) -> Option<Result<Believed, Duration>> {
        match self.directories.find(dir, name, now) {
            Known::Present(entry, entry_left) => {
                let (node, left) = self.known(entry.inode, now)?;
                Some(Ok((node.attr, left.min(entry_left))))
            }
            Known::Absent(left) => Some(Err(left)),
            Known::Unknown => None,
        }
    }

    /// Attributes of a node, from the cluster.
    pub async fn stat(&self, who: Who, inode: InodeId) -> Result<Node, Refusal> {
        let mut asker = Asker::new(who, &self.owners);
        let asked = Instant::now();
        loop {
            match self.fs.stat(asker.caller(), inode).await {
                Err(refusal) if asker.widen(&refusal) => {}
                answer => return Ok(self.learn(&answer?, asked)),
            }
        }
    }

    /// Attributes of a node, known or from the cluster.
    pub async fn current(&self, who: Who, inode: InodeId) -> Result<Node, Refusal> {
        match self.known(inode, Instant::now()) {
            Some((node, _)) => Ok(node),
            None => self.stat(who, inode).await,
        }
    }

    /// A page of entries of `dir` after the name `start`, which becomes known.
    pub async fn page(
        &self,
        who: Who,
        dir: InodeId,
        start: &[u8],
        wanted: Wanted,
    ) -> Result<Entries, Refusal> {
        let asked = Instant::now();
        let mut listing = UnderWay { mount: self, dir, listing: Some(self.directories.listing(dir)) };
        let (entries, more) = match wanted {
            Wanted::Attributes(limit) => self.entries(who, dir, start, limit).await?,
            Wanted::Names => self.names(who, dir, start).await?,
        };
        let end = if more { entries.last().map(|(name, _)| name.clone()) } else { None };
        if let Some(listing) = listing.listing.take() {
            let page = Page::new(entries.clone(), end, asked);
            self.directories.listed(dir, listing, start, page);
        }
        Ok(entries)
    }

    /// Entries after a name, whose attributes become known, and whether more follow.
    async fn entries(
        &self,
        who: Who,
        dir: InodeId,
        start: &[u8],
        limit: u32,
    ) -> Result<(Entries, bool), Refusal> {
        let asked = Instant::now();
        let mut asker = Asker::new(who, &self.owners);
        let (statuses, more) = loop {
            match self.fs.list(asker.caller(), dir, start, limit).await {
                Err(refusal) if asker.widen(&refusal) => {}
                answer => break answer?,
            }
        };
        let mut entries = Entries::with_capacity(statuses.len());
        for status in &statuses {
            self.learn(status, asked);
            let entry = Entry { inode: InodeId(status.inode), kind: attributes::kind_of(status.r#type()) };
            // A copy: the attributes beside it, with targets of links, need not be kept.
            entries.push((Bytes::copy_from_slice(&status.name), entry));
        }
        self.fetch_ahead(asker.caller(), || {
            let small = statuses.iter().filter(|status| is_small(status));
            let files = small.map(|status| (&status.name[..], InodeId(status.inode)));
            self.order.listed(dir, start.is_empty(), files)
        });
        Ok((entries, more))
    }

    /// Names after a name with what they stand for, and whether more follow.
    async fn names(&self, who: Who, dir: InodeId, start: &[u8]) -> Result<(Entries, bool), Refusal> {
        let mut asker = Asker::new(who, &self.owners);
        let (names, more) = loop {
            match self.fs.list_names(asker.caller(), dir, start, PAGE_NAMES).await {
                Err(refusal) if asker.widen(&refusal) => {}
                answer => break answer?,
            }
        };
        let entry = |name: ListedName| {
            let kind = attributes::kind_of(name.r#type());
            (name.name, Entry { inode: InodeId(name.inode), kind })
        };
        Ok((names.into_iter().map(entry).collect(), more))
    }

    /// Fetches files before they are opened, those that `next` names and the kernel has no pages of.
    pub fn fetch_ahead(&self, caller: &Caller, next: impl FnOnce() -> Vec<InodeId>) {
        if self.passthrough.get().is_some() {
            // The kernel reads them by itself.
            return;
        }
        let mut wanted = next();
        wanted.retain(|inode| !self.contents.is_remembered(*inode));
        if !wanted.is_empty() {
            self.fs.fetch_ahead(caller, &wanted);
        }
    }

    /// Looks a name up at the cluster. When many names of one directory are asked for, a page of them is fetched at once.
    pub async fn look_up(
        &self,
        who: Who,
        dir: InodeId,
        name: &[u8],
    ) -> Result<Result<Believed, Duration>, Refusal> {
        if self.directories.missed(dir, Instant::now()) {
            let gate = self.directories.gate(dir);
            let _one_at_a_time = gate.lock().await;
            // Another may have fetched it meanwhile.
            if let Some(known) = self.known_name(dir, name, Instant::now()) {
                return Ok(known);
            }
            // A directory that may be searched but not listed is asked for single names.
            if self.page(who, dir, &just_before(name), Wanted::Attributes(PAGE_ENTRIES)).await.is_ok()
                && let Some(known) = self.known_name(dir, name, Instant::now())
            {
                return Ok(known);
            }
        }
        let asked = Instant::now();
        let mut asker = Asker::new(who, &self.owners);
        loop {
            match self.fs.lookup(asker.caller(), dir, name).await {
                Err(refusal) if asker.widen(&refusal) => {}
                Err(refusal) if refusal.kind() == dfs_client::ErrorKind::NotFound => {
                    return Ok(Err(self.ttl));
                }
                answer => return Ok(Ok((self.learn(&answer?, asked).attr, self.ttl))),
            }
        }
    }

    /// A node was made in `dir` through this mount.
    pub fn entry_made(&self, dir: InodeId, name: &[u8], status: &FileStatus) -> Node {
        let node = self.learn_change(status);
        let entry = Entry { inode: InodeId(status.inode), kind: node.attr.kind };
        self.directories.changed(dir, name, Some(entry));
        let links = i32::from(node.attr.kind == fuser::FileType::Directory);
        self.attrs.entry_changed(dir, attributes::time(status.ctime_ns), links);
        node
    }

    /// A name was removed from `dir` through this mount; `status` is of the node it stood for.
    pub fn entry_removed(&self, dir: InodeId, name: &[u8], status: &FileStatus) {
        let node = self.learn_change(status);
        self.directories.changed(dir, name, None);
        let links = -i32::from(node.attr.kind == fuser::FileType::Directory);
        self.attrs.entry_changed(dir, attributes::time(status.ctime_ns), links);
    }

    /// Logs a failure that nobody is told of.
    pub fn note(what: &'static str, inode: InodeId, error: &DfsError) {
        tracing::warn!(inode = inode.get(), %error, "{what}");
    }
}

/// Whether a file may be fetched before it is opened.
fn is_small(status: &FileStatus) -> bool {
    status.r#type() == FileType::File
        && !status.under_construction
        && (1..=MAX_AHEAD_BYTES).contains(&status.size)
}

/// A listing that counts as failed unless it is taken.
struct UnderWay<'m> {
    mount: &'m Mount,
    dir: InodeId,
    listing: Option<crate::directory_cache::Listing>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(listing) = self.listing.take() {
            self.mount.directories.listing_failed(self.dir, listing);
        }
    }
}
