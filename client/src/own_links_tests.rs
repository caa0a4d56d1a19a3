//! Calls by callers who block, over real sockets.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};

use dfs_proto::v1::FileStatus;
use tonic::{Code, Status};

use super::*;
use crate::transport::Connections;
use crate::transport::tests::{self as transport, answer, greet, next_call, stat};

type Answered = Result<FileStatus, Status>;

/// Serves every connection on a thread of its own: the first is the shared one, number 1.
fn server(serve: impl Fn(u64, TcpStream) + Clone + Send + 'static) -> Arc<Connections> {
    let last = AtomicU64::new(0);
    transport::server(move |mut socket| {
        let (number, serve) = (last.fetch_add(1, Ordering::Relaxed) + 1, serve.clone());
        thread::spawn(move || {
            greet(&mut socket);
            serve(number, socket);
        });
    })
}

/// Polls on this thread, which may wait.
fn poll<F: Future>(call: &mut Pin<Box<F>>) -> Poll<F::Output> {
    let later = Instant::now() + transport::PATIENCE;
    waiting_thread::may_wait(later, || call.as_mut().poll(&mut Context::from_waker(Waker::noop())))
}

/// Calls as one who may wait until a connection of its own has answered; what it has answered.
async fn until_own(connections: &Arc<Connections>) -> u64 {
    assert_eq!(stat(connections).await.expect("answered").size, 1, "the shared one is made first");
    let until = Instant::now() + transport::PATIENCE;
    while Instant::now() < until {
        let mut call = Box::pin(stat(connections));
        let answered = match poll(&mut call) {
            Poll::Ready(answered) => answered,
            Poll::Pending => call.await,
        };
        match answered.expect("answered").size {
            1 => {}
            own => return own,
        }
    }
    panic!("no connection of its own was made");
}

#[tokio::test]
async fn a_caller_who_may_wait_gets_a_connection_of_its_own() {
    let connections = server(|number, mut socket| {
        while let Some(id) = next_call(&mut socket) {
            socket.write_all(&answer(id, number, b"")).expect("sent");
        }
    });
    assert_eq!(until_own(&connections).await, 2);
    assert_eq!(until_own(&connections).await, 2, "it is used again");
    assert_eq!(stat(&connections).await.expect("answered").size, 1, "others share");
}

/// A call on a connection of its own that is not answered while the caller's thread waits.
async fn slow_call(connections: &Arc<Connections>) -> Pin<Box<impl Future<Output = Answered> + use<>>> {
    until_own(connections).await;
    let shared = Arc::clone(connections);
    let mut call = Box::pin(async move { stat(&shared).await });
    let began = Instant::now();
    assert!(poll(&mut call).is_pending());
    assert!(began.elapsed() >= PATIENCE / 2, "it was waited for");
    call
}

/// Answers at once, but the second call of a connection of its own only when the test says so.
fn slow_server(go: mpsc::Receiver<()>) -> (Arc<Connections>, mpsc::Receiver<bool>) {
    let (ended, ends) = mpsc::channel();
    let go = Arc::new(Mutex::new(go));
    let connections = server(move |number, mut socket| {
        let mut calls = 0;
        while let Some(id) = next_call(&mut socket) {
            calls += 1;
            if number == 2 && calls == 2 {
                // The test may be over.
                let _ = go.lock().expect("no panic").recv();
            }
            if socket.write_all(&answer(id, number, b"")).is_err() {
                break;
            }
        }
        let _ = ended.send(number == 2);
    });
    (connections, ends)
}

#[tokio::test]
async fn what_takes_long_goes_on_elsewhere() {
    let (go, gone) = mpsc::channel();
    let (connections, _ends) = slow_server(gone);
    let call = slow_call(&connections).await;
    go.send(()).expect("the server waits");
    assert_eq!(call.await.expect("answered").size, 2);
    assert_eq!(until_own(&connections).await, 2, "it was put back");
}

#[tokio::test]
async fn a_call_that_is_given_up_closes_its_connection() {
    let (go, gone) = mpsc::channel();
    let (connections, ends) = slow_server(gone);
    drop(slow_call(&connections).await);
    go.send(()).expect("the server waits");
    let ended = tokio::task::spawn_blocking(move || ends.recv_timeout(transport::PATIENCE));
    assert!(ended.await.expect("no panic").expect("one ends"), "the call's connection");
}

#[tokio::test]
async fn a_connection_that_breaks_fails_its_call_and_others_share() {
    let connections = server(|number, mut socket| {
        let mut calls = 0;
        while let Some(id) = next_call(&mut socket) {
            calls += 1;
            if number == 2 && calls == 2 {
                return;
            }
            socket.write_all(&answer(id, number, b"")).expect("sent");
        }
    });
    assert_eq!(until_own(&connections).await, 2);
    let Poll::Ready(broken) = poll(&mut Box::pin(stat(&connections))) else { panic!("broken at once") };
    let status = broken.expect_err("broken");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(std::error::Error::source(&status).is_some(), "told apart from a namenode's refusal");
    assert_eq!(stat(&connections).await.expect("answered").size, 1);
}
