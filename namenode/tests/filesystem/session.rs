//! Sessions with client ids of their own, as delegations need them.

use std::future::Future;

use dfs_namenode::{Namenode, NamenodeConfig};
use dfs_proto::v1::change::Change as Kind;
use dfs_proto::v1::*;
use dfs_proto::{ErrorKind, RpcError};
use tempfile::{TempDir, tempdir};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tonic::{Response, Status};

use super::harness::*;

/// A session with a client id of its own.
#[derive(Clone)]
pub struct Session {
    /// Its calls.
    pub mount: Mount,
    id: u8,
}

impl Session {
    pub async fn connect(namenode: &Namenode, name: &str, id: u8) -> Self {
        Self { mount: Mount::connect(namenode.rpc_addr(), name).await, id }
    }

    pub fn context(&self) -> Option<CallContext> {
        context().map(|call| CallContext { client_id: vec![self.id; 16].into(), ..call })
    }

    pub fn name(&self) -> String {
        self.mount.session.clone()
    }

    pub async fn keep(&mut self, epoch: u64, wait_ms: u32) -> KeepSessionResponse {
        let (context, session) = (self.context(), self.name());
        let request = KeepSessionRequest { context, session, epoch, wait_ms, ..Default::default() };
        self.mount.calls.keep_session(request).await.expect("kept").into_inner()
    }

    pub async fn ask(&mut self, inode: u64) -> Result<DelegateDirectoryResponse, Status> {
        let (context, session) = (self.context(), self.name());
        let request = DelegateDirectoryRequest { context, session, inode, entries_max: 100, shared: false };
        self.mount.calls.delegate_directory(request).await.map(Response::into_inner)
    }

    /// Asks for a directory for reading.
    pub async fn ask_shared(&mut self, inode: u64) -> DelegateDirectoryResponse {
        let (context, session) = (self.context(), self.name());
        let request = DelegateDirectoryRequest { context, session, inode, entries_max: 100, shared: true };
        self.mount.calls.delegate_directory(request).await.expect("asked").into_inner()
    }

    /// Tells of files that were opened without a call.
    pub async fn note_opens(&mut self, inodes: &[u64]) {
        let (context, session) = (self.context(), self.name());
        let request = NoteOpensRequest { context, session, inodes: inodes.to_vec() };
        self.mount.calls.note_opens(request).await.expect("noted");
    }

    /// Has a directory delegated.
    #[track_caller]
    pub fn delegate(&mut self, inode: u64) -> impl Future<Output = DelegateDirectoryResponse> {
        let mut session = self.clone();
        async move {
            let answer = session.ask(inode).await.expect("asked");
            assert!(answer.granted);
            answer
        }
    }

    pub async fn give_back(&mut self, inodes: &[u64]) {
        let (context, session) = (self.context(), self.name());
        let request = ReturnDirectoriesRequest { context, session, inodes: inodes.to_vec() };
        self.mount.calls.return_directories(request).await.expect("given back");
    }

    pub async fn reserve(&mut self, count: u32) -> u64 {
        let (context, session) = (self.context(), self.name());
        let request = ReserveInodesRequest { context, session, count };
        let reserved = self.mount.calls.reserve_inodes(request).await.expect("reserved").into_inner();
        assert_eq!(reserved.count, count);
        reserved.first
    }

    pub fn change(&self, change: Kind, inode: u64) -> Change {
        Change { context: self.context(), change: Some(change), inode, ..Default::default() }
    }

    pub async fn apply(&mut self, changes: &[Change]) -> Vec<ChangeResult> {
        let (context, session) = (self.context(), self.name());
        let request = ApplyChangesRequest { context, session, changes: changes.to_vec(), more: false };
        self.mount.calls.apply_changes(request).await.expect("applied").into_inner().results
    }

    pub async fn mkdir(&mut self, base: u64, name: &str) -> u64 {
        let request = MakeNodeRequest { context: self.context(), ..make(base, name, FileType::Directory) };
        self.mount.calls.make_node(request).await.expect("made").into_inner().status.expect("a status").inode
    }

    pub async fn file(&mut self, base: u64, name: &str) -> u64 {
        let request = MakeNodeRequest { context: self.context(), ..make(base, name, FileType::File) };
        self.mount.calls.make_node(request).await.expect("made").into_inner().status.expect("a status").inode
    }

    pub async fn stat(&mut self, node: Option<NodeRef>) -> Result<FileStatus, Status> {
        let request = StatRequest { context: self.context(), node };
        self.mount.client.stat(request).await.map(Response::into_inner)
    }

    pub async fn names(&mut self, inode: u64) -> Vec<String> {
        let node = below(inode, "");
        let request = ListRequest { context: self.context(), node, ..Default::default() };
        let listed = self.mount.client.list(request).await.expect("listed").into_inner();
        listed.entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect()
    }
}

/// A request that makes a node nobody opens.
pub fn make(base: u64, name: &str, kind: FileType) -> MakeNodeRequest {
    MakeNodeRequest { node: below(base, name), r#type: kind.into(), mode: 0o755, ..Default::default() }
}

/// A namenode and two sessions, which do not end because the machine is busy.
pub async fn two_sessions() -> (TempDir, Namenode, Session, Session) {
    two_sessions_that_end_after(u64::try_from(PATIENCE.as_millis()).expect("small")).await
}

/// The same, with the time after which silent sessions end.
pub async fn two_sessions_that_end_after(session_timeout_ms: u64) -> (TempDir, Namenode, Session, Session) {
    let dir = tempdir().expect("directory");
    let namenode = Namenode::start(NamenodeConfig { session_timeout_ms, ..config(&dir) }).await;
    let namenode = namenode.expect("started");
    let a = Session::connect(&namenode, "mount-a", 1).await;
    let b = Session::connect(&namenode, "mount-b", 2).await;
    (dir, namenode, a, b)
}

/// Expects that a call waits until `holder` has given `directory` back, and answers what it answered then.
pub async fn recalled<T: Send + 'static>(
    holder: &mut Session,
    directory: u64,
    call: impl Future<Output = T> + Send + 'static,
) -> T {
    recalled_with(holder, directory, &[], call).await
}

/// The same, of a holder that has files open.
pub async fn recalled_with<T: Send + 'static>(
    holder: &mut Session,
    directory: u64,
    open: &[u64],
    call: impl Future<Output = T> + Send + 'static,
) -> T {
    let call: JoinHandle<T> = tokio::spawn(call);
    let deadline = Instant::now() + PATIENCE;
    let epoch = holder_epoch(holder).await;
    while !holder.keep(epoch, 100).await.recalled_directories.contains(&directory) {
        assert!(!call.is_finished(), "it did not wait");
        assert!(Instant::now() < deadline, "no recall");
    }
    assert!(!call.is_finished(), "it did not wait");
    if !open.is_empty() {
        holder.note_opens(open).await;
    }
    holder.give_back(&[directory]).await;
    timeout(PATIENCE, call).await.expect("it waits no longer").expect("no panic")
}

/// The epoch of a session.
pub async fn holder_epoch(holder: &mut Session) -> u64 {
    holder.keep(0, 0).await.epoch
}

/// A change that removes a name.
pub fn unlink(base: u64, name: &str) -> Kind {
    Kind::Unlink(UnlinkRequest { node: below(base, name), ..Default::default() })
}

/// What was refused.
pub fn refusal(result: &ChangeResult) -> Option<ErrorKind> {
    result.error.clone().map(|detail| RpcError::from_detail(detail).kind)
}

/// The node of a change that was carried out.
#[track_caller]
pub fn inode_of(result: &ChangeResult) -> u64 {
    assert_eq!(result.error, None);
    result.status.as_ref().expect("a status").inode
}
