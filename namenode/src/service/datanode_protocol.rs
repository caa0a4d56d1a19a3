//! `DatanodeProtocol`: what datanodes report, and the commands they take back.

use std::ops::Bound;
use std::sync::Arc;

use dfs_proto::v1::datanode_protocol_server::DatanodeProtocol;
use dfs_proto::v1::*;
use dfs_proto::{BlockId, DATANODE_PROTOCOL_VERSION, ErrorKind, GenerationStamp, RpcError};
use tonic::{Request, Response, Status, Streaming};

use super::administration;
use super::context::Context;
use super::status::rpc_error;
use crate::block_management::ReportedReplica;
use crate::log::{self, command::Op};
use crate::namesystem::{NamesystemError, Snapshot, StoredBlock};

/// Longest rack path accepted, and longest uuid, host name and storage id.
const ID_BYTES_MAX: usize = 255;

/// Most storages accepted of one datanode.
const STORAGES_MAX: usize = 1_024;

/// Block ids a replica, up to which a report counts as dense: a lookup costs about as much as passing
/// over so many rows.
const DENSE_SPAN: u64 = 16;

/// The service.
#[derive(Clone)]
pub struct DatanodeService {
    context: Arc<Context>,
}

impl DatanodeService {
    /// Serves from `context`.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// Takes in one slice of a full report: the replicas are joined with the stored blocks of the same
    /// ids. Returns the last id of the slice.
    fn report_slice(
        &self,
        slice: &BlockReportSlice,
        after: Option<BlockId>,
    ) -> Result<Option<BlockId>, RpcError> {
        let reported =
            ReportedReplica::rows(slice, after).map_err(|e| invalid(&slice.storage_id, &e.to_string()))?;
        let last = reported.last().map(|replica| replica.id);
        let stored = self.stored(&reported).map_err(|e| rpc_error(&e))?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let to = match last {
            Some(last) if !slice.last => Bound::Included(last),
            _ => Bound::Unbounded,
        };
        let now = self.context.soft.now_ms();
        self.context.soft.blocks().full_report_slice(
            now,
            &slice.uuid,
            &slice.storage_id,
            &reported,
            &stored,
            (from, to),
            slice.last,
        );
        Ok(last)
    }
}

impl DatanodeService {
    /// The stored blocks that a slice names. Where the slice is dense, by one pass over the block table
    /// (a merge join reads each page once); where it is sparse, because the datanode holds a small part of
    /// a large cluster, by lookups, so that the work is bounded by the slice and not by the cluster.
    fn stored(&self, reported: &[ReportedReplica]) -> Result<Vec<StoredBlock>, NamesystemError> {
        let (Some(first), Some(last)) = (reported.first(), reported.last()) else { return Ok(Vec::new()) };
        let snapshot = Snapshot::open(&self.context.consensus.store());
        let span = last.id.get() - first.id.get();
        if span / DENSE_SPAN <= reported.len() as u64 {
            return snapshot.blocks_in(first.id..=last.id, usize::MAX);
        }
        let mut stored = Vec::with_capacity(reported.len());
        for replica in reported {
            stored.extend(snapshot.block(replica.id)?);
        }
        Ok(stored)
    }
}

/// What every method returns.
type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, RpcError>) -> Answer<T> {
    result.map(Response::new).map_err(|e| e.to_status())
}

fn invalid(subject: &str, reason: &str) -> RpcError {
    RpcError::new(ErrorKind::InvalidArgument, subject, reason)
}

fn check_version(theirs: u32) -> Result<(), RpcError> {
    if theirs == DATANODE_PROTOCOL_VERSION {
        return Ok(());
    }
    let reason = format!("datanode speaks version {theirs}, namenode {DATANODE_PROTOCOL_VERSION}");
    Err(RpcError::new(ErrorKind::VersionMismatch, "DatanodeProtocol", reason))
}

/// Checks what a datanode says of itself and fills in its address.
fn checked_info(request: &Request<RegisterRequest>) -> Result<DatanodeInfo, RpcError> {
    let message = request.get_ref();
    let mut info = message.info.clone().ok_or_else(|| invalid("datanode info", "missing"))?;
    if info.ip.is_empty() {
        let peer = request.remote_addr().ok_or_else(|| invalid("datanode ip", "unknown"))?;
        info.ip = peer.ip().to_canonical().to_string();
    }
    info.ip.parse::<std::net::IpAddr>().map_err(|_| invalid(&info.ip, "not an IP address"))?;
    if info.rack.is_empty() {
        info.rack = "/default-rack".to_owned();
    }
    if !info.rack.starts_with('/') || info.rack.ends_with('/') || info.rack.contains("//") {
        return Err(invalid(&info.rack, "a rack is a path such as /dc1/rack2"));
    }
    let texts = [&info.uuid, &info.hostname, &info.rack];
    let storages = message.storages.iter().map(|storage| &storage.storage_id);
    if info.uuid.is_empty() || texts.into_iter().chain(storages).any(|text| text.len() > ID_BYTES_MAX) {
        return Err(invalid("datanode info", "empty or overlong identity"));
    }
    if message.storages.len() > STORAGES_MAX {
        return Err(invalid("datanode info", "too many storages"));
    }
    if [info.xfer_port, info.ipc_port].iter().any(|port| !(1..=65_535).contains(port)) {
        return Err(invalid("datanode info", "port out of range"));
    }
    info.set_state(DatanodeState::Live);
    Ok(info)
}

#[tonic::async_trait]
impl DatanodeProtocol for DatanodeService {
    async fn get_namespace_info(&self, request: Request<NamespaceInfoRequest>) -> Answer<NamespaceInfo> {
        answer(check_version(request.get_ref().protocol_version).map(|()| NamespaceInfo {
            protocol_version: DATANODE_PROTOCOL_VERSION,
            cluster_id: self.context.cluster_id.clone(),
            block_pool_id: self.context.block_pool_id.clone(),
            heartbeat_interval_ms: self.context.config.heartbeat_interval_ms,
            block_report_interval_ms: self.context.config.block_report_interval_ms,
        }))
    }

    async fn register(&self, request: Request<RegisterRequest>) -> Answer<RegisterResponse> {
        let result = async {
            check_version(request.get_ref().protocol_version)?;
            let info = checked_info(&request)?;
            let message = request.into_inner();
            if !message.cluster_id.is_empty() && message.cluster_id != self.context.cluster_id {
                let reason = format!(
                    "datanode {} belongs to {}, namenode to {}",
                    info.uuid, message.cluster_id, self.context.cluster_id
                );
                return Err(RpcError::new(ErrorKind::WrongCluster, "register", reason));
            }
            let storage_ids: Vec<String> = message.storages.iter().map(|s| s.storage_id.clone()).collect();
            let known = self.context.snapshot()?.datanodes().map_err(|e| rpc_error(&e))?;
            let recorded = |known: &log::DatanodeRecord| {
                known.info.as_ref() == Some(&info) && known.storage_ids == storage_ids
            };
            if !known.iter().any(recorded) {
                let op = log::RegisterDatanodeOp { info: Some(info.clone()), storage_ids };
                self.context.own_change(Op::RegisterDatanode(op)).await?;
            }
            let now = self.context.soft.now_ms();
            self.context.soft.blocks().register(
                now,
                info.clone(),
                &message.storages,
                &message.software_version,
            );
            tracing::info!(
                datanode = info.uuid,
                ip = info.ip,
                xfer_port = info.xfer_port,
                rack = info.rack,
                "datanode registered"
            );
            Ok(RegisterResponse { info: Some(info) })
        };
        answer(result.await)
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Answer<HeartbeatResponse> {
        let now = self.context.soft.now_ms();
        let mut blocks = self.context.soft.blocks();
        let commands = blocks.heartbeat(now, request.get_ref());
        let next_heartbeat_ms = blocks.next_heartbeat_ms();
        let repair_bandwidth = blocks.repair_bandwidth();
        let balance_bandwidth = blocks.balance_bandwidth();
        answer(Ok(HeartbeatResponse { commands, next_heartbeat_ms, repair_bandwidth, balance_bandwidth }))
    }

    async fn block_report(
        &self,
        request: Request<Streaming<BlockReportSlice>>,
    ) -> Answer<BlockReportResponse> {
        let mut slices = request.into_inner();
        let (mut after, mut of) = (None, None);
        while let Some(slice) = slices.message().await? {
            let report = (slice.report_id, slice.uuid.clone(), slice.storage_id.clone());
            match &of {
                None => {
                    let now = self.context.soft.now_ms();
                    self.context.soft.blocks().begin_full_report(now, &slice.storage_id);
                    of = Some(report);
                }
                Some(first) if *first == report => {}
                Some(_) => return answer(Err(invalid("block report", "slices of different reports"))),
            }
            let last_slice = slice.last;
            // A slice takes milliseconds, in which this thread has other connections to serve.
            let service = self.clone();
            let taken = tokio::task::spawn_blocking(move || service.report_slice(&slice, after)).await;
            let failed =
                |e: tokio::task::JoinError| RpcError::new(ErrorKind::Internal, "block report", e.to_string());
            match taken.map_err(failed).flatten() {
                Ok(last) => after = last.or(after),
                Err(e) => return answer(Err(e)),
            }
            if last_slice {
                return answer(Ok(BlockReportResponse {}));
            }
        }
        answer(Err(invalid("block report", "the last slice is missing")))
    }

    async fn block_received_and_deleted(
        &self,
        request: Request<BlockReceivedAndDeletedRequest>,
    ) -> Answer<Empty> {
        let request = request.into_inner();
        let result = async {
            let mut snapshot = None;
            let mut changes = Vec::with_capacity(request.changes.len());
            for change in request.changes {
                let Some(block) = &change.block else {
                    return Err(invalid("replica change", "no block"));
                };
                let known = self.context.soft.blocks().knows(block.block_id());
                let stored = if known {
                    None
                } else {
                    let snapshot = match &snapshot {
                        Some(snapshot) => snapshot,
                        None => snapshot.insert(self.context.snapshot()?),
                    };
                    snapshot.block(block.block_id()).map_err(|e| rpc_error(&e))?
                };
                changes.push((change, stored));
            }
            let now = self.context.soft.now_ms();
            let mut blocks = self.context.soft.blocks();
            for (change, stored) in &changes {
                blocks.incremental(now, &request.uuid, change, stored.as_ref());
            }
            Ok(Empty {})
        };
        answer(result.await)
    }

    async fn report_bad_replicas(&self, request: Request<ReportBadReplicasRequest>) -> Answer<Empty> {
        let request = request.into_inner();
        let result = async {
            let snapshot = self.context.snapshot()?;
            for replica in &request.replicas {
                let Some(block) = &replica.block else { continue };
                let stored = snapshot.block(block.block_id()).map_err(|e| rpc_error(&e))?;
                let now = self.context.soft.now_ms();
                tracing::warn!(%block, datanode = request.uuid, storage = replica.storage_id,
                    reason = replica.reason, "corrupt replica");
                self.context.soft.blocks().report_bad(now, block, &replica.storage_id, stored.as_ref());
            }
            let now = self.context.soft.now_ms();
            for replica in &request.verified {
                let Some(block) = &replica.block else { continue };
                self.context.soft.blocks().report_verified(now, block, &replica.storage_id);
            }
            Ok(Empty {})
        };
        answer(result.await)
    }

    async fn commit_block_synchronization(
        &self,
        request: Request<CommitBlockSynchronizationRequest>,
    ) -> Answer<Empty> {
        let CommitBlockSynchronizationRequest {
            block,
            new_generation_stamp,
            new_length,
            delete_block,
            storage_ids,
            failed,
        } = request.into_inner();
        if let Some(block) = block.filter(|_| failed) {
            let (now, stamp) = (self.context.soft.now_ms(), GenerationStamp(new_generation_stamp));
            self.context.soft.blocks().recovery_failed(now, block.block_id(), stamp);
            return answer(Ok(Empty {}));
        }
        let op = log::CommitBlockSynchronizationOp {
            block,
            new_generation_stamp,
            new_length,
            delete_block,
            storage_ids,
        };
        answer(self.context.own_change(Op::CommitBlockSynchronization(op)).await.map(|_| Empty {}))
    }

    async fn check_superuser(&self, request: Request<CheckSuperuserRequest>) -> Answer<Empty> {
        let CheckSuperuserRequest { context, subject } = request.into_inner();
        let checked = administration::superuser(&self.context, context.as_ref(), &subject).await;
        answer(checked.map(|user| {
            tracing::info!(user, subject, "order given to a datanode");
            Empty {}
        }))
    }
}
