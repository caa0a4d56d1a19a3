//! Asking for directories and giving them back.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use dfs_proto::v1::{DelegateDirectoryRequest, ReserveInodesRequest, ReturnDirectoriesRequest};
use dfs_proto::{ErrorKind, InodeId};

use super::Shared;
use super::clock::Clock;
use super::nodes::Grant;
use super::numbers::RESERVED_AT_ONCE;
use crate::fs::Caller;
use crate::fs::file_system::FsInner;
use crate::fs::subject::Subject;
use crate::retry::RetryPolicy;

/// Most entries of a directory that is asked for: a listing of some milliseconds. The namenode's own limit.
const MAX_GRANTED_ENTRIES: u32 = 4_096;
/// A question that is not answered by then is given up: those who change the directory wait for it.
const ASK_PATIENCE: Duration = Duration::from_secs(5);
/// Directories that were not changed, or not read, for so long are given back.
const IDLE: Duration = Duration::from_secs(30);
/// How often they are looked for.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
/// Pause before a directory is given back again, when that failed although it was retried.
const RETURN_PAUSE: Duration = Duration::from_secs(1);

/// Gives idle directories back until the session ends.
pub(in crate::fs) async fn keep(fs: Weak<FsInner>) {
    loop {
        tokio::time::sleep(IDLE_INTERVAL).await;
        let Some(fs) = fs.upgrade() else { return };
        let mut shared = fs.delegations.lock();
        let before = Instant::now().checked_sub(IDLE);
        let idle = before.map(|before| shared.nodes.idle_since(before)).unwrap_or_default();
        fs.leave(&mut shared, &idle);
    }
}

impl FsInner {
    /// `caller` changed something in a directory by a call.
    pub(super) fn changed_by(self: &Arc<Self>, caller: &Caller, dir: u64) {
        let mut shared = self.delegations.lock();
        if !shared.enabled {
            return;
        }
        let nodes = &shared.nodes;
        let below = nodes.place(dir).is_some_and(|above| nodes.of(caller, above).is_some());
        let at = Instant::now();
        if shared.habit.again(caller, dir, at) || below && !shared.habit.is_resting(dir, at) {
            self.ask(&mut shared, caller, dir, false);
        }
    }

    /// `caller` looked something up in a directory, or opens a file there.
    pub(in crate::fs) fn read_by(self: &Arc<Self>, caller: &Caller, dir: InodeId, opens: bool) {
        let (mut shared, dir, at) = (self.delegations.lock(), dir.get(), Instant::now());
        if opens {
            shared.walk.opened(dir, at);
        }
        if shared.enabled && !shared.nodes.is_delegated(dir) && shared.reading.again(caller, dir, at) {
            self.ask(&mut shared, caller, dir, true);
        }
    }

    /// Whether a directory should be asked for, for reading, before it is listed.
    pub(in crate::fs) fn is_walked_through(&self, dir: InodeId) -> bool {
        let (shared, dir, at) = (self.delegations.lock(), dir.get(), Instant::now());
        shared.enabled
            && !shared.nodes.is_delegated(dir)
            && shared.walk.goes_on(dir, at)
            && !shared.reading.is_resting(dir, at)
    }

    /// Asks for a directory in the background, alone or for reading, unless that is under way or it is delegated already.
    fn ask(self: &Arc<Self>, shared: &mut Shared, caller: &Caller, dir: u64, for_reading: bool) {
        let has_enough = shared.nodes.is_delegated(dir) && (for_reading || !shared.nodes.is_shared(dir));
        if !shared.enabled || has_enough || !shared.gates.ask(dir) {
            return;
        }
        if !for_reading {
            // The question gives back what it had for reading.
            shared.nodes.forget(dir);
            self.reserve(shared);
        }
        let (fs, caller) = (Arc::clone(self), caller.clone());
        self.spawn(async move { fs.ask_for(caller, dir, for_reading).await });
    }

    /// Asks for a directory, alone or for reading, and waits for the answer.
    pub(in crate::fs) async fn ask_now(self: &Arc<Self>, caller: &Caller, dir: InodeId, for_reading: bool) {
        self.ask(&mut self.delegations.lock(), caller, dir.get(), for_reading);
        let quiet = |shared: &mut Shared| (!shared.gates.is_asking(dir.get())).then_some(());
        // Without an answer, it is listed as ever.
        let _ = self.when(&Subject::Inode(dir), quiet).await;
    }

    async fn ask_for(self: Arc<Self>, caller: Caller, dir: u64, for_reading: bool) {
        let ready = |shared: &mut Shared| {
            (shared.queue.is_settled(dir) && !shared.gates.is_changing(dir)).then_some(())
        };
        let subject = Subject::Inode(InodeId(dir));
        let ready = self.when(&subject, ready);
        let ready = async {
            ready.await?;
            self.tell_opens().await
        };
        let answer = match tokio::time::timeout(ASK_PATIENCE, ready).await {
            Ok(Ok(())) => {
                let request = DelegateDirectoryRequest {
                    context: Some(self.client.namenode.context_as(&caller.user, &caller.groups, true)),
                    session: self.session().to_owned(),
                    inode: dir,
                    entries_max: MAX_GRANTED_ENTRIES,
                    shared: for_reading,
                };
                let asked = Instant::now();
                let policy = RetryPolicy { deadline: ASK_PATIENCE, ..RetryPolicy::default() };
                let namenode = &self.client.namenode;
                let call = namenode.call_files_with(policy, &subject, request, |mut s, r| async move {
                    s.delegate_directory(r).await
                });
                Some(call.await.map(|answer| (answer, asked)))
            }
            Ok(Err(_)) | Err(_) => None,
        };
        let at = Instant::now();
        let mut shared = self.delegations.lock();
        let wanted = shared.gates.asked(dir);
        match answer {
            Some(Ok((answer, asked))) => {
                let clock = Clock::new(answer.now_ns, at);
                shared.clock.get_or_insert(clock).told(clock, at);
                match answer.directory.filter(|_| answer.granted) {
                    Some(directory) if wanted => {
                        let Shared { nodes, heard, .. } = &mut *shared;
                        let (entries, epoch, shared_too) = (answer.entries, answer.epoch, answer.shared);
                        let grant = Grant { caller, shared: shared_too, directory, entries, epoch, asked };
                        nodes.grant(grant, heard, at);
                        shared.counts.granted += 1;
                        self.give_surplus(&mut shared);
                    }
                    Some(_) => self.give_up(&mut shared, &[dir]),
                    None if for_reading => shared.reading.rest(dir, at),
                    None => shared.habit.rest(dir, at),
                }
            }
            Some(Err(error)) if error.kind() == ErrorKind::Unsupported => {
                tracing::info!("this namenode delegates no directories");
                shared.enabled = false;
            }
            Some(Err(error)) => {
                // Refused for this caller, or granted with the answer lost.
                tracing::debug!(dir, %error, "a directory was not delegated");
                self.give_up(&mut shared, &[dir]);
            }
            // It may have had it for reading.
            None => self.give_up(&mut shared, &[dir]),
        }
        if shared.gates.is_quiet() {
            shared.heard.clear();
        }
        drop(shared);
        self.delegations.progress.notify_waiters();
    }

    /// Gives directories back that somebody else wants, or that cannot be kept: they are left alone for a while.
    pub(super) fn give_up(self: &Arc<Self>, shared: &mut Shared, dirs: &[u64]) {
        let at = Instant::now();
        for dir in dirs {
            shared.reading.rest(*dir, at);
            if !shared.nodes.is_shared(*dir) {
                shared.habit.rest(*dir, at);
            }
        }
        self.leave(shared, dirs);
    }

    /// Gives directories back that a call of this session is about to change.
    pub(super) fn give_up_for_change(self: &Arc<Self>, shared: &mut Shared, dirs: &[u64]) {
        let delegated: Vec<u64> =
            dirs.iter().copied().filter(|dir| shared.nodes.is_delegated(*dir)).collect();
        if !delegated.is_empty() {
            self.give_up(shared, &delegated);
        }
    }

    /// Gives directories back beyond the bounds.
    pub(super) fn give_surplus(self: &Arc<Self>, shared: &mut Shared) {
        let surplus = shared.nodes.surplus();
        self.leave(shared, &surplus);
    }

    /// Gives directories back, in the background: from now on nothing is answered from them.
    fn leave(self: &Arc<Self>, shared: &mut Shared, dirs: &[u64]) {
        let mut returned = Vec::new();
        for dir in dirs {
            shared.nodes.forget(*dir);
            if shared.gates.give_back(*dir) {
                returned.push(*dir);
            }
        }
        if !returned.is_empty() {
            let fs = Arc::downgrade(self);
            self.spawn(return_directories(fs, returned));
        }
    }

    /// Somebody else wants a directory.
    pub(in crate::fs) fn directory_recalled(self: &Arc<Self>, dir: u64) {
        let mut shared = self.delegations.lock();
        // It is told of again and again until it has been given back.
        shared.counts.recalled += u64::from(shared.nodes.is_delegated(dir));
        if shared.gates.spoil(dir) {
            return;
        }
        self.give_up(&mut shared, &[dir]);
    }

    /// The namenode answered a poll that was sent at `polled`, and knows the session, which lives until then. What that answer wants
    /// back was taken note of before.
    pub(in crate::fs) fn lives_until(&self, polled: Instant, until: Instant) {
        let mut shared = self.delegations.lock();
        shared.polled = Some(polled);
        shared.lives_until = Some(until);
        shared.doubted = false;
    }

    /// The namenode may be gone, and with it the session.
    pub(in crate::fs) fn doubt(&self) {
        self.delegations.lock().doubted = true;
    }

    /// The session has this epoch now: what was delegated or set aside in another one is not any longer.
    pub(in crate::fs) fn epoch_is(&self, epoch: u64) {
        let mut shared = self.delegations.lock();
        if shared.epoch == epoch {
            return;
        }
        shared.epoch = epoch;
        for dir in shared.nodes.not_of_epoch(epoch) {
            shared.nodes.forget(dir);
        }
        shared.numbers.forget();
        drop(shared);
        self.delegations.progress.notify_waiters();
    }

    /// Has more numbers set aside, in the background.
    pub(super) fn reserve(self: &Arc<Self>, shared: &mut Shared) {
        if !shared.numbers.ask(Instant::now()) {
            return;
        }
        let fs = Arc::clone(self);
        self.spawn(async move {
            let epoch = fs.delegations.lock().epoch;
            let request = ReserveInodesRequest {
                context: fs.own_context(),
                session: fs.session().to_owned(),
                count: RESERVED_AT_ONCE,
            };
            let namenode = &fs.client.namenode;
            let call = namenode.call_files("", request, |mut s, r| async move { s.reserve_inodes(r).await });
            let answer = call.await;
            let mut shared = fs.delegations.lock();
            match answer {
                Ok(range) if shared.epoch == epoch => shared.numbers.reserved(range.first, range.count),
                Ok(_) => shared.numbers.refused(Instant::now()),
                Err(error) => {
                    tracing::debug!(%error, "no inode numbers were set aside");
                    shared.numbers.refused(Instant::now());
                }
            }
            drop(shared);
            fs.delegations.progress.notify_waiters();
        });
    }
}

/// Gives directories back once no queued change touches them.
async fn return_directories(fs: Weak<FsInner>, dirs: Vec<u64>) {
    let inodes: Vec<InodeId> = dirs.iter().copied().map(InodeId).collect();
    loop {
        let Some(fs) = fs.upgrade() else { return };
        if fs.settled(&inodes).await.is_err() {
            continue;
        }
        if fs.tell_opens().await.is_err() {
            drop(fs);
            tokio::time::sleep(RETURN_PAUSE).await;
            continue;
        }
        let request = ReturnDirectoriesRequest {
            context: fs.own_context(),
            session: fs.session().to_owned(),
            inodes: dirs.clone(),
        };
        let namenode = &fs.client.namenode;
        let call = namenode.call_files("", request, |mut s, r| async move { s.return_directories(r).await });
        match call.await {
            Ok(_) => {}
            Err(error) if error.kind().is_retriable() => {
                drop(fs);
                tokio::time::sleep(RETURN_PAUSE).await;
                continue;
            }
            Err(error) => tracing::debug!(%error, "directories could not be given back"),
        }
        fs.delegations.lock().gates.given_back(&dirs);
        return;
    }
}
