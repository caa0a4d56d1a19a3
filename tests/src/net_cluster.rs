//! A cluster of real programs on machines of their own ([`Network`]), and what can happen to them.
//!
//! Each datanode has a machine and a small disk in memory, which can be filled; the namenode and the test are at the bridge. Nothing
//! is near anything else: all reads go over the network.
//!
//! Invariants: every process started here is ended, and every disk unmounted, when the cluster is dropped.

use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use dfs_client::fs::{FileSystem, FileSystemConfig};
use dfs_client::{DfsClient, LocatedBlock, ReplicaLocation};
use dfs_proto::v1::OpenRequest;
use dfs_proto::v1::client_protocol_client::ClientProtocolClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::cluster::{context_of, node};
use crate::net::{BOTH, Link, Network};
use crate::programs::program_dir;
use crate::wait::{PATIENCE, wait_for, wait_until};

/// Who runs the cluster and all clients.
const USER: &str = "root";

/// Bytes of a datanode's disk.
const DISK_BYTES: u64 = 96 << 20;

/// What a slow link lets through, in bytes a second.
pub const SLOW_BYTES: u64 = 4 << 10;

/// Names a directory that gets the servers' logs when the cluster ends; then servers also log what `RUST_LOG` says.
const KEEP_VARIABLE: &str = "DFS_TEST_KEEP_LOGS";

/// The file that fills a disk.
const FILLER: &str = "filler";

/// Bytes of one write of it.
const FILLER_STEP: usize = 64 << 10;

/// What happens to a datanode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`.
    Killed,
    /// SIGSTOP: its machine goes on answering connections.
    Stopped,
    /// No packet gets to it or from it.
    Cut,
    /// Its link lets [`SLOW_BYTES`] through.
    Slow,
    /// Its disk is full.
    Full,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Killed, Self::Stopped, Self::Cut, Self::Slow, Self::Full];
}

/// Settings of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Datanodes.
    pub datanodes: usize,
    /// Default block size.
    pub block_size: u64,
    /// Milliseconds of silence after which a datanode is stale, and dead.
    pub liveness_ms: (u64, u64),
}

/// One datanode.
#[derive(Debug)]
struct Machine {
    volume: PathBuf,
    process: Option<Child>,
}

/// The cluster.
#[derive(Debug)]
pub struct NetCluster {
    machines: Vec<Machine>,
    namenode: Child,
    namenode_port: u16,
    network: Network,
    home: TempDir,
}

impl NetCluster {
    /// Starts one. None where there cannot be one.
    pub async fn start(settings: Settings) -> Result<Option<Self>> {
        let Some(network) = Network::new(settings.datanodes)? else { return Ok(None) };
        let home = tempfile::Builder::new().prefix("dfs-net-").tempdir()?;
        let host = network.host().to_string();
        let namenode_port = dfs_proto::ports::NAMENODE_RPC;
        let mut command = Command::new(program_dir()?.join("dfs-namenode"));
        command.arg("--dir").arg(home.path().join("namenode"));
        command.args(["--bind", &host, "--min-block-size", "4096", "--block-size"]);
        command.arg(settings.block_size.to_string());
        command.arg("--stale-ms").arg(settings.liveness_ms.0.to_string());
        command.arg("--dead-ms").arg(settings.liveness_ms.1.to_string());
        let namenode = spawn(command, home.path(), "namenode")?;
        let mut cluster = Self { machines: Vec::new(), namenode, namenode_port, network, home };
        for index in 0..settings.datanodes {
            let volume = cluster.home.path().join(format!("disk{index}"));
            std::fs::create_dir(&volume)?;
            let mounted = Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "tmpfs"])
                .arg(&volume)
                .status()?;
            ensure!(mounted.success(), "cannot mount a tmpfs");
            cluster.machines.push(Machine { volume, process: None });
            cluster.start_datanode(index)?;
        }
        cluster.wait_for_live(settings.datanodes).await?;
        Ok(Some(cluster))
    }

    fn start_datanode(&mut self, index: usize) -> Result<()> {
        let mut command = self.network.command(index, &program_dir()?.join("dfs-datanode"));
        command.args(["--namenode", &self.namenode_address(), "--reserved-bytes", "0"]);
        command.args(["--bind", &self.address(index).to_string(), "--volume"]);
        command.arg(&self.machines[index].volume);
        self.machines[index].process = Some(spawn(command, self.home.path(), &format!("datanode-{index}"))?);
        Ok(())
    }

    /// `host:port` of the namenode.
    pub fn namenode_address(&self) -> String {
        format!("{}:{}", self.network.host(), self.namenode_port)
    }

    /// Address of a datanode.
    pub fn address(&self, index: usize) -> Ipv4Addr {
        self.network.address(index)
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// A new client.
    pub async fn client(&self) -> Result<DfsClient> {
        Ok(DfsClient::builder().namenode(self.namenode_address()).user(USER).connect().await?)
    }

    /// A session as a mount has it.
    pub async fn session(&self) -> Result<FileSystem> {
        let config = FileSystemConfig {
            user: Some(USER.to_owned()),
            ..FileSystemConfig::of_namenodes(&self.namenode_address())
        };
        Ok(FileSystem::connect(config).await?)
    }

    /// All blocks of a file as the namenode locates them.
    pub async fn blocks(&self, path: &str) -> Result<Vec<LocatedBlock>> {
        let channel = Channel::from_shared(format!("http://{}", self.namenode_address()))?.connect().await?;
        let request = OpenRequest {
            context: Some(context_of(USER, 0)),
            node: Some(node(path)),
            offset: 0,
            length: u64::MAX / 2,
        };
        Ok(ClientProtocolClient::new(channel).open(request).await?.into_inner().blocks)
    }

    /// Which datanode a location is on.
    pub fn index_of(&self, location: &ReplicaLocation) -> Result<usize> {
        let info = location.datanode.as_ref().context("location without datanode")?;
        let ip: IpAddr = info.ip.parse()?;
        (0..self.machines.len())
            .find(|index| IpAddr::V4(self.address(*index)) == ip)
            .with_context(|| format!("no datanode at {ip}"))
    }

    /// Datanodes of a block, in the order of its locations.
    pub fn indexes_of(&self, block: &LocatedBlock) -> Result<Vec<usize>> {
        block.locations.iter().map(|location| self.index_of(location)).collect()
    }

    /// Waits until the namenode counts exactly `count` live datanodes.
    pub async fn wait_for_live(&self, count: usize) -> Result<()> {
        let client = wait_for("the namenode", PATIENCE, async || self.client().await).await?;
        wait_until(&format!("{count} datanodes are live"), PATIENCE, async || {
            Ok(client.stats().await.is_ok_and(|stats| stats.live_datanodes as usize == count))
        })
        .await
    }

    /// Lets something happen to a datanode.
    pub fn inject(&mut self, index: usize, fault: Fault) -> Result<()> {
        match fault {
            Fault::Killed => self.machines[index].end(),
            Fault::Stopped => self.signal(index, Signal::SIGSTOP),
            Fault::Cut => self.set_link(index, Link::Cut),
            Fault::Slow => self.set_link(index, Link::Slow(SLOW_BYTES)),
            Fault::Full => fill(&self.machines[index].volume),
        }
    }

    /// Puts it right again. What was killed starts.
    pub fn heal(&mut self, index: usize, fault: Fault) -> Result<()> {
        match fault {
            Fault::Killed => self.start_datanode(index),
            Fault::Stopped => self.signal(index, Signal::SIGCONT),
            Fault::Cut | Fault::Slow => self.set_link(index, Link::Good),
            Fault::Full => Ok(std::fs::remove_file(self.machines[index].volume.join(FILLER))?),
        }
    }

    /// Makes a datanode's link behave in both directions.
    pub fn set_link(&self, index: usize, link: Link) -> Result<()> {
        BOTH.iter().try_for_each(|direction| self.network.set(index, *direction, link))
    }

    fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        let process = self.machines[index].process.as_ref().context("datanode is down")?;
        Ok(kill(Pid::from_raw(i32::try_from(process.id())?), signal)?)
    }

    /// A datanode's disk.
    pub fn volume(&self, index: usize) -> &Path {
        &self.machines[index].volume
    }

    /// What a server has logged.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.home.path().join(format!("{name}.log"))).unwrap_or_default()
    }
}

impl Machine {
    /// Kills the process and waits for its end.
    fn end(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.kill()?;
        process.wait()?;
        Ok(())
    }
}

impl Drop for NetCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("== namenode\n{}", self.log("namenode"));
        }
        if let Some(kept) = std::env::var_os(KEEP_VARIABLE) {
            for name in (0..self.machines.len())
                .map(|index| format!("datanode-{index}"))
                .chain(["namenode".to_owned()])
            {
                // Who asks for logs sees that there are none.
                let _ = std::fs::write(Path::new(&kept).join(format!("{name}.log")), self.log(&name));
            }
        }
        // Gone already is as good.
        let _ = self.namenode.kill();
        let _ = self.namenode.wait();
        for machine in &mut self.machines {
            let _ = machine.end();
            let _ = Command::new("umount").arg("-l").arg(&machine.volume).status();
        }
    }
}

/// Starts a server whose log goes to a file of its name.
fn spawn(mut command: Command, home: &Path, name: &str) -> Result<Child> {
    let log = File::options().create(true).append(true).open(home.join(format!("{name}.log")))?;
    if std::env::var_os(KEEP_VARIABLE).is_none() {
        command.env_remove("RUST_LOG");
    }
    command.current_dir(home);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| name.to_owned())
}

/// Fills a disk to its last byte.
fn fill(disk: &Path) -> Result<()> {
    let mut filler = File::create(disk.join(FILLER))?;
    let zeros = [0; FILLER_STEP];
    loop {
        match filler.write(&zeros) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
