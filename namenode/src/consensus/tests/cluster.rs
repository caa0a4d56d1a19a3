//! Three voters in one process over real connections.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::SocketAddr;

use dfs_proto::v1::LogPosition;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use super::*;
use crate::consensus::ProposeError;
use crate::log::Reply;

/// A running member.
struct Member {
    consensus: Consensus,
    server: JoinHandle<()>,
}

impl Member {
    async fn start(config: ConsensusConfig, listener: TcpListener) -> Self {
        let consensus = Consensus::start(config, ignore_effects()).await.expect("started");
        let router = Server::builder().add_service(consensus.raft_service());
        let server = tokio::spawn(async move {
            // Ends when it is aborted.
            let _ = router.serve_with_incoming(TcpListenerStream::new(listener)).await;
        });
        Self { consensus, server }
    }

    /// Cuts it off at once, then lets it end.
    async fn stop(self) {
        self.server.abort();
        let _ = self.server.await;
        self.consensus.shutdown().await;
    }
}

struct Cluster {
    dirs: Vec<TempDir>,
    addresses: BTreeMap<u64, SocketAddr>,
    members: BTreeMap<u64, Member>,
}

impl Cluster {
    async fn start() -> Self {
        let dirs: Vec<TempDir> = (0..3).map(|_| tempfile::tempdir().expect("directory")).collect();
        let mut addresses = BTreeMap::new();
        let mut listeners = Vec::new();
        for node_id in 1..=3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            addresses.insert(node_id, listener.local_addr().expect("bound"));
            listeners.push((node_id, listener));
        }
        let mut cluster = Self { dirs, addresses, members: BTreeMap::new() };
        for (node_id, listener) in listeners {
            let member = Member::start(cluster.config(node_id), listener).await;
            cluster.members.insert(node_id, member);
        }
        cluster
    }

    fn config(&self, node_id: u64) -> ConsensusConfig {
        let dir = &self.dirs[usize::try_from(node_id - 1).expect("small")];
        let peers = self.addresses.iter().map(|(id, address)| (*id, address.to_string())).collect();
        ConsensusConfig { peers, ..small(dir.path(), node_id) }
    }

    async fn stop(&mut self, node_id: u64) {
        self.members.remove(&node_id).expect("running").stop().await;
    }

    async fn restart(&mut self, node_id: u64) {
        // An outgoing connection of another test may have the port for a moment.
        let deadline = Instant::now() + PATIENCE;
        let listener = loop {
            match TcpListener::bind(self.addresses[&node_id]).await {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                bound => break bound.expect("bound again"),
            }
        };
        let member = Member::start(self.config(node_id), listener).await;
        self.members.insert(node_id, member);
    }

    fn leader(&self) -> Option<u64> {
        self.members.iter().find(|(_, member)| member.consensus.is_leader()).map(|(id, _)| *id)
    }

    async fn wait_for_leader(&self) -> u64 {
        let mut leader = None;
        eventually("a leader", || {
            leader = self.leader();
            leader.is_some()
        })
        .await;
        leader.expect("seen")
    }

    /// Proposes to whoever leads until it is accepted. A command may be proposed twice on the way; the
    /// retry cache makes it act once.
    async fn propose(&self, command: Command) -> Reply {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no leader accepts");
            let leader = self.wait_for_leader().await;
            let call = self.members[&leader].consensus.propose(command.clone());
            match tokio::time::timeout(Duration::from_secs(2), call).await {
                Ok(Ok(reply)) => return reply,
                Ok(Err(ProposeError::NotLeader { .. } | ProposeError::Stopped)) | Err(_) => {}
                Ok(Err(error)) => panic!("{error}"),
            }
        }
    }

    /// Has a command carried out by whoever leads, relaxed.
    async fn relaxed(&self, command: Command) -> LogPosition {
        let leader = self.wait_for_leader().await;
        let made = self.members[&leader].consensus.propose_relaxed(command).await;
        made.expect("made").1
    }

    /// Has other leaders stop until this one leads.
    async fn lead(&mut self, node_id: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "node {node_id} never leads");
            let leader = self.wait_for_leader().await;
            if leader == node_id {
                return;
            }
            self.stop(leader).await;
            let next = self.wait_for_leader().await;
            self.restart(leader).await;
            if next == node_id {
                return;
            }
        }
    }

    async fn make(&self, names: std::ops::Range<u64>) {
        for name in names {
            let keyed = Command { client_id: vec![1; 16], call_id: name, ..mkdir(&format!("/d{name}")) };
            self.propose(keyed).await;
        }
    }

    async fn wait_until_all_have(&self, path: &str) {
        for (node_id, member) in &self.members {
            eventually(&format!("{path} on node {node_id}"), || exists(&member.consensus, path)).await;
        }
    }

    async fn shutdown(mut self) {
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for node_id in ids {
            self.stop(node_id).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_voters_replicate_and_a_follower_names_the_leader() {
    let cluster = Cluster::start().await;
    cluster.propose(initialize()).await;
    cluster.make(0..20).await;
    cluster.wait_until_all_have("/d19").await;
    let leader = cluster.wait_for_leader().await;
    let together = vec![mkdir("/together"), mkdir("/together/a"), mkdir("/together/a")];
    let outcomes = cluster.members[&leader].consensus.propose_all_relaxed(together).await;
    assert!(matches!(outcomes[..], [Ok(_), Ok(_), Err(ProposeError::Refused(_))]), "{outcomes:?}");
    let (_, follower) = cluster.members.iter().find(|(id, _)| **id != leader).expect("three members");
    follower.consensus.wait_for_leader(PATIENCE).await.expect("known");
    match follower.consensus.propose(mkdir("/x")).await {
        Err(ProposeError::NotLeader { leader: Some(address) }) => {
            assert_eq!(address, cluster.addresses[&leader].to_string());
        }
        other => panic!("{other:?}"),
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_leader_takes_over_and_the_old_one_follows() {
    let mut cluster = Cluster::start().await;
    cluster.propose(initialize()).await;
    cluster.make(0..10).await;
    let first = cluster.wait_for_leader().await;
    let told = cluster.relaxed(mkdir("/relaxed")).await;
    cluster.stop(first).await;
    cluster.make(10..20).await;
    let second = cluster.wait_for_leader().await;
    assert_ne!(second, first);
    assert_eq!(cluster.members[&second].consensus.has(&told).ok(), Some(true), "nothing was lost");
    cluster.wait_until_all_have("/d9").await;
    cluster.restart(first).await;
    cluster.make(20..22).await;
    cluster.wait_until_all_have("/d21").await;
    assert!(exists(&cluster.members[&first].consensus, "/d12"), "made while it was away");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_the_log_gets_a_snapshot() {
    let mut cluster = Cluster::start().await;
    cluster.propose(initialize()).await;
    cluster.make(0..5).await;
    let leader = cluster.wait_for_leader().await;
    let lagging = if leader == 1 { 2 } else { 1 };
    cluster.stop(lagging).await;
    let told = cluster.relaxed(mkdir("/relaxed")).await;
    cluster.make(5..200).await;
    let begins = |dir: &std::path::Path| {
        let list = std::fs::read_dir(dir.join("log")).expect("log");
        list.map(|item| item.expect("readable").file_name()).min().expect("a segment")
    };
    let leader_dir = cluster.config(cluster.wait_for_leader().await).dir;
    eventually("the leader's log is purged", || {
        begins(&leader_dir).as_os_str() > OsStr::new("00000000000000000050.log")
    })
    .await;
    cluster.restart(lagging).await;
    cluster.wait_until_all_have("/d199").await;
    assert!(exists(&cluster.members[&lagging].consensus, "/d100"));
    // Entries before the leader's first segment cannot have been sent; the follower drops its own log behind
    // the snapshot a moment after it has the state.
    let lagging_dir = cluster.config(lagging).dir;
    eventually("the follower's log begins behind the snapshot", || {
        begins(&lagging_dir).as_os_str() > OsStr::new("00000000000000000050.log")
    })
    .await;
    // It knows who made the entries that it never had.
    cluster.lead(lagging).await;
    assert_eq!(cluster.members[&lagging].consensus.has(&told).ok(), Some(true));
    let other = LogPosition { term: told.term + 1_000, ..told };
    assert_eq!(cluster.members[&lagging].consensus.has(&other).ok(), Some(false));
    // What it received is durable: it goes on from there after another restart.
    cluster.make(200..205).await;
    cluster.wait_until_all_have("/d204").await;
    cluster.stop(lagging).await;
    cluster.restart(lagging).await;
    cluster.wait_until_all_have("/d204").await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_voter_of_three_acknowledges_nothing() {
    let mut cluster = Cluster::start().await;
    cluster.propose(initialize()).await;
    let leader = cluster.wait_for_leader().await;
    for other in (1..=3).filter(|id| *id != leader) {
        cluster.stop(other).await;
    }
    let call = cluster.members[&leader].consensus.propose(mkdir("/lonely"));
    let answer = tokio::time::timeout(Duration::from_millis(500), call).await;
    assert!(!matches!(answer, Ok(Ok(_))), "{answer:?}");
    assert!(!exists(&cluster.members[&leader].consensus, "/lonely"));
    cluster.shutdown().await;
}
