//! A whole cluster in one process: the real namenode and the real datanodes from their library crates,
//! on loopback ports that the kernel picks, over temporary directories.
//!
//! Invariants: the namenode keeps its address over restarts, a datanode keeps its volumes (and so its
//! identity) but gets new ports, and dropping the cluster stops every server and removes every file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_client::DfsClient;
use dfs_datanode::{Datanode, DatanodeConfig};
use dfs_namenode::{Namenode, NamenodeConfig};
use dfs_proto::v1::client_protocol_client::ClientProtocolClient;
use dfs_proto::v1::{CallContext, LocatedBlock, NodeRef, OpenRequest};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tonic::transport::Channel;

use crate::replica_files::{Damage, ReplicaFiles, replica_below, replicas_below, undo_closing};
use crate::wait::{PATIENCE, wait_for, wait_until};

/// The superuser of every mini cluster and the user of [`MiniCluster::client`].
pub const SUPERUSER: &str = "hdfs";

/// How long servers may take to stop when a cluster is dropped.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Settings of a cluster before it starts.
#[derive(Clone, Debug)]
pub struct Builder {
    datanodes: usize,
    volumes: usize,
    replication: u16,
    block_size: u64,
    racks: Vec<String>,
    heartbeat_ms: u32,
    stale_after_ms: u64,
    dead_after_ms: u64,
    soft_lease_ms: u64,
    hard_lease_ms: u64,
    session_timeout_ms: u64,
    groups: Vec<(String, String)>,
    local_reads: bool,
    scrub_period: Duration,
    volume_bytes: Option<u64>,
}

impl Builder {
    /// Each volume is a file system of its own of this size, in memory. Takes root; see [`can_mount_volumes`].
    pub const fn volume_bytes(mut self, bytes: u64) -> Self {
        self.volume_bytes = Some(bytes);
        self
    }

    /// Time in which datanodes reread all their replicas (the default: 14 days).
    pub const fn scrub_period(mut self, period: Duration) -> Self {
        self.scrub_period = period;
        self
    }

    /// Datanodes hand out descriptors of replica files, so that clients need not read over the network (off: most
    /// tests are about the network).
    pub const fn local_reads(mut self) -> Self {
        self.local_reads = true;
        self
    }

    /// Number of datanodes (3).
    pub const fn datanodes(mut self, count: usize) -> Self {
        self.datanodes = count;
        self
    }

    /// Volumes of each datanode (1).
    pub const fn volumes(mut self, count: usize) -> Self {
        self.volumes = count;
        self
    }

    /// Default replication (3).
    pub const fn replication(mut self, replication: u16) -> Self {
        self.replication = replication;
        self
    }

    /// Default block size in bytes (1 MiB).
    pub const fn block_size(mut self, bytes: u64) -> Self {
        self.block_size = bytes;
        self
    }

    /// Racks, given to the datanodes in turn (one default rack).
    pub fn racks(mut self, racks: &[&str]) -> Self {
        self.racks = racks.iter().map(|rack| (*rack).to_owned()).collect();
        self
    }

    /// Milliseconds without heartbeat after which a datanode is stale, and dead (1,500 and 4,000).
    pub const fn liveness_ms(mut self, stale: u64, dead: u64) -> Self {
        self.stale_after_ms = stale;
        self.dead_after_ms = dead;
        self
    }

    /// Soft and hard limit of leases in milliseconds (60 s and 20 min).
    pub const fn leases_ms(mut self, soft: u64, hard: u64) -> Self {
        self.soft_lease_ms = soft;
        self.hard_lease_ms = hard;
        self
    }

    /// Milliseconds of silence after which a session ends (30 s).
    pub const fn session_timeout_ms(mut self, timeout: u64) -> Self {
        self.session_timeout_ms = timeout;
        self
    }

    /// Puts a user into a group.
    pub fn member(mut self, user: &str, group: &str) -> Self {
        self.groups.push((user.to_owned(), group.to_owned()));
        self
    }

    /// Starts the servers and waits until all datanodes are registered.
    pub async fn start(self) -> Result<MiniCluster> {
        let dir = tempfile::Builder::new().prefix("dfs-mini-").tempdir()?;
        let namenode = Namenode::start(self.namenode_config(dir.path(), 0, 0)).await?;
        let mut cluster = MiniCluster {
            rpc_addr: namenode.rpc_addr(),
            http_addr: namenode.http_addr(),
            namenode: Some(namenode),
            datanodes: Vec::new(),
            mounted: Vec::new(),
            settings: self,
            dir,
        };
        for index in 0..cluster.settings.datanodes {
            cluster.add_datanode(index)?;
        }
        for index in 0..cluster.datanodes.len() {
            cluster.start_datanode(index).await?;
        }
        cluster.wait_for_live_datanodes(cluster.datanodes.len()).await?;
        Ok(cluster)
    }

    fn namenode_config(&self, dir: &Path, rpc_port: u16, http_port: u16) -> NamenodeConfig {
        NamenodeConfig {
            bind: LOOPBACK,
            rpc_port,
            http_port,
            superuser: Some(SUPERUSER.to_owned()),
            static_groups: self.groups.clone(),
            default_replication: self.replication,
            default_block_size: self.block_size,
            min_block_size: 4096,
            heartbeat_interval_ms: self.heartbeat_ms,
            stale_after_ms: self.stale_after_ms,
            dead_after_ms: self.dead_after_ms,
            soft_lease_ms: self.soft_lease_ms,
            hard_lease_ms: self.hard_lease_ms,
            session_timeout_ms: self.session_timeout_ms,
            cache_bytes: 16 << 20,
            ..NamenodeConfig::new(dir.join("namenode"))
        }
    }
}

/// A datanode's place in the cluster, whether it runs or not.
struct DatanodeSlot {
    volumes: Vec<PathBuf>,
    rack: String,
    uuid: String,
    running: Option<Datanode>,
}

/// A running cluster.
pub struct MiniCluster {
    namenode: Option<Namenode>,
    datanodes: Vec<DatanodeSlot>,
    rpc_addr: SocketAddr,
    http_addr: SocketAddr,
    settings: Builder,
    /// File systems of the volumes, if they have their own.
    mounted: Vec<PathBuf>,
    dir: TempDir,
}

/// Whether file systems in memory can be mounted here. In CI they must; elsewhere the test says loudly that it did nothing.
pub fn can_mount_volumes() -> Result<bool> {
    let dir = tempfile::tempdir()?;
    match mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=1m")) {
        Ok(()) => {
            umount2(dir.path(), MntFlags::MNT_DETACH)?;
            Ok(true)
        }
        Err(error) => {
            ensure!(
                std::env::var_os("CI").is_none(),
                "cannot mount a tmpfs, which CI must be able to: {error}"
            );
            eprintln!("SKIPPED: cannot mount a tmpfs: {error}");
            Ok(false)
        }
    }
}

impl MiniCluster {
    /// Three datanodes, replication 3, blocks of 1 MiB, and liveness times short enough to wait for.
    pub fn builder() -> Builder {
        Builder {
            datanodes: 3,
            volumes: 1,
            replication: 3,
            block_size: 1 << 20,
            racks: vec!["/default-rack".to_owned()],
            heartbeat_ms: 200,
            stale_after_ms: 1_500,
            dead_after_ms: 4_000,
            soft_lease_ms: 60_000,
            hard_lease_ms: 20 * 60 * 1000,
            session_timeout_ms: 30_000,
            groups: Vec::new(),
            local_reads: false,
            scrub_period: DatanodeConfig::default().scrub_period,
            volume_bytes: None,
        }
    }

    /// A cluster with the builder's defaults.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    // ---- clients ----

    /// `host:port` of the namenode.
    pub fn namenode_address(&self) -> String {
        self.rpc_addr.to_string()
    }

    /// A new client of the superuser. Every call makes another lease holder.
    pub async fn client(&self) -> Result<DfsClient> {
        self.client_of(SUPERUSER).await
    }

    /// A new client of `user`.
    pub async fn client_of(&self, user: &str) -> Result<DfsClient> {
        Ok(DfsClient::builder().namenode(self.namenode_address()).user(user).connect().await?)
    }

    /// Bare gRPC to the namenode, for what a client never sends.
    pub async fn rpc(&self) -> Result<ClientProtocolClient<Channel>> {
        Ok(ClientProtocolClient::new(self.channel().await?))
    }

    /// A gRPC connection to the namenode.
    pub async fn channel(&self) -> Result<Channel> {
        Ok(Channel::from_shared(format!("http://{}", self.rpc_addr))?.connect().await?)
    }

    /// All blocks of a file as the namenode locates them.
    pub async fn blocks(&self, path: &str) -> Result<Vec<LocatedBlock>> {
        let request = OpenRequest {
            context: Some(context_of(SUPERUSER, 0)),
            node: Some(node(path)),
            offset: 0,
            length: u64::MAX / 2,
        };
        Ok(self.rpc().await?.open(request).await?.into_inner().blocks)
    }

    // ---- addresses of every server, for hostile input ----

    /// The namenode's two ports and each running datanode's three, with a name for messages.
    pub fn ports(&self) -> Vec<(String, SocketAddr)> {
        let mut ports =
            vec![("namenode rpc".to_owned(), self.rpc_addr), ("namenode http".to_owned(), self.http_addr)];
        for (index, slot) in self.datanodes.iter().enumerate() {
            if let Some(datanode) = &slot.running {
                ports.push((format!("datanode {index} xfer"), datanode.xfer_addr()));
                ports.push((format!("datanode {index} ipc"), datanode.ipc_addr()));
                ports.push((format!("datanode {index} http"), datanode.http_addr()));
            }
        }
        ports
    }

    /// Data transfer address of a running datanode.
    pub fn xfer_addr(&self, index: usize) -> Result<SocketAddr> {
        Ok(self.datanodes[index].running.as_ref().context("datanode is down")?.xfer_addr())
    }

    /// Directory of the namenode.
    pub fn namenode_dir(&self) -> PathBuf {
        self.dir.path().join("namenode")
    }

    /// Settings with which the namenode runs, with other ports.
    pub fn namenode_config(&self) -> NamenodeConfig {
        self.settings.namenode_config(self.dir.path(), 0, 0)
    }

    // ---- namenode ----

    /// Stops the namenode.
    pub async fn kill_namenode(&mut self) {
        if let Some(namenode) = self.namenode.take() {
            namenode.shutdown().await;
        }
    }

    /// Starts the namenode again at its old address. Its port may be taken for a moment by an outgoing
    /// connection of another test, so binding is tried again.
    pub async fn start_namenode(&mut self) -> Result<()> {
        let (rpc_port, http_port) = (self.rpc_addr.port(), self.http_addr.port());
        let config = self.settings.namenode_config(self.dir.path(), rpc_port, http_port);
        let start = async || Ok(Namenode::start(config.clone()).await?);
        self.namenode = Some(wait_for("the namenode to start again", PATIENCE, start).await?);
        Ok(())
    }

    /// Stops and starts the namenode.
    pub async fn restart_namenode(&mut self) -> Result<()> {
        self.kill_namenode().await;
        self.start_namenode().await
    }

    /// Stops every server, then starts every server, and waits for the datanodes.
    pub async fn restart_everything(&mut self) -> Result<()> {
        self.kill_namenode().await;
        for index in 0..self.datanodes.len() {
            self.kill_datanode(index).await;
        }
        self.start_namenode().await?;
        for index in 0..self.datanodes.len() {
            self.start_datanode(index).await?;
        }
        self.wait_for_live_datanodes(self.datanodes.len()).await
    }

    // ---- datanodes ----

    /// Number of datanodes, running or not.
    pub fn datanode_count(&self) -> usize {
        self.datanodes.len()
    }

    fn add_datanode(&mut self, index: usize) -> Result<()> {
        let home = self.dir.path().join(format!("datanode{index}"));
        if let Some(bytes) = self.settings.volume_bytes {
            for volume in 0..self.settings.volumes {
                let dir = home.join(format!("volume{volume}"));
                std::fs::create_dir_all(&dir)?;
                let size = format!("size={bytes}");
                mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
                    .with_context(|| format!("a tmpfs at {}", dir.display()))?;
                self.mounted.push(dir);
            }
        }
        self.datanodes.push(DatanodeSlot {
            volumes: (0..self.settings.volumes).map(|volume| home.join(format!("volume{volume}"))).collect(),
            rack: self.settings.racks[index % self.settings.racks.len()].clone(),
            uuid: String::new(),
            running: None,
        });
        Ok(())
    }

    /// Adds and starts one more datanode and answers its index.
    pub async fn grow(&mut self) -> Result<usize> {
        let index = self.datanodes.len();
        self.add_datanode(index)?;
        self.start_datanode(index).await?;
        Ok(index)
    }

    /// Settings of datanode `index`.
    pub fn datanode_config(&self, index: usize) -> DatanodeConfig {
        let slot = &self.datanodes[index];
        DatanodeConfig {
            namenode: self.namenode_address(),
            volumes: slot.volumes.clone(),
            bind: LOOPBACK,
            xfer_port: 0,
            ipc_port: 0,
            http_port: 0,
            rack: slot.rack.clone(),
            reserved_bytes: Some(0),
            local_reads: self.settings.local_reads,
            scrub_period: self.settings.scrub_period,
            ..DatanodeConfig::default()
        }
    }

    /// Starts datanode `index` on its volumes and waits for its registration.
    pub async fn start_datanode(&mut self, index: usize) -> Result<()> {
        ensure!(self.datanodes[index].running.is_none(), "datanode {index} runs already");
        let datanode = Datanode::start(self.datanode_config(index)).await?;
        tokio::time::timeout(PATIENCE, datanode.registered())
            .await
            .with_context(|| format!("datanode {index} did not register"))?;
        let slot = &mut self.datanodes[index];
        slot.uuid = datanode.uuid().to_owned();
        slot.running = Some(datanode);
        Ok(())
    }

    /// Stops datanode `index`: its sockets close, whatever was going on over them.
    pub async fn kill_datanode(&mut self, index: usize) {
        if let Some(datanode) = self.datanodes[index].running.take() {
            datanode.shutdown().await;
        }
    }

    /// Index of the datanode with this uuid.
    pub fn datanode_index(&self, uuid: &str) -> Result<usize> {
        self.datanodes
            .iter()
            .position(|slot| slot.uuid == uuid)
            .with_context(|| format!("no datanode {uuid}"))
    }

    /// Whether datanode `index` runs.
    pub fn is_running(&self, index: usize) -> bool {
        self.datanodes[index].running.is_some()
    }

    /// Waits until the namenode counts exactly `count` live datanodes.
    pub async fn wait_for_live_datanodes(&self, count: usize) -> Result<()> {
        let client = self.client().await?;
        wait_until(&format!("{count} datanodes are live"), PATIENCE, async || {
            Ok(client.stats().await.is_ok_and(|stats| stats.live_datanodes as usize == count))
        })
        .await
    }

    // ---- replicas ----

    /// Indexes of the datanodes at which the namenode locates a block of `path`, nearest first.
    pub async fn located_on(&self, path: &str, block: usize) -> Result<Vec<usize>> {
        let blocks = self.blocks(path).await?;
        let located = blocks.get(block).with_context(|| format!("{path} has no block {block}"))?;
        located
            .locations
            .iter()
            .map(|location| {
                let info = location.datanode.as_ref().context("location without datanode")?;
                self.datanode_index(&info.uuid)
            })
            .collect()
    }

    /// The files of a block's replica on datanode `index`.
    pub fn replica(&self, index: usize, block_id: u64) -> Result<Option<ReplicaFiles>> {
        for volume in &self.datanodes[index].volumes {
            if let Some(files) = replica_below(volume, block_id)? {
                return Ok(Some(files));
            }
        }
        Ok(None)
    }

    /// Indexes of the datanodes that have files of the block, running or not.
    pub fn stored_on(&self, block_id: u64) -> Result<Vec<usize>> {
        let mut found = Vec::new();
        for index in 0..self.datanodes.len() {
            if self.replica(index, block_id)?.is_some() {
                found.push(index);
            }
        }
        Ok(found)
    }

    /// All replicas on all datanodes as (datanode, block id, files).
    pub fn all_replicas(&self) -> Result<Vec<(usize, u64, ReplicaFiles)>> {
        let mut found = Vec::new();
        for (index, slot) in self.datanodes.iter().enumerate() {
            for volume in &slot.volumes {
                found.extend(replicas_below(volume)?.into_iter().map(|(id, files)| (index, id, files)));
            }
        }
        Ok(found)
    }

    /// Damages the replica of a block on datanode `index`.
    pub fn corrupt_replica(&self, index: usize, block_id: u64, damage: Damage) -> Result<()> {
        let files = self.replica(index, block_id)?;
        files.with_context(|| format!("no replica of block {block_id} on datanode {index}"))?.damage(damage)
    }

    /// Loses the power of all machines and starts every server again: whatever replicas were closed come back as
    /// unfinished ones, because their final names were not on disk. Answers how many replicas that were.
    pub async fn lose_power_of_everything(&mut self) -> Result<usize> {
        self.kill_namenode().await;
        let mut moved = 0;
        for index in 0..self.datanodes.len() {
            self.kill_datanode(index).await;
            for volume in &self.datanodes[index].volumes {
                moved += undo_closing(volume)?;
            }
        }
        self.start_namenode().await?;
        for index in 0..self.datanodes.len() {
            self.start_datanode(index).await?;
        }
        self.wait_for_live_datanodes(self.datanodes.len()).await?;
        Ok(moved)
    }

    /// Waits until every block of `path` is located on exactly `count` datanodes and has its files there.
    pub async fn wait_for_replication(&self, path: &str, count: usize) -> Result<()> {
        wait_until(&format!("{path} has {count} replicas"), PATIENCE, async || {
            for block in self.blocks(path).await? {
                let id = block.block.context("located block without block")?.id;
                let mut stored = Vec::new();
                for index in self.stored_on(id)? {
                    if self.is_running(index) {
                        stored.push(index);
                    }
                }
                if block.locations.len() != count || block.corrupt_replicas != 0 || stored.len() != count {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    }
}

impl Drop for MiniCluster {
    fn drop(&mut self) {
        let namenode = self.namenode.take();
        let datanodes: Vec<Datanode> =
            self.datanodes.iter_mut().filter_map(|slot| slot.running.take()).collect();
        let Ok(runtime) = Handle::try_current() else { return };
        let mounted = std::mem::take(&mut self.mounted);
        let stop = async {
            for datanode in datanodes {
                datanode.shutdown().await;
            }
            if let Some(namenode) = namenode {
                namenode.shutdown().await;
            }
        };
        // A server that does not stop in time goes down with the runtime; the test has its verdict already.
        let _ = tokio::task::block_in_place(|| {
            runtime.block_on(async { tokio::time::timeout(STOP_PATIENCE, stop).await })
        });
        for dir in mounted {
            // What still has files open on it keeps its memory until it ends.
            let _ = umount2(&dir, MntFlags::MNT_DETACH);
        }
    }
}

/// Path from the root, as path clients name nodes.
pub fn node(path: &str) -> NodeRef {
    NodeRef { base: 0, path: path.as_bytes().to_vec().into() }
}

/// Call number `call_id` of a client that every test of a bare call shares.
pub fn context_of(user: &str, call_id: u64) -> CallContext {
    CallContext {
        user: user.to_owned(),
        client_id: b"tests-bare-calls".to_vec().into(),
        call_id,
        ..Default::default()
    }
}
