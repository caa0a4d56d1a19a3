//! The files that a session has open.
//!
//! Owned by the session's shared state. Invariants: there is one [`OpenFile`] for an inode, and it stays in the table until its last handle is
//! released; an inode is reported as released only while nothing here has it open or is opening it, and
//! no open of it is sent while such a report is under way, nor while everything that is open is being registered anew. What was opened
//! without a call is *untold* until the namenode surely knows of it ([`untold`]); what it cannot know is not reported as released.
//! No lock is held across an await.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfs_proto::InodeId;
use dfs_proto::v1::FileStatus;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::OpenFile;

mod untold;

/// All open files.
#[derive(Default)]
pub(super) struct OpenFiles {
    table: Mutex<Table>,
    turns: Arc<Turns>,
    /// A report or a registration has been answered.
    settled: Notify,
    /// There are released files to report.
    pub(super) released: Notify,
    /// There are enough of them for a full report.
    pub(super) batch_full: Notify,
}

#[derive(Default)]
struct Table {
    entries: HashMap<u64, Entry>,
    /// To be reported. Bounded: each was opened by a call that the namenode answered since it took the last report.
    released: HashSet<u64>,
    /// Being reported.
    reporting: HashSet<u64>,
    /// Open, and the namenode may not know it.
    untold: HashSet<u64>,
    /// Being told, how many times.
    telling: HashMap<u64, u32>,
    /// Everything is being registered.
    registering: bool,
    /// Registrations that have begun.
    registrations: u64,
}

/// One inode.
#[derive(Default)]
struct Entry {
    file: Option<Arc<OpenFile>>,
    /// Handles, and opens under way.
    handles: u64,
    /// The namenode may know that it is open.
    known: bool,
}

/// Inodes in one report of released files.
pub(super) const MAX_REPORTED: usize = 1000;

impl OpenFiles {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an open that is about to be sent.
    pub(super) async fn opening(&self, inode: InodeId) {
        self.when_settled(|table| {
            let settled = !table.registering && !table.reporting.contains(&inode.get());
            if settled {
                table.released.remove(&inode.get());
                let entry = table.entries.entry(inode.get()).or_default();
                entry.handles += 1;
                entry.known = true;
            }
            settled.then_some(())
        })
        .await;
    }

    /// Counts the opening of a file that was made a moment ago: nobody here has had it open before.
    pub(super) fn made(&self, inode: InodeId) {
        let mut table = self.table();
        let entry = table.entries.entry(inode.get()).or_default();
        entry.handles += 1;
        entry.known = true;
    }

    /// Waits until nothing is being registered. Answers how many registrations there were.
    pub(super) async fn not_registering(&self) -> u64 {
        self.when_settled(|table| (!table.registering).then_some(table.registrations)).await
    }

    /// Registrations that have begun.
    pub(super) fn registrations(&self) -> u64 {
        self.table().registrations
    }

    /// Begins to register everything that is open.
    pub(super) fn register(&self) -> Registration<'_> {
        let mut table = self.table();
        table.registering = true;
        table.registrations += 1;
        table.entries.values_mut().for_each(|entry| entry.known = true);
        Registration { files: self, inodes: table.entries.keys().copied().collect() }
    }

    async fn when_settled<T>(&self, mut look: impl FnMut(&mut Table) -> Option<T>) -> T {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if let Some(found) = look(&mut self.table()) {
                return found;
            }
            settled.await;
        }
    }

    /// The file of an open that was counted; `make` is used if it is the first.
    pub(super) fn opened(
        &self,
        inode: InodeId,
        make: impl FnOnce() -> Arc<OpenFile>,
    ) -> (Arc<OpenFile>, bool) {
        let mut table = self.table();
        let entry = table.entries.entry(inode.get()).or_default();
        match &entry.file {
            Some(file) => (Arc::clone(file), false),
            None => {
                let file = make();
                entry.file = Some(Arc::clone(&file));
                (file, true)
            }
        }
    }

    /// An open failed, or a handle is gone: the last one makes the inode released.
    pub(super) fn handle_gone(&self, inode: InodeId) {
        let mut table = self.table();
        let Some(entry) = table.entries.get_mut(&inode.get()) else { return };
        entry.handles = entry.handles.saturating_sub(1);
        if entry.handles > 0 {
            return;
        }
        let known = entry.known;
        table.entries.remove(&inode.get());
        table.untold.remove(&inode.get());
        if !known {
            return;
        }
        table.released.insert(inode.get());
        if table.released.len() >= MAX_REPORTED {
            self.batch_full.notify_one();
        }
        self.released.notify_one();
    }

    /// The file, if it is open.
    pub(super) fn get(&self, inode: InodeId) -> Option<Arc<OpenFile>> {
        self.table().entries.get(&inode.get()).and_then(|entry| entry.file.clone())
    }

    /// All open files.
    pub(super) fn all(&self) -> Vec<Arc<OpenFile>> {
        self.table().entries.values().filter_map(|entry| entry.file.clone()).collect()
    }

    /// Forgets everything: the session has ended.
    pub(super) fn clear(&self) {
        let entries = std::mem::take(&mut self.table().entries);
        drop(entries);
    }

    /// Overlays attributes from the namenode with what open files know better.
    pub(super) fn overlay(&self, answers: &mut [FileStatus]) {
        let mut known = Vec::new();
        {
            let table = self.table();
            if table.entries.is_empty() {
                return;
            }
            for (index, status) in answers.iter().enumerate() {
                if let Some(file) = table.entries.get(&status.inode).and_then(|entry| entry.file.as_ref()) {
                    known.push((index, Arc::clone(file)));
                }
            }
        }
        for (index, file) in known {
            file.overlay(&mut answers[index]);
        }
    }

    /// Some released files to report; until [`Report`] is dropped, none of them is opened.
    pub(super) fn take_released(&self) -> Option<Report<'_>> {
        let mut table = self.table();
        // An open that is being told may arrive later.
        let reported = table.released.iter().filter(|inode| !table.telling.contains_key(inode));
        let inodes: Vec<u64> = reported.take(MAX_REPORTED).copied().collect();
        if inodes.is_empty() {
            return None;
        }
        for inode in &inodes {
            table.released.remove(inode);
            table.reporting.insert(*inode);
        }
        Some(Report { files: self, inodes })
    }

    /// Waits for the turn to take or give back the lease of a file.
    pub(crate) async fn lease_turn(&self, inode: InodeId) -> LeaseTurn {
        self.turns.take(inode).await
    }
}

/// Released files that are being reported.
pub(super) struct Report<'a> {
    files: &'a OpenFiles,
    /// The inodes.
    pub(super) inodes: Vec<u64>,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        let mut table = self.files.table();
        for inode in &self.inodes {
            table.reporting.remove(inode);
        }
        drop(table);
        self.files.settled.notify_waiters();
    }
}

/// A registration of everything that is open; until it is dropped, nothing is opened.
pub(super) struct Registration<'a> {
    files: &'a OpenFiles,
    /// The inodes.
    pub(super) inodes: Vec<u64>,
}

impl Registration<'_> {
    /// The namenode knows everything that is open.
    pub(super) fn done(&self) {
        self.files.table().untold.clear();
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.files.table().registering = false;
        self.files.settled.notify_waiters();
    }
}

/// One semaphore for each inode whose lease is being taken or given back.
#[derive(Default)]
struct Turns {
    semaphores: Mutex<HashMap<u64, Arc<Semaphore>>>,
}

impl Turns {
    fn semaphores(&self) -> MutexGuard<'_, HashMap<u64, Arc<Semaphore>>> {
        self.semaphores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(self: &Arc<Self>, inode: InodeId) -> LeaseTurn {
        let semaphore =
            Arc::clone(self.semaphores().entry(inode.get()).or_insert_with(|| Arc::new(Semaphore::new(1))));
        let mut turn = LeaseTurn { turns: Arc::clone(self), inode, semaphore, permit: None };
        // Never closed, so that this does not fail.
        turn.permit = Arc::clone(&turn.semaphore).acquire_owned().await.ok();
        turn
    }
}

/// The right to take or give back the lease of one file; calls that do either never overtake each other.
pub(crate) struct LeaseTurn {
    turns: Arc<Turns>,
    inode: InodeId,
    semaphore: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for LeaseTurn {
    fn drop(&mut self) {
        let mut semaphores = self.turns.semaphores();
        self.permit = None;
        // The map's and this one: nobody else waits.
        if Arc::strong_count(&self.semaphore) == 2 {
            semaphores.remove(&self.inode.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const FILE: InodeId = InodeId(5);

    #[tokio::test]
    async fn a_file_is_released_with_its_last_handle() {
        let files = OpenFiles::default();
        files.opening(FILE).await;
        files.opening(FILE).await;
        files.handle_gone(FILE);
        assert!(files.take_released().is_none());
        assert_eq!(files.register().inodes, [5]);
        files.handle_gone(FILE);
        assert_eq!(files.register().inodes, [0u64; 0]);
        assert_eq!(files.take_released().map(|report| report.inodes.clone()), Some(vec![5]));
        assert!(files.take_released().is_none());
    }

    #[tokio::test]
    async fn an_open_waits_for_a_report_and_cancels_a_release_that_is_not_reported_yet() {
        let files = OpenFiles::default();
        files.opening(FILE).await;
        files.handle_gone(FILE);
        files.opening(FILE).await;
        assert!(files.take_released().is_none(), "open again");
        files.handle_gone(FILE);
        let report = files.take_released().expect("released");
        let opening = files.opening(FILE);
        tokio::pin!(opening);
        assert!(futures::poll!(opening.as_mut()).is_pending());
        drop(report);
        tokio::time::timeout(Duration::from_secs(10), opening).await.expect("woken");
        assert_eq!(files.register().inodes, [5]);
    }

    #[tokio::test]
    async fn an_open_waits_for_a_registration() {
        let files = OpenFiles::default();
        let registration = files.register();
        let opening = files.opening(FILE);
        tokio::pin!(opening);
        assert!(futures::poll!(opening.as_mut()).is_pending());
        assert!(registration.inodes.is_empty());
        drop(registration);
        tokio::time::timeout(Duration::from_secs(10), opening).await.expect("woken");
        assert_eq!(files.not_registering().await, 1);
    }

    #[tokio::test]
    async fn turns_are_exclusive_and_leave_nothing_behind() {
        let files = OpenFiles::default();
        let first = files.lease_turn(FILE).await;
        let mut second = Box::pin(files.lease_turn(FILE));
        let mut third = Box::pin(files.lease_turn(FILE));
        assert!(futures::poll!(second.as_mut()).is_pending());
        assert!(futures::poll!(third.as_mut()).is_pending());
        drop(second);
        drop(first);
        drop(third.await);
        assert!(files.turns.semaphores().is_empty());
    }
}
