//! Delegated directories: what is in the way of others waits for the holder.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dfs_proto::ErrorKind;
use dfs_proto::v1::change::Change as Kind;
use dfs_proto::v1::*;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};
use tonic::Status;

use super::harness::*;
use super::session::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_comes_with_everything_and_is_one_sessions() {
    let (_dir, namenode, mut a, mut b) = two_sessions().await;
    let d = a.mkdir(1, "d").await;
    let (f, sub) = (a.file(d, "f").await, a.mkdir(d, "sub").await);
    let given = a.delegate(d).await;
    assert_eq!(given.directory.expect("a status").inode, d);
    let entries: Vec<_> = given.entries.iter().map(|entry| (&*entry.name, entry.inode)).collect();
    assert_eq!(entries, [(&b"f"[..], f), (&b"sub"[..], sub)]);
    assert!(given.now_ns > 0 && given.epoch == holder_epoch(&mut a).await);
    assert!(a.ask(d).await.expect("asked").granted, "it has it");
    assert!(!b.ask(d).await.expect("asked").granted, "another has it");
    assert!(a.stat(below(1, "d/f")).await.is_ok(), "the holder is not held up");
    a.give_back(&[d]).await;
    assert!(b.ask(d).await.expect("asked").granted, "it was given back unasked");
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_delegated_is_not() {
    let (_dir, namenode, mut a, mut b) = two_sessions().await;
    assert!(!a.ask(1).await.expect("asked").granted, "the root");
    let d = a.mkdir(1, "d").await;
    let f = a.file(d, "f").await;
    assert_eq!(kind(&a.ask(f).await.expect_err("a file")), ErrorKind::NotADirectory);
    assert_eq!(kind(&a.ask(999_999).await.expect_err("nothing")), ErrorKind::NotFound);
    let request = LinkRequest { context: a.context(), inode: f, node: below(1, "second") };
    a.mount.calls.link(request).await.expect("linked");
    assert!(!a.ask(d).await.expect("asked").granted, "a file in it has two names");
    let elsewhere = a.mkdir(1, "elsewhere").await;
    let request = UnlinkRequest { context: a.context(), node: below(1, "second"), directory: false };
    a.mount.calls.unlink(request).await.expect("unlinked");
    assert!(a.ask(d).await.expect("asked").granted);
    let request = LinkRequest { context: b.context(), inode: f, node: below(elsewhere, "second") };
    let linking = {
        let mut b = b.clone();
        async move { b.mount.calls.link(request).await }
    };
    recalled(&mut a, d, linking).await.expect("linked");
    let request = UnlinkRequest { context: a.context(), node: below(d, "f"), directory: false };
    a.mount.calls.unlink(request).await.expect("unlinked");
    assert!(!a.ask(elsewhere).await.expect("asked").granted, "its file was in another directory once");
    for (name, mode) in [("sticky", 0o1777), ("group", 0o2755)] {
        let request = MakeNodeRequest { mode, ..make(1, name, FileType::Directory) };
        let request = MakeNodeRequest { context: a.context(), ..request };
        let made = a.mount.calls.make_node(request).await.expect("made").into_inner();
        assert!(!a.ask(made.status.expect("a status").inode).await.expect("asked").granted, "{name}");
    }
    let written = b.mkdir(1, "written").await;
    let request = MakeNodeRequest { session: b.name(), ..make(written, "f", FileType::File) };
    let request = MakeNodeRequest { context: b.context(), ..request };
    b.mount.calls.make_node(request).await.expect("made");
    assert!(!a.ask(written).await.expect("asked").granted, "another session writes a file in it");
    assert!(b.ask(written).await.expect("asked").granted, "its own");
    let many = a.mkdir(1, "many").await;
    for at in 0..101 {
        a.file(many, &at.to_string()).await;
    }
    assert!(!a.ask(many).await.expect("asked").granted, "more than 100 entries");
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_a_delegated_directory_waits_for_its_holder() {
    let (_dir, namenode, mut a, b) = two_sessions().await;
    let top = a.mkdir(1, "top").await;
    macro_rules! cases {
        ($($what:literal: |$b:ident, $d:ident, $f:ident| $call:expr;)*) => {$({
            let d = a.mkdir(top, $what).await;
            let f = a.file(d, "f").await;
            let _sub = a.mkdir(d, "sub").await;
            a.delegate(d).await;
            let path = concat!("top/", $what);
            let mut other = b.clone();
            let call = async move {
                let ($b, $d, $f) = (&mut other, (d, path), f);
                let _ = ($d, $f);
                $call.await.map(drop)
            };
            if let Err(status) = recalled(&mut a, d, call).await {
                panic!("{}: {status}", $what);
            }
        })*};
    }
    let one = |b: &Session| b.context();
    let at = |d: (u64, &str), name: &str| below(1, &format!("{}/{name}", d.1));
    cases! {
        "stat-of-entry": |b, d, f| b.stat(at(d, "f"));
        "stat-of-directory": |b, d, f| b.stat(below(d.0, ""));
        "stat-by-inode": |b, d, f| b.stat(below(f, ""));
        "stat-of-missing": |b, d, f| async { b.stat(at(d, "none")).await.expect_err("none"); Ok::<_, Status>(()) };
        "list": |b, d, f| b.mount.client.list(ListRequest { context: one(b), node: below(d.0, ""), ..Default::default() });
        "open": |b, d, f| b.mount.client.open(OpenRequest { context: one(b), node: at(d, "f"), ..Default::default() });
        "open-file": |b, d, f| { let request = OpenFileRequest { context: one(b), node: below(f, ""), session: b.name(), ..Default::default() }; b.mount.calls.open_file(request) };
        "open-to-write": |b, d, f| { let request = OpenFileRequest { context: one(b), node: below(f, ""), session: b.name(), write: true, ..Default::default() }; b.mount.calls.open_file(request) };
        "make": |b, d, f| b.mount.calls.make_node(MakeNodeRequest { context: one(b), ..make(d.0, "new", FileType::Fifo) });
        "unlink": |b, d, f| b.mount.calls.unlink(UnlinkRequest { context: one(b), node: below(d.0, "f"), directory: false });
        "link-to-it": |b, d, f| b.mount.calls.link(LinkRequest { context: one(b), inode: f, node: below(1, "link") });
        "move-out": |b, d, f| b.mount.calls.r#move(MoveRequest { context: one(b), src: below(d.0, "f"), dst: below(1, "moved"), ..Default::default() });
        "move-in": |b, d, f| b.mount.calls.r#move(MoveRequest { context: one(b), src: below(1, "moved"), dst: below(d.0, "moved"), ..Default::default() });
        "move-itself": |b, d, f| b.mount.calls.r#move(MoveRequest { context: one(b), src: below(1, d.1), dst: below(1, "moved"), ..Default::default() });
        "set-attributes": |b, d, f| b.mount.calls.set_attributes(SetAttributesRequest { context: one(b), node: below(f, ""), mode: Some(0o600), ..Default::default() });
        "set-xattr": |b, d, f| b.mount.calls.set_xattr(SetXattrRequest { context: one(b), inode: f, name: b"user.a"[..].into(), ..Default::default() });
        "list-xattrs": |b, d, f| b.mount.calls.list_xattrs(ListXattrsRequest { context: one(b), inode: f });
        "mkdir": |b, d, f| b.mount.client.mkdir(MkdirRequest { context: one(b), node: at(d, "x/y"), mode: 0o755, create_parents: true });
        "delete": |b, d, f| b.mount.client.delete(DeleteRequest { context: one(b), node: at(d, "f"), recursive: false });
        "rename": |b, d, f| b.mount.client.rename(RenameRequest { context: one(b), src: at(d, "f"), dst: at(d, "g"), overwrite: false });
        "chmod": |b, d, f| b.mount.client.set_permission(SetPermissionRequest { context: one(b), node: at(d, "f"), mode: 0o600 });
        "chown": |b, d, f| b.mount.client.set_owner(SetOwnerRequest { context: one(b), node: at(d, "f"), owner: "ann".into(), group: String::new() });
        "times": |b, d, f| b.mount.client.set_times(SetTimesRequest { context: one(b), node: at(d, "f"), atime_ns: Some(1), mtime_ns: None });
        "setrep": |b, d, f| b.mount.client.set_replication(SetReplicationRequest { context: one(b), node: at(d, "f"), replication: 2 });
        "truncate": |b, d, f| b.mount.client.truncate(TruncateRequest { context: one(b), node: at(d, "f"), length: 0, holder: "h".into() });
        "append": |b, d, f| b.mount.client.append(AppendRequest { context: one(b), node: at(d, "f"), holder: "h".into() });
        "summary-of-directory": |b, d, f| b.mount.client.get_content_summary(ContentSummaryRequest { context: one(b), node: below(1, d.1) });
        "summary-from-above": |b, d, f| b.mount.client.get_content_summary(ContentSummaryRequest { context: one(b), node: below(1, "top") });
        "list-above": |b, d, f| b.mount.client.list(ListRequest { context: one(b), node: below(1, "top"), ..Default::default() });
        "delete-tree": |b, d, f| b.mount.client.delete(DeleteRequest { context: one(b), node: below(1, "top"), recursive: true });
    }
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_holder_holds_others_up_until_its_session_ends() {
    let (_dir, namenode, mut a, mut b) = two_sessions_that_end_after(SESSION_TIMEOUT_MS).await;
    let d = a.mkdir(1, "d").await;
    a.file(d, "f").await;
    let reserved = a.reserve(10).await;
    let (begun, alive) = (Instant::now(), b.mount.keep_alive());
    a.delegate(d).await;
    b.stat(below(1, "d/f")).await.expect("at last");
    let waited = begun.elapsed();
    let timeout = Duration::from_millis(SESSION_TIMEOUT_MS);
    assert!(waited >= timeout && waited < 20 * timeout, "{waited:?}");
    assert!(b.ask(d).await.expect("asked").granted, "nobody has it, and nobody will hand it to and fro");
    // What it has answered before is carried out when it comes back, also with the numbers that it had reserved ...
    let fifo = |name| Kind::Make(make(1, name, FileType::Fifo));
    let late = a.apply(&[a.change(fifo("late"), reserved)]).await;
    assert_eq!(inode_of(&late[0]), reserved);
    // ... unless it was closed.
    let request = CloseSessionRequest { context: a.context(), session: a.name() };
    a.mount.calls.close_session(request).await.expect("closed");
    let later = a.apply(&[a.change(fifo("later"), reserved + 1)]).await;
    assert_eq!(refusal(&later[0]), Some(ErrorKind::Conflict));
    drop(alive);
    namenode.shutdown().await;
}

/// One session has the directory now and then and looks what it holds; four callers of the other make and remove names in it all the
/// time, each change with its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_changes_under_a_holder() {
    let (_dir, namenode, mut a, mut b) = two_sessions().await;
    let d = b.mkdir(1, "d").await;
    let enough = Arc::new(AtomicBool::new(false));
    let changers: Vec<JoinHandle<u64>> = (0..4)
        .map(|who| {
            let (mut b, enough) = (b.clone(), enough.clone());
            tokio::spawn(async move {
                let mut changes = 0;
                while !enough.load(Ordering::Relaxed) {
                    let name = format!("{who}-{}", changes % 5);
                    b.file(d, &name).await;
                    let (context, node) = (b.context(), below(d, &name));
                    let request = UnlinkRequest { context, node, directory: false };
                    b.mount.calls.unlink(request).await.expect("unlinked");
                    changes += 2;
                }
                changes
            })
        })
        .collect();
    let (mut grants, mut epoch) = (0, 0);
    // Most attempts fail: somebody wants it before it is given, and then it rests for two seconds.
    let deadline = Instant::now() + Duration::from_secs(60);
    while grants < 2 && Instant::now() < deadline {
        let answer = a.ask(d).await.expect("asked");
        if !answer.granted {
            // It rests; others change it meanwhile.
            epoch = a.keep(epoch, 20).await.epoch;
            continue;
        }
        grants += 1;
        let names: Vec<_> =
            answer.entries.iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()).collect();
        for _ in 0..20 {
            assert_eq!(a.names(d).await, names);
        }
        let now = a.stat(below(d, "")).await.expect("there");
        assert_eq!(Some(now), answer.directory);
        a.give_back(&[d]).await;
    }
    enough.store(true, Ordering::Relaxed);
    let mut changes = 0;
    for changer in changers {
        changes += changer.await.expect("no panic");
    }
    println!("{grants} grants, {changes} changes");
    assert!(grants >= 2 && changes >= 100, "{grants} grants, {changes} changes");
    namenode.shutdown().await;
}
