//! `dfs-namenode check`, `backup` and `restore`.
//!
//! | exit code | meaning                                                   |
//! |-----------|-----------------------------------------------------------|
//! | 0         | done; the directory is sound                              |
//! | 1         | damage was found, or it could not be done                 |
//! | 2         | bad usage                                                 |

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use dfs_namenode::NODE_ID;
use dfs_namenode::maintenance::{self, BackedUp};
use nix::unistd::{Uid, User};

/// What an operator asks for instead of serving.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Verify a directory that no namenode uses: log, store, and that the namespace holds together
    Check {
        /// Directory of the log and the store.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Copy the namespace to a file, from a running namenode or from a directory that none uses
    Backup {
        /// Running namenode, as HOST:PORT; it goes on serving.
        #[arg(long, conflicts_with = "dir", required_unless_present = "dir", env = "DFS_NAMENODE")]
        namenode: Option<String>,
        /// Directory of a namenode that does not run.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// New file, or a directory in which it gets a name.
        #[arg(long)]
        to: PathBuf,
        /// Superuser to ask as [default: the user who runs this].
        #[arg(long, env = "DFS_USER")]
        user: Option<String>,
    },
    /// Make an empty directory a namenode's with the namespace of a backup
    Restore {
        /// The backup.
        #[arg(long)]
        from: PathBuf,
        /// Directory that is empty or does not exist.
        #[arg(long)]
        dir: PathBuf,
    },
}

/// Does it.
pub fn run(command: OperatorCommand) -> anyhow::Result<ExitCode> {
    match command {
        OperatorCommand::Check { dir } => check(&dir),
        OperatorCommand::Backup { dir: Some(dir), to, .. } => {
            backed_up(&maintenance::from_directory(&dir, &to)?);
            Ok(ExitCode::SUCCESS)
        }
        OperatorCommand::Backup { namenode, to, user, .. } => {
            let address = namenode.context("which namenode?")?;
            let user = match user {
                Some(user) => user,
                None => {
                    User::from_uid(Uid::effective()).ok().flatten().context("this user has no name")?.name
                }
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            backed_up(&runtime.block_on(maintenance::from_namenode(&address, &user, &to))?);
            Ok(ExitCode::SUCCESS)
        }
        OperatorCommand::Restore { from, dir } => {
            let restored = maintenance::restore(&from, &dir, NODE_ID)?;
            let (inodes, blocks) = restored.counts;
            println!("{}: restored up to entry {} of the log", dir.display(), restored.header.index);
            println!("cluster {}", restored.cluster_id.unwrap_or_default());
            println!(
                "{inodes} inodes, {blocks} blocks, {} rows; the namespace holds together",
                restored.rows
            );
            println!("Replicas that it does not know are kept until: dfs admin restored finish");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn backed_up(backup: &BackedUp) {
    let (path, index) = (backup.path.display(), backup.header.index);
    println!(
        "{path}: {} rows, {} bytes, up to entry {index} of the log; verified",
        backup.rows, backup.bytes
    );
}

fn check(dir: &std::path::Path) -> anyhow::Result<ExitCode> {
    let report = maintenance::check(dir)?;
    let log = &report.log;
    println!("cluster {}", report.cluster_id.as_deref().unwrap_or("(none yet)"));
    println!(
        "log: {} segments, entries {} to {}, {} of them not in the store yet, term {}",
        log.segments,
        log.first,
        log.next.saturating_sub(1),
        log.replayed,
        log.term
    );
    if let Some((path, offset, bytes)) = &log.torn {
        println!("{}: {bytes} bytes from offset {offset} on were never acknowledged", path.display());
    }
    for table in &report.tables {
        println!("table {}: {} rows, checksum {:08x}", table.table.name(), table.rows, table.checksum);
    }
    let (inodes, blocks) = report.counts;
    println!("{inodes} inodes, {blocks} blocks");
    for violation in &report.violations {
        println!("VIOLATION: {violation}");
    }
    if report.violations.is_empty() {
        println!("The namespace holds together");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} violations", report.violations.len());
    Ok(ExitCode::FAILURE)
}
