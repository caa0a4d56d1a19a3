//! Names: mkdir, create, rename, delete.

use dfs_proto::{ErrorKind, v1::FileType};
use log::command::Op;
use log::reply::Reply;

use super::fixture::*;
use crate::log;
use crate::namesystem::Effect;

#[test]
fn mkdir_follows_hdfs() {
    let mut t = Fixture::new();
    t.refused(mkdir("/a/b", false), ErrorKind::NotFound);
    t.ok(mkdir("/a/b", true));
    t.ok(mkdir("/a/b", true));
    t.ok(mkdir("/", true));
    t.refused(mkdir("/a/b", false), ErrorKind::AlreadyExists);
    t.refused(mkdir("/", false), ErrorKind::AlreadyExists);
    t.write_file("/f", 0);
    t.refused(mkdir("/f", true), ErrorKind::AlreadyExists);
    t.refused(mkdir("/f/d", true), ErrorKind::NotADirectory);
    t.refused(mkdir("/a/../b", true), ErrorKind::InvalidPath);
    let mode = |mode| Op::Mkdir(log::MkdirOp { node: Some(node("/p/q/r")), mode, create_parents: true });
    t.refused(mode(0o10000), ErrorKind::InvalidArgument);
    t.ok(mode(0o1055));
    assert_eq!(t.stat("/p/q/r").mode, 0o1055);
    assert_eq!(t.stat("/p/q").mode, 0o355, "parents are usable by their owner");
    assert_eq!((t.stat("/").nlink, t.stat("/a").nlink, t.stat("/p/q/r").nlink), (4, 3, 2));
    t.assert_sound();
}

#[test]
fn nodes_are_named_from_a_base_too() {
    let mut t = Fixture::new();
    t.mkdir("/a/b");
    let base = t.stat("/a").inode;
    let op = |node| Op::Mkdir(log::MkdirOp { node: Some(node), mode: 0o755, create_parents: false });
    t.ok(op(below(base, "c")));
    assert_eq!(t.stat("/a/c").r#type(), FileType::Directory);
    let error = t.refused(op(below(base, "b")), ErrorKind::AlreadyExists);
    assert_eq!(error.subject(), format!("inode {base}/b"));
    let file = t.write_file("/f", 1);
    t.refused(op(below(file, "x")), ErrorKind::NotADirectory);
    t.refused(op(below(777, "x")), ErrorKind::NotFound);
    assert_eq!(t.snapshot().stat(&t.caller, &below(file, "")).expect("exists").size, 1);
}

#[test]
fn a_directory_that_is_being_freed_takes_no_entries() {
    let mut t = Fixture::new();
    t.mkdir("/a/b/c");
    let base = t.stat("/a").inode;
    t.ok(delete("/a", true));
    let op = Op::Mkdir(log::MkdirOp { node: Some(below(base, "x")), mode: 0o755, create_parents: true });
    t.refused(op, ErrorKind::NotFound);
    t.assert_sound();
    t.reclaim_all(1);
    assert_eq!(t.snapshot().counts().expect("reads"), (1, 0));
    t.assert_sound();
}

#[test]
fn create_table() {
    let mut t = Fixture::new();
    t.mkdir("/d");
    t.write_file("/f", 5);
    let with = |change: &dyn Fn(&mut log::CreateOp)| {
        let mut op = create_op("/new", "w");
        change(&mut op);
        Op::Create(op)
    };
    type Change<'a> = &'a dyn Fn(&mut log::CreateOp);
    let cases: [(Change<'_>, ErrorKind); 12] = [
        (&|op| op.node = Some(node("/d")), ErrorKind::IsADirectory),
        (&|op| op.node = Some(node("/")), ErrorKind::IsADirectory),
        (&|op| op.node = Some(node("/f")), ErrorKind::AlreadyExists),
        (&|op| op.node = Some(node("/no/f")), ErrorKind::NotFound),
        (&|op| op.node = Some(node("/f/x")), ErrorKind::NotADirectory),
        (&|op| op.node = None, ErrorKind::InvalidArgument),
        (&|op| op.replication = 0, ErrorKind::InvalidArgument),
        (&|op| op.replication = 513, ErrorKind::InvalidArgument),
        (&|op| op.block_size = 0, ErrorKind::InvalidArgument),
        (&|op| op.holder = String::new(), ErrorKind::InvalidArgument),
        (&|op| op.holder = "dfs_namenode".to_owned(), ErrorKind::InvalidArgument),
        (&|op| op.mode = 0o200_000, ErrorKind::InvalidArgument),
    ];
    for (change, kind) in cases {
        t.refused(with(change), kind);
    }
    let opened = t.create("/new", "w");
    assert!(
        matches!(&t.effects[..], [Effect::LeaseTaken { holder }, Effect::BlockAllocated { targets, .. }]
            if holder == "w" && targets[..] == ["s1", "s2", "s3"]),
        "{:?}",
        t.effects
    );
    let status = t.stat("/new");
    assert!(status.under_construction);
    assert_eq!((status.size, status.replication, status.block_size), (0, 3, BLOCK));
    assert_eq!((status.owner.as_str(), status.group.as_str()), ("root", "supergroup"));
    assert_eq!(opened.block.expect("a block").length, 0);

    let mut op = create_op("/x/y/z", "w");
    op.create_parents = true;
    op.targets.clear();
    assert!(matches!(t.ok(Op::Create(op)), Reply::Opened(o) if o.block.is_none()));
    assert_eq!(t.stat("/x/y").mode, 0o755, "parents take the mode above");
    t.assert_sound();
}

#[test]
fn overwrite_replaces_inode_and_blocks() {
    let mut t = Fixture::new();
    let old = t.write_file("/f", 150);
    let blocks = t.blocks_of(old);
    let mut op = create_op("/f", "w");
    op.overwrite = true;
    t.ok(Op::Create(op.clone()));
    for block in &blocks {
        assert!(t.effects.contains(&Effect::BlockRemoved { id: block.id, stamp: block.stamp }));
    }
    let new = t.stat("/f");
    assert_ne!(new.inode, old);
    t.assert_sound();

    // Another writer is refused, the same one may start over.
    let mut other = op.clone();
    other.holder = "other".to_owned();
    t.refused(Op::Create(other.clone()), ErrorKind::LeaseHeldByOther);
    other.overwrite = false;
    t.refused(Op::Create(other), ErrorKind::LeaseHeldByOther);
    t.ok(Op::Create(op));
    assert_ne!(t.stat("/f").inode, new.inode);
    t.assert_sound();
}

#[test]
fn rename_table() {
    let mut t = Fixture::new();
    t.mkdir("/d/sub");
    t.mkdir("/empty");
    t.write_file("/f", 1);
    t.write_file("/g", 2);
    let cases = [
        ("/none", "/x", false, ErrorKind::NotFound),
        ("/f", "/none/x", false, ErrorKind::NotFound),
        ("/f", "/g", false, ErrorKind::AlreadyExists),
        ("/f", "/d", false, ErrorKind::AlreadyExists),
        ("/f", "/d", true, ErrorKind::IsADirectory),
        ("/d", "/g", true, ErrorKind::NotADirectory),
        ("/empty", "/d", true, ErrorKind::DirectoryNotEmpty),
        ("/d", "/d/sub/x", false, ErrorKind::InvalidArgument),
        ("/d", "/d/x", false, ErrorKind::InvalidArgument),
        ("/d/sub", "/d", true, ErrorKind::DirectoryNotEmpty),
        ("/", "/x", false, ErrorKind::InvalidArgument),
        ("/f", "/", true, ErrorKind::AlreadyExists),
        ("/f", "/g/x", true, ErrorKind::NotADirectory),
    ];
    for (src, dst, overwrite, kind) in cases {
        t.refused(rename(src, dst, overwrite), kind);
    }
    t.ok(rename("/f", "/f", false));
    assert_eq!(t.stat("/f").size, 1);

    let (d, sub) = (t.stat("/d").inode, t.stat("/d/sub").inode);
    t.ok(rename("/d", "/empty", true));
    assert_eq!((t.stat("/empty").inode, t.stat("/empty/sub").inode), (d, sub));
    t.ok(rename("/empty", "/e2", false));
    t.ok(rename("/f", "/e2/sub/f", false));
    t.ok(rename("/g", "/e2/sub/f", true));
    assert_eq!(t.stat("/e2/sub/f").size, 2);
    t.assert_missing("/g");
    t.assert_sound();
    assert_eq!(t.snapshot().counts().expect("reads"), (4, 1));
}

#[test]
fn a_loop_is_refused_from_a_base_inside_the_moved_directory() {
    let mut t = Fixture::new();
    t.mkdir("/a/b/c");
    let dst = below(t.stat("/a/b/c").inode, "x");
    let op = log::RenameOp { src: Some(node("/a")), dst: Some(dst), overwrite: false };
    t.refused(Op::Rename(op), ErrorKind::InvalidArgument);
}

#[test]
fn a_file_that_is_written_can_move() {
    let mut t = Fixture::new();
    let opened = t.create("/f", "w");
    t.ok(rename("/f", "/g", false));
    let mut block = opened.block.expect("a block");
    block.length = 7;
    t.ok(complete(opened.inode, "w", Some(committed(block, &["s1"]))));
    assert_eq!(t.stat("/g").size, 7);
    t.assert_sound();
}

#[test]
fn delete_table() {
    let mut t = Fixture::new();
    t.mkdir("/d/e");
    t.write_file("/d/f", 250);
    t.refused(delete("/d", false), ErrorKind::DirectoryNotEmpty);
    t.refused(delete("/", true), ErrorKind::InvalidArgument);
    t.refused(delete("/d/f/x", false), ErrorKind::NotADirectory);
    assert_eq!(t.ok(delete("/none", true)), Reply::Deleted(false));
    assert_eq!(t.ok(delete("/none/x", true)), Reply::Deleted(false));
    assert_eq!(t.ok(delete("/d/e", false)), Reply::Deleted(true));
    let opened = t.create("/d/open", "w");
    assert_eq!(t.ok(delete("/d", true)), Reply::Deleted(true));
    assert!(t.effects.is_empty(), "nothing is freed yet: {:?}", t.effects);
    t.assert_missing("/d");
    t.assert_sound();
    assert!(t.snapshot().needs_reclaim().expect("reads"));

    let effects = t.reclaim_all(1);
    let removed = effects.iter().filter(|e| matches!(e, Effect::BlockRemoved { .. })).count();
    assert_eq!(removed, 4);
    assert!(effects.contains(&Effect::LeaseReleased { holder: "w".to_owned() }));
    assert_eq!(t.snapshot().counts().expect("reads"), (1, 0));
    assert!(!t.snapshot().needs_reclaim().expect("reads"));
    t.refused(complete(opened.inode, "w", None), ErrorKind::NotFound);
    t.assert_sound();
}

#[test]
fn a_large_tree_is_freed_in_steps() {
    let mut t = Fixture::new();
    for dir in 0..20 {
        t.mkdir(&format!("/big/d{dir}/x/y"));
        for file in 0..5 {
            t.write_file(&format!("/big/d{dir}/x/f{file}"), 10);
        }
    }
    t.write_file("/big/huge", 70 * BLOCK);
    t.write_file("/keep", 10);
    t.ok(delete("/big", true));
    let mut steps = 0;
    loop {
        let reply = t.ok(Op::Reclaim(log::ReclaimOp { budget: 10 }));
        assert!(t.effects.len() <= 80, "one step frees a bounded part: {}", t.effects.len());
        t.assert_sound();
        steps += 1;
        if reply == Reply::More(false) {
            break;
        }
    }
    assert!(steps > 10, "{steps} steps");
    assert_eq!(t.snapshot().counts().expect("reads"), (2, 1));
}
