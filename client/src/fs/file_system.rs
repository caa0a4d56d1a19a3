//! The session and its open files.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dfs_proto::InodeId;
use dfs_proto::v1::{self, CallContext};
use futures::StreamExt;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::close_habit::CloseHabit;
use super::create_habit::CreateHabit;
use super::delegation::{self, Delegations};
use super::files_ahead::FilesAhead;
use super::locks::SessionLocks;
use super::open_files::{LeaseTurn, OpenFiles};
use super::read_local::LOCAL_BUFFER_BYTES;
use super::unsynced::Unsynced;
use super::write_limits::{Budget, Pipelines};
use super::write_tender::{self, Tender};
use super::{Caller, FileSystemConfig, releases, session};
use crate::buffer_pool::BufferPool;
use crate::dfs_client::Inner;
use crate::namenode::Namenode;
use crate::read_times::HedgeCounts;
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
    pub(super) budget: Arc<Budget>,
    /// Files that were fetched before they are opened.
    pub(super) ahead: FilesAhead,
    /// Buffers of reads from files on this machine.
    pub(super) local_buffers: Arc<BufferPool>,
    /// Whether new files are being written.
    pub(super) create_habit: CreateHabit,
    pub(super) close_habit: CloseHabit,
    /// Directories whose changes are answered here.
    pub(super) delegations: Arc<Delegations>,
    /// Leave to have a pipeline.
    pub(super) pipelines: Pipelines,
    /// How long an operation waits for what is away.
    pub(crate) wait: Duration,
    pub(super) files: Arc<OpenFiles>,
    /// Files with something on its way.
    pub(super) tender: Arc<Tender>,
    pub(super) locks: SessionLocks,
    /// Nodes with changes that may be lost.
    pub(super) unsynced: Unsynced,
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
            ahead: FilesAhead::default(),
            budget: Arc::new(Budget::new(config.memory_bytes)),
            local_buffers: BufferPool::new(LOCAL_BUFFER_BYTES),
            create_habit: CreateHabit::default(),
            close_habit: CloseHabit::default(),
            delegations: Arc::new(Delegations::new(config.delegations && config.relaxed)),
            pipelines: Pipelines::default(),
            wait: config.wait,
            files: Arc::default(),
            tender: Arc::default(),
            locks: SessionLocks::default(),
            unsynced: Unsynced::default(),
            recalling: Mutex::default(),
            relaxed: config.relaxed,
            runtime: Handle::current(),
            tasks: Mutex::default(),
        });
        let started = inner.register().await?;
        inner.epoch_is(started.epoch);
        let tasks = vec![
            tokio::spawn(session::keep(Arc::downgrade(&inner), started)),
            tokio::spawn(releases::report_releases(Arc::downgrade(&inner))),
            tokio::spawn(delegation::send(Arc::downgrade(&inner), Arc::clone(&inner.delegations))),
            tokio::spawn(delegation::keep(Arc::downgrade(&inner))),
            tokio::spawn(write_tender::tend(Arc::downgrade(&inner), Arc::clone(&inner.tender))),
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
        outcome = outcome.and(fs.all_settled().await);
        for task in fs.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        outcome = outcome.and(self.sync().await);
        let request = v1::CloseSessionRequest { context: fs.own_context(), session: fs.session().to_owned() };
        let ended =
            self.namenode().call_files("", request, |mut s, r| async move { s.close_session(r).await });
        outcome = outcome.and(ended.await.map(drop));
        // Open files and the session hold each other.
        fs.files.clear();
        fs.tender.clear();
        outcome
    }

    /// Name of the session.
    pub fn session(&self) -> &str {
        self.inner.session()
    }

    /// Defaults and identity of the cluster, as of connecting.
    pub fn server_defaults(&self) -> &v1::ServerDefaults {
        &self.inner.client.defaults
    }

    /// Second questions of its readers, to datanodes that were asked because another one was late.
    pub fn hedge_counts(&self) -> HedgeCounts {
        self.inner.client.times.hedges()
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
}
