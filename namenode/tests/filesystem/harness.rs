//! A namenode without datanodes, and callers in sessions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dfs_namenode::{Namenode, NamenodeConfig};
use dfs_proto::v1::client_protocol_client::ClientProtocolClient;
use dfs_proto::v1::file_system_protocol_client::FileSystemProtocolClient;
use dfs_proto::v1::*;
use dfs_proto::{ErrorKind, RpcError};
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

/// Longest wait for anything; only a defect takes so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Time after which silent sessions of these tests end.
pub const SESSION_TIMEOUT_MS: u64 = 600;

/// Settings for tests: any ports, no reserve.
pub fn config(dir: &TempDir) -> NamenodeConfig {
    NamenodeConfig {
        bind: std::net::Ipv4Addr::LOCALHOST.into(),
        rpc_port: 0,
        http_port: 0,
        superuser: Some("root".to_owned()),
        session_timeout_ms: SESSION_TIMEOUT_MS,
        reserved_bytes: 0,
        cache_bytes: 16 << 20,
        ..NamenodeConfig::new(dir.path().join("namenode"))
    }
}

/// Starts a namenode; one that was stopped a moment ago may still hold the directory.
pub async fn start(dir: &TempDir) -> Namenode {
    start_with(config(dir)).await
}

/// The same with other settings.
pub async fn start_with(config: NamenodeConfig) -> Namenode {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Namenode::start(config.clone()).await {
            Ok(namenode) => return namenode,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A session and its connection.
#[derive(Clone)]
pub struct Mount {
    /// The mount's service.
    pub calls: FileSystemProtocolClient<Channel>,
    /// The other one.
    pub client: ClientProtocolClient<Channel>,
    /// Name of the session.
    pub session: String,
}

static CALLS: AtomicU64 = AtomicU64::new(1);

/// The next call, by the superuser.
pub fn context() -> Option<CallContext> {
    context_of("root", &["root"])
}

/// The next call, by a user with groups.
pub fn context_of(user: &str, groups: &[&str]) -> Option<CallContext> {
    Some(CallContext {
        user: user.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        client_id: b"filesystem-tests".to_vec().into(),
        call_id: CALLS.fetch_add(1, Ordering::Relaxed),
        relaxed: true,
        told: Vec::new(),
    })
}

/// A node below the root, or below another base.
pub fn below(base: u64, name: &str) -> Option<NodeRef> {
    Some(NodeRef { base, path: name.as_bytes().to_vec().into() })
}

/// What kind of refusal a status is.
pub fn kind(status: &Status) -> ErrorKind {
    RpcError::from_status(status).kind
}

impl Mount {
    /// Connects as a session of this name.
    pub async fn connect(address: std::net::SocketAddr, session: &str) -> Self {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("address");
        let channel = endpoint.tcp_nodelay(true).connect().await.expect("connected");
        let calls = FileSystemProtocolClient::new(channel.clone());
        Self { calls, client: ClientProtocolClient::new(channel), session: session.to_owned() }
    }

    /// Makes a file, open for writing.
    pub async fn create(&mut self, name: &str) -> Result<FileStatus, Status> {
        self.make(name, FileType::File, true).await
    }

    /// Makes a node.
    pub async fn make(&mut self, name: &str, kind: FileType, opened: bool) -> Result<FileStatus, Status> {
        let request = MakeNodeRequest {
            context: context(),
            node: below(1, name),
            r#type: kind.into(),
            mode: 0o755,
            session: if opened { self.session.clone() } else { String::new() },
            ..Default::default()
        };
        Ok(self.calls.make_node(request).await?.into_inner().status.expect("status"))
    }

    /// Opens a file.
    pub async fn open(&mut self, inode: u64, write: bool) -> Result<LocatedBlocks, Status> {
        let request = OpenFileRequest {
            context: context(),
            node: below(inode, ""),
            session: self.session.clone(),
            write,
            length: u64::MAX,
            ..Default::default()
        };
        Ok(self.calls.open_file(request).await?.into_inner())
    }

    /// Gives the lease back.
    pub async fn close(&mut self, inode: u64) -> Result<FileStatus, Status> {
        let request = CommitBlocksRequest {
            context: context(),
            inode,
            session: self.session.clone(),
            close: true,
            ..Default::default()
        };
        Ok(self.calls.commit_blocks(request).await?.into_inner())
    }

    /// Has a file open no longer.
    pub async fn release(&mut self, inode: u64) -> Result<Empty, Status> {
        let request =
            ReleaseFilesRequest { context: context(), session: self.session.clone(), inodes: vec![inode] };
        Ok(self.calls.release_files(request).await?.into_inner())
    }

    /// Removes a name that is no directory's.
    pub async fn unlink(&mut self, name: &str) -> Result<FileStatus, Status> {
        let request = UnlinkRequest { context: context(), node: below(1, name), directory: false };
        Ok(self.calls.unlink(request).await?.into_inner().status.expect("status"))
    }

    /// Attributes of an inode.
    pub async fn stat(&mut self, inode: u64) -> Result<FileStatus, Status> {
        let request = StatRequest { context: context(), node: below(inode, "") };
        Ok(self.client.stat(request).await?.into_inner())
    }

    /// Keeps the session alive and waits for events.
    pub async fn keep(&mut self, epoch: u64, wait_ms: u32) -> KeepSessionResponse {
        let request = KeepSessionRequest {
            context: context(),
            session: self.session.clone(),
            epoch,
            wait_ms,
            ..Default::default()
        };
        self.calls.keep_session(request).await.expect("kept").into_inner()
    }

    /// Keeps the session alive, telling everything that it has.
    pub async fn keep_full(&mut self, epoch: u64, open: &[u64], locks: &[FileLock]) -> KeepSessionResponse {
        let request = KeepSessionRequest {
            context: context(),
            session: self.session.clone(),
            epoch,
            open_inodes: open.to_vec(),
            full: true,
            locks: locks.to_vec(),
            ..Default::default()
        };
        self.calls.keep_session(request).await.expect("kept").into_inner()
    }

    /// Waits until an inode is gone.
    pub async fn wait_until_gone(&mut self, inode: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.stat(inode).await.is_ok() {
            assert!(Instant::now() < deadline, "inode {inode} stays");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Keeps the session alive in the background until the answer is dropped.
    pub fn keep_alive(&self) -> tokio::task::JoinSet<()> {
        let mut mount = self.clone();
        let mut keeping = tokio::task::JoinSet::new();
        keeping.spawn(async move {
            loop {
                mount.keep(0, 0).await;
                tokio::time::sleep(Duration::from_millis(SESSION_TIMEOUT_MS / 6)).await;
            }
        });
        keeping
    }
}
