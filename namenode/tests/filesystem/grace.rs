//! The grace period after a start: who waits for what sessions had before it.

use std::time::Duration;

use dfs_namenode::{Namenode, NamenodeConfig};
use dfs_proto::v1::change::Change as Kind;
use dfs_proto::v1::*;
use tempfile::{TempDir, tempdir};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::harness::*;
use super::session::*;

/// Long enough that a call which does not wait would have been answered; a small part of the grace period.
const A_WHILE: Duration = Duration::from_millis(300);

/// What a session gets that is to be waited for: a directory, numbers for nodes in it, and a lock.
struct Had {
    directory: u64,
    first: u64,
}

fn lock(kind: LockType) -> FileLock {
    FileLock { inode: 5, owner: 1, start: 0, end: 9, r#type: kind.into(), pid: 42, ..Default::default() }
}

impl Session {
    fn set_lock(&self) -> JoinHandle<bool> {
        let mut calls = self.mount.calls.clone();
        let (context, session) = (self.context(), self.name());
        let request =
            SetLockRequest { context, session, lock: Some(lock(LockType::Write)), ..Default::default() };
        tokio::spawn(async move { calls.set_lock(request).await.expect("asked").into_inner().granted })
    }

    /// Comes back with its lock after a restart.
    async fn come_back(&mut self, queued: bool) {
        let request = KeepSessionRequest {
            context: self.context(),
            session: self.name(),
            full: true,
            locks: vec![lock(LockType::Write)],
            queued,
            ..Default::default()
        };
        self.mount.calls.keep_session(request).await.expect("kept");
    }

    async fn apply_all_but_last(&mut self, change: Change) {
        let (context, session) = (self.context(), self.name());
        let request = ApplyChangesRequest { context, session, changes: vec![change], more: true };
        let results = self.mount.calls.apply_changes(request).await.expect("applied").into_inner().results;
        assert!(results[0].error.is_none(), "{results:?}");
    }
}

async fn started(dir: &TempDir, session_timeout_ms: u64) -> (Namenode, Session, Session) {
    let namenode = start_with(NamenodeConfig { session_timeout_ms, ..config(dir) }).await;
    let a = Session::connect(&namenode, "mount-a", 1).await;
    let b = Session::connect(&namenode, "mount-b", 2).await;
    (namenode, a, b)
}

/// Two sessions, the first of which has something, and a restart.
async fn restarted(session_timeout_ms: u64) -> (TempDir, Namenode, Session, Session, Had) {
    let dir = tempdir().expect("directory");
    let (namenode, mut a, b) = started(&dir, session_timeout_ms).await;
    let directory = a.mkdir(1, "d").await;
    a.delegate(directory).await;
    let first = a.reserve(10).await;
    assert!(a.set_lock().await.expect("no panic"));
    drop(b);
    namenode.shutdown().await;
    let (namenode, a, b) = started(&dir, session_timeout_ms).await;
    (dir, namenode, a, b, Had { directory, first })
}

fn names(session: &Session, inode: u64) -> JoinHandle<Vec<String>> {
    let mut session = session.clone();
    tokio::spawn(async move { session.names(inode).await })
}

async fn assert_waits<T: std::fmt::Debug>(call: &mut JoinHandle<T>) {
    let answer = timeout(A_WHILE, call).await;
    assert!(answer.is_err(), "it did not wait: {answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_see_what_a_session_had_answered_before_a_restart() {
    let (_dir, namenode, mut a, b, had) =
        restarted(u64::try_from(PATIENCE.as_millis()).expect("small")).await;
    let mut seen = names(&b, had.directory);
    let mut making = {
        let mut b = b.clone();
        tokio::spawn(async move { b.file(had.directory, "two").await })
    };
    assert_waits(&mut seen).await;
    a.come_back(true).await;
    assert_waits(&mut seen).await;
    let make = |name: &str, number| a.change(Kind::Make(make(had.directory, name, FileType::File)), number);
    let (one, two) = (make("one", had.first), make("two", had.first + 1));
    a.apply_all_but_last(one).await;
    assert_waits(&mut seen).await;
    assert_waits(&mut making).await;
    // What it asks for itself does not wait.
    assert_eq!(a.names(had.directory).await, ["one"]);
    assert!(a.apply(&[two]).await[0].error.is_none());
    assert_eq!(seen.await.expect("no panic"), ["one", "two"]);
    assert!(making.await.is_err(), "the name is taken");
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_from_before_a_restart_is_not_given_to_another_session() {
    let (_dir, namenode, mut a, b, _) = restarted(u64::try_from(PATIENCE.as_millis()).expect("small")).await;
    let mut asked = b.set_lock();
    assert_waits(&mut asked).await;
    a.come_back(true).await;
    assert!(!asked.await.expect("no panic"), "it is held");
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_does_not_come_back_is_not_waited_for_for_ever() {
    const SESSION_MS: u64 = 8_000;
    let began = Instant::now();
    let (_dir, namenode, _, b, had) = restarted(SESSION_MS).await;
    let (mut seen, mut asked) = (names(&b, had.directory), b.set_lock());
    assert_waits(&mut seen).await;
    assert_eq!(timeout(PATIENCE, seen).await.expect("in time").expect("no panic"), Vec::<String>::new());
    assert_waits(&mut asked).await;
    assert!(timeout(PATIENCE, asked).await.expect("in time").expect("no panic"), "its session has ended");
    assert!(began.elapsed() >= Duration::from_millis(SESSION_MS));
    namenode.shutdown().await;
}
