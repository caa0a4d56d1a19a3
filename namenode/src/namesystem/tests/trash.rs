//! The trash: where removed nodes go, and when they are gone.

use dfs_proto::ErrorKind;
use log::command::Op;
use log::reply::Reply;

use super::fixture::*;
use crate::log;
use crate::namesystem::TrashWork;

const HOUR_MS: u64 = 3_600_000;
const YEAR_NS: i64 = 365 * 86_400 * 1_000_000_000;

fn to_trash(path: &str, recursive: bool) -> Op {
    Op::MoveToTrash(log::MoveToTrashOp { node: Some(node(path)), recursive })
}

/// Where it went.
#[track_caller]
fn trash(t: &mut Fixture, path: &str) -> String {
    match t.ok(to_trash(path, true)) {
        Reply::Trashed(trashed) => String::from_utf8(trashed.path.to_vec()).expect("text"),
        other => panic!("{other:?}"),
    }
}

/// What the emptier does for a user: time passes, and perhaps checkpoints are made. Answers those made and deleted.
#[track_caller]
fn empty(
    t: &mut Fixture,
    user: &str,
    elapsed_ms: u64,
    checkpoint: bool,
    keep_ms: u64,
) -> (Vec<String>, Vec<String>) {
    let users = vec![user.to_owned().into()];
    let op = log::EmptyTrashOp { elapsed_ms, users, checkpoint, keep_ms, ..log::EmptyTrashOp::default() };
    let command = log::Command { caller: None, ..t.command(Op::EmptyTrash(op)) };
    let applied = t.apply(&command);
    let text = |paths: Vec<bytes::Bytes>| {
        paths.into_iter().map(|path| String::from_utf8(path.to_vec()).expect("text")).collect()
    };
    match applied.outcome.expect("carried out").reply {
        Some(Reply::TrashEmptied(emptied)) => (text(emptied.made), text(emptied.deleted)),
        other => panic!("{other:?}"),
    }
}

fn work(t: &Fixture, keep_ms: u64) -> TrashWork {
    t.snapshot().trash_work(keep_ms, 0).expect("reads")
}

#[test]
fn what_is_removed_keeps_its_path_below_the_trash() {
    let mut t = Fixture::new();
    t.mkdir("/a/b");
    let inode = t.write_file("/a/b/f", 5);
    let home = "/user/root/.Trash/Current";
    assert_eq!(trash(&mut t, "/a/b/f"), format!("{home}/a/b/f"));
    t.assert_missing("/a/b/f");
    assert_eq!(t.stat(&format!("{home}/a/b/f")).inode, inode);
    assert_eq!(trash(&mut t, "/a"), format!("{home}/a{}", t.now_ns / 1_000_000), "a/ is there already");
    t.assert_missing("/a");
    t.assert_sound();
    // It can be brought back, and goes again.
    t.ok(rename(&format!("{home}/a/b/f"), "/f", false));
    assert_eq!(trash(&mut t, "/f"), format!("{home}/f"));
    // A tree moves in one step, with everything below.
    t.mkdir("/tree/x/y");
    t.write_file("/tree/x/f", 1);
    assert_eq!(trash(&mut t, "/tree"), format!("{home}/tree"));
    assert_eq!(t.stat(&format!("{home}/tree/x/f")).size, 1);
    t.assert_sound();
}

#[test]
fn names_that_are_taken_get_the_time() {
    let mut t = Fixture::new();
    let home = "/user/root/.Trash/Current";
    t.now_ns = 1_700_000_000_123_000_000;
    let at = |t: &mut Fixture, path: &str, wanted: &str| {
        t.write_file(path, 1);
        assert_eq!(trash(t, path), format!("{home}{wanted}"));
    };
    at(&mut t, "/f", "/f");
    at(&mut t, "/f", "/f1700000000123");
    at(&mut t, "/f", "/f1700000000124");
    // A directory on the way has the name of a file that was removed before.
    t.mkdir("/f/d");
    at(&mut t, "/f/d/g", "/f1700000000125/d/g");
    let long = format!("/{}", "n".repeat(255));
    at(&mut t, &long, &long);
    at(&mut t, &long, &format!("/{}1700000000123", "n".repeat(242)));
    t.assert_sound();
}

#[test]
fn the_trash_itself_is_not_moved_to_the_trash() {
    let mut t = Fixture::new();
    t.write_file("/f", 1);
    trash(&mut t, "/f");
    for inside in ["/user/root/.Trash", "/user/root/.Trash/Current", "/user/root/.Trash/Current/f"] {
        assert_eq!(trash(&mut t, inside), "", "{inside} lies in it");
        t.stat(inside);
    }
    for around in ["/user", "/user/root"] {
        t.refused(to_trash(around, true), ErrorKind::InvalidArgument);
    }
    t.refused(to_trash("/", true), ErrorKind::InvalidArgument);
    t.refused(to_trash("/none", true), ErrorKind::NotFound);
    t.mkdir("/d");
    t.refused(to_trash("/d", false), ErrorKind::IsADirectory);
    // Another user's trash is anybody's directory, and a home directory beside one's own too.
    t.mkdir("/user/alice/.Trash/Current");
    assert_eq!(trash(&mut t, "/user/alice"), "/user/root/.Trash/Current/user/alice");
    t.assert_sound();
}

#[test]
fn a_user_without_a_home_directory_gets_one_and_it_is_private() {
    let mut t = Fixture::new();
    t.mkdir("/shared");
    t.ok(chmod("/shared", 0o777));
    t.become_user("alice", &["users"]);
    t.write_file("/shared/f", 1);
    assert_eq!(trash(&mut t, "/shared/f"), "/user/alice/.Trash/Current/shared/f");
    for private in ["/user/alice", "/user/alice/.Trash", "/user/alice/.Trash/Current"] {
        let status = t.stat(private);
        assert_eq!((status.mode, status.owner.as_str()), (0o700, "alice"), "{private}");
    }
    t.become_user("root", &["supergroup"]);
    assert_eq!((t.stat("/user").mode, t.stat("/user").owner.as_str()), (0o755, "root"));

    // What may not be removed may not be moved to the trash.
    t.mkdir("/mine");
    t.write_file("/mine/f", 1);
    t.become_user("bob", &["users"]);
    t.refused(to_trash("/mine/f", false), ErrorKind::AccessDenied);
    // A home directory that does not let its user write is said so.
    t.become_user("root", &["supergroup"]);
    t.mkdir("/user/bob");
    t.become_user("bob", &["users"]);
    t.write_file("/shared/g", 1);
    let error = t.refused(to_trash("/shared/g", false), ErrorKind::AccessDenied);
    assert!(error.reason().contains("/user/bob"), "{}", error.reason());
    t.become_user("../root", &[]);
    t.refused(to_trash("/shared/g", false), ErrorKind::InvalidArgument);
    t.assert_sound();
}

#[test]
fn a_file_in_the_way_is_named() {
    let mut t = Fixture::new();
    t.write_file("/user", 1);
    t.write_file("/f", 1);
    let error = t.refused(to_trash("/f", false), ErrorKind::NotADirectory);
    assert_eq!(error.subject(), "/user");
}

#[test]
fn checkpoints_are_deleted_when_they_are_old_by_the_trash_clock() {
    let mut t = Fixture::new();
    let keep = 24 * HOUR_MS;
    t.now_ns = 1_763_746_200_000_000_000;
    t.write_file("/f", 150);
    trash(&mut t, "/f");
    assert_eq!(work(&t, keep).to_checkpoint, [b"root".to_vec()]);
    let (made, deleted) = empty(&mut t, "root", HOUR_MS, true, keep);
    assert_eq!((made.as_slice(), deleted.len()), (&["/user/root/.Trash/251121173000".to_owned()][..], 0));
    assert_eq!(t.stat("/user/root/.Trash/251121173000/f").size, 150);
    let idle = TrashWork { is_ageing: true, since_round_ms: HOUR_MS, ..TrashWork::default() };
    assert_eq!(work(&t, keep), idle);

    // The wall clock goes forth and back, and nothing happens to it.
    for years in [10, -40, 30] {
        t.now_ns += years * YEAR_NS;
        t.write_file("/g", 1);
        trash(&mut t, "/g");
        let (made, deleted) = empty(&mut t, "root", HOUR_MS, true, keep);
        assert_eq!((made.len(), deleted.len()), (1, 0));
    }
    assert_eq!(empty(&mut t, "root", 20 * HOUR_MS, false, keep).1.len(), 0);
    assert_eq!(work(&t, keep).to_delete.len(), 0);
    let expired = empty(&mut t, "root", HOUR_MS, false, keep).1;
    assert_eq!(expired, ["/user/root/.Trash/251121173000"], "24 hours have passed");
    t.assert_missing("/user/root/.Trash/251121173000");
    assert_eq!(empty(&mut t, "root", 3 * HOUR_MS, false, keep).1.len(), 3);
    assert_eq!(work(&t, keep), TrashWork { since_round_ms: 28 * HOUR_MS, ..TrashWork::default() });
    t.reclaim_all(100);
    t.assert_sound();
    assert_eq!(t.snapshot().counts().expect("reads").1, 0, "blocks are freed");
}

#[test]
fn checkpoints_of_one_second_have_different_names() {
    let mut t = Fixture::new();
    for wanted in ["700101000000", "700101000000-1", "700101000000-2"] {
        t.write_file("/f", 1);
        trash(&mut t, "/f");
        let made = empty(&mut t, "root", 0, true, HOUR_MS).0;
        assert_eq!(made, [format!("/user/root/.Trash/{wanted}")]);
    }
    assert_eq!(empty(&mut t, "root", 0, true, HOUR_MS), (vec![], vec![]), "nothing new was removed");
    t.assert_sound();
}

#[test]
fn checkpoints_that_others_made_begin_to_age_when_they_are_seen() {
    let mut t = Fixture::new();
    t.mkdir("/user/root/.Trash/990101000000/x");
    t.mkdir("/user/root/.Trash/keep-this");
    assert_eq!(work(&t, HOUR_MS).to_delete, [b"root".to_vec()]);
    assert_eq!(empty(&mut t, "root", 50 * HOUR_MS, false, HOUR_MS).1.len(), 0);
    assert_eq!(empty(&mut t, "root", HOUR_MS - 1, false, HOUR_MS).1.len(), 0);
    // It is taken out and put back: it begins anew.
    t.ok(rename("/user/root/.Trash/990101000000", "/x", false));
    let forget = work(&t, HOUR_MS).to_forget;
    assert_eq!(forget.len(), 1);
    t.ok(Op::EmptyTrash(log::EmptyTrashOp { forget, ..log::EmptyTrashOp::default() }));
    t.ok(rename("/x", "/user/root/.Trash/990101000000", false));
    assert_eq!(empty(&mut t, "root", HOUR_MS, false, HOUR_MS).1.len(), 0);
    assert_eq!(empty(&mut t, "root", HOUR_MS, false, HOUR_MS).1.len(), 1);
    t.stat("/user/root/.Trash/keep-this");
    t.assert_sound();
}

#[test]
fn a_user_empties_the_own_trash_only() {
    let mut t = Fixture::new();
    t.mkdir("/user/alice/.Trash/251121173000");
    t.become_user("bob", &[]);
    let users = vec!["alice".to_owned().into()];
    t.refused(Op::EmptyTrash(log::EmptyTrashOp { users, ..Default::default() }), ErrorKind::AccessDenied);
}
