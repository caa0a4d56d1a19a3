//! A whole datanode: volumes, ports, threads and tasks.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dfs_proto::MAX_RPC_BYTES;
use dfs_proto::v1::DatanodeInfo;
use dfs_proto::v1::datanode_control_server::DatanodeControlServer;
use socket2::{Domain, Socket, Type};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tonic::transport::Server;

use crate::config::DatanodeConfig;
use crate::control::ControlService;
use crate::dataset::Dataset;
use crate::disk_balancer::DiskBalancer;
use crate::error::DatanodeError;
use crate::guard::{GuardedListener, Limit};
use crate::http;
use crate::metrics::Metrics;
use crate::namenode_link::changes::ChangeQueue;
use crate::namenode_link::{LinkParts, NamenodeLink, Registration, heartbeat, reports};
use crate::repair_pace::RepairPace;
use crate::scrub::Scrubber;
use crate::scrub::verifications::Verifications;
use crate::sync::lock;
use crate::throttle::Throttle;
use crate::transfer::Shared;
use crate::transfer::buffers::ScratchPool;
use crate::transfer::local::LocalServer;
use crate::transfer::peers::PeerPool;
use crate::transfer::server::TransferServer;
use crate::volume_keeper::VolumeKeeper;
use crate::workers::Workers;

/// Threads for disk work of gRPC calls and commands: none is long, and two disks' waits overlap.
const DISK_WORKERS: usize = 2;
/// Calls waiting for them at most.
const DISK_QUEUE: usize = 1024;
/// Threads for syncs of closed replicas: two disks' waits overlap.
const SYNC_WORKERS: usize = 2;
/// Syncs waiting at most: writers ask for a few blocks at a time, and what is refused counts as not synced.
const SYNC_QUEUE: usize = 1024;
/// Copies waiting at most; the namenode orders few at a time and again what is lost.
const COPY_QUEUE: usize = 1024;
/// Copies for balancing at once: one disk is read while another waits, and repair has threads of its own.
const MOVE_WORKERS: usize = 4;
/// Bytes a second for balancing until the namenode says otherwise.
const BALANCE_BANDWIDTH: u64 = 10 << 20;
/// Deletions waiting at most; what does not fit is ordered again after the next report.
const DELETE_QUEUE: usize = 65_536;
/// How long a port may stay taken by a predecessor that was killed.
const PORT_PATIENCE: Duration = Duration::from_secs(2);
/// Time between two attempts to have it.
const PORT_INTERVAL: Duration = Duration::from_millis(20);
/// Connections waiting to be accepted.
const BACKLOG: i32 = 1024;
/// gRPC connections are asked for a sign of life this often, so that dead ones do not pile up.
const GRPC_KEEPALIVE: Duration = Duration::from_secs(30);
/// Longest wait for a gRPC call.
const GRPC_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest life of an HTTP connection; the pages are small, and scrapers connect again.
const HTTP_LIFE: Duration = Duration::from_secs(60);
/// Calls of one gRPC connection at once.
const GRPC_STREAMS: u32 = 128;

/// Longest wait for the last thread that uses the volumes when the datanode stops, and the pause between two looks.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// See [`RELEASE_TIMEOUT`].
const RELEASE_POLL: Duration = Duration::from_millis(1);

/// A running datanode. Dropping it stops it without waiting; [`Datanode::shutdown`] waits.
#[derive(Debug)]
pub struct Datanode {
    shared: Arc<Shared>,
    transfer: Arc<TransferServer>,
    local: Option<LocalServer>,
    workers: Vec<Arc<Workers>>,
    verifications: Arc<Verifications>,
    scrubber: Arc<Scrubber>,
    keeper: VolumeKeeper,
    disk_balancer: Arc<DiskBalancer>,
    tasks: Vec<JoinHandle<()>>,
    recoveries: Arc<Mutex<JoinSet<()>>>,
    ipc_addr: SocketAddr,
    http_addr: SocketAddr,
    registration: watch::Receiver<Registration>,
    refusal: watch::Receiver<Option<Arc<DatanodeError>>>,
}

impl Datanode {
    /// Loads the volumes and opens the ports. Registration goes on in the background.
    pub async fn start(config: DatanodeConfig) -> Result<Self, DatanodeError> {
        config.validate()?;
        let changes = Arc::new(ChangeQueue::default());
        let (dirs, reserved) = (config.volumes.clone(), config.reserved_bytes);
        let scan_changes = Arc::clone(&changes);
        let dataset = spawn_blocking(move || Dataset::open(&dirs, reserved, scan_changes))
            .await
            .map_err(|_| DatanodeError::Stopping)??;
        let dataset = Arc::new(dataset);

        let xfer = listen(config.bind, config.xfer_port).await?;
        let ipc = listen(config.bind, config.ipc_port).await?;
        let http = listen(config.bind, config.http_port).await?;
        let (ipc_addr, http_addr) = (ipc.local_addr()?, http.local_addr()?);
        let info = DatanodeInfo {
            uuid: dataset.uuid().to_owned(),
            ip: advertised_ip(&config),
            hostname: config.hostname.clone().unwrap_or_else(machine_name),
            xfer_port: xfer.local_addr()?.port().into(),
            ipc_port: ipc_addr.port().into(),
            http_port: http_addr.port().into(),
            rack: config.rack.clone(),
            state: 0,
            admin_state: 0,
        };
        let disk_workers = Arc::new(Workers::start("disk", DISK_WORKERS, DISK_QUEUE)?);
        let sync_workers = Arc::new(Workers::start("sync", SYNC_WORKERS, SYNC_QUEUE)?);
        let copy_workers = Arc::new(Workers::start("copy", config.max_transfers, COPY_QUEUE)?);
        let move_workers = Arc::new(Workers::start("move", MOVE_WORKERS, COPY_QUEUE)?);
        let delete_workers = Arc::new(Workers::start("delete", 1, DELETE_QUEUE)?);
        let peers = PeerPool::new(config.connect_timeout, config.stream_timeout, config.keepalive_timeout);
        let shared = Arc::new(Shared {
            config,
            dataset: Arc::clone(&dataset),
            peers,
            scratch: ScratchPool::default(),
            metrics: Metrics::default(),
            xceivers: AtomicUsize::new(0),
            transfers: AtomicUsize::new(0),
            balance_pace: Throttle::new(BALANCE_BANDWIDTH),
            repair_pace: RepairPace::default(),
        });
        let transfer = Arc::new(TransferServer::start(xfer, Arc::clone(&shared))?);
        let local = if shared.config.local_reads { start_local(&shared) } else { None };
        let verifications = Arc::new(Verifications::start(&dataset)?);
        let scrubber = Arc::new(Scrubber::start(&dataset, shared.config.scrub_settings())?);
        let keeper = VolumeKeeper::start(&dataset, &scrubber, &shared.config.volumes)?;
        let link = NamenodeLink::new(LinkParts {
            verifications: Arc::clone(&verifications),
            shared: Arc::clone(&shared),
            changes: Arc::clone(&changes),
            disk_workers: Arc::clone(&disk_workers),
            copy_workers: Arc::clone(&copy_workers),
            move_workers: Arc::clone(&move_workers),
            delete_workers: Arc::clone(&delete_workers),
            info,
        })?;
        let registration = link.registration();
        let recoveries = Arc::clone(&link.recoveries);
        let (refused, refusal) = watch::channel(None);
        let disk_balancer = Arc::new(DiskBalancer::start(
            Arc::clone(&dataset),
            shared.config.disk_balance_threshold * 100,
            shared.config.disk_balance_bandwidth,
        )?);
        let control = ControlService::new(
            &dataset,
            changes,
            Arc::clone(&disk_workers),
            Arc::clone(&sync_workers),
            &scrubber,
            &disk_balancer,
            link.superusers(),
        );
        let pages = http::router(&shared, registration.clone());
        let tasks = vec![
            serve_control(control, ipc, shared.config.handshake_timeout)?,
            serve_http(pages, http)?,
            tokio::spawn(reports::run(link.clone())),
            tokio::spawn(async move {
                let error = heartbeat::run(link).await;
                refused.send_replace(Some(Arc::new(error)));
            }),
        ];
        let workers = vec![disk_workers, sync_workers, copy_workers, move_workers, delete_workers];
        Ok(Self {
            shared,
            transfer,
            local,
            workers,
            verifications,
            scrubber,
            keeper,
            disk_balancer,
            tasks,
            recoveries,
            ipc_addr,
            http_addr,
            registration,
            refusal,
        })
    }

    /// Identity of the datanode.
    pub fn uuid(&self) -> &str {
        self.shared.dataset.uuid()
    }

    /// Where the data transfer protocol is served.
    pub fn xfer_addr(&self) -> SocketAddr {
        self.transfer.addr()
    }

    /// Where `DatanodeControl` is served.
    pub const fn ipc_addr(&self) -> SocketAddr {
        self.ipc_addr
    }

    /// Where HTTP is served.
    pub const fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// The replicas, for tests and tools in the same process.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.shared.dataset
    }

    /// Waits for the first registration. Does not return if the namenode refuses this datanode; see
    /// [`Datanode::refused`].
    pub async fn registered(&self) {
        let mut registration = self.registration.clone();
        if registration.wait_for(|r| matches!(r, Registration::Done(_))).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the namenode refuses this datanode for good.
    pub async fn refused(&self) -> Arc<DatanodeError> {
        let mut refusal = self.refusal.clone();
        let outcome = refusal.wait_for(Option::is_some).await.ok().and_then(|e| e.clone());
        match outcome {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// Stops everything and waits for it. Replicas being written stay for recovery.
    pub async fn shutdown(mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
            // It was cancelled.
            let _ = task.await;
        }
        let mut recoveries = std::mem::take(&mut *lock(&self.recoveries));
        recoveries.shutdown().await;
        if !matches!(spawn_blocking(move || self.stop()).await, Ok(true)) {
            tracing::warn!("some data connections did not end in time");
        }
    }

    /// Ends all threads and lets go of the volumes. Answers whether it could.
    fn stop(self) -> bool {
        self.shared.repair_pace.close();
        self.local.iter().for_each(LocalServer::stop);
        self.transfer.stop();
        self.keeper.stop();
        self.scrubber.stop();
        self.verifications.stop();
        self.shared.balance_pace.close();
        self.disk_balancer.stop();
        self.workers.iter().for_each(|w| w.stop());
        let mut dataset = Arc::clone(&self.shared.dataset);
        drop(self);
        // A thread that was told to end holds the dataset until it has. Who drops it last also ends the journals and
        // unlocks the volumes; that is to be done when this returns.
        let deadline = Instant::now() + RELEASE_TIMEOUT;
        loop {
            match Arc::try_unwrap(dataset) {
                Ok(_) => return true,
                Err(_) if Instant::now() > deadline => return false,
                Err(shared) => dataset = shared,
            }
            thread::sleep(RELEASE_POLL);
        }
    }
}

impl Drop for Datanode {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.shared.repair_pace.close();
        lock(&self.recoveries).abort_all();
        self.transfer.close();
        self.shared.balance_pace.close();
        self.disk_balancer.close();
        self.local.iter().for_each(LocalServer::close);
        self.workers.iter().for_each(|w| w.close());
        self.keeper.close();
        self.scrubber.close();
        self.verifications.close();
    }
}

/// Serves readers on this machine. They can do without, so a failure is only told.
fn start_local(shared: &Arc<Shared>) -> Option<LocalServer> {
    match LocalServer::start(shared.dataset.uuid(), Arc::clone(shared)) {
        Ok(server) => Some(server),
        Err(error) => {
            tracing::warn!(%error, "readers on this machine will read over the network");
            None
        }
    }
}

/// Listens; waits a moment for a predecessor that was killed to be gone.
async fn listen(ip: IpAddr, port: u16) -> Result<TcpListener, DatanodeError> {
    let addr = SocketAddr::new(ip, port);
    let deadline = Instant::now() + PORT_PATIENCE;
    let open = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    loop {
        match open() {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(PORT_INTERVAL).await;
            }
            Err(source) => return Err(DatanodeError::Bind { addr, source }),
        }
    }
}

fn to_tokio(listener: TcpListener) -> Result<tokio::net::TcpListener, DatanodeError> {
    listener.set_nonblocking(true)?;
    Ok(tokio::net::TcpListener::from_std(listener)?)
}

fn serve_control(
    service: ControlService,
    listener: TcpListener,
    handshake: Duration,
) -> Result<JoinHandle<()>, DatanodeError> {
    let silence = Limit::FirstBytes(handshake);
    let incoming = GuardedListener::new(to_tokio(listener)?, silence).into_stream();
    let service = DatanodeControlServer::new(service)
        .max_decoding_message_size(MAX_RPC_BYTES)
        .max_encoding_message_size(MAX_RPC_BYTES);
    let server = Server::builder()
        .http2_keepalive_interval(Some(GRPC_KEEPALIVE))
        .timeout(GRPC_TIMEOUT)
        .max_concurrent_streams(GRPC_STREAMS)
        .add_service(service)
        .serve_with_incoming(incoming);
    Ok(tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "gRPC server ended");
        }
    }))
}

fn serve_http(pages: axum::Router, listener: TcpListener) -> Result<JoinHandle<()>, DatanodeError> {
    let listener = GuardedListener::new(to_tokio(listener)?, Limit::Life(HTTP_LIFE));
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, pages).await {
            tracing::error!(%error, "HTTP server ended");
        }
    }))
}

fn advertised_ip(config: &DatanodeConfig) -> String {
    match config.advertised_ip {
        Some(ip) => ip.to_string(),
        None if config.bind.is_unspecified() => String::new(),
        None => config.bind.to_string(),
    }
}

fn machine_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |n| n.to_string_lossy().into_owned())
}
