//! Segments that fill up, writers that share commits, and what a start finds.

use std::collections::HashMap;
use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use dfs_proto::checksum::{Checksum, ChecksumKind};

use super::record::MAX_DATA_BYTES;
use super::replay::Found;
use super::*;

const DATA_BYTES: usize = 64 << 10;

fn files(dir: &Path, id: u64) -> Arc<ReplicaFiles> {
    let open = |name: String| {
        let path = dir.join(name);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        (Arc::new(file.expect("opens")), path)
    };
    let (data, data_path) = open(format!("blk_{id}"));
    let (meta, meta_path) = open(format!("blk_{id}.meta"));
    Arc::new(ReplicaFiles { data, data_path, meta, meta_path })
}

/// A write whose content tells which one of its block it is.
fn append(journal: &Journal, id: u64, turn: u64, len: usize, files: &Arc<ReplicaFiles>) -> u64 {
    let checksum = Checksum::new(ChecksumKind::Crc32, 4096).expect("valid");
    let data = vec![turn as u8; len];
    let mut sums = Vec::new();
    checksum.append_checksums(&data, &mut sums);
    let change = Change::Write { checksum, offset: turn * DATA_BYTES as u64, sums: &sums, data: &data };
    journal.append(BlockRef::new(id, 1), change, files).expect("noted")
}

/// Turns of each block that a start would apply.
fn found(dir: &Path) -> HashMap<u64, Vec<u64>> {
    let found = Found::read(dir, &boot_id()).expect("readable");
    assert!(found.is_same_boot());
    let mut turns = HashMap::new();
    for id in 0..1000 {
        let of_block: Vec<u64> = found
            .records(BlockId(id))
            .filter_map(|record| match record.change {
                Change::Write { checksum, offset, sums, data } => {
                    checksum.verify(data, sums).expect("sums fit");
                    Some(offset / DATA_BYTES as u64)
                }
                Change::Intent { .. } | Change::Settled { .. } | Change::Created { .. } => None,
            })
            .collect();
        if !of_block.is_empty() {
            turns.insert(id, of_block);
        }
    }
    turns
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "did not happen: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn writers_share_commits_and_find_their_records_in_order() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let journal = Journal::start(dir.path(), 1).expect("starts");
    thread::scope(|scope| {
        for id in 0..8 {
            let (journal, files) = (&journal, files(dir.path(), id));
            scope.spawn(move || {
                for turn in 0..20 {
                    let number = append(journal, id, turn, 100 + 500 * id as usize, &files);
                    journal.commit(number).expect("on disk");
                }
            });
        }
    });
    assert_eq!(journal.last(), 160);
    // What was committed is there although the journal has not ended.
    let turns = found(dir.path());
    assert_eq!(turns.len(), 8);
    assert!(turns.values().all(|turns| turns.iter().copied().eq(0..20)));
    // A block that is in its files, and one that is gone, are not touched again; later records of theirs are.
    journal.settle(BlockRef::new(3, 1), journal.last()).expect("settled");
    let up_to = journal.last();
    append(&journal, 4, 20, 10, &files(dir.path(), 4));
    journal.settle(BlockRef::new(4, 1), up_to).expect("settled");
    assert!(!journal.is_live(BlockId(3)) && journal.is_live(BlockId(4)));
    drop(journal);
    let turns = found(dir.path());
    assert_eq!((turns.get(&3), turns.get(&4)), (None, Some(&vec![20])));
    // A new start begins with nothing, and counts on.
    let last = Found::read(dir.path(), "").expect("readable").last();
    let journal = Journal::start(dir.path(), last + 1).expect("starts");
    assert!(found(dir.path()).is_empty());
    assert_eq!(append(&journal, 1, 0, 10, &files(dir.path(), 1)), last + 1);
}

#[test]
fn what_is_given_up_costs_no_flush_and_is_on_disk_before_the_block_is_made_anew() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let journal = Journal::start(dir.path(), 1).expect("starts");
    for id in 0..3 {
        append(&journal, id, 0, 100, &files(dir.path(), id));
    }
    journal.commit(journal.last()).expect("on disk");
    for id in 0..2 {
        journal.abandon(BlockRef::new(id, 1)).expect("noted");
        assert!(!journal.is_live(BlockId(id)));
    }
    // A stop of the machine would bring them back: that is all.
    assert_eq!(found(dir.path()).len(), 3);
    journal.bury(BlockId(2)).expect("nothing to do");
    assert_eq!(found(dir.path()).len(), 3);
    journal.bury(BlockId(0)).expect("on disk");
    assert_eq!(found(dir.path()).keys().copied().collect::<Vec<_>>(), [2]);
    assert!(lock(&journal.inner.state).abandoned.is_empty());
    // What was never on disk is given up all the same.
    append(&journal, 3, 0, 100, &files(dir.path(), 3));
    journal.abandon(BlockRef::new(3, 1)).expect("noted");
    drop(journal);
    assert_eq!(found(dir.path()).keys().copied().collect::<Vec<_>>(), [2]);
}

#[test]
fn full_segments_are_dropped_once_their_files_are_on_disk() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let journal = Journal::start(dir.path(), 1).expect("starts");
    // Block 0 only at first; then three segments full of block 1.
    let number = append(&journal, 0, 0, DATA_BYTES, &files(dir.path(), 0));
    journal.commit(number).expect("on disk");
    let of_1 = files(dir.path(), 1);
    let turns = 3 * SEGMENT_BYTES / DATA_BYTES as u64;
    for turn in 0..turns {
        append(&journal, 1, turn, DATA_BYTES, &of_1);
    }
    eventually("the first segment is dropped", || !journal.is_live(BlockId(0)));
    drop(journal);
    let turns_found = found(dir.path());
    assert_eq!(turns_found.get(&0), None);
    let of_1 = &turns_found[&1];
    assert_eq!(of_1.last(), Some(&(turns - 1)));
    assert!(of_1.windows(2).all(|pair| pair[1] == pair[0] + 1), "without a gap");
    assert!((of_1.len() as u64) < turns);
    for index in 0..2 {
        let len = fs::metadata(segment_path(dir.path(), index)).expect("segment").len();
        assert!(len <= SEGMENT_BYTES + (8 << 20), "{len}");
    }
}

#[test]
fn few_files_are_kept_open_however_many_replicas_there_are() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let journal = Journal::start(dir.path(), 1).expect("starts");
    for id in 0..3 * MAX_DIRTY as u64 {
        let number = append(&journal, id, 0, 10, &files(dir.path(), id));
        journal.commit(number).expect("on disk");
    }
    let kept = || lock(&journal.inner.state).holdings.iter().map(|h| h.dirty.len()).sum::<usize>();
    eventually("checkpoints follow", || kept() <= 2 * MAX_DIRTY);
    eventually("the first are dropped", || !journal.is_live(BlockId(0)));
}

#[test]
fn the_largest_record_fits() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let journal = Journal::start(dir.path(), 7).expect("starts");
    let number = append(&journal, 1, 0, MAX_DATA_BYTES, &files(dir.path(), 1));
    assert_eq!(number, 7);
    journal.commit(number).expect("on disk");
    assert_eq!(found(dir.path())[&1], [0]);
}
