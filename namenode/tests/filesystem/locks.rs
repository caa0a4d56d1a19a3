//! Locks between sessions, over gRPC.

use dfs_proto::ErrorKind;
use dfs_proto::v1::*;
use tempfile::tempdir;

use super::harness::*;

fn set(session: &str, owner: u64, start: u64, kind: LockType, wait_ms: u32) -> SetLockRequest {
    let lock =
        FileLock { inode: 5, owner, start, end: start, r#type: kind.into(), pid: 42, ..Default::default() };
    SetLockRequest { context: context(), session: session.to_owned(), lock: Some(lock), wait_ms }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_are_waited_for_given_up_and_found_to_be_dead() {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let mut first = Mount::connect(namenode.rpc_addr(), "mount-1").await;
    let mut second = Mount::connect(namenode.rpc_addr(), "mount-2").await;
    let _live = (first.keep_alive(), second.keep_alive());
    let granted = async |mount: &mut Mount, request| {
        Ok::<_, tonic::Status>(mount.calls.set_lock(request).await?.into_inner().granted)
    };
    let write = LockType::Write;
    assert!(granted(&mut first, set("mount-1", 1, 0, write, 0)).await.expect("asked"));
    assert!(granted(&mut second, set("mount-2", 1, 1, write, 0)).await.expect("asked"));
    assert!(!granted(&mut second, set("mount-2", 1, 0, LockType::Read, 20)).await.expect("asked"));
    let get = GetLockRequest {
        context: context(),
        session: "mount-2".to_owned(),
        lock: set("mount-2", 1, 0, write, 0).lock,
    };
    let found = second.calls.get_lock(get).await.expect("asked").into_inner().lock.expect("in the way");
    assert_eq!((found.r#type(), found.pid), (write, 0), "a process of another host has no number here");

    // Each waits for the other: the one that comes second is told.
    let ask = |mount: &Mount, request| {
        let mut mount = mount.clone();
        async move { mount.calls.set_lock(request).await.map(|answer| answer.into_inner().granted) }
    };
    let mut first_waits = tokio::spawn(ask(&first, set("mount-1", 1, 1, write, 10_000)));
    let mut second_waits = tokio::spawn(ask(&second, set("mount-2", 1, 0, write, 10_000)));
    let (refused, other) = tokio::select! {
        refused = &mut first_waits => {
            assert!(granted(&mut first, set("mount-1", 1, 0, LockType::Unlock, 0)).await.expect("asked"));
            (refused, second_waits)
        }
        refused = &mut second_waits => {
            assert!(granted(&mut second, set("mount-2", 1, 1, LockType::Unlock, 0)).await.expect("asked"));
            (refused, first_waits)
        }
    };
    assert_eq!(kind(&refused.expect("no panic").expect_err("refused")), ErrorKind::Deadlock);
    assert!(other.await.expect("no panic").expect("asked"));
    second.release(5).await.expect("released");
    first.release(5).await.expect("released");
    assert!(granted(&mut second, set("mount-2", 9, 0, write, 0)).await.expect("closed files have no locks"));
    namenode.shutdown().await;
}
