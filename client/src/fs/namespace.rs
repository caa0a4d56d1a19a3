//! Namespace calls of a session.
//!
//! Each is one call at the namenode, or none if it is about delegated directories. Attributes that are answered are overlaid with what this session has written and not
//! recorded yet, if the file is open for writing here.

use bytes::Bytes;
use dfs_proto::v1::{self, ClusterStats, FileStatus, FileType, MoveMode, MoveResponse, NodeRef, XattrMode};
use dfs_proto::{InodeId, RpcError};

use super::delegation::{Touched, Verdict, Way};
use super::subject::Subject;
use super::{Caller, FileSystem, NewNode, SetAttributes};
use crate::{DfsError, ErrorKind, path};

impl FileSystem {
    /// Attributes of the node at an absolute path (see [`crate::DfsClient`] for the form of paths).
    pub async fn resolve(&self, caller: &Caller, path: &str) -> Result<FileStatus, DfsError> {
        self.inner().all_settled().await?;
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
        let subject = Subject::Entry(parent, name);
        if let Verdict::Given(known) = self.inner().look_up_here(caller, (parent, name)) {
            return Ok(self.overlaid(known.map_err(|kind| refusal(&subject, kind))?));
        }
        self.inner().settled(&[parent]).await?;
        let status = self.stat_call(caller, &subject, entry(parent, name)).await?;
        self.inner().read_by(caller, parent, false);
        Ok(status)
    }

    /// To be called when a file in `dir` is opened for reading: directories that are read a lot are asked for, and then known here.
    pub fn reading(&self, caller: &Caller, dir: InodeId) {
        self.inner().read_by(caller, dir, true);
    }

    /// Attributes of a node.
    pub async fn stat(&self, caller: &Caller, inode: InodeId) -> Result<FileStatus, DfsError> {
        let subject = Subject::Inode(inode);
        if let Verdict::Given(Ok(known)) = self.inner().stat_here(inode) {
            return Ok(self.overlaid(known));
        }
        self.inner().settled(&[inode]).await?;
        self.stat_call(caller, &subject, node(inode)).await
    }

    async fn stat_call(
        &self,
        caller: &Caller,
        subject: &Subject<'_>,
        node: NodeRef,
    ) -> Result<FileStatus, DfsError> {
        let moment = self.inner().moment();
        let request = v1::StatRequest { context: self.context(caller), node: Some(node) };
        let status =
            self.namenode().call(subject, request, |mut s, r| async move { s.stat(r).await }).await?;
        self.inner().told(std::slice::from_ref(&status), moment);
        Ok(self.overlaid(status))
    }

    /// Makes a node of any type. A file is not opened; see [`Self::create`].
    pub async fn make_node(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &[u8],
        new: NewNode,
    ) -> Result<FileStatus, DfsError> {
        let (fs, dirs, subject) = (self.inner(), [parent], Subject::Entry(parent, name));
        let touched = Touched { dirs: &dirs, ..Touched::default() };
        let way = fs.change(&subject, touched, |shared, moment| {
            fs.make_here(shared, moment, caller, (parent, name), &new, None)
        });
        let mut changing = match way.await? {
            Way::Here(made) => return made.map_err(|kind| refusal(&subject, kind)),
            Way::Direct(changing) => changing,
        };
        let request = self.make_node_request(caller, parent, name, new);
        let answer = changing.answer(fs.make_node_call(&subject, request)).await?;
        answer.status.iter().for_each(|made| fs.unsynced.changed(made.inode));
        changing.done(caller);
        answer.status.ok_or_else(|| incomplete(&subject, "status"))
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
        let (fs, subject, nodes) = (self.inner(), Subject::Entry(parent, name), [inode]);
        // What has several names cannot be in a delegated directory.
        let dirs = [parent, fs.place_of(inode).unwrap_or(parent)];
        let mut changing = fs.direct(&subject, Touched { dirs: &dirs, nodes: &nodes, others: false }).await?;
        let request = v1::LinkRequest {
            context: self.context(caller),
            inode: inode.get(),
            node: Some(entry(parent, name)),
        };
        let send = self.namenode().call_files(&subject, request, |mut s, r| async move { s.link(r).await });
        let status = changing.answer(send).await?;
        changing.told(&status, false);
        Ok(self.overlaid(status))
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
        let (fs, dirs, subject) = (self.inner(), [parent], Subject::Entry(parent, name));
        // A directory that is removed may be delegated itself.
        let touched = Touched { dirs: &dirs, others: directory, ..Touched::default() };
        let way = fs.change(&subject, touched, |shared, moment| {
            fs.unlink_here(shared, moment, caller, (parent, name), directory)
        });
        let mut changing = match way.await? {
            Way::Here(removed) => {
                return Ok(self.overlaid(removed.map_err(|kind| refusal(&subject, kind))?));
            }
            Way::Direct(changing) => changing,
        };
        if !directory {
            fs.tell_opens().await?;
        }
        let request =
            v1::UnlinkRequest { context: self.context(caller), node: Some(entry(parent, name)), directory };
        let send = self.namenode().call_files(&subject, request, |mut s, r| async move { s.unlink(r).await });
        let answer = changing.answer(send).await?;
        let status = answer.status.ok_or_else(|| incomplete(&subject, "status"))?;
        changing.told(&status, false);
        if directory {
            changing.removed(InodeId(status.inode));
        }
        changing.done(caller);
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
        // Named are both: which of them an error is about, its kind tells.
        let (fs, dirs, subject) = (self.inner(), [parent, new_parent], Subject::Entry(parent, name));
        // A directory that is moved or replaced may be delegated itself.
        let touched = Touched { dirs: &dirs, others: true, ..Touched::default() };
        let way = fs.change(&subject, touched, |shared, moment| {
            fs.rename_here(shared, moment, caller, ((parent, name), (new_parent, new_name)), mode)
        });
        let mut changing = match way.await? {
            Way::Here(moved) => {
                let (moved, other) = moved.map_err(|kind| refusal(&subject, kind))?;
                return Ok(self.overlaid_move(MoveResponse { moved: Some(moved), other }));
            }
            Way::Direct(changing) => changing,
        };
        fs.tell_opens().await?;
        let request = v1::MoveRequest {
            context: self.context(caller),
            src: Some(entry(parent, name)),
            dst: Some(entry(new_parent, new_name)),
            mode: mode.into(),
        };
        let send = self.namenode().call_files(&subject, request, |mut s, r| async move { s.r#move(r).await });
        let answer = changing.answer(send).await?;
        for status in answer.moved.iter().chain(&answer.other) {
            changing.told(status, false);
        }
        if let Some(replaced) = answer.other.as_ref().filter(|_| mode == MoveMode::Replace) {
            changing.removed(InodeId(replaced.inode));
        }
        changing.done(caller);
        Ok(self.overlaid_move(answer))
    }

    fn overlaid_move(&self, answer: MoveResponse) -> MoveResponse {
        MoveResponse {
            moved: answer.moved.map(|status| self.overlaid(status)),
            other: answer.other.map(|status| self.overlaid(status)),
        }
    }

    /// Sets attributes and answers all of them. The size of a file that this session writes is set in order with its
    /// writes.
    pub async fn set_attributes(
        &self,
        caller: &Caller,
        inode: InodeId,
        mut set: SetAttributes,
    ) -> Result<FileStatus, DfsError> {
        let fs = self.inner();
        let file = fs.files.get(inode);
        if let (Some(size), Some(file)) = (set.size, file.as_ref().filter(|file| file.is_writable())) {
            file.set_len(size).await?;
            set.size = None;
            if !set.more_than_size() {
                return Ok(file.status());
            }
        }
        let (only, subject) = ([inode], Subject::Inode(inode));
        let touched = Touched { dirs: &only, nodes: &only, others: false };
        let way =
            fs.change(&subject, touched, |shared, moment| fs.set_here(shared, moment, caller, inode, &set));
        let status = match way.await? {
            Way::Here(done) => done.map_err(|kind| refusal(&subject, kind))?,
            Way::Direct(mut changing) => {
                let request = v1::SetAttributesRequest {
                    context: self.context(caller),
                    node: Some(node(inode)),
                    session: fs.session().to_owned(),
                    ..set.into_request()
                };
                let status = changing.answer(fs.set_attributes_call(inode, request)).await?;
                changing.told(&status, false);
                status
            }
        };
        if let Some(file) = file {
            file.attributes_set(&status);
        }
        Ok(self.overlaid(status))
    }

    /// Value of one extended attribute; [`NoAttribute`](crate::ErrorKind::NoAttribute) if there is none of that name.
    pub async fn get_xattr(&self, caller: &Caller, inode: InodeId, name: &[u8]) -> Result<Bytes, DfsError> {
        self.inner().settled(&[inode]).await?;
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
        self.inner().settled(&[inode]).await?;
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
        let mut changing = self.inner().changing_attributes(inode).await?;
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
        let status = changing.answer(send).await?;
        changing.told(&status, false);
        Ok(self.overlaid(status))
    }

    /// Removes one extended attribute.
    pub async fn remove_xattr(
        &self,
        caller: &Caller,
        inode: InodeId,
        name: &[u8],
    ) -> Result<FileStatus, DfsError> {
        let mut changing = self.inner().changing_attributes(inode).await?;
        let request = v1::RemoveXattrRequest {
            context: self.context(caller),
            inode: inode.get(),
            name: Bytes::copy_from_slice(name),
        };
        let subject = Subject::Inode(inode);
        let send =
            self.namenode().call_files(&subject, request, |mut s, r| async move { s.remove_xattr(r).await });
        let status = changing.answer(send).await?;
        changing.told(&status, false);
        Ok(self.overlaid(status))
    }

    /// Capacity and health of the cluster.
    pub async fn stats(&self) -> Result<ClusterStats, DfsError> {
        let request = v1::GetStatsRequest { context: self.namenode().context() };
        self.namenode().call("", request, |mut s, r| async move { s.get_stats(r).await }).await
    }

    /// Attributes of a file that is written here, which the namenode may not know yet. None of one that this session has no lease of.
    pub fn written(&self, inode: InodeId) -> Option<FileStatus> {
        self.inner().files.get(inode)?.written()
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

/// A refusal that the namenode was not asked for.
pub(super) fn refusal(subject: &Subject<'_>, kind: ErrorKind) -> DfsError {
    DfsError::refused(&subject.to_string(), RpcError::new(kind, "", ""))
}

/// An answer without a part it must have.
pub(super) fn incomplete(subject: &Subject<'_>, field: &'static str) -> DfsError {
    DfsError::incomplete(&subject.to_string(), field)
}
