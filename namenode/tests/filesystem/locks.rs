//! Locks between sessions, over gRPC.

use dfs_proto::ErrorKind;
use dfs_proto::v1::*;
use tempfile::tempdir;

use super::harness::*;

fn set(session: &str, owner: u64, start: u64, kind: LockType, wait_ms: u32) -> SetLockRequest {
    let lock =
        FileLock { inode: 5, owner, start, end: start, r#type: kind.into(), pid: 42, ..Default::default() };
    SetLockRequest {
        context: context(),
        session: session.to_owned(),
        lock: Some(lock),
        wait_ms,
        delegate: false,
    }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delegated_locks_are_recalled_and_decided_about_as_ever() {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let mut first = Mount::connect(namenode.rpc_addr(), "mount-1").await;
    let mut second = Mount::connect(namenode.rpc_addr(), "mount-2").await;
    let epoch = first.keep(0, 0).await.epoch;
    let lives = (first.keep_alive(), second.keep_alive());
    let asking =
        |owner, start| SetLockRequest { delegate: true, ..set("mount-1", owner, start, LockType::Write, 0) };
    let number = first.calls.set_lock(asking(1, 0)).await.expect("asked").into_inner().delegation;
    assert_ne!(number, 0);
    let delegation = LockDelegation { inode: 5, number };

    // Who does not wait for locks waits for their holder.
    let mut other = second.clone();
    let asked = tokio::spawn(async move {
        let request = SetLockRequest { delegate: true, ..set("mount-2", 1, 7, LockType::Read, 0) };
        other.calls.set_lock(request).await.map(tonic::Response::into_inner)
    });
    let mut recalled = first.keep(epoch, 10_000).await.recalled_locks;
    while recalled.is_empty() {
        // Another poll of the session heard of it first; this one hears it again.
        recalled = first.keep(epoch, 100).await.recalled_locks;
    }
    assert_eq!(recalled, [delegation]);
    assert!(!asked.is_finished());
    let locks = vec![set("mount-1", 2, 7, LockType::Read, 0).lock.expect("a lock")];
    let give_back = |delegation, locks| ReturnLocksRequest {
        context: context(),
        session: "mount-1".to_owned(),
        delegation: Some(delegation),
        locks,
    };
    first.calls.return_locks(give_back(delegation, locks)).await.expect("given back");
    let answer = asked.await.expect("no panic").expect("asked");
    assert_eq!((answer.granted, answer.delegation), (true, 0), "both have a part of it");
    let late = first.calls.return_locks(give_back(delegation, Vec::new())).await.expect_err("was given back");
    assert_eq!(kind(&late), ErrorKind::NotFound);
    let blocked = second.calls.set_lock(set("mount-2", 1, 7, LockType::Write, 0)).await.expect("asked");
    assert!(!blocked.into_inner().granted, "what was returned counts");

    // A holder that is silent has its time, and its locks go with it.
    let mut third = Mount::connect(namenode.rpc_addr(), "mount-3").await;
    let request = SetLockRequest { delegate: true, ..set("mount-3", 1, 0, LockType::Write, 0) };
    let request = SetLockRequest { lock: request.lock.map(|lock| FileLock { inode: 6, ..lock }), ..request };
    let wanted = SetLockRequest { session: "mount-2".to_owned(), ..request.clone() };
    assert_ne!(third.calls.set_lock(request).await.expect("asked").into_inner().delegation, 0);
    let get = GetLockRequest { context: context(), session: "mount-2".to_owned(), lock: wanted.lock };
    assert_eq!(second.calls.get_lock(get).await.expect("asked").into_inner().lock, None);
    assert!(second.calls.set_lock(wanted).await.expect("asked").into_inner().granted);
    drop(lives);
    namenode.shutdown().await;
}
