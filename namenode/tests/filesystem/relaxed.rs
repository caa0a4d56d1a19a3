//! Relaxed answers: what was answered survives the end of the process; SyncNamespace puts it on disk.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use dfs_proto::v1::*;
use tempfile::{TempDir, tempdir};

use super::harness::*;

/// The real program, killed when dropped.
struct Process {
    child: Child,
    address: std::net::SocketAddr,
}

impl Process {
    fn start(dir: &TempDir) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dfs-namenode"))
            .arg("--dir")
            .arg(dir.path())
            .args(["--bind", "127.0.0.1", "--rpc-port", "0", "--http-port", "0", "--superuser", "root"])
            .args(["--reserved-bytes", "0"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
        // "... namenode serves rpc_addr=127.0.0.1:1234 ..."
        let address = log
            .by_ref()
            .map(|line| line.expect("readable"))
            .find_map(|line| Some(line.split_once("rpc_addr=")?.1.split(' ').next()?.to_owned()))
            .expect("it serves");
        std::thread::spawn(move || log.for_each(drop));
        Self { child, address: address.parse().expect("an address") }
    }
}

impl Drop for Process {
    /// SIGKILL.
    fn drop(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relaxed_changes_survive_kill_9_right_after_the_answer() {
    const ROUNDS: u64 = 5;
    const FILES: u64 = 40;
    let dir = tempdir().expect("directory");
    let mut made: Vec<(String, u64)> = Vec::new();
    for round in 0..=ROUNDS {
        let process = Process::start(&dir);
        let mut mount = Mount::connect(process.address, "mount-1").await;
        for (name, inode) in &made {
            let request = StatRequest { context: context(), node: below(1, name) };
            let status = mount.client.stat(request).await.expect("it was answered").into_inner();
            assert_eq!(status.inode, *inode, "{name}");
        }
        if round == ROUNDS {
            break;
        }
        for number in 0..FILES + round {
            let name = format!("f-{round}-{number}");
            let inode = mount.make(&name, FileType::File, false).await.expect("made").inode;
            made.push((name, inode));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sync_waits_until_everything_answered_is_on_disk() {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let mut mount = Mount::connect(namenode.rpc_addr(), "mount-1").await;
    for number in 0..20 {
        mount.make(&format!("f{number}"), FileType::File, false).await.expect("made");
        let consensus = &namenode.context().consensus;
        mount.calls.sync_namespace(SyncNamespaceRequest { context: context() }).await.expect("synced");
        // One entry a change, and more only by the namenode itself.
        assert!(consensus.synced() > number);
    }
    namenode.shutdown().await;
}
