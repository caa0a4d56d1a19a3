//! Fuzzing of the services: well-formed requests with arbitrary fields, to a real namenode over real connections.
//!
//! No request makes a handler panic, memory grow without bound, or an invariant break; afterwards the namenode answers, its
//! directory is sound, and it starts again. `DFS_FUZZ_SECONDS=n` makes a longer run, `DFS_FUZZ_SEED=n` repeats its requests.

mod messages;
mod wire;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dfs_proto::v1::client_protocol_client::ClientProtocolClient;
use dfs_proto::v1::*;
use dfs_proto::{ErrorKind, RpcError};
use protox::prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use tonic::Code;
use tonic::transport::Channel;

use self::messages::{Maker, decoded, encoded};
use crate::maintenance::check;
use crate::{Namenode, NamenodeConfig};

/// Time of a run in the ordinary test suite.
const SECONDS: u64 = 8;

/// Calls between two looks at the invariants.
const CALLS_A_LOOK: u64 = 1_000;

/// Calls between two times that the way is cleared for changes: safe mode switched off, datanodes registered.
const CALLS_A_CLEARING: u64 = 60;

/// Longest wait for an answer: calls wait for locks, and for sessions to give something back.
const PATIENCE: Duration = Duration::from_millis(400);

/// What a run may make the process grow by: caches and the store's layers have their bounds.
const GROWTH_KB_MAX: u64 = 700 << 10;

const SERVICES: [&str; 3] = ["dfs.v1.ClientProtocol", "dfs.v1.FileSystemProtocol", "dfs.v1.DatanodeProtocol"];

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts panics of the threads that serve; a test's own is one of another thread.
fn count_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        if thread.name().is_some_and(|name| !name.contains("::")) {
            PANICS.fetch_add(1, Ordering::SeqCst);
        }
        before(info);
    }));
}

fn of_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn methods() -> Vec<MethodDescriptor> {
    let protos: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto");
    let files = ["dfs/client.proto", "dfs/filesystem.proto", "dfs/datanode.proto"];
    let set = protox::compile(files, [protos]).expect("compiles");
    let pool = DescriptorPool::from_file_descriptor_set(set).expect("a pool");
    let services = SERVICES.iter().map(|name| pool.get_service_by_name(name).expect("a service"));
    services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// Kilobytes of a field of `/proc/self/status`.
fn kilobytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.split_whitespace().next().and_then(|kb| kb.parse().ok()).expect("a number")
}

fn config(dir: &Path) -> NamenodeConfig {
    NamenodeConfig {
        bind: std::net::Ipv4Addr::LOCALHOST.into(),
        rpc_port: 0,
        http_port: 0,
        superuser: Some("root".to_owned()),
        session_timeout_ms: 600,
        heartbeat_interval_ms: 200,
        stale_after_ms: 1_000,
        dead_after_ms: 3_000,
        soft_lease_ms: 500,
        hard_lease_ms: 2_000,
        reserved_bytes: 0,
        cache_bytes: 16 << 20,
        min_block_size: 4096,
        ..NamenodeConfig::new(dir.join("namenode"))
    }
}

struct Fuzzer {
    namenode: Namenode,
    channel: Channel,
    methods: Vec<MethodDescriptor>,
    maker: Maker,
    /// The last call, for messages.
    last: String,
    answered: u64,
    /// Methods that answered something else than a refusal at least once.
    reached: BTreeSet<String>,
    refused: u64,
    waited: u64,
}

impl Fuzzer {
    async fn start(dir: &Path, seed: u64) -> Self {
        let namenode = Namenode::start(config(dir)).await.expect("starts");
        let channel = Channel::from_shared(format!("http://{}", namenode.rpc_addr())).expect("an address");
        let channel = channel.connect().await.expect("connected");
        let (methods, maker) = (methods(), Maker::new(seed));
        Self {
            namenode,
            channel,
            methods,
            maker,
            last: String::new(),
            answered: 0,
            reached: BTreeSet::new(),
            refused: 0,
            waited: 0,
        }
    }

    /// Calls a method with this message, and learns from both.
    async fn tell(&mut self, name: &str, message: &impl prost::Message) {
        let method = self.methods.iter().find(|method| method.name() == name).expect("a method").clone();
        let raw = message.encode_to_vec();
        let message = decoded(method.input(), &raw).expect("a message");
        self.call(&method, vec![message]).await;
    }

    async fn call(&mut self, method: &MethodDescriptor, messages: Vec<DynamicMessage>) {
        let shown: String = messages.first().map(|message| message.to_string()).unwrap_or_default();
        self.last = format!("{} {}", method.name(), shown.chars().take(2_000).collect::<String>());
        let raw = messages.iter().map(encoded).collect();
        let called = wire::call(&self.channel, method, raw);
        let Ok(answer) = tokio::time::timeout(PATIENCE, called).await else {
            self.waited += 1;
            return;
        };
        match answer {
            Ok(raw) => {
                self.answered += 1;
                self.reached.insert(method.name().to_owned());
                let answer = decoded(method.output(), &raw).expect("the answer's kind of message");
                self.maker.learn(&answer);
                if self.maker.random.percent(20) {
                    messages.iter().for_each(|message| self.maker.learn(message));
                }
            }
            Err(status) => {
                self.refused += 1;
                let kind = RpcError::from_status(&status).kind;
                let expected = kind != ErrorKind::Internal && status.code() != Code::Unknown;
                assert!(expected, "{status:?} to {}", self.last);
            }
        }
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "a handler panicked, maybe at {}", self.last);
    }

    /// What earlier requests put in the way is put right: without it, most calls would be refused for one reason.
    async fn clear_the_way(&mut self) {
        let context = || {
            Some(CallContext {
                user: "root".into(),
                client_id: vec![9; 16].into(),
                call_id: next_call(),
                ..Default::default()
            })
        };
        let action = SafeModeAction::Leave.into();
        self.tell("SafeMode", &SafeModeRequest { context: context(), action }).await;
        self.tell("GetServerDefaults", &GetServerDefaultsRequest { protocol_version: 1 }).await;
        let cluster_id = self.namenode.context().cluster_id.clone();
        for number in 1..=3u32 {
            let info = DatanodeInfo {
                uuid: format!("node-{number}"),
                ip: format!("127.0.0.{number}"),
                hostname: format!("host-{number}"),
                xfer_port: 9866,
                ipc_port: 9867,
                ..Default::default()
            };
            let storage = StorageReport {
                storage_id: format!("DS-{number}"),
                capacity: 1 << 40,
                remaining: 1 << 40,
                ..Default::default()
            };
            let register = RegisterRequest {
                protocol_version: dfs_proto::DATANODE_PROTOCOL_VERSION,
                cluster_id: cluster_id.clone(),
                info: Some(info),
                storages: vec![storage.clone()],
                software_version: "fuzz".into(),
            };
            self.tell("Register", &register).await;
            let uuid = format!("node-{number}");
            let heartbeat = HeartbeatRequest { uuid, storages: vec![storage], ..Default::default() };
            self.tell("Heartbeat", &heartbeat).await;
        }
        let files = ["/f", "/g", "/a/f"];
        for path in files {
            let node = Some(NodeRef { base: 1, path: path.as_bytes().to_vec().into() });
            let create = CreateRequest {
                context: context(),
                node,
                mode: 0o644,
                holder: "writer".into(),
                replication: 2,
                block_size: 4096,
                ..Default::default()
            };
            self.tell("Create", &create).await;
        }
        let make = MkdirRequest {
            context: context(),
            node: Some(NodeRef { base: 1, path: b"/a/b".to_vec().into() }),
            mode: 0o777,
            create_parents: true,
        };
        self.tell("Mkdir", &make).await;
    }

    async fn any(&mut self) {
        let method = self.methods[self.maker.random.below(self.methods.len())].clone();
        let count = if method.is_client_streaming() { 1 + self.maker.random.below(4) } else { 1 };
        let messages = (0..count).map(|_| self.maker.message(&method.input())).collect();
        self.call(&method, messages).await;
    }

    fn check_blocks(&self) {
        self.namenode.context().soft.blocks().check_invariants();
    }
}

/// A call id that no other call has.
fn next_call() -> u64 {
    static CALLS: AtomicUsize = AtomicUsize::new(1 << 40);
    CALLS.fetch_add(1, Ordering::Relaxed) as u64
}

#[test]
fn arbitrary_requests_break_nothing() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let seed = of_environment("DFS_FUZZ_SEED").unwrap_or_else(|| u64::from(now.subsec_nanos()));
    let seconds = of_environment("DFS_FUZZ_SECONDS").unwrap_or(SECONDS);
    println!("fuzzing the services: DFS_FUZZ_SEED={seed}");
    count_panics();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("serving").build();
    runtime.expect("a runtime").block_on(run(seed, Duration::from_secs(seconds)));
}

async fn run(seed: u64, time: Duration) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut fuzzer = Fuzzer::start(dir.path(), seed).await;
    let began = Instant::now();
    let (resident, reserved) = (kilobytes("VmHWM:"), kilobytes("VmPeak:"));
    let mut calls = 0;
    while began.elapsed() < time {
        if calls % CALLS_A_CLEARING == 0 {
            fuzzer.clear_the_way().await;
        }
        if calls % CALLS_A_LOOK == 0 {
            fuzzer.check_blocks();
        }
        fuzzer.any().await;
        calls += 1;
    }
    fuzzer.check_blocks();
    let (resident, reserved) = (kilobytes("VmHWM:") - resident, kilobytes("VmPeak:") - reserved);
    println!("{} of {} methods did what they were asked", fuzzer.reached.len(), fuzzer.methods.len());
    println!(
        "{calls} calls: {} answered, {} refused, {} waited too long; {resident} KB more, {reserved} KB reserved",
        fuzzer.answered, fuzzer.refused, fuzzer.waited
    );
    assert!(
        resident < GROWTH_KB_MAX && reserved < 2 * GROWTH_KB_MAX,
        "grown by {resident} KB, {reserved} KB"
    );
    still_serves(&fuzzer.channel).await;
    fuzzer.namenode.shutdown().await;
    let report = check(&dir.path().join("namenode")).expect("sound");
    assert!(report.violations.is_empty(), "{:?}", report.violations);
    let again = Namenode::start(config(dir.path())).await.expect("starts again");
    again.shutdown().await;
}

async fn still_serves(channel: &Channel) {
    let mut client = ClientProtocolClient::new(channel.clone());
    let context = |call_id| {
        Some(CallContext {
            user: "root".into(),
            client_id: vec![8; 16].into(),
            call_id,
            ..Default::default()
        })
    };
    let leave = SafeModeRequest { context: context(1), action: SafeModeAction::Leave.into() };
    client.safe_mode(leave).await.expect("no safe mode");
    let node = Some(NodeRef { base: 1, path: b"/after".to_vec().into() });
    let mkdir = MkdirRequest { context: context(2), node: node.clone(), mode: 0o755, ..Default::default() };
    client.mkdir(mkdir).await.expect("made");
    let found = client.stat(StatRequest { context: context(3), node }).await.expect("there").into_inner();
    assert_eq!(found.r#type(), FileType::Directory);
}
