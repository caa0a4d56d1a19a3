//! POSIX's rules for making, linking, unlinking and moving nodes.

use dfs_proto::v1::{FileType, MoveMode};
use dfs_proto::{ErrorKind, v1};
use log::command::Op;
use log::reply::Reply;

use super::fixture::*;
use crate::log;
use crate::namesystem::ops::names::LINKS_MAX;

const TYPES: [FileType; 7] = [
    FileType::File,
    FileType::Directory,
    FileType::Symlink,
    FileType::Fifo,
    FileType::Socket,
    FileType::CharDevice,
    FileType::BlockDevice,
];

fn node_op(path: &str, kind: FileType) -> log::MakeNodeOp {
    let symlink = if kind == FileType::Symlink { b"a/target".to_vec() } else { vec![] };
    log::MakeNodeOp { r#type: kind.into(), symlink, rdev: 0x0107, ..file_op(path) }
}

fn link(inode: u64, path: &str) -> Op {
    Op::Link(log::LinkOp { inode, node: Some(node(path)) })
}

fn rmdir(path: &str) -> Op {
    Op::Unlink(log::UnlinkOp { node: Some(node(path)), directory: true, opened: 0, inode: 0 })
}

fn move_op(src: &str, dst: &str, mode: MoveMode, opened: u64) -> Op {
    Op::Move(log::MoveOp {
        src: Some(node(src)),
        dst: Some(node(dst)),
        mode: mode.into(),
        opened,
        inode: 0,
        other: 0,
    })
}

fn replace(src: &str, dst: &str) -> Op {
    move_op(src, dst, MoveMode::Replace, 0)
}

/// Times that a change of entries sets, and the link count.
fn times(status: &v1::FileStatus) -> (i64, i64) {
    (status.mtime_ns, status.ctime_ns)
}

#[test]
fn nodes_of_every_type() {
    let mut t = Fixture::new();
    t.mkdir("/d");
    t.ok(chown("/d", "root", "team"));
    for kind in TYPES {
        let path = format!("/d/{kind:?}");
        let opened = t.ok_opened(make_node(log::MakeNodeOp { mode: 0o750, ..node_op(&path, kind) }));
        let status = t.stat(&path);
        assert_eq!(status.inode, opened.inode);
        assert_eq!((status.r#type(), status.owner.as_str(), status.group.as_str()), (kind, "root", "team"));
        let nlink = if kind == FileType::Directory { 2 } else { 1 };
        let mode = if kind == FileType::Symlink { 0o777 } else { 0o750 };
        assert_eq!((status.nlink, status.mode), (nlink, mode));
        let device = matches!(kind, FileType::CharDevice | FileType::BlockDevice);
        assert_eq!(status.rdev, if device { 0x0107 } else { 0 });
        assert_eq!(status.symlink.is_empty(), kind != FileType::Symlink);
        assert_eq!(status.size, status.symlink.len() as u64);
        assert_eq!(status.block_size != 0, kind == FileType::File);
        assert_eq!(times(&t.stat("/d")), times(&status));
        t.refused(make_node(node_op(&path, FileType::File)), ErrorKind::AlreadyExists);
        t.assert_sound();
    }
    assert_eq!(t.stat("/d").nlink, 3);
}

#[test]
fn make_node_table() {
    let mut t = Fixture::new();
    t.write_file("/f", 1);
    let file = |path: &str| file_op(path);
    let cases = [
        (log::MakeNodeOp { r#type: 0, ..file("/n") }, ErrorKind::InvalidArgument),
        (log::MakeNodeOp { mode: 0o10000, ..file("/n") }, ErrorKind::InvalidArgument),
        (log::MakeNodeOp { replication: 0, ..file("/n") }, ErrorKind::InvalidArgument),
        (log::MakeNodeOp { block_size: 0, ..file("/n") }, ErrorKind::InvalidArgument),
        (log::MakeNodeOp { holder: "dfs_namenode".to_owned(), ..file("/n") }, ErrorKind::InvalidArgument),
        (
            log::MakeNodeOp { holder: "m".to_owned(), ..node_op("/n", FileType::Fifo) },
            ErrorKind::InvalidArgument,
        ),
        (log::MakeNodeOp { symlink: vec![], ..node_op("/n", FileType::Symlink) }, ErrorKind::InvalidArgument),
        (
            log::MakeNodeOp { symlink: vec![b'x', 0], ..node_op("/n", FileType::Symlink) },
            ErrorKind::InvalidArgument,
        ),
        (
            log::MakeNodeOp { symlink: vec![b'x'; 4_096], ..node_op("/n", FileType::Symlink) },
            ErrorKind::NameTooLong,
        ),
        (file("/"), ErrorKind::AlreadyExists),
        (file("/f"), ErrorKind::AlreadyExists),
        (file("/f/n"), ErrorKind::NotADirectory),
        (file("/no/n"), ErrorKind::NotFound),
        (file("/."), ErrorKind::InvalidPath),
        (file("/.."), ErrorKind::InvalidPath),
        (file(&format!("/{}", "n".repeat(256))), ErrorKind::NameTooLong),
    ];
    for (op, kind) in cases {
        t.refused(make_node(op), kind);
    }
    t.ok(make_node(file(&format!("/{}", "n".repeat(255)))));
    let target = vec![b'x'; 4_095];
    t.ok(make_node(log::MakeNodeOp { symlink: target.clone(), ..node_op("/l", FileType::Symlink) }));
    assert_eq!(t.stat("/l").symlink, target);
    // Any bytes but '/' and NUL.
    let name = v1::NodeRef { base: 0, path: bytes::Bytes::from_static(b"\xff\xfe \n\x01") };
    t.ok(make_node(log::MakeNodeOp { node: Some(name.clone()), ..file("/") }));
    assert!(t.snapshot().stat(&t.caller, &name).is_ok());

    t.become_user("ann", &["staff", "dev"]);
    t.refused(make_node(file("/n")), ErrorKind::AccessDenied);
    t.become_user("root", &[]);
    t.ok(chmod("/", 0o777));
    t.become_user("ann", &["staff", "dev"]);
    t.refused(make_node(node_op("/n", FileType::CharDevice)), ErrorKind::NotPermitted);
    t.refused(make_node(node_op("/n", FileType::BlockDevice)), ErrorKind::NotPermitted);
    t.refused(
        make_node(log::MakeNodeOp { group: "wheel".to_owned(), ..file("/n") }),
        ErrorKind::NotPermitted,
    );
    t.ok(make_node(log::MakeNodeOp { group: "dev".to_owned(), ..file("/n") }));
    assert_eq!((t.stat("/n").owner.as_str(), t.stat("/n").group.as_str()), ("ann", "dev"));
    t.assert_sound();
}

#[test]
fn set_group_id_directories_hand_down_their_group() {
    let mut t = Fixture::new();
    t.mkdir("/d");
    t.ok(chown("/d", "ann", "team"));
    t.ok(chmod("/d", 0o2777));
    t.become_user("ann", &["staff"]);
    let with = |path: &str, kind, mode, umask| {
        make_node(log::MakeNodeOp { mode, umask, group: "staff".to_owned(), ..node_op(path, kind) })
    };
    t.ok(with("/d/sub", FileType::Directory, 0o755, 0));
    t.ok(with("/d/f", FileType::File, 0o666, 0o027));
    t.ok(with("/d/x", FileType::File, 0o2775, 0));
    t.ok(with("/d/s", FileType::File, 0o2765, 0));
    for (path, mode) in [("/d/sub", 0o2755), ("/d/f", 0o640), ("/d/x", 0o775), ("/d/s", 0o2765)] {
        let status = t.stat(path);
        assert_eq!((status.group.as_str(), status.mode), ("team", mode), "{path}");
    }
    t.become_user("ann", &["staff", "team"]);
    t.ok(with("/d/y", FileType::File, 0o2775, 0));
    assert_eq!(t.stat("/d/y").mode, 0o2775, "a member lends the group's rights");
}

#[test]
fn hard_links_share_one_node_until_the_last_goes() {
    let mut t = Fixture::new();
    t.mkdir("/d");
    let inode = t.write_file("/f", 250);
    let before = t.stat("/f");
    t.ok(link(inode, "/d/g"));
    let after = t.stat("/f");
    assert_eq!(after, t.stat("/d/g"));
    assert_eq!((after.nlink, after.mtime_ns), (2, before.mtime_ns));
    assert_eq!(after.ctime_ns, t.stat("/d").mtime_ns);
    t.assert_sound();
    let summary = t.snapshot().content_summary(&t.caller, &node("/")).expect("a directory");
    assert_eq!((summary.file_count, summary.length), (1, 250));

    t.refused(link(inode, "/d/g"), ErrorKind::AlreadyExists);
    t.refused(link(inode, "/no/g"), ErrorKind::NotFound);
    t.refused(link(t.stat("/d").inode, "/e"), ErrorKind::NotPermitted);
    t.refused(link(999, "/e"), ErrorKind::NotFound);
    // Deleting the directory that the node was made in leaves the other name.
    t.ok(unlink("/f", 0));
    assert_eq!((t.stat("/d/g").nlink, t.blocks_of(inode).len()), (1, 3));
    assert!(t.effects.is_empty());
    t.ok(link(inode, "/h"));
    t.ok(delete("/d", true));
    t.reclaim_all(100);
    assert_eq!((t.stat("/h").nlink, t.blocks_of(inode).len()), (1, 3));
    t.assert_sound();
    t.ok(unlink("/h", 0));
    assert_eq!(t.effects.len(), 3);
    t.refused(link(inode, "/again"), ErrorKind::NotFound);
    t.assert_sound();
}

#[test]
fn links_have_a_limit() {
    let mut t = Fixture::new();
    let inode = t.ok_opened(make_node(file_op("/f"))).inode;
    // As if it had as many names: making them takes a while.
    let mut tables = crate::namesystem::Tables::open(&t.store).expect("opens");
    let mut file =
        crate::namesystem::rows::Rows::existing_inode(&tables, dfs_proto::InodeId(inode)).expect("exists");
    file.nlink = LINKS_MAX - 1;
    tables.put_inode(&file);
    tables.commit();
    t.ok(link(inode, "/g"));
    t.refused(link(inode, "/h"), ErrorKind::TooManyLinks);
}

#[test]
fn unlink_and_rmdir_table() {
    let mut t = Fixture::new();
    t.mkdir("/d/sub");
    t.write_file("/f", 1);
    t.refused(unlink("/d", 0), ErrorKind::IsADirectory);
    t.refused(rmdir("/f"), ErrorKind::NotADirectory);
    t.refused(rmdir("/d"), ErrorKind::DirectoryNotEmpty);
    t.refused(rmdir("/"), ErrorKind::InvalidArgument);
    t.refused(unlink("/none", 0), ErrorKind::NotFound);
    t.refused(unlink("/f/x", 0), ErrorKind::NotADirectory);
    let Reply::Status(gone) = t.ok(rmdir("/d/sub")) else { panic!("no status") };
    assert_eq!(gone.nlink, 0);
    assert_eq!((t.stat("/d").nlink, t.stat("/d").mtime_ns), (2, t.now_ns));
    t.ok(rmdir("/d"));
    t.assert_missing("/d");
    t.assert_sound();
}

#[test]
fn sticky_directories_guard_names_against_others() {
    let mut t = Fixture::new();
    t.mkdir("/tmp");
    t.ok(chmod("/tmp", 0o1777));
    t.mkdir("/free");
    t.ok(chmod("/free", 0o777));
    t.become_user("ann", &["ann"]);
    t.ok(make_node(file_op("/tmp/a")));
    t.ok(make_node(file_op("/free/a")));
    t.become_user("bob", &["bob"]);
    t.ok(make_node(file_op("/tmp/b")));
    t.ok(make_node(file_op("/free/b")));
    for op in [
        unlink("/tmp/a", 0),
        replace("/tmp/a", "/tmp/c"),
        replace("/tmp/b", "/tmp/a"),
        replace("/free/b", "/tmp/a"),
        move_op("/tmp/b", "/tmp/a", MoveMode::Exchange, 0),
        move_op("/tmp/a", "/tmp/b", MoveMode::Exchange, 0),
    ] {
        t.refused(op, ErrorKind::NotPermitted);
    }
    t.ok(replace("/free/b", "/free/a"));
    t.ok(replace("/tmp/b", "/tmp/c"));
    t.ok(unlink("/tmp/c", 0));
    t.become_user("ann", &["ann"]);
    t.ok(unlink("/tmp/a", 0));
    t.become_user("root", &[]);
    t.ok(chown("/tmp", "bob", "bob"));
    t.ok(make_node(file_op("/tmp/r")));
    t.become_user("bob", &["bob"]);
    t.ok(unlink("/tmp/r", 0));
    t.assert_sound();
}

#[test]
fn move_table() {
    let mut t = Fixture::new();
    t.mkdir("/d/sub/deep");
    t.mkdir("/empty");
    t.write_file("/f", 1);
    t.write_file("/g", 1);
    t.ok(make_node(node_op("/l", FileType::Symlink)));
    for (src, dst, mode, kind) in [
        ("/none", "/x", MoveMode::Replace, ErrorKind::NotFound),
        ("/f", "/no/x", MoveMode::Replace, ErrorKind::NotFound),
        ("/f", "/g/x", MoveMode::Replace, ErrorKind::NotADirectory),
        ("/f", "/empty", MoveMode::Replace, ErrorKind::IsADirectory),
        ("/l", "/empty", MoveMode::Replace, ErrorKind::IsADirectory),
        ("/empty", "/f", MoveMode::Replace, ErrorKind::NotADirectory),
        ("/empty", "/l", MoveMode::Replace, ErrorKind::NotADirectory),
        ("/empty", "/d", MoveMode::Replace, ErrorKind::DirectoryNotEmpty),
        ("/d/sub/deep", "/d", MoveMode::Replace, ErrorKind::DirectoryNotEmpty),
        ("/d", "/d/sub/x", MoveMode::Replace, ErrorKind::InvalidArgument),
        ("/d", "/d/sub", MoveMode::Replace, ErrorKind::InvalidArgument),
        ("/f", "/g", MoveMode::NoReplace, ErrorKind::AlreadyExists),
        ("/f", "/f", MoveMode::NoReplace, ErrorKind::AlreadyExists),
        ("/f", "/none", MoveMode::Exchange, ErrorKind::NotFound),
        ("/d", "/d/sub/deep", MoveMode::Exchange, ErrorKind::InvalidArgument),
        ("/d/sub/deep", "/d", MoveMode::Exchange, ErrorKind::InvalidArgument),
        ("/", "/x", MoveMode::Replace, ErrorKind::InvalidArgument),
        ("/f", "/", MoveMode::Replace, ErrorKind::InvalidArgument),
    ] {
        let error = t.refused(move_op(src, dst, mode, 0), kind);
        assert!(!error.to_string().is_empty());
    }
    t.ok(move_op("/f", "/x", MoveMode::NoReplace, 0));
    t.ok(replace("/d/sub", "/empty"));
    assert_eq!((t.stat("/d").nlink, t.stat("/empty").nlink, t.stat("/").nlink), (2, 3, 4));
    t.assert_sound();
}

#[test]
fn a_move_tells_and_stamps_everybody_concerned() {
    let mut t = Fixture::new();
    t.mkdir("/d");
    let (f, g) = (t.write_file("/f", 1), t.write_file("/d/g", 150));
    t.ok(link(g, "/h"));
    let Reply::Moved(log::Moved { moved, other }) = t.ok(replace("/f", "/d/g")) else { panic!("no move") };
    let (moved, other) = (moved.expect("a node"), other.expect("a node"));
    assert_eq!((moved.inode, moved.nlink, moved.ctime_ns), (f, 1, t.now_ns));
    assert_eq!((other.inode, other.nlink, other.ctime_ns), (g, 1, t.now_ns));
    assert_eq!((times(&t.stat("/")), times(&t.stat("/d"))), ((t.now_ns, t.now_ns), (t.now_ns, t.now_ns)));
    t.assert_sound();
    // Two names of one node stay.
    t.ok(link(f, "/k"));
    let before = t.stat("/k");
    let Reply::Moved(same) = t.ok(replace("/k", "/d/g")) else { panic!("no move") };
    assert_eq!((same.moved.expect("a node").inode, same.other), (f, None));
    assert_eq!(t.stat("/k"), before);
    // A replaced node that is open stays as an orphan.
    t.ok(move_op("/k", "/h", MoveMode::Replace, g));
    assert_eq!(t.stat("/h").inode, f);
    assert_eq!(t.blocks_of(g).len(), 2);
    assert_eq!(t.snapshot().orphans(dfs_proto::InodeId(0), 10).expect("reads"), [dfs_proto::InodeId(g)]);
    t.assert_sound();
    t.ok(Op::ReleaseOrphans(log::ReleaseOrphansOp { inodes: vec![g] }));
    assert_eq!(t.effects.len(), 2);
    t.assert_sound();
}

#[test]
fn exchanged_nodes_take_each_others_place() {
    let mut t = Fixture::new();
    t.mkdir("/a/sub");
    t.mkdir("/b");
    let f = t.write_file("/b/f", 1);
    let sub = t.stat("/a/sub").inode;
    let Reply::Moved(moved) = t.ok(move_op("/a/sub", "/b/f", MoveMode::Exchange, 0)) else {
        panic!("no move")
    };
    assert_eq!((moved.moved.expect("one").inode, moved.other.expect("two").inode), (sub, f));
    assert_eq!((t.stat("/a/sub").inode, t.stat("/b/f").inode), (f, sub));
    assert_eq!((t.stat("/a").nlink, t.stat("/b").nlink), (2, 3));
    t.assert_sound();
    t.ok(move_op("/a/sub", "/b", MoveMode::Exchange, 0));
    assert_eq!(t.stat("/b").inode, f);
    assert_eq!(t.stat("/a/sub/f").inode, sub);
    t.assert_sound();
    t.ok(move_op("/a", "/b", MoveMode::Exchange, 0));
    assert_eq!(t.stat("/a").inode, f);
    t.assert_sound();
}

#[test]
fn a_directory_that_changes_its_parent_must_be_writable() {
    let mut t = Fixture::new();
    for path in ["/a/theirs", "/b"] {
        t.mkdir(path);
    }
    t.ok(chmod("/a", 0o777));
    t.ok(chmod("/b", 0o777));
    t.write_file("/a/f", 1);
    t.become_user("ann", &["ann"]);
    t.ok(replace("/a/theirs", "/a/renamed"));
    t.refused(replace("/a/renamed", "/b/x"), ErrorKind::AccessDenied);
    t.refused(move_op("/a/f", "/b/none", MoveMode::Exchange, 0), ErrorKind::NotFound);
    t.ok(replace("/a/f", "/b/f"));
    t.refused(move_op("/b/f", "/a/renamed", MoveMode::Exchange, 0), ErrorKind::AccessDenied);
    t.assert_sound();
}

#[test]
fn symbolic_links_are_for_mounts() {
    let mut t = Fixture::new();
    t.mkdir("/d");
    t.write_file("/d/f", 1);
    t.ok(make_node(log::MakeNodeOp { symlink: b"d".to_vec(), ..node_op("/l", FileType::Symlink) }));
    let error = t.snapshot().stat(&t.caller, &node("/l/f")).expect_err("leads through a link");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.to_string(), "/l: is a symbolic link, which only mounts follow");
    assert_eq!(t.stat("/l").r#type(), FileType::Symlink);
    for op in [append("/l", "w"), truncate("/l", 0), acquire_lease("/l", "m", false), set_size("/l", 0)] {
        t.refused(op, ErrorKind::Unsupported);
    }
    let error = t.snapshot().open_file(&t.caller, &node("/l")).expect_err("a link");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    t.refused(delete("/l/f", false), ErrorKind::Unsupported);
    t.ok(rename("/l", "/k", false));
    t.ok(delete("/k", false));
    t.assert_sound();
}
