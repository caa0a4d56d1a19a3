//! Opening and making files.

use std::sync::Arc;

use dfs_proto::v1::{self, FileStatus, LocatedBlocks};
use dfs_proto::{ErrorKind, InodeId};

use super::delegation::{Changing, Opening, Touched, Way};
use super::file_calls::ALL_BYTES;
use super::file_system::FsInner;
use super::namespace::{incomplete, node, refusal};
use super::subject::Subject;
use super::unbroken::unbroken;
use super::{Caller, FileSystem, NewNode, OpenFile, OpenOptions};
use crate::DfsError;

impl FileSystem {
    /// Makes a file, which must not exist, and opens it for writing. Release the handle with [`OpenFile::release`].
    pub async fn create(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &[u8],
        new: NewNode,
    ) -> Result<(FileStatus, Arc<OpenFile>), DfsError> {
        let fs = self.inner();
        let lease = fs.create_habit.writes();
        let (dirs, subject) = ([parent], Subject::Entry(parent, name));
        let touched = Touched { dirs: &dirs, ..Touched::default() };
        let way = fs.change(&subject, touched, |shared, moment| {
            fs.make_here(shared, moment, caller, (parent, name), &new, Some(lease))
        });
        let mut changing = match way.await? {
            Way::Direct(changing) => changing,
            Way::Here(made) => {
                let status = made.map_err(|kind| refusal(&subject, kind))?;
                let file = fs.made_here(&status, lease);
                return Ok((status, file));
            }
        };
        let request = v1::MakeNodeRequest {
            session: fs.session().to_owned(),
            allocate_block: lease,
            without_lease: !lease,
            ..self.make_node_request(caller, parent, name, new)
        };
        let registrations = fs.files.not_registering().await;
        let (calling, undoing) = (Arc::clone(fs), Arc::clone(fs));
        let subject_name = name.to_vec();
        let call = async move {
            let subject = Subject::Entry(parent, &subject_name);
            (changing.answer(calling.make_node_call(&subject, request)).await, changing)
        };
        let undo = move |(answer, changing): (Result<v1::MakeNodeResponse, DfsError>, Changing)| async move {
            drop(changing);
            // Without an answer, the lease is given back when somebody else wants it.
            if let Ok(v1::MakeNodeResponse { status: Some(status), .. }) = answer {
                let handle = PendingOpen::count(&undoing, InodeId(status.inode)).await;
                undoing.give_back(handle.inode).await;
            }
        };
        let (answer, changing) = unbroken(fs, call, undo).await;
        let answer = answer?;
        changing.done(caller);
        let status = answer.status.ok_or_else(|| incomplete(&Subject::Entry(parent, name), "status"))?;
        fs.unsynced.changed(status.inode);
        let mut handle = PendingOpen::new_file(fs, InodeId(status.inode));
        if fs.files.registrations() != registrations {
            // The namenode was started anew meanwhile, and may have forgotten that this is open.
            let _turn = fs.files.lease_turn(handle.inode).await;
            fs.reopen(handle.inode).await?;
        }
        handle.write = false;
        let located = LocatedBlocks { status: Some(status.clone()), blocks: Vec::new(), complete: true };
        let file = handle.opened(located, answer.block, true);
        file.created(lease);
        Ok((status, file))
    }

    /// Opens a file. One that is opened for reading in a directory that the session has delegated, and that nobody writes, is opened
    /// without asking the namenode. Release the handle with [`OpenFile::release`].
    pub async fn open(
        &self,
        caller: &Caller,
        inode: InodeId,
        options: OpenOptions,
    ) -> Result<Arc<OpenFile>, DfsError> {
        let fs = self.inner();
        if !options.write
            && let Some(file) = fs.open_here(caller, inode).await
        {
            return Ok(file);
        }
        let handle = PendingOpen::count(fs, inode).await;
        let turn = if options.write { Some(fs.files.lease_turn(inode).await) } else { None };
        // A file that is being written here is cut in order with its writes.
        let cut_here = options.truncate && fs.files.get(inode).is_some_and(|file| file.is_writable());
        let request = v1::OpenFileRequest {
            context: self.context(caller),
            node: Some(node(inode)),
            session: fs.session().to_owned(),
            write: options.write,
            truncate: options.truncate && !cut_here,
            offset: 0,
            length: ALL_BYTES,
            reopen: false,
        };
        if !options.write {
            // Nothing but the handle is to be given back.
            let moment = fs.moment();
            let located = fs.open_call(inode, request).await?;
            fs.told(located.status.as_slice(), moment);
            fs.told_located(&located, moment);
            fs.files.told(inode);
            let ahead = fs.ahead.take(&located);
            let file = handle.opened(located, None, false);
            if let Some(ahead) = ahead {
                file.fetched_ahead(ahead);
            }
            return Ok(file);
        }
        let (calling, undoing) = (Arc::clone(fs), Arc::clone(fs));
        let call = async move { (calling.open_for_writing_call(inode, request).await, handle, turn) };
        let undo = move |(answer, handle, turn): (Result<LocatedBlocks, DfsError>, PendingOpen, _)| async move {
            drop(turn);
            if answer.is_ok() {
                undoing.give_back(inode).await;
            }
            drop(handle);
        };
        let (answer, mut handle, turn) = unbroken(fs, call, undo).await;
        if answer.is_ok() {
            fs.files.told(inode);
        }
        // A refusal changes nothing; without an answer, the lease may have been taken.
        handle.write = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unavailable);
        let file = handle.opened(answer?, None, true);
        drop(turn);
        if cut_here {
            let mut unused = UnusedHandle { fs: Arc::clone(fs), file: Some(Arc::clone(&file)) };
            file.set_len(0).await?;
            unused.file = None;
        }
        Ok(file)
    }
}

impl FsInner {
    /// Opens a file for reading without asking the namenode, if that can be done.
    async fn open_here(self: &Arc<Self>, caller: &Caller, inode: InodeId) -> Option<Arc<OpenFile>> {
        if self.files.get(inode).is_some_and(|file| file.is_written()) {
            return None;
        }
        // What is fetched ahead counts only with its block.
        let guessed = self.ahead.is_guessed(inode);
        let mut opening = self.open_delegated(caller, inode, guessed);
        if let Opening::Unlocated = opening {
            self.ahead.located(inode).await;
            opening = self.open_delegated(caller, inode, true);
        }
        let Opening::Open(located) = opening else { return None };
        let handle = PendingOpen { fs: Arc::clone(self), inode, write: false, counted: true };
        let ahead = if guessed { self.ahead.take(&located) } else { None };
        let file = handle.opened(*located, None, false);
        if let Some(ahead) = ahead {
            file.fetched_ahead(ahead);
        }
        Some(file)
    }

    /// Opens a file that was made here and that the namenode does not know yet.
    fn made_here(self: &Arc<Self>, status: &FileStatus, lease: bool) -> Arc<OpenFile> {
        let mut handle = PendingOpen::new_file(self, InodeId(status.inode));
        handle.write = false;
        let located = LocatedBlocks { status: Some(status.clone()), blocks: Vec::new(), complete: true };
        let file = handle.opened(located, None, true);
        file.created(lease);
        file
    }
}

/// A handle that is being opened, counted already. Dropped before that has succeeded, it is counted down.
struct PendingOpen {
    fs: Arc<FsInner>,
    inode: InodeId,
    /// The lease may have been taken, and is to be given back.
    write: bool,
    counted: bool,
}

impl PendingOpen {
    async fn count(fs: &Arc<FsInner>, inode: InodeId) -> Self {
        fs.files.opening(inode).await;
        Self { fs: Arc::clone(fs), inode, write: false, counted: true }
    }

    /// Of a file that was made a moment ago, with its lease.
    fn new_file(fs: &Arc<FsInner>, inode: InodeId) -> Self {
        fs.files.made(inode);
        Self { fs: Arc::clone(fs), inode, write: true, counted: true }
    }

    /// It has succeeded.
    fn opened(
        mut self,
        located: LocatedBlocks,
        first_block: Option<v1::LocatedBlock>,
        writable: bool,
    ) -> Arc<OpenFile> {
        self.counted = false;
        if let Some(file) = self.fs.files.get(self.inode) {
            file.opened(located, writable);
            return file;
        }
        let again = located.clone();
        let make = || OpenFile::new(Arc::clone(&self.fs), located, first_block, writable);
        let (file, first) = self.fs.files.opened(self.inode, make);
        if !first {
            file.opened(again, writable);
        }
        file
    }
}

impl Drop for PendingOpen {
    fn drop(&mut self) {
        if !self.counted {
            return;
        }
        let (fs, inode) = (Arc::clone(&self.fs), self.inode);
        if !self.write {
            fs.handle_gone(inode);
            return;
        }
        self.fs.spawn(async move {
            fs.give_back(inode).await;
            fs.handle_gone(inode);
        });
    }
}

/// A handle that its caller has not got yet. Dropped, it is released.
struct UnusedHandle {
    fs: Arc<FsInner>,
    file: Option<Arc<OpenFile>>,
}

impl Drop for UnusedHandle {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            self.fs.spawn(async move {
                if let Err(error) = file.release(true).await {
                    tracing::warn!(inode = file.status().inode, %error, "a handle was released unclean");
                }
            });
        }
    }
}
