//! The log's files without Raft: cutting, purging, reading back, damage.

use std::path::Path;

use openraft::{CommittedLeaderId, EntryPayload};

use crate::consensus::batch::Batch;
use crate::consensus::raft_types::{self, Entry, LogId};
use crate::consensus::segmented_log::{Recovered, SegmentedLog};
use crate::log::{Command, CommandBatch};

fn id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, 1), index)
}

fn entry(index: u64) -> Entry {
    let command = Command { call_id: index, client_id: vec![9; 100], ..Command::default() };
    let batch = Batch::stored(CommandBatch { commands: vec![command] });
    Entry { log_id: id(index), payload: EntryPayload::Normal(batch) }
}

fn open(dir: &Path, state_next: u64) -> (SegmentedLog, Recovered) {
    SegmentedLog::open(dir.to_owned(), 4 << 10, 1 << 20, state_next).expect("opened")
}

/// Writes and syncs entries in groups of three.
fn append(log: &mut SegmentedLog, indexes: std::ops::Range<u64>) {
    for index in indexes {
        log.stage(&entry(index));
        if index % 3 == 0 {
            log.write().expect("written");
            log.sync().expect("synced");
            log.mark().expect("marked");
        }
    }
    log.write().expect("written");
    log.sync().expect("synced");
}

fn call_ids(entries: &[Entry]) -> Vec<u64> {
    let call_id = |entry: &Entry| match &entry.payload {
        EntryPayload::Normal(batch) => batch.commands()[0].call_id,
        other => panic!("{other:?}"),
    };
    entries.iter().map(call_id).collect()
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).expect("readable").count()
}

#[test]
fn entries_are_read_back_across_segments() {
    let dir = tempfile::tempdir().expect("directory");
    let (mut log, _) = open(dir.path(), 0);
    append(&mut log, 0..200);
    assert!(files(dir.path()) > 3);
    let read = |start, end, bytes_max| call_ids(&log.catalog().read(start, end, bytes_max).expect("read"));
    assert_eq!(read(0, 200, usize::MAX), (0..200).collect::<Vec<_>>());
    assert_eq!(read(70, 75, usize::MAX), [70, 71, 72, 73, 74]);
    assert_eq!(read(199, 500, usize::MAX), [199]);
    assert_eq!(read(10, 20, 1), [10], "at least one");
    assert_eq!(read(10, 20, 250), [10, 11, 12], "until the bytes are used up");
    assert_eq!(read(200, 201, 1), Vec::<u64>::new());
}

#[test]
fn a_reopened_log_goes_on_where_it_ended() {
    let dir = tempfile::tempdir().expect("directory");
    let (mut log, _) = open(dir.path(), 0);
    append(&mut log, 0..100);
    drop(log);
    let (mut log, recovered) = open(dir.path(), 0);
    assert_eq!((recovered.previous, recovered.last), (None, Some(id(99))));
    assert_eq!(recovered.tail.last().map(|entry| entry.log_id), Some(id(99)));
    assert_eq!(log.synced(), 100);
    append(&mut log, 100..110);
    assert_eq!(
        call_ids(&log.catalog().read(95, 110, usize::MAX).expect("read")),
        (95..110).collect::<Vec<_>>()
    );
}

#[test]
fn a_log_is_cut_anywhere() {
    for cut in [1, 2, 64, 65, 130, 198, 199] {
        let dir = tempfile::tempdir().expect("directory");
        let (mut log, _) = open(dir.path(), 0);
        append(&mut log, 0..200);
        log.truncate(cut).expect("cut");
        assert_eq!(log.last(), Some(id(cut - 1)));
        assert_eq!(log.synced(), cut);
        append(&mut log, cut..cut + 10);
        let found = log.catalog().read(0, u64::MAX, usize::MAX).expect("read");
        assert_eq!(call_ids(&found), (0..cut + 10).collect::<Vec<_>>(), "cut at {cut}");
        drop(log);
        let (_, recovered) = open(dir.path(), 0);
        assert_eq!(recovered.last, Some(id(cut + 9)), "cut at {cut}");
    }
}

#[test]
fn purging_deletes_whole_segments_only() {
    let dir = tempfile::tempdir().expect("directory");
    let (mut log, _) = open(dir.path(), 0);
    append(&mut log, 0..200);
    let before = files(dir.path());
    log.purge(raft_types::entry_id(&id(100))).expect("purged");
    assert!(files(dir.path()) < before);
    assert_eq!(call_ids(&log.catalog().read(101, 104, usize::MAX).expect("read")), [101, 102, 103]);
    drop(log);
    let (_, recovered) = open(dir.path(), 101);
    let previous = recovered.previous.expect("purged").index;
    assert!(previous > 0 && previous <= 100, "{previous}");
    assert_eq!(recovered.last, Some(id(199)));
}

#[test]
fn a_log_replaced_by_a_snapshot_goes_on_after_it() {
    let dir = tempfile::tempdir().expect("directory");
    let (mut log, _) = open(dir.path(), 0);
    append(&mut log, 0..50);
    log.purge(raft_types::entry_id(&id(500))).expect("replaced");
    assert_eq!(files(dir.path()), 1);
    append(&mut log, 501..510);
    drop(log);
    let (log, recovered) = open(dir.path(), 501);
    assert_eq!((recovered.previous, recovered.last), (Some(id(500)), Some(id(509))));
    assert_eq!(call_ids(&log.catalog().read(501, 503, usize::MAX).expect("read")), [501, 502]);
}
