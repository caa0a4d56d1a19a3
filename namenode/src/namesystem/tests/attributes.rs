//! Attributes and permissions.

use dfs_proto::{ErrorKind, v1};
use log::command::Op;

use super::fixture::*;
use crate::log;
use crate::namesystem::{BlockState, Effect};

fn set_times(path: &str, atime_ns: Option<i64>, mtime_ns: Option<i64>) -> Op {
    Op::SetTimes(log::SetTimesOp { node: Some(node(path)), atime_ns, mtime_ns })
}

#[test]
fn times_follow_changes() {
    let mut t = Fixture::new();
    t.mkdir("/d");
    let root = t.stat("/");
    t.write_file("/d/f", 5);
    let (d, f) = (t.stat("/d"), t.stat("/d/f"));
    assert_eq!(t.stat("/"), root, "a grandchild is none of its business");
    assert!(d.mtime_ns > root.mtime_ns && f.mtime_ns > f.btime_ns);
    t.ok(chmod("/d/f", 0o600));
    let after = t.stat("/d/f");
    assert_eq!((after.mtime_ns, after.mode), (f.mtime_ns, 0o600));
    assert!(after.ctime_ns > f.ctime_ns && after.change > f.change);
    t.ok(set_times("/d/f", Some(7), None));
    t.ok(set_times("/d/f", None, Some(-8)));
    let after = t.stat("/d/f");
    assert_eq!((after.atime_ns, after.mtime_ns), (7, -8));
    t.ok(rename("/d/f", "/f", false));
    assert_eq!(t.stat("/f").mtime_ns, -8);
    assert!(t.stat("/d").mtime_ns > d.mtime_ns);
}

#[test]
fn replication_changes_all_blocks() {
    let mut t = Fixture::new();
    let inode = t.write_file("/f", 2 * BLOCK + 1);
    t.refused(set_replication("/f", 0), ErrorKind::InvalidArgument);
    t.refused(set_replication("/f", 513), ErrorKind::InvalidArgument);
    t.refused(set_replication("/", 2), ErrorKind::IsADirectory);
    t.ok(set_replication("/f", 2));
    assert_eq!(t.effects.len(), 3);
    assert!(
        t.effects.iter().all(|e| matches!(e, Effect::ReplicationChanged { block } if block.replication == 2))
    );
    assert!(t.blocks_of(inode).iter().all(|b| b.replication == 2 && b.state == BlockState::Complete));
    t.ok(set_replication("/f", 2));
    assert!(t.effects.is_empty());
    t.assert_sound();
}

#[test]
fn only_owners_change_attributes() {
    let mut t = Fixture::new();
    t.mkdir("/home");
    t.ok(chown("/home", "ann", "staff"));
    t.become_user("ann", &["staff", "dev"]);
    t.write_file("/home/f", 5);
    assert_eq!((t.stat("/home/f").owner.as_str(), t.stat("/home/f").group.as_str()), ("ann", "staff"));
    t.ok(chown("/home/f", "", "dev"));
    t.ok(chown("/home/f", "ann", ""));
    t.refused(chown("/home/f", "bob", ""), ErrorKind::NotPermitted);
    t.refused(chown("/home/f", "", "wheel"), ErrorKind::NotPermitted);
    t.ok(chmod("/home/f", 0o6755));
    assert_eq!(t.stat("/home/f").mode, 0o6755);
    t.ok(chown("/home/f", "", "staff"));
    assert_eq!(t.stat("/home/f").mode, 0o755, "set-id bits fall");
    t.become_user("bob", &["staff"]);
    t.refused(chmod("/home/f", 0o777), ErrorKind::NotPermitted);
    t.refused(chown("/home/f", "", "staff"), ErrorKind::NotPermitted);
    t.refused(set_times("/home/f", Some(1), None), ErrorKind::NotPermitted);
    t.refused(set_replication("/home/f", 1), ErrorKind::NotPermitted);
    t.become_user("root", &[]);
    t.ok(chown("/home/f", "bob", "wheel"));
    t.refused(chown("/home/f", &"x".repeat(256), ""), ErrorKind::InvalidArgument);
    t.assert_sound();
}

#[test]
fn directories_guard_their_entries() {
    let mut t = Fixture::new();
    for (path, mode) in [("/open", 0o777), ("/tmp", 0o1777), ("/shut", 0o700), ("/list", 0o744)] {
        t.mkdir(path);
        t.write_file(&format!("{path}/f"), 1);
        t.ok(chmod(path, mode));
    }
    t.become_user("ann", &["staff"]);
    let denied = ErrorKind::AccessDenied;
    t.refused(mkdir("/x/y", true), denied);
    t.refused(create("/x", "w"), denied);
    t.refused(append("/open/f", "w"), denied);
    t.refused(truncate("/open/f", 0), denied);
    t.refused(delete("/shut/f", false), denied);
    t.refused(rename("/shut/f", "/open/g", false), denied);
    t.refused(rename("/open/f", "/list/g", false), denied);
    t.refused(delete("/tmp/f", false), ErrorKind::NotPermitted);
    t.refused(rename("/tmp/f", "/open/g", false), ErrorKind::NotPermitted);
    let mut overwrite = create_op("/open/f", "w");
    overwrite.overwrite = true;
    t.refused(Op::Create(overwrite), denied);
    t.write_file("/tmp/mine", 1);
    t.ok(rename("/tmp/mine", "/tmp/mine2", false));
    t.refused(rename("/tmp/mine2", "/tmp/f", true), ErrorKind::NotPermitted);
    t.ok(delete("/open/f", false));

    let (snapshot, ann) = (t.snapshot(), t.caller.clone());
    let error = snapshot.stat(&ann, &node("/shut/f")).expect_err("no search permission");
    assert_eq!((error.kind(), error.subject().as_str()), (denied, "/shut/f"));
    assert_eq!(error.reason(), "user ann needs --x on /shut");
    let summary = |path: &str| {
        let refused = snapshot.content_summary(&ann, &node(path)).expect_err("not readable");
        (refused.subject(), refused.reason())
    };
    assert_eq!(summary("/shut"), ("/shut".to_owned(), "user ann needs r-x on /shut".to_owned()));
    assert_eq!(summary("/"), ("/".to_owned(), "user ann needs r-x on a directory below /".to_owned()));
    assert!(snapshot.list(&ann, &node("/shut"), b"", 10).is_err());
    assert!(snapshot.list(&ann, &node("/list"), b"", 10).is_err(), "listing needs search permission too");
    assert!(snapshot.list(&ann, &node("/open"), b"", 10).is_ok());
    assert!(snapshot.content_summary(&ann, &node("/")).is_err());
    assert!(snapshot.content_summary(&ann, &node("/tmp")).is_ok());
    t.assert_sound();
}

#[test]
fn reading_needs_read_permission() {
    let mut t = Fixture::new();
    t.write_file("/f", 1);
    t.ok(chmod("/f", 0o640));
    t.ok(chown("/f", "ann", "staff"));
    for (user, groups, may) in [("ann", &["x"], true), ("bob", &["staff"], true), ("bob", &["x"], false)] {
        let opened = t.snapshot().open_file(&caller(user, groups), &node("/f"));
        assert_eq!(opened.is_ok(), may, "{user} {groups:?}");
    }
    let error = t.snapshot().open_file(&t.caller, &node("/")).expect_err("a directory");
    assert_eq!(error.kind(), ErrorKind::IsADirectory);
}

#[test]
fn deleting_a_tree_needs_rights_on_every_directory_with_entries() {
    let mut t = Fixture::new();
    t.mkdir("/t/a/b");
    t.mkdir("/t/empty");
    t.write_file("/t/a/b/f", 1);
    for path in ["/t", "/t/a", "/t/a/b"] {
        t.ok(chown(path, "ann", "staff"));
    }
    t.ok(chmod("/", 0o777));
    let ann = caller("ann", &["staff"]);
    let check = |t: &Fixture, recursive| t.snapshot().check_delete(&ann, &node("/t"), recursive);
    assert_eq!(check(&t, false).expect_err("not empty").kind(), ErrorKind::DirectoryNotEmpty);
    assert!(check(&t, true).is_ok(), "an empty directory of another does not count");
    t.ok(chmod("/t/a/b", 0o555));
    assert_eq!(check(&t, true).expect_err("no write permission").kind(), ErrorKind::AccessDenied);
    t.ok(chmod("/t/a/b", 0o755));
    t.ok(chown("/t/a/b", "bob", "staff"));
    t.ok(chmod("/t/a/b", 0o1777));
    assert_eq!(check(&t, true).expect_err("sticky").kind(), ErrorKind::NotPermitted);
    assert!(t.snapshot().check_delete(&ann, &node("/none"), true).is_ok());
    assert!(t.snapshot().check_delete(&t.caller, &node("/t"), true).is_ok());
}

#[test]
fn the_namenode_itself_needs_no_permission() {
    let mut t = Fixture::new();
    t.create("/f", "w");
    let mut command = t.command(recover_lease("/f"));
    command.caller = None;
    assert!(t.apply(&command).outcome.is_ok());
    let mut command = t.command(mkdir("/by-namenode", false));
    command.caller = None;
    assert!(t.apply(&command).outcome.is_ok());
    assert_eq!(t.stat("/by-namenode").owner, "root", "owned as the directory above");
}

#[test]
fn users_without_a_name_make_nothing() {
    let mut t = Fixture::new();
    t.ok(chmod("/", 0o777));
    t.become_user("", &[]);
    t.refused(mkdir("/d", false), ErrorKind::InvalidArgument);
    t.refused(create("/f", "w"), ErrorKind::InvalidArgument);
}

#[test]
fn datanodes_and_hints_are_remembered() {
    let mut t = Fixture::new();
    let inode = t.write_file("/f", 5);
    let info = v1::DatanodeInfo { uuid: "dn-1".to_owned(), ip: "10.0.0.1".to_owned(), ..Default::default() };
    let op = log::RegisterDatanodeOp { info: Some(info.clone()), storage_ids: storages(&["s7", "s8"]) };
    t.ok(Op::RegisterDatanode(op));
    assert_eq!(t.effects.len(), 1);
    let record = log::DatanodeRecord {
        info: Some(info),
        storage_ids: storages(&["s7", "s8"]),
        ..log::DatanodeRecord::default()
    };
    assert_eq!(t.snapshot().datanodes().expect("reads"), [record]);
    t.refused(Op::RegisterDatanode(log::RegisterDatanodeOp::default()), ErrorKind::InvalidArgument);

    let stored = t.blocks_of(inode).remove(0);
    let moved = committed(stored.to_proto(), &["s7"]);
    let stale = committed(block(stored.id.get(), stored.stamp.get() - 1, 5), &["s8"]);
    let gone = committed(block(1, 1, 1), &["s8"]);
    t.ok(Op::UpdateHints(log::UpdateHintsOp { blocks: vec![moved, stale, gone] }));
    assert_eq!(t.blocks_of(inode)[0].hints, ["s7"]);
    t.assert_sound();
}
