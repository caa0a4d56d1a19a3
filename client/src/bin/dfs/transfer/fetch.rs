//! Reading files and directories out of the namespace, for `get`.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_client::{ErrorKind, FileReader, unescape_name};
use tokio::sync::mpsc;

use super::preserve::{Attributes, Names};
use super::sink::Sink;
use super::store::Naming;
use super::{CopyError, Transfer, io_text, pool, rescue};
use crate::namespace::{Node, Walk};
use crate::path::{COPYING_SUFFIX, RemotePath};

/// Files up to this size are gathered in memory and written in one go: a thread for each small file
/// would cost more than the file.
const SMALL_FILE_BYTES: u64 = 1 << 20;

/// One file to write.
struct Job {
    source: RemotePath,
    target: PathBuf,
    naming: Naming,
    attributes: Option<Attributes>,
}

/// A directory that is filled under a temporary name.
struct Tree {
    staging: PathBuf,
    target: PathBuf,
    directories: Vec<(PathBuf, Attributes)>,
}

/// Copies `nodes` to the local `target`.
pub async fn copy(transfer: &Arc<Transfer>, nodes: Vec<Node>, target: PathBuf) {
    let into = target.is_dir();
    if nodes.len() > 1 && !into {
        transfer.fail_about(&target.display().to_string(), ErrorKind::NotADirectory.text());
        return;
    }
    let names = Arc::new(Names::default());
    let (sender, receiver) = mpsc::channel(pool::QUEUE_JOBS);
    let planner = Planner { transfer: Arc::clone(transfer), sender };
    let (trees, ()) = tokio::join!(planner.plan(nodes, &target, into), work(transfer, &names, receiver));
    finish(transfer, &names, trees);
    transfer.finish();
}

struct Planner {
    transfer: Arc<Transfer>,
    sender: mpsc::Sender<Job>,
}

impl Planner {
    /// Sends all jobs; answers the trees to finish after them. Closes the queue by ending.
    async fn plan(self, nodes: Vec<Node>, target: &Path, into: bool) -> Vec<Tree> {
        let mut trees = Vec::new();
        for node in nodes {
            if self.transfer.interrupt.happened() {
                break;
            }
            let name = unescape_name(node.path.name());
            let target = if into { target.join(OsStr::from_bytes(&name)) } else { target.to_owned() };
            let outcome = if node.status.is_dir() {
                self.plan_tree(&node, &target).await.map(|tree| trees.push(tree))
            } else {
                self.plan_file(node, &target).await
            };
            if let Err(error) = outcome {
                self.transfer.fail_about(&target.display().to_string(), &io_text(&error));
            }
        }
        trees
    }

    async fn plan_file(&self, node: Node, target: &Path) -> io::Result<()> {
        let options = self.transfer.options;
        match std::fs::metadata(target) {
            Ok(found) if found.is_dir() => return Err(io::Error::from_raw_os_error(libc::EISDIR)),
            Ok(_) if !options.force => return Err(io::Error::from_raw_os_error(libc::EEXIST)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let naming = if options.direct { Naming::AtOnce } else { Naming::WhenWhole };
        self.send(node, target.to_owned(), naming).await;
        Ok(())
    }

    async fn plan_tree(&self, root: &Node, target: &Path) -> io::Result<Tree> {
        let options = self.transfer.options;
        let merge = match std::fs::metadata(target) {
            Ok(found) if !found.is_dir() => return Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
            Ok(_) if !options.force => return Err(io::Error::from_raw_os_error(libc::EEXIST)),
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        let aside = !merge && !options.direct;
        let staging = if aside { with_suffix(target) } else { target.to_owned() };
        if aside && staging.exists() {
            // Left by a copy that was killed.
            std::fs::remove_dir_all(&staging)?;
        }
        if !merge {
            std::fs::create_dir(&staging)?;
        }
        let naming = if merge && !options.direct { Naming::WhenWhole } else { Naming::AtOnce };
        let mut directories = Vec::new();
        if options.preserve {
            directories.push((staging.clone(), Attributes::of_remote(&root.status)));
        }
        self.walk(&root.path, &staging, naming, &mut directories).await;
        Ok(Tree { staging, target: target.to_owned(), directories })
    }

    async fn walk(
        &self,
        root: &RemotePath,
        staging: &Path,
        naming: Naming,
        directories: &mut Vec<(PathBuf, Attributes)>,
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
            let Some(target) = below(staging, &root.absolute, &node.path.absolute) else {
                self.transfer.fail_about(&node.path.shown, ErrorKind::InvalidPath.text());
                continue;
            };
            if node.status.is_dir() {
                if self.transfer.options.preserve {
                    directories.push((target.clone(), Attributes::of_remote(&node.status)));
                }
                if let Err(error) = std::fs::create_dir(&target)
                    && !target.is_dir()
                {
                    self.transfer.fail_about(&target.display().to_string(), &io_text(&error));
                }
            } else if node.status.is_file() {
                self.send(node, target, naming).await;
            } else {
                self.transfer.fail_about(&node.path.shown, "Not a regular file");
            }
        }
    }

    async fn send(&self, node: Node, target: PathBuf, naming: Naming) {
        self.transfer.progress.found(node.status.size);
        let attributes = self.transfer.options.preserve.then(|| Attributes::of_remote(&node.status));
        // The workers take jobs until this end closes the queue.
        let _ = self.sender.send(Job { source: node.path, target, naming, attributes }).await;
    }
}

/// Local name of a node below `root`. `None` for names that would lead elsewhere: the namenode allows
/// none, but what comes over a network is not trusted with the local disk.
fn below(staging: &Path, root: &str, path: &str) -> Option<PathBuf> {
    let relative = path.strip_prefix(root.trim_end_matches('/'))?.strip_prefix('/')?;
    let mut target = staging.to_owned();
    for name in relative.split('/') {
        let name = unescape_name(name);
        let sound =
            !matches!(name.as_ref(), b"" | b"." | b"..") && !name.iter().any(|b| matches!(b, 0 | b'/'));
        if !sound {
            return None;
        }
        target.push(OsStr::from_bytes(&name));
    }
    Some(target)
}

fn with_suffix(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(COPYING_SUFFIX);
    name.into()
}

async fn work(transfer: &Arc<Transfer>, names: &Arc<Names>, jobs: mpsc::Receiver<Job>) {
    let limit = usize::from(transfer.options.threads);
    pool::run(jobs, limit, |job| {
        let (transfer, names) = (Arc::clone(transfer), Arc::clone(names));
        async move {
            if transfer.interrupt.happened() {
                return;
            }
            transfer.progress.begin(job.source.name());
            match fetch(&transfer, &names, &job).await {
                Ok(()) => {}
                Err(CopyError::Local(error)) => {
                    transfer.fail_about(&job.target.display().to_string(), &io_text(&error));
                }
                Err(error) => transfer.fail(&job.source, &error),
            }
        }
    })
    .await;
}

/// Writes one local file; after an error or an interruption nothing of it is left.
async fn fetch(transfer: &Transfer, names: &Names, job: &Job) -> Result<(), CopyError> {
    let path = match job.naming {
        Naming::AtOnce => job.target.clone(),
        Naming::WhenWhole => with_suffix(&job.target),
    };
    let filled = if transfer.options.ignore_crc {
        fill_rescued(transfer, job, &path).await
    } else {
        let reader = tokio::select! {
            opened = transfer.session.client.open(&job.source.absolute) => opened?,
            () = transfer.interrupt.wait() => return Err(CopyError::Interrupted),
        };
        fill(transfer, reader, &path).await
    };
    let outcome = filled.and_then(|()| {
        if let Some(attributes) = &job.attributes {
            attributes.apply_local(&path, names)?;
        }
        if job.naming == Naming::WhenWhole {
            std::fs::rename(&path, &job.target)?;
        }
        Ok(())
    });
    if outcome.is_err() {
        // Absent if creating it is what failed.
        let _ = std::fs::remove_file(&path);
    }
    outcome
}

/// Writes the content. Only receiving is given up on a signal: once it returns, nothing is still about to
/// write to `path`, which the caller may then remove.
async fn fill(transfer: &Transfer, mut reader: FileReader, path: &Path) -> Result<(), CopyError> {
    if reader.len() <= SMALL_FILE_BYTES {
        let content = tokio::select! {
            content = gather(transfer, &mut reader) => content?,
            () = transfer.interrupt.wait() => return Err(CopyError::Interrupted),
        };
        let path = path.to_owned();
        let written = tokio::task::spawn_blocking(move || std::fs::write(path, content)).await;
        return Ok(written.map_err(io::Error::other)??);
    }
    let sink = Sink::start(File::create(path)?)?;
    let received = tokio::select! {
        received = pass_on(transfer, &mut reader, &sink) => received,
        () = transfer.interrupt.wait() => Err(CopyError::Interrupted),
    };
    let written = sink.finish().await;
    received?;
    written?;
    Ok(())
}

/// Writes what is left of a damaged file.
async fn fill_rescued(transfer: &Transfer, job: &Job, path: &Path) -> Result<(), CopyError> {
    let sink = Sink::start(File::create(path)?)?;
    let received = tokio::select! {
        received = rescue::write(&transfer.session, &job.source, &sink) => received.map_err(CopyError::Remote),
        () = transfer.interrupt.wait() => Err(CopyError::Interrupted),
    };
    let written = sink.finish().await;
    let doubt = received?;
    written?;
    transfer.progress.suspend(|| rescue::tell(&transfer.session, &job.source, &doubt));
    Ok(())
}

async fn gather(transfer: &Transfer, reader: &mut FileReader) -> Result<Vec<u8>, CopyError> {
    let mut content = Vec::with_capacity(usize::try_from(reader.len()).unwrap_or(0));
    while let Some(bytes) = reader.chunk().await? {
        transfer.progress.moved(bytes.len());
        content.extend_from_slice(&bytes);
    }
    Ok(content)
}

/// Ends early when writing failed, which the sink then tells.
async fn pass_on(transfer: &Transfer, reader: &mut FileReader, sink: &Sink<File>) -> Result<(), CopyError> {
    while let Some(bytes) = reader.chunk().await? {
        let length = bytes.len();
        if !sink.send(bytes).await {
            break;
        }
        transfer.progress.moved(length);
    }
    Ok(())
}

/// Gives trees that are filled their attributes and final names; removes them after an interruption.
fn finish(transfer: &Transfer, names: &Names, trees: Vec<Tree>) {
    for tree in trees {
        let outcome = if transfer.interrupt.happened() {
            if tree.staging == tree.target { Ok(()) } else { std::fs::remove_dir_all(&tree.staging) }
        } else {
            finish_tree(&tree, names)
        };
        if let Err(error) = outcome {
            transfer.fail_about(&tree.target.display().to_string(), &io_text(&error));
        }
    }
}

fn finish_tree(tree: &Tree, names: &Names) -> io::Result<()> {
    // Deepest first, so that a directory is still open when what is below it is changed.
    for (path, attributes) in tree.directories.iter().rev() {
        attributes.apply_local(path, names)?;
    }
    if tree.staging != tree.target {
        std::fs::rename(&tree.staging, &tree.target)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_the_network_stay_below_the_target() {
        let here = Path::new("/out");
        assert_eq!(below(here, "/", "/a/b"), Some("/out/a/b".into()));
        assert_eq!(below(here, "/a", "/a/b"), Some("/out/b".into()));
        let odd = Path::new(OsStr::from_bytes(b"/out/\xff"));
        assert_eq!(below(here, "/a", "/a/\\xff").as_deref(), Some(odd));
        for path in ["/a/\\x2e\\x2e/b", "/a/x\\x2fy", "/a/../b", "/a/./b", "/a//b", "/a/", "/ab/c", "/a/x\0y"]
        {
            assert_eq!(below(here, "/a", path), None, "{path}");
        }
    }

    #[test]
    fn temporary_names_keep_their_directory() {
        assert_eq!(with_suffix(Path::new("d/f")), Path::new("d/f._COPYING_"));
    }
}
