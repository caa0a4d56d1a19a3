//! Namespace calls of a session.
//!
//! Each is one call at the namenode. Attributes that are answered are overlaid with what this session has written and not
//! recorded yet, if the file is open for writing here.

use bytes::Bytes;
use dfs_proto::InodeId;
use dfs_proto::v1::{self, ClusterStats, FileStatus, FileType, MoveMode, MoveResponse, NodeRef, XattrMode};

use super::subject::Subject;
use super::{Caller, FileSystem, NewNode, SetAttributes};
use crate::{DfsError, path};

impl FileSystem {
    /// Attributes of the node at an absolute path (see [`crate::DfsClient`] for the form of paths).
    pub async fn resolve(&self, caller: &Caller, path: &str) -> Result<FileStatus, DfsError> {
        let request = v1::StatRequest { context: self.context(caller), node: Some(path::node(path)?) };
        self.namenode().call(path, request, |mut s, r| async move { s.stat(r).await }).await
    }

    /// Attributes of the node called `name` in directory `parent`.
    pub async fn lookup(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &[u8],
    ) -> Result<FileStatus, DfsError> {
        let request = v1::StatRequest { context: self.context(caller), node: Some(entry(parent, name)) };
        let subject = Subject::Entry(parent, name);
        let status =
            self.namenode().call(&subject, request, |mut s, r| async move { s.stat(r).await }).await?;
        Ok(self.overlaid(status))
    }

    /// Attributes of a node.
    pub async fn stat(&self, caller: &Caller, inode: InodeId) -> Result<FileStatus, DfsError> {
        let request = v1::StatRequest { context: self.context(caller), node: Some(node(inode)) };
        let subject = Subject::Inode(inode);
        let status =
            self.namenode().call(&subject, request, |mut s, r| async move { s.stat(r).await }).await?;
        Ok(self.overlaid(status))
    }

    /// Entries of a directory after the name `start_after` (empty: from the start) in bytewise order, at most `limit` and at most
    /// [`LIST_PAGE_ENTRIES`](crate::LIST_PAGE_ENTRIES); the flag tells whether more follow.
    pub async fn list(
        &self,
        caller: &Caller,
        dir: InodeId,
        start_after: &[u8],
        limit: u32,
    ) -> Result<(Vec<FileStatus>, bool), DfsError> {
        let (mut entries, has_more) = self.list_call(caller, dir, start_after, limit, false).await?;
        self.inner().files.overlay(&mut entries);
        Ok((entries, has_more))
    }

    /// The same, with nothing but name, inode and type of each entry.
    pub async fn list_names(
        &self,
        caller: &Caller,
        dir: InodeId,
        start_after: &[u8],
        limit: u32,
    ) -> Result<(Vec<FileStatus>, bool), DfsError> {
        self.list_call(caller, dir, start_after, limit, true).await
    }

    async fn list_call(
        &self,
        caller: &Caller,
        dir: InodeId,
        start_after: &[u8],
        limit: u32,
        names_only: bool,
    ) -> Result<(Vec<FileStatus>, bool), DfsError> {
        let request = v1::ListRequest {
            context: self.context(caller),
            node: Some(node(dir)),
            start_after: Bytes::copy_from_slice(start_after),
            limit: limit.clamp(1, crate::LIST_PAGE_ENTRIES as u32),
            need_locations: false,
            names_only,
        };
        let subject = Subject::Inode(dir);
        let answer =
            self.namenode().call(&subject, request, |mut s, r| async move { s.list(r).await }).await?;
        Ok((answer.entries, answer.has_more))
    }

    /// Makes a node of any type. A file is not opened; see [`Self::create`].
    pub async fn make_node(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &[u8],
        new: NewNode,
    ) -> Result<FileStatus, DfsError> {
        let request = self.make_node_request(caller, parent, name, new);
        let answer = self.inner().make_node_call(&Subject::Entry(parent, name), request).await?;
        answer.status.ok_or_else(|| incomplete(&Subject::Entry(parent, name), "status"))
    }

    pub(super) fn make_node_request(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &[u8],
        new: NewNode,
    ) -> v1::MakeNodeRequest {
        let config = &self.inner().client.config;
        let is_file = new.kind == FileType::File;
        v1::MakeNodeRequest {
            context: self.context(caller),
            node: Some(entry(parent, name)),
            r#type: new.kind.into(),
            mode: new.mode,
            group: new.group,
            rdev: new.rdev,
            symlink: new.symlink,
            session: String::new(),
            replication: config.replication.filter(|_| is_file).map_or(0, u32::from),
            block_size: config.block_size.filter(|_| is_file).unwrap_or(0),
            allocate_block: false,
            umask: new.umask,
            without_lease: false,
        }
    }

    /// Gives a node that is not a directory one more name.
    pub async fn link(
        &self,
        caller: &Caller,
        inode: InodeId,
        parent: InodeId,
        name: &[u8],
    ) -> Result<FileStatus, DfsError> {
        let request = v1::LinkRequest {
            context: self.context(caller),
            inode: inode.get(),
            node: Some(entry(parent, name)),
        };
        let subject = Subject::Entry(parent, name);
        let send = self.namenode().call_files(&subject, request, |mut s, r| async move { s.link(r).await });
        Ok(self.overlaid(send.await?))
    }

    /// Removes a name: of an empty directory if `directory`, else of anything that is no directory. The answer tells the node's
    /// attributes after the call; with 0 links it lives on until its last opener has released it.
    pub async fn unlink(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &[u8],
        directory: bool,
    ) -> Result<FileStatus, DfsError> {
        let request =
            v1::UnlinkRequest { context: self.context(caller), node: Some(entry(parent, name)), directory };
        let subject = Subject::Entry(parent, name);
        let send = self.namenode().call_files(&subject, request, |mut s, r| async move { s.unlink(r).await });
        let status = send.await?.status.ok_or_else(|| incomplete(&subject, "status"))?;
        Ok(self.overlaid(status))
    }

    /// Moves a node, or exchanges two.
    pub async fn rename(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &[u8],
        new_parent: InodeId,
        new_name: &[u8],
        mode: MoveMode,
    ) -> Result<MoveResponse, DfsError> {
        let request = v1::MoveRequest {
            context: self.context(caller),
            src: Some(entry(parent, name)),
            dst: Some(entry(new_parent, new_name)),
            mode: mode.into(),
        };
        // Named are both: which of them an error is about, its kind tells.
        let subject = Subject::Entry(parent, name);
        let send = self.namenode().call_files(&subject, request, |mut s, r| async move { s.r#move(r).await });
        let mut answer = send.await?;
        answer.moved = answer.moved.map(|status| self.overlaid(status));
        answer.other = answer.other.map(|status| self.overlaid(status));
        Ok(answer)
    }

    /// Sets attributes and answers all of them. The size of a file that this session writes is set in order with its
    /// writes.
    pub async fn set_attributes(
        &self,
        caller: &Caller,
        inode: InodeId,
        mut set: SetAttributes,
    ) -> Result<FileStatus, DfsError> {
        let file = self.inner().files.get(inode);
        if let (Some(size), Some(file)) = (set.size, file.as_ref().filter(|file| file.is_writable())) {
            file.set_len(size).await?;
            set.size = None;
            if !set.more_than_size() {
                return Ok(file.status());
            }
        }
        let request = v1::SetAttributesRequest {
            context: self.context(caller),
            node: Some(node(inode)),
            session: self.inner().session().to_owned(),
            ..set.into_request()
        };
        let status = self.inner().set_attributes(inode, request).await?;
        if let Some(file) = file {
            file.attributes_set(&status);
        }
        Ok(self.overlaid(status))
    }

    /// Value of one extended attribute; [`NoAttribute`](crate::ErrorKind::NoAttribute) if there is none of that name.
    pub async fn get_xattr(&self, caller: &Caller, inode: InodeId, name: &[u8]) -> Result<Bytes, DfsError> {
        let request = v1::GetXattrRequest {
            context: self.context(caller),
            inode: inode.get(),
            name: Bytes::copy_from_slice(name),
        };
        let subject = Subject::Inode(inode);
        let send =
            self.namenode().call_files(&subject, request, |mut s, r| async move { s.get_xattr(r).await });
        Ok(send.await?.value)
    }

    /// Names of all extended attributes, sorted.
    pub async fn list_xattrs(&self, caller: &Caller, inode: InodeId) -> Result<Vec<Bytes>, DfsError> {
        let request = v1::ListXattrsRequest { context: self.context(caller), inode: inode.get() };
        let subject = Subject::Inode(inode);
        let send =
            self.namenode().call_files(&subject, request, |mut s, r| async move { s.list_xattrs(r).await });
        Ok(send.await?.names)
    }

    /// Sets one extended attribute.
    pub async fn set_xattr(
        &self,
        caller: &Caller,
        inode: InodeId,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<FileStatus, DfsError> {
        let request = v1::SetXattrRequest {
            context: self.context(caller),
            inode: inode.get(),
            name: Bytes::copy_from_slice(name),
            value: Bytes::copy_from_slice(value),
            mode: mode.into(),
        };
        let subject = Subject::Inode(inode);
        let send =
            self.namenode().call_files(&subject, request, |mut s, r| async move { s.set_xattr(r).await });
        Ok(self.overlaid(send.await?))
    }

    /// Removes one extended attribute.
    pub async fn remove_xattr(
        &self,
        caller: &Caller,
        inode: InodeId,
        name: &[u8],
    ) -> Result<FileStatus, DfsError> {
        let request = v1::RemoveXattrRequest {
            context: self.context(caller),
            inode: inode.get(),
            name: Bytes::copy_from_slice(name),
        };
        let subject = Subject::Inode(inode);
        let send =
            self.namenode().call_files(&subject, request, |mut s, r| async move { s.remove_xattr(r).await });
        Ok(self.overlaid(send.await?))
    }

    /// Capacity and health of the cluster.
    pub async fn stats(&self) -> Result<ClusterStats, DfsError> {
        let request = v1::GetStatsRequest { context: self.namenode().context() };
        self.namenode().call("", request, |mut s, r| async move { s.get_stats(r).await }).await
    }

    /// Waits until every change answered before is on disk at the namenode.
    pub async fn sync(&self) -> Result<(), DfsError> {
        self.inner().sync_namespace().await
    }

    fn overlaid(&self, mut status: FileStatus) -> FileStatus {
        self.inner().files.overlay(std::slice::from_mut(&mut status));
        status
    }
}

/// Reference to a node by inode.
pub(super) fn node(inode: InodeId) -> NodeRef {
    NodeRef { base: inode.get(), path: Bytes::new() }
}

/// Reference to a name in a directory.
pub(super) fn entry(parent: InodeId, name: &[u8]) -> NodeRef {
    NodeRef { base: parent.get(), path: Bytes::copy_from_slice(name) }
}

/// An answer without a part it must have.
pub(super) fn incomplete(subject: &Subject<'_>, field: &'static str) -> DfsError {
    DfsError::incomplete(&subject.to_string(), field)
}
