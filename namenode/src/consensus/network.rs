//! Raft's calls to other namenodes.

use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend, Snapshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::error::{ConsensusError, Damage};
use super::health::Health;
use super::raft_types::{self, Entry, TypeConfig, Vote};
use super::record::Kind;
use super::snapshot::{self, SnapshotSource};
use crate::log::raft_append_response::Result as Appended;
use crate::log::raft_protocol_client::RaftProtocolClient;
use crate::log::raft_snapshot_part::Part;
use crate::log::{
    RaftAppendRequest, RaftEntry, RaftEntryKind, RaftSnapshotBegin, RaftSnapshotPart, RaftVoteRequest,
};

/// Largest Raft message: one entry of the largest size and some room.
pub const MESSAGE_BYTES_MAX: usize = super::record::PAYLOAD_BYTES_MAX + (1 << 20);

/// How long connecting to a namenode may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause before an unreachable node is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Makes connections to namenodes.
pub struct Network {
    /// Store that snapshots are taken from, for messages.
    pub store_path: PathBuf,
    /// Told of a failing store.
    pub health: Health,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        Peer {
            target,
            address: node.addr.clone(),
            client: None,
            store_path: self.store_path.clone(),
            health: self.health.clone(),
        }
    }
}

/// Another namenode.
pub struct Peer {
    target: u64,
    address: String,
    client: Option<RaftProtocolClient<Channel>>,
    store_path: PathBuf,
    health: Health,
}

impl Peer {
    /// The client; it connects when it is first used, and again after a failure.
    fn client(&mut self) -> Result<&mut RaftProtocolClient<Channel>, Unreachable> {
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                let endpoint = Endpoint::from_shared(format!("http://{}", self.address))
                    .map_err(|error| Unreachable::new(&error))?
                    .connect_timeout(CONNECT_TIMEOUT)
                    .tcp_nodelay(true);
                RaftProtocolClient::new(endpoint.connect_lazy())
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX)
            }
        };
        Ok(self.client.insert(client))
    }

    /// Notes a failed call. The next one connects anew: whoever answers this connection may be shutting
    /// down while its successor listens.
    fn failed<E: Error>(&mut self, status: &Status) -> RPCError<u64, BasicNode, E> {
        let error = classify(status);
        if matches!(error, RPCError::Unreachable(_)) {
            self.client = None;
        }
        error
    }
}

/// Sorts a failed call into "try later" and "try again".
fn classify<E: Error>(status: &Status) -> RPCError<u64, BasicNode, E> {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Unimplemented | Code::FailedPrecondition => {
            RPCError::Unreachable(Unreachable::new(status))
        }
        _ => RPCError::Network(NetworkError::new(status)),
    }
}

/// An answer that lacks a field that it must have.
fn malformed<E: Error>() -> RPCError<u64, BasicNode, E> {
    RPCError::Network(NetworkError::new(&Damage::Payload))
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, BasicNode, RaftError<u64>>> {
        let request = RaftAppendRequest {
            target: self.target,
            vote: Some(raft_types::vote_to_proto(&rpc.vote)),
            prev: rpc.prev_log_id.as_ref().map(raft_types::log_id_to_proto),
            entries: rpc.entries.iter().map(entry_to_proto).collect(),
            committed: rpc.leader_commit.as_ref().map(raft_types::log_id_to_proto),
        };
        let answer = self.client()?.append_entries(request).await;
        let answer = answer.map_err(|status| self.failed(&status))?;
        match answer.into_inner().result.ok_or_else(malformed)? {
            Appended::Stored(_) => Ok(AppendEntriesResponse::Success),
            Appended::Conflict(_) => Ok(AppendEntriesResponse::Conflict),
            Appended::HigherVote(vote) => {
                Ok(AppendEntriesResponse::HigherVote(raft_types::vote_from_proto(vote)))
            }
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, BasicNode, RaftError<u64>>> {
        let request = RaftVoteRequest {
            target: self.target,
            vote: Some(raft_types::vote_to_proto(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(raft_types::log_id_to_proto),
        };
        let answer = self.client()?.vote(request).await;
        let answer = answer.map_err(|status| self.failed(&status))?.into_inner();
        let vote = answer.vote.ok_or_else(malformed)?;
        Ok(VoteResponse {
            vote: raft_types::vote_from_proto(vote),
            vote_granted: answer.granted,
            last_log_id: answer.last_log_id.map(raft_types::log_id_from_proto),
        })
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let SnapshotSource::Current(txn) = *snapshot.snapshot else {
            let wrong = ConsensusError::WrongSnapshot { snapshot_id: snapshot.meta.snapshot_id };
            return Err(StreamingError::Network(NetworkError::new(&wrong)));
        };
        let begin = RaftSnapshotBegin {
            target: self.target,
            vote: Some(raft_types::vote_to_proto(&vote)),
            last_log_id: snapshot.meta.last_log_id.as_ref().map(raft_types::log_id_to_proto),
            membership: Some(raft_types::stored_membership_to_proto(&snapshot.meta.last_membership)),
            snapshot_id: snapshot.meta.snapshot_id,
        };
        let rows = snapshot::send(*txn, self.store_path.clone(), self.health.clone())
            .map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
        let begin = RaftSnapshotPart { part: Some(Part::Begin(begin)) };
        let parts = tokio_stream::once(begin).chain(ReceiverStream::new(rows));
        let call = self.client()?.install_snapshot(Request::new(parts));
        let answer = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            answer = call => answer,
        };
        let answer = answer.map_err(|status| match self.failed::<Fatal<u64>>(&status) {
            RPCError::Unreachable(unreachable) => StreamingError::Unreachable(unreachable),
            _ => StreamingError::Network(NetworkError::new(&status)),
        })?;
        let vote = answer.into_inner().vote.unwrap_or_default();
        Ok(SnapshotResponse { vote: raft_types::vote_from_proto(vote) })
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_PAUSE))
    }
}

fn entry_to_proto(entry: &Entry) -> RaftEntry {
    let kind = match raft_types::payload_kind(&entry.payload) {
        // A sync mark is no entry.
        Kind::Blank | Kind::SyncMark => RaftEntryKind::Blank,
        Kind::Batch => RaftEntryKind::Batch,
        Kind::Membership => RaftEntryKind::Membership,
    };
    let mut payload = Vec::with_capacity(raft_types::entry_bytes(entry));
    raft_types::encode_payload(&entry.payload, &mut payload);
    RaftEntry { log_id: Some(raft_types::log_id_to_proto(&entry.log_id)), kind: kind.into(), payload }
}
