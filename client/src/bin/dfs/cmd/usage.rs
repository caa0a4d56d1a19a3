//! `dfs du`, `dfs df` and `dfs count`: how much there is.

use clap::Args;
use serde::Serialize;

use crate::human;
use crate::namespace;
use crate::output::{Align, Out, Table};
use crate::path::{RemoteArg, RemotePath};
use crate::session::Session;

/// `dfs du`.
#[derive(Debug, Args)]
pub struct DuArgs {
    /// One line an argument instead of one an entry
    #[arg(short = 's')]
    summary: bool,
    /// Print sizes for people
    #[arg(short = 'h')]
    human: bool,
    /// Print a heading
    #[arg(short = 'v')]
    heading: bool,
    /// Leave out snapshots (there are none)
    #[arg(short = 'x')]
    _exclude_snapshots: bool,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    /// Files and directories (default: home directory)
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), default_value = ".")]
    paths: Vec<RemoteArg>,
}

#[derive(Debug, Serialize)]
struct DuRow {
    path: String,
    length: u64,
    space_consumed: u64,
}

/// Prints bytes, and bytes times replication.
pub async fn du(session: &Session, out: &mut Out, args: &DuArgs) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let mut table = Table::new(&[Align::Left, Align::Left, Align::Left], 2);
    if args.heading {
        table.row(vec![
            "SIZE".into(),
            "DISK_SPACE_CONSUMED_WITH_ALL_REPLICAS".into(),
            "FULL_PATH_NAME".into(),
        ]);
    }
    for path in du_paths(session, args).await {
        match session.client.content_summary(&path.absolute).await {
            Ok(summary) => {
                table.row(vec![
                    human::maybe(summary.length, args.human),
                    human::maybe(summary.space_consumed, args.human),
                    path.shown,
                ]);
                rows.push(DuRow {
                    path: path.absolute,
                    length: summary.length,
                    space_consumed: summary.space_consumed,
                });
            }
            Err(error) => session.fail(&path, &error),
        }
    }
    print(out, args.json, &rows, &table)
}

/// The arguments, or with the entries of directories in their place.
async fn du_paths(session: &Session, args: &DuArgs) -> Vec<RemotePath> {
    if args.summary {
        return namespace::paths(session, &args.paths).await;
    }
    let mut paths = Vec::new();
    for node in namespace::nodes(session, &args.paths).await {
        if !node.status.is_dir() {
            paths.push(node.path);
            continue;
        }
        match session.client.list(&node.path.absolute).await {
            Ok(entries) => paths.extend(entries.iter().map(|entry| node.path.child(entry.name()))),
            Err(error) => session.fail(&node.path, &error),
        }
    }
    paths
}

fn print<T: Serialize>(out: &mut Out, json: bool, rows: &T, table: &Table) -> anyhow::Result<()> {
    if json {
        out.json(rows)?;
        return Ok(());
    }
    for line in table.lines() {
        out.line(format_args!("{line}"))?;
    }
    Ok(())
}

/// `dfs df`.
#[derive(Debug, Args)]
pub struct DfArgs {
    /// Print sizes for people
    #[arg(short = 'h')]
    human: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Accepted as in HDFS; all paths are on the one file system
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser())]
    paths: Vec<RemoteArg>,
}

#[derive(Debug, Serialize)]
struct DfRow {
    filesystem: String,
    capacity: u64,
    used: u64,
    available: u64,
}

/// Prints the capacity of the cluster.
pub async fn df(session: &Session, out: &mut Out, args: &DfArgs) -> anyhow::Result<()> {
    let asked = namespace::nodes(session, &args.paths).await;
    if asked.is_empty() && !args.paths.is_empty() {
        return Ok(());
    }
    let stats = session.client.stats().await?;
    let row = DfRow {
        filesystem: format!("dfs://{}", session.client.namenode()),
        capacity: stats.capacity,
        used: stats.used,
        available: stats.remaining,
    };
    let right = Align::Right;
    let mut table = Table::new(&[Align::Left, right, right, right, right], 2);
    table.row(["Filesystem", "Size", "Used", "Available", "Use%"].map(String::from).to_vec());
    table.row(vec![
        row.filesystem.clone(),
        human::maybe(row.capacity, args.human),
        human::maybe(row.used, args.human),
        human::maybe(row.available, args.human),
        human::percent(row.used, row.capacity, 0),
    ]);
    print(out, args.json, &row, &table)
}

/// `dfs count`.
#[derive(Debug, Args)]
pub struct CountArgs {
    /// Show quotas before the totals (none can be set)
    #[arg(short = 'q')]
    quotas: bool,
    /// Print sizes for people
    #[arg(short = 'h')]
    human: bool,
    /// Print a heading
    #[arg(short = 'v')]
    heading: bool,
    /// Leave out snapshots (there are none)
    #[arg(short = 'x')]
    _exclude_snapshots: bool,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    /// Files and directories
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), required = true)]
    paths: Vec<RemoteArg>,
}

#[derive(Debug, Serialize)]
struct CountRow {
    path: String,
    directory_count: u64,
    file_count: u64,
    length: u64,
    space_consumed: u64,
}

/// Prints numbers of directories and files, and their bytes.
pub async fn count(session: &Session, out: &mut Out, args: &CountArgs) -> anyhow::Result<()> {
    if args.heading && !args.json {
        let quotas = if args.quotas {
            quota_columns("QUOTA", "REM_QUOTA", "SPACE_QUOTA", "REM_SPACE_QUOTA")
        } else {
            String::new()
        };
        out.line(format_args!(
            "{quotas}{} PATHNAME",
            count_columns("DIR_COUNT", "FILE_COUNT", "CONTENT_SIZE")
        ))?;
    }
    let mut rows = Vec::new();
    for path in namespace::paths(session, &args.paths).await {
        let summary = match session.client.content_summary(&path.absolute).await {
            Ok(summary) => summary,
            Err(error) => {
                session.fail(&path, &error);
                continue;
            }
        };
        if args.json {
            rows.push(CountRow {
                path: path.absolute,
                directory_count: summary.directory_count,
                file_count: summary.file_count,
                length: summary.length,
                space_consumed: summary.space_consumed,
            });
            continue;
        }
        let quotas = if args.quotas { quota_columns("none", "inf", "none", "inf") } else { String::new() };
        out.line(format_args!(
            "{quotas}{} {}",
            count_columns(
                &human::maybe(summary.directory_count, args.human),
                &human::maybe(summary.file_count, args.human),
                &human::maybe(summary.length, args.human),
            ),
            path.shown
        ))?;
    }
    if args.json {
        out.json(&rows)?;
    }
    Ok(())
}

fn count_columns(directories: &str, files: &str, bytes: &str) -> String {
    format!("{directories:>12} {files:>12} {bytes:>18}")
}

fn quota_columns(quota: &str, rest: &str, space: &str, space_rest: &str) -> String {
    format!("{quota:>12} {rest:>15} {space:>15} {space_rest:>15} ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_has_the_columns_of_hdfs() {
        assert_eq!(count_columns("1", "2", "30"), "           1            2                 30");
        assert_eq!(
            quota_columns("none", "inf", "none", "inf"),
            "        none             inf            none             inf "
        );
    }
}
