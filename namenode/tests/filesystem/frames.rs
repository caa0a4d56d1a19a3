//! Calls over frames, byte by byte, and what is no frame.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use dfs_proto::framing::{self, Answer};
use dfs_proto::v1::*;
use dfs_proto::{ErrorKind, RpcError};
use prost::Message;
use tempfile::tempdir;
use tonic::{Code, Status};

use super::harness::*;

const STAT: &str = "/dfs.v1.ClientProtocol/Stat";
const SET_LOCK: &str = "/dfs.v1.FileSystemProtocol/SetLock";

/// A connection that writes what a test wants.
struct Wire {
    socket: TcpStream,
    /// What the last answer said of the log.
    changed: Option<LogPosition>,
}

impl Wire {
    fn open(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self { socket, changed: None }
    }

    /// With both prefaces exchanged.
    fn greeted(address: SocketAddr) -> Self {
        let mut wire = Self::open(address);
        wire.send(&framing::preface());
        let mut preface = [0; framing::PREFACE_BYTES];
        wire.socket.read_exact(&mut preface).expect("a preface");
        assert_eq!(preface, framing::preface());
        wire
    }

    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("sent");
    }

    /// The next answer and whose it is.
    fn answer(&mut self) -> (u64, Result<Vec<u8>, Status>) {
        let mut length = [0; framing::LENGTH_BYTES];
        self.socket.read_exact(&mut length).expect("a length");
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.socket.read_exact(&mut frame).expect("a frame");
        let (id, answer) = framing::decode_answer(&frame).expect("a frame");
        let answer = match answer {
            Answer::Message { message, changed } => {
                self.changed = changed;
                Ok(message[5..].to_vec())
            }
            Answer::Refused { code, text, details } => {
                let code = Code::from_i32(i32::from(code));
                Err(Status::with_details(code, text, details.to_vec().into()))
            }
        };
        (id, answer)
    }

    /// The namenode closes without another word.
    fn expect_end(mut self) {
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Ok(_) => assert_eq!(rest, b""),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

fn call(id: u64, path: &str, message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let head = [&[0][..], &(message.len() as u32).to_be_bytes()].concat();
    let mut out = Vec::new();
    framing::encode_call(&mut out, id, path, [head.as_slice(), &message]).expect("fits");
    out
}

fn stat(id: u64, name: &str) -> Vec<u8> {
    call(id, STAT, &StatRequest { context: context(), node: below(1, name) })
}

fn set_lock(id: u64, session: &str, kind: LockType, wait_ms: u32) -> Vec<u8> {
    let lock = FileLock { inode: 5, owner: 1, start: 0, end: 9, r#type: kind.into(), ..Default::default() };
    let request = SetLockRequest {
        context: context(),
        session: session.to_owned(),
        lock: Some(lock),
        wait_ms,
        delegate: false,
    };
    call(id, SET_LOCK, &request)
}

fn granted(answer: Result<Vec<u8>, Status>) -> bool {
    SetLockResponse::decode(answer.expect("answered").as_slice()).expect("a message").granted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_sent_together_are_all_answered() {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let mut wire = Wire::greeted(namenode.rpc_addr());
    let count = 2 * framing::CALLS_MAX as u64;
    let mut frames: Vec<u8> =
        (0..count).flat_map(|id| stat(id, if id % 2 == 0 { "" } else { "no" })).collect();
    frames.extend(call(count, "/dfs.v1.DatanodeProtocol/Heartbeat", &Empty {}));
    frames.extend(call(count + 1, "/dfs.v1.ClientProtocol/Nonsense", &Empty {}));
    frames.extend(call(count + 2, "no path at all", &Empty {}));
    // In pieces that end anywhere; what nobody waits for may be given up.
    for piece in frames.chunks(1000) {
        wire.send(piece);
    }
    let mut gone = Vec::new();
    framing::encode_abandon(&mut gone, 77);
    wire.send(&gone);
    let mut answers: HashMap<u64, Result<Vec<u8>, Status>> = (0..count + 3).map(|_| wire.answer()).collect();
    for id in 0..count {
        match answers.remove(&id).expect("answered once") {
            Ok(message) if id % 2 == 0 => {
                assert_eq!(FileStatus::decode(message.as_slice()).expect("a message").inode, 1);
            }
            Err(status) if id % 2 == 1 => assert_eq!(kind(&status), ErrorKind::NotFound),
            other => panic!("call {id}: {other:?}"),
        }
    }
    assert_eq!(answers.len(), 3);
    for (id, answer) in answers {
        assert_eq!(answer.expect_err("no such method").code(), Code::Unimplemented, "call {id}");
    }
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relaxed_change_is_answered_with_its_place_in_the_log_and_found_there() {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let mut wire = Wire::greeted(namenode.rpc_addr());
    let mut exchange = |path, message: &[u8]| {
        let head = [&[0][..], &(message.len() as u32).to_be_bytes()].concat();
        let mut frame = Vec::new();
        framing::encode_call(&mut frame, 7, path, [head.as_slice(), message]).expect("fits");
        wire.send(&frame);
        let (_, answer) = wire.answer();
        answer.map(|_| wire.changed)
    };
    let mut made = Vec::new();
    for relaxed in [true, false, true] {
        let name = made.len().to_string();
        let request = MakeNodeRequest {
            context: context().map(|context| CallContext { relaxed, ..context }),
            node: below(1, &name),
            r#type: FileType::Directory.into(),
            ..Default::default()
        };
        let changed = exchange("/dfs.v1.FileSystemProtocol/MakeNode", &request.encode_to_vec());
        made.push(changed.expect("made"));
    }
    let looked = exchange(STAT, &StatRequest { context: context(), node: below(1, "0") }.encode_to_vec());
    assert_eq!(looked.expect("found"), None, "it changed nothing");
    let (Some(first), None, Some(last)) = (made[0], made[1], made[2]) else { panic!("{made:?}") };
    assert!(first.index + 2 <= last.index && first.term == last.term, "{first:?} {last:?}");
    let mut sync = |told: Vec<LogPosition>| {
        let context = context().map(|context| CallContext { told, ..context });
        exchange(
            "/dfs.v1.FileSystemProtocol/SyncNamespace",
            &SyncNamespaceRequest { context }.encode_to_vec(),
        )
    };
    assert_eq!(sync(vec![first, last]).expect("they are there"), None);
    let lost = [
        LogPosition { index: last.index + 1_000, ..last },
        LogPosition { term: last.term + 1, ..last },
        LogPosition { node_id: last.node_id + 1, ..last },
        LogPosition { index: 0, ..last },
    ];
    for other in lost {
        let refused = sync(vec![first, other]).expect_err("not in the log");
        assert_eq!(kind(&refused), ErrorKind::ChangesLost, "{other:?}");
    }
    let refused = sync(vec![first; 2_000]).expect_err("too many");
    assert_eq!(kind(&refused), ErrorKind::InvalidArgument);
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_holds_up_nobody_and_can_be_given_up() {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let first = Mount::connect(namenode.rpc_addr(), "mount-1").await;
    let second = Mount::connect(namenode.rpc_addr(), "mount-2").await;
    let _live = (first.keep_alive(), second.keep_alive());
    let mut holder = Wire::greeted(namenode.rpc_addr());
    holder.send(&set_lock(1, "mount-1", LockType::Write, 0));
    assert!(granted(holder.answer().1));

    let mut wire = Wire::greeted(namenode.rpc_addr());
    wire.send(&set_lock(1, "mount-2", LockType::Write, 20_000));
    wire.send(&stat(2, ""));
    assert_eq!(wire.answer().0, 2, "while the first call waits");
    let mut give_up = Vec::new();
    framing::encode_abandon(&mut give_up, 1);
    wire.send(&give_up);
    wire.send(&stat(3, ""));
    assert_eq!(wire.answer().0, 3);
    holder.send(&set_lock(2, "mount-1", LockType::Unlock, 0));
    assert!(granted(holder.answer().1));
    holder.send(&set_lock(3, "mount-1", LockType::Write, 0));
    assert!(granted(holder.answer().1), "the call that was given up has not got the lock");

    // One that goes on waiting is answered in the end, and a second one with its identity ends the connection.
    wire.send(&set_lock(4, "mount-2", LockType::Write, 20_000));
    wire.send(&stat(5, ""));
    assert_eq!(wire.answer().0, 5);
    holder.send(&set_lock(4, "mount-1", LockType::Unlock, 0));
    assert!(granted(holder.answer().1));
    let (id, answer) = wire.answer();
    assert!(id == 4 && granted(answer));
    holder.send(&[set_lock(5, "mount-1", LockType::Write, 20_000), stat(5, "")].concat());
    holder.expect_end();
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_frame_ends_its_connection_only() {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let address = namenode.rpc_addr();
    let mut served = Wire::greeted(address);
    let lying = {
        let mut frame = stat(1, "");
        let at = frame.len() - 1;
        frame[3] -= 1;
        frame.truncate(at);
        frame
    };
    for (what, bytes) in [
        ("a huge frame", vec![0xff; 64]),
        ("a tiny frame", vec![0, 0, 0, 7]),
        ("a path without end", vec![0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 200]),
        ("a message that is longer than its frame", lying),
    ] {
        println!("{what}");
        let mut wire = Wire::greeted(address);
        wire.send(&bytes);
        wire.expect_end();
    }
    // Cut off anywhere, prefaces too.
    let whole = [framing::preface().as_slice(), &stat(1, "")].concat();
    for cut in (0..whole.len()).step_by(3) {
        Wire::open(address).send(&whole[..cut]);
    }
    // Another version is told ours.
    let mut wire = Wire::open(address);
    let mut newer = framing::preface();
    newer[3] += 1;
    wire.send(&newer);
    let mut ours = [0; framing::PREFACE_BYTES];
    wire.socket.read_exact(&mut ours).expect("a preface");
    assert_eq!(ours, framing::preface());
    wire.expect_end();
    // A message that does not decode is its call's affair.
    let mut bad = Vec::new();
    framing::encode_call(&mut bad, 8, STAT, [&b"\0\0\0\0\x02\xff\xff"[..]]).expect("fits");
    served.send(&bad);
    let (id, answer) = served.answer();
    assert_eq!((id, RpcError::from_status(&answer.expect_err("refused")).kind), (8, ErrorKind::Internal));
    served.send(&stat(9, ""));
    assert_eq!(served.answer().0, 9);
    // And HTTP/2 is spoken here as well.
    let mut mount = Mount::connect(address, "mount-1").await;
    let request = StatRequest { context: context(), node: below(1, "") };
    assert_eq!(mount.client.stat(request).await.expect("found").into_inner().inode, 1);
    namenode.shutdown().await;
}
