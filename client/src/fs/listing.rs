//! Listing directories: one call at the namenode a page, or none if the directory is delegated.

use bytes::Bytes;
use dfs_proto::InodeId;
use dfs_proto::v1::{self, FileStatus, ListedName};

use super::namespace::node;
use super::subject::Subject;
use super::{Caller, FileSystem};
use crate::DfsError;

impl FileSystem {
    /// Entries of a directory after the name `start_after` (empty: from the start) in bytewise order, at most `limit` and at most
    /// [`LIST_PAGE_ENTRIES`](crate::LIST_PAGE_ENTRIES); the flag tells whether more follow.
    pub async fn list(
        &self,
        caller: &Caller,
        dir: InodeId,
        start_after: &[u8],
        limit: u32,
    ) -> Result<(Vec<FileStatus>, bool), DfsError> {
        let fs = self.inner();
        let limit = limit.clamp(1, crate::LIST_PAGE_ENTRIES as u32);
        self.before_listing(caller, dir, start_after).await;
        let known = fs.list_here(caller, (dir, start_after), limit as usize);
        let (mut entries, has_more) = match known {
            Some(known) => known,
            None => {
                fs.settled(&[dir]).await?;
                let moment = fs.moment();
                let request = v1::ListRequest { limit, ..self.list_request(caller, dir, start_after) };
                let answer = self.list_call(dir, request).await?;
                fs.told(&answer.entries, moment);
                (answer.entries, answer.has_more)
            }
        };
        fs.files.overlay(&mut entries);
        Ok((entries, has_more))
    }

    /// Names of a directory after the name `start_after` with what they stand for, in the same order, at most `limit` and at most
    /// [`LIST_PAGE_NAMES`](crate::LIST_PAGE_NAMES); the flag tells whether more follow.
    pub async fn list_names(
        &self,
        caller: &Caller,
        dir: InodeId,
        start_after: &[u8],
        limit: u32,
    ) -> Result<(Vec<ListedName>, bool), DfsError> {
        let fs = self.inner();
        let limit = limit.clamp(1, crate::LIST_PAGE_NAMES as u32);
        self.before_listing(caller, dir, start_after).await;
        if let Some(known) = fs.list_names_here(caller, (dir, start_after), limit as usize) {
            return Ok(known);
        }
        fs.settled(&[dir]).await?;
        let request = v1::ListRequest {
            limit: limit.min(crate::LIST_PAGE_ENTRIES as u32),
            names_only: true,
            names_max: limit,
            ..self.list_request(caller, dir, start_after)
        };
        let v1::ListResponse { entries, mut names, has_more, .. } = self.list_call(dir, request).await?;
        // Of a namenode that has heard only of whole entries.
        let bare = |FileStatus { name, inode, r#type, .. }| ListedName { name, inode, r#type };
        names.extend(entries.into_iter().map(bare));
        Ok((names, has_more))
    }

    /// A directory below one that is being worked through, or whose files will probably be read, is asked for before it is listed.
    async fn before_listing(&self, caller: &Caller, dir: InodeId, start_after: &[u8]) {
        let fs = self.inner();
        if !start_after.is_empty() {
            return;
        }
        if fs.is_worked_through(caller, dir) {
            fs.ask_now(caller, dir, false).await;
        } else if fs.is_walked_through(dir) {
            fs.ask_now(caller, dir, true).await;
        }
    }

    fn list_request(&self, caller: &Caller, dir: InodeId, start_after: &[u8]) -> v1::ListRequest {
        v1::ListRequest {
            context: self.context(caller),
            node: Some(node(dir)),
            start_after: Bytes::copy_from_slice(start_after),
            ..v1::ListRequest::default()
        }
    }

    async fn list_call(&self, dir: InodeId, request: v1::ListRequest) -> Result<v1::ListResponse, DfsError> {
        let subject = Subject::Inode(dir);
        self.namenode().call(&subject, request, |mut s, r| async move { s.list(r).await }).await
    }
}
