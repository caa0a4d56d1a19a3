//! Listings of delegated directories.

use std::ops::Bound;

use bytes::{Bytes, BytesMut};
use dfs_proto::v1::{FileStatus, FileType, ListedName};

use super::changes::Spot;
use super::nodes::{Named, Nodes};
use crate::fs::Caller;
use crate::fs::file_system::FsInner;

impl Nodes {
    /// Entries after a name, and whether more follow.
    pub(super) fn list(
        &self,
        caller: &Caller,
        dir: u64,
        start_after: &[u8],
        limit: usize,
    ) -> Option<(Vec<FileStatus>, bool)> {
        self.page(caller, dir, start_after, limit, |name, named| {
            let node = self.nodes.get(&named.inode)?;
            node.is_firm().then(|| FileStatus { name: name.clone(), ..node.status.clone() })
        })
    }

    /// The same, with nothing but name, number and type of each.
    pub(super) fn list_names(
        &self,
        caller: &Caller,
        dir: u64,
        start_after: &[u8],
        limit: usize,
    ) -> Option<(Vec<ListedName>, bool)> {
        // Names lie all over the memory: they are copied side by side, once, for those who go through them after this.
        let mut bytes = BytesMut::new();
        let (spans, has_more) =
            self.page(caller, dir, start_after, limit, |name, &Named { inode, kind }| {
                bytes.extend_from_slice(name);
                (kind != FileType::Unspecified).then_some((bytes.len(), inode, kind))
            })?;
        let mut bytes = bytes.freeze();
        let mut taken = 0;
        let named = |(end, inode, kind): (usize, u64, FileType)| {
            let name = bytes.split_to(end - taken);
            taken = end;
            ListedName { name, inode, r#type: kind.into() }
        };
        Some((spans.into_iter().map(named).collect(), has_more))
    }

    fn page<T>(
        &self,
        caller: &Caller,
        dir: u64,
        start_after: &[u8],
        limit: usize,
        mut one: impl FnMut(&Bytes, &Named) -> Option<T>,
    ) -> Option<(Vec<T>, bool)> {
        let directory = self.readable(caller, dir)?;
        let mut following =
            directory.names.range::<[u8], _>((Bound::Excluded(start_after), Bound::Unbounded));
        let mut entries = Vec::with_capacity(limit.min(directory.names.len()));
        for (name, named) in following.by_ref().take(limit) {
            entries.push(one(name, named)?);
        }
        Some((entries, following.next().is_some()))
    }
}

impl FsInner {
    /// Entries of a directory, if they are known here.
    pub(in crate::fs) fn list_here(
        &self,
        caller: &Caller,
        (dir, start_after): Spot<'_>,
        limit: usize,
    ) -> Option<(Vec<FileStatus>, bool)> {
        self.read_here(dir.get(), |nodes| nodes.list(caller, dir.get(), start_after, limit)).flatten()
    }

    /// Names of a directory, if they are known here.
    pub(in crate::fs) fn list_names_here(
        &self,
        caller: &Caller,
        (dir, start_after): Spot<'_>,
        limit: usize,
    ) -> Option<(Vec<ListedName>, bool)> {
        self.read_here(dir.get(), |nodes| nodes.list_names(caller, dir.get(), start_after, limit)).flatten()
    }
}
