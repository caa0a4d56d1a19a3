//! Batches of changes that a session has answered already, and what a restart makes of them.

use dfs_proto::ErrorKind;
use dfs_proto::v1::change::Change as Kind;
use dfs_proto::v1::*;
use tokio::time::{Duration, Instant};

use super::harness::*;
use super::session::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_carried_out_in_order_and_a_refusal_stops_nothing() {
    let (_dir, namenode, mut a, b) = two_sessions().await;
    let d = a.mkdir(1, "d").await;
    let old = a.file(d, "old").await;
    a.delegate(d).await;
    let first = a.reserve(8).await;
    let opened = MakeNodeRequest { session: a.name(), ..make(d, "f", FileType::File) };
    let set = SetAttributesRequest { node: below(first, ""), mode: Some(0o600), ..Default::default() };
    let renamed = MoveRequest { src: below(d, "f"), dst: below(d, "g"), ..Default::default() };
    let changes = [
        a.change(Kind::Make(opened), first),
        Change { delegate: true, ..a.change(Kind::Make(make(d, "sub", FileType::Directory)), first + 1) },
        a.change(Kind::Make(make(first + 1, "x", FileType::File)), first + 3),
        a.change(Kind::Make(make(d, "y", FileType::File)), first + 2),
        a.change(Kind::Set(set), first),
        a.change(Kind::Move(renamed.clone()), old),
        a.change(Kind::Move(renamed), first),
        a.change(unlink(d, "old"), first),
        a.change(unlink(d, "old"), old),
        a.change(unlink(d, "old"), old),
        a.change(unlink(d, "g"), first),
    ];
    let begun = Instant::now();
    let results = a.apply(&changes).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(inode_of(&results[0]), first);
    assert_eq!((inode_of(&results[1]), results[1].delegated), (first + 1, true));
    assert_eq!(inode_of(&results[2]), first + 3);
    assert_eq!(refusal(&results[3]), Some(ErrorKind::Conflict), "a number below one that was used");
    assert_eq!(results[4].status.as_ref().expect("a status").mode, 0o600);
    assert_eq!(refusal(&results[5]), Some(ErrorKind::Conflict), "another node is there");
    assert_eq!(inode_of(&results[6]), first);
    assert_eq!(refusal(&results[7]), Some(ErrorKind::Conflict));
    assert_eq!(inode_of(&results[8]), old);
    assert_eq!(refusal(&results[9]), Some(ErrorKind::NotFound));
    assert_eq!(results[10].status.as_ref().expect("a status").nlink, 0);
    assert_eq!(a.names(d).await, ["sub"]);
    assert_eq!(a.stat(below(first, "")).await.expect("it is open").nlink, 0);
    // Sent again, each is answered as before, and those that were refused are refused again.
    for (again, result) in a.apply(&changes).await.iter().zip(&results) {
        match refusal(result) {
            None => assert_eq!(again, result),
            Some(_) => assert!(refusal(again).is_some()),
        }
    }
    let listing = {
        let mut b = b.clone();
        async move { b.names(first + 1).await }
    };
    assert_eq!(recalled(&mut a, first + 1, listing).await, ["x"], "the new directory is delegated");
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_one_of_the_batch_s_session() {
    let (_dir, namenode, mut a, mut b) = two_sessions().await;
    let d = a.mkdir(1, "d").await;
    a.delegate(d).await;
    let first = a.reserve(8).await;
    let opened = MakeNodeRequest { session: a.name(), ..make(d, "f", FileType::File) };
    let commit = |session: &str| {
        let session = session.to_owned();
        Kind::Commit(CommitBlocksRequest { session, mtime_ns: Some(77), close: true, ..Default::default() })
    };
    let changes = [
        a.change(Kind::Make(opened), first),
        a.change(commit(""), first),
        a.change(commit("mount-b"), first),
        a.change(commit(""), first + 1),
    ];
    let results = a.apply(&changes).await;
    assert!(results[0].status.as_ref().expect("a status").under_construction);
    let closed = results[1].status.clone().expect("a status");
    assert_eq!((closed.inode, closed.mtime_ns, closed.under_construction), (first, 77, false));
    assert_eq!(
        refusal(&results[2]),
        Some(ErrorKind::LeaseExpired),
        "it is closed, whoever the request names"
    );
    assert_eq!(refusal(&results[3]), Some(ErrorKind::NotFound));
    assert_eq!(a.apply(&changes[1..2]).await[0], results[1], "sent again, it is answered as before");
    // Somebody else's file.
    a.give_back(&[d]).await;
    let theirs = b.mount.create("theirs").await.expect("made").inode;
    let refused = a.apply(&[a.change(commit("mount-b"), theirs)]).await;
    assert_eq!(refusal(&refused[0]), Some(ErrorKind::LeaseExpired));
    assert!(b.mount.stat(theirs).await.expect("it is there").under_construction);
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_node_is_the_one_that_is_meant() {
    let (_dir, namenode, mut a, _b) = two_sessions().await;
    let d = a.mkdir(1, "d").await;
    let (f, g) = (a.file(d, "f").await, a.file(d, "g").await);
    let moves = |src: &str, dst: &str| {
        Kind::Move(MoveRequest { src: below(d, src), dst: below(d, dst), ..Default::default() })
    };
    let changes = [
        a.change(moves("f", "g"), f),
        Change { other_inode: f, ..a.change(moves("f", "g"), f) },
        Change { other_inode: g, ..a.change(moves("f", "h"), f) },
        Change { other_inode: g, ..a.change(moves("f", "g"), f) },
    ];
    let results = a.apply(&changes).await;
    let refusals: Vec<_> = results.iter().map(refusal).collect();
    let conflict = Some(ErrorKind::Conflict);
    assert_eq!(refusals, [conflict, conflict, conflict, None]);
    assert_eq!(results[3].other.as_ref().map(|other| (other.inode, other.nlink)), Some((g, 0)));
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_a_change_is_taken_if_it_can_be_true() {
    let (_dir, namenode, mut a, _b) = two_sessions().await;
    let d = a.mkdir(1, "d").await;
    let now = a.delegate(d).await.now_ns;
    let hour = 3_600_000_000_000;
    let changes: Vec<_> = [now, now + hour, now - hour]
        .iter()
        .enumerate()
        .map(|(at, now_ns)| {
            let change = a.change(Kind::Make(make(d, &at.to_string(), FileType::Fifo)), 0);
            Change { now_ns: *now_ns, ..change }
        })
        .collect();
    let results = a.apply(&changes).await;
    let times: Vec<_> = results.iter().map(|r| r.status.as_ref().expect("a status").ctime_ns).collect();
    assert_eq!(times[0], now);
    assert!((now..now + hour).contains(&times[1]) && (now..now + hour).contains(&times[2]), "{times:?}");
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_forgets_delegations_and_keeps_reservations() {
    let (dir, namenode, mut a, mut b) = two_sessions().await;
    let d = a.mkdir(1, "d").await;
    let epoch = a.delegate(d).await.epoch;
    let first = a.reserve(10).await;
    let made = a.change(Kind::Make(make(d, "made", FileType::File)), first);
    assert_eq!(inode_of(&a.apply(std::slice::from_ref(&made)).await[0]), first);
    namenode.shutdown().await;
    let namenode = start(&dir).await;
    (a.mount, b.mount) = (
        Mount::connect(namenode.rpc_addr(), "mount-a").await,
        Mount::connect(namenode.rpc_addr(), "mount-b").await,
    );
    assert_ne!(holder_epoch(&mut a).await, epoch);
    assert_eq!(b.names(d).await, ["made"]);
    // Sent again because its answer was lost, and what was queued behind it.
    let next = a.change(Kind::Make(make(d, "next", FileType::File)), first + 1);
    let results = a.apply(&[made, next]).await;
    assert_eq!((inode_of(&results[0]), inode_of(&results[1])), (first, first + 1));
    assert!(a.reserve(10).await >= first + 10);
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_made_again_by_a_repeated_batch_is_not_delegated_again() {
    let (_dir, namenode, mut a, b) = two_sessions().await;
    let first = a.reserve(2).await;
    let change = Change { delegate: true, ..a.change(Kind::Make(make(1, "d", FileType::Directory)), first) };
    assert!(a.apply(std::slice::from_ref(&change)).await[0].delegated);
    assert!(a.apply(std::slice::from_ref(&change)).await[0].delegated, "it still is");
    let making = {
        let mut b = b.clone();
        async move { b.file(first, "b's").await }
    };
    recalled(&mut a, first, making).await;
    let again = a.apply(std::slice::from_ref(&change)).await;
    assert_eq!((inode_of(&again[0]), again[0].delegated), (first, false), "it is not as its maker thinks");
    let request = MakeNodeRequest { mode: 0o1777, ..make(1, "sticky", FileType::Directory) };
    let sticky = Change { delegate: true, ..a.change(Kind::Make(request), first + 1) };
    assert!(!a.apply(&[sticky]).await[0].delegated);
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_batches_are_refused() {
    let (_dir, namenode, mut a, b) = two_sessions().await;
    let mut apply = async |changes: Vec<Change>| {
        let request = ApplyChangesRequest { context: a.context(), session: a.name(), changes, more: false };
        a.mount.calls.apply_changes(request).await.map(|answer| answer.into_inner().results)
    };
    let make = |session: &Session| session.change(Kind::Make(make(1, "x", FileType::Fifo)), 0);
    let too_many = apply(vec![make(&b); 257]).await.expect_err("too many");
    assert_eq!(kind(&too_many), ErrorKind::InvalidArgument);
    let results = apply(vec![make(&b), Change { context: make(&b).context, ..Change::default() }]).await;
    let refusals: Vec<_> = results.expect("answered").iter().map(refusal).collect();
    assert_eq!(refusals, [Some(ErrorKind::InvalidArgument); 2], "another client's");
    namenode.shutdown().await;
}
