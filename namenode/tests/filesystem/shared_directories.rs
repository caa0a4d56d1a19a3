//! Directories delegated for reading: several sessions have them, and only changes wait for them.

use dfs_proto::ErrorKind;
use dfs_proto::v1::*;
use tokio::time::{Duration, Instant, timeout};
use tonic::Status;

use super::harness::*;
use super::session::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_shared_by_readers_and_had_alone_by_nobody_meanwhile() {
    let (_dir, namenode, mut a, mut b) = two_sessions().await;
    let d = a.mkdir(1, "d").await;
    let f = a.file(d, "f").await;
    for session in [&mut a, &mut b] {
        let given = session.ask_shared(d).await;
        assert!(given.granted && given.shared && given.directory.is_some_and(|status| status.inode == d));
        assert_eq!(given.entries.iter().map(|entry| entry.inode).collect::<Vec<_>>(), [f]);
        assert!(session.ask_shared(d).await.granted, "it has it");
    }
    assert!(!a.ask(d).await.expect("asked").granted, "another reads it");
    assert!(b.ask(d).await.expect("asked").granted, "nobody else does any longer");
    b.give_back(&[d]).await;
    assert!(a.ask_shared(d).await.granted);
    assert!(a.ask(d).await.expect("asked").granted, "it was the only reader");
    let kept = a.ask_shared(d).await;
    assert!(kept.granted && !kept.shared, "it has it alone, and keeps it so");
    assert!(!b.ask_shared(d).await.granted);
    a.give_back(&[d]).await;
    assert!(!a.ask_shared(1).await.granted, "the root");
    // What makes a directory one that nobody has alone does not matter to readers.
    let request = MakeNodeRequest { mode: 0o1777, ..make(1, "sticky", FileType::Directory) };
    let request = MakeNodeRequest { context: a.context(), ..request };
    let sticky = a.mount.calls.make_node(request).await.expect("made").into_inner();
    assert!(b.ask_shared(sticky.status.expect("a status").inode).await.granted);
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_wait_for_all_other_readers_and_looks_for_none() {
    let (_dir, namenode, mut a, b) = two_sessions().await;
    let top = a.mkdir(1, "top").await;
    macro_rules! cases {
        ($($what:literal, $waits:literal: |$b:ident, $d:ident, $f:ident| $call:expr;)*) => {$({
            let d = a.mkdir(top, $what).await;
            let f = a.file(d, "f").await;
            assert!(a.ask_shared(d).await.granted, $what);
            let path = concat!("top/", $what);
            let mut other = b.clone();
            // It is one of the readers itself.
            assert!(other.ask_shared(d).await.granted, $what);
            let call = async move {
                let ($b, $d, $f) = (&mut other, (d, path), f);
                let _ = ($d, $f);
                $call.await.map(drop)
            };
            let answer: Result<(), Status> =
                if $waits { recalled(&mut a, d, call).await } else { timeout(PATIENCE, call).await.expect("no wait") };
            if let Err(status) = answer {
                panic!("{}: {status}", $what);
            }
            assert!(a.keep(0, 0).await.recalled_directories.is_empty(), $what);
        })*};
    }
    let one = |b: &Session| b.context();
    let at = |d: (u64, &str), name: &str| below(1, &format!("{}/{name}", d.1));
    cases! {
        "stat", false: |b, d, f| b.stat(at(d, "f"));
        "list", false: |b, d, f| b.mount.client.list(ListRequest { context: one(b), node: below(d.0, ""), ..Default::default() });
        "open", false: |b, d, f| b.mount.client.open(OpenRequest { context: one(b), node: at(d, "f"), ..Default::default() });
        "open-file", false: |b, d, f| { let request = OpenFileRequest { context: one(b), node: below(f, ""), session: b.name(), ..Default::default() }; b.mount.calls.open_file(request) };
        "summary", false: |b, d, f| b.mount.client.get_content_summary(ContentSummaryRequest { context: one(b), node: below(1, d.1) });
        "open-to-write", true: |b, d, f| { let request = OpenFileRequest { context: one(b), node: below(f, ""), session: b.name(), write: true, ..Default::default() }; b.mount.calls.open_file(request) };
        "make", true: |b, d, f| b.mount.calls.make_node(MakeNodeRequest { context: one(b), ..make(d.0, "new", FileType::Fifo) });
        "unlink", true: |b, d, f| b.mount.calls.unlink(UnlinkRequest { context: one(b), node: below(d.0, "f"), directory: false });
        "move-out", true: |b, d, f| b.mount.calls.r#move(MoveRequest { context: one(b), src: below(d.0, "f"), dst: below(1, "moved"), ..Default::default() });
        "move-in", true: |b, d, f| b.mount.calls.r#move(MoveRequest { context: one(b), src: below(1, "moved"), dst: below(d.0, "f"), ..Default::default() });
        "set-attributes", true: |b, d, f| b.mount.calls.set_attributes(SetAttributesRequest { context: one(b), node: below(f, ""), mode: Some(0o600), ..Default::default() });
        "set-xattr", true: |b, d, f| b.mount.calls.set_xattr(SetXattrRequest { context: one(b), inode: f, name: b"user.a"[..].into(), ..Default::default() });
        "truncate", true: |b, d, f| b.mount.client.truncate(TruncateRequest { context: one(b), node: at(d, "f"), length: 0, holder: "h".into() });
        "append", true: |b, d, f| b.mount.client.append(AppendRequest { context: one(b), node: at(d, "f"), holder: "h".into() });
        "setrep", true: |b, d, f| b.mount.client.set_replication(SetReplicationRequest { context: one(b), node: at(d, "f"), replication: 2 });
        "delete-tree", true: |b, d, f| b.mount.client.delete(DeleteRequest { context: one(b), node: below(1, d.1), recursive: true });
    }
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_reader_has_opened_is_kept_when_another_takes_its_name() {
    let (_dir, namenode, mut a, mut b) = two_sessions().await;
    for batched in [false, true] {
        let d = b.mkdir(1, if batched { "e" } else { "d" }).await;
        let (f, closed) = (b.file(d, "f").await, b.file(d, "closed").await);
        assert!(a.ask_shared(d).await.granted);
        let mut other = b.clone();
        let call = async move {
            if batched {
                let changes = [other.change(unlink(d, "f"), f), other.change(unlink(d, "closed"), closed)];
                let results = other.apply(&changes).await;
                assert!(results.iter().all(|result| result.error.is_none()), "{results:?}");
                return;
            }
            for name in ["f", "closed"] {
                let request =
                    UnlinkRequest { context: other.context(), node: below(d, name), directory: false };
                other.mount.calls.unlink(request).await.expect("unlinked");
            }
        };
        recalled_with(&mut a, d, &[f], call).await;
        let orphan = b.stat(below(f, "")).await.expect("kept");
        assert_eq!((orphan.inode, orphan.nlink), (f, 0));
        assert_eq!(kind(&b.stat(below(closed, "")).await.expect_err("gone")), ErrorKind::NotFound);
        a.mount.release(f).await.expect("released");
        a.mount.wait_until_gone(f).await;
    }
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_reader_holds_changes_up_until_its_session_ends() {
    let (_dir, namenode, mut a, mut b) = two_sessions_that_end_after(SESSION_TIMEOUT_MS).await;
    let d = a.mkdir(1, "d").await;
    let (begun, alive) = (Instant::now(), b.mount.keep_alive());
    assert!(a.ask_shared(d).await.granted);
    b.file(d, "f").await;
    let (waited, limit) = (begun.elapsed(), Duration::from_millis(SESSION_TIMEOUT_MS));
    assert!(waited >= limit && waited < 20 * limit, "{waited:?}");
    drop(alive);
    namenode.shutdown().await;
}
