//! Calls to the namenode.
//!
//! Owned by the client's shared state; called from any task. Invariants: a retried call carries the call id of its
//! first attempt; with several namenodes, one is used until it answers that it does not lead or
//! cannot be reached, then the next; what an answer says of the log is noted before its caller gets it.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::v1::client_protocol_client::ClientProtocolClient;
use dfs_proto::v1::file_system_protocol_client::FileSystemProtocolClient;
use dfs_proto::v1::{CallContext, LogPosition};
use dfs_proto::{ErrorKind, MAX_RPC_BYTES, RpcError};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::DfsError;
use crate::config::ClientConfig;
use crate::retry::{Backoff, RetryPolicy};
use crate::told_positions::ToldPositions;
use crate::transport::{Connections, Transport};

/// Stub of the path clients' service.
pub(crate) type Stub = ClientProtocolClient<Transport>;

/// Stub of the mounts' service; shares the connection.
pub(crate) type FilesStub = FileSystemProtocolClient<Transport>;

/// One address of the cluster's.
struct Peer {
    address: String,
    connections: Arc<Connections>,
    /// It has answered as a namenode does: its failures are a namenode's.
    proven: AtomicBool,
}

/// The namenodes and the identity that calls carry.
pub(crate) struct Namenode {
    peers: Vec<Peer>,
    current: AtomicUsize,
    user: String,
    client_id: Bytes,
    /// Spreads the retries of different clients.
    seed: u64,
    next_call: AtomicU64,
    retry: RetryPolicy,
    rpc_timeout: Duration,
    /// Where in the log changes are that were answered before they were on disk.
    pub(crate) told: ToldPositions,
}

impl Namenode {
    /// Resolves the addresses; connections are made by the first call.
    pub(crate) async fn new(config: &ClientConfig, user: String, id: Uuid) -> Result<Self, DfsError> {
        let mut peers = Vec::with_capacity(config.namenodes.len());
        for address in &config.namenodes {
            check_address(address).await?;
            let connections = Arc::new(Connections::new(address.clone()));
            peers.push(Peer { address: address.clone(), connections, proven: AtomicBool::new(false) });
        }
        Ok(Self {
            peers,
            current: AtomicUsize::new(0),
            user,
            client_id: Bytes::copy_from_slice(id.as_bytes()),
            seed: id.as_u64_pair().0,
            next_call: AtomicU64::new(1),
            retry: config.retry,
            rpc_timeout: config.rpc_timeout,
            told: ToldPositions::default(),
        })
    }

    /// User in whose name calls are made.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// Address of the namenode in use.
    pub(crate) fn address(&self) -> &str {
        &self.peers[self.current.load(Ordering::Relaxed)].address
    }

    /// Identity of a new call.
    pub(crate) fn context(&self) -> Option<CallContext> {
        Some(self.context_as(&self.user, &[], false))
    }

    /// Identity of a new call in the name of `user`; without groups the namenode looks them up.
    pub(crate) fn context_as(&self, user: &str, groups: &[String], relaxed: bool) -> CallContext {
        CallContext {
            user: user.to_owned(),
            client_id: self.client_id.clone(),
            call_id: self.next_call.fetch_add(1, Ordering::Relaxed),
            groups: groups.to_vec(),
            relaxed,
            told: Vec::new(),
        }
    }

    /// Makes a call about `subject`, retried as the policy of the client says.
    pub(crate) async fn call<Q, A, F, R>(
        &self,
        subject: &(impl Display + ?Sized),
        request: Q,
        send: F,
    ) -> Result<A, DfsError>
    where
        Q: Clone,
        F: Fn(Stub, Request<Q>) -> R,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        self.call_with(self.retry, subject, request, send).await
    }

    /// Makes a call with a retry policy of its own.
    pub(crate) async fn call_with<Q, A, F, R>(
        &self,
        policy: RetryPolicy,
        subject: &(impl Display + ?Sized),
        request: Q,
        send: F,
    ) -> Result<A, DfsError>
    where
        Q: Clone,
        F: Fn(Stub, Request<Q>) -> R,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        self.call_service(policy, subject, request, |transport, request| {
            let stub = Stub::new(transport)
                .max_decoding_message_size(MAX_RPC_BYTES)
                .max_encoding_message_size(MAX_RPC_BYTES);
            send(stub, request)
        })
        .await
    }

    /// Makes a call of the mounts' service, retried as the policy of the client says.
    pub(crate) async fn call_files<Q, A, F, R>(
        &self,
        subject: &(impl Display + ?Sized),
        request: Q,
        send: F,
    ) -> Result<A, DfsError>
    where
        Q: Clone,
        F: Fn(FilesStub, Request<Q>) -> R,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        self.call_files_with(self.retry, subject, request, send).await
    }

    /// Makes a call of the mounts' service with a retry policy of its own.
    pub(crate) async fn call_files_with<Q, A, F, R>(
        &self,
        policy: RetryPolicy,
        subject: &(impl Display + ?Sized),
        request: Q,
        send: F,
    ) -> Result<A, DfsError>
    where
        Q: Clone,
        F: Fn(FilesStub, Request<Q>) -> R,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        self.call_service(policy, subject, request, |transport, request| {
            let stub = FilesStub::new(transport)
                .max_decoding_message_size(MAX_RPC_BYTES)
                .max_encoding_message_size(MAX_RPC_BYTES);
            send(stub, request)
        })
        .await
    }

    async fn call_service<Q, A, F, R>(
        &self,
        policy: RetryPolicy,
        subject: &(impl Display + ?Sized),
        request: Q,
        send: F,
    ) -> Result<A, DfsError>
    where
        Q: Clone,
        F: Fn(Transport, Request<Q>) -> R,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        let started = Instant::now();
        let seed = self.next_call.load(Ordering::Relaxed) ^ self.seed;
        let mut backoff = Backoff::start(policy, started, seed);
        loop {
            let index = self.current.load(Ordering::Relaxed);
            let peer = &self.peers[index];
            let Peer { address, proven, connections } = peer;
            let now = Instant::now();
            let until = now + self.rpc_timeout.min(backoff.remaining(now));
            let error = match send(connections.until(until), Request::new(request.clone())).await {
                Ok(answer) => {
                    proven.store(true, Ordering::Relaxed);
                    if let Some(changed) = answer.extensions().get::<LogPosition>() {
                        self.told.note(*changed);
                    }
                    return Ok(answer.into_inner());
                }
                Err(status) => {
                    let mut error = RpcError::from_status(&status);
                    if status.details().is_empty() {
                        // Not from a namenode of ours: the transport, or a server of another kind.
                        error.subject = format!("namenode {address}");
                        error.reason = innermost(&status);
                        if !error.kind.is_retriable() && !proven.load(Ordering::Relaxed) {
                            return Err(DfsError::NotANamenode { address: address.clone(), error });
                        }
                        if std::error::Error::source(&status).is_some() {
                            // The connection broke under the call, which a status that was sent does not tell.
                            error.kind = ErrorKind::Unavailable;
                        }
                    } else {
                        proven.store(true, Ordering::Relaxed);
                    }
                    error
                }
            };
            if !error.kind.is_retriable() {
                return Err(DfsError::refused(&subject.to_string(), error));
            }
            if matches!(error.kind, ErrorKind::NotLeader | ErrorKind::Unavailable) {
                let next = (index + 1) % self.peers.len();
                // A call that failed at the same time may have moved on already: then this changes nothing.
                let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
            }
            match backoff.next_delay(Instant::now()) {
                Some(delay) => tokio::time::sleep(delay).await,
                None => return Err(DfsError::refused(&subject.to_string(), error)),
            }
        }
    }
}

/// Cause of a transport failure: the innermost error says most ("Connection refused").
pub(crate) fn innermost(status: &Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if std::ptr::addr_eq(cause, status) { status.message().to_owned() } else { cause.to_string() }
}

/// Checks an address and that its host is known.
async fn check_address(address: &str) -> Result<(), DfsError> {
    let invalid = || DfsError::InvalidAddress { address: address.to_owned() };
    let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(invalid());
    }
    let found = tokio::net::lookup_host(address).await.map(|mut found| found.next());
    let unknown = |source| DfsError::UnknownHost { address: address.to_owned(), source: Arc::new(source) };
    match found {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(unknown(std::io::ErrorKind::NotFound.into())),
        Err(source) => Err(unknown(source)),
    }
}
