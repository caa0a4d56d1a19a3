//! The program `dfs-namenode`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use dfs_namenode::{Namenode, NamenodeConfig};
use tokio::signal::unix::{SignalKind, signal};

mod operator;

use operator::OperatorCommand;

/// What is logged unless RUST_LOG says otherwise. openraft's timer warns of a second shutdown whenever it is dropped
/// after the first.
const LOG_FILTER: &str = "info,openraft=warn,openraft::core::tick=error";

/// Milliseconds in a minute.
const MINUTE_MS: u64 = 60_000;

/// Keeps the namespace of a dfs cluster and the places of its blocks.
#[derive(Debug, Parser)]
#[command(
    name = "dfs-namenode",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Args {
    #[command(subcommand)]
    command: Option<OperatorCommand>,
    #[command(flatten)]
    serve: ServeArgs,
}

/// Settings of a namenode that serves.
#[derive(Debug, clap::Args)]
struct ServeArgs {
    /// Directory of the log and the store; an empty one is formatted.
    #[arg(long, required = true)]
    dir: Option<PathBuf>,
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    bind: IpAddr,
    /// gRPC port.
    #[arg(long, default_value_t = dfs_proto::ports::NAMENODE_RPC)]
    rpc_port: u16,
    /// HTTP port.
    #[arg(long, default_value_t = dfs_proto::ports::NAMENODE_HTTP)]
    http_port: u16,
    /// Replicas of files that ask for none.
    #[arg(long, default_value_t = 3)]
    replication: u16,
    /// Block size in bytes of files that ask for none.
    #[arg(long, default_value_t = 128 << 20)]
    block_size: u64,
    /// Least block size in bytes that a file may ask for.
    #[arg(long, default_value_t = 1 << 20, env = "DFS_MIN_BLOCK_SIZE")]
    min_block_size: u64,
    /// User whose permissions are never checked [default: the starting user].
    #[arg(long)]
    superuser: Option<String>,
    /// Group whose members are superusers.
    #[arg(long, default_value = "supergroup")]
    supergroup: String,
    /// A user's group in addition to the system's, as USER:GROUP; may be repeated.
    #[arg(long = "group", value_name = "USER:GROUP", value_parser = user_and_group)]
    groups: Vec<(String, String)>,
    /// Milliseconds between heartbeats of a datanode.
    #[arg(long, default_value_t = 1_000)]
    heartbeat_ms: u32,
    /// Silence in milliseconds after which a datanode is stale.
    #[arg(long, default_value_t = 5_000)]
    stale_ms: u64,
    /// Silence in milliseconds after which a datanode is dead.
    #[arg(long, default_value_t = 30_000)]
    dead_ms: u64,
    /// Milliseconds between two full block reports of a datanode.
    #[arg(long, default_value_t = 6 * 3600 * 1000)]
    block_report_ms: u64,
    /// Age in milliseconds of a lease after which another writer may take the file.
    #[arg(long, default_value_t = 60_000)]
    soft_lease_ms: u64,
    /// Age in milliseconds of a lease after which the namenode closes the file.
    #[arg(long, default_value_t = 20 * 60 * 1000)]
    hard_lease_ms: u64,
    /// Silence in milliseconds after which a mount's session ends.
    #[arg(long, default_value_t = 30_000)]
    session_timeout_ms: u64,
    /// Bytes that stay free on the disk of the directory; below, changes are refused.
    #[arg(long, default_value_t = 100 << 20)]
    reserved_bytes: u64,
    /// Minutes for which checkpoints of users' trash are kept; 0: what is removed is gone at once.
    #[arg(long, default_value_t = 24 * 60)]
    trash_minutes: u64,
    /// Minutes between checkpoints of users' trash.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    trash_checkpoint_minutes: u64,
    /// Percent that a datanode's used share may be from the cluster's before blocks are moved.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    balance_threshold: u32,
    /// Bytes a second and datanode for moving blocks in the background; 0: none are moved.
    #[arg(long, default_value_t = 10 << 20)]
    background_balance_bandwidth: u64,
    /// Bytes of memory for the store's pages.
    #[arg(long, default_value_t = 96 << 20)]
    cache_bytes: usize,
}

fn user_and_group(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((user, group)) if !user.is_empty() && !group.is_empty() => Ok((user.into(), group.into())),
        _ => Err("expected USER:GROUP".to_owned()),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.command {
        Some(command) => operator::run(command),
        None => serve(args.serve).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("dfs-namenode: {}", dfs_proto::error::one_line(error.as_ref()));
        ExitCode::FAILURE
    })
}

fn serve(args: ServeArgs) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOG_FILTER)),
        )
        .init();
    let config = NamenodeConfig {
        bind: args.bind,
        rpc_port: args.rpc_port,
        http_port: args.http_port,
        default_replication: args.replication,
        default_block_size: args.block_size,
        min_block_size: args.min_block_size,
        superuser: args.superuser,
        supergroup: args.supergroup,
        static_groups: args.groups,
        heartbeat_interval_ms: args.heartbeat_ms,
        stale_after_ms: args.stale_ms,
        dead_after_ms: args.dead_ms,
        block_report_interval_ms: args.block_report_ms,
        soft_lease_ms: args.soft_lease_ms,
        hard_lease_ms: args.hard_lease_ms,
        session_timeout_ms: args.session_timeout_ms,
        reserved_bytes: args.reserved_bytes,
        trash_keep_ms: args.trash_minutes.saturating_mul(MINUTE_MS),
        trash_checkpoint_ms: args.trash_checkpoint_minutes.saturating_mul(MINUTE_MS),
        balance_threshold: args.balance_threshold * 100,
        background_balance_bandwidth: args.background_balance_bandwidth,
        cache_bytes: args.cache_bytes,
        ..NamenodeConfig::new(args.dir.unwrap_or_default())
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("namenode")
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(async {
        let namenode = Namenode::start(config).await?;
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            error = namenode.failed() => {
                eprintln!("dfs-namenode: {}", dfs_proto::error::one_line(&error));
                // Nothing is saved on the way out: what the disk has of the log is all that counts, and the state must
                // not get ahead of it.
                std::process::exit(1);
            }
        }
        tracing::info!("stopping");
        namenode.shutdown().await;
        Ok(())
    })
}
