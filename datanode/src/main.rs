//! `dfs-datanode`: the datanode as a program. Logs go to stderr; SIGTERM and SIGINT stop it.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use dfs_datanode::{Datanode, DatanodeConfig};
use dfs_proto::ports;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Threads for gRPC and HTTP; data moves on threads of its own.
const ASYNC_THREADS: usize = 2;

/// Keeps replicas of blocks on local disks and serves them.
#[derive(Debug, Parser)]
#[command(name = "dfs-datanode", version)]
struct Options {
    /// Namenode's gRPC address.
    #[arg(long, env = "DFS_NAMENODE", default_value = "127.0.0.1:9820", value_name = "HOST:PORT")]
    namenode: String,
    /// Directory for replicas, one a disk; may be repeated or separated by commas.
    #[arg(long = "volume", required = true, value_delimiter = ',', value_name = "DIR")]
    volumes: Vec<PathBuf>,
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    bind: IpAddr,
    /// Port of the data transfer protocol; 0 takes any.
    #[arg(long, default_value_t = ports::DATANODE_XFER, value_name = "PORT")]
    xfer_port: u16,
    /// gRPC port; 0 takes any.
    #[arg(long, default_value_t = ports::DATANODE_IPC, value_name = "PORT")]
    ipc_port: u16,
    /// HTTP port; 0 takes any.
    #[arg(long, default_value_t = ports::DATANODE_HTTP, value_name = "PORT")]
    http_port: u16,
    /// Address told to the namenode [default: the one listened on, or the one it sees us call from].
    #[arg(long, value_name = "IP")]
    advertised_ip: Option<IpAddr>,
    /// Name told to the namenode [default: the machine's].
    #[arg(long)]
    hostname: Option<String>,
    /// Network location such as /dc1/rack2.
    #[arg(long, default_value = "/default-rack", value_name = "PATH")]
    rack: String,
    /// Bytes of each volume that replicas leave free [default: the smaller of 1 GiB and 1 %].
    #[arg(long, value_name = "BYTES")]
    reserved_bytes: Option<u64>,
    /// Data connections served at once.
    #[arg(long, default_value_t = DatanodeConfig::default().max_xceivers, value_name = "N")]
    max_xceivers: usize,
    /// Copies to other datanodes at once.
    #[arg(long, default_value_t = DatanodeConfig::default().max_transfers, value_name = "N")]
    max_transfers: usize,
    /// Readers on this machine read over the network too, instead of from the replica files.
    #[arg(long)]
    no_local_reads: bool,
    /// Percent that two volumes' used shares may differ before replicas are moved between them; 0 for never.
    #[arg(long, default_value_t = DatanodeConfig::default().disk_balance_threshold, value_name = "PERCENT")]
    disk_balance_threshold: u32,
    /// Bytes a second for that.
    #[arg(long, default_value_t = DatanodeConfig::default().disk_balance_bandwidth, value_name = "BYTES")]
    disk_balance_bandwidth: u64,
    /// Time in which all replicas are reread and verified, such as 14d, 12h or 30m.
    #[arg(long, value_name = "TIME", default_value = "14d", value_parser = duration)]
    scrub_period: Duration,
    /// Greatest rate of this for each volume, in bytes a second.
    #[arg(long, value_name = "BYTES", default_value_t = DatanodeConfig::default().scrub_rate_max)]
    scrub_rate_max: u64,
}

/// A length of time that is not understood.
#[derive(Debug, thiserror::Error)]
#[error("not a length of time such as 14d, 12h, 30m or 90s")]
struct NotADuration;

fn duration(text: &str) -> Result<Duration, NotADuration> {
    let units = [('d', 24 * 3600), ('h', 3600), ('m', 60), ('s', 1)];
    let (number, seconds) = units
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, *seconds)))
        .ok_or(NotADuration)?;
    let number: u64 = number.parse().map_err(|_| NotADuration)?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or(NotADuration)
}

impl Options {
    fn into_config(self) -> DatanodeConfig {
        DatanodeConfig {
            namenode: self.namenode,
            volumes: self.volumes,
            bind: self.bind,
            xfer_port: self.xfer_port,
            ipc_port: self.ipc_port,
            http_port: self.http_port,
            advertised_ip: self.advertised_ip,
            hostname: self.hostname,
            rack: self.rack,
            reserved_bytes: self.reserved_bytes,
            max_xceivers: self.max_xceivers,
            max_transfers: self.max_transfers,
            local_reads: !self.no_local_reads,
            disk_balance_threshold: self.disk_balance_threshold,
            disk_balance_bandwidth: self.disk_balance_bandwidth,
            scrub_period: self.scrub_period,
            scrub_rate_max: self.scrub_rate_max,
            ..DatanodeConfig::default()
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    raise_file_limit();
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dfs-datanode: {}", dfs_proto::error::one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Allows as many open files as this process may have: each data connection has up to four.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn run(options: Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(ASYNC_THREADS)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
        let datanode = Datanode::start(options.into_config()).await?;
        tracing::info!(
            uuid = datanode.uuid(),
            xfer = %datanode.xfer_addr(),
            ipc = %datanode.ipc_addr(),
            http = %datanode.http_addr(),
            "datanode serves"
        );
        let refusal = tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            error = datanode.refused() => Some(error),
        };
        datanode.shutdown().await;
        match refusal {
            None => Ok(()),
            Some(error) => Err(anyhow::anyhow!(error)),
        }
    })
}
