//! A namenode with files and no directories.

use std::sync::{Arc, Mutex, MutexGuard};

use dfs_proto::v1::client_protocol_server::{ClientProtocol, ClientProtocolServer};
use dfs_proto::v1::{self, Empty};
use dfs_proto::{CLIENT_PROTOCOL_VERSION, ErrorKind, RpcError};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use super::{BLOCK_SIZE, Fault, File, POOL, State};

struct Namenode {
    state: Arc<Mutex<State>>,
}

pub async fn serve(state: Arc<Mutex<State>>, listener: TcpListener) {
    super::framed::serve(ClientProtocolServer::new(Namenode { state }), listener).await;
}

fn refuse(kind: ErrorKind, subject: &str) -> Status {
    RpcError::new(kind, subject, "").to_status()
}

fn path_of(node: Option<v1::NodeRef>) -> String {
    let node = node.unwrap_or_default();
    format!("/{}", String::from_utf8_lossy(&node.path))
}

fn status(file: &File) -> v1::FileStatus {
    v1::FileStatus {
        inode: file.inode,
        r#type: v1::FileType::File.into(),
        size: file.blocks.iter().map(|(block, _)| block.length).sum(),
        block_size: BLOCK_SIZE,
        replication: file.replication as u32,
        under_construction: file.open,
        ..Default::default()
    }
}

fn located(state: &State, file: &File, index: usize) -> v1::LocatedBlock {
    let (block, members) = &file.blocks[index];
    v1::LocatedBlock {
        block: Some(*block),
        offset: index as u64 * BLOCK_SIZE,
        locations: members.iter().map(|m| state.datanodes[*m].location.clone()).collect(),
        under_construction: file.open && index + 1 == file.blocks.len(),
        ..Default::default()
    }
}

impl Namenode {
    fn called(&self, name: &'static str) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().expect("lock");
        state.calls.push(name);
        state
    }
}

fn by_inode(state: &mut State, inode: u64) -> Result<&mut File, Status> {
    let found = state.files.values_mut().find(|file| file.inode == inode && file.open);
    found.ok_or_else(|| refuse(ErrorKind::LeaseExpired, "inode"))
}

fn path_by_inode(state: &State, inode: u64) -> String {
    let found = state.files.iter().find(|(_, file)| file.inode == inode);
    found.map(|(path, _)| path.clone()).unwrap_or_default()
}

fn allocate(state: &mut State, path: &str, exclude: &[String]) -> Result<v1::LocatedBlock, Status> {
    state.allocations += 1;
    let (id, stamp) = (state.next_id(), state.next_id());
    let wanted = state.files[path].replication;
    let members: Vec<usize> =
        (0..state.datanodes.len()).filter(|m| !exclude.contains(&format!("dn-{m}"))).take(wanted).collect();
    if members.is_empty() {
        return Err(refuse(ErrorKind::NoUsableDatanode, path));
    }
    let file = state.files.get_mut(path).expect("exists");
    file.blocks.push((v1::Block { id, generation_stamp: stamp, length: 0 }, members));
    let file = state.files[path].clone();
    Ok(located(state, &file, file.blocks.len() - 1))
}

fn commit(state: &mut State, inode: u64, committed: Option<v1::CommittedBlock>) -> Result<(), Status> {
    let indexes: Vec<usize> = committed
        .iter()
        .flat_map(|c| &c.storage_ids)
        .filter_map(|id| id.strip_prefix("DS-").and_then(|n| n.parse().ok()))
        .collect();
    let file = by_inode(state, inode)?;
    let Some(committed) = committed else { return Ok(()) };
    let block = committed.block.unwrap_or_default();
    match file.blocks.last_mut() {
        Some((last, members)) if last.id == block.id => {
            (*last, *members) = (block, indexes);
            Ok(())
        }
        _ => Err(refuse(ErrorKind::InvalidArgument, "not the last block")),
    }
}

#[tonic::async_trait]
impl ClientProtocol for Namenode {
    async fn get_server_defaults(
        &self,
        _: Request<v1::GetServerDefaultsRequest>,
    ) -> Result<Response<v1::ServerDefaults>, Status> {
        Ok(Response::new(v1::ServerDefaults {
            protocol_version: CLIENT_PROTOCOL_VERSION,
            cluster_id: "CID-test".into(),
            block_pool_id: POOL.into(),
            block_size: BLOCK_SIZE,
            replication: 3,
            bytes_per_checksum: 4096,
            software_version: "test".into(),
        }))
    }

    async fn create(
        &self,
        request: Request<v1::CreateRequest>,
    ) -> Result<Response<v1::CreateResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.called("create");
        let path = path_of(request.node);
        if state.files.contains_key(&path) && !request.overwrite {
            return Err(refuse(ErrorKind::AlreadyExists, &path));
        }
        let inode = state.next_id();
        let replication = if request.replication == 0 { 3 } else { request.replication as usize };
        state.files.insert(path.clone(), File { inode, open: true, replication, blocks: Vec::new() });
        let block = if request.allocate_block { allocate(&mut state, &path, &[]).ok() } else { None };
        Ok(Response::new(v1::CreateResponse { status: Some(status(&state.files[&path])), block }))
    }

    async fn append(
        &self,
        request: Request<v1::AppendRequest>,
    ) -> Result<Response<v1::AppendResponse>, Status> {
        let mut state = self.called("append");
        let path = path_of(request.into_inner().node);
        let new_generation_stamp = state.next_id();
        let Some(file) = state.files.get_mut(&path) else {
            return Err(refuse(ErrorKind::NotFound, &path));
        };
        file.open = true;
        let file = file.clone();
        let partial = file.blocks.last().is_some_and(|(block, _)| block.length < BLOCK_SIZE);
        let last_block = partial.then(|| located(&state, &file, file.blocks.len() - 1));
        Ok(Response::new(v1::AppendResponse {
            status: Some(status(&file)),
            last_block,
            new_generation_stamp,
        }))
    }

    async fn add_block(
        &self,
        request: Request<v1::AddBlockRequest>,
    ) -> Result<Response<v1::LocatedBlock>, Status> {
        let request = request.into_inner();
        let mut state = self.called("add_block");
        commit(&mut state, request.inode, request.previous)?;
        let path = path_by_inode(&state, request.inode);
        allocate(&mut state, &path, &request.exclude).map(Response::new)
    }

    async fn abandon_block(
        &self,
        request: Request<v1::AbandonBlockRequest>,
    ) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let mut state = self.called("abandon_block");
        let file = by_inode(&mut state, request.inode)?;
        let id = request.block.unwrap_or_default().id;
        file.blocks.retain(|(block, _)| block.id != id);
        Ok(Response::new(Empty {}))
    }

    async fn complete(
        &self,
        request: Request<v1::CompleteRequest>,
    ) -> Result<Response<v1::FileStatus>, Status> {
        let request = request.into_inner();
        let mut state = self.called("complete");
        let nothing_written = request.last.is_none();
        commit(&mut state, request.inode, request.last)?;
        let file = by_inode(&mut state, request.inode)?;
        if nothing_written {
            file.blocks.retain(|(block, _)| block.length > 0);
        }
        file.open = false;
        Ok(Response::new(status(file)))
    }

    async fn fsync(&self, _: Request<v1::FsyncRequest>) -> Result<Response<Empty>, Status> {
        drop(self.called("fsync"));
        Ok(Response::new(Empty {}))
    }

    async fn update_block_for_pipeline(
        &self,
        _: Request<v1::UpdateBlockForPipelineRequest>,
    ) -> Result<Response<v1::UpdateBlockForPipelineResponse>, Status> {
        let new_generation_stamp = self.called("update_block_for_pipeline").next_id();
        Ok(Response::new(v1::UpdateBlockForPipelineResponse { new_generation_stamp }))
    }

    async fn update_pipeline(
        &self,
        request: Request<v1::UpdatePipelineRequest>,
    ) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let mut state = self.called("update_pipeline");
        let old = request.old_block.unwrap_or_default();
        let recorded = by_inode(&mut state, request.inode)?.blocks.last().map(|(block, _)| *block);
        if recorded.is_none_or(|r| r.generation_stamp != old.generation_stamp) {
            return Err(refuse(ErrorKind::StaleGenerationStamp, "block"));
        }
        let committed = v1::CommittedBlock { block: request.new_block, storage_ids: request.storage_ids };
        commit(&mut state, request.inode, Some(committed))?;
        Ok(Response::new(Empty {}))
    }

    async fn get_additional_datanodes(
        &self,
        request: Request<v1::GetAdditionalDatanodesRequest>,
    ) -> Result<Response<v1::GetAdditionalDatanodesResponse>, Status> {
        let request = request.into_inner();
        let state = self.called("get_additional_datanodes");
        let fits = |index: &usize| {
            !request.exclude.contains(&format!("dn-{index}"))
                && !request.existing.contains(&format!("DS-{index}"))
                && state.datanodes[*index].fault == Fault::None
        };
        let found = (0..state.datanodes.len()).filter(fits).take(request.count as usize);
        let locations = found.map(|index| state.datanodes[index].location.clone()).collect();
        Ok(Response::new(v1::GetAdditionalDatanodesResponse { locations }))
    }

    async fn renew_lease(&self, _: Request<v1::RenewLeaseRequest>) -> Result<Response<Empty>, Status> {
        drop(self.called("renew_lease"));
        Ok(Response::new(Empty {}))
    }

    async fn open(&self, request: Request<v1::OpenRequest>) -> Result<Response<v1::LocatedBlocks>, Status> {
        let request = request.into_inner();
        let state = self.called("open");
        let node = request.node.unwrap_or_default();
        let file = if node.path.is_empty() {
            state.files.values().find(|file| file.inode == node.base)
        } else {
            state.files.get(&path_of(Some(node)))
        };
        let Some(file) = file else { return Err(refuse(ErrorKind::NotFound, "")) };
        let end = request.offset.saturating_add(request.length);
        // Two blocks an answer, so that readers have to ask again.
        let wanted: Vec<usize> = (0..file.blocks.len())
            .filter(|i| (*i as u64) * BLOCK_SIZE < end && (*i as u64 + 1) * BLOCK_SIZE > request.offset)
            .collect();
        let blocks: Vec<_> = wanted.iter().take(2).map(|i| located(&state, file, *i)).collect();
        let complete = blocks.len() == wanted.len();
        Ok(Response::new(v1::LocatedBlocks { status: Some(status(file)), blocks, complete }))
    }

    async fn report_bad_blocks(
        &self,
        request: Request<v1::ReportBadBlocksRequest>,
    ) -> Result<Response<Empty>, Status> {
        let mut state = self.called("report_bad_blocks");
        for block in request.into_inner().blocks {
            let id = block.block.unwrap_or_default().id;
            for location in block.locations {
                let uuid = location.datanode.unwrap_or_default().uuid;
                state.bad_reports.push((id, uuid));
            }
        }
        Ok(Response::new(Empty {}))
    }

    async fn stat(&self, request: Request<v1::StatRequest>) -> Result<Response<v1::FileStatus>, Status> {
        let state = self.called("stat");
        let path = path_of(request.into_inner().node);
        match state.files.get(&path) {
            Some(file) => Ok(Response::new(status(file))),
            None => Err(refuse(ErrorKind::NotFound, &path)),
        }
    }

    async fn mkdir(&self, _: Request<v1::MkdirRequest>) -> Result<Response<v1::FileStatus>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn truncate(
        &self,
        _: Request<v1::TruncateRequest>,
    ) -> Result<Response<v1::TruncateResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn recover_lease(
        &self,
        _: Request<v1::RecoverLeaseRequest>,
    ) -> Result<Response<v1::RecoverLeaseResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list(&self, _: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn rename(&self, _: Request<v1::RenameRequest>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn move_to_trash(
        &self,
        _: Request<v1::MoveToTrashRequest>,
    ) -> Result<Response<v1::MoveToTrashResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn restored(
        &self,
        _: Request<v1::RestoredRequest>,
    ) -> Result<Response<v1::RestoredResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn expunge(&self, _: Request<v1::ExpungeRequest>) -> Result<Response<v1::ExpungeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn set_permission(&self, _: Request<v1::SetPermissionRequest>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn set_owner(&self, _: Request<v1::SetOwnerRequest>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn set_times(&self, request: Request<v1::SetTimesRequest>) -> Result<Response<Empty>, Status> {
        let state = self.called("set_times");
        let path = path_of(request.into_inner().node);
        if state.files.contains_key(&path) {
            Ok(Response::new(Empty {}))
        } else {
            Err(refuse(ErrorKind::NotFound, &path))
        }
    }

    async fn set_replication(
        &self,
        _: Request<v1::SetReplicationRequest>,
    ) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_content_summary(
        &self,
        _: Request<v1::ContentSummaryRequest>,
    ) -> Result<Response<v1::ContentSummary>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_stats(&self, _: Request<v1::GetStatsRequest>) -> Result<Response<v1::ClusterStats>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_datanode_report(
        &self,
        _: Request<v1::DatanodeReportRequest>,
    ) -> Result<Response<v1::DatanodeReportResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn safe_mode(
        &self,
        _: Request<v1::SafeModeRequest>,
    ) -> Result<Response<v1::SafeModeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn balance(&self, _: Request<v1::BalanceRequest>) -> Result<Response<v1::BalanceStatus>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn set_datanode_admin(
        &self,
        _: Request<v1::SetDatanodeAdminRequest>,
    ) -> Result<Response<v1::DatanodeReport>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn remove_datanode(
        &self,
        _: Request<v1::RemoveDatanodeRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn repair_bandwidth(
        &self,
        _: Request<v1::RepairBandwidthRequest>,
    ) -> Result<Response<v1::RepairBandwidthResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn describe_block(
        &self,
        _: Request<v1::DescribeBlockRequest>,
    ) -> Result<Response<v1::BlockDescription>, Status> {
        Err(Status::unimplemented(""))
    }
}
