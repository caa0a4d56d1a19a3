//! Having on the namenode's disk what it has answered, and finding out that it is not there.
//!
//! A call that makes earlier changes durable names the positions in the log that the session was told ([`crate::told_positions`]). A namenode
//! whose log does not have one of them refuses with [`ErrorKind::ChangesLost`]: its machine has lost what it had not synced. Then every node
//! concerned is marked ([`super::unsynced`]), so that its next sync fails, open files tell the namenode again what they know, and the call is
//! made once more: what it is about may not be concerned.

use std::sync::Arc;

use dfs_proto::v1::{CallContext, SyncNamespaceRequest};
use dfs_proto::{ErrorKind, InodeId, RpcError};

use super::FileSystem;
use super::file_system::FsInner;
use super::subject::Subject;
use super::unsynced::Asked;
use crate::DfsError;

/// Losses that one sync may find: each is another failure of the namenode's machine.
const LOSSES_MAX: usize = 8;

impl FileSystem {
    /// Waits until every change answered before is on disk at the namenode; an error if some were lost since this was called last.
    pub async fn sync(&self) -> Result<(), DfsError> {
        let fs = self.inner();
        fs.sync_namespace().await?;
        if fs.unsynced.take_session_lost() { Err(lost(&Subject::Session)) } else { Ok(()) }
    }

    /// The same for a caller who is concerned with this directory: it fails only if changes of that were lost.
    pub async fn sync_directory(&self, inode: InodeId) -> Result<(), DfsError> {
        self.inner().sync_namespace().await?;
        self.inner().check_lost(inode)
    }
}

impl FsInner {
    /// Waits until every change answered before is on disk at the namenode. What turns out to be lost is told by
    /// [`Self::check_lost`].
    pub(super) async fn sync_namespace(&self) -> Result<(), DfsError> {
        self.all_carried_out().await?;
        self.sync_told().await
    }

    /// The same for changes that the namenode has carried out.
    pub(super) async fn sync_told(&self) -> Result<(), DfsError> {
        let mut losses = 0;
        loop {
            let asked = self.ask_told();
            let request = SyncNamespaceRequest { context: self.context_telling(&asked) };
            let namenode = &self.client.namenode;
            let call = namenode.call_files("", request, |mut s, r| async move { s.sync_namespace(r).await });
            match self.synced_or_lost(&asked, call.await) {
                Err(error) if error.kind() == ErrorKind::ChangesLost && losses < LOSSES_MAX => losses += 1,
                outcome => return outcome.map(drop),
            }
        }
    }

    /// Begins a call that makes everything durable.
    pub(super) fn ask_told(&self) -> Asked {
        // Before the positions are taken: what is answered in between is asked for again later.
        let mut asked = self.unsynced.ask(Vec::new());
        asked.positions = self.client.namenode.told.all();
        asked
    }

    /// Identity of that call.
    pub(super) fn context_telling(&self, asked: &Asked) -> Option<CallContext> {
        let told = asked.positions.clone();
        self.own_context().map(|context| CallContext { relaxed: false, told, ..context })
    }

    /// Notes how that call ended.
    pub(super) fn synced_or_lost<T>(
        &self,
        asked: &Asked,
        outcome: Result<T, DfsError>,
    ) -> Result<T, DfsError> {
        match &outcome {
            Ok(_) => {
                self.client.namenode.told.settled(&asked.positions);
                self.unsynced.synced(asked);
            }
            Err(error) if error.kind() == ErrorKind::ChangesLost => self.changes_lost(asked, error),
            Err(_) => {}
        }
        outcome
    }

    fn changes_lost(&self, asked: &Asked, error: &DfsError) {
        let (hit, more) = self.unsynced.lost(asked);
        let mut files = Vec::new();
        for inode in &hit {
            let file = self.files.get(InodeId(*inode));
            let writers = file.as_ref().map_or(1, |file| file.core().writers());
            self.unsynced.to_be_told(*inode, writers);
            files.extend(file);
        }
        for file in files {
            file.core().tell_again();
        }
        // Not before they know of it: other syncs succeed from here on.
        if self.client.namenode.told.settled(&asked.positions) {
            let (session, nodes) = (self.session(), hit.len());
            tracing::error!(session, %error, nodes, more, "the namenode has lost changes that it had answered and not synced");
        }
    }

    /// Fails if changes of a node were lost of which nobody was told.
    pub(super) fn check_lost(&self, inode: InodeId) -> Result<(), DfsError> {
        if self.unsynced.take_lost(inode.get()) { Err(lost(&Subject::Inode(inode))) } else { Ok(()) }
    }

    /// Calls that change these nodes are about to be sent.
    pub(super) fn changes_begin(self: &Arc<Self>, nodes: impl IntoIterator<Item = u64>) {
        if self.unsynced.begin(nodes) {
            let fs = Arc::clone(self);
            self.spawn(async move {
                if let Err(error) = fs.sync_told().await {
                    tracing::debug!(%error, "changes are not known to be on disk");
                }
                fs.unsynced.made_room();
            });
        }
    }

    /// The namenode may be another one, or have started anew: finds out what it has lost, then tells it again of files that are being
    /// written, in this order: what is told now must not seem to be among what was lost.
    pub(super) fn check_told(self: &Arc<Self>) {
        let fs = Arc::clone(self);
        self.spawn(async move {
            if !fs.client.namenode.told.all().is_empty()
                && let Err(error) = fs.sync_told().await
            {
                tracing::debug!(%error, "whether changes were lost is not known");
            }
            fs.tell_again();
        });
    }
}

/// Whether a call about a file is refused so by a namenode that has lost what it was told before.
pub(super) const fn is_of_loss(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::InvalidArgument
            | ErrorKind::LeaseExpired
            | ErrorKind::StaleGenerationStamp
    )
}

/// What a file's user is told of such a refusal.
pub(super) fn forgotten(subject: &str, refusal: &DfsError) -> DfsError {
    DfsError::refused(subject, RpcError::new(ErrorKind::ChangesLost, "", refusal.to_string()))
}

fn lost(subject: &Subject<'_>) -> DfsError {
    let reason = "the namenode's machine failed";
    DfsError::refused(&subject.to_string(), RpcError::new(ErrorKind::ChangesLost, "", reason))
}
