//! Opening, creating, flushing and closing files.

use std::sync::Arc;
use std::time::Instant;

use dfs_client::ErrorKind;
use dfs_client::fs::{FileType as Kind, InodeId, OpenFile, OpenOptions};
use fuser::{FileAttr, FileHandle, FopenFlags, INodeNo, LockOwner, ReplyCreate, ReplyEmpty, ReplyOpen};

use crate::caller::{Asker, Who};
use crate::errno::Refusal;
use crate::executed;
use crate::handles::OpenHandle;
use crate::mount::Mount;
use crate::ops::names::{GENERATION, Making, checked};
use crate::passthrough::{MAX_VERIFIED_BYTES, Place};

/// How a file is opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// For writing.
    pub write: bool,
    /// Cut to length 0.
    pub truncate: bool,
    /// Cut by an open for reading, which the kernel does not check for programs that run.
    pub unchecked: bool,
    /// `O_EXCL`.
    pub exclusive: bool,
    /// Clear set-user-id and set-group-id.
    pub kill_privileges: bool,
}

impl Opening {
    /// From the flags of open(2).
    pub fn new(flags: i32, kill_privileges: bool) -> Self {
        Self {
            write: flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0,
            truncate: flags & libc::O_TRUNC != 0,
            unchecked: flags & libc::O_ACCMODE == libc::O_RDONLY && flags & libc::O_TRUNC != 0,
            exclusive: flags & libc::O_EXCL != 0,
            kill_privileges,
        }
    }
}

/// `open`.
pub fn open(mount: &Arc<Mount>, who: Who, ino: INodeNo, opening: Opening, reply: ReplyOpen) {
    let (inode, shared) = (mount.inode(ino), mount.clone());
    let work = async move { shared.open_handle(who, inode, opening).await };
    mount.answer(who, reply, work, |reply, opened| match &opened.handle.place {
        Some(place) => place.answer(reply, opened.number, opened.flags),
        None => reply.opened(opened.number, opened.flags),
    });
}

/// `create`: what is not there is made and opened in one call. If another mount was first, its file is opened.
pub fn create(
    mount: &Arc<Mount>,
    who: Who,
    at: (INodeNo, &[u8]),
    (mode, umask, flags): (u32, u32, i32),
    reply: ReplyCreate,
) {
    let (dir, name, shared) = (mount.inode(at.0), checked(at.1), mount.clone());
    let opening = Opening::new(flags, false);
    let work = async move {
        let name = name?;
        let new = Making::new(Kind::File, mode, umask).new_node(&shared, who);
        let mut asker = Asker::new(who, &shared.owners);
        let made = loop {
            match shared.fs.create(asker.caller(), dir, &name, new.clone()).await {
                Err(refusal) if asker.widen(&refusal) => {}
                Err(refusal) if refusal.kind() == ErrorKind::AlreadyExists && !opening.exclusive => {
                    break None;
                }
                answer => break Some(answer?),
            }
        };
        let (attr, opened) = match made {
            Some((status, file)) => {
                let attr = shared.entry_made(dir, &name, &status).attr;
                (attr, shared.new_handle(InodeId(status.inode), file).await?)
            }
            None => shared.open_existing(who, dir, &name, opening).await?,
        };
        Ok((attr, opened, shared.ttl()))
    };
    mount.answer(who, reply, work, |reply, (attr, opened, ttl)| {
        reply.created(&ttl, &attr, GENERATION, opened.number, opened.flags);
    });
}

/// `flush`: a descriptor is closed, perhaps one of several. What was written is with the cluster, and the process's locks
/// are dropped.
pub fn flush(mount: &Arc<Mount>, who: Who, handle: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
    let (handle, shared) = (mount.files.get(handle), mount.clone());
    let work = async move {
        let handle = handle?;
        let flushed = if handle.writer { shared.flush_file(&handle).await } else { Ok(()) };
        if shared.locks.closing(handle.inode, owner.0) {
            shared.unlock_all(who, handle.inode, owner.0, false).await?;
        }
        flushed
    };
    mount.answer(who, reply, work, |reply, ()| reply.ok());
}

/// `release`: the last descriptor of a handle is gone. Nobody waits for this; what the file still needs is done afterwards.
pub fn release(
    mount: &Arc<Mount>,
    who: Who,
    handle: FileHandle,
    flock: Option<LockOwner>,
    reply: ReplyEmpty,
) {
    let handle = match mount.files.remove(handle) {
        Ok(handle) => handle,
        Err(refusal) => return Mount::refuse(reply, &refusal),
    };
    reply.ok();
    let shared = mount.clone();
    mount.spawn(async move {
        let lockers = handle.lockers().into_iter();
        let dropped =
            lockers.filter(|owner| shared.locks.closing(handle.inode, *owner)).map(|owner| (owner, false));
        for (owner, flock) in dropped.chain(flock.map(|owner| (owner.0, true))) {
            if let Err(error) = shared.unlock_all(who, handle.inode, owner, flock).await {
                tracing::warn!(inode = handle.inode.get(), %error, "a lock could not be dropped");
            }
        }
        if let Err(error) = shared.noted(&handle, handle.file.release(handle.writer).await) {
            Mount::note("a closed file could not be written back", handle.inode, &error);
        }
        if handle.writer {
            shared.written_back(&handle);
        }
    });
}

/// A handle, and what the kernel is told about it.
struct Opened {
    number: FileHandle,
    flags: FopenFlags,
    handle: Arc<OpenHandle>,
}

/// An open file that has no handle yet: dropped, it is released.
struct Unused {
    mount: Arc<Mount>,
    file: Option<Arc<OpenFile>>,
    writer: bool,
}

impl Unused {
    fn new(mount: &Arc<Mount>, file: Arc<OpenFile>, writer: bool) -> Self {
        Self { mount: mount.clone(), file: Some(file), writer }
    }

    /// It has a handle.
    fn used(mut self) {
        self.file = None;
    }
}

impl Drop for Unused {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            let writer = self.writer;
            self.mount.spawn(async move {
                if let Err(error) = file.release(writer).await {
                    Mount::note(
                        "a file that nobody uses was released unclean",
                        InodeId(file.status().inode),
                        &error,
                    );
                }
            });
        }
    }
}

impl Mount {
    /// Opens a file. Where files are passed through, a writer waits for their readers first, and a reader is shown the replica's
    /// file if there is one.
    async fn open_handle(
        self: &Arc<Self>,
        who: Who,
        inode: InodeId,
        opening: Opening,
    ) -> Result<Opened, Refusal> {
        let Some(passthrough) = self.passthrough.get() else {
            let file = self.open_file(who, inode, opening).await?;
            return Ok(self.handle(inode, file, opening.write, None));
        };
        if opening.write {
            return self.open_through_the_mount(who, inode, opening).await;
        }
        let file = self.open_file(who, inode, opening).await?;
        let unused = Unused::new(self, file.clone(), false);
        let local = file.local_file(MAX_VERIFIED_BYTES, passthrough.file_of(inode)).await;
        let place = passthrough.enter(inode, local.as_ref()).await?;
        unused.used();
        Ok(self.handle(inode, file, false, Some(place)))
    }

    /// Opens a file that is written, or in a reply that cannot name a file of this machine.
    async fn open_through_the_mount(
        &self,
        who: Who,
        inode: InodeId,
        opening: Opening,
    ) -> Result<Opened, Refusal> {
        let place = match self.passthrough.get() {
            Some(passthrough) => Some(passthrough.enter(inode, None).await?),
            None => None,
        };
        let file = self.open_file(who, inode, opening).await?;
        Ok(self.handle(inode, file, opening.write, place))
    }

    async fn open_file(&self, who: Who, inode: InodeId, opening: Opening) -> Result<Arc<OpenFile>, Refusal> {
        if opening.unchecked && self.is_executed(inode).await {
            return Err(Refusal::Executed);
        }
        let options = OpenOptions { write: opening.write, truncate: opening.truncate };
        let asked = Instant::now();
        let mut asker = Asker::new(who, &self.owners);
        if !opening.write {
            if let Some(dir) = self.order.directory_of(inode) {
                self.fs.reading(asker.caller(), dir);
            }
            self.fetch_ahead(asker.caller(), || self.order.opened(inode));
        }
        let file = loop {
            match self.fs.open(asker.caller(), inode, options).await {
                Err(refusal) if asker.widen(&refusal) => {}
                answer => break answer?,
            }
        };
        self.learn_at_open(&file.status(), asked);
        if opening.truncate && opening.kill_privileges {
            self.kill_privileges(who, inode).await?;
        }
        if opening.truncate {
            self.attrs.overlay(inode, &file.status());
        }
        Ok(file)
    }

    async fn is_executed(&self, inode: InodeId) -> bool {
        let Some(place) = self.place.get().cloned() else { return false };
        let ino = self.ino(inode).0;
        let look = tokio::task::spawn_blocking(move || executed::is_executed(&place, ino));
        look.await.unwrap_or(false)
    }

    /// The handle of a file that was made a moment ago. A reply for it cannot name a file of this machine.
    async fn new_handle(self: &Arc<Self>, inode: InodeId, file: Arc<OpenFile>) -> Result<Opened, Refusal> {
        let unused = Unused::new(self, file.clone(), true);
        let place = match self.passthrough.get() {
            Some(passthrough) => Some(passthrough.enter(inode, None).await?),
            None => None,
        };
        unused.used();
        Ok(self.handle(inode, file, true, place))
    }

    /// The handle of a file that was opened, and what the kernel is told about it.
    fn handle(&self, inode: InodeId, file: Arc<OpenFile>, writer: bool, place: Option<Place>) -> Opened {
        let mut flags = FopenFlags::empty();
        let status = file.status();
        if status.under_construction && !writer && self.fs.written(inode).is_none() {
            // Somebody else overwrites it, which its counter need not show before it is closed.
            self.contents.forget(inode);
        } else if self.contents.opened(inode, status.change) {
            flags |= FopenFlags::FOPEN_KEEP_CACHE;
        }
        // Nothing is written back and no lock is dropped when it is closed.
        let quiet = !writer && !self.locks.ever_locked(inode);
        if quiet {
            flags |= FopenFlags::FOPEN_NOFLUSH;
        }
        let handle = Arc::new(OpenHandle::new(inode, file, writer, quiet, place));
        Opened { number: self.files.insert(handle.clone()), flags, handle }
    }

    /// Opens a file that another mount made just before.
    async fn open_existing(
        &self,
        who: Who,
        dir: InodeId,
        name: &[u8],
        opening: Opening,
    ) -> Result<(FileAttr, Opened), Refusal> {
        self.directories.forget(dir);
        let mut asker = Asker::new(who, &self.owners);
        let status = loop {
            match self.fs.lookup(asker.caller(), dir, name).await {
                Err(refusal) if asker.widen(&refusal) => {}
                answer => break answer?,
            }
        };
        let inode = InodeId(status.inode);
        if status.r#type() != Kind::File {
            return Err(Refusal::Exists);
        }
        let opened = self.open_through_the_mount(who, inode, opening).await?;
        let node = self.learn_change(&opened.handle.file.status());
        Ok((node.attr, opened))
    }

    async fn flush_file(&self, handle: &OpenHandle) -> Result<(), Refusal> {
        self.noted(handle, handle.file.flush().await)?;
        self.written_back(handle);
        Ok(())
    }

    /// Takes note of what a failed write means for the kernel's pages: the next open drops them.
    pub fn noted<T, E>(&self, handle: &OpenHandle, outcome: Result<T, E>) -> Result<T, E> {
        if outcome.is_err() {
            handle.failed();
            self.contents.forget(handle.inode);
        }
        outcome
    }

    /// What was written through a handle is recorded at the cluster.
    pub fn written_back(&self, handle: &OpenHandle) {
        let status = handle.file.status();
        if handle.fits_the_pages() {
            self.contents.written(handle.inode, status.change);
        } else {
            self.contents.forget(handle.inode);
        }
        self.attrs.overlay(handle.inode, &status);
    }
}
