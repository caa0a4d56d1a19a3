//! The session and its open files.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dfs_proto::v1::{self, CallContext, FileStatus, LocatedBlocks};
use dfs_proto::{ErrorKind, InodeId};
use futures::StreamExt;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::file_calls::ALL_BYTES;
use super::lock_table::LockTable;
use super::namespace::{incomplete, node};
use super::open_files::{LeaseTurn, OpenFiles};
use super::read_local::LOCAL_BUFFER_BYTES;
use super::subject::Subject;
use super::write_limits::{Budget, Pipelines};
use super::{Caller, FileSystemConfig, NewNode, OpenFile, OpenOptions, releases, session};
use crate::buffer_pool::BufferPool;
use crate::dfs_client::Inner;
use crate::namenode::Namenode;
use crate::{DfsClient, DfsError};

/// Files that are flushed at a time when a session is closed: enough to keep all datanodes busy.
const CLOSED_AT_A_TIME: usize = 16;

/// A session at a cluster. Cloning is cheap and shares everything.
#[derive(Clone)]
pub struct FileSystem {
    inner: Arc<FsInner>,
}

impl std::fmt::Debug for FileSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSystem").field("session", &self.inner.session()).finish_non_exhaustive()
    }
}

/// What a session's clones and open files share.
pub(crate) struct FsInner {
    /// Connections, buffers and settings; its lease holder is the session.
    pub(crate) client: Arc<Inner>,
    /// Memory for data not written back yet and data read ahead.
    pub(super) budget: Budget,
    /// Buffers of reads from files on this machine.
    pub(super) local_buffers: Arc<BufferPool>,
    /// Leave to have a pipeline.
    pub(super) pipelines: Pipelines,
    /// How long an operation waits for what is away.
    pub(crate) wait: Duration,
    pub(super) files: Arc<OpenFiles>,
    pub(super) locks: Mutex<LockTable>,
    /// Inodes whose lease is being given back because another client wants it.
    pub(super) recalling: Mutex<HashSet<u64>>,
    relaxed: bool,
    runtime: Handle,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl FileSystem {
    /// Connects and starts the session. Its background tasks run on the caller's tokio runtime.
    pub async fn connect(config: FileSystemConfig) -> Result<Self, DfsError> {
        let session = config.session_name()?;
        let client = DfsClient::connect_with(config.client(&session)?).await?;
        let inner = Arc::new(FsInner {
            client: client.inner,
            budget: Budget::new(config.memory_bytes),
            local_buffers: BufferPool::new(LOCAL_BUFFER_BYTES),
            pipelines: Pipelines::default(),
            wait: config.wait,
            files: Arc::default(),
            locks: Mutex::default(),
            recalling: Mutex::default(),
            relaxed: config.relaxed,
            runtime: Handle::current(),
            tasks: Mutex::default(),
        });
        let started = inner.register().await?;
        let tasks = vec![
            tokio::spawn(session::keep(Arc::downgrade(&inner), started.epoch)),
            tokio::spawn(releases::report_releases(Arc::downgrade(&inner))),
        ];
        *inner.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        Ok(Self { inner })
    }

    /// Writes back everything, gives all leases back, and ends the session. The first failure is answered; the session is ended
    /// all the same. No call may be made afterwards.
    pub async fn close(self) -> Result<(), DfsError> {
        let fs = &self.inner;
        let mut outcome = Ok(());
        let mut closing = futures::stream::iter(fs.files.all()).map(|file| async move { file.shut().await });
        let mut closing = std::pin::pin!(closing.by_ref().buffer_unordered(CLOSED_AT_A_TIME));
        while let Some(closed) = closing.next().await {
            outcome = outcome.and(closed);
        }
        for task in fs.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        outcome = outcome.and(self.sync().await);
        let request = v1::CloseSessionRequest { context: fs.own_context(), session: fs.session().to_owned() };
        let ended =
            self.namenode().call_files("", request, |mut s, r| async move { s.close_session(r).await });
        outcome.and(ended.await.map(drop))
    }

    /// Name of the session.
    pub fn session(&self) -> &str {
        self.inner.session()
    }

    /// Defaults and identity of the cluster, as of connecting.
    pub fn server_defaults(&self) -> &v1::ServerDefaults {
        &self.inner.client.defaults
    }

    /// Makes a file, which must not exist, and opens it for writing. Release the handle with [`OpenFile::release`].
    pub async fn create(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &[u8],
        new: NewNode,
    ) -> Result<(FileStatus, Arc<OpenFile>), DfsError> {
        let fs = &self.inner;
        let subject = Subject::Entry(parent, name);
        let request = v1::MakeNodeRequest {
            session: fs.session().to_owned(),
            allocate_block: true,
            ..self.make_node_request(caller, parent, name, new)
        };
        let mut abandoned = AbandonedCreate { fs: self, request: Some(request.clone()) };
        let answer = match self.make_node_call(&subject, request).await {
            Ok(answer) => answer,
            Err(error) => {
                abandoned.request.take_if(|_| error.kind() != ErrorKind::Unavailable);
                return Err(error);
            }
        };
        let status = answer.status.ok_or_else(|| incomplete(&subject, "status"))?;
        let inode = InodeId(status.inode);
        fs.files.opening(inode).await;
        abandoned.request = None;
        let located = LocatedBlocks { status: Some(status.clone()), blocks: Vec::new(), complete: true };
        Ok((status, fs.opened(inode, located, answer.block, true)))
    }

    /// Opens a file, always asking the namenode. Release the handle with [`OpenFile::release`].
    pub async fn open(
        &self,
        caller: &Caller,
        inode: InodeId,
        options: OpenOptions,
    ) -> Result<Arc<OpenFile>, DfsError> {
        let fs = &self.inner;
        fs.files.opening(inode).await;
        let mut pending = PendingOpen { fs: Arc::clone(fs), inode, write: options.write, open: true };
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
        let located = match fs.open_call(inode, request).await {
            Ok(located) => located,
            Err(error) => {
                // A refusal changes nothing; without an answer, the lease may have been taken.
                pending.write &= error.kind() == ErrorKind::Unavailable;
                return Err(error);
            }
        };
        pending.open = false;
        let file = fs.opened(inode, located, None, options.write);
        drop(turn);
        if cut_here {
            let mut handle = UnusedHandle { fs: Arc::clone(fs), file: Some(Arc::clone(&file)) };
            file.set_len(0).await?;
            handle.file = None;
        }
        Ok(file)
    }

    pub(super) fn inner(&self) -> &Arc<FsInner> {
        &self.inner
    }

    pub(super) fn namenode(&self) -> &Namenode {
        &self.inner.client.namenode
    }

    /// Identity of a new call of `caller`'s.
    pub(super) fn context(&self, caller: &Caller) -> Option<CallContext> {
        Some(self.namenode().context_as(&caller.user, &caller.groups, self.inner.relaxed))
    }
}

impl FsInner {
    /// Name of the session: holder of its leases.
    pub(crate) fn session(&self) -> &str {
        &self.client.holder
    }

    /// Identity of a new call of the user who mounted.
    pub(crate) fn own_context(&self) -> Option<CallContext> {
        let namenode = &self.client.namenode;
        Some(namenode.context_as(namenode.user(), &[], self.relaxed))
    }

    /// Runs a background task of the session.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Waits for the turn to take or give back the lease of a file. `CommitBlocks` that closes and
    /// [`Self::reopen`] are called with it.
    pub(crate) async fn lease_turn(&self, inode: InodeId) -> LeaseTurn {
        self.files.lease_turn(inode).await
    }

    /// A handle was released. To be called once for each, as the last thing: when no dirty data of it is left.
    pub(crate) fn handle_gone(&self, inode: InodeId) {
        self.files.handle_gone(inode);
    }

    /// The file of an open that was counted and answered.
    fn opened(
        self: &Arc<Self>,
        inode: InodeId,
        located: LocatedBlocks,
        first_block: Option<v1::LocatedBlock>,
        writable: bool,
    ) -> Arc<OpenFile> {
        if let Some(file) = self.files.get(inode) {
            file.opened(located, writable);
            return file;
        }
        let again = located.clone();
        let make = || OpenFile::new(Arc::clone(self), located, first_block, writable);
        let (file, first) = self.files.opened(inode, make);
        if !first {
            file.opened(again, writable);
        }
        file
    }
}

/// An open that is under way. Dropped without an answer, what it may have taken is given back.
struct PendingOpen {
    fs: Arc<FsInner>,
    inode: InodeId,
    write: bool,
    open: bool,
}

impl Drop for PendingOpen {
    fn drop(&mut self) {
        if !self.open {
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

/// A create that is under way. Dropped without an answer, it is sent again (the namenode repeats its answer) to learn
/// which inode it may have opened.
struct AbandonedCreate<'a> {
    fs: &'a FileSystem,
    request: Option<v1::MakeNodeRequest>,
}

impl Drop for AbandonedCreate<'_> {
    fn drop(&mut self) {
        let Some(request) = self.request.take() else { return };
        let fs = self.fs.clone();
        self.fs.inner.spawn(async move {
            let answer = fs.make_node_call(&Subject::Entry(InodeId::ROOT, &[]), request).await;
            if let Ok(v1::MakeNodeResponse { status: Some(status), .. }) = answer {
                let inode = InodeId(status.inode);
                fs.inner.files.opening(inode).await;
                fs.inner.give_back(inode).await;
                fs.inner.handle_gone(inode);
            }
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
