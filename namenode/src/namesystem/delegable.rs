//! Questions about delegated directories: which directories a call has to do with, and what one of them holds.

use bytes::Bytes;
use dfs_proto::{BlockId, InodeId, v1};
use smallvec::SmallVec;
use v1::FileType;

use super::acl;
use super::error::{NamesystemError, StoreError};
use super::path::Path;
use super::permission::{Access, SET_GROUP_ID, STICKY};
use super::resolve::{self, Spot};
use super::rows::Rows;
use super::snapshot::Snapshot;
use super::trash::{HOMES, TRASH};
use crate::log;

/// Directories that one path leads through.
pub type Directories = SmallVec<[InodeId; 8]>;

/// Where the trash of a user is.
pub fn trash_of(user: &[u8]) -> v1::NodeRef {
    v1::NodeRef { base: 0, path: [HOMES, user, TRASH].join(&b'/').into() }
}

impl Snapshot {
    /// Directories whose names or attributes the resolution of `node` and a look at it need: those in which names are
    /// looked up; the node itself if it is a directory; otherwise the one that it is in. What does not exist is left out, and nobody's
    /// permissions are looked at.
    pub fn directories_of(&self, node: &v1::NodeRef) -> Result<Directories, NamesystemError> {
        let mut found = Directories::new();
        let Ok(path) = Path::parse(Some(node)) else { return Ok(found) };
        if path.names().is_empty() {
            found.extend(self.directory_of(path.base())?);
            return Ok(found);
        }
        let mut at = path.base();
        for name in path.names() {
            found.push(at);
            match self.entry(at, name)? {
                Some(entry) if entry.kind == FileType::Directory => at = entry.inode,
                _ => return Ok(found),
            }
        }
        found.push(at);
        Ok(found)
    }

    /// The directory that attributes of a node belong to: itself, or the one that it is in. Right for what has one name.
    pub fn directory_of(&self, id: InodeId) -> Result<Option<InodeId>, NamesystemError> {
        Ok(self.inode(id)?.map(|node| if node.is_directory() { id } else { node.parent }))
    }

    /// As [`Self::directory_of`], of a block's file.
    pub fn directory_of_block(&self, id: BlockId) -> Result<Option<InodeId>, NamesystemError> {
        match self.block_record(id)? {
            Some(record) => self.directory_of(record.inode),
            None => Ok(None),
        }
    }

    /// Whether a directory is `ancestor` or below it.
    pub fn is_within(&self, directory: InodeId, ancestor: InodeId) -> Result<bool, NamesystemError> {
        let mut at = directory;
        while at != ancestor {
            match self.inode(at)? {
                Some(node) if node.parent != at => at = node.parent,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether a new directory can be delegated to the session that has just made it.
    pub fn is_delegable(&self, id: InodeId) -> Result<bool, NamesystemError> {
        Ok(match self.inode(id)? {
            Some(node) => {
                node.is_directory() && node.mode & (SET_GROUP_ID | STICKY) == 0 && !self.hands_down(&node)?
            }
            None => false,
        })
    }

    fn hands_down(&self, directory: &super::inode::Inode) -> Result<bool, StoreError> {
        Ok(acl::stored(directory.id, &directory.xattrs, acl::DEFAULT)?.is_some())
    }

    /// A directory and all that is in it, if it can be delegated to `session`: it is not the root, the caller may read
    /// and search it, has at most `entries_max` entries, and none of them has several names or is being written by somebody else. Unless it
    /// is `shared`, the caller may also write it, it hands nothing down to what is made in it and is not sticky.
    pub fn delegable(
        &self,
        caller: &log::Caller,
        session: &str,
        id: InodeId,
        (shared, entries_max): (bool, usize),
    ) -> Result<Option<(v1::FileStatus, Vec<v1::FileStatus>)>, NamesystemError> {
        let node = v1::NodeRef { base: id.get(), path: Bytes::new() };
        let path = Path::parse(Some(&node))?;
        let directory = resolve::node(self, Some(caller), &path)?;
        if !directory.is_directory() {
            return Err(NamesystemError::NotADirectory { path: path.subject() });
        }
        let access = if shared { Access::READ_EXECUTE } else { Access::ALL };
        resolve::check_access(Some(caller), &directory, access, &path, Spot::Node)?;
        if id == InodeId::ROOT || directory.nlink == 0 || !shared && !self.is_delegable(id)? {
            return Ok(None);
        }
        let mut entries = Vec::new();
        for row in self.entries_after(id, b"")? {
            let (name, entry) = row?;
            let node = self.existing_inode(entry.inode)?;
            // A second name, or one that it once had: the directory that such a node is in cannot be told from its row.
            let is_elsewhere = !node.is_directory() && (node.nlink > 1 || node.parent != id);
            let is_others = node.holder.as_deref().is_some_and(|holder| holder != session);
            if entries.len() == entries_max || is_elsewhere || is_others {
                return Ok(None);
            }
            entries.push(node.into_status(Bytes::from(name)));
        }
        Ok(Some((directory.into_status(Bytes::new()), entries)))
    }
}
