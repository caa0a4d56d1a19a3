//! The reference model: a file tree as a `BTreeMap` from path to node, with file contents as generated
//! pieces. It states what every operation must do and which error it must give, as the superuser sees it.
//!
//! Invariant: every node but the root has a directory as parent (`check_invariants`).

use std::collections::BTreeMap;
use std::ops::Bound;

use dfs_proto::ErrorKind;

use crate::pattern::Content;

/// Permission bits of the root.
const ROOT_MODE: u32 = 0o755;

/// What directories that are made on the way to something have at least (HDFS's rule).
const OWNER_WRITE_EXECUTE: u32 = 0o300;

/// One node of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A file.
    File {
        /// Permission bits.
        mode: u32,
        /// Replicas wanted.
        replication: u16,
        /// Its bytes.
        content: Content,
    },
}

/// One operation on a tree. Paths are absolute and clean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Make a directory.
    Mkdir { path: String, mode: u32, parents: bool },
    /// Create, write and close a file.
    Create { path: String, mode: u32, overwrite: bool, parents: bool, replication: u16, seed: u64, len: u64 },
    /// Open at the end, write and close.
    Append { path: String, seed: u64, len: u64 },
    /// Cut a file.
    Truncate { path: String, len: u64 },
    /// Move a node.
    Rename { src: String, dst: String, overwrite: bool },
    /// Remove a node.
    Delete { path: String, recursive: bool },
    /// Set permission bits.
    SetPermission { path: String, mode: u32 },
    /// Set replication.
    SetReplication { path: String, replication: u16 },
    /// Read a range.
    Read { path: String, offset: u64, len: u64 },
}

/// What an operation answers, apart from its effect on the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing but success.
    Done,
    /// Whether there was something to delete.
    Deleted(bool),
    /// Bytes read.
    Bytes(Vec<u8>),
}

/// The model tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    nodes: BTreeMap<String, Node>,
}

/// Path of the directory that holds `path`.
pub fn parent_of(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

impl Default for Model {
    fn default() -> Self {
        Self { nodes: BTreeMap::from([("/".to_owned(), Node::Directory { mode: ROOT_MODE })]) }
    }
}

impl Model {
    /// All nodes but the root, by path.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().filter(|(path, _)| *path != "/").map(|(path, node)| (path.as_str(), node))
    }

    /// The node at `path`.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Number of nodes, the root included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never true: the root is always there.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Applies `operation`, or says which error it must give; then nothing has changed.
    pub fn apply(&mut self, operation: &Operation) -> Result<Answer, ErrorKind> {
        match operation {
            Operation::Mkdir { path, mode, parents } => self.mkdir(path, *mode, *parents),
            Operation::Create { path, mode, overwrite, parents, replication, seed, len } => {
                let file =
                    Node::File { mode: *mode, replication: *replication, content: Content::new(*seed, *len) };
                self.create(path, file, *overwrite, *parents)
            }
            Operation::Append { path, seed, len } => {
                self.file_mut(path)?.append(*seed, *len);
                Ok(Answer::Done)
            }
            Operation::Truncate { path, len } => {
                let content = self.file_mut(path)?;
                if *len > content.len() {
                    return Err(ErrorKind::InvalidArgument);
                }
                content.truncate(*len);
                Ok(Answer::Done)
            }
            Operation::Rename { src, dst, overwrite } => self.rename(src, dst, *overwrite),
            Operation::Delete { path, recursive } => self.delete(path, *recursive),
            Operation::SetPermission { path, mode } => {
                self.lookup(path)?;
                match self.nodes.get_mut(path) {
                    Some(Node::Directory { mode: bits } | Node::File { mode: bits, .. }) => *bits = *mode,
                    None => return Err(ErrorKind::NotFound),
                }
                Ok(Answer::Done)
            }
            Operation::SetReplication { path, replication } => {
                self.file_mut(path)?;
                if let Some(Node::File { replication: wanted, .. }) = self.nodes.get_mut(path) {
                    *wanted = *replication;
                }
                Ok(Answer::Done)
            }
            Operation::Read { path, offset, len } => {
                Ok(Answer::Bytes(self.file_mut(path)?.slice(*offset, *len)))
            }
        }
    }

    /// Every node but the root has a directory as parent.
    pub fn check_invariants(&self) {
        for path in self.nodes.keys().filter(|path| *path != "/") {
            let parent = self.nodes.get(parent_of(path));
            assert!(matches!(parent, Some(Node::Directory { .. })), "parent of {path} is {parent:?}");
        }
    }

    /// The node at `path`; on the way, a missing name and a file among the directories are told apart.
    fn lookup(&self, path: &str) -> Result<&Node, ErrorKind> {
        for (at, _) in path.match_indices('/').skip(1) {
            match self.nodes.get(&path[..at]) {
                Some(Node::Directory { .. }) => {}
                Some(Node::File { .. }) => return Err(ErrorKind::NotADirectory),
                None => return Err(ErrorKind::NotFound),
            }
        }
        self.nodes.get(path).ok_or(ErrorKind::NotFound)
    }

    fn file_mut(&mut self, path: &str) -> Result<&mut Content, ErrorKind> {
        self.lookup(path)?;
        match self.nodes.get_mut(path) {
            Some(Node::File { content, .. }) => Ok(content),
            Some(Node::Directory { .. }) => Err(ErrorKind::IsADirectory),
            None => Err(ErrorKind::NotFound),
        }
    }

    /// The directory that a new entry goes into; answers its permission bits. Missing ones are made if `make` says
    /// so, with the permission bits `mode`, or those of the directory above.
    fn parent_for(&mut self, path: &str, make: bool, mode: Option<u32>) -> Result<u32, ErrorKind> {
        let parent = parent_of(path).to_owned();
        match self.lookup(&parent) {
            Ok(Node::Directory { mode }) => Ok(*mode),
            Ok(Node::File { .. }) => Err(ErrorKind::NotADirectory),
            Err(ErrorKind::NotFound) if make => {
                let above = self.parent_for(&parent, true, mode)?;
                let mode = (mode.unwrap_or(above) & 0o777) | OWNER_WRITE_EXECUTE;
                self.nodes.insert(parent, Node::Directory { mode });
                Ok(mode)
            }
            Err(kind) => Err(kind),
        }
    }

    fn mkdir(&mut self, path: &str, mode: u32, parents: bool) -> Result<Answer, ErrorKind> {
        match self.lookup(path) {
            Ok(Node::Directory { .. }) if parents => return Ok(Answer::Done),
            Ok(_) => return Err(ErrorKind::AlreadyExists),
            Err(ErrorKind::NotFound) => {}
            Err(kind) => return Err(kind),
        }
        self.parent_for(path, parents, Some(mode))?;
        self.nodes.insert(path.to_owned(), Node::Directory { mode });
        Ok(Answer::Done)
    }

    fn create(
        &mut self,
        path: &str,
        file: Node,
        overwrite: bool,
        parents: bool,
    ) -> Result<Answer, ErrorKind> {
        match self.lookup(path) {
            Ok(Node::Directory { .. }) => return Err(ErrorKind::IsADirectory),
            Ok(Node::File { .. }) if !overwrite => return Err(ErrorKind::AlreadyExists),
            Ok(Node::File { .. }) | Err(ErrorKind::NotFound) => {}
            Err(kind) => return Err(kind),
        }
        self.parent_for(path, parents, None)?;
        self.nodes.insert(path.to_owned(), file);
        Ok(Answer::Done)
    }

    fn has_entries(&self, path: &str) -> bool {
        self.below(path).next().is_some()
    }

    /// All paths below the directory `path`, which is not the root.
    fn below(&self, path: &str) -> impl Iterator<Item = &String> {
        let prefix = format!("{path}/");
        let from = (Bound::Excluded(prefix.clone()), Bound::Unbounded);
        self.nodes.range::<String, _>(from).map(|(path, _)| path).take_while(move |p| p.starts_with(&prefix))
    }

    fn rename(&mut self, src: &str, dst: &str, overwrite: bool) -> Result<Answer, ErrorKind> {
        let moved = self.lookup(src)?.clone();
        self.parent_for(dst, false, None)?;
        if dst.starts_with(&format!("{src}/")) {
            return Err(ErrorKind::InvalidArgument);
        }
        if src == dst {
            return Ok(Answer::Done);
        }
        match (self.nodes.get(dst), &moved) {
            (None, _) => {}
            (Some(_), _) if !overwrite => return Err(ErrorKind::AlreadyExists),
            (Some(Node::Directory { .. }), Node::File { .. }) => return Err(ErrorKind::IsADirectory),
            (Some(Node::File { .. }), Node::Directory { .. }) => return Err(ErrorKind::NotADirectory),
            (Some(Node::Directory { .. }), _) if self.has_entries(dst) => {
                return Err(ErrorKind::DirectoryNotEmpty);
            }
            (Some(_), _) => {}
        }
        let paths: Vec<String> = self.below(src).cloned().collect();
        for path in paths {
            if let Some(node) = self.nodes.remove(&path) {
                self.nodes.insert(format!("{dst}{}", &path[src.len()..]), node);
            }
        }
        self.nodes.remove(src);
        self.nodes.insert(dst.to_owned(), moved);
        Ok(Answer::Done)
    }

    fn delete(&mut self, path: &str, recursive: bool) -> Result<Answer, ErrorKind> {
        match self.lookup(path) {
            Ok(_) => {}
            Err(ErrorKind::NotFound) => return Ok(Answer::Deleted(false)),
            Err(kind) => return Err(kind),
        }
        if !recursive && self.has_entries(path) {
            return Err(ErrorKind::DirectoryNotEmpty);
        }
        let paths: Vec<String> = self.below(path).cloned().collect();
        for path in paths {
            self.nodes.remove(&path);
        }
        self.nodes.remove(path);
        Ok(Answer::Deleted(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mkdir(path: &str, parents: bool) -> Operation {
        Operation::Mkdir { path: path.to_owned(), mode: 0o755, parents }
    }

    fn create(path: &str, len: u64) -> Operation {
        Operation::Create {
            path: path.to_owned(),
            mode: 0o644,
            overwrite: false,
            parents: false,
            replication: 1,
            seed: 1,
            len,
        }
    }

    fn rename(src: &str, dst: &str, overwrite: bool) -> Operation {
        Operation::Rename { src: src.to_owned(), dst: dst.to_owned(), overwrite }
    }

    fn delete(path: &str, recursive: bool) -> Operation {
        Operation::Delete { path: path.to_owned(), recursive }
    }

    #[test]
    fn operations_and_their_answers() {
        let table = [
            (mkdir("/a/b", false), Err(ErrorKind::NotFound)),
            (mkdir("/a/b", true), Ok(Answer::Done)),
            (mkdir("/a/b", false), Err(ErrorKind::AlreadyExists)),
            (mkdir("/a/b", true), Ok(Answer::Done)),
            (create("/a/f", 5), Ok(Answer::Done)),
            (create("/a/f", 5), Err(ErrorKind::AlreadyExists)),
            (create("/a/b", 5), Err(ErrorKind::IsADirectory)),
            (create("/a/f/x", 5), Err(ErrorKind::NotADirectory)),
            (mkdir("/a/f/x", true), Err(ErrorKind::NotADirectory)),
            (rename("/a", "/a/b/c", false), Err(ErrorKind::InvalidArgument)),
            (rename("/a/f", "/a/b", false), Err(ErrorKind::AlreadyExists)),
            (rename("/a/f", "/a/b", true), Err(ErrorKind::IsADirectory)),
            (rename("/a/b", "/a/f", true), Err(ErrorKind::NotADirectory)),
            (rename("/a/f", "/a/b/f", false), Ok(Answer::Done)),
            (delete("/a/b", false), Err(ErrorKind::DirectoryNotEmpty)),
            (rename("/a/b", "/c", false), Ok(Answer::Done)),
            (delete("/a", false), Ok(Answer::Deleted(true))),
            (delete("/a", false), Ok(Answer::Deleted(false))),
            (delete("/c", true), Ok(Answer::Deleted(true))),
        ];
        let mut model = Model::default();
        for (operation, expected) in table {
            assert_eq!(model.apply(&operation), expected, "{operation:?}");
            model.check_invariants();
        }
        assert_eq!(model, Model::default());
    }
}
