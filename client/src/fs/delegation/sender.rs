//! Sends queued changes to the namenode, one batch at a time.
//!
//! A batch goes as soon as the one before was answered, with what has gathered meanwhile. What is refused for a passing reason is sent
//! again, first; what is refused for good was answered already, so that the next sync tells of it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use dfs_proto::v1::change::Change as What;
use dfs_proto::v1::{ApplyChangesRequest, ApplyChangesResponse, Change, ChangeResult, FileStatus};
use dfs_proto::{ErrorKind, InodeId, RpcError};

use super::{Delegations, Shared};
use crate::DfsError;
use crate::fs::file_system::FsInner;

/// Bytes of a batch, roughly: below the namenode's limit of 1 MiB by what one change can have.
const MAX_BATCH_BYTES: usize = 512 << 10;
/// What a change takes beside its name and target: identities of caller and call, numbers.
const CHANGE_BYTES: usize = 256;
/// Pause before a batch is sent again that was refused for a passing reason.
const AGAIN_PAUSE: Duration = Duration::from_millis(250);

/// Sends until the session ends.
pub(in crate::fs) async fn send(fs: Weak<FsInner>, delegations: Arc<Delegations>) {
    loop {
        delegations.work.notified().await;
        loop {
            let Some(fs) = fs.upgrade() else { return };
            if !fs.send_batch().await {
                break;
            }
        }
    }
}

/// What became of a change.
enum Outcome {
    Done(Box<ChangeResult>),
    Again,
    Refused(RpcError),
}

impl FsInner {
    /// Changes were queued.
    pub(super) fn queued(self: &Arc<Self>) {
        let mut shared = self.delegations.lock();
        let sleeps = !shared.sending && !shared.queue.is_empty();
        shared.sending |= sleeps;
        self.reserve(&mut shared);
        self.give_surplus(&mut shared);
        drop(shared);
        if sleeps {
            self.delegations.work.notify_one();
        }
    }

    /// Sends a batch. False if there is none.
    async fn send_batch(self: &Arc<Self>) -> bool {
        // What the session has open must not be told anew from before a file was made.
        self.files.not_registering().await;
        let (changes, touched, more) = {
            let mut shared = self.delegations.lock();
            let (changes, touched) = shared.next_batch();
            let more = shared.queue.len() > changes.len();
            shared.sending = !changes.is_empty();
            shared.counts.batches += u64::from(!changes.is_empty());
            (changes, touched, more)
        };
        if changes.is_empty() {
            return false;
        }
        // What loses its name is kept by the namenode if it knows that it is open.
        if changes.iter().any(takes_a_name) && self.tell_opens().await.is_err() {
            tokio::time::sleep(AGAIN_PAUSE).await;
            return true;
        }
        let count = changes.len();
        self.changes_begin(touched.iter().copied());
        let request = ApplyChangesRequest {
            context: self.own_context(),
            session: self.session().to_owned(),
            changes: changes.clone(),
            more,
        };
        let namenode = &self.client.namenode;
        let call = namenode.call_files("", request, |mut s, r| async move { s.apply_changes(r).await });
        let outcomes: Vec<Outcome> = match call.await {
            Ok(ApplyChangesResponse { results, epoch }) => {
                self.epoch_is(epoch);
                let outcomes = results.into_iter().take(count).map(outcome);
                outcomes.chain(std::iter::repeat_with(|| Outcome::Again)).take(count).collect()
            }
            Err(error) => {
                let passing = is_passing(error.kind());
                if !passing {
                    tracing::error!(%error, "changes were refused");
                }
                let refusal = || RpcError::new(error.kind(), "", error.to_string());
                let each = || if passing { Outcome::Again } else { Outcome::Refused(refusal()) };
                std::iter::repeat_with(each).take(count).collect()
            }
        };
        self.unsynced.end(touched, true);
        let again = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Again));
        self.carried_out(&changes, outcomes);
        if again {
            tokio::time::sleep(AGAIN_PAUSE).await;
        }
        true
    }

    /// Takes over what became of a batch.
    fn carried_out(self: &Arc<Self>, changes: &[Change], outcomes: Vec<Outcome>) {
        for (change, outcome) in changes.iter().zip(&outcomes) {
            self.tell_open_file(change, outcome);
        }
        let done: Vec<bool> = outcomes.iter().map(|outcome| !matches!(outcome, Outcome::Again)).collect();
        let mut corrected = Vec::new();
        {
            let mut shared = self.delegations.lock();
            let over = shared.queue.tried(&done);
            let outcomes = outcomes.into_iter().filter(|outcome| !matches!(outcome, Outcome::Again));
            for ((queued, settled), outcome) in over.into_iter().zip(outcomes) {
                match outcome {
                    Outcome::Done(result) => {
                        corrected.extend(shared.confirm(&queued.change, &settled, &result));
                    }
                    Outcome::Refused(error) => {
                        tracing::warn!(%error, change = describe(&queued.change), "a change was refused after it was answered");
                        let touched: Vec<u64> = queued.touched.into_iter().filter(|i| *i != 0).collect();
                        let delegated: Vec<u64> =
                            touched.iter().copied().filter(|dir| shared.nodes.is_delegated(*dir)).collect();
                        self.give_up(&mut shared, &delegated);
                        shared.counts.refused += 1;
                        let subject = touched.first().map_or_else(String::new, u64::to_string);
                        shared.lost = Some(DfsError::refused(
                            &subject,
                            RpcError::new(ErrorKind::Unavailable, "", error.to_string()),
                        ));
                    }
                    Outcome::Again => {}
                }
            }
            self.delegations.note_queued(&shared);
        }
        for status in corrected {
            if let Some(file) = self.files.get(InodeId(status.inode)) {
                file.attributes_set(&status);
            }
        }
        self.delegations.progress.notify_waiters();
    }

    /// A file that was made or closed may be open.
    fn tell_open_file(&self, change: &Change, outcome: &Outcome) {
        let opened = match &change.change {
            Some(What::Make(request)) => !request.session.is_empty(),
            Some(What::Commit(_)) => true,
            Some(What::Unlink(_) | What::Move(_) | What::Set(_)) | None => false,
        };
        if !opened {
            return;
        }
        let Some(file) = self.files.get(InodeId(change.inode)) else { return };
        match outcome {
            Outcome::Done(result) => {
                if let Some(block) = &result.block {
                    file.first_block(block.clone());
                }
            }
            Outcome::Refused(error) => {
                file.was_refused(DfsError::refused(&change.inode.to_string(), error.clone()));
            }
            Outcome::Again => {}
        }
    }
}

impl Shared {
    /// The first changes in the queue, and the nodes that they touch.
    fn next_batch(&self) -> (Vec<Change>, Vec<u64>) {
        let (mut changes, mut touched, mut bytes) = (Vec::new(), Vec::new(), 0);
        for queued in self.queue.batch() {
            bytes += CHANGE_BYTES + queued.change.change.as_ref().map_or(0, bytes_of);
            if bytes > MAX_BATCH_BYTES {
                break;
            }
            let mut change = queued.change.clone();
            // It may have been given up meanwhile.
            change.delegate &= self.nodes.is_delegated(change.inode);
            changes.push(change);
            touched.extend(queued.touched.iter().filter(|inode| **inode != 0));
        }
        (changes, touched)
    }

    /// The namenode carried out a change. What it says of nodes that no later change touches counts; those that are open may have
    /// to be told, too.
    fn confirm(&mut self, change: &Change, settled: &[u64], result: &ChangeResult) -> Option<FileStatus> {
        let status = result.status.as_ref()?;
        if change.delegate && !result.delegated {
            self.nodes.forget(change.inode);
        }
        if status.ctime_ns != change.now_ns {
            let of_names = matches!(change.change, Some(What::Make(_) | What::Unlink(_) | What::Move(_)));
            let dirs = settled.iter().filter(|dir| of_names && **dir != 0 && **dir != status.inode);
            for dir in dirs {
                self.nodes.changed_at(*dir, status.ctime_ns);
            }
        }
        if !settled.contains(&status.inode) || self.is_direct(status.inode) {
            return None;
        }
        let other = self.nodes.confirmed(status);
        if other {
            self.counts.corrected += 1;
            tracing::debug!(
                inode = status.inode,
                change = describe(change),
                "attributes are not what was thought"
            );
        }
        other.then(|| status.clone())
    }
}

fn outcome(result: ChangeResult) -> Outcome {
    match result.error {
        None => Outcome::Done(Box::new(result)),
        Some(detail) if is_passing(detail.kind()) => Outcome::Again,
        Some(detail) => Outcome::Refused(RpcError::new(detail.kind(), detail.subject, detail.reason)),
    }
}

/// Whether the same change may be carried out later.
fn is_passing(kind: ErrorKind) -> bool {
    kind.is_retriable() || matches!(kind, ErrorKind::SafeMode | ErrorKind::NoSpace)
}

/// Whether a node that is no directory may lose a name.
fn takes_a_name(change: &Change) -> bool {
    match &change.change {
        Some(What::Unlink(unlink)) => !unlink.directory,
        Some(What::Move(_)) => true,
        Some(What::Make(_) | What::Set(_) | What::Commit(_)) | None => false,
    }
}

fn bytes_of(change: &What) -> usize {
    let name = |node: &Option<dfs_proto::v1::NodeRef>| node.as_ref().map_or(0, |node| node.path.len());
    match change {
        What::Make(make) => name(&make.node) + make.symlink.len(),
        What::Unlink(unlink) => name(&unlink.node),
        What::Move(moved) => name(&moved.src) + name(&moved.dst),
        What::Set(_) => 0,
        What::Commit(commit) => {
            commit.blocks.iter().flat_map(|block| &block.storage_ids).map(String::len).sum()
        }
    }
}

fn describe(change: &Change) -> &'static str {
    match change.change {
        Some(What::Make(_)) => "make",
        Some(What::Unlink(_)) => "unlink",
        Some(What::Move(_)) => "move",
        Some(What::Set(_)) => "set attributes",
        Some(What::Commit(_)) => "commit blocks",
        None => "none",
    }
}
