//! Blocks of files being written.

use dfs_proto::ErrorKind;
use log::command::Op;
use log::reply::Reply;

use super::fixture::*;
use crate::log;
use crate::namesystem::{BlockState, Effect};

fn fsync(inode: u64, holder: &str, block: dfs_proto::v1::Block) -> Op {
    Op::Fsync(log::FsyncOp { inode, holder: holder.to_owned(), block: Some(block) })
}

fn new_stamp(t: &mut Fixture, inode: u64, block: dfs_proto::v1::Block) -> u64 {
    let holder = "w".to_owned();
    let op = log::UpdateBlockForPipelineOp { inode, holder, block: Some(block) };
    match t.ok(Op::UpdateBlockForPipeline(op)) {
        Reply::NewGenerationStamp(stamp) => stamp,
        other => panic!("{other:?}"),
    }
}

fn update_pipeline(
    inode: u64,
    old: dfs_proto::v1::Block,
    new: dfs_proto::v1::Block,
    storage_ids: &[&str],
) -> Op {
    Op::UpdatePipeline(log::UpdatePipelineOp {
        inode,
        holder: "w".to_owned(),
        old_block: Some(old),
        new_block: Some(new),
        storage_ids: storages(storage_ids),
    })
}

#[test]
fn a_file_of_three_blocks() {
    let mut t = Fixture::new();
    let inode = t.write_file("/f", 2 * BLOCK + 30);
    let blocks = t.blocks_of(inode);
    assert_eq!(blocks.iter().map(|b| (b.index, b.length)).collect::<Vec<_>>(), [(0, 100), (1, 100), (2, 30)]);
    assert!(blocks.iter().all(|b| b.state == BlockState::Complete && b.hints == ["s1"]));
    assert!(blocks.windows(2).all(|w| w[0].id < w[1].id && w[0].stamp < w[1].stamp));
    assert!(!t.stat("/f").under_construction);
    t.assert_sound();
}

#[test]
fn add_block_table() {
    let mut t = Fixture::new();
    let opened = t.create("/f", "w");
    let first = opened.block.expect("a block");
    let full = block(first.id, first.generation_stamp, BLOCK);
    let add = |holder: &str, previous| add_block(opened.inode, holder, previous);
    let cases = [
        (add("other", Some(committed(full, &["s1"]))), ErrorKind::LeaseExpired),
        (add("dfs_namenode", Some(committed(full, &["s1"]))), ErrorKind::LeaseExpired),
        (add_block(999, "w", None), ErrorKind::NotFound),
        (add("w", Some(committed(full, &[]))), ErrorKind::NotYetReplicated),
        (add("w", Some(committed(block(1, 1, BLOCK), &["s1"]))), ErrorKind::InvalidArgument),
        (
            add("w", Some(committed(block(first.id, first.generation_stamp, 50), &["s1"]))),
            ErrorKind::InvalidArgument,
        ),
        (
            add("w", Some(committed(block(first.id, first.generation_stamp - 1, BLOCK), &["s1"]))),
            ErrorKind::StaleGenerationStamp,
        ),
        (
            Op::AddBlock(log::AddBlockOp {
                inode: opened.inode,
                holder: "w".to_owned(),
                previous: Some(committed(full, &["s1"])),
                targets: vec![],
            }),
            ErrorKind::NoUsableDatanode,
        ),
    ];
    for (op, kind) in cases {
        t.refused(op, kind);
    }
    // Once more for the first block: the untouched one.
    let Reply::Block(again) = t.ok(add("w", None)) else { panic!("no block") };
    assert_eq!(again.block, Some(first));
    assert_eq!(again.storage_ids, ["s1", "s2", "s3"]);
    assert!(t.effects.is_empty());

    let Reply::Block(second) = t.ok(add("w", Some(committed(full, &["s1", "s9"])))) else {
        panic!("no block")
    };
    assert_eq!(second.offset, BLOCK);
    assert!(matches!(&t.effects[..], [Effect::BlockCommitted { block, .. }, Effect::BlockAllocated { .. }]
        if block.length == BLOCK));
    assert_eq!(t.blocks_of(opened.inode)[0].hints, ["s1"], "a client cannot name new storages");
    let Reply::Block(again) = t.ok(add("w", Some(committed(full, &["s1"])))) else { panic!("no block") };
    assert_eq!(again.block, second.block);
    assert_eq!(t.stat("/f").size, BLOCK);
    t.assert_sound();
}

#[test]
fn abandoned_blocks_are_forgotten() {
    let mut t = Fixture::new();
    let opened = t.create("/f", "w");
    let first = opened.block.expect("a block");
    t.refused(abandon(opened.inode, "other", first), ErrorKind::LeaseExpired);
    t.ok(abandon(opened.inode, "w", first));
    assert!(matches!(t.effects[..], [Effect::BlockRemoved { .. }]));
    t.ok(abandon(opened.inode, "w", first));
    assert!(t.effects.is_empty(), "given back already");
    t.ok(complete(opened.inode, "w", None));
    t.assert_sound();

    let opened = t.create("/g", "w");
    let first = opened.block.expect("a block");
    t.ok(fsync(opened.inode, "w", block(first.id, first.generation_stamp, 5)));
    t.refused(abandon(opened.inode, "w", first), ErrorKind::InvalidArgument);
}

#[test]
fn complete_table() {
    let mut t = Fixture::new();
    let opened = t.create("/f", "w");
    let first = opened.block.expect("a block");
    let done = block(first.id, first.generation_stamp, 42);
    let close = |last| complete(opened.inode, "w", last);
    t.refused(close(Some(committed(done, &[]))), ErrorKind::NotYetReplicated);
    t.refused(
        close(Some(committed(block(first.id, first.generation_stamp, 101), &["s1"]))),
        ErrorKind::InvalidArgument,
    );
    t.refused(complete(opened.inode, "other", Some(committed(done, &["s1"]))), ErrorKind::LeaseExpired);
    t.ok(close(Some(committed(done, &["s2"]))));
    assert!(
        matches!(&t.effects[..], [Effect::BlockCommitted { storage_ids, .. }, Effect::LeaseReleased { .. }]
        if storage_ids[..] == ["s2"])
    );
    // A retry under another call id finds it done.
    t.ok(close(Some(committed(done, &["s2"]))));
    assert!(t.effects.is_empty());
    t.refused(close(None), ErrorKind::LeaseExpired);
    let later = block(first.id, first.generation_stamp, 43);
    t.refused(close(Some(committed(later, &["s2"]))), ErrorKind::LeaseExpired);
    assert_eq!(t.stat("/f").size, 42);
    t.assert_sound();
}

#[test]
fn blocks_without_data_do_not_stay() {
    let mut t = Fixture::new();
    for last in [false, true] {
        let opened = t.create("/f", "w");
        let first = opened.block.expect("a block");
        t.ok(complete(opened.inode, "w", last.then(|| committed(first, &["s1"]))));
        assert!(t.blocks_of(opened.inode).is_empty());
        assert!(t.effects.iter().any(|e| matches!(e, Effect::BlockRemoved { .. })));
        t.assert_sound();
        t.ok(delete("/f", false));
    }
}

#[test]
fn fsync_records_lengths_that_only_grow() {
    let mut t = Fixture::new();
    let opened = t.create("/f", "w");
    let first = opened.block.expect("a block");
    let at = |length| fsync(opened.inode, "w", block(first.id, first.generation_stamp, length));
    t.ok(at(10));
    t.ok(at(10));
    t.refused(at(9), ErrorKind::InvalidArgument);
    t.refused(at(101), ErrorKind::InvalidArgument);
    assert_eq!(t.stat("/f").size, 10);
    let close =
        complete(opened.inode, "w", Some(committed(block(first.id, first.generation_stamp, 9), &["s1"])));
    t.refused(close, ErrorKind::InvalidArgument);
    t.assert_sound();
}

#[test]
fn a_rebuilt_pipeline_fences_the_old_stamp() {
    let mut t = Fixture::new();
    let opened = t.create("/f", "w");
    let first = opened.block.expect("a block");
    let stamp = new_stamp(&mut t, opened.inode, first);
    assert!(stamp > first.generation_stamp);
    let stored = t.blocks_of(opened.inode).remove(0);
    assert_eq!(stored.stamp.get(), first.generation_stamp, "until the pipeline stands");
    let new = block(first.id, stamp, 20);
    t.refused(update_pipeline(opened.inode, first, new, &[]), ErrorKind::NotYetReplicated);
    let never_given = block(first.id, stamp + 1, 20);
    t.refused(update_pipeline(opened.inode, first, never_given, &["s1"]), ErrorKind::StaleGenerationStamp);
    t.ok(update_pipeline(opened.inode, first, new, &["s1", "s3"]));
    assert!(matches!(&t.effects[..], [Effect::BlockAllocated { block, targets }]
        if block.stamp.get() == stamp && targets[..] == ["s1", "s3"]));
    let old_stamp = block(first.id, first.generation_stamp, 30);
    t.refused(
        complete(opened.inode, "w", Some(committed(old_stamp, &["s2"]))),
        ErrorKind::StaleGenerationStamp,
    );
    t.ok(complete(opened.inode, "w", Some(committed(block(first.id, stamp, 30), &["s1"]))));
    assert_eq!(t.stat("/f").size, 30);
    t.assert_sound();
}

#[test]
fn append_continues_a_partial_block_under_a_new_stamp() {
    let mut t = Fixture::new();
    let inode = t.write_file("/f", BLOCK + 30);
    let Reply::Opened(opened) = t.ok(append("/f", "w")) else { panic!("not opened") };
    let opened = Opened::new(opened);
    let last = opened.block.expect("the partial block");
    assert_eq!((opened.inode, last.length), (inode, 30));
    assert!(opened.new_stamp > last.generation_stamp);
    assert!(matches!(&t.effects[..], [Effect::BlockAllocated { block, targets }, Effect::LeaseTaken { .. }]
        if block.state == BlockState::UnderConstruction && targets[..] == ["s1"]));
    t.refused(append("/f", "w"), ErrorKind::LeaseHeldByOther);
    t.refused(append("/f", "v"), ErrorKind::LeaseHeldByOther);
    t.refused(abandon(inode, "w", last), ErrorKind::InvalidArgument);
    t.assert_sound();
    // The pipeline was set up with the new stamp.
    t.ok(complete(inode, "w", Some(committed(block(last.id, opened.new_stamp, 60), &["s1"]))));
    let stored = t.blocks_of(inode).remove(1);
    assert_eq!((stored.stamp.get(), stored.length), (opened.new_stamp, 60));
    assert_eq!(t.stat("/f").size, BLOCK + 60);
    t.assert_sound();
}

#[test]
fn append_to_full_blocks_starts_with_a_new_one() {
    let mut t = Fixture::new();
    let inode = t.write_file("/f", BLOCK);
    let Reply::Opened(opened) = t.ok(append("/f", "w")) else { panic!("not opened") };
    assert!(opened.block.is_none());
    let Reply::Block(spec) = t.ok(add_block(inode, "w", None)) else { panic!("no block") };
    assert_eq!(spec.offset, BLOCK);
    t.ok(complete(inode, "w", None));
    assert_eq!(t.stat("/f").size, BLOCK);
    t.mkdir("/d");
    t.refused(append("/d", "w"), ErrorKind::IsADirectory);
    t.refused(append("/none", "w"), ErrorKind::NotFound);
    t.assert_sound();
}

#[test]
fn truncate_at_a_block_edge_is_done_at_once() {
    let mut t = Fixture::new();
    let inode = t.write_file("/f", 3 * BLOCK + 10);
    t.refused(truncate("/f", 4 * BLOCK), ErrorKind::InvalidArgument);
    for (length, removed) in [(3 * BLOCK + 10, 0), (2 * BLOCK, 2), (0, 2), (0, 0)] {
        let reply = t.ok(truncate("/f", length));
        assert!(matches!(&reply, Reply::Recovery(r) if r.closed && r.inode == inode), "{reply:?}");
        assert_eq!(t.effects.len(), removed, "to {length}: {:?}", t.effects);
        assert_eq!(t.stat("/f").size, length);
        t.assert_sound();
    }
}

#[test]
fn truncate_inside_a_block_needs_its_datanodes() {
    let mut t = Fixture::new();
    let inode = t.write_file("/f", 2 * BLOCK + 10);
    let Reply::Recovery(recovery) = t.ok(truncate("/f", BLOCK + 40)) else { panic!("no recovery") };
    assert!(!recovery.closed);
    assert_eq!(recovery.truncate_length, Some(40));
    let spec = recovery.block.expect("a block").block.expect("a block");
    assert_eq!(spec.length, BLOCK);
    assert_eq!(t.stat("/f").size, BLOCK + 40);
    assert!(t.stat("/f").under_construction);
    t.refused(append("/f", "w"), ErrorKind::RecoveryInProgress);
    t.refused(truncate("/f", 0), ErrorKind::RecoveryInProgress);
    t.assert_sound();

    // The recovery is lost and started anew: it still cuts.
    let Reply::Recovery(again) = t.ok(recover_lease("/f")) else { panic!("no recovery") };
    assert_eq!(again.truncate_length, Some(40));
    assert!(again.new_generation_stamp > recovery.new_generation_stamp);
    t.refused(
        synchronized(spec.id, recovery.new_generation_stamp, 40, &["s1"]),
        ErrorKind::StaleGenerationStamp,
    );
    t.refused(synchronized(spec.id, again.new_generation_stamp, 39, &["s1"]), ErrorKind::InvalidArgument);
    t.ok(synchronized(spec.id, again.new_generation_stamp, 40, &["s1"]));
    assert!(!t.stat("/f").under_construction);
    assert_eq!(t.blocks_of(inode)[1].length, 40);
    t.assert_sound();
}
