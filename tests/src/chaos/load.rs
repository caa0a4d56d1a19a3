//! Which operation a worker does next. The choice follows from the seed, the worker, the number of the operation and what the worker
//! knows of its directory.

use super::expectation::{Expectation, Node};
use super::operation::Operation;
use crate::rng::{Rng, mix};

/// Files of a worker above which it deletes more than it makes.
const MANY_FILES: usize = 12;

/// Directories of a worker, its own one included, above which it makes no more.
const MANY_DIRECTORIES: usize = 5;

/// Bytes of a large file, some blocks long.
const LARGE: u64 = 900_000;

/// Bytes of a small file.
const SMALL: u64 = 20_000;

/// Bytes at which a file is no longer appended to.
const LONG_ENOUGH: usize = 1_800_000;

/// Replicas that files want: as many as usual, fewer, and as many as there are datanodes.
const REPLICATIONS: [u16; 6] = [3, 3, 3, 3, 2, 4];

/// What a worker can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// It can write in the middle of files.
    pub overwrite: bool,
    /// It says how many replicas a new file has; else it is the cluster's three.
    pub replication: bool,
    /// It can move a file to the name of another.
    pub replace: bool,
}

/// Operation number `id` of worker number `worker`, whose directory is `root`.
pub fn choose(seed: u64, worker: u64, id: u64, root: &str, can: Abilities, known: &Expectation) -> Operation {
    let mut rng = Rng::new(mix(seed ^ mix(worker)) ^ id);
    let certain = known.certain();
    let directories: Vec<&str> = paths(&certain, |node| matches!(node, Node::Directory));
    let files: Vec<(&str, usize, u16)> = certain
        .iter()
        .filter_map(|(path, node)| match node {
            Node::File { content, replication } => Some((*path, content.len(), *replication)),
            Node::Directory => None,
        })
        .collect();
    let Some(directory) = (!directories.is_empty()).then(|| *rng.pick(&directories)) else {
        return Operation::Read { path: root.to_owned() };
    };
    let new_name = |kind: &str| format!("{directory}/{kind}{id}");
    if files.len() < 3 {
        return write(&mut rng, new_name("f"), can, mix(id ^ worker));
    }
    let (path, len, replication) = *rng.pick(&files);
    let path = path.to_owned();
    match rng.below(100) {
        0..=24 if files.len() < MANY_FILES => write(&mut rng, new_name("f"), can, mix(id ^ worker)),
        0..=14 => Operation::Delete { path },
        15..=39 if len < LONG_ENOUGH => {
            let len = length(&mut rng);
            Operation::Append { path, seed: mix(id ^ worker), len, piece: piece(&mut rng, len) }
        }
        15..=54 if can.overwrite && len > 0 => {
            let offset = rng.below(len as u64);
            let most = (len as u64 - offset).min(200_000);
            Operation::Overwrite { path, offset, seed: mix(id ^ worker), len: 1 + rng.below(most) }
        }
        15..=54 | 65..=71 => Operation::Read { path },
        55..=64 if len > 0 => Operation::Truncate { path, len: rng.below(len as u64) },
        72..=79 => Operation::Rename { from: path, to: new_name("r") },
        80..=83 if can.replace => match files.iter().find(|(other, ..)| *other != path) {
            Some((other, ..)) => Operation::Replace { from: path, to: (*other).to_owned() },
            None => Operation::Read { path },
        },
        84..=86 if directories.len() < MANY_DIRECTORIES => Operation::Mkdir { path: new_name("d") },
        87..=88 => match directories.iter().find(|other| is_free(other, root, directory, known)) {
            Some(from) => Operation::Rename { from: (*from).to_owned(), to: new_name("m") },
            None => Operation::Read { path },
        },
        89 => match directories.iter().rev().find(|other| is_free(other, root, root, known)) {
            Some(path) => Operation::Delete { path: (*path).to_owned() },
            None => Operation::Read { path },
        },
        90..=93 if can.replication => {
            let wanted = *rng.pick(&REPLICATIONS);
            let replication = if wanted == replication { 2 } else { wanted };
            Operation::SetReplication { path, replication }
        }
        _ => Operation::Delete { path },
    }
}

/// Whether directory `path` can go to `into` or away: it is neither the root nor above `into`, and nothing below it is in doubt.
fn is_free(path: &str, root: &str, into: &str, known: &Expectation) -> bool {
    let below = |other: &str| other == path || other.starts_with(&format!("{path}/"));
    path != root && !below(into) && !known.doubtful_paths().iter().any(|other| below(other))
}

fn paths<'a>(nodes: &[(&'a str, &Node)], is: impl Fn(&Node) -> bool) -> Vec<&'a str> {
    nodes.iter().filter(|(_, node)| is(node)).map(|(path, _)| *path).collect()
}

fn write(rng: &mut Rng, path: String, can: Abilities, seed: u64) -> Operation {
    let len = length(rng);
    let replication = if can.replication { *rng.pick(&REPLICATIONS) } else { 3 };
    Operation::Write { path, replication, seed, len, piece: piece(rng, len) }
}

fn length(rng: &mut Rng) -> u64 {
    match rng.below(10) {
        0 => rng.below(3),
        1..=4 => rng.below(SMALL),
        5..=8 => rng.below(LARGE / 3),
        _ => rng.below(LARGE),
    }
}

/// Bytes between two flushes: none for half of the files, and at most ten flushes.
fn piece(rng: &mut Rng, len: u64) -> u64 {
    if rng.chance(50) { 0 } else { (len / 10 + 1).max(1 + rng.below(LARGE / 10)) }
}

#[cfg(test)]
mod tests {
    use super::super::history::{Outcome, Record, SettledNode};
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_operations_of_every_kind() -> anyhow::Result<()> {
        let can = Abilities { overwrite: true, replication: true, replace: true };
        let play = |seed| -> anyhow::Result<Vec<Operation>> {
            let root = Record::Settled { path: "/w".to_owned(), node: Some(SettledNode::Directory) };
            let mut known = Expectation::of(&[root])?;
            let mut done = Vec::new();
            for id in 1..400 {
                let operation = choose(seed, 1, id, "/w", can, &known);
                done.push(operation.clone());
                known.add(&Record::Begin { id, at_ms: 0, operation })?;
                let outcome = if id % 50 == 7 { Outcome::Unknown(String::new()) } else { Outcome::Done };
                known.add(&Record::End { id, at_ms: 0, outcome })?;
            }
            Ok(done)
        };
        let operations = play(7)?;
        assert!(operations == play(7)?);
        assert!(operations != play(8)?);
        let kinds: std::collections::BTreeSet<String> = operations
            .iter()
            .map(|operation| format!("{operation:?}").split(' ').next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(kinds.len(), 10, "{kinds:?}");
        Ok(())
    }
}
