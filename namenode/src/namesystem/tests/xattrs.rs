//! Extended attributes.

use dfs_proto::{ErrorKind, InodeId, v1::FileType, v1::XattrMode};
use log::command::Op;

use super::fixture::*;
use crate::log;
use crate::namesystem::xattrs::XATTRS_BYTES_MAX;

fn set(inode: u64, name: &str, value: &[u8], mode: XattrMode) -> Op {
    let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
    Op::SetXattr(log::SetXattrOp { inode, name, value, mode: mode.into() })
}

fn remove(inode: u64, name: &str) -> Op {
    Op::RemoveXattr(log::RemoveXattrOp { inode, name: name.as_bytes().to_vec() })
}

fn get(t: &Fixture, inode: u64, name: &str) -> Result<Vec<u8>, ErrorKind> {
    t.snapshot().get_xattr(&t.caller, InodeId(inode), name.as_bytes()).map_err(|e| e.kind())
}

fn names(t: &Fixture, inode: u64) -> Vec<String> {
    let names = t.snapshot().list_xattrs(&t.caller, InodeId(inode)).expect("a node");
    names.into_iter().map(|n| String::from_utf8(n).expect("text")).collect()
}

#[test]
fn values_are_set_replaced_and_removed() {
    let mut t = Fixture::new();
    let inode = t.write_file("/f", 10);
    let before = t.stat("/f");
    assert!(!before.has_xattrs);
    t.refused(set(inode, "user.a", b"1", XattrMode::Replace), ErrorKind::NoAttribute);
    t.ok(set(inode, "user.a", b"1", XattrMode::Create));
    t.refused(set(inode, "user.a", b"2", XattrMode::Create), ErrorKind::AlreadyExists);
    t.ok(set(inode, "user.a", b"2", XattrMode::Replace));
    t.ok(set(inode, "security.b", b"", XattrMode::Any));
    t.ok(set(inode, "trusted.c", b"\0\xff", XattrMode::Any));
    assert_eq!(names(&t, inode), ["security.b", "trusted.c", "user.a"]);
    assert_eq!(get(&t, inode, "user.a"), Ok(b"2".to_vec()));
    assert_eq!(get(&t, inode, "security.b"), Ok(vec![]));
    assert_eq!(get(&t, inode, "user.b"), Err(ErrorKind::NoAttribute));
    let after = t.stat("/f");
    assert!(after.has_xattrs && after.ctime_ns > before.ctime_ns && after.change > before.change);
    assert_eq!(after.mtime_ns, before.mtime_ns);
    for name in ["user.a", "security.b", "trusted.c"] {
        t.ok(remove(inode, name));
        t.refused(remove(inode, name), ErrorKind::NoAttribute);
    }
    assert!(!t.stat("/f").has_xattrs);
    t.assert_sound();
}

#[test]
fn names_and_sizes_have_limits() {
    let mut t = Fixture::new();
    let inode = t.write_file("/f", 10);
    let long = format!("user.{}", "n".repeat(250));
    t.ok(set(inode, &long, b"", XattrMode::Any));
    let longer = format!("{long}n");
    for (name, kind) in [
        (longer.as_str(), ErrorKind::NameTooLong),
        ("user.", ErrorKind::InvalidArgument),
        ("user.a\0b", ErrorKind::InvalidArgument),
        ("system.posix_acl", ErrorKind::Unsupported),
        ("a", ErrorKind::Unsupported),
        ("", ErrorKind::Unsupported),
    ] {
        t.refused(set(inode, name, b"", XattrMode::Any), kind);
        t.refused(remove(inode, name), kind);
        assert_eq!(get(&t, inode, name), Err(kind));
    }
    t.ok(remove(inode, &long));
    let most = XATTRS_BYTES_MAX - (1 + 5 + "user.a".len());
    t.refused(set(inode, "user.a", &vec![1; most + 1], XattrMode::Any), ErrorKind::NoSpace);
    t.ok(set(inode, "user.a", &vec![1; most], XattrMode::Any));
    t.refused(set(inode, "user.b", b"", XattrMode::Any), ErrorKind::NoSpace);
    t.refused(set(inode, "user.b", &[0; 65_537], XattrMode::Any), ErrorKind::TooLarge);
    t.ok(set(inode, "user.a", b"small", XattrMode::Any));
    t.ok(set(inode, "user.b", b"", XattrMode::Any));
    t.refused(set(99, "user.a", b"", XattrMode::Any), ErrorKind::NotFound);
}

#[test]
fn who_may_read_and_write_is_decided_by_namespace_and_type() {
    let mut t = Fixture::new();
    let file = t.write_file("/f", 10);
    let link = t.ok_opened(make_node(log::MakeNodeOp {
        r#type: FileType::Symlink.into(),
        symlink: b"t".to_vec(),
        ..file_op("/l")
    }));
    let fifo = t.ok_opened(make_node(log::MakeNodeOp { r#type: FileType::Fifo.into(), ..file_op("/p") }));
    t.mkdir("/d");
    let sticky = t.stat("/d").inode;
    t.ok(chmod("/d", 0o1777));
    for name in ["user.a", "trusted.a", "security.a"] {
        t.ok(set(file, name, b"v", XattrMode::Any));
    }
    for inode in [link.inode, fifo.inode] {
        t.refused(set(inode, "user.a", b"", XattrMode::Any), ErrorKind::NotPermitted);
        assert_eq!(get(&t, inode, "user.a"), Err(ErrorKind::NoAttribute));
        t.ok(set(inode, "trusted.a", b"", XattrMode::Any));
    }
    t.ok(chmod("/f", 0o644));
    t.become_user("ann", &["staff"]);
    assert_eq!(names(&t, file), ["security.a", "user.a"], "trusted ones are hidden");
    assert_eq!(get(&t, file, "user.a"), Ok(b"v".to_vec()));
    assert_eq!(get(&t, file, "security.a"), Ok(b"v".to_vec()));
    assert_eq!(get(&t, file, "trusted.a"), Err(ErrorKind::NoAttribute));
    t.refused(set(file, "user.a", b"w", XattrMode::Any), ErrorKind::AccessDenied);
    t.refused(set(file, "trusted.a", b"w", XattrMode::Any), ErrorKind::NotPermitted);
    t.refused(set(file, "security.a", b"w", XattrMode::Any), ErrorKind::NotPermitted);
    t.refused(remove(file, "user.a"), ErrorKind::AccessDenied);
    t.refused(set(sticky, "user.a", b"w", XattrMode::Any), ErrorKind::NotPermitted);
    t.become_user("root", &[]);
    t.ok(chmod("/f", 0o602));
    t.become_user("ann", &["staff"]);
    assert_eq!(get(&t, file, "user.a"), Err(ErrorKind::AccessDenied));
    t.ok(set(file, "user.a", b"w", XattrMode::Any));
}
