//! What `put` and `cp` have to make: targets, conflicts, and the walk through directories.
//!
//! | target           | source is a file            | source is a directory                     |
//! |------------------|-----------------------------|-------------------------------------------|
//! | a directory      | goes into it                | goes into it                              |
//! | does not exist   | gets that name              | gets that name                            |
//! | a file           | replaced with `-f`          | refused                                   |
//! | directory inside | refused                     | merged with `-f`, else refused            |

use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_client::{ErrorKind, FileStatus, escape_name};
use tokio::sync::mpsc;

use super::preserve::{Attributes, Names};
use super::store::{self, FileJob, Job, Naming, Source, Tree};
use super::{Transfer, io_text};
use crate::namespace::{Node, Walk, stat_if_exists};
use crate::path::{COPYING_SUFFIX, RemotePath};

/// Directories nested deeper than this are not followed: deeper than any path of the namespace.
const MAX_DEPTH: usize = dfs_proto::MAX_PATH_DEPTH;

/// What is to be copied into the namespace.
#[derive(Clone, Debug)]
pub enum Item {
    /// A local file or directory.
    Local(PathBuf),
    /// Standard input.
    Stdin,
    /// A node of the namespace.
    Remote(Box<Node>),
}

impl Item {
    fn shown(&self) -> String {
        match self {
            Self::Local(path) => path.display().to_string(),
            Self::Stdin => "-".to_owned(),
            Self::Remote(node) => node.path.shown.clone(),
        }
    }

    /// Name in the directory that it goes into.
    fn name(&self) -> Option<String> {
        match self {
            Self::Local(path) => match path.file_name() {
                Some(name) => Some(escape_name(name.as_bytes())),
                // `.` and `..` have the name of the directory they stand for.
                None => Some(escape_name(path.canonicalize().ok()?.file_name()?.as_bytes())),
            },
            Self::Stdin => None,
            Self::Remote(node) => Some(node.path.name().to_owned()),
        }
    }
}

/// Copies `items` to `target`.
pub async fn copy(transfer: &Arc<Transfer>, items: Vec<Item>, target: RemotePath) {
    let existing = match stat_if_exists(&transfer.session.client, &target).await {
        Ok(existing) => existing,
        Err(error) => {
            transfer.fail(&target, &error.into());
            return;
        }
    };
    if items.len() > 1 && !existing.as_ref().is_some_and(FileStatus::is_dir) {
        let kind = if existing.is_some() { ErrorKind::NotADirectory } else { ErrorKind::NotFound };
        transfer.fail_about(&target.shown, kind.text());
        return;
    }
    let (sender, receiver) = store::queue();
    let planner = Planner { transfer: Arc::clone(transfer), sender, names: Arc::default() };
    let (trees, ()) = tokio::join!(planner.plan(items, target, existing), store::work(transfer, receiver));
    store::finish(transfer, trees).await;
    transfer.finish();
}

struct Planner {
    transfer: Arc<Transfer>,
    sender: mpsc::Sender<Job>,
    names: Arc<Names>,
}

impl Planner {
    /// Sends all jobs; answers the trees to finish after them. Closes the queue by ending.
    async fn plan(self, items: Vec<Item>, target: RemotePath, existing: Option<FileStatus>) -> Vec<Tree> {
        let mut trees = Vec::new();
        for item in items {
            if self.transfer.interrupt.happened() {
                break;
            }
            let into = existing.as_ref().is_some_and(FileStatus::is_dir);
            let (target, existing) = if into {
                let Some(name) = item.name() else {
                    let cause = match item {
                        Item::Stdin => ErrorKind::IsADirectory.text(),
                        Item::Local(_) | Item::Remote(_) => "has no name",
                    };
                    let subject =
                        if matches!(item, Item::Stdin) { target.shown.clone() } else { item.shown() };
                    self.transfer.fail_about(&subject, cause);
                    continue;
                };
                let target = target.child(&name);
                match stat_if_exists(&self.transfer.session.client, &target).await {
                    Ok(existing) => (target, existing),
                    Err(error) => {
                        self.transfer.fail(&target, &error.into());
                        continue;
                    }
                }
            } else {
                (target.clone(), existing.clone())
            };
            trees.extend(self.plan_item(item, target, existing).await);
        }
        trees
    }

    /// Plans one item whose final name is `target`.
    async fn plan_item(&self, item: Item, target: RemotePath, existing: Option<FileStatus>) -> Option<Tree> {
        let (source, size, attributes, is_dir) = match &item {
            Item::Stdin => (Source::Stdin, 0, None, false),
            Item::Local(path) => {
                let metadata = match std::fs::metadata(path) {
                    Ok(metadata) => metadata,
                    Err(error) => {
                        self.transfer.fail_about(&item.shown(), &io_text(&error));
                        return None;
                    }
                };
                let attributes = self.kept_local(&metadata);
                (Source::Local(path.clone()), metadata.len(), attributes, metadata.is_dir())
            }
            Item::Remote(node) => {
                let attributes = self.kept_remote(&node.status);
                (Source::Remote(node.path.clone()), node.status.size, attributes, node.status.is_dir())
            }
        };
        if let Some(existing) = &existing {
            let refusal = match (is_dir, existing.is_dir()) {
                (false, true) => Some(ErrorKind::IsADirectory),
                (true, false) => Some(ErrorKind::NotADirectory),
                _ if !self.transfer.options.force => Some(ErrorKind::AlreadyExists),
                _ => None,
            };
            if let Some(kind) = refusal {
                self.transfer.fail_about(&target.shown, kind.text());
                return None;
            }
        }
        if is_dir {
            return self.plan_tree(item, target, existing.is_some(), attributes).await;
        }
        let naming = if self.transfer.options.direct { Naming::AtOnce } else { Naming::WhenWhole };
        self.send_file(FileJob { source, size, target, naming, create_parents: false, attributes }).await;
        None
    }

    async fn plan_tree(
        &self,
        item: Item,
        target: RemotePath,
        merge: bool,
        attributes: Option<Attributes>,
    ) -> Option<Tree> {
        if let Item::Remote(node) = &item
            && is_at_or_below(&target.absolute, &node.path.absolute)
        {
            self.transfer.fail_about(&target.shown, "Is inside of what is being copied");
            return None;
        }
        let aside = !merge && !self.transfer.options.direct;
        let staging = if aside { target.with_suffix(COPYING_SUFFIX) } else { target.clone() };
        if !merge && let Err(error) = store::make_staging(&self.transfer, &staging, aside).await {
            let shown = if aside { &target } else { &staging };
            self.transfer.fail(shown, &error.into());
            return None;
        }
        let mut directories = Vec::new();
        directories.extend(attributes.map(|kept| (staging.clone(), kept)));
        let naming = if merge && !self.transfer.options.direct { Naming::WhenWhole } else { Naming::AtOnce };
        match item {
            Item::Local(root) => {
                let walk = LocalWalk {
                    transfer: Arc::clone(&self.transfer),
                    sender: self.sender.clone(),
                    names: Arc::clone(&self.names),
                    naming,
                    directories,
                };
                let top = staging.clone();
                // The walk blocks on the local disk and on the queue.
                let walked = tokio::task::spawn_blocking(move || walk.run(&root, top)).await;
                directories = walked.unwrap_or_default();
            }
            Item::Remote(node) => {
                self.walk_remote(&node.path, &staging, naming, &mut directories).await;
            }
            Item::Stdin => {}
        }
        Some(Tree { staging, target, directories })
    }

    async fn walk_remote(
        &self,
        root: &RemotePath,
        staging: &RemotePath,
        naming: Naming,
        directories: &mut Vec<(RemotePath, Attributes)>,
    ) {
        let mut walk = Walk::below(&self.transfer.session.client, root.clone());
        while let Some(step) = walk.next().await {
            if self.transfer.interrupt.happened() {
                return;
            }
            let node = match step {
                Ok(node) => node,
                Err(failed) => {
                    self.transfer.fail(&failed.path, &failed.error.into());
                    continue;
                }
            };
            let Some(relative) = node.path.absolute.get(root.absolute.trim_end_matches('/').len()..) else {
                continue;
            };
            let target = staging.with_suffix(relative);
            let attributes = self.kept_remote(&node.status);
            if node.status.is_dir() {
                directories.extend(attributes.map(|kept| (target.clone(), kept)));
                self.send(Job::Directory(target)).await;
            } else if node.status.is_file() {
                let (source, size) = (Source::Remote(node.path), node.status.size);
                self.send_file(FileJob { source, size, target, naming, create_parents: true, attributes })
                    .await;
            } else {
                self.transfer.fail_about(&node.path.shown, "Not a regular file");
            }
        }
    }

    async fn send_file(&self, job: FileJob) {
        self.transfer.progress.found(job.size);
        self.send(Job::File(job)).await;
    }

    async fn send(&self, job: Job) {
        // The workers take jobs until this end closes the queue.
        let _ = self.sender.send(job).await;
    }

    fn kept_local(&self, metadata: &Metadata) -> Option<Attributes> {
        self.transfer.options.preserve.then(|| Attributes::of_local(metadata, &self.names))
    }

    fn kept_remote(&self, status: &FileStatus) -> Option<Attributes> {
        self.transfer.options.preserve.then(|| Attributes::of_remote(status))
    }
}

fn is_at_or_below(path: &str, directory: &str) -> bool {
    let directory = directory.trim_end_matches('/');
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Walks a local directory on a blocking thread. Symbolic links are followed, as in HDFS.
struct LocalWalk {
    transfer: Arc<Transfer>,
    sender: mpsc::Sender<Job>,
    names: Arc<Names>,
    naming: Naming,
    directories: Vec<(RemotePath, Attributes)>,
}

/// A directory being walked: what is left of it, where it goes, and what it is, to notice links that
/// lead back to it.
struct Level {
    entries: std::vec::IntoIter<PathBuf>,
    target: RemotePath,
    identity: (u64, u64),
}

impl LocalWalk {
    fn run(mut self, root: &Path, target: RemotePath) -> Vec<(RemotePath, Attributes)> {
        let mut levels: Vec<Level> = Vec::new();
        match std::fs::metadata(root) {
            Ok(metadata) => levels.extend(self.enter(root, target, &metadata)),
            Err(error) => self.fail(root, &io_text(&error)),
        }
        while let Some(level) = levels.last_mut() {
            if self.transfer.interrupt.happened() {
                break;
            }
            let Some(path) = level.entries.next() else {
                levels.pop();
                continue;
            };
            let name = path.file_name().unwrap_or(OsStr::new(""));
            let target = level.target.child(&escape_name(name.as_bytes()));
            let metadata = match std::fs::metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) => {
                    self.fail(&path, &io_text(&error));
                    continue;
                }
            };
            if metadata.is_dir() {
                let identity = (metadata.dev(), metadata.ino());
                if levels.len() >= MAX_DEPTH || levels.iter().any(|above| above.identity == identity) {
                    self.fail(&path, "Too many levels of symbolic links");
                    continue;
                }
                if self.sender.blocking_send(Job::Directory(target.clone())).is_err() {
                    break;
                }
                if self.transfer.options.preserve {
                    let kept = Attributes::of_local(&metadata, &self.names);
                    self.directories.push((target.clone(), kept));
                }
                levels.extend(self.enter(&path, target, &metadata));
            } else if metadata.is_file() {
                let attributes =
                    self.transfer.options.preserve.then(|| Attributes::of_local(&metadata, &self.names));
                self.transfer.progress.found(metadata.len());
                let job = FileJob {
                    source: Source::Local(path),
                    size: metadata.len(),
                    target,
                    naming: self.naming,
                    create_parents: true,
                    attributes,
                };
                if self.sender.blocking_send(Job::File(job)).is_err() {
                    break;
                }
            } else {
                self.fail(&path, "Not a regular file");
            }
        }
        self.directories
    }

    /// Reads the names of a directory, sorted so that a copy is repeatable.
    fn enter(&self, path: &Path, target: RemotePath, metadata: &Metadata) -> Option<Level> {
        let read = || -> std::io::Result<Vec<PathBuf>> {
            let mut entries = Vec::new();
            for entry in std::fs::read_dir(path)? {
                entries.push(entry?.path());
            }
            entries.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
            Ok(entries)
        };
        match read() {
            Ok(entries) => Some(Level {
                entries: entries.into_iter(),
                target,
                identity: (metadata.dev(), metadata.ino()),
            }),
            Err(error) => {
                self.fail(path, &io_text(&error));
                None
            }
        }
    }

    fn fail(&self, path: &Path, cause: &str) {
        self.transfer.fail_about(&path.display().to_string(), cause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_not_copied_into_itself() {
        assert!(is_at_or_below("/a", "/a"));
        assert!(is_at_or_below("/a/b", "/a"));
        assert!(is_at_or_below("/a", "/"));
        assert!(!is_at_or_below("/ab", "/a"));
        assert!(!is_at_or_below("/b", "/a"));
    }

    #[test]
    fn local_items_have_names() {
        assert_eq!(Item::Local("/etc/hosts".into()).name().as_deref(), Some("hosts"));
        let here = std::env::current_dir().unwrap();
        let here = here.file_name().unwrap().to_str().unwrap();
        assert_eq!(Item::Local(".".into()).name().as_deref(), Some(here));
        let odd = Item::Local(OsStr::from_bytes(b"/\xff").into());
        assert_eq!(odd.name().as_deref(), Some("\\xff"));
        assert_eq!(Item::Stdin.name(), None);
    }
}
