//! Queries about paths, with the caller's permissions.

use std::collections::BTreeSet;

use bytes::Bytes;
use dfs_proto::{InodeId, v1};
use v1::FileType;

use super::entry::Entry;
use super::error::{InvalidReason, NamesystemError};
use super::inode::Inode;
use super::ops::xattrs;
use super::path::Path;
use super::permission::Access;
use super::resolve::{self, Spot};
use super::rows::Rows;
use super::snapshot::Snapshot;
use super::stored_block::{BlockState, StoredBlock};
use crate::log;

/// Entries in one page of a listing at most, as in HDFS.
pub const LIST_LIMIT_MAX: usize = 1_000;

/// Names in one page of a listing of nothing else at most: some milliseconds, and 1.2 MB if all are as long as they can be.
pub const LIST_NAMES_MAX: usize = 4_096;

/// What listing a node found.
enum Listed<T> {
    /// Entries, and whether more follow.
    Directory(Vec<T>, bool),
    /// The node is no directory.
    Other(Inode),
}

/// The limit that is meant by what a caller asks for: 0 is as much as there may be.
fn within(wanted: usize, most: usize) -> usize {
    if wanted == 0 { most } else { wanted.min(most) }
}

impl Snapshot {
    /// Attributes of a node.
    pub fn stat(&self, caller: &log::Caller, node: &v1::NodeRef) -> Result<v1::FileStatus, NamesystemError> {
        let path = Path::parse(Some(node))?;
        Ok(resolve::node(self, Some(caller), &path)?.into_status(Bytes::new()))
    }

    /// One page of a directory: entries after a name, and whether more follow. What is not a directory
    /// lists itself, without a name. A limit of 0 means [`LIST_LIMIT_MAX`].
    pub fn list(
        &self,
        caller: &log::Caller,
        node: &v1::NodeRef,
        start_after: &[u8],
        limit: usize,
    ) -> Result<(Vec<v1::FileStatus>, bool), NamesystemError> {
        let limit = within(limit, LIST_LIMIT_MAX);
        let listed = self.entries(caller, node, start_after, limit, |name, entry| {
            Ok(self.existing_inode(entry.inode)?.into_status(Bytes::from(name)))
        })?;
        Ok(match listed {
            Listed::Directory(page, more) => (page, more),
            Listed::Other(inode) => (vec![inode.status(Bytes::new())], false),
        })
    }

    /// The same, with nothing but name, inode and type of each entry, which costs a third. A limit of 0 means [`LIST_NAMES_MAX`].
    pub fn list_names(
        &self,
        caller: &log::Caller,
        node: &v1::NodeRef,
        start_after: &[u8],
        limit: usize,
    ) -> Result<(Vec<v1::ListedName>, bool), NamesystemError> {
        let limit = within(limit, LIST_NAMES_MAX);
        let listed = self.entries(caller, node, start_after, limit, |name, entry| {
            let (name, inode, r#type) = (Bytes::from(name), entry.inode.get(), entry.kind.into());
            Ok(v1::ListedName { name, inode, r#type })
        })?;
        Ok(match listed {
            Listed::Directory(page, more) => (page, more),
            Listed::Other(inode) => {
                let v1::FileStatus { name, inode, r#type, .. } = inode.status(Bytes::new());
                (vec![v1::ListedName { name, inode, r#type }], false)
            }
        })
    }

    fn entries<T>(
        &self,
        caller: &log::Caller,
        node: &v1::NodeRef,
        start_after: &[u8],
        limit: usize,
        one: impl Fn(Vec<u8>, Entry) -> Result<T, NamesystemError>,
    ) -> Result<Listed<T>, NamesystemError> {
        let path = Path::parse(Some(node))?;
        let inode = resolve::node(self, Some(caller), &path)?;
        if !inode.is_directory() {
            return Ok(Listed::Other(inode));
        }
        resolve::check_access(Some(caller), &inode, Access::READ_EXECUTE, &path, Spot::Node)?;
        let mut page = Vec::new();
        for row in self.entries_after(inode.id, start_after)? {
            let (name, entry) = row?;
            if page.len() == limit {
                return Ok(Listed::Directory(page, true));
            }
            page.push(one(name, entry)?);
        }
        Ok(Listed::Directory(page, false))
    }

    /// Attributes of a file that the caller may read. One that is named by inode alone, as mounts do, may also
    /// be executed: running a program is reading it, and which of the two is meant the caller's kernel has
    /// checked.
    pub fn open_file(
        &self,
        caller: &log::Caller,
        node: &v1::NodeRef,
    ) -> Result<v1::FileStatus, NamesystemError> {
        let path = Path::parse(Some(node))?;
        let inode = self.file(caller, &path)?;
        let checked = resolve::check_access(Some(caller), &inode, Access::READ, &path, Spot::Node);
        if path.names().is_empty() && checked.is_err() {
            resolve::check_access(Some(caller), &inode, Access::EXECUTE, &path, Spot::Node)?;
        } else {
            checked?;
        }
        Ok(inode.into_status(Bytes::new()))
    }

    /// Value of an extended attribute.
    pub fn get_xattr(
        &self,
        caller: &log::Caller,
        inode: InodeId,
        name: &[u8],
    ) -> Result<Vec<u8>, NamesystemError> {
        xattrs::get(self, caller, inode.get(), name)
    }

    /// Names of all extended attributes that the caller may know of, in bytewise order.
    pub fn list_xattrs(&self, caller: &log::Caller, inode: InodeId) -> Result<Vec<Vec<u8>>, NamesystemError> {
        xattrs::list(self, caller, inode.get())
    }

    /// Blocks of a file that overlap a range, each with its offset in the file, at most `limit`; and
    /// whether they reach the end of the range or of the file. A block that is being written overlaps
    /// whatever starts behind its recorded end, since only its datanodes know its length.
    pub fn file_blocks(
        &self,
        inode: InodeId,
        offset: u64,
        length: u64,
        limit: usize,
    ) -> Result<(Vec<(u64, StoredBlock)>, bool), NamesystemError> {
        let file = self.inode(inode)?.ok_or(NamesystemError::InodeNotFound { inode })?;
        if !file.is_file() || file.block_size == 0 {
            return Err(NamesystemError::InvalidArgument {
                subject: inode.to_string(),
                reason: InvalidReason::NotARegularFile,
            });
        }
        let end = offset.saturating_add(length);
        let mut out = Vec::new();
        for row in self.file_blocks_from(inode, offset / file.block_size)? {
            let (index, id) = row?;
            let start = index.saturating_mul(file.block_size);
            if start >= end {
                break;
            }
            if out.len() == limit {
                return Ok((out, false));
            }
            let record = self.existing_block(id)?;
            if record.state != BlockState::Complete || start.saturating_add(record.length) > offset {
                out.push((start, self.stored_block(&record)?));
            }
        }
        Ok((out, true))
    }

    /// Attributes of a file and who writes it, for decisions about leases before a command is
    /// proposed. Checks search permission only.
    pub fn writer_of(
        &self,
        caller: &log::Caller,
        node: &v1::NodeRef,
    ) -> Result<(v1::FileStatus, Option<String>), NamesystemError> {
        let path = Path::parse(Some(node))?;
        let inode = resolve::node(self, Some(caller), &path)?;
        Ok((inode.status(Bytes::new()), inode.holder))
    }

    /// Totals of a subtree; a file with several names in it counts once. Needs read and search permission on all its directories.
    pub fn content_summary(
        &self,
        caller: &log::Caller,
        node: &v1::NodeRef,
    ) -> Result<v1::ContentSummary, NamesystemError> {
        let path = Path::parse(Some(node))?;
        let root = resolve::node(self, Some(caller), &path)?;
        let mut summary = v1::ContentSummary::default();
        let mut directories = Vec::new();
        // Files with several names that were met: few, and a word each.
        let mut met = BTreeSet::new();
        if root.is_directory() {
            directories.push(root.id);
        } else {
            add_file(&mut summary, &root);
        }
        while let Some(id) = directories.pop() {
            summary.directory_count += 1;
            if !resolve::unchecked(Some(caller)) {
                let spot = if id == root.id { Spot::Node } else { Spot::Below };
                let directory = self.existing_inode(id)?;
                resolve::check_access(Some(caller), &directory, Access::READ_EXECUTE, &path, spot)?;
            }
            for row in self.entries_after(id, b"")? {
                let (_, entry) = row?;
                if entry.kind == FileType::Directory {
                    directories.push(entry.inode);
                } else {
                    let file = self.existing_inode(entry.inode)?;
                    if file.nlink == 1 || met.insert(file.id) {
                        add_file(&mut summary, &file);
                    }
                }
            }
        }
        Ok(summary)
    }

    /// The checks of a deletion that `apply` leaves out because they take as long as the subtree is
    /// large: for callers other than the superuser, everything on every directory below that is not
    /// empty (HDFS's rule), and its sticky bits. A missing node is no error.
    pub fn check_delete(
        &self,
        caller: &log::Caller,
        node: &v1::NodeRef,
        recursive: bool,
    ) -> Result<(), NamesystemError> {
        let path = Path::parse(Some(node))?;
        let place = match resolve::place(self, Some(caller), &path) {
            Ok(Some(place)) => place,
            // The base itself and missing directories are `apply`'s to judge.
            Ok(None) | Err(NamesystemError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(child) = place.child else {
            return Ok(());
        };
        let child = self.existing_inode(child.inode)?;
        resolve::check_remove(Some(caller), &place.directory, &child, &path, Spot::Directory)?;
        if !child.is_directory() || !self.has_entries(child.id)? {
            return Ok(());
        }
        if !recursive {
            return Err(NamesystemError::DirectoryNotEmpty { path: path.subject() });
        }
        if resolve::unchecked(Some(caller)) {
            return Ok(());
        }
        let root = child.id;
        let mut directories = vec![child];
        while let Some(directory) = directories.pop() {
            let sticky = directory.mode & super::permission::STICKY != 0;
            let spot = if directory.id == root { Spot::Node } else { Spot::Below };
            let mut checked = false;
            for row in self.entries_after(directory.id, b"")? {
                let (_, entry) = row?;
                if !checked {
                    resolve::check_access(Some(caller), &directory, Access::ALL, &path, spot)?;
                    checked = true;
                }
                if entry.kind == FileType::Directory || sticky {
                    let inode = self.existing_inode(entry.inode)?;
                    resolve::check_remove(Some(caller), &directory, &inode, &path, spot)?;
                    if inode.is_directory() {
                        directories.push(inode);
                    }
                }
            }
        }
        Ok(())
    }

    fn file(&self, caller: &log::Caller, path: &Path<'_>) -> Result<Inode, NamesystemError> {
        let inode = resolve::node(self, Some(caller), path)?;
        match inode.kind {
            FileType::File => Ok(inode),
            FileType::Directory => Err(NamesystemError::IsADirectory { path: path.subject() }),
            FileType::Symlink => Err(NamesystemError::SymbolicLink { path: path.subject() }),
            FileType::Unspecified
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharDevice
            | FileType::BlockDevice => Err(NamesystemError::InvalidArgument {
                subject: path.subject(),
                reason: InvalidReason::NotARegularFile,
            }),
        }
    }
}

fn add_file(summary: &mut v1::ContentSummary, inode: &Inode) {
    summary.file_count += 1;
    summary.length = summary.length.saturating_add(inode.size);
    let space = inode.allocated.saturating_mul(u64::from(inode.replication));
    summary.space_consumed = summary.space_consumed.saturating_add(space);
}
