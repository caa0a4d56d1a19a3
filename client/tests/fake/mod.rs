//! A cluster of scripted servers in this process: real sockets and messages, no disks, and faults on demand.
//!
//! The first datanode of a pipeline stores to all members itself and answers for them, so a test decides
//! exactly which member fails and when.

#![allow(dead_code)] // Each test binary uses a part of it.

mod datanode;
mod framed;
mod namenode;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dfs_client::{ClientBuilder, DfsClient};
use dfs_proto::v1::{Block, DatanodeInfo, DatanodeState, ReplicaLocation};
use tokio::net::TcpListener;

pub const BLOCK_SIZE: u64 = 64 << 10;
pub const POOL: &str = "BP-test";

/// What a datanode does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// Flips a bit of what readers get.
    Corrupt,
    /// Refuses all operations, and cannot be a pipeline member.
    Refuse,
    /// Closes a reader's connection after so many packets.
    CloseReadAfter(usize),
    /// As a pipeline member, fails at the packet after so many.
    FailWriteAfter(usize),
    /// As a pipeline member, fails at the last packet of a block.
    FailLastPacket,
    /// As a pipeline member, falls silent at the packet after so many, and its control service is gone.
    SilentWriteAfter(usize),
    /// Cannot put replicas on disk.
    FailSync,
    /// Falls silent in a read after so many packets, as if it were stopped; with 0, before its response. Its control
    /// service is silent, too.
    StallReadAfter(usize),
    /// Answers a read only after a while.
    SlowRead(Duration),
}

#[derive(Clone, Debug, Default)]
pub struct Replica {
    pub stamp: u64,
    pub data: Vec<u8>,
    pub acked: usize,
    /// Bytes on disk.
    pub synced: usize,
    pub finalized: bool,
}

pub struct Datanode {
    pub location: ReplicaLocation,
    pub fault: Fault,
    pub packets: usize,
    pub accepted: usize,
    /// Read operations begun.
    pub reads: usize,
    pub replicas: HashMap<u64, Replica>,
    /// Blocks that it was asked to put on disk.
    pub syncs: Vec<u64>,
}

#[derive(Clone, Debug, Default)]
pub struct File {
    pub inode: u64,
    pub open: bool,
    pub replication: usize,
    pub blocks: Vec<(Block, Vec<usize>)>,
}

#[derive(Default)]
pub struct State {
    pub files: BTreeMap<String, File>,
    pub datanodes: Vec<Datanode>,
    pub calls: Vec<&'static str>,
    /// Blocks allocated, dropped ones too.
    pub allocations: usize,
    pub bad_reports: Vec<(u64, String)>,
    /// What a real datanode or namenode would have refused.
    pub violations: Vec<String>,
    next_id: u64,
}

impl State {
    pub fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn index_of(&self, uuid: &str) -> Option<usize> {
        self.datanodes.iter().position(|d| d.location.datanode.as_ref().is_some_and(|i| i.uuid == uuid))
    }
}

#[derive(Clone)]
pub struct Cluster {
    state: Arc<Mutex<State>>,
    pub namenode: SocketAddr,
}

impl Cluster {
    pub async fn start(datanodes: usize) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        for index in 0..datanodes {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let control = TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let info = DatanodeInfo {
                uuid: format!("dn-{index}"),
                ip: "127.0.0.1".into(),
                hostname: format!("host-{index}"),
                xfer_port: u32::from(listener.local_addr().expect("address").port()),
                ipc_port: u32::from(control.local_addr().expect("address").port()),
                http_port: 0,
                rack: "/default-rack".into(),
                state: DatanodeState::Live.into(),
                ..DatanodeInfo::default()
            };
            state.lock().expect("lock").datanodes.push(Datanode {
                location: ReplicaLocation { datanode: Some(info), storage_id: format!("DS-{index}") },
                fault: Fault::None,
                packets: 0,
                accepted: 0,
                reads: 0,
                replicas: HashMap::new(),
                syncs: Vec::new(),
            });
            tokio::spawn(datanode::serve(Arc::clone(&state), index, listener));
            tokio::spawn(datanode::serve_control(Arc::clone(&state), index, control));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let namenode = listener.local_addr().expect("address");
        tokio::spawn(namenode::serve(Arc::clone(&state), listener));
        Self { state, namenode }
    }

    pub fn builder(&self) -> ClientBuilder {
        DfsClient::builder()
            .namenode(self.namenode.to_string())
            .packet_bytes(16 << 10)
            .packets_in_flight(4)
            .datanode_timeout(Duration::from_secs(5))
    }

    pub async fn client(&self) -> DfsClient {
        self.builder().connect().await.expect("connects")
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("lock")
    }

    pub fn set_fault(&self, datanode: usize, fault: Fault) {
        let mut state = self.state();
        state.datanodes[datanode].fault = fault;
        state.datanodes[datanode].packets = 0;
    }

    /// Content of a file as each of its recorded replicas has it; checks stamps and states on the way.
    pub fn stored(&self, path: &str) -> Vec<u8> {
        let state = self.state();
        assert_eq!(state.violations, Vec::<String>::new());
        let file = &state.files[path];
        assert!(!file.open, "{path} is open");
        let mut content = Vec::new();
        for (block, members) in &file.blocks {
            assert!(!members.is_empty(), "{block} has no replica");
            for member in members {
                let replica = &state.datanodes[*member].replicas[&block.id];
                assert_eq!((replica.stamp, replica.finalized), (block.generation_stamp, true), "{block}");
                assert_eq!(replica.data.len() as u64, block.length, "{block} on {member}");
            }
            let first = &state.datanodes[members[0]].replicas[&block.id].data;
            for member in members {
                assert!(&state.datanodes[*member].replicas[&block.id].data == first, "{block} differs");
            }
            content.extend_from_slice(first);
        }
        content
    }
}

/// Bytes that differ from place to place.
pub fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|i| (i ^ (i >> 8) ^ (i >> 16).wrapping_mul(31)) as u8).collect()
}
