//! `ClientProtocol`: one method a call, in the order of `client.proto`. Placement and leases are in
//! `write_path`, answers with locations in `read_path`.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dfs_proto::v1::client_protocol_server::ClientProtocol;
use dfs_proto::v1::*;
use dfs_proto::{CLIENT_PROTOCOL_VERSION, ErrorKind, RpcError};
use tonic::{Request, Response, Status};

use super::context::Context;
use super::status::{rpc_error, wrong_reply};
use super::touched::Touched;
use super::{administration, read_path, write_path};
use crate::config::MAX_REPLICATION;
use crate::log::reply::Reply;
use crate::log::{self, command::Op};

/// The service.
pub struct ClientService {
    context: Arc<Context>,
}

impl ClientService {
    /// Serves from `context`.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// A change whose reply says nothing.
    async fn change_empty(&self, context: Option<CallContext>, op: Op) -> Answer<Empty> {
        answer(self.context.change(context, op).await.map(|_| Empty {}))
    }

    /// A change whose reply is the node's status.
    async fn change_status(&self, context: Option<CallContext>, op: Op) -> Answer<FileStatus> {
        answer(self.context.change_status(context, op).await)
    }
}

/// What every method returns.
type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, RpcError>) -> Answer<T> {
    result.map(Response::new).map_err(|e| e.to_status())
}

/// Caller's address, for sorting by distance.
pub(super) fn peer_ip<T>(request: &Request<T>) -> Option<IpAddr> {
    request.remote_addr().map(|addr| addr.ip().to_canonical())
}

/// A node that a request must name.
fn named(node: Option<NodeRef>) -> Result<NodeRef, RpcError> {
    node.ok_or_else(|| RpcError::new(ErrorKind::InvalidArgument, "node", "missing"))
}

#[tonic::async_trait]
impl ClientProtocol for ClientService {
    async fn get_server_defaults(
        &self,
        request: Request<GetServerDefaultsRequest>,
    ) -> Answer<ServerDefaults> {
        let theirs = request.into_inner().protocol_version;
        if theirs != CLIENT_PROTOCOL_VERSION {
            let reason = format!("client speaks version {theirs}, namenode {CLIENT_PROTOCOL_VERSION}");
            return answer(Err(RpcError::new(ErrorKind::VersionMismatch, "ClientProtocol", reason)));
        }
        answer(Ok(ServerDefaults {
            protocol_version: CLIENT_PROTOCOL_VERSION,
            cluster_id: self.context.cluster_id.clone(),
            block_pool_id: self.context.block_pool_id.clone(),
            block_size: self.context.config.default_block_size,
            replication: u32::from(self.context.config.default_replication),
            bytes_per_checksum: dfs_proto::checksum::DEFAULT_BYTES_PER_CHECKSUM,
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn mkdir(&self, request: Request<MkdirRequest>) -> Answer<FileStatus> {
        let MkdirRequest { context, node, mode, create_parents } = request.into_inner();
        self.change_status(context, Op::Mkdir(log::MkdirOp { node, mode, create_parents })).await
    }

    async fn create(&self, request: Request<CreateRequest>) -> Answer<CreateResponse> {
        let writer = peer_ip(&request);
        answer(write_path::create(&self.context, request.into_inner(), writer).await)
    }

    async fn append(&self, request: Request<AppendRequest>) -> Answer<AppendResponse> {
        answer(write_path::append(&self.context, request.into_inner()).await)
    }

    async fn add_block(&self, request: Request<AddBlockRequest>) -> Answer<LocatedBlock> {
        let writer = peer_ip(&request);
        answer(write_path::add_block(&self.context, request.into_inner(), writer).await)
    }

    async fn abandon_block(&self, request: Request<AbandonBlockRequest>) -> Answer<Empty> {
        let AbandonBlockRequest { context, inode, holder, block } = request.into_inner();
        self.change_empty(context, Op::AbandonBlock(log::AbandonBlockOp { inode, holder, block })).await
    }

    async fn complete(&self, request: Request<CompleteRequest>) -> Answer<FileStatus> {
        let CompleteRequest { context, inode, holder, last } = request.into_inner();
        self.change_status(context, Op::Complete(log::CompleteOp { inode, holder, last })).await
    }

    async fn fsync(&self, request: Request<FsyncRequest>) -> Answer<Empty> {
        let FsyncRequest { context, inode, holder, block } = request.into_inner();
        self.change_empty(context, Op::Fsync(log::FsyncOp { inode, holder, block })).await
    }

    async fn update_block_for_pipeline(
        &self,
        request: Request<UpdateBlockForPipelineRequest>,
    ) -> Answer<UpdateBlockForPipelineResponse> {
        let UpdateBlockForPipelineRequest { context, inode, holder, block } = request.into_inner();
        let op = Op::UpdateBlockForPipeline(log::UpdateBlockForPipelineOp { inode, holder, block });
        answer(match self.context.change(context, op).await {
            Ok(log::Reply { reply: Some(Reply::NewGenerationStamp(new_generation_stamp)) }) => {
                Ok(UpdateBlockForPipelineResponse { new_generation_stamp })
            }
            Ok(_) => Err(wrong_reply("update block for pipeline")),
            Err(e) => Err(e),
        })
    }

    async fn update_pipeline(&self, request: Request<UpdatePipelineRequest>) -> Answer<Empty> {
        let UpdatePipelineRequest { context, inode, holder, old_block, new_block, storage_ids } =
            request.into_inner();
        let op = log::UpdatePipelineOp { inode, holder, old_block, new_block, storage_ids };
        self.change_empty(context, Op::UpdatePipeline(op)).await
    }

    async fn get_additional_datanodes(
        &self,
        request: Request<GetAdditionalDatanodesRequest>,
    ) -> Answer<GetAdditionalDatanodesResponse> {
        let writer = peer_ip(&request);
        answer(write_path::additional_datanodes(&self.context, &request.into_inner(), writer))
    }

    async fn truncate(&self, request: Request<TruncateRequest>) -> Answer<TruncateResponse> {
        answer(write_path::truncate(&self.context, request.into_inner()).await)
    }

    async fn renew_lease(&self, request: Request<RenewLeaseRequest>) -> Answer<Empty> {
        let soft = &self.context.soft;
        soft.leases().renew(soft.now_ms(), &request.into_inner().holder);
        answer(Ok(Empty {}))
    }

    async fn recover_lease(&self, request: Request<RecoverLeaseRequest>) -> Answer<RecoverLeaseResponse> {
        answer(write_path::recover_lease(&self.context, request.into_inner()).await)
    }

    async fn open(&self, request: Request<OpenRequest>) -> Answer<LocatedBlocks> {
        let reader = peer_ip(&request);
        let mut request = request.into_inner();
        let result = async {
            let caller = self.context.caller(request.context.as_ref()).await?;
            let node = named(request.node.take())?;
            self.context.settle(request.context.as_ref(), || Touched::name(node.clone())).await?;
            read_path::open(&self.context, &caller, &request, &node, reader)
        };
        let located = result.await.map_err(|e| e.to_status())?;
        if let Some(status) = &located.status {
            read_path::note_access(&self.context, status);
        }
        answer(Ok(located))
    }

    async fn stat(&self, request: Request<StatRequest>) -> Answer<FileStatus> {
        let request = request.into_inner();
        let result = async {
            let caller = self.context.caller(request.context.as_ref()).await?;
            let node = named(request.node)?;
            self.context.settle(request.context.as_ref(), || Touched::name(node.clone())).await?;
            self.context.snapshot()?.stat(&caller, &node).map_err(|e| rpc_error(&e))
        };
        answer(result.await)
    }

    async fn list(&self, request: Request<ListRequest>) -> Answer<ListResponse> {
        let reader = peer_ip(&request);
        let mut request = request.into_inner();
        let result = async {
            let caller = self.context.caller(request.context.as_ref()).await?;
            let node = named(request.node.take())?;
            read_path::list_settled(&self.context, caller, request, node, reader).await
        };
        answer(result.await)
    }

    async fn rename(&self, request: Request<RenameRequest>) -> Answer<Empty> {
        let RenameRequest { context, src, dst, overwrite } = request.into_inner();
        let response = self.change_empty(context, Op::Rename(log::RenameOp { src, dst, overwrite })).await?;
        if overwrite {
            self.context.soft.reclaim.notify_one();
        }
        Ok(response)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Answer<DeleteResponse> {
        let DeleteRequest { context, node, recursive } = request.into_inner();
        let result = async {
            let caller = self.context.caller(context.as_ref()).await?;
            let node = named(node)?;
            if !caller.superuser && recursive {
                self.context.settle(context.as_ref(), || Touched::tree(node.clone())).await?;
                let node = node.clone();
                self.context.scan(move |snapshot| snapshot.check_delete(&caller, &node, recursive)).await?;
            }
            self.context.change(context, Op::Delete(log::DeleteOp { node: Some(node), recursive })).await
        };
        answer(match result.await {
            Ok(log::Reply { reply: Some(Reply::Deleted(deleted)) }) => {
                self.context.soft.reclaim.notify_one();
                Ok(DeleteResponse { deleted })
            }
            Ok(_) => Err(wrong_reply("delete")),
            Err(e) => Err(e),
        })
    }

    async fn move_to_trash(&self, request: Request<MoveToTrashRequest>) -> Answer<MoveToTrashResponse> {
        let MoveToTrashRequest { context, node, recursive } = request.into_inner();
        if self.context.config.trash_keep_ms == 0 {
            let outcome = TrashOutcome::Off.into();
            return answer(Ok(MoveToTrashResponse { outcome, ..MoveToTrashResponse::default() }));
        }
        let op = Op::MoveToTrash(log::MoveToTrashOp { node, recursive });
        answer(match self.context.change(context, op).await {
            Ok(log::Reply { reply: Some(Reply::Trashed(trashed)) }) => {
                let inside = trashed.path.is_empty();
                let outcome = if inside { TrashOutcome::Inside } else { TrashOutcome::Moved };
                Ok(MoveToTrashResponse { outcome: outcome.into(), trash_path: trashed.path })
            }
            Ok(_) => Err(wrong_reply("move to trash")),
            Err(e) => Err(e),
        })
    }

    async fn expunge(&self, request: Request<ExpungeRequest>) -> Answer<ExpungeResponse> {
        let ExpungeRequest { context, immediate } = request.into_inner();
        let user = context.as_ref().map(|c| c.user.clone().into_bytes()).unwrap_or_default();
        let op = log::EmptyTrashOp {
            users: vec![user.into()],
            checkpoint: true,
            keep_ms: if immediate { 0 } else { self.context.config.trash_keep_ms },
            ..log::EmptyTrashOp::default()
        };
        answer(match self.context.change(context, Op::EmptyTrash(op)).await {
            Ok(log::Reply { reply: Some(Reply::TrashEmptied(emptied)) }) => {
                self.context.soft.reclaim.notify_one();
                let made = emptied.made.into_iter().next().unwrap_or_default();
                Ok(ExpungeResponse { made, deleted: emptied.deleted, more: emptied.more })
            }
            Ok(_) => Err(wrong_reply("expunge")),
            Err(e) => Err(e),
        })
    }

    async fn set_permission(&self, request: Request<SetPermissionRequest>) -> Answer<Empty> {
        let SetPermissionRequest { context, node, mode } = request.into_inner();
        self.change_empty(context, Op::SetPermission(log::SetPermissionOp { node, mode })).await
    }

    async fn set_owner(&self, request: Request<SetOwnerRequest>) -> Answer<Empty> {
        let SetOwnerRequest { context, node, owner, group } = request.into_inner();
        self.change_empty(context, Op::SetOwner(log::SetOwnerOp { node, owner, group })).await
    }

    async fn set_times(&self, request: Request<SetTimesRequest>) -> Answer<Empty> {
        let SetTimesRequest { context, node, atime_ns, mtime_ns } = request.into_inner();
        self.change_empty(context, Op::SetTimes(log::SetTimesOp { node, atime_ns, mtime_ns })).await
    }

    async fn set_replication(&self, request: Request<SetReplicationRequest>) -> Answer<Empty> {
        let SetReplicationRequest { context, node, replication } = request.into_inner();
        if !(1..=u32::from(MAX_REPLICATION)).contains(&replication) {
            let error = RpcError::new(ErrorKind::InvalidArgument, "replication", "must be 1 to 512");
            return answer(Err(error));
        }
        self.change_empty(context, Op::SetReplication(log::SetReplicationOp { node, replication })).await
    }

    async fn get_content_summary(&self, request: Request<ContentSummaryRequest>) -> Answer<ContentSummary> {
        let request = request.into_inner();
        let result = async {
            let caller = self.context.caller(request.context.as_ref()).await?;
            let node = named(request.node)?;
            self.context.settle(request.context.as_ref(), || Touched::tree(node.clone())).await?;
            self.context.scan(move |snapshot| snapshot.content_summary(&caller, &node)).await
        };
        answer(result.await)
    }

    async fn report_bad_blocks(&self, request: Request<ReportBadBlocksRequest>) -> Answer<Empty> {
        let request = request.into_inner();
        let result = async {
            self.context.caller(request.context.as_ref()).await?;
            let snapshot = self.context.snapshot()?;
            for located in &request.blocks {
                let Some(block) = &located.block else { continue };
                let stored = snapshot.block(block.block_id()).map_err(|e| rpc_error(&e))?;
                let now = self.context.soft.now_ms();
                for replica in &located.locations {
                    self.context.soft.blocks().report_bad(now, block, &replica.storage_id, stored.as_ref());
                }
            }
            Ok(Empty {})
        };
        answer(result.await)
    }

    async fn get_stats(&self, request: Request<GetStatsRequest>) -> Answer<ClusterStats> {
        let result = async {
            self.context.caller(request.get_ref().context.as_ref()).await?;
            let (inodes, blocks) = self.context.snapshot()?.counts().map_err(|e| rpc_error(&e))?;
            let stats = self.context.soft.blocks().stats(self.context.soft.now_ms());
            let safe_mode = self.context.safe_mode.load(Ordering::Relaxed);
            let disk_full = self.context.disk_full.load(Ordering::Relaxed);
            let kept = self.context.soft.blocks().kept_blocks();
            let (restored, kept_blocks) = (kept.is_some(), kept.unwrap_or(0));
            Ok(ClusterStats { inodes, blocks, safe_mode, disk_full, restored, kept_blocks, ..stats })
        };
        answer(result.await)
    }

    async fn get_datanode_report(
        &self,
        request: Request<DatanodeReportRequest>,
    ) -> Answer<DatanodeReportResponse> {
        let result = async {
            self.context.caller(request.get_ref().context.as_ref()).await?;
            let datanodes = self.context.soft.blocks().datanode_report(self.context.soft.now_ms());
            Ok(DatanodeReportResponse { datanodes })
        };
        answer(result.await)
    }

    async fn restored(&self, request: Request<RestoredRequest>) -> Answer<RestoredResponse> {
        answer(super::restored::restored(&self.context, request.into_inner()).await)
    }

    async fn balance(&self, request: Request<BalanceRequest>) -> Answer<BalanceStatus> {
        answer(super::balance::balance(&self.context, request.into_inner()).await)
    }

    async fn safe_mode(&self, request: Request<SafeModeRequest>) -> Answer<SafeModeResponse> {
        let request = request.into_inner();
        let set = match request.action() {
            SafeModeAction::Get => None,
            SafeModeAction::Enter => Some(true),
            SafeModeAction::Leave => Some(false),
        };
        let result = async {
            if let Some(on) = set {
                let caller = self.context.caller(request.context.as_ref()).await?;
                if !caller.superuser {
                    return Err(RpcError::new(ErrorKind::NotPermitted, "safe mode", "superuser only"));
                }
                self.context.safe_mode.store(on, Ordering::Relaxed);
                tracing::info!(on, user = caller.user, "safe mode set");
            }
            Ok(SafeModeResponse {
                safe_mode: self.context.safe_mode.load(Ordering::Relaxed),
                disk_full: self.context.disk_full.load(Ordering::Relaxed),
            })
        };
        answer(result.await)
    }

    async fn set_datanode_admin(&self, request: Request<SetDatanodeAdminRequest>) -> Answer<DatanodeReport> {
        answer(administration::set_datanode_admin(&self.context, request.into_inner()).await)
    }

    async fn remove_datanode(&self, request: Request<RemoveDatanodeRequest>) -> Answer<Empty> {
        answer(administration::remove_datanode(&self.context, request.into_inner()).await)
    }

    async fn repair_bandwidth(
        &self,
        request: Request<RepairBandwidthRequest>,
    ) -> Answer<RepairBandwidthResponse> {
        answer(administration::repair_bandwidth(&self.context, request.into_inner()).await)
    }

    async fn describe_block(&self, request: Request<DescribeBlockRequest>) -> Answer<BlockDescription> {
        let request = request.into_inner();
        answer(read_path::describe_block(&self.context, &request).await)
    }
}
