//! Inode numbers that sessions reserve, and commands that say which node they mean.

use dfs_proto::{ErrorKind, InodeId};
use log::command::Op;
use log::reply::Reply;

use super::fixture::*;
use crate::log;
use crate::namesystem::Tables;

fn reserve_op(session: &str, count: u32) -> Op {
    Op::ReserveInodes(log::ReserveInodesOp { session: session.to_owned(), count })
}

#[track_caller]
fn reserve(t: &mut Fixture, session: &str, count: u32) -> u64 {
    match t.ok(reserve_op(session, count)) {
        Reply::Reserved(reserved) => reserved.first,
        other => panic!("{other:?}"),
    }
}

fn make(path: &str, session: &str, inode: u64) -> Op {
    Op::MakeNode(log::MakeNodeOp { inode, session: session.to_owned(), ..file_op(path) })
}

#[test]
fn a_reserved_number_is_used_once_and_by_its_session() {
    let mut t = Fixture::new();
    let first = reserve(&mut t, "a", 3);
    let next = t.create("/other", "w").inode;
    assert_eq!(next, first + 3, "nobody else gets them");
    t.refused(make("/f", "b", first), ErrorKind::Conflict);
    t.refused(make("/f", "", first), ErrorKind::Conflict);
    t.refused(make("/f", "a", first + 3), ErrorKind::Conflict);
    t.refused(make("/f", "a", first - 1), ErrorKind::Conflict);
    assert_eq!(t.ok_opened(make("/f", "a", first + 1)).inode, first + 1);
    t.refused(make("/g", "a", first + 1), ErrorKind::Conflict);
    t.refused(make("/g", "a", first), ErrorKind::Conflict);
    t.refused(make("/f", "a", first + 2), ErrorKind::AlreadyExists);
    t.assert_sound();
    assert_eq!(t.ok_opened(make("/g", "a", first + 2)).inode, first + 2);
    assert!(!t.snapshot().has_reservations("a").expect("reads"), "they are used up");
    t.assert_sound();
}

#[test]
fn a_session_has_few_ranges_and_loses_them_with_its_end() {
    let mut t = Fixture::new();
    let ranges: Vec<u64> = (0..5).map(|_| reserve(&mut t, "a", 2)).collect();
    let other = reserve(&mut t, "ab", 2);
    t.refused(make("/f", "a", ranges[0]), ErrorKind::Conflict);
    t.ok(make("/1", "a", ranges[1]));
    t.ok(make("/4", "a", ranges[4] + 1));
    assert_eq!(t.snapshot().reserving_sessions().expect("reads"), ["a", "ab"]);
    t.ok(Op::DropReservations(log::DropReservationsOp { session: "a".to_owned() }));
    t.refused(make("/f", "a", ranges[1] + 1), ErrorKind::Conflict);
    assert_eq!(t.snapshot().reserving_sessions().expect("reads"), ["ab"]);
    t.ok(make("/f", "ab", other));
    for bad in [0, 4_097] {
        t.refused(reserve_op("a", bad), ErrorKind::InvalidArgument);
    }
    t.refused(reserve_op("", 1), ErrorKind::InvalidArgument);
    t.assert_sound();
}

#[test]
fn a_restored_namespace_has_nothing_reserved() {
    let mut t = Fixture::new();
    let first = reserve(&mut t, "a", 10);
    let mut tables = Tables::open(&t.store).expect("opens");
    tables.mark_restored(1).expect("marked");
    tables.commit();
    t.assert_sound();
    t.refused(make("/f", "a", first), ErrorKind::Conflict);
}

#[test]
fn commands_change_the_node_that_they_mean() {
    let mut t = Fixture::new();
    let (f, g) = (t.write_file("/f", 5), t.write_file("/g", 5));
    let unlink =
        |path, inode| Op::Unlink(log::UnlinkOp { node: Some(node(path)), inode, ..Default::default() });
    let moved = |inode, other| {
        let (src, dst) = (Some(node("/f")), Some(node("/g")));
        Op::Move(log::MoveOp { src, dst, inode, other, ..Default::default() })
    };
    let set = |inode| {
        Op::SetAttributes(log::SetAttributesOp { node: Some(node("/f")), inode, ..Default::default() })
    };
    t.refused(set(g), ErrorKind::Conflict);
    t.refused(unlink("/f", g), ErrorKind::Conflict);
    t.refused(unlink("/h", g), ErrorKind::NotFound);
    t.refused(moved(g, g), ErrorKind::Conflict);
    t.refused(moved(f, f), ErrorKind::Conflict);
    let error = t.refused(moved(f, 0), ErrorKind::Conflict);
    assert_eq!(error.reason(), format!("{} is there, meant was inode 0", InodeId(g)));
    t.ok(set(f));
    t.ok(moved(f, g));
    t.ok(unlink("/g", f));
    t.assert_sound();
}
