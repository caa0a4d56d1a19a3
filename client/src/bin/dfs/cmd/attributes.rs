//! `dfs chmod`, `chown`, `chgrp`, `setrep` and `touch`: changing attributes.

use std::time::{Duration, SystemTime};

use anyhow::bail;
use clap::Args;
use dfs_client::{AdminState, CreateOptions, DatanodeInfo, DatanodeState, DfsError, ErrorKind};

use crate::cmd::fsck_report::live_replicas;
use crate::mode::ModeChange;
use crate::namespace::{self, Node, Walk};
use crate::output::Out;
use crate::path::RemoteArg;
use crate::session::Session;
use crate::times;

/// How long `setrep -w` waits between looks, as a person sees no difference below.
const SETREP_POLL: Duration = Duration::from_millis(500);

/// Calls `change` for each node that the arguments name, and with `recursive` for all below.
async fn for_each<F>(session: &Session, paths: &[RemoteArg], recursive: bool, change: F)
where
    F: AsyncFn(&Node) -> Result<(), DfsError>,
{
    for root in namespace::nodes(session, paths).await {
        if let Err(error) = change(&root).await {
            session.fail(&root.path, &error);
        }
        if !recursive || !root.status.is_dir() {
            continue;
        }
        let mut walk = Walk::below(&session.client, root.path);
        while let Some(step) = walk.next().await {
            match step {
                Ok(node) => {
                    if let Err(error) = change(&node).await {
                        session.fail(&node.path, &error);
                    }
                }
                Err(failed) => session.fail(&failed.path, &failed.error),
            }
        }
    }
}

/// `dfs chmod`.
#[derive(Debug, Args)]
pub struct ChmodArgs {
    /// Change what is below, too
    #[arg(short = 'R')]
    recursive: bool,
    /// Octal (755) or symbolic (u+rwx,go-w)
    #[arg(allow_hyphen_values = true)]
    mode: ModeChange,
    /// Files and directories
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), required = true)]
    paths: Vec<RemoteArg>,
}

/// Changes permission bits.
pub async fn chmod(session: &Session, args: &ChmodArgs) -> anyhow::Result<()> {
    for_each(session, &args.paths, args.recursive, async |node| {
        let mode = args.mode.apply(node.status.mode, node.status.is_dir());
        session.client.set_permission(&node.path.absolute, mode).await
    })
    .await;
    Ok(())
}

/// Owner and group of `chown`: `OWNER`, `OWNER:GROUP`, `:GROUP`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerChange {
    owner: Option<String>,
    group: Option<String>,
}

/// An owner argument that names nobody.
#[derive(Debug, thiserror::Error)]
#[error("'{text}' does not match the expected pattern [OWNER][:[GROUP]]")]
pub struct OwnerError {
    text: String,
}

impl std::str::FromStr for OwnerChange {
    type Err = OwnerError;

    fn from_str(text: &str) -> Result<Self, OwnerError> {
        let some = |part: &str| (!part.is_empty()).then(|| part.to_owned());
        let (owner, group) = text.split_once(':').unwrap_or((text, ""));
        let change = Self { owner: some(owner), group: some(group) };
        let bad = text.contains(['/', ' ']) || group.contains(':');
        if bad || (change.owner.is_none() && change.group.is_none()) {
            return Err(OwnerError { text: text.to_owned() });
        }
        Ok(change)
    }
}

/// `dfs chown`.
#[derive(Debug, Args)]
pub struct ChownArgs {
    /// Change what is below, too
    #[arg(short = 'R')]
    recursive: bool,
    /// New owner, group, or both
    #[arg(value_name = "[OWNER][:GROUP]")]
    owner: OwnerChange,
    /// Files and directories
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), required = true)]
    paths: Vec<RemoteArg>,
}

/// Changes owners and groups.
pub async fn chown(session: &Session, args: &ChownArgs) -> anyhow::Result<()> {
    set_owner(session, &args.paths, args.recursive, &args.owner).await;
    Ok(())
}

/// `dfs chgrp`.
#[derive(Debug, Args)]
pub struct ChgrpArgs {
    /// Change what is below, too
    #[arg(short = 'R')]
    recursive: bool,
    /// New group
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    group: String,
    /// Files and directories
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), required = true)]
    paths: Vec<RemoteArg>,
}

/// Changes groups.
pub async fn chgrp(session: &Session, args: &ChgrpArgs) -> anyhow::Result<()> {
    let change = OwnerChange { owner: None, group: Some(args.group.clone()) };
    set_owner(session, &args.paths, args.recursive, &change).await;
    Ok(())
}

async fn set_owner(session: &Session, paths: &[RemoteArg], recursive: bool, change: &OwnerChange) {
    for_each(session, paths, recursive, async |node| {
        let (owner, group) = (change.owner.as_deref(), change.group.as_deref());
        session.client.set_owner(&node.path.absolute, owner, group).await
    })
    .await;
}

/// `dfs setrep`.
#[derive(Debug, Args)]
pub struct SetrepArgs {
    /// Accepted as in HDFS: directories are always descended
    #[arg(short = 'R')]
    _recursive: bool,
    /// Wait until the replicas are there
    #[arg(short = 'w')]
    wait: bool,
    /// Replicas wanted
    #[arg(value_parser = clap::value_parser!(u16).range(1..=512))]
    replication: u16,
    /// Files and directories
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), required = true)]
    paths: Vec<RemoteArg>,
}

/// Changes the replication of files.
pub async fn setrep(session: &Session, out: &mut Out, args: &SetrepArgs) -> anyhow::Result<()> {
    let changed = std::cell::RefCell::new(Vec::new());
    for_each(session, &args.paths, true, async |node| {
        if node.status.is_file() {
            session.client.set_replication(&node.path.absolute, args.replication).await?;
            changed.borrow_mut().push((node.path.clone(), node.status.size));
        }
        Ok(())
    })
    .await;
    let changed = changed.into_inner();
    for (path, _) in &changed {
        out.line(format_args!("Replication {} set: {}", args.replication, path.shown))?;
    }
    if !args.wait {
        return Ok(());
    }
    let able = able_datanodes(session).await?;
    if usize::from(args.replication) > able && !changed.is_empty() {
        bail!("{able} datanodes take replicas: waiting for {} of each block is in vain", args.replication);
    }
    for (path, size) in &changed {
        out.bytes(format!("Waiting for {} ...", path.shown).as_bytes())?;
        loop {
            out.flush()?;
            match session.client.locate(&path.absolute, 0, *size).await {
                Ok(blocks) if blocks.iter().all(|b| live_replicas(b) == usize::from(args.replication)) => {
                    out.line(format_args!(" done"))?;
                    break;
                }
                Ok(_) => {
                    out.bytes(b".")?;
                    tokio::time::sleep(SETREP_POLL).await;
                }
                Err(error) => {
                    out.line(format_args!(""))?;
                    session.fail(path, &error);
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Datanodes that are up and stay.
async fn able_datanodes(session: &Session) -> Result<usize, DfsError> {
    let up = |info: &&DatanodeInfo| match info.state() {
        DatanodeState::Live | DatanodeState::Stale => info.admin_state() == AdminState::Normal,
        DatanodeState::Dead | DatanodeState::Unspecified => false,
    };
    let reports = session.client.datanodes().await?;
    Ok(reports.iter().filter_map(|report| report.info.as_ref()).filter(up).count())
}

/// `dfs touch`.
#[derive(Debug, Args)]
pub struct TouchArgs {
    /// Change the access time only
    #[arg(short = 'a')]
    access: bool,
    /// Change the modification time only
    #[arg(short = 'm')]
    modification: bool,
    /// Do not create what does not exist
    #[arg(short = 'c')]
    no_create: bool,
    /// Time to set, yyyyMMdd:HHmmss in local time (default: now)
    #[arg(short = 't', value_name = "TIME", value_parser = touch_time)]
    time: Option<i64>,
    /// Files
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), required = true)]
    paths: Vec<RemoteArg>,
}

/// A time argument that is no time.
#[derive(Debug, thiserror::Error)]
#[error("not a time of the form yyyyMMdd:HHmmss")]
pub struct TimeError;

fn touch_time(text: &str) -> Result<i64, TimeError> {
    times::parse_touch(text).ok_or(TimeError)
}

/// Creates empty files, and sets the times of existing ones.
pub async fn touch(session: &Session, args: &TouchArgs) -> anyhow::Result<()> {
    let time = times::to_system(args.time.unwrap_or_else(times::now_ns));
    for path in namespace::paths(session, &args.paths).await {
        if let Err(error) = touch_one(session, args, &path.absolute, time).await {
            session.fail(&path, &error);
        }
    }
    Ok(())
}

async fn touch_one(
    session: &Session,
    args: &TouchArgs,
    path: &str,
    time: SystemTime,
) -> Result<(), DfsError> {
    let both = args.access == args.modification;
    let accessed = (both || args.access).then_some(time);
    let modified = (both || args.modification).then_some(time);
    match session.client.set_times(path, accessed, modified).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        outcome => return outcome,
    }
    if args.no_create {
        return Ok(());
    }
    let empty = CreateOptions { allocate_block: false, ..CreateOptions::default() };
    session.client.create(path, empty).await?.close().await?;
    if args.time.is_some() {
        session.client.set_times(path, accessed, modified).await?;
    }
    Ok(())
}

/// `dfs touchz`.
#[derive(Debug, Args)]
pub struct TouchzArgs {
    /// Files
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), required = true)]
    paths: Vec<RemoteArg>,
}

/// Creates empty files; an existing file that is not empty is an error.
pub async fn touchz(session: &Session, args: &TouchzArgs) -> anyhow::Result<()> {
    for path in namespace::paths(session, &args.paths).await {
        let outcome = async {
            match session.client.stat(&path.absolute).await {
                Ok(status) if status.is_dir() => {
                    session.fail_about(&path.shown, ErrorKind::IsADirectory.text());
                    return Ok(());
                }
                Ok(status) if status.size > 0 => {
                    session.fail_about(&path.shown, "Not a zero-length file");
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let options =
                CreateOptions { overwrite: true, allocate_block: false, ..CreateOptions::default() };
            session.client.create(&path.absolute, options).await?.close().await.map(drop)
        };
        if let Err(error) = outcome.await {
            session.fail(&path, &error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_and_groups_are_told_apart() {
        let parsed = |text: &str| text.parse::<OwnerChange>().ok().map(|c| (c.owner, c.group));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parsed("a"), Some((some("a"), None)));
        assert_eq!(parsed("a:"), Some((some("a"), None)));
        assert_eq!(parsed(":g"), Some((None, some("g"))));
        assert_eq!(parsed("a:g"), Some((some("a"), some("g"))));
        assert_eq!(parsed(""), None);
        assert_eq!(parsed(":"), None);
        assert_eq!(parsed("a:b:c"), None);
    }
}
