//! A real datanode, or several, on real sockets and directories, with a namenode that only records.

mod bad_input;
mod command;
mod crash;
mod namenode;
mod pipeline;
mod random_access;
mod random_wire;
mod reading;
mod recovery;
mod restart;
mod space;
mod sync_replica;
mod wire;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dfs_datanode::{Datanode, DatanodeConfig};
use tempfile::TempDir;

use crate::namenode::FakeNamenode;

/// Longest wait for anything that is to happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Bytes that differ from each other and from block to block.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 24) as u8
        })
        .collect()
}

/// Some datanodes and their namenode.
pub struct Cluster {
    pub namenode: FakeNamenode,
    pub nodes: Vec<Datanode>,
    dirs: Vec<TempDir>,
}

pub fn config(namenode: &FakeNamenode, dir: &Path) -> DatanodeConfig {
    DatanodeConfig {
        namenode: namenode.addr().to_string(),
        volumes: vec![dir.to_owned()],
        bind: [127, 0, 0, 1].into(),
        xfer_port: 0,
        ipc_port: 0,
        http_port: 0,
        reserved_bytes: Some(0),
        handshake_timeout: PATIENCE,
        keepalive_timeout: PATIENCE,
        peer_timeout: PATIENCE,
        connect_timeout: PATIENCE,
        ..DatanodeConfig::default()
    }
}

impl Cluster {
    pub async fn start(count: usize) -> Self {
        let namenode = FakeNamenode::start().await;
        let mut cluster = Self { namenode, nodes: Vec::new(), dirs: Vec::new() };
        for _ in 0..count {
            cluster.dirs.push(tempfile::tempdir().expect("temporary directory"));
            let node = cluster.start_node(cluster.dirs.len() - 1).await;
            cluster.nodes.push(node);
        }
        cluster
    }

    async fn start_node(&self, index: usize) -> Datanode {
        let node = Datanode::start(config(&self.namenode, self.dir(index))).await.expect("datanode starts");
        node.registered().await;
        node
    }

    pub fn dir(&self, index: usize) -> &Path {
        self.dirs[index].path()
    }

    /// Stops a node and starts it again on its directory, under new ports.
    pub async fn restart(&mut self, index: usize) {
        self.restart_after(index, |_| {}).await;
    }

    /// The same, with something done to its directory in between.
    pub async fn restart_after(&mut self, index: usize, meanwhile: impl FnOnce(&Path)) {
        self.nodes.remove(index).shutdown().await;
        meanwhile(self.dir(index));
        let node = self.start_node(index).await;
        self.nodes.insert(index, node);
    }

    /// A file of a block, wherever it is in a node's directory.
    pub fn find(&self, index: usize, name: &str) -> Option<PathBuf> {
        find(self.dir(index), name)
    }
}

pub fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(dir).expect("readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|n| n == name) {
            return Some(path);
        }
    }
    None
}
