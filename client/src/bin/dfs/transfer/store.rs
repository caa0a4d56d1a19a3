//! Writing files and directories into the namespace, for `put` and `cp`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dfs_client::{CreateOptions, DfsError, ErrorKind, FileStatus, FileWriter, MkdirOptions, RenameOptions};
use futures::StreamExt;
use tokio::sync::mpsc;

use super::feed::Feed;
use super::preserve::Attributes;
use super::{CopyError, Transfer, pool};
use crate::path::{COPYING_SUFFIX, RemotePath};

/// How long removing unfinished files may take after a failure: the cluster may be the reason of it.
const CLEAN_UP_DEADLINE: Duration = Duration::from_secs(10);

/// Where the content of a new file is.
#[derive(Clone, Debug)]
pub enum Source {
    /// A local file.
    Local(PathBuf),
    /// Standard input.
    Stdin,
    /// A file of the namespace.
    Remote(RemotePath),
}

/// How a new file gets its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// It is inside a directory that is itself renamed at the end, or the user wants it so.
    AtOnce,
    /// Written under a temporary name and renamed.
    WhenWhole,
}

/// One thing to make.
#[derive(Clone, Debug)]
pub enum Job {
    /// A directory, with missing parents.
    Directory(RemotePath),
    /// A file.
    File(FileJob),
}

/// One file to write.
#[derive(Clone, Debug)]
pub struct FileJob {
    /// Its content.
    pub source: Source,
    /// Bytes, as far as known.
    pub size: u64,
    /// Its name.
    pub target: RemotePath,
    /// How it gets it.
    pub naming: Naming,
    /// Make missing parents: in a tree whose directories are being made at the same time.
    pub create_parents: bool,
    /// What it shall keep.
    pub attributes: Option<Attributes>,
}

/// A directory that is filled under a temporary name.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Name while it is filled; equal to `target` if it existed before.
    pub staging: RemotePath,
    /// Final name.
    pub target: RemotePath,
    /// Directories in it, each before what is below it, and what they shall keep.
    pub directories: Vec<(RemotePath, Attributes)>,
}

/// The queue from a plan to the workers.
pub fn queue() -> (mpsc::Sender<Job>, mpsc::Receiver<Job>) {
    mpsc::channel(pool::QUEUE_JOBS)
}

/// Works off the queue.
pub async fn work(transfer: &Arc<Transfer>, jobs: mpsc::Receiver<Job>) {
    let limit = usize::from(transfer.options.threads);
    pool::run(jobs, limit, |job| {
        let transfer = Arc::clone(transfer);
        async move {
            if transfer.interrupt.happened() {
                return;
            }
            match job {
                Job::Directory(path) => make_directory(&transfer, &path).await,
                Job::File(job) => {
                    transfer.progress.begin(job.target.name());
                    if let Err(error) = store(&transfer, &job).await {
                        fail(&transfer, &job, &error);
                    }
                }
            }
        }
    })
    .await;
}

/// Tells the error under the name of whose fault it is: local errors are the source's.
fn fail(transfer: &Transfer, job: &FileJob, error: &CopyError) {
    match (error, &job.source) {
        (CopyError::Local(_), Source::Local(path)) => {
            transfer.fail_about(&path.display().to_string(), &error.to_string());
        }
        (CopyError::Remote(error), Source::Remote(path)) => transfer.fail_either(&job.target, path, error),
        _ => transfer.fail(&job.target, error),
    }
}

async fn make_directory(transfer: &Transfer, path: &RemotePath) {
    let options = MkdirOptions { parents: true, ..MkdirOptions::default() };
    if let Err(error) = transfer.session.client.mkdir(&path.absolute, options).await {
        transfer.fail(path, &error.into());
    }
}

/// Writes one file; after an error or an interruption nothing of it is left.
async fn store(transfer: &Transfer, job: &FileJob) -> Result<(), CopyError> {
    let mut feed = tokio::select! {
        opened = open(transfer, &job.source, job.size) => opened?,
        () = transfer.interrupt.wait() => return Err(CopyError::Interrupted),
    };
    let path = match job.naming {
        Naming::AtOnce => job.target.clone(),
        Naming::WhenWhole => job.target.with_suffix(COPYING_SUFFIX),
    };
    let writer = tokio::select! {
        created = create(transfer, job, &path) => created?,
        () = transfer.interrupt.wait_with_grace() => return Err(CopyError::Interrupted),
    };
    let outcome = fill(transfer, job, &path, writer, &mut feed).await;
    if outcome.is_err() {
        remove(transfer, &path, false).await;
    }
    outcome
}

async fn open(transfer: &Transfer, source: &Source, size: u64) -> Result<Feed, CopyError> {
    match source {
        Source::Local(path) => Ok(Feed::local(path.clone(), size).await?),
        Source::Stdin => Ok(Feed::stdin()?),
        Source::Remote(path) => {
            Ok(Feed::Remote(Box::new(transfer.session.client.open(&path.absolute).await?)))
        }
    }
}

/// Creates the file. A temporary file that a killed copy left open is removed first: its lease would
/// block the name for a minute.
async fn create(transfer: &Transfer, job: &FileJob, path: &RemotePath) -> Result<FileWriter, DfsError> {
    let client = &transfer.session.client;
    let default = CreateOptions::default();
    let options = CreateOptions {
        overwrite: transfer.options.force || job.naming == Naming::WhenWhole,
        create_parents: job.create_parents,
        replication: transfer.options.replication,
        block_size: transfer.options.block_size,
        mode: job.attributes.as_ref().map_or(default.mode, |kept| kept.mode),
        // An empty file needs none; how much standard input has is not known.
        allocate_block: job.size > 0 || matches!(job.source, Source::Stdin),
    };
    match client.create(&path.absolute, options).await {
        Err(error) if error.kind() == ErrorKind::LeaseHeldByOther && job.naming == Naming::WhenWhole => {
            client.delete(&path.absolute, false).await?;
            client.create(&path.absolute, options).await
        }
        outcome => outcome,
    }
}

async fn fill(
    transfer: &Transfer,
    job: &FileJob,
    path: &RemotePath,
    mut writer: FileWriter,
    feed: &mut Feed,
) -> Result<(), CopyError> {
    let status = tokio::select! {
        copied = copy(transfer, &mut writer, feed) => copied?,
        () = transfer.interrupt.wait() => return Err(CopyError::Interrupted),
    };
    let client = &transfer.session.client;
    if let Some(attributes) = &job.attributes {
        attributes.apply_remote(client, &path.absolute, &status).await?;
    }
    if job.naming == Naming::WhenWhole {
        let options = RenameOptions { overwrite: transfer.options.force };
        client.rename(&path.absolute, &job.target.absolute, options).await.map_err(|error| {
            match error.kind() {
                ErrorKind::AlreadyExists => CopyError::TargetExists,
                _ => CopyError::Remote(error),
            }
        })?;
    }
    Ok(())
}

async fn copy(
    transfer: &Transfer,
    writer: &mut FileWriter,
    feed: &mut Feed,
) -> Result<FileStatus, CopyError> {
    while let Some(bytes) = feed.next().await? {
        let length = bytes.len();
        writer.write_bytes(bytes).await?;
        transfer.progress.moved(length);
    }
    Ok(writer.close().await?)
}

/// Removes what was not finished; says so if it cannot.
async fn remove(transfer: &Transfer, path: &RemotePath, recursive: bool) {
    let deleted = transfer.session.client.delete(&path.absolute, recursive);
    match tokio::time::timeout(CLEAN_UP_DEADLINE, deleted).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            transfer.fail_about(&path.shown, &format!("{} not removed: {error}", path.absolute))
        }
        Err(_) => {
            let cause = format!("{} not removed: the namenode does not answer", path.absolute);
            transfer.fail_about(&path.shown, &cause);
        }
    }
}

/// Gives trees that are filled their attributes and final names; removes them after an interruption.
pub async fn finish(transfer: &Transfer, trees: Vec<Tree>) {
    for tree in trees {
        if transfer.interrupt.happened() {
            if tree.staging != tree.target {
                remove(transfer, &tree.staging, true).await;
            }
            continue;
        }
        keep_attributes(transfer, tree.directories).await;
        if tree.staging == tree.target {
            continue;
        }
        let (from, to) = (&tree.staging.absolute, &tree.target.absolute);
        if let Err(error) = transfer.session.client.rename(from, to, RenameOptions::default()).await {
            transfer.fail(&tree.target, &error.into());
            remove(transfer, &tree.staging, true).await;
        }
    }
}

/// Gives directories their attributes: deepest first, so that a directory is still open when what is
/// below it is changed, and those of one depth at once.
async fn keep_attributes(transfer: &Transfer, mut directories: Vec<(RemotePath, Attributes)>) {
    let depth = |path: &RemotePath| path.absolute.matches('/').count();
    directories.sort_by_key(|(path, _)| std::cmp::Reverse(depth(path)));
    let limit = usize::from(transfer.options.threads);
    for level in directories.chunk_by(|(a, _), (b, _)| depth(a) == depth(b)) {
        futures::stream::iter(level)
            .for_each_concurrent(limit, |(path, attributes)| async move {
                let outcome = async {
                    let client = &transfer.session.client;
                    let status = client.stat(&path.absolute).await?;
                    attributes.apply_remote(client, &path.absolute, &status).await
                };
                if let Err(error) = outcome.await {
                    transfer.fail(path, &error.into());
                }
            })
            .await;
    }
}

/// Makes the directory that a tree is filled in; if it has a temporary name, removes what a killed copy
/// may have left under it.
pub async fn make_staging(
    transfer: &Transfer,
    staging: &RemotePath,
    temporary: bool,
) -> Result<(), DfsError> {
    let client = &transfer.session.client;
    let options = MkdirOptions::default();
    match client.mkdir(&staging.absolute, options).await {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && temporary => {
            client.delete(&staging.absolute, true).await?;
            client.mkdir(&staging.absolute, options).await.map(drop)
        }
        outcome => outcome.map(drop),
    }
}
