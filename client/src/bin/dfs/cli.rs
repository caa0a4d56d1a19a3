//! The command line as clap sees it: global options and one variant a verb.
//!
//! Everything that can be checked without a server is checked here while parsing, so that bad usage
//! ends with code 2 before anything is done.

use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::cmd::{
    admin, attributes, balancer, checksum, content, copy, find, fsck, ls, names, stat, usage, write,
};
use crate::{bench, cluster, mount};

/// A distributed block file system: files, cluster and benchmarks.
#[derive(Debug, Parser)]
#[command(name = "dfs", version, disable_help_flag = true, disable_help_subcommand = false)]
pub struct Cli {
    /// Options that every verb takes.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every verb takes.
#[derive(Clone, Debug, Default, Args)]
pub struct GlobalArgs {
    /// Address of the namenode (default: dfs.toml, then 127.0.0.1:9820)
    #[arg(long, global = true, value_name = "HOST:PORT", env = "DFS_NAMENODE")]
    pub namenode: Option<String>,
    /// User to act as (default: dfs.toml, then the operating system's user)
    #[arg(long, global = true, value_name = "NAME", env = "DFS_USER")]
    pub user: Option<String>,
    /// Print help
    #[arg(long, global = true, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// What `dfs` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A verb that asks a cluster.
    #[command(flatten)]
    Verb(Verb),
    /// Start, stop or show a cluster on this machine
    Cluster(cluster::ClusterArgs),
    /// Mount a cluster
    Mount(mount::MountArgs),
    /// Unmount a cluster and wait until everything is written back
    #[command(visible_alias = "unmount")]
    Umount(mount::UmountArgs),
    /// Measure the cluster beside the machine's limits
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
}

/// The verbs that ask a cluster.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Copy local files into the namespace
    #[command(visible_alias = "copyFromLocal")]
    Put(copy::PutArgs),
    /// Copy files of the namespace to the local disk
    #[command(visible_alias = "copyToLocal")]
    Get(copy::GetArgs),
    /// Print files
    Cat(content::CatArgs),
    /// Print the end of a file
    Tail(content::TailArgs),
    /// Print the beginning of files
    Head(content::HeadArgs),
    /// List directories
    Ls(ls::LsArgs),
    /// Make directories
    Mkdir(names::MkdirArgs),
    /// Remove empty directories
    Rmdir(names::RmdirArgs),
    /// Move files and directories
    Mv(names::MvArgs),
    /// Copy files within the namespace
    Cp(copy::CpArgs),
    /// Move files and directories to the trash, or remove them for good
    Rm(names::RmArgs),
    /// Make a checkpoint of the trash and delete old ones
    Expunge(names::ExpungeArgs),
    /// Create empty files, or set times
    Touch(attributes::TouchArgs),
    /// Create empty files
    Touchz(attributes::TouchzArgs),
    /// Print attributes
    Stat(stat::StatArgs),
    /// Print the space that files take
    Du(usage::DuArgs),
    /// Print the capacity of the cluster
    Df(usage::DfArgs),
    /// Count directories, files and bytes
    Count(usage::CountArgs),
    /// Find names
    Find(find::FindArgs),
    /// Change permission bits
    Chmod(attributes::ChmodArgs),
    /// Change owners and groups
    Chown(attributes::ChownArgs),
    /// Change groups
    Chgrp(attributes::ChgrpArgs),
    /// Change the replication of files
    Setrep(attributes::SetrepArgs),
    /// Append local content to a file
    #[command(visible_alias = "appendToFile")]
    Append(write::AppendArgs),
    /// Cut files
    Truncate(write::TruncateArgs),
    /// Print checksums of files
    Checksum(checksum::ChecksumArgs),
    /// Answer a question by the exit code
    Test(stat::TestArgs),
    /// Check that all blocks are there
    Fsck(fsck::FsckArgs),
    /// Show the state of the cluster
    Admin(admin::AdminArgs),
    /// Move blocks from full datanodes to empty ones
    Balancer(balancer::BalancerArgs),
}

/// `dfs completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// Shell to complete for
    shell: Shell,
}

/// Writes the completion script to standard output.
pub fn completion(args: &CompletionArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dfs", &mut script);
    crate::exit::write_stdout(&script)?;
    Ok(ExitCode::SUCCESS)
}
