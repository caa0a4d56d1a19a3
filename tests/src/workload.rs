//! Random operations, done on a cluster through the client library and on the reference model, and
//! compared after every step: the answer or the error, the whole tree, and the content that was touched.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use dfs_client::{CreateOptions, DfsClient, DfsError, MkdirOptions, RenameOptions};
use dfs_proto::ErrorKind;
use tokio::io::AsyncWriteExt;

use crate::model::{Answer, Model, Node, Operation};
use crate::pattern::{ensure_same, pattern};
use crate::rng::Rng;
use crate::wait::{PATIENCE, wait_until};

/// Names of the tree: few, so that operations meet what others left.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Deepest path.
const MAX_DEPTH: usize = 3;

/// Makes operations from random choices.
#[derive(Debug)]
pub struct Workload {
    rng: Rng,
    block_size: u64,
    max_replication: u16,
}

impl Workload {
    /// Operations on files of a few blocks of `block_size`, with replication up to `max_replication`.
    pub const fn new(seed: u64, block_size: u64, max_replication: u16) -> Self {
        Self { rng: Rng::new(seed), block_size, max_replication }
    }

    /// The next operation; it need not be possible.
    pub fn next_operation(&mut self, model: &Model) -> Operation {
        match self.rng.below(100) {
            0..12 => Operation::Mkdir { path: self.path(), mode: self.mode(), parents: self.rng.chance(50) },
            12..35 => Operation::Create {
                path: self.path(),
                mode: self.mode(),
                overwrite: self.rng.chance(50),
                parents: self.rng.chance(50),
                replication: 1 + self.rng.below(u64::from(self.max_replication)) as u16,
                seed: self.rng.next_u64(),
                len: self.length(),
            },
            35..50 => {
                Operation::Append { path: self.file(model), seed: self.rng.next_u64(), len: self.length() }
            }
            50..58 => {
                let path = self.file(model);
                let len = self.length();
                Operation::Truncate { path, len }
            }
            58..73 => {
                let src = if self.rng.chance(50) { self.path() } else { self.file(model) };
                Operation::Rename { src, dst: self.path(), overwrite: self.rng.chance(50) }
            }
            73..80 => Operation::Delete { path: self.path(), recursive: self.rng.chance(60) },
            80..85 => Operation::SetPermission { path: self.path(), mode: self.mode() },
            85..90 => Operation::SetReplication {
                path: self.file(model),
                replication: 1 + self.rng.below(u64::from(self.max_replication)) as u16,
            },
            _ => {
                let offset = self.length();
                Operation::Read { path: self.file(model), offset, len: self.length() }
            }
        }
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.rng.index(MAX_DEPTH);
        (0..depth).fold(String::new(), |path, _| path + "/" + self.rng.pick::<&str>(&NAMES))
    }

    /// Mostly the path of a file that exists.
    fn file(&mut self, model: &Model) -> String {
        let files: Vec<&str> = model
            .nodes()
            .filter(|(_, node)| matches!(node, Node::File { .. }))
            .map(|(path, _)| path)
            .collect();
        if files.is_empty() || self.rng.chance(15) {
            self.path()
        } else {
            (*self.rng.pick(&files)).to_owned()
        }
    }

    fn mode(&mut self) -> u32 {
        *self.rng.pick(&[0o755, 0o644, 0o700, 0o1777, 0o640, 0o777])
    }

    /// Lengths around the edges of checksum chunks and blocks, and some in between.
    fn length(&mut self) -> u64 {
        let edge = *self.rng.pick(&[0, 1, 4096, self.block_size, 2 * self.block_size]);
        match self.rng.below(4) {
            0 => edge,
            1 => edge + 1,
            2 => edge.saturating_sub(1),
            _ => self.rng.below(3 * self.block_size),
        }
    }
}

/// Does `operation` on the cluster.
pub async fn perform(client: &DfsClient, operation: &Operation) -> Result<Answer, DfsError> {
    match operation {
        Operation::Mkdir { path, mode, parents } => {
            client.mkdir(path, MkdirOptions { mode: *mode, parents: *parents }).await?;
            Ok(Answer::Done)
        }
        Operation::Create { path, mode, overwrite, parents, replication, seed, len } => {
            let options = CreateOptions {
                mode: *mode,
                overwrite: *overwrite,
                create_parents: *parents,
                replication: Some(*replication),
                ..CreateOptions::default()
            };
            let mut writer = client.create(path, options).await?;
            writer.write_bytes(pattern(*seed, 0, *len as usize).into()).await?;
            writer.close().await?;
            Ok(Answer::Done)
        }
        Operation::Append { path, seed, len } => {
            let mut writer = client.append(path).await?;
            writer.write_bytes(pattern(*seed, 0, *len as usize).into()).await?;
            writer.close().await?;
            Ok(Answer::Done)
        }
        Operation::Truncate { path, len } => {
            client.truncate(path, *len).await?;
            Ok(Answer::Done)
        }
        Operation::Rename { src, dst, overwrite } => {
            client.rename(src, dst, RenameOptions { overwrite: *overwrite }).await?;
            Ok(Answer::Done)
        }
        Operation::Delete { path, recursive } => Ok(Answer::Deleted(client.delete(path, *recursive).await?)),
        Operation::SetPermission { path, mode } => {
            client.set_permission(path, *mode).await?;
            Ok(Answer::Done)
        }
        Operation::SetReplication { path, replication } => {
            client.set_replication(path, *replication).await?;
            Ok(Answer::Done)
        }
        Operation::Read { path, offset, len } => {
            let reader = client.open(path).await?;
            let mut buffer = vec![0u8; *len as usize];
            let read = reader.read_at(*offset, &mut buffer).await?;
            buffer.truncate(read);
            Ok(Answer::Bytes(buffer))
        }
    }
}

/// One step: does `operation` on both and compares answer, tree and touched content.
pub async fn step(client: &DfsClient, model: &mut Model, operation: &Operation) -> Result<()> {
    let got = perform(client, operation).await.map_err(|error| (error.kind(), error.to_string()));
    let wanted = model.apply(operation);
    model.check_invariants();
    match (got, wanted) {
        (Ok(got), Ok(wanted)) => compare_answers(got, wanted)?,
        (Err((got, text)), Err(wanted)) => {
            ensure!(got == wanted, "the cluster said {got:?} ({text}), the model {wanted:?}");
        }
        (Ok(got), Err(wanted)) => {
            bail!("the cluster succeeded with {got:?}, the model said {wanted:?}")
        }
        (Err((got, text)), Ok(_)) => {
            bail!("the cluster failed with {got:?} ({text}), the model succeeded")
        }
    }
    if let Operation::Truncate { path, .. } = operation {
        wait_until_closed(client, path).await?;
    }
    compare_trees(client, model).await?;
    let touched = match operation {
        Operation::Create { path, .. }
        | Operation::Append { path, .. }
        | Operation::Truncate { path, .. } => path,
        Operation::Rename { dst, .. } => dst,
        _ => return Ok(()),
    };
    compare_content(client, model, touched).await
}

fn compare_answers(got: Answer, wanted: Answer) -> Result<()> {
    match (got, wanted) {
        (Answer::Bytes(got), Answer::Bytes(wanted)) => ensure_same("bytes read", &got, &wanted),
        (got, wanted) => {
            ensure!(got == wanted, "the cluster answered {got:?}, the model {wanted:?}");
            Ok(())
        }
    }
}

/// A truncated file is closed once its last block has been cut.
async fn wait_until_closed(client: &DfsClient, path: &str) -> Result<()> {
    wait_until(&format!("{path} is closed"), PATIENCE, async || match client.stat(path).await {
        Ok(status) => Ok(!status.under_construction),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(true),
        Err(error) => Err(error.into()),
    })
    .await
}

/// Type, length, permission bits and replication of a node, for comparison.
#[derive(Debug, PartialEq, Eq)]
struct Attributes {
    is_dir: bool,
    len: u64,
    mode: u32,
    replication: u16,
}

/// Compares every node of the cluster with the model's.
pub async fn compare_trees(client: &DfsClient, model: &Model) -> Result<()> {
    let mut got = BTreeMap::new();
    let mut directories = vec!["/".to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in client.list(&directory).await.with_context(|| format!("list {directory}"))? {
            let path = format!("{}/{}", directory.trim_end_matches('/'), entry.name());
            if entry.is_dir() {
                directories.push(path.clone());
            }
            got.insert(
                path,
                Attributes {
                    is_dir: entry.is_dir(),
                    len: entry.size,
                    mode: entry.mode,
                    replication: entry.replication,
                },
            );
        }
    }
    let wanted: BTreeMap<String, Attributes> = model
        .nodes()
        .map(|(path, node)| {
            let attributes = match node {
                Node::Directory { mode } => Attributes { is_dir: true, len: 0, mode: *mode, replication: 0 },
                Node::File { mode, replication, content } => {
                    Attributes { is_dir: false, len: content.len(), mode: *mode, replication: *replication }
                }
            };
            (path.to_owned(), attributes)
        })
        .collect();
    let differs = got.keys().chain(wanted.keys()).find(|path| got.get(*path) != wanted.get(*path));
    if let Some(path) = differs {
        bail!("{path}: the cluster has {:?}, the model {:?}", got.get(path), wanted.get(path));
    }
    Ok(())
}

/// Compares the content of `path`, if the model has a file there.
async fn compare_content(client: &DfsClient, model: &Model, path: &str) -> Result<()> {
    if let Some(Node::File { content, .. }) = model.get(path) {
        ensure_same(path, &read_all(client, path).await?, &content.bytes())?;
    }
    Ok(())
}

/// Compares the content of every file.
pub async fn compare_contents(client: &DfsClient, model: &Model) -> Result<()> {
    for (path, _) in model.nodes() {
        compare_content(client, model, path).await?;
    }
    Ok(())
}

/// All bytes of a file, read in order.
pub async fn read_all(client: &DfsClient, path: &str) -> Result<Vec<u8>> {
    let mut reader = client.open(path).await.with_context(|| format!("open {path}"))?;
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.chunk().await.with_context(|| format!("read {path}"))? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Creates `path` with `bytes` and closes it.
pub async fn write_file(client: &DfsClient, path: &str, bytes: &[u8]) -> Result<()> {
    let options = CreateOptions { overwrite: true, create_parents: true, ..CreateOptions::default() };
    let mut writer = client.create(path, options).await.with_context(|| format!("create {path}"))?;
    writer.write_all(bytes).await.with_context(|| format!("write {path}"))?;
    writer.close().await.with_context(|| format!("close {path}"))?;
    Ok(())
}
