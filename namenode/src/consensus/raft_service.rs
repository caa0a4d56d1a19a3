//! Raft's calls from other namenodes: the gRPC service `RaftProtocol`.

use std::path::PathBuf;
use std::sync::Arc;

use dfs_proto::{ErrorKind, RpcError};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use openraft::{Raft, Snapshot};
use tokio::sync::{Mutex, mpsc};
use tonic::{Request, Response, Status, Streaming};

use super::health::Health;
use super::raft_types::{self, Entry, SnapshotMeta, TypeConfig, Vote};
use super::record::Kind;
use super::snapshot::{self, PARTS_MAX, ReceiveError, SnapshotSource};
use crate::log::raft_append_response::Result as Appended;
use crate::log::raft_protocol_server::RaftProtocol;
use crate::log::raft_snapshot_part::Part;
use crate::log::{
    RaftAppendRequest, RaftAppendResponse, RaftConflict, RaftEntry, RaftEntryKind, RaftSnapshotBegin,
    RaftSnapshotPart, RaftSnapshotResponse, RaftStored, RaftVote, RaftVoteRequest, RaftVoteResponse,
};

/// Serves other namenodes.
#[derive(Clone)]
pub struct RaftService {
    node_id: u64,
    /// Absent on a node that is alone: nobody has a reason to call it.
    raft: Option<Raft<TypeConfig>>,
    /// Where a snapshot is received; the lock admits one at a time.
    received: Arc<Mutex<PathBuf>>,
    health: Health,
}

impl RaftService {
    pub(super) fn new(
        node_id: u64,
        raft: Option<Raft<TypeConfig>>,
        received: PathBuf,
        health: Health,
    ) -> Self {
        Self { node_id, raft, received: Arc::new(Mutex::new(received)), health }
    }

    fn raft(&self) -> Result<&Raft<TypeConfig>, Status> {
        self.raft.as_ref().ok_or_else(|| Status::unavailable("this namenode is the only one"))
    }

    /// Refuses calls that were meant for another node, such as one that had this address before.
    fn check_target(&self, target: u64) -> Result<(), Status> {
        if target == self.node_id {
            return Ok(());
        }
        let subject = format!("node {target}");
        Err(RpcError::new(ErrorKind::WrongCluster, subject, format!("this is node {}", self.node_id))
            .to_status())
    }

    async fn vote_now(&self) -> Result<Vote, Status> {
        self.raft()?.with_raft_state(|state| *state.vote_ref()).await.map_err(|error| unavailable(&error))
    }

    /// Receives the parts after the first one and has Raft install what they are.
    async fn install(
        &self,
        begin: RaftSnapshotBegin,
        mut parts: Streaming<RaftSnapshotPart>,
    ) -> Result<RaftSnapshotResponse, Status> {
        self.check_target(begin.target)?;
        let vote = vote(begin.vote)?;
        if vote < self.vote_now().await? {
            return Ok(snapshot_response(&self.vote_now().await?));
        }
        let meta = SnapshotMeta {
            last_log_id: begin.last_log_id.map(raft_types::log_id_from_proto),
            last_membership: raft_types::stored_membership_from_proto(begin.membership.unwrap_or_default()),
            snapshot_id: begin.snapshot_id,
        };
        let Ok(path) = self.received.try_lock() else {
            return Err(Status::unavailable("another snapshot is being received"));
        };
        let (sender, receiver) = mpsc::channel(PARTS_MAX);
        let done =
            snapshot::receive(path.clone(), receiver, &self.health).map_err(|error| unavailable(&error))?;
        while let Some(part) = parts.message().await? {
            if sender.send(part).await.is_err() {
                break;
            }
        }
        drop(sender);
        let position = done.await.map_err(|error| unavailable(&error))?.map_err(|error| match error {
            ReceiveError::Malformed => Status::invalid_argument(error.to_string()),
            ReceiveError::Store(error) => {
                let error = self.health.fail(error);
                unavailable(&*error)
            }
        })?;
        if position.last != meta.last_log_id {
            return Err(Status::invalid_argument("the snapshot is not what its sender announced"));
        }
        let snapshot = Snapshot { meta, snapshot: Box::new(SnapshotSource::Received(path.clone())) };
        let answer =
            self.raft()?.install_full_snapshot(vote, snapshot).await.map_err(|error| unavailable(&error))?;
        Ok(snapshot_response(&answer.vote))
    }
}

/// This node cannot answer now.
fn unavailable(error: &dyn std::error::Error) -> Status {
    RpcError::new(ErrorKind::Unavailable, "", error.to_string()).to_status()
}

fn missing(field: &str) -> Status {
    RpcError::new(ErrorKind::InvalidArgument, field, "missing or undecodable").to_status()
}

fn vote(vote: Option<RaftVote>) -> Result<Vote, Status> {
    Ok(raft_types::vote_from_proto(vote.ok_or_else(|| missing("vote"))?))
}

fn snapshot_response(vote: &Vote) -> RaftSnapshotResponse {
    RaftSnapshotResponse { vote: Some(raft_types::vote_to_proto(vote)) }
}

fn entry_from_proto(entry: RaftEntry) -> Result<Entry, Status> {
    let kind = match entry.kind() {
        RaftEntryKind::Blank => Kind::Blank,
        RaftEntryKind::Batch => Kind::Batch,
        RaftEntryKind::Membership => Kind::Membership,
    };
    let payload = raft_types::decode_payload(kind, &entry.payload).map_err(|_| missing("payload"))?;
    let log_id = raft_types::log_id_from_proto(entry.log_id.ok_or_else(|| missing("log_id"))?);
    Ok(Entry { log_id, payload })
}

#[tonic::async_trait]
impl RaftProtocol for RaftService {
    async fn append_entries(
        &self,
        request: Request<RaftAppendRequest>,
    ) -> Result<Response<RaftAppendResponse>, Status> {
        let request = request.into_inner();
        self.check_target(request.target)?;
        let rpc = AppendEntriesRequest::<TypeConfig> {
            vote: vote(request.vote)?,
            prev_log_id: request.prev.map(raft_types::log_id_from_proto),
            entries: request.entries.into_iter().map(entry_from_proto).collect::<Result<_, _>>()?,
            leader_commit: request.committed.map(raft_types::log_id_from_proto),
        };
        let consecutive = rpc.entries.windows(2).all(|two| two[0].log_id.index + 1 == two[1].log_id.index);
        let first = rpc.prev_log_id.map_or(0, |id| id.index + 1);
        if !consecutive || rpc.entries.first().is_some_and(|entry| entry.log_id.index != first) {
            return Err(missing("entries"));
        }
        let last = rpc.entries.last().map_or(rpc.prev_log_id, |entry| Some(entry.log_id));
        let answer = self.raft()?.append_entries(rpc).await.map_err(|error| unavailable(&error))?;
        let result = match answer {
            AppendEntriesResponse::Success => Appended::Stored(RaftStored {}),
            AppendEntriesResponse::PartialSuccess(stored) if stored == last => {
                Appended::Stored(RaftStored {})
            }
            // The server side stores all or nothing.
            AppendEntriesResponse::PartialSuccess(_) => return Err(missing("entries")),
            AppendEntriesResponse::Conflict => Appended::Conflict(RaftConflict {}),
            AppendEntriesResponse::HigherVote(vote) => Appended::HigherVote(raft_types::vote_to_proto(&vote)),
        };
        Ok(Response::new(RaftAppendResponse { result: Some(result) }))
    }

    async fn vote(&self, request: Request<RaftVoteRequest>) -> Result<Response<RaftVoteResponse>, Status> {
        let request = request.into_inner();
        self.check_target(request.target)?;
        let last_log_id = request.last_log_id.map(raft_types::log_id_from_proto);
        let rpc = VoteRequest::new(vote(request.vote)?, last_log_id);
        let answer = self.raft()?.vote(rpc).await.map_err(|error| unavailable(&error))?;
        Ok(Response::new(RaftVoteResponse {
            vote: Some(raft_types::vote_to_proto(&answer.vote)),
            granted: answer.vote_granted,
            last_log_id: answer.last_log_id.as_ref().map(raft_types::log_id_to_proto),
        }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<RaftSnapshotPart>>,
    ) -> Result<Response<RaftSnapshotResponse>, Status> {
        let mut parts = request.into_inner();
        match parts.message().await?.and_then(|part| part.part) {
            Some(Part::Begin(begin)) => Ok(Response::new(self.install(begin, parts).await?)),
            Some(Part::Rows(_) | Part::End(_)) | None => Err(missing("begin")),
        }
    }
}
