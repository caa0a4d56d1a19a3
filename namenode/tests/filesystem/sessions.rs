//! Life and end of sessions; leases between them.

use dfs_proto::ErrorKind;
use dfs_proto::v1::*;
use tempfile::tempdir;
use tokio::time::{Duration, Instant};

use super::harness::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_recalled_from_the_session_that_holds_it() {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let mut holder = Mount::connect(namenode.rpc_addr(), "mount-holder").await;
    let asker = Mount::connect(namenode.rpc_addr(), "mount-asker").await;
    let epoch = holder.keep(0, 0).await.epoch;
    let inode = holder.create("f").await.expect("made").inode;
    let _asker_lives = asker.keep_alive();
    let opening = tokio::spawn({
        let mut asker = asker.clone();
        async move { asker.open(inode, true).await }
    });
    let begun = Instant::now();
    let events = holder.keep(epoch, 10_000).await;
    assert_eq!((events.epoch, events.recalled), (epoch, vec![inode]));
    assert!(begun.elapsed() < Duration::from_secs(5), "the recall wakes the holder");
    assert!(!opening.is_finished());
    holder.close(inode).await.expect("given back");
    opening.await.expect("no panic").expect("the asker has it");
    let refused = holder.close(inode).await.expect_err("it is the asker's");
    assert_eq!(kind(&refused), ErrorKind::LeaseExpired);
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_keeps_a_lease_makes_the_other_fail_in_seconds() {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let mut holder = Mount::connect(namenode.rpc_addr(), "mount-holder").await;
    let mut asker = Mount::connect(namenode.rpc_addr(), "mount-asker").await;
    let inode = holder.create("f").await.expect("made").inode;
    let (_holder_lives, _asker_lives) = (holder.keep_alive(), asker.keep_alive());
    let refused = tokio::time::timeout(PATIENCE, asker.open(inode, true)).await.expect("answered");
    assert_eq!(kind(&refused.expect_err("held")), ErrorKind::LeaseHeldByOther);
    asker.open(inode, false).await.expect("reading is free");
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_session_loses_leases_locks_and_orphans() {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let mut silent = Mount::connect(namenode.rpc_addr(), "mount-silent").await;
    let mut other = Mount::connect(namenode.rpc_addr(), "mount-other").await;
    let first = silent.keep(0, 0).await;
    assert_eq!(first.timeout_ms, SESSION_TIMEOUT_MS);
    let written = silent.create("written").await.expect("made").inode;
    let orphan = silent.create("orphan").await.expect("made").inode;
    silent.close(orphan).await.expect("closed");
    assert_eq!(silent.unlink("orphan").await.expect("unlinked").nlink, 0);
    assert_eq!(other.stat(orphan).await.expect("kept").nlink, 0);
    let lock = FileLock { inode: written, end: 9, r#type: LockType::Write.into(), ..Default::default() };
    let set = |session: &str, wait_ms| SetLockRequest {
        context: context(),
        session: session.to_owned(),
        lock: Some(lock),
        wait_ms,
        ..Default::default()
    };
    assert!(silent.calls.set_lock(set("mount-silent", 0)).await.expect("asked").into_inner().granted);
    let _other_lives = other.keep_alive();
    assert!(!other.calls.set_lock(set("mount-other", 0)).await.expect("asked").into_inner().granted);
    assert!(other.calls.set_lock(set("mount-other", 10_000)).await.expect("asked").into_inner().granted);
    other.wait_until_gone(orphan).await;
    // The lease is recovered, which closes a file without blocks at once.
    let deadline = Instant::now() + PATIENCE;
    while let Err(refused) = other.open(written, true).await {
        assert!(Instant::now() < deadline, "{refused}");
    }
    let again = silent.keep(first.epoch, 10_000).await;
    assert_ne!(again.epoch, first.epoch, "the session hears at once that it was forgotten");
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_changes_the_epoch_and_sessions_come_back_with_what_they_have() {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let mut mount = Mount::connect(namenode.rpc_addr(), "mount-a").await;
    let epoch = mount.keep(0, 0).await.epoch;
    let orphan = mount.create("orphan").await.expect("made").inode;
    let forgotten = mount.create("forgotten").await.expect("made").inode;
    for (name, inode) in [("orphan", orphan), ("forgotten", forgotten)] {
        mount.close(inode).await.expect("closed");
        mount.unlink(name).await.expect("unlinked");
    }
    namenode.shutdown().await;

    let namenode = start(&dir).await;
    let mut mount = Mount::connect(namenode.rpc_addr(), "mount-a").await;
    let answer = mount.keep(epoch, 10_000).await;
    assert_ne!(answer.epoch, epoch);
    let lock = FileLock { inode: orphan, end: 9, r#type: LockType::Write.into(), ..Default::default() };
    mount.keep_full(answer.epoch, &[orphan], &[lock]).await;
    let _lives = mount.keep_alive();
    mount.wait_until_gone(forgotten).await;
    assert_eq!(mount.stat(orphan).await.expect("it was claimed").nlink, 0);
    let get = GetLockRequest { context: context(), session: "mount-b".to_owned(), lock: Some(lock) };
    let held = mount.calls.get_lock(get).await.expect("asked").into_inner().lock;
    assert_eq!(held.map(|held| held.r#type()), Some(LockType::Write));
    mount.release(orphan).await.expect("released");
    mount.wait_until_gone(orphan).await;
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_of_a_session_that_never_returns_after_a_restart_are_recovered() {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let mut gone = Mount::connect(namenode.rpc_addr(), "mount-gone").await;
    let inode = gone.create("f").await.expect("made").inode;
    namenode.shutdown().await;

    let namenode = start(&dir).await;
    let mut other = Mount::connect(namenode.rpc_addr(), "mount-other").await;
    let _lives = other.keep_alive();
    let deadline = Instant::now() + PATIENCE;
    while let Err(refused) = other.open(inode, true).await {
        assert!(Instant::now() < deadline, "{refused}");
    }
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_a_session_ends_it_at_once() {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let mut mount = Mount::connect(namenode.rpc_addr(), "mount-a").await;
    let inode = mount.create("f").await.expect("made").inode;
    mount.close(inode).await.expect("closed");
    mount.unlink("f").await.expect("unlinked");
    let request = CloseSessionRequest { context: context(), session: "mount-a".to_owned() };
    mount.calls.close_session(request).await.expect("closed");
    mount.wait_until_gone(inode).await;
    let nameless = mount.calls.keep_session(KeepSessionRequest { context: context(), ..Default::default() });
    assert_eq!(kind(&nameless.await.expect_err("no name")), ErrorKind::InvalidArgument);
    namenode.shutdown().await;
}
