//! How a mount writes: blocks anywhere in a file, several at once, overwritten in place.

use dfs_proto::{ErrorKind, v1};
use log::command::Op;
use log::reply::Reply;

use super::fixture::*;
use crate::log;
use crate::namesystem::{BlockState, Effect};

/// A new file that session `m` has open for writing, without a block.
fn new_file(t: &mut Fixture, path: &str) -> u64 {
    t.ok_opened(make_node(log::MakeNodeOp { holder: "m".to_owned(), ..file_op(path) })).inode
}

#[test]
fn make_node_opens_a_file_with_its_first_block() {
    let mut t = Fixture::new();
    let op = log::MakeNodeOp { holder: "m".to_owned(), targets: storages(&["s1", "s2"]), ..file_op("/f") };
    let opened = t.ok_opened(make_node(op));
    let first = opened.block.expect("a block");
    assert_eq!(opened.new_stamp, 0);
    assert!(matches!(&t.effects[..], [Effect::LeaseTaken { holder }, Effect::BlockAllocated { targets, .. }]
        if holder == "m" && targets.len() == 2));
    t.assert_sound();
    // Asked for again, it is the same.
    let again = t.ok_opened(write_block(opened.inode, "m", 0));
    assert_eq!((again.block, again.new_stamp), (Some(first), 0));
    // Never written, it goes with the lease, and nothing else changes.
    let before = t.stat("/f");
    t.ok(commit_blocks(opened.inode, "m", &[], None, true));
    assert!(t.blocks_of(opened.inode).is_empty());
    let after = t.stat("/f");
    assert_eq!((after.mtime_ns, after.ctime_ns), (before.mtime_ns, before.ctime_ns));
    assert!(!after.under_construction);
    t.assert_sound();
}

#[test]
fn blocks_are_written_in_any_order_and_leave_holes() {
    let mut t = Fixture::new();
    let inode = new_file(&mut t, "/f");
    let third = t.ok_opened(write_block(inode, "m", 3)).block.expect("a block");
    let first = t.ok_opened(write_block(inode, "m", 1)).block.expect("a block");
    t.assert_sound();
    assert_eq!(t.stat("/f").size, 0);
    let recorded = written(block(third.id, third.generation_stamp, 20), &[], false);
    t.ok(commit_blocks(inode, "m", &[recorded], None, false));
    assert_eq!(t.stat("/f").size, 3 * BLOCK + 20);
    let blocks = [
        written(block(first.id, first.generation_stamp, 30), &["s1"], true),
        written(block(third.id, third.generation_stamp, 40), &["s1"], true),
    ];
    t.refused(commit_blocks(inode, "other", &blocks, None, true), ErrorKind::LeaseExpired);
    t.ok(commit_blocks(inode, "m", &blocks, Some(500), true));
    let status = t.stat("/f");
    assert_eq!((status.size, status.allocated, status.under_construction), (500, 70, false));
    let blocks: Vec<_> = t.blocks_of(inode).iter().map(|b| (b.index, b.length, b.state)).collect();
    assert_eq!(blocks, [(1, 30, BlockState::Complete), (3, 40, BlockState::Complete)]);
    t.assert_sound();
}

#[test]
fn a_complete_block_is_reopened_under_a_new_stamp() {
    let mut t = Fixture::new();
    let inode = t.write_file("/f", 250);
    let before = t.stat("/f");
    assert!(t.ok_opened(acquire_lease("/f", "m", false)).block.is_none());
    assert_eq!(t.stat("/f").ctime_ns, before.ctime_ns, "opening changes nothing");
    let opened = t.ok_opened(write_block(inode, "m", 1));
    let old = opened.block.expect("the block");
    assert_eq!(old.length, 100);
    assert!(opened.new_stamp > old.generation_stamp);
    assert!(matches!(&t.effects[..], [Effect::BlockAllocated { block, targets }]
        if block.stamp.get() == old.generation_stamp && targets[..] == ["s1"]));
    let more = t.ok_opened(write_block(inode, "m", 2));
    assert_eq!(more.block.expect("a block").length, 50);
    t.assert_sound();
    t.refused(commit_blocks(inode, "m", &[], None, true), ErrorKind::InvalidArgument);

    let done = |opened: &Opened, length| {
        let id = opened.block.expect("a block").id;
        written(block(id, opened.new_stamp, length), &["s1", "s2"], true)
    };
    t.refused(commit_blocks(inode, "m", &[done(&opened, 90)], None, false), ErrorKind::InvalidArgument);
    t.ok(commit_blocks(inode, "m", &[done(&opened, 100), done(&more, 70)], None, true));
    assert_eq!((t.stat("/f").size, t.stat("/f").allocated), (270, 270));
    assert!(t.stat("/f").change > before.change);
    t.assert_sound();
}

#[test]
fn a_lease_is_taken_once_and_kept_by_its_holder() {
    let mut t = Fixture::new();
    t.write_file("/f", 250);
    t.ok(acquire_lease("/f", "m", false));
    t.ok(acquire_lease("/f", "m", false));
    assert!(t.effects.is_empty());
    t.refused(acquire_lease("/f", "n", false), ErrorKind::LeaseHeldByOther);
    t.refused(append("/f", "n"), ErrorKind::LeaseHeldByOther);
    t.ok(acquire_lease("/f", "m", true));
    assert_eq!((t.stat("/f").size, t.stat("/f").allocated), (0, 0));
    t.assert_sound();
}

#[test]
fn sizes_are_set_without_datanodes() {
    let mut t = Fixture::new();
    let inode = t.write_file("/f", 250);
    t.ok(set_size("/f", 130));
    assert!(matches!(&t.effects[..], [Effect::BlockRemoved { .. }, Effect::BlockCut { block }]
        if block.length == 30));
    assert_eq!((t.stat("/f").size, t.stat("/f").allocated), (130, 130));
    t.assert_sound();
    t.ok(set_size("/f", 450));
    assert_eq!((t.stat("/f").size, t.stat("/f").allocated), (450, 130));
    assert_eq!(t.blocks_of(inode).len(), 2);
    t.assert_sound();
    // Path clients append where the data ends, which is not the end of this file.
    t.refused(append("/f", "w"), ErrorKind::InvalidArgument);
    t.ok(set_size("/f", 500));
    t.ok(append("/f", "w"));
    let Reply::Block(spec) = t.ok(add_block(inode, "w", None)) else { panic!("no block") };
    assert_eq!(spec.offset, 500);
    t.assert_sound();
    t.refused(set_size("/f", 10), ErrorKind::LeaseHeldByOther);
    t.ok(complete(inode, "w", None));
    assert_eq!(t.stat("/f").size, 500);
    t.assert_sound();
}

#[test]
fn an_unlinked_file_that_is_open_is_still_written() {
    let mut t = Fixture::new();
    let inode = new_file(&mut t, "/f");
    let Reply::Status(gone) = t.ok(unlink("/f", inode)) else { panic!("no status") };
    assert_eq!(gone.nlink, 0);
    t.assert_missing("/f");
    t.assert_sound();
    let opened = t.ok_opened(write_block(inode, "m", 0)).block.expect("a block");
    t.ok(commit_blocks(
        inode,
        "m",
        &[written(block(opened.id, opened.generation_stamp, 9), &["s1"], true)],
        None,
        false,
    ));
    let status = t.snapshot().stat(&t.caller, &below(inode, "")).expect("an orphan");
    assert_eq!((status.size, status.nlink), (9, 0));
    t.assert_sound();
    let release = Op::ReleaseOrphans(log::ReleaseOrphansOp { inodes: vec![inode, 1, 999] });
    t.ok(release.clone());
    assert!(t.effects.iter().any(|e| matches!(e, Effect::BlockRemoved { .. })));
    assert!(t.snapshot().stat(&t.caller, &below(inode, "")).is_err());
    t.assert_sound();
    t.ok(release);
}

#[test]
fn every_open_block_is_recovered_before_the_file_closes() {
    let mut t = Fixture::new();
    let inode = t.write_file("/f", 300);
    t.ok(acquire_lease("/f", "m", false));
    let opened = [0, 2].map(|index| t.ok_opened(write_block(inode, "m", index)).block.expect("a block"));
    let new = t.ok_opened(write_block(inode, "m", 5)).block.expect("a block");
    t.ok(recover_lease("/f"));
    let started: Vec<(v1::Block, u64)> = t
        .effects
        .iter()
        .filter_map(|e| match e {
            Effect::RecoveryStarted { block, new_stamp, .. } => Some((block.to_proto(), new_stamp.get())),
            _ => None,
        })
        .collect();
    assert_eq!(started.iter().map(|(b, _)| b.id).collect::<Vec<_>>(), [opened[0].id, opened[1].id, new.id]);
    t.assert_sound();
    t.ok(synchronized(started[1].0.id, started[1].1, 100, &["s1"]));
    t.ok(synchronized(started[2].0.id, started[2].1, 0, &[]));
    assert!(t.stat("/f").under_construction);
    t.refused(acquire_lease("/f", "m", false), ErrorKind::RecoveryInProgress);
    t.assert_sound();
    t.ok(synchronized(started[0].0.id, started[0].1, 100, &["s1"]));
    assert!(!t.stat("/f").under_construction);
    assert_eq!((t.stat("/f").size, t.stat("/f").allocated), (300, 300));
    t.assert_sound();
}

/// Length that a recovery is to give the block at an index.
fn recovered_to(t: &mut Fixture, index: u64) -> Option<u64> {
    t.ok(recover_lease("/f"));
    let wanted = |e: &Effect| match e {
        Effect::RecoveryStarted { block, truncate_length, .. } if block.index == index => {
            Some(*truncate_length)
        }
        _ => None,
    };
    t.effects.iter().find_map(wanted).expect("a recovery of that block")
}

#[test]
fn what_was_cut_off_does_not_come_back_with_a_recovery() {
    // The block is open again, but no pipeline has reported: replicas with the recorded stamp may be longer.
    let reopened = || {
        let mut t = Fixture::new();
        let inode = t.write_file("/f", 100);
        t.ok(set_size("/f", 60));
        t.ok(acquire_lease("/f", "m", false));
        let opened = t.ok_opened(write_block(inode, "m", 0));
        (t, inode, opened)
    };
    let (mut t, ..) = reopened();
    assert_eq!(recovered_to(&mut t, 0), Some(60));
    assert_eq!(recovered_to(&mut t, 0), Some(60), "again");
    t.assert_sound();

    // The same after another stamp for a pipeline that did not come about.
    let (mut t, inode, opened) = reopened();
    let again = t.ok_opened(write_block(inode, "m", 0));
    assert!(again.new_stamp > opened.new_stamp);
    assert_eq!(recovered_to(&mut t, 0), Some(60));

    // Once the pipeline stands, whoever tells it, its replicas decide.
    let stands = |inode, opened: &Opened, by: u8| {
        let old = opened.block.expect("a block");
        let new = block(old.id, opened.new_stamp, if by == 0 { 60 } else { 70 });
        let holder = "m".to_owned();
        match by {
            0 => Op::UpdatePipeline(log::UpdatePipelineOp {
                inode,
                holder,
                old_block: Some(old),
                new_block: Some(new),
                storage_ids: storages(&["s1"]),
            }),
            1 => Op::Fsync(log::FsyncOp { inode, holder, block: Some(new) }),
            _ => commit_blocks(inode, "m", &[written(new, &[], false)], None, false),
        }
    };
    for by in 0..3 {
        let (mut t, inode, opened) = reopened();
        t.ok(stands(inode, &opened, by));
        assert!(matches!(&t.effects[..], [Effect::BlockAllocated { block, targets }]
            if block.stamp.get() == opened.new_stamp && targets[..] == ["s1"]));
        t.assert_sound();
        assert_eq!(recovered_to(&mut t, 0), None);
    }
}

#[test]
fn path_clients_calls_work_on_any_open_block() {
    let mut t = Fixture::new();
    let inode = t.write_file("/f", 300);
    let other = t.write_file("/g", 100);
    t.ok(acquire_lease("/f", "m", false));
    t.ok(acquire_lease("/g", "m", false));
    let first = t.ok_opened(write_block(inode, "m", 0));
    let new = t.ok_opened(write_block(inode, "m", 7)).block.expect("a block");
    let empty = t.ok_opened(write_block(inode, "m", 5)).block.expect("a block");
    let old = first.block.expect("a block");
    let stamp_for = |block| {
        Op::UpdateBlockForPipeline(log::UpdateBlockForPipelineOp {
            inode,
            holder: "m".to_owned(),
            block: Some(block),
        })
    };
    assert!(matches!(t.ok(stamp_for(old)), Reply::NewGenerationStamp(stamp) if stamp > first.new_stamp));
    let fsync = |inode, block| Op::Fsync(log::FsyncOp { inode, holder: "m".to_owned(), block: Some(block) });
    t.ok(fsync(inode, block(new.id, new.generation_stamp, 10)));
    assert_eq!((t.stat("/f").size, t.stat("/f").allocated), (710, 310));
    t.refused(abandon(inode, "m", new), ErrorKind::InvalidArgument);
    t.ok(abandon(inode, "m", empty));
    t.refused(fsync(other, block(new.id, new.generation_stamp, 10)), ErrorKind::InvalidArgument);
    t.refused(fsync(inode, block(1, 1, 10)), ErrorKind::NotFound);
    t.refused(complete(inode, "m", None), ErrorKind::InvalidArgument);
    let last = committed(block(new.id, new.generation_stamp, 10), &["s1"]);
    t.refused(complete(inode, "m", Some(last)), ErrorKind::InvalidArgument);
    t.assert_sound();
}

#[test]
fn commit_blocks_table() {
    let mut t = Fixture::new();
    let inode = new_file(&mut t, "/f");
    let other = new_file(&mut t, "/g");
    let open = t.ok_opened(write_block(inode, "m", 2)).block.expect("a block");
    let at = |length| block(open.id, open.generation_stamp, length);
    let commit = |blocks: &[v1::WrittenBlock]| commit_blocks(inode, "m", blocks, None, false);
    for (op, kind) in [
        (commit(&[written(at(10), &[], true)]), ErrorKind::NotYetReplicated),
        (commit(&[written(at(101), &["s1"], true)]), ErrorKind::InvalidArgument),
        (commit(&[written(at(101), &[], false)]), ErrorKind::InvalidArgument),
        (commit(&[written(at(1), &[], false), written(at(2), &["s1"], true)]), ErrorKind::InvalidArgument),
        (
            commit(&[written(block(open.id, open.generation_stamp + 1, 10), &["s1"], true)]),
            ErrorKind::StaleGenerationStamp,
        ),
        (commit(&[written(block(1, 1, 1), &["s1"], true)]), ErrorKind::NotFound),
        (
            commit_blocks(other, "m", &[written(at(1), &["s1"], true)], None, false),
            ErrorKind::InvalidArgument,
        ),
        (commit_blocks(inode, "m", &[], Some(u64::MAX), false), ErrorKind::TooLarge),
        (commit_blocks(inode, "m", &[written(at(1), &[], false)], None, true), ErrorKind::InvalidArgument),
        (commit_blocks(inode, "dfs_namenode", &[], None, true), ErrorKind::LeaseExpired),
        (commit_blocks(999, "m", &[], None, true), ErrorKind::NotFound),
        (write_block(inode, "other", 0), ErrorKind::LeaseExpired),
        (write_block(inode, "m", 1 << 20), ErrorKind::TooLarge),
        (
            Op::WriteBlock(log::WriteBlockOp { inode, holder: "m".to_owned(), index: 0, targets: vec![] }),
            ErrorKind::NoUsableDatanode,
        ),
    ] {
        t.refused(op, kind);
    }
    let times = |t: &Fixture| (t.stat("/f").mtime_ns, t.stat("/f").ctime_ns);
    let before = times(&t);
    t.ok(commit(&[]));
    assert_eq!(times(&t), before, "nothing was written");
    t.ok(commit(&[written(at(10), &["s1"], true)]));
    assert_eq!((times(&t), t.stat("/f").size), ((t.now_ns, t.now_ns), 210));
    let before = times(&t);
    t.ok(commit(&[written(at(10), &["s1"], true)]));
    assert_eq!(times(&t), before, "told twice");
    assert!(t.effects.is_empty());
    // The time that is there already is no change.
    let mtime_ns = Some(t.stat("/f").mtime_ns);
    let holder = "m".to_owned();
    t.ok(Op::CommitBlocks(log::CommitBlocksOp { inode, holder, mtime_ns, ..Default::default() }));
    assert_eq!(times(&t), before);
    // Times that the writer names; the size only grows.
    let op = log::CommitBlocksOp {
        inode,
        holder: "m".to_owned(),
        size: Some(5),
        mtime_ns: Some(77),
        close: true,
        ..Default::default()
    };
    t.ok(Op::CommitBlocks(op));
    assert_eq!((times(&t), t.stat("/f").size), ((77, t.now_ns), 210));
    t.assert_sound();
}

#[test]
fn ranges_of_a_file_with_holes() {
    let mut t = Fixture::new();
    let inode = new_file(&mut t, "/f");
    for (index, length) in [(1, 30), (3, 100)] {
        let open = t.ok_opened(write_block(inode, "m", index)).block.expect("a block");
        let done = written(block(open.id, open.generation_stamp, length), &["s1"], true);
        t.ok(commit_blocks(inode, "m", &[done], None, false));
    }
    t.ok(write_block(inode, "m", 6));
    t.ok(Op::SetAttributes(log::SetAttributesOp {
        node: Some(node("/f")),
        size: Some(900),
        holder: "m".to_owned(),
        ..Default::default()
    }));
    // Offset, length, at most; where the blocks start, whether all were answered.
    let cases: [(u64, u64, usize, &[u64], bool); 10] = [
        (0, u64::MAX, 9, &[100, 300, 600], true),
        (0, 100, 9, &[], true),
        (0, 101, 9, &[100], true),
        (129, 1, 9, &[100], true),
        (130, 70, 9, &[], true),
        (130, 171, 9, &[300], true),
        (399, 1, 9, &[300], true),
        (400, 200, 9, &[], true),
        (650, 1, 9, &[600], true),
        (0, u64::MAX, 2, &[100, 300], false),
    ];
    for (offset, length, limit, starts, complete) in cases {
        let (found, all) =
            t.snapshot().file_blocks(dfs_proto::InodeId(inode), offset, length, limit).expect("a file");
        let found: Vec<u64> = found.iter().map(|(start, _)| *start).collect();
        assert_eq!((found.as_slice(), all), (starts, complete), "{offset} {length} {limit}");
    }
    let summary = t.snapshot().content_summary(&t.caller, &node("/f")).expect("a file");
    assert_eq!((summary.length, summary.space_consumed), (900, 3 * 130));
}

#[test]
fn setting_up_a_pipeline_is_no_change_of_the_file() {
    let mut t = Fixture::new();
    let inode = t.write_file("/f", 100);
    let before = t.stat("/f");
    t.ok(acquire_lease("/f", "m", false));
    let opened = t.ok_opened(write_block(inode, "m", 0));
    let empty = t.ok_opened(write_block(inode, "m", 3)).block.expect("a block");
    let old = opened.block.expect("a block");
    t.ok(Op::UpdatePipeline(log::UpdatePipelineOp {
        inode,
        holder: "m".to_owned(),
        old_block: Some(old),
        new_block: Some(block(old.id, opened.new_stamp, 100)),
        storage_ids: storages(&["s1"]),
    }));
    t.ok(abandon(inode, "m", empty));
    let after = t.stat("/f");
    let times = |s: &v1::FileStatus| (s.mtime_ns, s.ctime_ns, s.change);
    assert_eq!(times(&after), times(&before));
    // What overwrites in place is one, though the length stays.
    let done = written(block(old.id, opened.new_stamp, 100), &["s1"], true);
    t.ok(commit_blocks(inode, "m", &[done], None, true));
    assert_eq!(t.stat("/f").mtime_ns, t.now_ns);
    assert!(t.stat("/f").change > before.change);
    t.assert_sound();
}
