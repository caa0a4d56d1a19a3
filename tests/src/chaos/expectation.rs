//! What a worker's directory must look like after its history.
//!
//! Everything acknowledged is certain. An operation without an acknowledgement is in doubt: it may have happened or not, and its paths
//! are not used again before the next quiet, so that no doubt stands on another. The history is folded by [`Expectation::of`] in
//! the worker, which chooses by it, and in the checks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use anyhow::{Context, Result};

use super::history::{Outcome, Record, SettledNode};
use super::operation::Operation;
use crate::pattern::pattern;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A file.
    File {
        /// Its bytes.
        content: Vec<u8>,
        /// Replicas wanted.
        replication: u16,
    },
}

/// Contents that a file may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// These bytes.
    Exactly(Vec<u8>),
    /// The first bytes of `whole`, at least so many.
    AtLeast(usize, Vec<u8>),
    /// The same, but of those behind the ones that are safe any may be zero: a mount writes several blocks of a file at a
    /// time, and like a local disk leaves holes where what was not synced has not arrived.
    WithHoles(usize, Vec<u8>),
    /// The one or the other.
    Either(Vec<u8>, Vec<u8>),
    /// Each byte from the one or the other, which are equally long.
    Mixed(Vec<u8>, Vec<u8>),
}

/// What may be at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// It need not be there.
    pub may_be_absent: bool,
    /// It is here or at this path, and not at both.
    pub or_else: Option<String>,
    /// Possible contents of a file; `None` for a directory.
    pub contents: Option<Contents>,
    /// Possible replications of a file.
    pub replications: Vec<u16>,
}

/// An operation that was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// Number of the operation.
    pub id: u64,
    /// What was asked for.
    pub operation: Operation,
    /// Bytes of its content that are safe, if any call said so.
    pub safe: Option<u64>,
}

/// The state of one worker's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expectation {
    nodes: BTreeMap<String, Node>,
    doubts: Vec<Doubt>,
    running: Option<Doubt>,
    last_id: u64,
    /// What was not made safe may be there in part.
    holes: bool,
}

impl Expectation {
    /// The state after `records`.
    pub fn of(records: &[Record]) -> Result<Self> {
        let mut state = Self::default();
        for record in records {
            state.add(record)?;
        }
        Ok(state)
    }

    /// The same for a worker whose writes that were not made safe may arrive in part.
    pub fn with_holes(self) -> Self {
        Self { holes: true, ..self }
    }

    fn at_least(&self, safe: usize, whole: Vec<u8>) -> Contents {
        if self.holes { Contents::WithHoles(safe, whole) } else { Contents::AtLeast(safe, whole) }
    }

    /// Goes on with `record`.
    pub fn add(&mut self, record: &Record) -> Result<()> {
        match record {
            Record::Started { .. } => self.doubts.extend(self.running.take()),
            Record::Begin { id, operation, .. } => {
                self.doubts.extend(self.running.take());
                self.last_id = *id;
                self.running = Some(Doubt { id: *id, operation: operation.clone(), safe: None });
            }
            Record::Safe { id, bytes } => {
                let running = self.running.as_mut().filter(|running| running.id == *id);
                running.with_context(|| format!("operation {id} does not run"))?.safe = Some(*bytes);
            }
            Record::End { id, outcome, .. } => {
                let running = self.running.take().filter(|running| running.id == *id);
                let running = running.with_context(|| format!("operation {id} does not run"))?;
                match outcome {
                    Outcome::Done => self.apply(&running.operation)?,
                    Outcome::Unknown(_) => self.doubts.push(running),
                }
            }
            Record::Contradiction { .. } => self.doubts.extend(self.running.take()),
            Record::Settled { path, node } => match node {
                None => self.remove_tree(path),
                Some(SettledNode::Directory) => {
                    self.nodes.insert(path.clone(), Node::Directory);
                }
                Some(SettledNode::File { content, replication }) => {
                    let content = std::fs::read(content)?;
                    self.nodes.insert(path.clone(), Node::File { content, replication: *replication });
                }
            },
            Record::Quiet => {
                self.doubts.clear();
                self.running = None;
            }
        }
        Ok(())
    }

    /// Number of the last operation.
    pub fn last_id(&self) -> u64 {
        self.last_id
    }

    /// What is known at `path`, doubts aside.
    pub fn node(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Paths and contents that no doubt touches.
    pub fn certain(&self) -> Vec<(&str, &Node)> {
        let doubtful = self.doubtful_paths();
        let touched = |path: &str| doubtful.iter().any(|other| is_same_or_below(path, other));
        self.nodes
            .iter()
            .filter(|(path, _)| !touched(path))
            .map(|(path, node)| (path.as_str(), node))
            .collect()
    }

    /// Operations that were not acknowledged.
    pub fn doubts(&self) -> impl Iterator<Item = &Doubt> {
        self.doubts.iter().chain(&self.running)
    }

    /// Paths of the operations that were not acknowledged. Reading leaves no doubt.
    pub fn doubtful_paths(&self) -> BTreeSet<String> {
        let changing = self.doubts().filter(|doubt| !matches!(doubt.operation, Operation::Read { .. }));
        changing.flat_map(|doubt| doubt.operation.paths()).map(str::to_owned).collect()
    }

    /// What may be at each path; nothing may be elsewhere.
    pub fn wanted(&self) -> BTreeMap<String, Wanted> {
        let certain = |node: &Node| match node {
            Node::Directory => {
                Wanted { may_be_absent: false, or_else: None, contents: None, replications: Vec::new() }
            }
            Node::File { content, replication } => Wanted {
                may_be_absent: false,
                or_else: None,
                contents: Some(Contents::Exactly(content.clone())),
                replications: vec![*replication],
            },
        };
        let mut wanted: BTreeMap<String, Wanted> =
            self.nodes.iter().map(|(path, node)| (path.clone(), certain(node))).collect();
        for doubt in self.doubts() {
            self.add_doubt(doubt, &mut wanted);
        }
        wanted
    }

    fn add_doubt(&self, doubt: &Doubt, wanted: &mut BTreeMap<String, Wanted>) {
        let safe = doubt.safe.unwrap_or(0) as usize;
        match &doubt.operation {
            Operation::Read { .. } => {}
            Operation::Mkdir { path } => {
                let directory =
                    Wanted { may_be_absent: true, or_else: None, contents: None, replications: Vec::new() };
                wanted.insert(path.clone(), directory);
            }
            Operation::Write { path, replication, seed, len, .. } => {
                let contents = self.at_least(safe, pattern(*seed, 0, *len as usize));
                wanted.insert(
                    path.clone(),
                    Wanted {
                        may_be_absent: doubt.safe.is_none(),
                        or_else: None,
                        contents: Some(contents),
                        replications: vec![*replication],
                    },
                );
            }
            Operation::Append { path, seed, len, .. } => {
                let (Some(Node::File { content, .. }), Some(file)) =
                    (self.nodes.get(path), wanted.get_mut(path))
                else {
                    return;
                };
                let whole = [content.as_slice(), &pattern(*seed, 0, *len as usize)].concat();
                file.contents = Some(self.at_least(content.len() + safe, whole));
            }
            Operation::Overwrite { path, offset, seed, len } => {
                let (Some(Node::File { content, .. }), Some(file)) =
                    (self.nodes.get(path), wanted.get_mut(path))
                else {
                    return;
                };
                let new = overwritten(content, *offset, *seed, *len);
                file.contents = Some(Contents::Mixed(content.clone(), new));
            }
            Operation::Truncate { path, len } => {
                let (Some(Node::File { content, .. }), Some(file)) =
                    (self.nodes.get(path), wanted.get_mut(path))
                else {
                    return;
                };
                let cut = content[..content.len().min(*len as usize)].to_vec();
                file.contents = Some(Contents::Either(content.clone(), cut));
            }
            Operation::Rename { from, to } => {
                for path in self.tree(from) {
                    let moved = format!("{to}{}", &path[from.len()..]);
                    let Some(file) = wanted.get_mut(&path) else { continue };
                    file.or_else = Some(moved.clone());
                    let mut other = file.clone();
                    other.or_else = Some(path);
                    wanted.insert(moved, other);
                }
            }
            Operation::Replace { from, to } => {
                // Either nothing happened, or `from` is gone and `to` has its content.
                let (
                    Some(Node::File { content, replication }),
                    Some(Node::File { content: old, replication: r }),
                ) = (self.nodes.get(from), self.nodes.get(to))
                else {
                    return;
                };
                if let Some(file) = wanted.get_mut(from) {
                    file.may_be_absent = true;
                }
                if let Some(file) = wanted.get_mut(to) {
                    file.contents = Some(Contents::Either(old.clone(), content.clone()));
                    file.replications = vec![*r, *replication];
                }
            }
            Operation::Delete { path } => {
                for path in self.tree(path) {
                    if let Some(node) = wanted.get_mut(&path) {
                        node.may_be_absent = true;
                    }
                }
            }
            Operation::SetReplication { path, replication } => {
                if let Some(file) = wanted.get_mut(path) {
                    file.replications.push(*replication);
                }
            }
        }
    }

    /// Carries `operation` out.
    fn apply(&mut self, operation: &Operation) -> Result<()> {
        match operation {
            Operation::Read { .. } => {}
            Operation::Mkdir { path } => {
                self.nodes.insert(path.clone(), Node::Directory);
            }
            Operation::Write { path, replication, seed, len, .. } => {
                let content = pattern(*seed, 0, *len as usize);
                self.nodes.insert(path.clone(), Node::File { content, replication: *replication });
            }
            Operation::Append { path, seed, len, .. } => {
                self.content(path)?.extend(pattern(*seed, 0, *len as usize));
            }
            Operation::Overwrite { path, offset, seed, len } => {
                let content = self.content(path)?;
                *content = overwritten(content, *offset, *seed, *len);
            }
            Operation::Truncate { path, len } => self.content(path)?.truncate(*len as usize),
            Operation::Rename { from, to } => {
                for path in self.tree(from) {
                    if let Some(node) = self.nodes.remove(&path) {
                        self.nodes.insert(format!("{to}{}", &path[from.len()..]), node);
                    }
                }
            }
            Operation::Replace { from, to } => {
                let node = self.nodes.remove(from).with_context(|| format!("{from} is not known"))?;
                self.nodes.insert(to.clone(), node);
            }
            Operation::Delete { path } => self.remove_tree(path),
            Operation::SetReplication { path, replication } => match self.nodes.get_mut(path) {
                Some(Node::File { replication: wanted, .. }) => *wanted = *replication,
                other => anyhow::bail!("{path}: {other:?}"),
            },
        }
        Ok(())
    }

    fn content(&mut self, path: &str) -> Result<&mut Vec<u8>> {
        match self.nodes.get_mut(path) {
            Some(Node::File { content, .. }) => Ok(content),
            other => anyhow::bail!("{path} is no file: {:?}", other.is_some()),
        }
    }

    /// `path` and everything below it, parents first.
    fn tree(&self, path: &str) -> Vec<String> {
        let range = (Bound::Included(path.to_owned()), Bound::Unbounded);
        let near = self.nodes.range::<String, _>(range).map(|(other, _)| other);
        near.take_while(|other| other.starts_with(path))
            .filter(|other| is_same_or_below(other, path))
            .cloned()
            .collect()
    }

    fn remove_tree(&mut self, path: &str) {
        for path in self.tree(path) {
            self.nodes.remove(&path);
        }
    }
}

impl Contents {
    /// Whether a file may have the content `bytes`; else what is wrong with them.
    pub fn accept(&self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Exactly(wanted) => crate::pattern::ensure_same("content", bytes, wanted),
            Self::AtLeast(least, whole) => {
                anyhow::ensure!(bytes.len() >= *least, "{} bytes, {least} were safe", bytes.len());
                anyhow::ensure!(bytes.len() <= whole.len(), "{} bytes of {}", bytes.len(), whole.len());
                crate::pattern::ensure_same("content", bytes, &whole[..bytes.len()])
            }
            Self::WithHoles(safe, whole) => {
                anyhow::ensure!(bytes.len() >= *safe, "{} bytes, {safe} were safe", bytes.len());
                anyhow::ensure!(bytes.len() <= whole.len(), "{} bytes of {}", bytes.len(), whole.len());
                let wrong =
                    (0..bytes.len()).find(|at| bytes[*at] != whole[*at] && (at < safe || bytes[*at] != 0));
                anyhow::ensure!(wrong.is_none(), "byte {wrong:?} is wrong, {safe} were safe");
                Ok(())
            }
            Self::Either(one, other) => {
                if bytes == other {
                    return Ok(());
                }
                crate::pattern::ensure_same("content, if not the other", bytes, one)
            }
            Self::Mixed(old, new) => {
                anyhow::ensure!(bytes.len() == old.len(), "{} bytes, wanted {}", bytes.len(), old.len());
                let wrong = (0..bytes.len()).find(|at| bytes[*at] != old[*at] && bytes[*at] != new[*at]);
                anyhow::ensure!(wrong.is_none(), "byte {wrong:?} is neither old nor new");
                Ok(())
            }
        }
    }
}

/// `content` with `len` bytes of content number `seed` at `offset`.
fn overwritten(content: &[u8], offset: u64, seed: u64, len: u64) -> Vec<u8> {
    let mut new = content.to_vec();
    let from = (offset as usize).min(new.len());
    let to = (from + len as usize).min(new.len());
    new[from..to].copy_from_slice(&pattern(seed, 0, to - from));
    new
}

fn is_same_or_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(id: u64, operation: Operation) -> Record {
        Record::Begin { id, at_ms: 0, operation }
    }

    fn end(id: u64, outcome: Outcome) -> Record {
        Record::End { id, at_ms: 0, outcome }
    }

    fn write(path: &str) -> Operation {
        Operation::Write { path: path.to_owned(), replication: 3, seed: 1, len: 100, piece: 10 }
    }

    #[test]
    fn what_was_acknowledged_is_certain_and_the_rest_may_be_either() -> Result<()> {
        let unknown = Outcome::Unknown("lost".to_owned());
        let append = Operation::Append { path: "/a".to_owned(), seed: 2, len: 50, piece: 10 };
        let rename = Operation::Rename { from: "/b".to_owned(), to: "/c".to_owned() };
        let state = Expectation::of(&[
            begin(1, write("/a")),
            end(1, Outcome::Done),
            begin(2, write("/b")),
            end(2, Outcome::Done),
            begin(3, append),
            Record::Safe { id: 3, bytes: 20 },
            end(3, unknown),
            begin(4, rename),
        ])?;
        let wanted = state.wanted();
        let a = pattern(1, 0, 100);
        let whole = [a.clone(), pattern(2, 0, 50)].concat();
        let contents = wanted["/a"].contents.as_ref().context("a file")?;
        assert!(contents.accept(&whole[..119]).is_err());
        assert!(contents.accept(&whole[..120]).is_ok());
        assert!(contents.accept(&whole).is_ok());
        assert_eq!(wanted["/b"].or_else.as_deref(), Some("/c"));
        assert_eq!(wanted["/c"].or_else.as_deref(), Some("/b"));
        assert!(state.certain().is_empty());

        let mut settled = state.clone();
        settled.add(&Record::Settled { path: "/b".to_owned(), node: None })?;
        settled.add(&Record::Quiet)?;
        assert_eq!(settled.certain().len(), 1);
        Ok(())
    }

    #[test]
    fn a_file_nobody_said_was_made_may_be_absent() -> Result<()> {
        let state = Expectation::of(&[begin(1, write("/a")), Record::Started { at_ms: 0 }])?;
        assert!(state.wanted()["/a"].may_be_absent);
        let state = Expectation::of(&[begin(1, write("/a")), Record::Safe { id: 1, bytes: 0 }])?;
        assert!(!state.wanted()["/a"].may_be_absent);
        Ok(())
    }
}
