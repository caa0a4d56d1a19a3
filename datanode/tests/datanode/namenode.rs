//! A namenode that records what it is told and hands out the commands that a test gives it; and tests of what a
//! datanode tells it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use dfs_datanode::{Datanode, DatanodeError};
use dfs_proto::v1::datanode_command::Command;
use dfs_proto::v1::datanode_protocol_server::{DatanodeProtocol, DatanodeProtocolServer};
use dfs_proto::v1::*;
use dfs_proto::{DATANODE_PROTOCOL_VERSION, ErrorKind, RpcError};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use crate::wire::{self, Block};
use crate::{Cluster, config, eventually, pattern};

#[derive(Default)]
pub struct Recorded {
    pub cluster_id: String,
    pub registered: Vec<RegisterRequest>,
    /// Datanodes that must register again.
    pub forgotten: Vec<String>,
    pub heartbeats: HashMap<String, u64>,
    pub changes: Vec<(String, ReplicaChange)>,
    pub slices: Vec<BlockReportSlice>,
    pub bad: Vec<BadReplica>,
    pub commands: HashMap<String, Vec<DatanodeCommand>>,
    pub synchronized: Vec<CommitBlockSynchronizationRequest>,
}

#[derive(Clone)]
pub struct FakeNamenode {
    addr: SocketAddr,
    recorded: Arc<Mutex<Recorded>>,
}

impl FakeNamenode {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
        let addr = listener.local_addr().expect("address");
        let recorded = Recorded { cluster_id: "CID-test".into(), ..Recorded::default() };
        let namenode = Self { addr, recorded: Arc::new(Mutex::new(recorded)) };
        let server = tonic::transport::Server::builder()
            .add_service(DatanodeProtocolServer::new(namenode.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        namenode
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().expect("no test panicked")
    }

    pub fn order(&self, uuid: &str, command: Command) {
        let command = DatanodeCommand { command: Some(command) };
        self.recorded().commands.entry(uuid.to_owned()).or_default().push(command);
    }

    /// Whether a datanode told of this event of a block.
    pub fn heard(&self, uuid: &str, event: ReplicaEvent, block: Block) -> bool {
        self.recorded().changes.iter().any(|(from, change)| {
            let told = change.block.unwrap_or_default();
            from == uuid
                && change.event() == event
                && (told.id, told.generation_stamp) == (block.id, block.stamp)
        })
    }
}

#[tonic::async_trait]
impl DatanodeProtocol for FakeNamenode {
    async fn get_namespace_info(
        &self,
        _: Request<NamespaceInfoRequest>,
    ) -> Result<Response<NamespaceInfo>, Status> {
        Ok(Response::new(NamespaceInfo {
            protocol_version: DATANODE_PROTOCOL_VERSION,
            cluster_id: self.recorded().cluster_id.clone(),
            block_pool_id: "BP-test".into(),
            heartbeat_interval_ms: 20,
            block_report_interval_ms: 0,
        }))
    }

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let request = request.into_inner();
        let mut recorded = self.recorded();
        let uuid = request.info.as_ref().map(|i| i.uuid.clone()).unwrap_or_default();
        recorded.forgotten.retain(|u| *u != uuid);
        let info = request.info.clone();
        recorded.registered.push(request);
        Ok(Response::new(RegisterResponse { info }))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let uuid = request.into_inner().uuid;
        let mut recorded = self.recorded();
        if recorded.forgotten.contains(&uuid) {
            return Err(RpcError::new(ErrorKind::NotRegistered, uuid, "").to_status());
        }
        *recorded.heartbeats.entry(uuid.clone()).or_default() += 1;
        let commands = recorded.commands.remove(&uuid).unwrap_or_default();
        Ok(Response::new(HeartbeatResponse { commands, ..HeartbeatResponse::default() }))
    }

    async fn block_report(
        &self,
        request: Request<Streaming<BlockReportSlice>>,
    ) -> Result<Response<BlockReportResponse>, Status> {
        let mut slices = request.into_inner();
        while let Some(slice) = slices.next().await {
            self.recorded().slices.push(slice?);
        }
        Ok(Response::new(BlockReportResponse {}))
    }

    async fn block_received_and_deleted(
        &self,
        request: Request<BlockReceivedAndDeletedRequest>,
    ) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let changes = request.changes.into_iter().map(|c| (request.uuid.clone(), c));
        self.recorded().changes.extend(changes);
        Ok(Response::new(Empty {}))
    }

    async fn report_bad_replicas(
        &self,
        request: Request<ReportBadReplicasRequest>,
    ) -> Result<Response<Empty>, Status> {
        self.recorded().bad.extend(request.into_inner().replicas);
        Ok(Response::new(Empty {}))
    }

    async fn commit_block_synchronization(
        &self,
        request: Request<CommitBlockSynchronizationRequest>,
    ) -> Result<Response<Empty>, Status> {
        self.recorded().synchronized.push(request.into_inner());
        Ok(Response::new(Empty {}))
    }

    async fn check_superuser(&self, _: Request<CheckSuperuserRequest>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datanode_registers_reports_and_keeps_its_identity() {
    let mut cluster = Cluster::start(1).await;
    let block = Block::new(300, 5);
    wire::write(&[&cluster.nodes[0]], block, &pattern(1, 10_000));
    let uuid = cluster.nodes[0].uuid().to_owned();
    eventually("the closed replica is reported", || {
        cluster.namenode.heard(&uuid, ReplicaEvent::Received, block)
    })
    .await;
    cluster.namenode.recorded().slices.clear();
    cluster.restart(0).await;
    assert_eq!(cluster.nodes[0].uuid(), uuid);
    eventually("the full report", || cluster.namenode.recorded().slices.iter().any(|s| s.last)).await;
    let recorded = cluster.namenode.recorded();
    let (slice, request) = (&recorded.slices[0], &recorded.registered[1]);
    assert_eq!((&slice.block_ids[..], &slice.generation_stamps[..]), (&[300][..], &[5][..]));
    assert_eq!((&slice.lengths[..], slice.states().next()), (&[10_000][..], Some(ReplicaState::Finalized)));
    assert_eq!(slice.storage_id, request.storages[0].storage_id);
    assert_eq!(slice.storage_id, recorded.registered[0].storages[0].storage_id);
    assert_eq!(request.cluster_id, "CID-test");
    assert!(request.storages[0].used >= 10_000 && request.storages[0].remaining > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_datanode_registers_again_and_reports() {
    let cluster = Cluster::start(1).await;
    let uuid = cluster.nodes[0].uuid().to_owned();
    eventually("first report", || cluster.namenode.recorded().slices.len() == 1).await;
    cluster.namenode.recorded().forgotten.push(uuid.clone());
    eventually("second registration and report", || {
        let recorded = cluster.namenode.recorded();
        recorded.registered.len() == 2 && recorded.slices.len() == 2
    })
    .await;
    cluster.namenode.order(&uuid, Command::Reregister(ReregisterCommand {}));
    eventually("third registration", || cluster.namenode.recorded().registered.len() == 3).await;
    cluster.namenode.order(&uuid, Command::BlockReport(BlockReportCommand {}));
    eventually("fourth report", || cluster.namenode.recorded().slices.len() >= 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_datanode_gives_up() {
    let mut cluster = Cluster::start(1).await;
    cluster.nodes.remove(0).shutdown().await;
    cluster.namenode.recorded().cluster_id = "CID-other".into();
    let node = Datanode::start(config(&cluster.namenode, cluster.dir(0))).await.expect("starts");
    let error = node.refused().await;
    assert!(matches!(&*error, DatanodeError::WrongCluster { found, .. } if found == "CID-test"), "{error}");
    assert_eq!(cluster.namenode.recorded().registered.len(), 1, "it never registered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datanode_waits_for_its_namenode() {
    let dir = tempfile::tempdir().expect("temporary directory");
    // Nobody listens yet, and nobody else can have the port.
    let socket = tokio::net::TcpSocket::new_v4().expect("socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("port");
    let addr = socket.local_addr().expect("address");
    let namenode = FakeNamenode::start().await;
    let mut config = config(&namenode, dir.path());
    config.namenode = addr.to_string();
    let node = Datanode::start(config).await.expect("starts without a namenode");
    assert_eq!(wire::http_get(node.http_addr(), "/health").0, 503);
    let listener = socket.listen(16).expect("listens");
    let server = tonic::transport::Server::builder()
        .add_service(DatanodeProtocolServer::new(namenode.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    tokio::time::timeout(crate::PATIENCE, node.registered()).await.expect("registers");
    assert_eq!(wire::http_get(node.http_addr(), "/health").0, 200);
    let (status, page) = wire::http_get(node.http_addr(), "/metrics");
    assert!(status == 200 && page.contains("dfs_datanode_heartbeats_total"), "{page}");
}
