//! `dfs mount` and `dfs umount`.
//!
//! Mounting is the work of the program `dfs-fuse`, which lies beside this one; it returns when the mount serves.

mod mounted;

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Context;
use clap::Args;

pub use mounted::{MountPoint, State};

use crate::exit;
use crate::globals::Globals;

/// The program that mounts.
const PROGRAM: &str = "dfs-fuse";

/// `dfs mount`.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// Mount point, with what to mount before it: HOST:PORT[/PATH] of the namenode
    #[arg(value_name = "[SOURCE] MOUNTPOINT", required = true, num_args = 1..=2)]
    places: Vec<OsString>,
    /// Mount options, as for mount(8): ro, allow_other, uid=N, gid=N, subdir=PATH, cache-ttl=SECONDS, memory=BYTES,
    /// wait=SECONDS, log=FILE, replication=N, block-size=BYTES, writeback-cache, passthrough, nodelegations, nosuid, nodev ...
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<OsString>,
    /// Directory of the cluster to mount
    #[arg(long, value_name = "PATH")]
    subdir: Option<OsString>,
    /// Seconds for which names and attributes are believed (default 1)
    #[arg(long, value_name = "SECONDS")]
    cache_ttl: Option<OsString>,
    /// Bound of buffers and caches (default 512m)
    #[arg(long, value_name = "BYTES")]
    memory: Option<OsString>,
    /// Seconds that operations wait for servers that are away (default 60)
    #[arg(long, value_name = "SECONDS")]
    wait: Option<OsString>,
    /// Replication of new files (default: the cluster's)
    #[arg(long, value_name = "N")]
    replication: Option<OsString>,
    /// Block size of new files, such as 128m (default: the cluster's)
    #[arg(long, value_name = "BYTES")]
    block_size: Option<OsString>,
    /// Let the kernel gather what is written: faster small writes, but other mounts' changes of sizes are not seen
    #[arg(long)]
    writeback_cache: bool,
    /// Let the kernel read files by itself whose only block is on this machine (root only)
    #[arg(long)]
    passthrough: bool,
    /// Log file (default: the journal, or a file in $XDG_STATE_HOME/dfs/logs or ~/.dfs/logs)
    #[arg(long, value_name = "FILE")]
    log: Option<OsString>,
    /// Stay in the foreground and log to standard error
    #[arg(long)]
    foreground: bool,
}

/// `dfs umount`.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Mount point
    mountpoint: PathBuf,
    /// Seconds to wait until everything is written back
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
}

/// Mounts: becomes the program that does it.
pub fn mount(args: &MountArgs, globals: &Globals) -> anyhow::Result<ExitCode> {
    let mut command = program()?;
    command.args(arguments(args, globals));
    Err(anyhow::Error::new(command.exec()).context(format!("mount: {PROGRAM}")))
}

/// Mounts `namenode` at `mountpoint` with the log in `log`, and returns when it serves.
pub fn mount_local(namenode: &str, mountpoint: &Path, log: &Path) -> anyhow::Result<()> {
    let mut command = program()?;
    command.arg("--namenode").arg(namenode).arg("--log").arg(log).arg("--").arg(mountpoint);
    // Its messages tell what went wrong.
    let status = command.status().with_context(|| format!("mount: {PROGRAM}"))?;
    anyhow::ensure!(status.success(), "cluster: {} is not mounted", mountpoint.display());
    Ok(())
}

/// Unmounts and waits until everything is written back.
pub fn umount(args: &UmountArgs) -> anyhow::Result<ExitCode> {
    let place = MountPoint::new(&args.mountpoint)
        .with_context(|| format!("umount: {}", args.mountpoint.display()))?;
    if place.unmount(Duration::from_secs(args.timeout)).map_err(|error| anyhow::anyhow!("umount: {error}"))? {
        return Ok(ExitCode::SUCCESS);
    }
    exit::message(format_args!("umount: {}: not a mount of dfs", place.path().display()));
    Ok(ExitCode::from(exit::FAILED))
}

/// The program beside this one; installed elsewhere, it is looked for in `PATH`.
fn program() -> anyhow::Result<Command> {
    let own = std::env::current_exe().context("cannot tell where this program lies")?;
    let beside = own.with_file_name(PROGRAM);
    Ok(Command::new(if beside.is_file() { beside.as_os_str() } else { OsStr::new(PROGRAM) }))
}

fn arguments(args: &MountArgs, globals: &Globals) -> Vec<OsString> {
    let mut all: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: &OsStr| {
        let mut word = OsString::from(name);
        word.push("=");
        word.push(value);
        all.push(word);
    };
    option("--namenode", globals.namenode.as_ref());
    option("--user", globals.user.as_ref());
    let given = [
        ("--subdir", &args.subdir),
        ("--cache-ttl", &args.cache_ttl),
        ("--memory", &args.memory),
        ("--wait", &args.wait),
        ("--replication", &args.replication),
        ("--block-size", &args.block_size),
        ("--log", &args.log),
    ];
    for (name, value) in given {
        if let Some(value) = value {
            option(name, value);
        }
    }
    for list in &args.options {
        all.push("-o".into());
        all.push(list.clone());
    }
    for (name, given) in [("--writeback-cache", args.writeback_cache), ("--passthrough", args.passthrough)] {
        if given {
            all.push(name.into());
        }
    }
    if args.foreground {
        all.push("--foreground".into());
    }
    all.push("--".into());
    all.extend(args.places.iter().cloned());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_passed_on() {
        let args = MountArgs {
            places: vec!["nn:1/a".into(), "/mnt".into()],
            options: vec!["ro,uid=7".into()],
            subdir: None,
            cache_ttl: Some("2.5".into()),
            memory: None,
            wait: None,
            replication: None,
            block_size: None,
            writeback_cache: false,
            passthrough: true,
            log: None,
            foreground: true,
        };
        let globals = Globals { namenode: "h:2".into(), user: "ann".into() };
        assert_eq!(
            arguments(&args, &globals),
            [
                "--namenode=h:2",
                "--user=ann",
                "--cache-ttl=2.5",
                "-o",
                "ro,uid=7",
                "--passthrough",
                "--foreground",
                "--",
                "nn:1/a",
                "/mnt"
            ]
        );
    }
}
