//! `dfs fsck`: are all blocks of all files there?
//!
//! Walks the namespace and judges by what the namenode knows of each block's replicas:
//!
//! | finding          | meaning                                             | healthy |
//! |------------------|-----------------------------------------------------|---------|
//! | missing          | no datanode that is up has it                       | no      |
//! | corrupt          | all known replicas are bad                          | no      |
//! | under-replicated | fewer replicas than wanted                          | yes     |
//! | over-replicated  | more replicas than wanted                           | yes     |
//!
//! Blocks that are being written are counted but not judged. Exit code 1 when not healthy.

use std::collections::BTreeSet;
use std::time::Instant;

use clap::Args;
use dfs_client::{DatanodeState, DfsError, FileKind, LocatedBlock, LocatedStatus};
use serde::Serialize;

use crate::exit::OutputError;
use crate::namespace;
use crate::output::Out;
use crate::path::{RemoteArg, RemotePath};
use crate::session::Session;

/// Entries asked for at once: with the blocks of each, fewer than in a plain listing.
const PAGE_ENTRIES: usize = 200;

/// `dfs fsck`.
#[derive(Debug, Args)]
pub struct FsckArgs {
    /// Print every file
    #[arg(long)]
    files: bool,
    /// Print every block (with -files)
    #[arg(long)]
    blocks: bool,
    /// Print where every block is (with -files -blocks)
    #[arg(long)]
    locations: bool,
    /// Print the racks of blocks, too (with -files -blocks -locations)
    #[arg(long)]
    racks: bool,
    /// Print only missing and corrupt blocks and their files
    #[arg(long = "list-corruptfileblocks")]
    list_corrupt: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Files and directories
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), default_value = "/")]
    paths: Vec<RemoteArg>,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Totals {
    path: String,
    healthy: bool,
    size: u64,
    files: u64,
    directories: u64,
    symlinks: u64,
    blocks: u64,
    open_files: u64,
    minimally_replicated_blocks: u64,
    under_replicated_blocks: u64,
    over_replicated_blocks: u64,
    missing_blocks: u64,
    corrupt_blocks: u64,
    missing_replicas: u64,
    live_replicas: u64,
    wanted_replicas: u64,
    default_replication: u32,
    datanodes: u32,
    racks: usize,
    /// Directories and files that could not be looked at.
    errors: u64,
    problems: Vec<Problem>,
}

/// One block that is not as it should be.
#[derive(Debug, Serialize)]
struct Problem {
    path: String,
    block: String,
    state: &'static str,
    length: u64,
    wanted_replicas: u16,
    live_replicas: usize,
}

/// State of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    BeingWritten,
    Good,
    Under,
    Over,
    Corrupt,
    Missing,
}

impl Health {
    fn of(block: &LocatedBlock, wanted: u16) -> Self {
        let (live, wanted) = (live_replicas(block), usize::from(wanted));
        if block.under_construction {
            Self::BeingWritten
        } else if block.corrupt {
            Self::Corrupt
        } else if live == 0 {
            Self::Missing
        } else if live < wanted {
            Self::Under
        } else if live > wanted {
            Self::Over
        } else {
            Self::Good
        }
    }

    /// Word for a state that is reported by itself.
    fn problem(self) -> Option<&'static str> {
        match self {
            Self::BeingWritten | Self::Good | Self::Over => None,
            Self::Under => Some("under-replicated"),
            Self::Corrupt => Some("corrupt"),
            Self::Missing => Some("missing"),
        }
    }
}

/// Replicas on datanodes that are up.
fn live_replicas(block: &LocatedBlock) -> usize {
    let up = |state| match state {
        DatanodeState::Live | DatanodeState::Stale => true,
        DatanodeState::Dead | DatanodeState::Unspecified => false,
    };
    block
        .locations
        .iter()
        .filter(|location| location.datanode.as_ref().is_some_and(|node| up(node.state())))
        .count()
}

/// Checks what the arguments name.
pub async fn run(session: &Session, out: &mut Out, args: &FsckArgs) -> anyhow::Result<()> {
    for path in namespace::paths(session, &args.paths).await {
        check(session, out, args, path).await?;
    }
    Ok(())
}

async fn check(session: &Session, out: &mut Out, args: &FsckArgs, root: RemotePath) -> anyhow::Result<()> {
    let started = Instant::now();
    let nodes = session.client.datanodes().await?;
    let racks: BTreeSet<&str> =
        nodes.iter().filter_map(|node| Some(node.info.as_ref()?.rack.as_str())).collect();
    let mut totals = Totals {
        path: root.absolute.clone(),
        default_replication: session.client.server_defaults().replication,
        datanodes: u32::try_from(nodes.len()).unwrap_or(u32::MAX),
        racks: racks.len(),
        ..Totals::default()
    };
    let status = match session.client.stat(&root.absolute).await {
        Ok(status) => status,
        Err(error) => {
            session.fail(&root, &error);
            return Ok(());
        }
    };
    let mut fsck = Fsck { session, args, totals: &mut totals };
    if status.is_dir() {
        fsck.directory(out, &root)?;
        fsck.walk(out, root.clone()).await?;
    } else {
        fsck.walk(out, root.clone()).await?;
    }
    totals.healthy = totals.missing_blocks == 0 && totals.corrupt_blocks == 0;
    if !totals.healthy {
        session.set_failed();
    }
    if args.json {
        out.json(&totals)?;
    } else if args.list_corrupt {
        list_corrupt(out, &root, &totals)?;
    } else {
        print_totals(out, &root, &totals, started.elapsed().as_millis())?;
    }
    Ok(())
}

struct Fsck<'a> {
    session: &'a Session,
    args: &'a FsckArgs,
    totals: &'a mut Totals,
}

impl Fsck<'_> {
    /// Whether files are told while they are checked.
    fn verbose(&self) -> bool {
        !self.args.json && !self.args.list_corrupt
    }

    fn directory(&mut self, out: &mut Out, path: &RemotePath) -> Result<(), OutputError> {
        self.totals.directories += 1;
        if self.args.files && self.verbose() {
            out.line(format_args!("{} <dir>", path.shown))?;
        }
        Ok(())
    }

    /// Checks what is below a directory, or one file. Holds the directories still to do and one page.
    async fn walk(&mut self, out: &mut Out, root: RemotePath) -> Result<(), OutputError> {
        let mut open = vec![root];
        while let Some(directory) = open.pop() {
            let mut below = Vec::new();
            let mut start_after = bytes::Bytes::new();
            loop {
                let page = self.session.client.list_located(&directory.absolute, &start_after, PAGE_ENTRIES);
                let (entries, more) = match page.await {
                    Ok(page) => page,
                    Err(error) => {
                        self.unreadable(&directory, &error);
                        break;
                    }
                };
                if let Some(last) = entries.last() {
                    start_after = last.status.raw_name.clone();
                }
                let empty = entries.is_empty();
                for entry in entries {
                    // A file lists itself.
                    let path = if entry.status.path == directory.absolute {
                        directory.clone()
                    } else {
                        directory.child(entry.status.name())
                    };
                    match entry.status.kind {
                        FileKind::Directory => {
                            self.directory(out, &path)?;
                            below.push(path);
                        }
                        FileKind::File => self.file(out, &path, entry).await?,
                        FileKind::Symlink => self.totals.symlinks += 1,
                        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {}
                    }
                }
                if !more || empty {
                    break;
                }
            }
            open.extend(below.into_iter().rev());
        }
        Ok(())
    }

    fn unreadable(&mut self, path: &RemotePath, error: &DfsError) {
        self.totals.errors += 1;
        self.session.fail(path, error);
    }

    async fn file(
        &mut self,
        out: &mut Out,
        path: &RemotePath,
        entry: LocatedStatus,
    ) -> Result<(), OutputError> {
        let LocatedStatus { status, mut blocks, complete } = entry;
        if !complete {
            blocks = match self.session.client.locate(&path.absolute, 0, status.size).await {
                Ok(blocks) => blocks,
                Err(error) => {
                    self.unreadable(path, &error);
                    return Ok(());
                }
            };
        }
        self.totals.files += 1;
        self.totals.size += status.size;
        self.totals.open_files += u64::from(status.under_construction);
        let problems_before = self.totals.problems.len();
        let healths: Vec<Health> =
            blocks.iter().map(|block| self.count(path, block, status.replication)).collect();
        if !self.verbose() {
            return Ok(());
        }
        let problems = &self.totals.problems[problems_before..];
        if self.args.files {
            let verdict = if problems.is_empty() { " OK" } else { "" };
            let open = if status.under_construction { ", OPENFORWRITE" } else { "" };
            out.line(format_args!(
                "{} {} bytes, replicated: replication={}, {} block(s){open}: {verdict}",
                path.shown,
                status.size,
                status.replication,
                blocks.len()
            ))?;
        }
        for problem in problems {
            out.line(format_args!("{}", problem_line(path, problem)))?;
        }
        if self.args.files && self.args.blocks {
            for (index, (block, health)) in blocks.iter().zip(healths).enumerate() {
                out.line(format_args!("{index}. {}", self.block_line(block, health)))?;
            }
            out.line(format_args!(""))?;
        }
        Ok(())
    }

    fn count(&mut self, path: &RemotePath, block: &LocatedBlock, wanted: u16) -> Health {
        let health = Health::of(block, wanted);
        let live = live_replicas(block);
        let totals = &mut *self.totals;
        totals.blocks += 1;
        if health == Health::BeingWritten {
            return health;
        }
        totals.live_replicas += live as u64;
        totals.wanted_replicas += u64::from(wanted);
        totals.missing_replicas += u64::from(wanted).saturating_sub(live as u64);
        let counter = match health {
            Health::BeingWritten | Health::Good => None,
            Health::Under => Some(&mut totals.under_replicated_blocks),
            Health::Over => Some(&mut totals.over_replicated_blocks),
            Health::Corrupt => Some(&mut totals.corrupt_blocks),
            Health::Missing => Some(&mut totals.missing_blocks),
        };
        if let Some(counter) = counter {
            *counter += 1;
        }
        if !matches!(health, Health::Missing | Health::Corrupt) {
            totals.minimally_replicated_blocks += 1;
        }
        if let Some(state) = health.problem() {
            totals.problems.push(Problem {
                path: path.absolute.clone(),
                block: block.block.map(|block| block.to_string()).unwrap_or_default(),
                state,
                length: block.block.map_or(0, |block| block.length),
                wanted_replicas: wanted,
                live_replicas: live,
            });
        }
        health
    }

    fn block_line(&self, block: &LocatedBlock, health: Health) -> String {
        let pool = &self.session.client.server_defaults().block_pool_id;
        let (name, length) = block.block.map_or((String::new(), 0), |b| (b.to_string(), b.length));
        let mut line = format!("{pool}:{name} len={length}");
        match health {
            Health::Missing => line.push_str(" MISSING!"),
            Health::Corrupt => line.push_str(" CORRUPT!"),
            Health::BeingWritten => line.push_str(" UNDER_CONSTRUCTION"),
            Health::Good | Health::Under | Health::Over => {
                line.push_str(&format!(" Live_repl={}", live_replicas(block)));
            }
        }
        if self.args.locations {
            let places: Vec<String> = block
                .locations
                .iter()
                .filter_map(|location| {
                    let node = location.datanode.as_ref()?;
                    let rack = if self.args.racks { format!("{}/", node.rack) } else { String::new() };
                    Some(format!("{rack}{}:{} {}", node.ip, node.xfer_port, location.storage_id))
                })
                .collect();
            line.push_str(&format!(" [{}]", places.join(", ")));
        }
        line
    }
}

fn problem_line(path: &RemotePath, problem: &Problem) -> String {
    let Problem { block, length, wanted_replicas, live_replicas, .. } = problem;
    match problem.state {
        "missing" => format!("{}: MISSING block {block} of length {length} B.", path.shown),
        "corrupt" => format!("{}: CORRUPT block {block} of length {length} B.", path.shown),
        _ => format!(
            "{}:  Under replicated {block}. Target Replicas is {wanted_replicas} but found {live_replicas} live replica(s).",
            path.shown
        ),
    }
}

fn list_corrupt(out: &mut Out, root: &RemotePath, totals: &Totals) -> Result<(), OutputError> {
    let bad: Vec<&Problem> =
        totals.problems.iter().filter(|problem| problem.state != "under-replicated").collect();
    for problem in &bad {
        out.line(format_args!("{}\t{}", problem.block, problem.path))?;
    }
    let files: BTreeSet<&str> = bad.iter().map(|problem| problem.path.as_str()).collect();
    out.line(format_args!("The filesystem under path '{}' has {} CORRUPT files", root.shown, files.len()))
}

fn print_totals(out: &mut Out, root: &RemotePath, totals: &Totals, ms: u128) -> Result<(), OutputError> {
    for line in total_lines(totals) {
        out.line(format_args!("{line}"))?;
    }
    out.line(format_args!("FSCK ended after {ms} milliseconds"))?;
    out.line(format_args!(""))?;
    let verdict = if totals.healthy { "HEALTHY" } else { "CORRUPT" };
    out.line(format_args!("The filesystem under path '{}' is {verdict}", root.shown))
}

fn total_lines(t: &Totals) -> Vec<String> {
    let of_blocks = |part: u64| share(part, t.blocks);
    let average_size = t
        .size
        .checked_div(t.blocks)
        .map_or(String::new(), |average| format!(" (avg. block size {average} B)"));
    let judged = t.minimally_replicated_blocks + t.missing_blocks + t.corrupt_blocks;
    let average_replication = if judged == 0 { 0.0 } else { t.live_replicas as f64 / judged as f64 };
    vec![
        String::new(),
        format!("Status: {}", if t.healthy { "HEALTHY" } else { "CORRUPT" }),
        format!(" Number of data-nodes:\t{}", t.datanodes),
        format!(" Number of racks:\t\t{}", t.racks),
        format!(" Total dirs:\t\t\t{}", t.directories),
        format!(" Total symlinks:\t\t{}", t.symlinks),
        String::new(),
        "Replicated Blocks:".to_owned(),
        format!(" Total size:\t{} B", t.size),
        format!(" Total files:\t{}", t.files),
        format!(" Files currently being written:\t{}", t.open_files),
        format!(" Total blocks (validated):\t{}{average_size}", t.blocks),
        format!(" Minimally replicated blocks:\t{}", of_blocks(t.minimally_replicated_blocks)),
        format!(" Over-replicated blocks:\t{}", of_blocks(t.over_replicated_blocks)),
        format!(" Under-replicated blocks:\t{}", of_blocks(t.under_replicated_blocks)),
        format!(" Default replication factor:\t{}", t.default_replication),
        format!(" Average block replication:\t{average_replication:.1}"),
        format!(" Missing blocks:\t\t{}", t.missing_blocks),
        format!(" Corrupt blocks:\t\t{}", t.corrupt_blocks),
        format!(" Missing replicas:\t\t{}", share(t.missing_replicas, t.wanted_replicas)),
    ]
}

fn share(part: u64, whole: u64) -> String {
    let percent = if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
    format!("{part} ({percent:.1} %)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_client::{Block, DatanodeInfo, ReplicaLocation};

    fn block(states: &[DatanodeState]) -> LocatedBlock {
        let location = |state: &DatanodeState| ReplicaLocation {
            datanode: Some(DatanodeInfo { state: (*state).into(), ..DatanodeInfo::default() }),
            storage_id: String::new(),
        };
        LocatedBlock {
            block: Some(Block { id: 1, generation_stamp: 2, length: 3 }),
            locations: states.iter().map(location).collect(),
            ..LocatedBlock::default()
        }
    }

    #[test]
    fn only_replicas_on_nodes_that_are_up_count() {
        use DatanodeState::{Dead, Live, Stale};
        assert_eq!(Health::of(&block(&[Live, Stale, Live]), 3), Health::Good);
        assert_eq!(Health::of(&block(&[Live, Dead, Live]), 3), Health::Under);
        assert_eq!(Health::of(&block(&[Live, Live]), 1), Health::Over);
        assert_eq!(Health::of(&block(&[Dead]), 1), Health::Missing);
        assert_eq!(Health::of(&block(&[]), 1), Health::Missing);
        assert_eq!(Health::of(&LocatedBlock { corrupt: true, ..block(&[Live]) }, 1), Health::Corrupt);
        let written = LocatedBlock { under_construction: true, ..block(&[]) };
        assert_eq!(Health::of(&written, 1), Health::BeingWritten);
    }

    #[test]
    fn totals_of_nothing_divide_by_nothing() {
        let lines = total_lines(&Totals { healthy: true, ..Totals::default() });
        assert!(lines.contains(&"Status: HEALTHY".to_owned()));
        assert!(lines.contains(&" Missing replicas:\t\t0 (0.0 %)".to_owned()));
        assert!(lines.contains(&" Average block replication:\t0.0".to_owned()));
    }
}
