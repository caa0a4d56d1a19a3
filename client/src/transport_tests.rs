//! Calls over real sockets, against servers that do what a test wants.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use dfs_proto::framing::Request;
use dfs_proto::v1::client_protocol_client::ClientProtocolClient;
use dfs_proto::v1::{FileStatus, NodeRef, StatRequest};
use dfs_proto::{ErrorKind, MAX_RPC_BYTES, RpcError};
use prost::Message;
use tonic::Code;

use super::*;

/// Longest wait for anything; only a defect takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Calls at once: more than may be under way.
const MANY: u64 = 2 * framing::CALLS_MAX as u64;

/// Accepts one connection after the other and does with each what `serve` says, until the test ends.
pub(crate) fn server(serve: impl Fn(TcpStream) + Send + 'static) -> Arc<Connections> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let socket = socket.expect("accepts");
            socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
            serve(socket);
        }
    });
    Arc::new(Connections::new(address))
}

/// Takes the client's preface and answers with ours.
pub(crate) fn greet(socket: &mut TcpStream) {
    let mut preface = [0; framing::PREFACE_BYTES];
    socket.read_exact(&mut preface).expect("a preface");
    framing::check_preface(preface).expect("ours");
    socket.write_all(&framing::preface()).expect("sent");
}

/// The next frame; none if the client closed the connection.
fn next_frame(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; framing::LENGTH_BYTES];
    socket.read_exact(&mut length).ok()?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    socket.read_exact(&mut frame).ok()?;
    Some(frame)
}

/// Id of the next frame, which is a call.
pub(crate) fn next_call(socket: &mut TcpStream) -> Option<u64> {
    match framing::decode_request(&next_frame(socket)?).expect("a frame") {
        Request::Call { id, path, .. } => {
            assert_eq!(path, "/dfs.v1.ClientProtocol/Stat");
            Some(id)
        }
        Request::Abandon { .. } => panic!("nothing was given up"),
    }
}

/// A frame that answers with a node of this size and name.
pub(crate) fn answer(id: u64, size: u64, name: &[u8]) -> Vec<u8> {
    let status = FileStatus { size, symlink: name.to_vec().into(), ..Default::default() };
    let message = status.encode_to_vec();
    let head = [&[0][..], &(message.len() as u32).to_be_bytes()].concat();
    let mut out = Vec::new();
    framing::encode_message(&mut out, id, None, [head.as_slice(), &message]).expect("fits");
    out
}

async fn stat_until(
    connections: &Arc<Connections>,
    until: Instant,
    path: Vec<u8>,
) -> Result<FileStatus, Status> {
    let node = Some(NodeRef { base: 1, path: path.into() });
    let mut stub = ClientProtocolClient::new(connections.until(until))
        .max_decoding_message_size(MAX_RPC_BYTES)
        .max_encoding_message_size(MAX_RPC_BYTES);
    Ok(stub.stat(StatRequest { context: None, node }).await?.into_inner())
}

pub(crate) async fn stat(connections: &Arc<Connections>) -> Result<FileStatus, Status> {
    stat_until(connections, Instant::now() + PATIENCE, b"x".to_vec()).await
}

/// The deepest cause, as people read it.
fn cause(status: &Status) -> String {
    crate::namenode::innermost(status)
}

#[tokio::test]
async fn calls_are_answered_in_any_order() {
    let connections = server(|mut socket| {
        greet(&mut socket);
        let mut ids: Vec<u64> = (0..10).map_while(|_| next_call(&mut socket)).collect();
        ids.reverse();
        let answers: Vec<u8> = ids.iter().flat_map(|id| answer(*id, *id, b"")).collect();
        // In pieces that end anywhere.
        for piece in answers.chunks(7) {
            socket.write_all(piece).expect("sent");
        }
        assert_eq!(next_frame(&mut socket), None);
    });
    let calls = (0..10).map(|_| stat(&connections));
    let mut sizes: Vec<u64> = futures::future::join_all(calls)
        .await
        .into_iter()
        .map(|found| found.expect("answered").size)
        .collect();
    sizes.sort_unstable();
    assert_eq!(sizes, (1..=10).collect::<Vec<u64>>(), "each call got an answer of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_calls_than_may_be_under_way_are_served_one_after_the_other() {
    let connections = server(|mut socket| {
        greet(&mut socket);
        while let Some(id) = next_call(&mut socket) {
            socket.write_all(&answer(id, id, b"")).expect("sent");
        }
    });
    let calls: Vec<_> = (0..MANY)
        .map(|_| {
            let connections = Arc::clone(&connections);
            tokio::spawn(async move { stat(&connections).await })
        })
        .collect();
    for call in calls {
        call.await.expect("no panic").expect("answered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_is_full_holds_up_no_thread_and_loses_nothing() {
    let (go, gone) = mpsc::channel::<()>();
    let connections = server(move |mut socket| {
        greet(&mut socket);
        gone.recv().expect("the test goes on");
        while let Some(id) = next_call(&mut socket) {
            socket.write_all(&answer(id, id, &[7; 200_000])).expect("sent");
        }
    });
    let until = Instant::now() + PATIENCE;
    let mut calls: Vec<_> = (0..40)
        .map(|_| {
            let connections = Arc::clone(&connections);
            tokio::spawn(async move { stat_until(&connections, until, vec![b'x'; 1 << 20]).await })
        })
        .collect();
    // Nobody reads, so not all of the 40 MiB are gone; but nobody is stuck either.
    let first = tokio::time::timeout(Duration::from_millis(50), &mut calls[0]).await;
    assert!(first.is_err(), "nothing was answered");
    go.send(()).expect("the server waits");
    for call in calls {
        let found = call.await.expect("no panic").expect("answered");
        assert_eq!(found.symlink.len(), 200_000);
    }
}

#[tokio::test]
async fn the_largest_messages_pass() {
    let connections = server(|mut socket| {
        greet(&mut socket);
        let id = next_call(&mut socket).expect("a call");
        socket.write_all(&answer(id, 0, &vec![1; MAX_RPC_BYTES - 100])).expect("sent");
        assert_eq!(next_frame(&mut socket), None);
    });
    let path = vec![b'x'; MAX_RPC_BYTES - 100];
    let found = stat_until(&connections, Instant::now() + PATIENCE, path).await.expect("answered");
    assert_eq!(found.symlink.len(), MAX_RPC_BYTES - 100);
    let refused = stat_until(&connections, Instant::now() + PATIENCE, vec![b'x'; MAX_RPC_BYTES]).await;
    assert_eq!(refused.expect_err("too large").code(), Code::OutOfRange);
}

#[tokio::test]
async fn refusals_keep_their_details() {
    let error = RpcError::new(ErrorKind::AccessDenied, "/a/é", "because");
    let sent = error.to_status();
    let connections = server(move |mut socket| {
        greet(&mut socket);
        let id = next_call(&mut socket).expect("a call");
        let mut out = Vec::new();
        framing::encode_refusal(&mut out, id, sent.code() as i32 as u8, sent.message(), sent.details())
            .expect("fits");
        socket.write_all(&out).expect("sent");
        assert_eq!(next_frame(&mut socket), None);
    });
    let refused = stat(&connections).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(RpcError::from_status(&refused), error);
}

#[tokio::test]
async fn a_broken_connection_fails_its_calls_and_the_next_one_makes_another() {
    let connections = server(|mut socket| {
        greet(&mut socket);
        let first = next_call(&mut socket).expect("a call");
        match next_call(&mut socket) {
            // Two at once: the first connection, which breaks.
            Some(_) => socket.shutdown(Shutdown::Both).expect("connected"),
            None => panic!("call {first} was alone"),
        }
    });
    let calls = futures::future::join(stat(&connections), stat(&connections)).await;
    for broken in [calls.0, calls.1] {
        let status = broken.expect_err("broken");
        assert_eq!(status.code(), Code::Unavailable);
        assert!(std::error::Error::source(&status).is_some(), "told apart from a namenode's refusal");
    }
    let again = futures::future::join(stat(&connections), stat(&connections)).await;
    assert_eq!(again.0.expect_err("a new connection broke, too").code(), Code::Unavailable);
}

#[tokio::test]
async fn what_is_no_namenode_is_called_that() {
    for (begins, says) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "another protocol is spoken"),
        (b"\0\0\x12\x04\0\0\0\0\0", "another protocol is spoken"),
        (b"", "it closes the connection at once"),
        (b"dfs", "it closes the connection at once"),
    ] {
        let connections = server(move |mut socket| {
            let mut some = [0; 4];
            socket.read_exact(&mut some).expect("a preface");
            socket.write_all(begins).expect("sent");
        });
        let status = stat(&connections).await.expect_err("no namenode");
        assert_eq!((status.code(), cause(&status).as_str()), (Code::Internal, says));
    }
    let nobody = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    let status = stat(&Arc::new(Connections::new(nobody.to_string()))).await.expect_err("nobody listens");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(cause(&status).contains("refused"), "{}", cause(&status));
}

#[tokio::test]
async fn another_version_is_named() {
    let connections = server(|mut socket| {
        let mut theirs = framing::preface();
        socket.read_exact(&mut theirs).expect("a preface");
        theirs[3] += 1;
        socket.write_all(&theirs).expect("sent");
    });
    let error = RpcError::from_status(&stat(&connections).await.expect_err("refused"));
    assert_eq!(
        (error.kind, error.reason.as_str()),
        (ErrorKind::VersionMismatch, "namenode speaks 3, client 2")
    );
}

#[tokio::test]
async fn frames_that_are_none_end_the_connection() {
    for bad in [&[0xff; 64][..], &[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 0], b"\0\0\0\x08\0\0\0\0\0\0\0\x01"] {
        let connections = server(move |mut socket| {
            greet(&mut socket);
            next_call(&mut socket).expect("a call");
            socket.write_all(bad).expect("sent");
            assert_eq!(next_frame(&mut socket), None);
        });
        let status = stat(&connections).await.expect_err("nonsense");
        assert_eq!(status.code(), Code::Internal, "{status:?}");
    }
}

#[tokio::test]
async fn calls_without_an_answer_fail_in_time_and_are_given_up() {
    let (told, tells) = mpsc::channel();
    let connections = server(move |mut socket| {
        greet(&mut socket);
        let call = next_call(&mut socket).expect("a call");
        let frame = next_frame(&mut socket).expect("a frame");
        told.send(framing::decode_request(&frame) == Ok(Request::Abandon { id: call }))
            .expect("the test waits");
        assert_eq!(next_frame(&mut socket), None);
    });
    // By its deadline.
    let started = Instant::now();
    let late = stat_until(&connections, started + Duration::from_millis(50), b"x".to_vec()).await;
    assert_eq!(late.expect_err("no answer").code(), Code::Unavailable);
    assert!(started.elapsed() >= Duration::from_millis(50));
    assert!(tells.recv_timeout(PATIENCE).expect("told"));
    // By its caller.
    drop(connections);
    let (told, tells) = mpsc::channel();
    let connections = server(move |mut socket| {
        greet(&mut socket);
        let call = next_call(&mut socket).expect("a call");
        told.send(true).expect("the test waits");
        let frame = next_frame(&mut socket).expect("a frame");
        told.send(framing::decode_request(&frame) == Ok(Request::Abandon { id: call }))
            .expect("the test waits");
        assert_eq!(next_frame(&mut socket), None);
        told.send(true).expect("the test waits");
    });
    let calling = tokio::spawn({
        let connections = Arc::clone(&connections);
        async move { stat(&connections).await }
    });
    let tells = tokio::task::spawn_blocking(move || {
        assert!(tells.recv_timeout(PATIENCE).expect("told"));
        tells
    });
    let tells = tells.await.expect("no panic");
    calling.abort();
    assert!(calling.await.expect_err("aborted").is_cancelled());
    assert!(tells.recv_timeout(PATIENCE).expect("told"), "the call was given up");
    // The connection ends with the client.
    drop(connections);
    assert!(tells.recv_timeout(PATIENCE).expect("told"));
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let connections = server(|mut socket| {
        let mut all = Vec::new();
        // Until the client closes.
        let _ = socket.read_to_end(&mut all);
    });
    let until = Instant::now() + Duration::from_millis(100);
    let status = stat_until(&connections, until, b"x".to_vec()).await.expect_err("silence");
    assert_eq!((status.code(), cause(&status).as_str()), (Code::Unavailable, "no answer in time"));
}
