//! What a quiet cluster looks like: the namespace with all contents, and the replicas on the disks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dfs_client::DfsClient;
use dfs_proto::v1::LocatedBlock;

use crate::replica_files::replicas_below;

/// What is at a path.
#[derive(Clone, Debug)]
pub enum Found {
    /// A directory.
    Directory,
    /// A file.
    File(FoundFile),
}

/// A file of the namespace.
#[derive(Clone, Debug)]
pub struct FoundFile {
    /// Its bytes, as a client reads them.
    pub content: Vec<u8>,
    /// Replicas wanted.
    pub replication: u16,
    /// Where its blocks are.
    pub blocks: Vec<LocatedBlock>,
}

/// Everything in the namespace but the root, by path.
pub type Namespace = BTreeMap<String, Found>;

/// A replica on a disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica {
    /// Block id.
    pub block: u64,
    /// Generation stamp, from the name of its checksums' file; 0 if that is missing.
    pub stamp: u64,
    /// Name of the datanode.
    pub datanode: String,
    /// The data.
    pub data: PathBuf,
    /// It is closed.
    pub finalized: bool,
}

/// Reads the whole namespace.
pub async fn namespace(client: &DfsClient) -> Result<Namespace> {
    let mut found = Namespace::new();
    let mut directories = vec!["/".to_owned()];
    while let Some(directory) = directories.pop() {
        for status in client.list(&directory).await.with_context(|| directory.clone())? {
            let path = status.path.clone();
            if status.is_dir() {
                directories.push(path.clone());
                found.insert(path, Found::Directory);
                continue;
            }
            let content = read(client, &path).await.with_context(|| format!("reading {path}"))?;
            let blocks = client.locate(&path, 0, u64::MAX).await.with_context(|| path.clone())?;
            found.insert(path, Found::File(FoundFile { content, replication: status.replication, blocks }));
        }
    }
    Ok(found)
}

/// Files below `directory` that are open for writing, and all others' blocks.
pub async fn files(client: &DfsClient, directory: &str) -> Result<Vec<dfs_client::FileStatus>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for status in client.list(&directory).await? {
            if status.is_dir() {
                directories.push(status.path.clone());
            } else {
                files.push(status);
            }
        }
    }
    Ok(files)
}

async fn read(client: &DfsClient, path: &str) -> Result<Vec<u8>> {
    let mut reader = client.open(path).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The replicas below `volume` of `datanode`.
pub fn replicas(datanode: &str, volume: &Path) -> Result<Vec<Replica>> {
    let found = replicas_below(volume)?;
    let copied_in = volume.join("tmp");
    Ok(found
        .into_iter()
        .filter(|(_, files)| !files.data.starts_with(&copied_in))
        .map(|(block, files)| Replica {
            block,
            stamp: files.meta.as_deref().and_then(stamp).unwrap_or(0),
            datanode: datanode.to_owned(),
            data: files.data,
            finalized: files.finalized,
        })
        .collect())
}

/// The generation stamp in the name `blk_<id>_<stamp>.meta`.
fn stamp(meta: &Path) -> Option<u64> {
    meta.file_stem()?.to_str()?.rsplit('_').next()?.parse().ok()
}
