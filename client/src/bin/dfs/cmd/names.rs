//! `dfs mkdir`, `rmdir`, `rm`, `expunge` and `mv`: making, removing and moving names.

use clap::Args;
use dfs_client::{ErrorKind, MkdirOptions, RenameOptions, Trashed};

use crate::exit::UsageError;
use crate::mode::{ALL_BITS, ModeChange};
use crate::namespace::{self, is_absent, stat_if_exists};
use crate::output::Out;
use crate::path::{RemoteArg, RemotePath};
use crate::session::Session;

/// `dfs mkdir`.
#[derive(Debug, Args)]
pub struct MkdirArgs {
    /// Make missing parents, and do not mind an existing directory
    #[arg(short = 'p')]
    parents: bool,
    /// Permission bits of the new directory, in octal
    #[arg(short = 'm', long = "mode", value_name = "MODE", value_parser = octal)]
    mode: Option<u32>,
    /// Directories to make
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), required = true)]
    paths: Vec<RemoteArg>,
}

fn octal(text: &str) -> Result<u32, crate::mode::ModeError> {
    Ok(text.parse::<ModeChange>()?.apply(0, true) & ALL_BITS)
}

/// Makes directories.
pub async fn mkdir(session: &Session, args: &MkdirArgs) -> anyhow::Result<()> {
    let default = MkdirOptions::default();
    let options = MkdirOptions { mode: args.mode.unwrap_or(default.mode), parents: args.parents };
    for arg in &args.paths {
        let path = session.resolve(arg);
        if let Err(error) = session.client.mkdir(&path.absolute, options).await {
            session.fail(&path, &error);
        }
    }
    Ok(())
}

/// `dfs rmdir`.
#[derive(Debug, Args)]
pub struct RmdirArgs {
    /// Do not fail if a directory has entries
    #[arg(long)]
    ignore_fail_on_non_empty: bool,
    /// Directories to remove
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), required = true)]
    paths: Vec<RemoteArg>,
}

/// Removes empty directories.
pub async fn rmdir(session: &Session, args: &RmdirArgs) -> anyhow::Result<()> {
    for node in namespace::nodes(session, &args.paths).await {
        if !node.status.is_dir() {
            session.fail_about(&node.path.shown, ErrorKind::NotADirectory.text());
            continue;
        }
        match session.client.delete(&node.path.absolute, false).await {
            Ok(true) => {}
            Ok(false) => session.fail_about(&node.path.shown, ErrorKind::NotFound.text()),
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && args.ignore_fail_on_non_empty => {}
            Err(error) => session.fail(&node.path, &error),
        }
    }
    Ok(())
}

/// `dfs rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Remove directories with all below them
    #[arg(short = 'r', short_alias = 'R')]
    recursive: bool,
    /// Do not mind what does not exist
    #[arg(short = 'f')]
    force: bool,
    /// Remove for good instead of moving to the trash
    #[arg(long = "skipTrash", visible_alias = "skip-trash")]
    skip_trash: bool,
    /// Files and directories to remove
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), required = true)]
    paths: Vec<RemoteArg>,
}

/// Removes files and directories.
pub async fn rm(session: &Session, out: &mut Out, args: &RmArgs) -> anyhow::Result<()> {
    for arg in &args.paths {
        for path in rm_paths(session, args, arg).await {
            rm_one(session, out, args, &path).await?;
        }
    }
    Ok(())
}

/// Like [`namespace::paths`], but with `-f` a pattern without a match is nothing to report.
async fn rm_paths(session: &Session, args: &RmArgs, arg: &RemoteArg) -> Vec<RemotePath> {
    if args.force {
        return namespace::paths_if_any(session, arg).await;
    }
    namespace::paths(session, std::slice::from_ref(arg)).await
}

async fn rm_one(session: &Session, out: &mut Out, args: &RmArgs, path: &RemotePath) -> anyhow::Result<()> {
    if path.absolute == "/" {
        session.fail_about("/", "The root directory cannot be removed");
        return Ok(());
    }
    if !args.skip_trash {
        match session.client.move_to_trash(&path.absolute, args.recursive).await {
            Ok(Trashed::Moved(to)) => {
                out.line(format_args!("Moved: '{}' to trash at: {to}", path.shown))?;
                return Ok(());
            }
            Ok(Trashed::Inside | Trashed::Off) => {}
            Err(error) if is_absent(&error) && args.force => return Ok(()),
            Err(error) => {
                session.fail(path, &error);
                return Ok(());
            }
        }
    }
    remove_for_good(session, out, args, path).await
}

async fn remove_for_good(
    session: &Session,
    out: &mut Out,
    args: &RmArgs,
    path: &RemotePath,
) -> anyhow::Result<()> {
    if !args.recursive {
        match session.client.stat(&path.absolute).await {
            Ok(status) if status.is_dir() => {
                session.fail_about(&path.shown, ErrorKind::IsADirectory.text());
                return Ok(());
            }
            Ok(_) => {}
            Err(error) if is_absent(&error) && args.force => return Ok(()),
            Err(error) => {
                session.fail(path, &error);
                return Ok(());
            }
        }
    }
    match session.client.delete(&path.absolute, args.recursive).await {
        Ok(true) => out.line(format_args!("Deleted {}", path.shown))?,
        Ok(false) if args.force => {}
        Ok(false) => session.fail_about(&path.shown, ErrorKind::NotFound.text()),
        Err(error) if is_absent(&error) && args.force => {}
        Err(error) => session.fail(path, &error),
    }
    Ok(())
}

/// `dfs expunge`.
#[derive(Debug, Args)]
pub struct ExpungeArgs {
    /// Delete everything in the trash, however young
    #[arg(long)]
    immediate: bool,
}

/// Makes a checkpoint of the user's trash and deletes old ones.
pub async fn expunge(session: &Session, out: &mut Out, args: &ExpungeArgs) -> anyhow::Result<()> {
    let expunged = session.client.expunge(args.immediate).await?;
    if let Some(made) = &expunged.made {
        out.line(format_args!("Created trash checkpoint: {made}"))?;
    }
    for deleted in &expunged.deleted {
        out.line(format_args!("Deleted trash checkpoint: {deleted}"))?;
    }
    Ok(())
}

/// `dfs mv`.
#[derive(Debug, Args)]
pub struct MvArgs {
    /// Sources, then the target: a new name, or a directory to move into
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), num_args = 2.., required = true)]
    paths: Vec<RemoteArg>,
}

/// Moves files and directories. Never replaces anything, as in HDFS.
pub async fn mv(session: &Session, args: &MvArgs) -> anyhow::Result<()> {
    let Some((target, sources)) = args.paths.split_last() else {
        return Err(UsageError { verb: "mv", problem: "no path given".to_owned() }.into());
    };
    let target = session.resolve(target);
    let sources = namespace::paths(session, sources).await;
    let into = match stat_if_exists(&session.client, &target).await {
        Ok(existing) => existing.is_some_and(|status| status.is_dir()),
        Err(error) => {
            session.fail(&target, &error);
            return Ok(());
        }
    };
    if sources.len() > 1 && !into {
        session.fail_about(&target.shown, ErrorKind::NotADirectory.text());
        return Ok(());
    }
    for source in sources {
        let target = if into { target.child(source.name()) } else { target.clone() };
        let options = RenameOptions { overwrite: false };
        if let Err(error) = session.client.rename(&source.absolute, &target.absolute, options).await {
            session.fail_either(&source, &target, &error);
        }
    }
    Ok(())
}
