//! Sessions as a mount has them (`dfs_client::fs`), end to end.

mod delegated_locks;
mod delegations;
mod locks;
mod lost_changes;
mod names;
mod open_files;
mod outages;
mod shared_directories;
mod shared_directories_model;

use std::time::Duration;

use anyhow::Result;
use dfs_client::fs::{Caller, FileStatus, FileSystem, FileSystemConfig, FileType, InodeId, NewNode};
use dfs_tests::cluster::{MiniCluster, SUPERUSER};

/// The root directory.
const ROOT: InodeId = InodeId::ROOT;

fn config(cluster: &MiniCluster) -> FileSystemConfig {
    FileSystemConfig {
        user: Some(SUPERUSER.to_owned()),
        ..FileSystemConfig::of_namenodes(&cluster.namenode_address())
    }
}

async fn session(cluster: &MiniCluster) -> Result<FileSystem> {
    Ok(FileSystem::connect(config(cluster)).await?)
}

/// A session whose calls do not wait long for what is away.
async fn impatient_session(cluster: &MiniCluster) -> Result<FileSystem> {
    let config = FileSystemConfig { wait: Duration::from_millis(300), ..config(cluster) };
    Ok(FileSystem::connect(config).await?)
}

fn root() -> Caller {
    Caller::named(SUPERUSER)
}

fn user(name: &str, groups: &[&str]) -> Caller {
    Caller { user: name.into(), groups: groups.iter().map(|group| (*group).to_owned()).collect() }
}

fn file() -> NewNode {
    NewNode::new(FileType::File, 0o644, "staff")
}

fn directory(mode: u32) -> NewNode {
    NewNode::new(FileType::Directory, mode, "staff")
}

fn inode(status: &FileStatus) -> InodeId {
    InodeId(status.inode)
}
