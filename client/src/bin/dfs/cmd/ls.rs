//! `dfs ls`: entries of directories.

use clap::Args;
use dfs_client::{FileKind, FileStatus, escape_name};

use crate::exit::OutputError;
use crate::json::{NodeRow, device_number, kind_letter};
use crate::namespace::{self, Node};
use crate::output::Out;
use crate::path::RemoteArg;
use crate::session::Session;
use crate::{human, mode, times};

/// `dfs ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Print paths only
    #[arg(short = 'C')]
    paths_only: bool,
    /// List directories themselves, not their entries
    #[arg(short = 'd')]
    directory: bool,
    /// Print sizes for people
    #[arg(short = 'h')]
    human: bool,
    /// Print ? for control characters in names
    #[arg(short = 'q')]
    hide_control: bool,
    /// List what is below, too
    #[arg(short = 'R')]
    recursive: bool,
    /// Sort by modification time, newest first
    #[arg(short = 't')]
    by_time: bool,
    /// Sort by size, largest first
    #[arg(short = 'S')]
    by_size: bool,
    /// Reverse the order
    #[arg(short = 'r')]
    reverse: bool,
    /// Show and sort by access time
    #[arg(short = 'u')]
    access_time: bool,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    /// Files and directories (default: home directory)
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), default_value = ".")]
    paths: Vec<RemoteArg>,
}

/// Lists what the arguments name.
pub async fn run(session: &Session, out: &mut Out, args: &LsArgs) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for arg in &args.paths {
        let nodes = namespace::nodes(session, std::slice::from_ref(arg)).await;
        let (mut directories, mut plain): (Vec<Node>, Vec<Node>) =
            nodes.into_iter().partition(|node| node.status.is_dir() && !args.directory);
        args.sort(&mut plain);
        args.sort(&mut directories);
        args.print(out, &mut rows, &plain, Widths::of(&plain, args.human))?;
        for directory in directories {
            list(session, out, args, &mut rows, directory).await?;
        }
    }
    if args.json {
        out.json(&rows)?;
    }
    Ok(())
}

/// What is left to do of a recursive listing.
enum Step {
    /// Print these entries of one directory.
    Print(Vec<Node>, Widths),
    /// List this directory.
    List(Box<Node>),
}

/// Lists one directory, and with `-R` what is below it, each directory before its entries.
async fn list(
    session: &Session,
    out: &mut Out,
    args: &LsArgs,
    rows: &mut Vec<NodeRow>,
    root: Node,
) -> Result<(), OutputError> {
    // The next step is the last one.
    let mut steps = vec![Step::List(Box::new(root))];
    while let Some(step) = steps.pop() {
        let directory = match step {
            Step::Print(nodes, widths) => {
                args.print(out, rows, &nodes, widths)?;
                continue;
            }
            Step::List(directory) => directory,
        };
        let entries = match session.client.list(&directory.path.absolute).await {
            Ok(entries) => entries,
            Err(error) => {
                session.fail(&directory.path, &error);
                continue;
            }
        };
        let mut nodes: Vec<Node> = entries
            .into_iter()
            .map(|status| Node { path: directory.path.child(status.name()), status })
            .collect();
        args.sort(&mut nodes);
        let widths = Widths::of(&nodes, args.human);
        if !args.recursive {
            if !nodes.is_empty() && !args.paths_only && !args.json {
                out.line(format_args!("Found {} items", nodes.len()))?;
            }
            args.print(out, rows, &nodes, widths)?;
            continue;
        }
        let mut found = Vec::new();
        let mut together = Vec::new();
        for node in nodes {
            let below = node.status.is_dir().then(|| node.clone());
            together.push(node);
            if let Some(below) = below {
                found.push(Step::Print(std::mem::take(&mut together), widths));
                found.push(Step::List(Box::new(below)));
            }
        }
        found.push(Step::Print(together, widths));
        steps.extend(found.into_iter().rev());
    }
    Ok(())
}

impl LsArgs {
    fn time_ns(&self, status: &FileStatus) -> i64 {
        if self.access_time { status.atime_ns } else { status.mtime_ns }
    }

    /// Names arrive sorted; a stable sort keeps that order among equals.
    fn sort(&self, nodes: &mut [Node]) {
        if self.by_time {
            nodes.sort_by_key(|node| std::cmp::Reverse(self.time_ns(&node.status)));
        } else if self.by_size {
            nodes.sort_by_key(|node| std::cmp::Reverse(node.status.size));
        }
        if self.reverse {
            nodes.reverse();
        }
    }

    fn print(
        &self,
        out: &mut Out,
        rows: &mut Vec<NodeRow>,
        nodes: &[Node],
        widths: Widths,
    ) -> Result<(), OutputError> {
        for Node { path, status } in nodes {
            if self.json {
                rows.push(NodeRow::new(&path.absolute, status));
                continue;
            }
            let shown = if self.hide_control { hide_control(&path.shown) } else { path.shown.clone() };
            if self.paths_only {
                out.line(format_args!("{shown}"))?;
            } else {
                let time = times::local_minutes(self.time_ns(status));
                let columns = widths.columns(status, self.human);
                match status.kind {
                    FileKind::Symlink => {
                        let target = escape_name(&status.symlink);
                        let target = if self.hide_control { hide_control(&target) } else { target };
                        out.line(format_args!("{columns} {time} {shown} -> {target}"))?;
                    }
                    _ => out.line(format_args!("{columns} {time} {shown}"))?,
                }
            }
        }
        Ok(())
    }
}

/// Column widths of one directory.
#[derive(Clone, Copy)]
struct Widths {
    replication: usize,
    owner: usize,
    group: usize,
    length: usize,
}

impl Widths {
    fn of(nodes: &[Node], human: bool) -> Self {
        let mut widths = Self { replication: 3, owner: 0, group: 0, length: 10 };
        for Node { status, .. } in nodes {
            widths.replication = widths.replication.max(replication(status).len());
            widths.owner = widths.owner.max(status.owner.chars().count());
            widths.group = widths.group.max(status.group.chars().count());
            widths.length = widths.length.max(length(status, human).len());
        }
        widths
    }

    /// Everything up to the length.
    fn columns(self, status: &FileStatus, human: bool) -> String {
        let Self { replication: r, owner: o, group: g, length: l } = self;
        format!(
            "{}{} {:>r$} {:<o$} {:<g$} {:>l$}",
            kind_letter(status.kind),
            mode::symbolic(status.mode),
            replication(status),
            status.owner,
            status.group,
            length(status, human),
        )
    }
}

fn replication(status: &FileStatus) -> String {
    if status.is_file() { status.replication.to_string() } else { "-".to_owned() }
}

/// Length of the content; of a device its number, as `ls` of local files has it.
fn length(status: &FileStatus, human: bool) -> String {
    match device_number(status) {
        Some((major, minor)) => format!("{major}, {minor}"),
        None => human::maybe(status.size, human),
    }
}

fn hide_control(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(kind: FileKind, size: u64) -> FileStatus {
        FileStatus {
            path: "/f".into(),
            raw_name: "f".into(),
            inode: 2,
            kind,
            mode: 0o644,
            owner: "alice".into(),
            group: "users".into(),
            nlink: 1,
            rdev: 0,
            size,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            btime_ns: 0,
            block_size: 1 << 27,
            replication: 3,
            change: 0,
            symlink: Default::default(),
            under_construction: false,
        }
    }

    #[test]
    fn columns_are_those_of_hdfs() {
        let path = crate::path::RemotePath::resolve("u", "/f");
        let nodes = [
            Node { path: path.clone(), status: status(FileKind::File, 1536) },
            Node { path, status: status(FileKind::Directory, 0) },
        ];
        let widths = Widths::of(&nodes, false);
        assert_eq!(widths.columns(&nodes[0].status, false), "-rw-r--r--   3 alice users       1536");
        assert_eq!(widths.columns(&nodes[1].status, false), "drw-r--r--   - alice users          0");
        assert_eq!(widths.columns(&nodes[0].status, true), "-rw-r--r--   3 alice users      1.5 K");
        let null = FileStatus { rdev: 0x103, ..status(FileKind::CharDevice, 0) };
        assert_eq!(widths.columns(&null, true), "crw-r--r--   - alice users       1, 3");
        let pipe = status(FileKind::Fifo, 0);
        assert_eq!(widths.columns(&pipe, false), "prw-r--r--   - alice users          0");
    }
}
