//! Delegated directories: what is in the way of others waits for the holder, and batches of changes.

use std::future::Future;

use dfs_namenode::Namenode;
use dfs_proto::v1::change::Change as Kind;
use dfs_proto::v1::*;
use dfs_proto::{ErrorKind, RpcError};
use tempfile::{TempDir, tempdir};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, timeout};
use tonic::{Response, Status};

use super::harness::*;

/// A session with a client id of its own.
#[derive(Clone)]
pub struct Session {
    pub mount: Mount,
    id: u8,
}

impl Session {
    pub async fn connect(namenode: &Namenode, name: &str, id: u8) -> Self {
        Self { mount: Mount::connect(namenode.rpc_addr(), name).await, id }
    }

    pub fn context(&self) -> Option<CallContext> {
        context().map(|call| CallContext { client_id: vec![self.id; 16].into(), ..call })
    }

    pub fn name(&self) -> String {
        self.mount.session.clone()
    }

    pub async fn keep(&mut self, epoch: u64, wait_ms: u32) -> KeepSessionResponse {
        let (context, session) = (self.context(), self.name());
        let request = KeepSessionRequest { context, session, epoch, wait_ms, ..Default::default() };
        self.mount.calls.keep_session(request).await.expect("kept").into_inner()
    }

    pub async fn ask(&mut self, inode: u64) -> Result<DelegateDirectoryResponse, Status> {
        let (context, session) = (self.context(), self.name());
        let request = DelegateDirectoryRequest { context, session, inode, entries_max: 100 };
        self.mount.calls.delegate_directory(request).await.map(Response::into_inner)
    }

    /// Has a directory delegated.
    #[track_caller]
    pub fn delegate(&mut self, inode: u64) -> impl Future<Output = DelegateDirectoryResponse> {
        let mut session = self.clone();
        async move {
            let answer = session.ask(inode).await.expect("asked");
            assert!(answer.granted);
            answer
        }
    }

    pub async fn give_back(&mut self, inodes: &[u64]) {
        let (context, session) = (self.context(), self.name());
        let request = ReturnDirectoriesRequest { context, session, inodes: inodes.to_vec() };
        self.mount.calls.return_directories(request).await.expect("given back");
    }

    pub async fn reserve(&mut self, count: u32) -> u64 {
        let (context, session) = (self.context(), self.name());
        let request = ReserveInodesRequest { context, session, count };
        let reserved = self.mount.calls.reserve_inodes(request).await.expect("reserved").into_inner();
        assert_eq!(reserved.count, count);
        reserved.first
    }

    pub fn change(&self, change: Kind, inode: u64) -> Change {
        Change { context: self.context(), change: Some(change), inode, ..Default::default() }
    }

    pub async fn apply(&mut self, changes: &[Change]) -> Vec<ChangeResult> {
        let (context, session) = (self.context(), self.name());
        let request = ApplyChangesRequest { context, session, changes: changes.to_vec() };
        self.mount.calls.apply_changes(request).await.expect("applied").into_inner().results
    }

    pub async fn mkdir(&mut self, base: u64, name: &str) -> u64 {
        let request = MakeNodeRequest { context: self.context(), ..make(base, name, FileType::Directory) };
        self.mount.calls.make_node(request).await.expect("made").into_inner().status.expect("a status").inode
    }

    pub async fn file(&mut self, base: u64, name: &str) -> u64 {
        let request = MakeNodeRequest { context: self.context(), ..make(base, name, FileType::File) };
        self.mount.calls.make_node(request).await.expect("made").into_inner().status.expect("a status").inode
    }

    pub async fn stat(&mut self, node: Option<NodeRef>) -> Result<FileStatus, Status> {
        let request = StatRequest { context: self.context(), node };
        self.mount.client.stat(request).await.map(Response::into_inner)
    }

    pub async fn names(&mut self, inode: u64) -> Vec<String> {
        let node = below(inode, "");
        let request = ListRequest { context: self.context(), node, ..Default::default() };
        let listed = self.mount.client.list(request).await.expect("listed").into_inner();
        listed.entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect()
    }
}

/// A request that makes a node nobody opens.
pub fn make(base: u64, name: &str, kind: FileType) -> MakeNodeRequest {
    MakeNodeRequest { node: below(base, name), r#type: kind.into(), mode: 0o755, ..Default::default() }
}

fn unlink(base: u64, name: &str) -> Kind {
    Kind::Unlink(UnlinkRequest { node: below(base, name), ..Default::default() })
}

/// What was refused.
fn refusal(result: &ChangeResult) -> Option<ErrorKind> {
    result.error.clone().map(|detail| RpcError::from_detail(detail).kind)
}

fn inode_of(result: &ChangeResult) -> u64 {
    assert_eq!(result.error, None);
    result.status.as_ref().expect("a status").inode
}

async fn two_sessions() -> (TempDir, Namenode, Session, Session) {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let a = Session::connect(&namenode, "mount-a", 1).await;
    let b = Session::connect(&namenode, "mount-b", 2).await;
    (dir, namenode, a, b)
}

/// Expects that a call waits until `holder` has given `directory` back, and answers what it answered then.
async fn recalled<T: Send + 'static>(
    holder: &mut Session,
    directory: u64,
    call: impl Future<Output = T> + Send + 'static,
) -> T {
    let call: JoinHandle<T> = tokio::spawn(call);
    let deadline = Instant::now() + PATIENCE;
    let epoch = holder_epoch(holder).await;
    while !holder.keep(epoch, 100).await.recalled_directories.contains(&directory) {
        assert!(!call.is_finished(), "it did not wait");
        assert!(Instant::now() < deadline, "no recall");
    }
    assert!(!call.is_finished(), "it did not wait");
    holder.give_back(&[directory]).await;
    timeout(PATIENCE, call).await.expect("it waits no longer").expect("no panic")
}

async fn holder_epoch(holder: &mut Session) -> u64 {
    holder.keep(0, 0).await.epoch
}

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
async fn a_silent_holder_holds_others_up_until_its_session_ends() {
    let (_dir, namenode, mut a, mut b) = two_sessions().await;
    let d = a.mkdir(1, "d").await;
    a.file(d, "f").await;
    let reserved = a.reserve(10).await;
    a.delegate(d).await;
    let (begun, alive) = (Instant::now(), b.mount.keep_alive());
    b.stat(below(1, "d/f")).await.expect("at last");
    let waited = begun.elapsed();
    let timeout = Duration::from_millis(SESSION_TIMEOUT_MS);
    assert!(waited >= timeout / 2 && waited < 10 * timeout, "{waited:?}");
    assert!(b.ask(d).await.expect("asked").granted, "nobody has it, and nobody will hand it to and fro");
    // What the session had reserved is nobody's any more.
    let late = a.apply(&[a.change(Kind::Make(make(1, "late", FileType::Fifo)), reserved)]).await;
    assert_eq!(refusal(&late[0]), Some(ErrorKind::Conflict));
    drop(alive);
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
        let request = ApplyChangesRequest { context: a.context(), session: a.name(), changes };
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
