//! POSIX's rules for attributes.

use dfs_proto::ErrorKind;
use dfs_proto::v1::FileType;
use log::SetAttributesOp;
use log::command::Op;
use log::reply::Reply;

use super::fixture::*;
use crate::log;
use crate::namesystem::ops::check::BLOCKS_PER_FILE_MAX;

fn set(path: &str, op: SetAttributesOp) -> Op {
    Op::SetAttributes(SetAttributesOp { node: Some(node(path)), ..op })
}

fn mode(bits: u32) -> SetAttributesOp {
    SetAttributesOp { mode: Some(bits), ..Default::default() }
}

fn principals(owner: Option<&str>, group: Option<&str>) -> SetAttributesOp {
    SetAttributesOp { owner: owner.map(str::to_owned), group: group.map(str::to_owned), ..Default::default() }
}

fn size(bytes: u64) -> SetAttributesOp {
    SetAttributesOp { size: Some(bytes), ..Default::default() }
}

/// `/f` and `/d`, of ann and her group.
fn of_ann(mode: u32) -> Fixture {
    let mut t = Fixture::new();
    t.write_file("/f", 250);
    t.mkdir("/d");
    for path in ["/f", "/d"] {
        t.ok(chown(path, "ann", "ann"));
        t.ok(chmod(path, mode));
    }
    t
}

const USERS: [(&str, &[&str]); 4] =
    [("root", &["root"]), ("ann", &["ann", "dev"]), ("bob", &["ann"]), ("eve", &["eve"])];

#[test]
fn modes_are_set_by_owners_and_the_superuser() {
    for (user, groups) in USERS {
        for (path, bits, left) in
            [("/f", 0o7751, 0o7751), ("/d", 0o7751, 0o7751), ("/f", 0, 0), ("/f", 0o1644, 0o1644)]
        {
            let mut t = of_ann(0o644);
            let before = t.stat(path);
            t.become_user(user, groups);
            if matches!(user, "root" | "ann") {
                t.ok(set(path, mode(bits)));
                let after = t.stat(path);
                assert_eq!(after.mode, left);
                assert!(after.ctime_ns > before.ctime_ns && after.mtime_ns == before.mtime_ns);
            } else {
                t.refused(set(path, mode(bits)), ErrorKind::NotPermitted);
            }
        }
    }
    // The set-group-id bit is not for outsiders of the group.
    let mut t = of_ann(0o644);
    for path in ["/f", "/d"] {
        t.ok(chown(path, "ann", "team"));
    }
    t.refused(set("/f", mode(0o10000)), ErrorKind::InvalidArgument);
    t.become_user("ann", &["ann"]);
    t.ok(set("/f", mode(0o6755)));
    t.ok(set("/d", mode(0o2755)));
    assert_eq!((t.stat("/f").mode, t.stat("/d").mode), (0o4755, 0o755));
}

#[test]
fn a_symbolic_link_has_an_owner_but_no_mode() {
    let mut t = Fixture::new();
    let op = log::MakeNodeOp { r#type: FileType::Symlink.into(), symlink: b"t".to_vec(), ..file_op("/l") };
    t.ok(make_node(op));
    t.refused(set("/l", mode(0o600)), ErrorKind::Unsupported);
    t.ok(set("/l", principals(Some("ann"), Some("dev"))));
    assert_eq!((t.stat("/l").owner.as_str(), t.stat("/l").mode), ("ann", 0o777));
}

#[test]
fn owners_and_groups() {
    // (owner, group), then who may.
    let cases: [(Option<&str>, Option<&str>, &[&str]); 7] = [
        (Some("bob"), None, &["root"]),
        (Some("ann"), None, &["root", "ann"]),
        (None, Some("dev"), &["root", "ann"]),
        (None, Some("ann"), &["root", "ann"]),
        (None, Some("wheel"), &["root"]),
        (Some("ann"), Some("dev"), &["root", "ann"]),
        (Some("bob"), Some("dev"), &["root"]),
    ];
    for (owner, group, may) in cases {
        for (user, groups) in USERS {
            let mut t = of_ann(0o6777);
            t.become_user(user, groups);
            for path in ["/f", "/d"] {
                let before = t.stat(path);
                let op = set(path, principals(owner, group));
                if !may.contains(&user) {
                    t.refused(op, ErrorKind::NotPermitted);
                    continue;
                }
                t.ok(op);
                let after = t.stat(path);
                assert_eq!(after.owner, owner.unwrap_or("ann"));
                assert_eq!(after.group, group.unwrap_or("ann"));
                assert!(after.ctime_ns > before.ctime_ns);
                let keeps = user == "root" || path == "/d";
                assert_eq!(after.mode, if keeps { 0o6777 } else { 0o777 }, "{user} {path}");
            }
        }
    }
    // Without the group's execute bit, set-group-id is no privilege, and stays for members.
    let mut t = of_ann(0o6767);
    t.become_user("ann", &["ann", "dev"]);
    t.ok(set("/f", principals(None, Some("dev"))));
    assert_eq!(t.stat("/f").mode, 0o2767);
    t.refused(set("/f", principals(None, Some(""))), ErrorKind::InvalidArgument);
}

#[test]
fn nothing_to_set_still_changes_the_attribute_time() {
    let mut t = of_ann(0o600);
    t.become_user("eve", &["eve"]);
    t.ok(set("/f", SetAttributesOp::default()));
    t.become_user("root", &[]);
    assert_eq!(t.stat("/f").ctime_ns, t.now_ns);
}

#[test]
fn times_table() {
    let given = |atime_ns, mtime_ns| SetAttributesOp { atime_ns, mtime_ns, ..Default::default() };
    let now = |atime_now, mtime_now| SetAttributesOp { atime_now, mtime_now, ..Default::default() };
    // Who may, if eve may write; the others get this error.
    let cases: [(SetAttributesOp, &[&str], ErrorKind); 6] = [
        (given(Some(5), Some(-7)), &["root", "ann"], ErrorKind::NotPermitted),
        (given(Some(5), None), &["root", "ann"], ErrorKind::NotPermitted),
        (given(None, Some(5)), &["root", "ann"], ErrorKind::NotPermitted),
        (now(true, false), &["root", "ann"], ErrorKind::NotPermitted),
        (now(false, true), &["root", "ann"], ErrorKind::NotPermitted),
        (now(true, true), &["root", "ann", "eve"], ErrorKind::AccessDenied),
    ];
    for (op, may, kind) in cases {
        for (user, groups) in USERS {
            let mut t = of_ann(0o402);
            let before = t.stat("/f");
            t.become_user(user, groups);
            if !may.contains(&user) {
                t.refused(set("/f", op.clone()), kind);
                continue;
            }
            let Reply::Status(after) = t.ok(set("/f", op.clone())) else { panic!("no status") };
            let expected = |ns: Option<i64>, now: bool, old| ns.unwrap_or(if now { t.now_ns } else { old });
            assert_eq!(after.atime_ns, expected(op.atime_ns, op.atime_now, before.atime_ns));
            assert_eq!(after.mtime_ns, expected(op.mtime_ns, op.mtime_now, before.mtime_ns));
            assert_eq!(after.ctime_ns, t.now_ns);
        }
    }
}

#[test]
fn sizes_table() {
    for (user, groups) in USERS {
        let mut t = of_ann(0o6772);
        let before = t.stat("/f");
        t.become_user(user, groups);
        let Reply::Status(after) = t.ok(set("/f", size(120))) else { panic!("no status") };
        assert_eq!((after.size, after.allocated), (120, 120));
        assert_eq!((after.mtime_ns, after.ctime_ns), (t.now_ns, t.now_ns));
        assert!(after.change > before.change);
        assert_eq!(after.mode, if user == "root" { 0o6772 } else { 0o772 }, "{user}");
        t.assert_sound();
    }
    let mut t = of_ann(0o600);
    t.refused(set("/d", size(0)), ErrorKind::IsADirectory);
    let fifo = log::MakeNodeOp { r#type: FileType::Fifo.into(), ..file_op("/p") };
    t.ok(make_node(fifo));
    t.refused(set("/p", size(0)), ErrorKind::InvalidArgument);
    t.refused(set("/f", size(BLOCKS_PER_FILE_MAX * BLOCK + 1)), ErrorKind::TooLarge);
    t.refused(set("/f", size(u64::MAX)), ErrorKind::TooLarge);
    t.ok(set("/f", size(BLOCKS_PER_FILE_MAX * BLOCK)));
    t.become_user("eve", &["eve"]);
    t.refused(set("/f", size(0)), ErrorKind::AccessDenied);
    t.ok(set("/f", SetAttributesOp { opened: true, ..size(0) }));
    t.assert_sound();
}

#[test]
fn the_size_belongs_to_the_writer() {
    let mut t = of_ann(0o666);
    t.ok(acquire_lease("/f", "m", false));
    t.refused(set("/f", size(9)), ErrorKind::LeaseHeldByOther);
    let by = |holder: &str, bytes| set("/f", SetAttributesOp { holder: holder.to_owned(), ..size(bytes) });
    t.refused(by("other", 9), ErrorKind::LeaseHeldByOther);
    t.ok(by("m", 230));
    // What is being written cannot be cut; what is being written behind the end goes.
    let inode = t.stat("/f").inode;
    t.ok(write_block(inode, "m", 2));
    t.ok(write_block(inode, "m", 9));
    t.refused(by("m", 210), ErrorKind::InvalidArgument);
    t.ok(by("m", 230));
    assert_eq!(t.blocks_of(inode).len(), 3, "the one behind the end went");
    t.ok(by("m", 150));
    assert_eq!(t.blocks_of(inode).len(), 2);
    t.assert_sound();
    t.ok(commit_blocks(inode, "m", &[], None, true));
    assert_eq!((t.stat("/f").size, t.stat("/f").allocated), (150, 150));
    t.assert_sound();
}

#[test]
fn a_write_by_an_ordinary_user_kills_privileges() {
    let mut t = of_ann(0o6755);
    let kill = SetAttributesOp { kill_privileges: true, ..Default::default() };
    t.become_user("eve", &["eve"]);
    t.ok(set("/f", kill.clone()));
    assert_eq!(t.stat("/f").mode, 0o755);
    t.become_user("root", &[]);
    t.ok(set("/f", mode(0o6745)));
    t.ok(set("/f", kill.clone()));
    assert_eq!(t.stat("/f").mode, 0o2745, "it does not run as its group");
    t.ok(set("/d", mode(0o6755)));
    t.ok(set("/d", kill));
    assert_eq!(t.stat("/d").mode, 0o6755);
}

#[test]
fn opening_to_cut_kills_privileges_too() {
    let mut t = of_ann(0o6777);
    t.become_user("eve", &["eve"]);
    t.ok(acquire_lease("/f", "m", true));
    assert_eq!((t.stat("/f").mode, t.stat("/f").mtime_ns), (0o777, t.now_ns));
    t.become_user("root", &[]);
    t.ok(chmod("/f", 0o600));
    t.become_user("eve", &["eve"]);
    t.refused(acquire_lease("/f", "m", false), ErrorKind::AccessDenied);
    let reopen =
        log::AcquireLeaseOp { node: Some(node("/f")), holder: "m".to_owned(), truncate: false, reopen: true };
    t.ok(Op::AcquireLease(reopen));
}

#[test]
fn mounts_may_open_what_they_may_run() {
    let mut t = of_ann(0o711);
    let inode = t.stat("/f").inode;
    t.become_user("eve", &["eve"]);
    let open = |t: &Fixture, node| t.snapshot().open_file(&t.caller, &node).map_err(|e| e.kind());
    assert_eq!(open(&t, node("/f")).expect_err("not readable"), ErrorKind::AccessDenied);
    assert!(open(&t, below(inode, "")).is_ok());
}

#[test]
fn an_access_that_the_namenode_notes_changes_the_access_time_only() {
    let mut t = of_ann(0o644);
    let before = t.stat("/f");
    let times =
        |atime_ns, mtime_ns| Op::SetTimes(log::SetTimesOp { node: Some(node("/f")), atime_ns, mtime_ns });
    let mut noted = t.command(times(Some(77), None));
    noted.caller = None;
    t.apply(&noted).outcome.expect("carried out");
    let after = t.stat("/f");
    assert_eq!(after, dfs_proto::v1::FileStatus { atime_ns: 77, ..before });
    t.ok(times(Some(78), None));
    assert_eq!(t.stat("/f").ctime_ns, t.now_ns);
}
