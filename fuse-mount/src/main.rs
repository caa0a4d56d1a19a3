//! `dfs-fuse`: mounts a cluster.
//!
//! Called by `dfs mount`, or by mount(8) as `/sbin/mount.fuse.dfs`. Exit codes: 0 the mount serves (or, in the
//! foreground, has ended well), 1 it does not, 2 bad usage.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use dfs_fuse::takeover::{self, Place};
use dfs_fuse::{MountError, Options, daemon, remount, serve};
use tracing_subscriber::EnvFilter;

/// Mounting did not succeed.
const FAILED: u8 = 1;
/// The command line makes no sense.
const BAD_USAGE: u8 = 2;

/// Mounts a dfs cluster.
#[derive(Debug, Parser)]
#[command(name = "dfs-fuse", version)]
struct Arguments {
    /// Mount point, with what to mount before it: HOST:PORT[/PATH] of the namenode
    #[arg(value_name = "[SOURCE] MOUNTPOINT", required = true, num_args = 1..=2)]
    places: Vec<OsString>,
    /// Mount options, as for mount(8), separated by commas
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Address of the namenode
    #[arg(long, value_name = "HOST:PORT", env = "DFS_NAMENODE")]
    namenode: Option<String>,
    /// User in whose name the mount itself asks (default: the user of the operating system)
    #[arg(long, value_name = "NAME", env = "DFS_USER")]
    user: Option<String>,
    /// Directory of the cluster to mount
    #[arg(long, value_name = "PATH")]
    subdir: Option<String>,
    /// Seconds for which names and attributes are believed (default 1)
    #[arg(long, value_name = "SECONDS")]
    cache_ttl: Option<String>,
    /// Bound of buffers and caches, such as 512m
    #[arg(long, value_name = "BYTES")]
    memory: Option<String>,
    /// Seconds that operations wait for servers that are away (default 60)
    #[arg(long, value_name = "SECONDS")]
    wait: Option<String>,
    /// Replication of new files (default: the cluster's)
    #[arg(long, value_name = "N")]
    replication: Option<String>,
    /// Block size of new files, such as 128m (default: the cluster's)
    #[arg(long, value_name = "BYTES")]
    block_size: Option<String>,
    /// Let the kernel gather what is written: faster small writes, but other mounts' changes of sizes are not seen
    #[arg(long)]
    writeback_cache: bool,
    /// Let the kernel read files by itself whose only block is on this machine (root only)
    #[arg(long)]
    passthrough: bool,
    /// Log file (default: the journal, or a file in $XDG_STATE_HOME/dfs/logs or ~/.dfs/logs)
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Stay in the foreground and log to standard error
    #[arg(long)]
    foreground: bool,
    /// Be the process in the background
    #[arg(long, hide = true)]
    background: bool,
    /// Accepted from mount(8) and not needed: sloppy
    #[arg(short = 's', hide = true)]
    sloppy: bool,
    /// Do everything but mount
    #[arg(short = 'f', hide = true)]
    fake: bool,
    /// Accepted from mount(8) and not needed: no mtab
    #[arg(short = 'n', hide = true)]
    no_mtab: bool,
    /// Accepted from mount(8) and not needed: verbose
    #[arg(short = 'v', hide = true)]
    verbose: bool,
    /// Type, from mount(8)
    #[arg(short = 't', hide = true)]
    kind: Option<String>,
}

impl Arguments {
    fn options(&self) -> Result<Options, MountError> {
        // clap has seen to it that there are one or two.
        let source = self.places.first().filter(|_| self.places.len() > 1);
        let mut options = Options::new(self.places.last().map(PathBuf::from).unwrap_or_default());
        if let Some(namenode) = &self.namenode {
            options.source(namenode)?;
        }
        if let Some(source) = source {
            options.source(&source.to_string_lossy())?;
        }
        for list in &self.options {
            options.list(list)?;
        }
        if let Some(path) = &self.subdir {
            options.subdir(path)?;
        }
        for (name, value) in [
            ("cache-ttl", &self.cache_ttl),
            ("memory", &self.memory),
            ("wait", &self.wait),
            ("replication", &self.replication),
            ("block-size", &self.block_size),
        ] {
            if let Some(value) = value {
                options.list(&format!("{name}={value}"))?;
            }
        }
        for (name, given) in [("writeback-cache", self.writeback_cache), ("passthrough", self.passthrough)] {
            if given {
                options.list(name)?;
            }
        }
        options.user = self.user.clone().or(options.user);
        options.log = self.log.clone().or(options.log);
        Ok(options)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut options = match arguments.options() {
        Ok(options) => options,
        Err(error) => return fail(&error, BAD_USAGE),
    };
    let (fake, log) = (arguments.fake, options.log.clone());
    let outcome = absolute(&mut options).and_then(|()| {
        if fake {
            Ok(())
        } else if arguments.background {
            in_background(&options)
        } else if options.remount {
            remount(&options)
        } else if let Place::Alive(mounted) = look(&options.mountpoint)? {
            let mounted = mounted.source.to_string_lossy().into_owned();
            Err(MountError::Busy { path: options.mountpoint.clone(), mounted })
        } else if arguments.foreground {
            log.as_deref().map_or(Ok(()), daemon::log_to)?;
            start_logging();
            serve(&options, |_| {})
        } else {
            let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
            let said = daemon::start(&arguments, log.as_deref(), &options.mountpoint)?;
            if !said.is_empty() {
                message(format_args!("dfs-fuse: {}: {said}", options.mountpoint.display()));
            }
            Ok(())
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, FAILED),
    }
}

/// Paths that stay right when the process leaves its directory.
fn absolute(options: &mut Options) -> Result<(), MountError> {
    let path = &options.mountpoint;
    let absolute =
        takeover::absolute(path).map_err(|source| MountError::Mountpoint { path: path.clone(), source })?;
    options.mountpoint = absolute;
    Ok(())
}

fn in_background(options: &Options) -> Result<(), MountError> {
    daemon::leave()?;
    start_logging();
    let outcome = serve(options, daemon::ready);
    if let Err(error) = &outcome {
        tracing::error!(%error, "the mount has ended");
        daemon::failed(error);
    }
    outcome
}

/// What is at the mount point: a mount that lives is in the way.
fn look(path: &Path) -> Result<Place, MountError> {
    takeover::look(path).map_err(|source| MountError::Mountpoint { path: path.to_owned(), source })
}

/// Logs to standard error; `RUST_LOG` says how much.
fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,fuser=error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
}

fn fail(error: &MountError, code: u8) -> ExitCode {
    message(format_args!("dfs-fuse: {}", error.to_string().replace('\n', " ")));
    ExitCode::from(code)
}

/// Prints a line on standard error. A closed standard error is nobody's problem.
fn message(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
