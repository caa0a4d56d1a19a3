//! Calls at the namenode beside the queue: what they wait for, and what they tell.

use std::sync::Arc;
use std::time::Instant;

use dfs_proto::v1::FileStatus;
use dfs_proto::{ErrorKind, InodeId, RpcError};
use tokio::time::timeout_at;

use super::node_changes::Moment;
use super::nodes::Verdict;
use super::{Delegations, Shared};
use crate::DfsError;
use crate::fs::Caller;
use crate::fs::file_system::FsInner;
use crate::fs::subject::Subject;

/// How a change is made.
pub(in crate::fs) enum Way<T> {
    /// It was made here, or refused.
    Here(Result<T, ErrorKind>),
    /// By a call.
    Direct(Changing),
}

/// What a change touches.
#[derive(Clone, Copy, Default)]
pub(in crate::fs) struct Touched<'a> {
    /// Directories whose names it changes, or which it must not find delegated.
    pub(in crate::fs) dirs: &'a [InodeId],
    /// Nodes whose attributes it changes.
    pub(in crate::fs) nodes: &'a [InodeId],
    /// It may concern nodes that the caller cannot name.
    pub(in crate::fs) others: bool,
}

/// A call that changes something is under way, until this is dropped.
pub(in crate::fs) struct Changing {
    fs: Arc<FsInner>,
    dirs: Vec<u64>,
    /// Nodes, and whether the call told of them.
    nodes: Vec<(u64, bool)>,
    /// It was answered: nothing of it can happen later.
    answered: bool,
    /// It succeeded.
    changed: bool,
    /// What it changes may be lost with the namenode's memory.
    marked: bool,
}

impl FsInner {
    /// Waits until `look` finds something. [`ErrorKind::Unavailable`] after the session's patience.
    pub(super) async fn when<T>(
        &self,
        subject: &Subject<'_>,
        mut look: impl FnMut(&mut Shared) -> Option<T>,
    ) -> Result<T, DfsError> {
        if let Some(found) = look(&mut self.delegations.lock()) {
            return Ok(found);
        }
        let deadline = tokio::time::Instant::now() + self.wait;
        loop {
            let progress = self.delegations.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if let Some(found) = look(&mut self.delegations.lock()) {
                return Ok(found);
            }
            if timeout_at(deadline, progress).await.is_err() {
                let reason = "changes made before cannot be carried out";
                let error = RpcError::new(ErrorKind::Unavailable, "", reason);
                return Err(DfsError::refused(&subject.to_string(), error));
            }
        }
    }

    /// Waits until no queued change touches these nodes.
    pub(in crate::fs) async fn settled(&self, inodes: &[InodeId]) -> Result<(), DfsError> {
        if self.delegations.is_idle() {
            return Ok(());
        }
        let subject = Subject::Inode(inodes.first().copied().unwrap_or(InodeId(0)));
        let settled = |shared: &mut Shared| {
            inodes.iter().all(|inode| shared.queue.is_settled(inode.get())).then_some(())
        };
        self.when(&subject, settled).await
    }

    /// Waits until everything that is queued now was carried out.
    pub(in crate::fs) async fn all_settled(&self) -> Result<(), DfsError> {
        if self.delegations.is_idle() {
            return Ok(());
        }
        let last = self.delegations.lock().queue.last();
        self.when(&Subject::Session, |shared| shared.queue.is_done(last).then_some(())).await
    }

    /// Whether there are changes that were answered and not carried out.
    pub(in crate::fs) fn has_queued(&self) -> bool {
        !self.delegations.is_idle()
    }

    /// Everything answered so far was carried out; an error if one change was not, told once.
    pub(in crate::fs) async fn all_carried_out(&self) -> Result<(), DfsError> {
        self.all_settled().await?;
        match self.delegations.lock().lost.take() {
            Some(lost) => Err(lost),
            None => Ok(()),
        }
    }

    /// Makes a change here if `here` can, or says that it is to be made by a call, which may then be sent at once.
    pub(in crate::fs) async fn change<T>(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        touched: Touched<'_>,
        mut here: impl FnMut(&mut Shared, Moment) -> Verdict<T>,
    ) -> Result<Way<T>, DfsError> {
        let dirs: Vec<u64> = touched.dirs.iter().map(|dir| dir.get()).collect();
        let nodes: Vec<u64> = touched.nodes.iter().map(|node| node.get()).collect();
        let delegations = Arc::clone(&self.delegations);
        let mut upto = None;
        let look = |shared: &mut Shared| {
            let at = Instant::now();
            let upto = *upto.get_or_insert(shared.queue.last());
            let mine = |inode: &u64| shared.nodes.nodes.contains_key(inode);
            if dirs.iter().chain(&nodes).any(mine)
                && let Some(moment) = shared.moment(at)
            {
                self.reserve(shared);
                if shared.is_stalled(at) {
                    return None;
                }
                if let Verdict::Given(outcome) = here(shared, moment) {
                    shared.counts.answered += u64::from(outcome.is_ok());
                    delegations.note_queued(shared);
                    return Some(Way::Here(outcome));
                }
                if shared.numbers.is_empty() && shared.numbers.is_asked() {
                    return None;
                }
            }
            if dirs.iter().any(|dir| shared.gates.is_asking(*dir)) {
                return None;
            }
            self.give_up_for_change(shared, &dirs);
            let settled = match touched.others {
                true => shared.queue.is_done(upto),
                false => dirs.iter().chain(&nodes).all(|inode| shared.queue.is_settled(*inode)),
            };
            if !settled {
                return None;
            }
            shared.gates.change(&dirs);
            for node in &nodes {
                *shared.direct.entry(*node).or_default() += 1;
                shared.nodes.unlocate(*node);
            }
            let nodes = nodes.iter().map(|node| (*node, false)).collect();
            Some(Way::Direct(Changing {
                fs: Arc::clone(self),
                dirs: dirs.clone(),
                nodes,
                answered: false,
                changed: false,
                marked: true,
            }))
        };
        let way = self.when(subject, look).await?;
        match &way {
            Way::Here(_) => self.queued(),
            Way::Direct(changing) => self.changes_begin(changing.touched()),
        }
        Ok(way)
    }

    /// Begins a call that changes something.
    pub(in crate::fs) async fn direct(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        touched: Touched<'_>,
    ) -> Result<Changing, DfsError> {
        match self.change(subject, touched, |_, _| Verdict::<()>::Ask).await? {
            Way::Direct(changing) => Ok(changing),
            // It is never made here.
            Way::Here(_) => Err(DfsError::incomplete(&subject.to_string(), "call")),
        }
    }

    /// Begins a call that changes what is told of a node beside its content and times, which may say who may do what in it.
    pub(in crate::fs) async fn changing_attributes(
        self: &Arc<Self>,
        inode: InodeId,
    ) -> Result<Changing, DfsError> {
        let only = [inode];
        self.direct(&Subject::Inode(inode), Touched { dirs: &only, nodes: &only, others: false }).await
    }

    /// Begins a call that changes a file.
    pub(in crate::fs) async fn changing(self: &Arc<Self>, inode: InodeId) -> Result<Changing, DfsError> {
        let nodes = [inode];
        self.direct(&Subject::Inode(inode), Touched { nodes: &nodes, ..Touched::default() }).await
    }

    /// To be taken before the namenode is asked about nodes, for [`Self::told`].
    pub(in crate::fs) fn moment(&self) -> u64 {
        self.delegations.lock().nodes.moment()
    }

    /// The namenode was asked about nodes at `moment`, and told of them.
    pub(in crate::fs) fn told(&self, statuses: &[FileStatus], moment: u64) {
        let mut shared = self.delegations.lock();
        if shared.nodes.nodes.is_empty() {
            return;
        }
        for status in statuses {
            if shared.queue.is_settled(status.inode) && !shared.is_direct(status.inode) {
                shared.nodes.told(status, moment, false);
            }
        }
    }
}

impl Changing {
    fn touched(&self) -> impl Iterator<Item = u64> {
        self.dirs.iter().copied().chain(self.nodes.iter().map(|(inode, _)| *inode))
    }

    /// What the call changes is not lost with the namenode's memory: it is on its disk with the answer, or a recovery finds it.
    pub(in crate::fs) fn is_kept(&mut self) {
        self.fs.unsynced.end(self.touched(), false);
        self.marked = false;
    }

    /// Waits for the call.
    pub(in crate::fs) async fn answer<T>(
        &mut self,
        call: impl Future<Output = Result<T, DfsError>>,
    ) -> Result<T, DfsError> {
        let answer = call.await;
        match &answer {
            Ok(_) => (self.answered, self.changed) = (true, true),
            // It may have been carried out.
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            Err(_) => {
                // It changed nothing.
                self.answered = true;
                self.nodes.iter_mut().for_each(|(_, told)| *told = true);
            }
        }
        answer
    }

    /// The call told of a node that it changed. `ours`: if somebody writes it, it is this session.
    pub(in crate::fs) fn told(&mut self, status: &FileStatus, ours: bool) {
        for (inode, told) in &mut self.nodes {
            *told |= *inode == status.inode;
        }
        if self.marked {
            self.fs.unsynced.changed(status.inode);
        }
        let mut shared = self.fs.delegations.lock();
        // Which of two calls was carried out later is not known.
        let alone = shared.direct.get(&status.inode).is_none_or(|count| *count == 1);
        shared.heard(status.inode, Some(status).filter(|_| alone));
        if shared.queue.is_settled(status.inode) {
            let moment = shared.nodes.moment();
            shared.nodes.told(status, moment, ours);
            if !alone {
                shared.nodes.doubt(status.inode);
            }
        }
    }

    /// The call removed a node, and with it what was delegated of it.
    pub(in crate::fs) fn removed(&self, inode: InodeId) {
        self.fs.delegations.lock().nodes.forget(inode.get());
    }

    /// The call succeeded in the name of `caller`, whose habit of changing these directories it shows.
    pub(in crate::fs) fn done(self, caller: &Caller) {
        let (fs, dirs) = (Arc::clone(&self.fs), self.dirs.clone());
        drop(self);
        for dir in dirs {
            fs.changed_by(caller, dir);
        }
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        if self.marked {
            self.fs.unsynced.end(self.touched(), self.changed);
        }
        let delegations: &Delegations = &self.fs.delegations;
        let mut shared = delegations.lock();
        for (inode, told) in &self.nodes {
            if let Some(count) = shared.direct.get_mut(inode) {
                *count -= 1;
                if *count == 0 {
                    shared.direct.remove(inode);
                }
            }
            shared.nodes.unlocate(*inode);
            if !told {
                shared.nodes.doubt(*inode);
                shared.heard(*inode, None);
            }
        }
        if !self.answered {
            // What was given up half way may still be carried out.
            let at = Instant::now();
            self.dirs.iter().for_each(|dir| shared.rest(*dir, at));
        }
        let waited_for = shared.gates.changed(&self.dirs) || !self.nodes.is_empty();
        drop(shared);
        if waited_for {
            delegations.progress.notify_waiters();
        }
    }
}
