//! What `dfs fsck` found, and how it tells it.

use std::collections::BTreeSet;

use dfs_client::{AdminState, DatanodeInfo, DatanodeState, LocatedBlock};
use serde::Serialize;

use crate::exit::OutputError;
use crate::output::Out;
use crate::path::RemotePath;

/// Most problems kept for `--json` and `-list-corruptfileblocks`: a cluster that lost a rack has millions
/// of them, and nobody reads so many.
pub const MAX_PROBLEMS: usize = 100_000;

/// State of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Health {
    /// Its length is not known yet.
    #[serde(rename = "being-written")]
    BeingWritten,
    /// As many replicas as wanted.
    #[serde(rename = "good")]
    Good,
    /// Fewer replicas than wanted. Still healthy: they are being made.
    #[serde(rename = "under-replicated")]
    Under,
    /// More replicas than wanted.
    #[serde(rename = "over-replicated")]
    Over,
    /// All known replicas are bad.
    #[serde(rename = "corrupt")]
    Corrupt,
    /// No datanode that is up has it.
    #[serde(rename = "missing")]
    Missing,
}

impl Health {
    /// Judges a block of which `wanted` replicas should exist.
    pub fn of(block: &LocatedBlock, wanted: u16) -> Self {
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

    /// Whether a block in this state is reported by itself.
    pub fn is_problem(self) -> bool {
        match self {
            Self::BeingWritten | Self::Good | Self::Over => false,
            Self::Under | Self::Corrupt | Self::Missing => true,
        }
    }

    /// Whether data is at risk of being lost, or is.
    fn is_damage(self) -> bool {
        match self {
            Self::BeingWritten | Self::Good | Self::Over | Self::Under => false,
            Self::Corrupt | Self::Missing => true,
        }
    }
}

/// Replicas on datanodes that are up and not about to leave.
pub fn live_replicas(block: &LocatedBlock) -> usize {
    live(block).filter(|node| node.admin_state() != AdminState::Decommission).count()
}

/// Replicas on datanodes that are up and of which an administrator wants this.
pub fn replicas_in(block: &LocatedBlock, state: AdminState) -> usize {
    live(block).filter(|node| node.admin_state() == state).count()
}

/// The datanodes of a block that are up.
pub fn live(block: &LocatedBlock) -> impl Iterator<Item = &DatanodeInfo> {
    let up = |state| match state {
        DatanodeState::Live | DatanodeState::Stale => true,
        DatanodeState::Dead | DatanodeState::Unspecified => false,
    };
    let nodes = block.locations.iter().filter_map(|location| location.datanode.as_ref());
    nodes.filter(move |node| up(node.state()))
}

/// Racks and data centres of a cluster, to tell blocks that are on too few of them.
#[derive(Debug, Default)]
pub struct Topology {
    racks: BTreeSet<String>,
    sites: BTreeSet<String>,
}

impl Topology {
    /// Of the datanodes that are up and not about to leave.
    pub fn of<'a>(nodes: impl Iterator<Item = &'a DatanodeInfo>) -> Self {
        let mut topology = Self::default();
        for node in nodes {
            topology.racks.insert(node.rack.clone());
            topology.sites.insert(site(&node.rack).to_owned());
        }
        topology
    }

    /// Whether replicas of the block are on one rack, or in one data centre, although more of both exist.
    pub fn misplaces(&self, block: &LocatedBlock, wanted: u16) -> bool {
        let nodes = live(block).filter(|node| node.admin_state() != AdminState::Decommission);
        let there = Self::of(nodes);
        let few = |here: &BTreeSet<String>, all: &BTreeSet<String>| here.len() == 1 && all.len() > 1;
        wanted > 1 && (few(&there.racks, &self.racks) || few(&there.sites, &self.sites))
    }
}

/// What is above the rack.
fn site(rack: &str) -> &str {
    rack.rsplit_once('/').map_or("", |(above, _)| above)
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Totals {
    /// Root of the check.
    pub path: String,
    /// Everything was looked at, and no block is missing or corrupt.
    pub healthy: bool,
    /// Bytes of all files.
    pub size: u64,
    /// Regular files.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Blocks of all files.
    pub blocks: u64,
    /// Files being written.
    pub open_files: u64,
    /// Blocks with at least one good replica.
    pub minimally_replicated_blocks: u64,
    /// Blocks with fewer replicas than wanted.
    pub under_replicated_blocks: u64,
    /// Blocks with more replicas than wanted.
    pub over_replicated_blocks: u64,
    /// Blocks that no datanode that is up has.
    pub missing_blocks: u64,
    /// Blocks whose replicas are all bad.
    pub corrupt_blocks: u64,
    /// Blocks whose replicas are on too few racks or data centres.
    pub misplaced_blocks: u64,
    /// Replicas on datanodes that are to leave: they do not count.
    pub decommission_replicas: u64,
    /// Replicas on datanodes that are up and in maintenance.
    pub maintenance_replicas: u64,
    /// Replicas that are wanted and not there.
    pub missing_replicas: u64,
    /// Replicas on datanodes that are up.
    pub live_replicas: u64,
    /// Replicas that should exist.
    pub wanted_replicas: u64,
    /// Replication of new files.
    pub default_replication: u32,
    /// Datanodes, dead ones included.
    pub datanodes: u32,
    /// Racks of the datanodes.
    pub racks: usize,
    /// Directories and files that could not be looked at.
    pub errors: u64,
    /// Blocks that are not as they should be; at most [`MAX_PROBLEMS`], the counts tell all.
    pub problems: Vec<Problem>,
}

/// One block that is not as it should be.
#[derive(Debug, Serialize)]
pub struct Problem {
    /// Its file.
    pub path: String,
    /// Its name.
    pub block: String,
    /// What is wrong.
    pub state: Health,
    /// Its bytes.
    pub length: u64,
    /// Replicas that should exist.
    pub wanted_replicas: u16,
    /// Replicas on datanodes that are up.
    pub live_replicas: usize,
}

impl Problem {
    /// The line about it; `shown` is the file.
    pub fn line(&self, shown: &str) -> String {
        let Self { block, length, wanted_replicas, live_replicas, .. } = self;
        match self.state {
            Health::Missing => format!("{shown}: MISSING block {block} of length {length} B."),
            Health::Corrupt => format!("{shown}: CORRUPT block {block} of length {length} B."),
            Health::BeingWritten | Health::Good | Health::Under | Health::Over => format!(
                "{shown}:  Under replicated {block}. Target Replicas is {wanted_replicas} but found {live_replicas} live replica(s)."
            ),
        }
    }
}

impl Totals {
    /// Prints blocks that are missing or corrupt, and how many files they are in.
    pub fn print_corrupt(&self, out: &mut Out, root: &RemotePath) -> Result<(), OutputError> {
        let bad: Vec<&Problem> = self.problems.iter().filter(|problem| problem.state.is_damage()).collect();
        for problem in &bad {
            out.line(format_args!("{}\t{}", problem.block, problem.path))?;
        }
        let files: BTreeSet<&str> = bad.iter().map(|problem| problem.path.as_str()).collect();
        out.line(format_args!("The filesystem under path '{}' has {} CORRUPT files", root.shown, files.len()))
    }

    /// Prints everything, after `ms` milliseconds of work.
    pub fn print(&self, out: &mut Out, root: &RemotePath, ms: u128) -> Result<(), OutputError> {
        for line in total_lines(self) {
            out.line(format_args!("{line}"))?;
        }
        out.line(format_args!("FSCK ended after {ms} milliseconds"))?;
        out.line(format_args!(""))?;
        out.line(format_args!("The filesystem under path '{}' is {}", root.shown, self.verdict()))
    }

    /// What could not be looked at is neither healthy nor corrupt.
    fn verdict(&self) -> &'static str {
        match self {
            Self { healthy: true, .. } => "HEALTHY",
            Self { missing_blocks: 0, corrupt_blocks: 0, .. } => "NOT FULLY CHECKED",
            Self { .. } => "CORRUPT",
        }
    }
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
        format!("Status: {}", t.verdict()),
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
        format!(" Mis-replicated blocks:\t\t{}", of_blocks(t.misplaced_blocks)),
        format!(" Default replication factor:\t{}", t.default_replication),
        format!(" Average block replication:\t{average_replication:.1}"),
        format!(" Missing blocks:\t\t{}", t.missing_blocks),
        format!(" Corrupt blocks:\t\t{}", t.corrupt_blocks),
        format!(" Missing replicas:\t\t{}", share(t.missing_replicas, t.wanted_replicas)),
        format!(" Replicas on decommissioned datanodes:\t{}", t.decommission_replicas),
        format!(" Replicas on datanodes in maintenance:\t{}", t.maintenance_replicas),
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
    fn what_is_about_to_leave_does_not_count_and_one_site_is_too_few() {
        let node = |rack: &str, admin: AdminState| DatanodeInfo {
            rack: rack.to_owned(),
            state: DatanodeState::Live.into(),
            admin_state: admin.into(),
            ..DatanodeInfo::default()
        };
        let on = |nodes: &[DatanodeInfo]| LocatedBlock {
            locations: nodes
                .iter()
                .map(|node| ReplicaLocation { datanode: Some(node.clone()), storage_id: String::new() })
                .collect(),
            ..LocatedBlock::default()
        };
        let (first, second) = (node("/a/r1", AdminState::Normal), node("/a/r2", AdminState::Maintenance));
        let (other, leaving) = (node("/b/r1", AdminState::Normal), node("/b/r1", AdminState::Decommission));
        let block = on(&[first.clone(), second.clone(), leaving.clone()]);
        assert_eq!(live_replicas(&block), 2);
        assert_eq!(replicas_in(&block, AdminState::Decommission), 1);
        assert_eq!(replicas_in(&block, AdminState::Maintenance), 1);
        assert_eq!(Health::of(&block, 3), Health::Under);
        let one = Topology::of([&first, &second].into_iter());
        let two = Topology::of([&first, &second, &other].into_iter());
        assert!(!one.misplaces(&block, 2) && two.misplaces(&block, 2) && !two.misplaces(&block, 1));
        assert!(!two.misplaces(&on(&[first.clone(), other]), 2));
        assert!(one.misplaces(&on(&[first.clone(), first]), 2));
    }

    #[test]
    fn totals_of_nothing_divide_by_nothing() {
        let lines = total_lines(&Totals { healthy: true, ..Totals::default() });
        assert!(lines.contains(&"Status: HEALTHY".to_owned()));
        assert!(lines.contains(&" Missing replicas:\t\t0 (0.0 %)".to_owned()));
        assert!(lines.contains(&" Average block replication:\t0.0".to_owned()));
    }
}
