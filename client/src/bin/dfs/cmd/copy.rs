//! `dfs put`, `get` and `cp`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::cmd::content;
use crate::exit::UsageError;
use crate::namespace;
use crate::output::Out;
use crate::path::RemoteArg;
use crate::session::Session;
use crate::transfer::store_plan::{self, Item};
use crate::transfer::{DEFAULT_THREADS, MAX_THREADS, Options, Transfer, fetch};

/// The word that means standard input or output.
const STANDARD: &str = "-";

/// Flags that all copying verbs have.
#[derive(Debug, Args)]
pub struct CopyFlags {
    /// Replace existing files
    #[arg(short = 'f')]
    force: bool,
    /// Keep modes and times, and as superuser owners and groups
    #[arg(short = 'p')]
    preserve: bool,
    /// Accepted: directories are always copied with all below them
    #[arg(short = 'r', short_alias = 'R')]
    _recursive: bool,
    /// Write under the final name at once, not under NAME._COPYING_
    #[arg(short = 'd')]
    direct: bool,
    /// Files copied at once
    #[arg(short = 't', long = "threads", value_name = "N", default_value_t = DEFAULT_THREADS,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_THREADS)))]
    threads: u16,
}

/// Choices for new files.
#[derive(Debug, Args)]
pub struct NewFileFlags {
    /// Replicas of new files (default: the cluster's)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    replication: Option<u16>,
    /// Block size of new files, such as 64M (default: the cluster's)
    #[arg(long, value_name = "BYTES", value_parser = crate::human::parse)]
    block_size: Option<u64>,
}

impl CopyFlags {
    fn options(&self, new_files: Option<&NewFileFlags>) -> Options {
        Options {
            force: self.force,
            preserve: self.preserve,
            direct: self.direct,
            threads: self.threads,
            ignore_crc: false,
            replication: new_files.and_then(|flags| flags.replication),
            block_size: new_files.and_then(|flags| flags.block_size),
        }
    }
}

/// `dfs put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    #[command(flatten)]
    flags: CopyFlags,
    #[command(flatten)]
    new_files: NewFileFlags,
    /// Local files and directories (- is standard input), then the target (default: home directory)
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<OsString>,
}

/// Copies local files into the namespace.
pub async fn put(session: &Arc<Session>, args: &PutArgs) -> anyhow::Result<()> {
    let (sources, target) = match args.paths.as_slice() {
        [source] => (std::slice::from_ref(source), RemoteArg::home()),
        [sources @ .., target] => {
            let target = remote(target, "put")?;
            (sources, target)
        }
        [] => return Err(UsageError { verb: "put", problem: "no path given".to_owned() }.into()),
    };
    let items = sources
        .iter()
        .map(|source| if source == STANDARD { Item::Stdin } else { Item::Local(PathBuf::from(source)) })
        .collect();
    let transfer = Transfer::new(session, args.flags.options(Some(&args.new_files)))?;
    store_plan::copy(&transfer, items, session.resolve(&target)).await;
    Ok(())
}

/// An argument that is a path of the namespace.
fn remote(arg: &OsStr, verb: &'static str) -> Result<RemoteArg, UsageError> {
    RemoteArg::from_os(arg)
        .map_err(|error| UsageError { verb, problem: format!("`{}': {error}", arg.to_string_lossy()) })
}

/// `dfs get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    #[command(flatten)]
    flags: CopyFlags,
    /// Copy damaged files, too: bytes as they are on the disks where no replica matches its checksums
    #[arg(long, visible_alias = "ignoreCrc")]
    ignore_crc: bool,
    /// Files and directories, then the local target (- is standard output; default: current directory)
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<OsString>,
}

/// Copies files of the namespace to the local disk.
pub async fn get(session: &Arc<Session>, out: &mut Out, args: &GetArgs) -> anyhow::Result<()> {
    let (sources, target) = match args.paths.as_slice() {
        [source] => (std::slice::from_ref(source), PathBuf::from(".")),
        [sources @ .., target] => (sources, PathBuf::from(target)),
        [] => return Err(UsageError { verb: "get", problem: "no path given".to_owned() }.into()),
    };
    let sources = sources.iter().map(|source| remote(source, "get")).collect::<Result<Vec<_>, _>>()?;
    if target.as_os_str() == STANDARD {
        return if args.ignore_crc {
            content::print_rescued(session, out, &sources).await
        } else {
            content::print_all(session, out, &sources).await
        };
    }
    let nodes = namespace::nodes(session, &sources).await;
    if nodes.is_empty() {
        return Ok(());
    }
    let options = Options { ignore_crc: args.ignore_crc, ..args.flags.options(None) };
    let transfer = Transfer::new(session, options)?;
    fetch::copy(&transfer, nodes, target).await;
    Ok(())
}

/// `dfs cp`.
#[derive(Debug, Args)]
pub struct CpArgs {
    #[command(flatten)]
    flags: CopyFlags,
    #[command(flatten)]
    new_files: NewFileFlags,
    /// Sources, then the target: a new name, or a directory to copy into
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), num_args = 2.., required = true)]
    paths: Vec<RemoteArg>,
}

/// Copies files within the namespace.
pub async fn cp(session: &Arc<Session>, args: &CpArgs) -> anyhow::Result<()> {
    let Some((target, sources)) = args.paths.split_last() else {
        return Err(UsageError { verb: "cp", problem: "no path given".to_owned() }.into());
    };
    let nodes = namespace::nodes(session, sources).await;
    if nodes.is_empty() {
        return Ok(());
    }
    let items = nodes.into_iter().map(|node| Item::Remote(Box::new(node))).collect();
    let transfer = Transfer::new(session, args.flags.options(Some(&args.new_files)))?;
    store_plan::copy(&transfer, items, session.resolve(target)).await;
    Ok(())
}
