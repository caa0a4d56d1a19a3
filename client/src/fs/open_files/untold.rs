//! Files that were opened without a call, and telling the namenode of them.
//!
//! It has to know of them before they can lose their names: before a directory is given back, and before a change of this session that
//! takes a name is sent. What is still open when the session polls is told as well; what is closed before that, it never hears of.

use std::sync::Arc;

use dfs_proto::InodeId;
use dfs_proto::v1::NoteOpensRequest;

use super::{MAX_REPORTED, OpenFiles};
use crate::DfsError;
use crate::fs::file_system::FsInner;
use crate::fs::unbroken::unbroken;

impl OpenFiles {
    /// Counts an open of which the namenode is not told now. False if it has to be: its release is being reported, or everything is being
    /// registered.
    pub(in crate::fs) fn opening_here(&self, inode: InodeId) -> bool {
        let (mut table, inode) = (self.table(), inode.get());
        if table.registering || table.reporting.contains(&inode) {
            return false;
        }
        // Perhaps the namenode has been started anew since it was opened, and does not know that any more.
        let was_released = table.released.remove(&inode);
        let entry = table.entries.entry(inode).or_default();
        entry.handles += 1;
        if entry.handles == 1 {
            entry.known = was_released;
            table.untold.insert(inode);
        }
        true
    }

    /// The namenode answered that it is open.
    pub(in crate::fs) fn told(&self, inode: InodeId) {
        self.table().untold.remove(&inode.get());
    }

    /// The namenode is about to hear of it: its release is to be reported.
    pub(in crate::fs) fn used(&self, inode: InodeId) {
        if let Some(entry) = self.table().entries.get_mut(&inode.get()) {
            entry.known = true;
        }
    }

    /// What the namenode may not know; until [`Telling`] is dropped, none of it is reported as released.
    fn take_untold(self: &Arc<Self>) -> Vec<Telling> {
        let mut table = self.table();
        let inodes: Vec<u64> = table.untold.iter().copied().collect();
        for inode in &inodes {
            *table.telling.entry(*inode).or_default() += 1;
            if let Some(entry) = table.entries.get_mut(inode) {
                entry.known = true;
            }
        }
        let part = |part: &[u64]| Telling { files: Arc::clone(self), inodes: part.to_vec() };
        inodes.chunks(MAX_REPORTED).map(part).collect()
    }
}

/// Files that the namenode is being told of.
struct Telling {
    files: Arc<OpenFiles>,
    inodes: Vec<u64>,
}

impl Telling {
    /// It knows of them.
    fn done(&self) {
        let mut table = self.files.table();
        for inode in &self.inodes {
            table.untold.remove(inode);
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let mut table = self.files.table();
        for inode in &self.inodes {
            if let Some(count) = table.telling.get_mut(inode) {
                *count -= 1;
                if *count == 0 {
                    table.telling.remove(inode);
                }
            }
        }
        let waits = !table.released.is_empty();
        drop(table);
        if waits {
            self.files.released.notify_one();
        }
    }
}

impl FsInner {
    /// Tells it in the background: a session that falls silent should have little open that the namenode does not know of.
    pub(in crate::fs) fn tell_opens_soon(self: &Arc<Self>) {
        if self.files.table().untold.is_empty() {
            return;
        }
        let fs = Arc::clone(self);
        self.spawn(async move {
            // What could not be told is told with the next poll.
            let _ = fs.tell_opens().await;
        });
    }

    /// Tells the namenode of everything that was opened without a call.
    pub(in crate::fs) async fn tell_opens(self: &Arc<Self>) -> Result<(), DfsError> {
        for telling in self.files.take_untold() {
            let fs = Arc::clone(self);
            // An open must not arrive after its release.
            unbroken(self, async move { fs.note_opens(telling).await }, |_| async {}).await?;
        }
        Ok(())
    }

    async fn note_opens(&self, telling: Telling) -> Result<(), DfsError> {
        let request = NoteOpensRequest {
            context: self.own_context(),
            session: self.session().to_owned(),
            inodes: telling.inodes.clone(),
        };
        let namenode = &self.client.namenode;
        namenode.call_files("", request, |mut s, r| async move { s.note_opens(r).await }).await?;
        telling.done();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: InodeId = InodeId(5);

    fn told(files: &Arc<OpenFiles>) -> Vec<u64> {
        let telling = files.take_untold();
        telling.iter().for_each(Telling::done);
        telling.iter().flat_map(|telling| telling.inodes.clone()).collect()
    }

    fn reported(files: &OpenFiles) -> Vec<u64> {
        files.take_released().map(|report| report.inodes.clone()).unwrap_or_default()
    }

    #[tokio::test]
    async fn what_is_closed_before_it_was_told_is_never_told() {
        let files = Arc::<OpenFiles>::default();
        assert!(files.opening_here(FILE));
        files.handle_gone(FILE);
        assert_eq!((told(&files), reported(&files)), (vec![], vec![]));
        assert!(files.opening_here(FILE) && files.opening_here(FILE));
        assert_eq!((told(&files), told(&files)), (vec![5], vec![]), "once");
        files.handle_gone(FILE);
        assert!(reported(&files).is_empty(), "still open");
        files.handle_gone(FILE);
        assert_eq!(reported(&files), [5]);
    }

    #[tokio::test]
    async fn a_release_waits_for_an_open_that_is_being_told() {
        let files = Arc::<OpenFiles>::default();
        assert!(files.opening_here(FILE));
        let telling = (files.take_untold(), files.take_untold());
        files.handle_gone(FILE);
        drop(telling.0);
        assert!(reported(&files).is_empty());
        drop(telling.1);
        assert_eq!(reported(&files), [5], "it may have arrived");
        assert!(files.table().telling.is_empty());
    }

    #[tokio::test]
    async fn what_was_not_surely_told_is_told_again() {
        let files = Arc::<OpenFiles>::default();
        assert!(files.opening_here(FILE));
        drop(files.take_untold());
        assert_eq!(told(&files), [5]);
        files.handle_gone(FILE);
        assert!(files.opening_here(FILE), "before the release was reported");
        assert_eq!((reported(&files), told(&files)), (vec![], vec![5]));
        let registration = files.register();
        assert!(!files.opening_here(FILE), "while everything is registered");
        registration.done();
        drop(registration);
        assert!(told(&files).is_empty());
    }

    #[tokio::test]
    async fn a_call_tells_and_so_does_a_lock() {
        let files = Arc::<OpenFiles>::default();
        assert!(files.opening_here(FILE));
        files.opening(FILE).await;
        files.told(FILE);
        assert!(told(&files).is_empty());
        files.handle_gone(FILE);
        files.handle_gone(FILE);
        assert_eq!(reported(&files), [5]);
        assert!(files.opening_here(FILE));
        files.used(FILE);
        assert_eq!(told(&files), [5]);
        files.handle_gone(FILE);
        assert_eq!(reported(&files), [5]);
    }
}
