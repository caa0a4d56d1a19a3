//! Access control lists.

use dfs_proto::{ErrorKind, InodeId, v1::FileType};
use log::command::Op;

use super::fixture::*;
use crate::log;
use crate::namesystem::acl::{ACCESS, Acl, DEFAULT};

/// A list in Linux's order: owner, (user), group, (group), (mask), others.
fn list(text: &str) -> Vec<u8> {
    let mut raw = vec![1];
    for entry in text.split(',') {
        let mut parts = entry.split(':');
        let (tag, name) = (parts.next().expect("a tag"), parts.next().expect("a name"));
        let bits: u8 = parts.next().expect("permissions").parse().expect("a digit");
        let tag = match (tag, name) {
            ("u", "") => 1,
            ("u", _) => 2,
            ("g", "") => 3,
            ("g", _) => 4,
            ("m", _) => 5,
            _ => 6,
        };
        raw.extend_from_slice(&[tag, bits, u8::try_from(name.len()).expect("short")]);
        raw.extend_from_slice(name.as_bytes());
    }
    raw
}

fn set(inode: u64, name: &[u8], text: &str) -> Op {
    Op::SetXattr(log::SetXattrOp { inode, name: name.to_vec(), value: list(text), mode: 0 })
}

fn remove(inode: u64, name: &[u8]) -> Op {
    Op::RemoveXattr(log::RemoveXattrOp { inode, name: name.to_vec() })
}

fn get(t: &Fixture, path: &str, name: &[u8]) -> Result<Vec<u8>, ErrorKind> {
    let inode = InodeId(t.stat(path).inode);
    t.snapshot().get_xattr(&t.caller, inode, name).map_err(|e| e.kind())
}

#[track_caller]
fn assert_list(t: &Fixture, path: &str, name: &[u8], text: &str) {
    assert_eq!(get(t, path, name), Ok(list(text)));
}

const FULL: &str = "u::7,u:ann:6,g::5,g:dev:7,m::6,o::0";

#[test]
fn an_access_list_is_part_of_the_mode() {
    let mut t = Fixture::new();
    let inode = t.write_file("/f", 1);
    let before = t.stat("/f");
    t.ok(set(inode, ACCESS, FULL));
    let after = t.stat("/f");
    assert_eq!((after.mode, after.has_xattrs), (0o760, true));
    assert!(after.ctime_ns > before.ctime_ns && after.change > before.change);
    assert_list(&t, "/f", ACCESS, FULL);
    // chmod sets owner, mask and others, by either call.
    t.ok(chmod("/f", 0o4641));
    assert_list(&t, "/f", ACCESS, "u::6,u:ann:6,g::5,g:dev:7,m::4,o::1");
    let op = log::SetAttributesOp { node: Some(node("/f")), mode: Some(0o711), ..Default::default() };
    t.ok(Op::SetAttributes(op));
    assert_list(&t, "/f", ACCESS, "u::7,u:ann:6,g::5,g:dev:7,m::1,o::1");
    // What a mode can say is not kept.
    t.ok(set(inode, ACCESS, "u::6,g::4,o::4"));
    assert_eq!((t.stat("/f").mode, t.stat("/f").has_xattrs), (0o644, false));
    assert_eq!(get(&t, "/f", ACCESS), Err(ErrorKind::NoAttribute));
    t.ok(set(inode, ACCESS, FULL));
    t.ok(remove(inode, ACCESS));
    assert_eq!((t.stat("/f").mode, t.stat("/f").has_xattrs), (0o760, false));
    t.refused(remove(inode, ACCESS), ErrorKind::NoAttribute);
    t.assert_sound();
}

#[test]
fn lists_are_set_by_owners_where_they_mean_something() {
    let mut t = Fixture::new();
    let file = t.write_file("/f", 1);
    t.mkdir("/d");
    let directory = t.stat("/d").inode;
    let op = log::MakeNodeOp { r#type: FileType::Symlink.into(), symlink: b"t".to_vec(), ..file_op("/l") };
    let link = t.ok_opened(make_node(op)).inode;
    t.refused(set(link, ACCESS, FULL), ErrorKind::Unsupported);
    t.refused(set(file, DEFAULT, FULL), ErrorKind::AccessDenied);
    t.ok(set(directory, DEFAULT, FULL));
    assert_eq!(t.stat("/d").mode, 0o755, "a default list is for new nodes");
    for text in ["u::7", "u::7,u:ann:7,g::0,o::0", "u::8,g::0,o::0", "g::0,u::7,o::0"] {
        t.refused(set(file, ACCESS, text), ErrorKind::InvalidArgument);
    }
    t.ok(chown("/f", "ann", "team"));
    t.ok(chmod("/f", 0o2755));
    t.become_user("bob", &["team"]);
    t.refused(set(file, ACCESS, FULL), ErrorKind::NotPermitted);
    t.refused(remove(file, ACCESS), ErrorKind::NotPermitted);
    assert_eq!(get(&t, "/f", ACCESS), Err(ErrorKind::NoAttribute));
    t.become_user("ann", &["ann"]);
    t.ok(set(file, ACCESS, FULL));
    assert_eq!(t.stat("/f").mode, 0o760, "not of the group: no set-group-id");
    t.become_user("bob", &[]);
    assert_list(&t, "/f", ACCESS, FULL);
}

#[test]
fn lists_decide_about_access() {
    let mut t = Fixture::new();
    t.mkdir("/d");
    let inode = t.write_file("/d/f", 10);
    let directory = t.stat("/d").inode;
    t.ok(set(inode, ACCESS, "u::7,u:ann:6,g::0,g:dev:4,m::6,o::0"));
    let reads =
        |t: &Fixture| t.snapshot().open_file(&t.caller, &node("/d/f")).map(|_| ()).map_err(|e| e.kind());
    // User, groups, may read, may write.
    let denied = Err(ErrorKind::AccessDenied);
    for (user, groups, read, write) in [
        ("ann", &["ann"][..], Ok(()), true),
        ("bob", &["dev"][..], Ok(()), false),
        ("bob", &["bob", "supergroup", "dev"][..], Ok(()), false),
        ("bob", &["supergroup"][..], denied, false),
        ("eve", &["eve"][..], denied, false),
    ] {
        t.become_user(user, groups);
        assert_eq!(reads(&t), read, "{user} {groups:?}");
        match write {
            true => drop(t.ok(set_size("/d/f", 5))),
            false => drop(t.refused(set_size("/d/f", 5), ErrorKind::AccessDenied)),
        }
    }
    // On the way, too.
    t.become_user("root", &[]);
    t.ok(set(directory, ACCESS, "u::7,u:ann:0,g::5,m::5,o::5"));
    t.become_user("ann", &["ann"]);
    assert_eq!(reads(&t), denied);
    t.become_user("root", &[]);
    t.ok(set(directory, ACCESS, "u::7,u:ann:7,g::5,m::7,o::5"));
    t.become_user("ann", &["ann"]);
    assert_eq!(reads(&t), Ok(()));
    t.ok(make_node(file_op("/d/new")));
    t.ok(unlink("/d/new", 0));
}

#[test]
fn default_lists_are_inherited() {
    let mut t = Fixture::new();
    t.mkdir("/d");
    let directory = t.stat("/d").inode;
    t.ok(set(directory, DEFAULT, "u::7,u:ann:7,g::5,m::7,o::4"));
    let with = |path: &str, kind: FileType, mode| {
        let umask = 0o077;
        let symlink = if kind == FileType::Symlink { b"t".to_vec() } else { vec![] };
        make_node(log::MakeNodeOp { r#type: kind.into(), mode, umask, symlink, ..file_op(path) })
    };
    t.ok(with("/d/f", FileType::File, 0o666));
    assert_eq!(t.stat("/d/f").mode, 0o664, "the umask has no say");
    assert_list(&t, "/d/f", ACCESS, "u::6,u:ann:7,g::5,m::6,o::4");
    assert_eq!(get(&t, "/d/f", DEFAULT), Err(ErrorKind::NoAttribute));
    t.ok(with("/d/sub", FileType::Directory, 0o777));
    assert_eq!(t.stat("/d/sub").mode, 0o774);
    for name in [ACCESS, DEFAULT] {
        assert_list(&t, "/d/sub", name, "u::7,u:ann:7,g::5,m::7,o::4");
    }
    t.ok(with("/d/l", FileType::Symlink, 0o777));
    assert!(!t.stat("/d/l").has_xattrs);
    // Path clients make nodes by the same rule.
    t.ok(mkdir("/d/sub/hdfs", false));
    assert_list(&t, "/d/sub/hdfs", DEFAULT, "u::7,u:ann:7,g::5,m::7,o::4");
    t.ok(create("/d/sub/hdfs/f", "w"));
    assert_list(&t, "/d/sub/hdfs/f", ACCESS, "u::6,u:ann:7,g::5,m::4,o::4");
    // A default list that a mode can say.
    t.ok(set(directory, DEFAULT, "u::7,g::5,o::0"));
    t.ok(with("/d/g", FileType::File, 0o666));
    assert_eq!((t.stat("/d/g").mode, t.stat("/d/g").has_xattrs), (0o640, false));
    assert!(Acl::decode(&list(FULL)).is_some());
    t.assert_sound();
}
