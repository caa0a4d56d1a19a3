//! Queries.

use std::ops::Bound;

use dfs_proto::v1::{FileStatus, ListedName};
use dfs_proto::{BlockId, ErrorKind, InodeId};

use super::fixture::*;
use crate::namesystem::{LIST_LIMIT_MAX, LIST_NAMES_MAX, Snapshot};

/// Requests on several threads may share one.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Snapshot>();
};

#[test]
fn an_empty_store_answers() {
    let snapshot = Snapshot::open(&store_in_memory());
    let root = caller("root", &[]);
    assert_eq!(snapshot.identity().expect("reads"), None);
    assert_eq!(snapshot.counts().expect("reads"), (0, 0));
    assert!(snapshot.leases().expect("reads").is_empty());
    assert!(snapshot.datanodes().expect("reads").is_empty());
    assert!(snapshot.blocks_in(.., 10).expect("reads").is_empty());
    for path in ["/", "/a"] {
        assert_eq!(snapshot.stat(&root, &node(path)).expect_err("empty").kind(), ErrorKind::NotFound);
    }
}

#[test]
fn identity_is_what_was_initialised() {
    let t = Fixture::new();
    let identity = t.snapshot().identity().expect("reads");
    assert_eq!(identity, Some(("CID-1".to_owned(), "BP-1".to_owned())));
}

#[test]
fn listings_are_paged_in_bytewise_order() {
    let mut t = Fixture::new();
    t.mkdir("/d");
    t.mkdir("/da");
    for name in ["b", "a", "\u{e9}", "B", "ab", "b\u{1}"] {
        t.write_file(&format!("/d/{name}"), 1);
    }
    let page = |after: &[u8], limit| {
        let (page, more) = t.snapshot().list(&t.caller, &node("/d"), after, limit).expect("a directory");
        let names: Vec<_> = page.iter().map(|s| String::from_utf8_lossy(&s.name).into_owned()).collect();
        (names, more)
    };
    assert_eq!(page(b"", 0), (storages(&["B", "a", "ab", "b", "b\u{1}", "\u{e9}"]), false));
    assert_eq!(page(b"", 2), (storages(&["B", "a"]), true));
    assert_eq!(page(b"a", 2), (storages(&["ab", "b"]), true));
    assert_eq!(page(b"aa", 1), (storages(&["ab"]), true), "the name may be gone by now");
    assert_eq!(page(b"b", 2), (storages(&["b\u{1}", "\u{e9}"]), false));
    assert_eq!(page(b"\xff", 2), (vec![], false));
    let (file, more) = t.snapshot().list(&t.caller, &node("/d/a"), b"", 5).expect("a file");
    assert_eq!((file.len(), file[0].size, more), (1, 1, false));
}

#[test]
fn listed_names_are_those_of_the_full_listing() {
    let mut t = Fixture::new();
    t.mkdir("/d/dir");
    t.write_file("/d/file", 7);
    let snapshot = t.snapshot();
    let full = snapshot.list(&t.caller, &node("/d"), b"", 0).expect("a directory");
    let names = snapshot.list_names(&t.caller, &node("/d"), b"", 0).expect("a directory");
    let bare = |s: &FileStatus| ListedName { name: s.name.clone(), inode: s.inode, r#type: s.r#type };
    assert_eq!(names, (full.0.iter().map(bare).collect(), full.1));
    assert_eq!(names.0.len(), 2);
    let (first, more) = snapshot.list_names(&t.caller, &node("/d"), b"", 1).expect("a directory");
    assert_eq!((first.len(), more), (1, true));
    let (file, more) = snapshot.list_names(&t.caller, &node("/d/file"), b"", 5).expect("a file");
    let itself = snapshot.stat(&t.caller, &node("/d/file")).expect("a file");
    assert_eq!((file, more), (vec![bare(&itself)], false));
}

#[test]
fn a_page_of_names_has_a_limit_of_its_own() {
    let mut t = Fixture::new();
    for at in 0..=LIST_NAMES_MAX {
        t.mkdir(&format!("/{at:05}"));
    }
    for limit in [0, usize::MAX] {
        let (page, more) = t.snapshot().list_names(&t.caller, &node("/"), b"", limit).expect("a directory");
        assert_eq!((page.len(), more), (LIST_NAMES_MAX, true));
    }
}

#[test]
fn a_page_has_a_limit() {
    let mut t = Fixture::new();
    for at in 0..=LIST_LIMIT_MAX {
        t.mkdir(&format!("/{at:05}"));
    }
    for limit in [0, usize::MAX] {
        let (page, more) = t.snapshot().list(&t.caller, &node("/"), b"", limit).expect("a directory");
        assert_eq!((page.len(), more), (LIST_LIMIT_MAX, true));
    }
}

#[test]
fn file_blocks_overlap_the_range() {
    let mut t = Fixture::new();
    let inode = InodeId(t.write_file("/f", 3 * BLOCK + 50));
    let cases: [(u64, u64, &[u64], bool); 9] = [
        (0, u64::MAX, &[0, 100, 200, 300], true),
        (0, 1, &[0], true),
        (0, 100, &[0], true),
        (0, 101, &[0, 100], true),
        (99, 2, &[0, 100], true),
        (100, 0, &[], true),
        (349, 1, &[300], true),
        (350, 10, &[], true),
        (u64::MAX, 10, &[], true),
    ];
    for (offset, length, starts, complete) in cases {
        let (blocks, done) = t.snapshot().file_blocks(inode, offset, length, 10).expect("a file");
        let got: Vec<u64> = blocks.iter().map(|(start, _)| *start).collect();
        assert_eq!((got.as_slice(), done), (starts, complete), "{offset}+{length}");
    }
    let (blocks, done) = t.snapshot().file_blocks(inode, 0, u64::MAX, 2).expect("a file");
    assert_eq!((blocks.len(), done), (2, false));
    assert!(t.snapshot().file_blocks(InodeId(1), 0, 1, 1).is_err());
    assert_eq!(
        t.snapshot().file_blocks(InodeId(999), 0, 1, 1).expect_err("none").kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn an_open_block_overlaps_what_is_behind_its_recorded_end() {
    let mut t = Fixture::new();
    let opened = t.create("/f", "w");
    let (blocks, done) = t.snapshot().file_blocks(InodeId(opened.inode), 10, 5, 10).expect("a file");
    assert_eq!((blocks.len(), done), (1, true));
}

#[test]
fn summaries_add_up() {
    let mut t = Fixture::new();
    t.mkdir("/a/b/c");
    t.write_file("/a/f", 10);
    t.write_file("/a/b/g", 150);
    t.ok(set_replication("/a/f", 1));
    let sum = t.snapshot().content_summary(&t.caller, &node("/a")).expect("exists");
    assert_eq!((sum.length, sum.file_count, sum.directory_count, sum.space_consumed), (160, 2, 3, 460));
    let sum = t.snapshot().content_summary(&t.caller, &node("/a/f")).expect("exists");
    assert_eq!((sum.length, sum.file_count, sum.directory_count, sum.space_consumed), (10, 1, 0, 10));
}

#[test]
fn blocks_are_scanned_by_id() {
    let mut t = Fixture::new();
    let f = t.write_file("/f", 2 * BLOCK);
    let g = t.write_file("/g", 3 * BLOCK);
    let ids: Vec<BlockId> = t.blocks_of(f).iter().chain(&t.blocks_of(g)).map(|b| b.id).collect();
    let scan = |range: (Bound<BlockId>, Bound<BlockId>), limit| {
        let blocks = t.snapshot().blocks_in(range, limit).expect("reads");
        blocks.into_iter().map(|b| b.id).collect::<Vec<_>>()
    };
    assert_eq!(scan((Bound::Unbounded, Bound::Unbounded), 100), ids);
    assert_eq!(scan((Bound::Excluded(ids[0]), Bound::Included(ids[2])), 100), ids[1..=2]);
    assert_eq!(scan((Bound::Included(ids[1]), Bound::Unbounded), 2), ids[1..=2]);
    let one = t.snapshot().block(ids[3]).expect("reads").expect("exists");
    assert_eq!((one.id, one.inode, one.index), (ids[3], InodeId(g), 1));
    assert!(t.snapshot().block(BlockId(1)).expect("reads").is_none());
}

#[test]
fn a_snapshot_does_not_see_what_comes_after() {
    let mut t = Fixture::new();
    let before = t.snapshot();
    t.mkdir("/d");
    assert!(before.stat(&t.caller, &node("/d")).is_err());
    assert!(t.snapshot().stat(&t.caller, &node("/d")).is_ok());
}
