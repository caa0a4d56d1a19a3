//! `dfs fsck`: are all blocks of all files there?
//!
//! Walks the namespace and judges by what the namenode knows of each block's replicas; the states are
//! [`Health`]'s. Blocks that are being written are counted but not judged. Exit code 0: every block can be read (some may
//! have too few replicas; `dfs admin health` tells); 1: a block is missing or corrupt, or something could not be looked at.

use std::collections::BTreeSet;
use std::time::Instant;

use clap::Args;
use dfs_client::{AdminState, DatanodeState, DfsError, FileKind, LocatedBlock, LocatedStatus};

use crate::cmd::fsck_report::{Health, MAX_PROBLEMS, Problem, Topology, Totals, live_replicas, replicas_in};
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
    let placeable = |node: &&dfs_client::DatanodeInfo| {
        matches!(node.state(), DatanodeState::Live | DatanodeState::Stale)
            && node.admin_state() == AdminState::Normal
    };
    let topology = Topology::of(nodes.iter().filter_map(|node| node.info.as_ref()).filter(placeable));
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
    let mut fsck = Fsck { session, args, topology, totals: &mut totals };
    if status.is_dir() {
        fsck.directory(out, &root)?;
        fsck.walk(out, root.clone()).await?;
    } else {
        fsck.walk(out, root.clone()).await?;
    }
    totals.healthy = totals.missing_blocks == 0 && totals.corrupt_blocks == 0 && totals.errors == 0;
    if !totals.healthy {
        session.set_failed();
    }
    if args.json {
        out.json(&totals)?;
    } else if args.list_corrupt {
        totals.print_corrupt(out, &root)?;
    } else {
        totals.print(out, &root, started.elapsed().as_millis())?;
    }
    Ok(())
}

struct Fsck<'a> {
    session: &'a Session,
    args: &'a FsckArgs,
    topology: Topology,
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
        let mut problems = Vec::new();
        let mut healths = Vec::with_capacity(blocks.len());
        for block in &blocks {
            let health = self.count(block, status.replication);
            healths.push(health);
            if health.is_problem() {
                problems.push(Problem {
                    path: path.absolute.clone(),
                    block: block.block.map(|block| block.to_string()).unwrap_or_default(),
                    state: health,
                    length: block.block.map_or(0, |block| block.length),
                    wanted_replicas: status.replication,
                    live_replicas: live_replicas(block),
                });
            }
        }
        if !self.verbose() {
            let room = MAX_PROBLEMS - self.totals.problems.len().min(MAX_PROBLEMS);
            self.totals.problems.extend(problems.into_iter().take(room));
            return Ok(());
        }
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
        for problem in &problems {
            out.line(format_args!("{}", problem.line(&path.shown)))?;
        }
        if self.args.files && self.args.blocks {
            for (index, (block, health)) in blocks.iter().zip(healths).enumerate() {
                out.line(format_args!("{index}. {}", self.block_line(block, health)))?;
            }
            out.line(format_args!(""))?;
        }
        Ok(())
    }

    fn count(&mut self, block: &LocatedBlock, wanted: u16) -> Health {
        let health = Health::of(block, wanted);
        let live = live_replicas(block);
        let totals = &mut *self.totals;
        totals.blocks += 1;
        if health == Health::BeingWritten {
            return health;
        }
        totals.live_replicas += live as u64;
        totals.misplaced_blocks += u64::from(self.topology.misplaces(block, wanted));
        totals.decommission_replicas += replicas_in(block, AdminState::Decommission) as u64;
        totals.maintenance_replicas += replicas_in(block, AdminState::Maintenance) as u64;
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
                    let order = match node.admin_state() {
                        AdminState::Normal => "",
                        AdminState::Decommission => " DECOMMISSION",
                        AdminState::Maintenance => " MAINTENANCE",
                    };
                    Some(format!("{rack}{}:{} {}{order}", node.ip, node.xfer_port, location.storage_id))
                })
                .collect();
            line.push_str(&format!(" [{}]", places.join(", ")));
        }
        line
    }
}
