//! Calls about open files: what [`OpenFile`](super::OpenFile) asks the namenode.
//!
//! They are made in the name of the user who mounted; the session's lease is what entitles to them. `CommitBlocks`
//! that closes, and `OpenFile` for writing, are never under way at the same time for one inode:
//! who makes one of them holds the inode's [`LeaseTurn`](super::open_files::LeaseTurn).

use std::sync::Arc;

use dfs_proto::InodeId;
use dfs_proto::v1::{self, FileStatus, LocatedBlocks};

use super::delegation::{Touched, Verdict, Way};
use super::file_system::FsInner;
use super::namespace::{node, refusal};
use super::subject::Subject;
use crate::DfsError;

/// Blocks that an open answers: the namenode gives at most 1,000.
pub(crate) const ALL_BYTES: u64 = u64::MAX;

/// When a commit is answered, and what becomes of it if the namenode's machine fails then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Safety {
    /// It is on disk at the namenode, with every change answered before.
    Durable,
    /// It may be lost.
    Relaxed,
    /// It may be lost, and is told again, or found by a recovery.
    Found,
}

impl FsInner {
    /// Makes block `index` of a file writable. `exclude`: datanodes (uuid) found bad.
    pub(crate) async fn write_block(
        self: &Arc<Self>,
        inode: InodeId,
        index: u64,
        exclude: Vec<String>,
    ) -> Result<v1::WriteBlockResponse, DfsError> {
        // What it changes is told by the next commit.
        let _changing = self.changing(inode).await?;
        let request = v1::WriteBlockRequest {
            context: self.own_context(),
            inode: inode.get(),
            session: self.session().to_owned(),
            index,
            exclude,
        };
        let subject = Subject::Inode(inode);
        self.client
            .namenode
            .call_files(&subject, request, |mut s, r| async move { s.write_block(r).await })
            .await
    }

    /// Records what was written, as safely as is asked for; with [`ErrorKind::ChangesLost`](crate::ErrorKind::ChangesLost), nothing was recorded, and it is to be called once more with
    /// what the file tells again. `context`, `inode` and `session` of the request are filled in here.
    pub(crate) async fn commit_blocks(
        self: &Arc<Self>,
        inode: InodeId,
        request: v1::CommitBlocksRequest,
        safety: Safety,
    ) -> Result<FileStatus, DfsError> {
        if safety == Safety::Durable {
            self.all_carried_out().await?;
        }
        let subject = Subject::Inode(inode);
        let nodes = [inode];
        let touched = Touched { nodes: &nodes, ..Touched::default() };
        let way = self.change(&subject, touched, |shared, moment| match safety {
            Safety::Relaxed => self.close_here(shared, moment, inode, &request),
            Safety::Found | Safety::Durable => Verdict::Ask,
        });
        let mut changing = match way.await? {
            Way::Here(closed) => return closed.map_err(|kind| refusal(&subject, kind)),
            Way::Direct(changing) => changing,
        };
        if safety == Safety::Found {
            changing.is_kept();
        }
        let asked = (safety == Safety::Durable).then(|| self.ask_told());
        let context = match &asked {
            Some(asked) => self.context_telling(asked),
            None => self.own_context(),
        };
        let request = v1::CommitBlocksRequest {
            context,
            inode: inode.get(),
            session: self.session().to_owned(),
            ..request
        };
        let namenode = &self.client.namenode;
        let call = namenode.call_files(&subject, request, |mut s, r| async move { s.commit_blocks(r).await });
        let mut outcome = changing.answer(call).await;
        if let Some(asked) = &asked {
            outcome = self.synced_or_lost(asked, outcome);
        }
        let status = outcome?;
        if safety == Safety::Durable {
            // Not before: what is on its way counts among what may be lost.
            changing.is_kept();
        }
        changing.told(&status, true);
        Ok(status)
    }

    /// Takes the lease of a file that this session has open already, after it was given back.
    pub(crate) async fn reopen(self: &Arc<Self>, inode: InodeId) -> Result<LocatedBlocks, DfsError> {
        let request = v1::OpenFileRequest {
            context: self.own_context(),
            node: Some(node(inode)),
            session: self.session().to_owned(),
            write: true,
            truncate: false,
            offset: 0,
            length: ALL_BYTES,
            reopen: true,
        };
        self.open_for_writing_call(inode, request).await
    }

    /// Leaves a file to lease recovery.
    pub(super) async fn recover_lease(&self, inode: InodeId) -> Result<(), DfsError> {
        self.settled(&[inode]).await?;
        let namenode = &self.client.namenode;
        let request = v1::RecoverLeaseRequest { context: namenode.context(), node: Some(node(inode)) };
        namenode.call("", request, |mut s, r| async move { s.recover_lease(r).await }).await.map(drop)
    }

    /// Makes a node.
    pub(super) async fn make_node_call(
        &self,
        subject: &Subject<'_>,
        request: v1::MakeNodeRequest,
    ) -> Result<v1::MakeNodeResponse, DfsError> {
        self.client
            .namenode
            .call_files(subject, request, |mut s, r| async move { s.make_node(r).await })
            .await
    }

    /// Opens a file for reading and writing.
    pub(super) async fn open_for_writing_call(
        self: &Arc<Self>,
        inode: InodeId,
        request: v1::OpenFileRequest,
    ) -> Result<LocatedBlocks, DfsError> {
        let mut changing = self.changing(inode).await?;
        let located = changing.answer(self.open_call(inode, request)).await?;
        if let Some(status) = &located.status {
            changing.told(status, true);
        }
        Ok(located)
    }

    /// Opens a file.
    pub(super) async fn open_call(
        &self,
        inode: InodeId,
        request: v1::OpenFileRequest,
    ) -> Result<LocatedBlocks, DfsError> {
        self.settled(&[inode]).await?;
        let subject = Subject::Inode(inode);
        self.client
            .namenode
            .call_files(&subject, request, |mut s, r| async move { s.open_file(r).await })
            .await
    }

    /// Where the blocks are that overlap `length` bytes from `offset`.
    pub(crate) async fn locate(
        &self,
        inode: InodeId,
        offset: u64,
        length: u64,
    ) -> Result<LocatedBlocks, DfsError> {
        self.settled(&[inode]).await?;
        let request =
            v1::OpenRequest { context: self.own_context(), node: Some(node(inode)), offset, length };
        let (subject, moment) = (Subject::Inode(inode), self.moment());
        let namenode = &self.client.namenode;
        let located = namenode.call(&subject, request, |mut s, r| async move { s.open(r).await }).await?;
        if offset == 0 {
            self.told_located(&located, moment);
        }
        Ok(located)
    }

    /// Sets the size of a file whose lease this session holds.
    pub(crate) async fn set_size(
        self: &Arc<Self>,
        inode: InodeId,
        size: u64,
    ) -> Result<FileStatus, DfsError> {
        let request = v1::SetAttributesRequest {
            context: self.own_context(),
            node: Some(node(inode)),
            size: Some(size),
            session: self.session().to_owned(),
            opened: true,
            ..Default::default()
        };
        let mut changing = self.changing(inode).await?;
        let status = changing.answer(self.set_attributes_call(inode, request)).await?;
        changing.told(&status, true);
        Ok(status)
    }

    pub(super) async fn set_attributes_call(
        &self,
        inode: InodeId,
        request: v1::SetAttributesRequest,
    ) -> Result<FileStatus, DfsError> {
        let subject = Subject::Inode(inode);
        self.client
            .namenode
            .call_files(&subject, request, |mut s, r| async move { s.set_attributes(r).await })
            .await
    }
}
