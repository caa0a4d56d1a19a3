//! Stops of the machine, imitated: files fall back, in part, to what was put on disk last, and the boot is another one.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_proto::GenerationStamp;
use dfs_proto::checksum::{Checksum, ChecksumKind};

use crate::dataset::Dataset;
use crate::dataset::pipeline::{Purpose, Reopen};
use crate::dataset::whole::Whole;
use crate::dataset::writer::ReplicaWriter;
use crate::journal::in_hand::InHand;
use crate::journal::record::{BLOCK_BYTES, SegmentHeader};
use crate::journal::replay::Found;
use crate::namenode_link::changes::ChangeQueue;
use crate::replica::{BlockRef, ReplicaState};

const LENGTH: usize = 300_000;
const BLOCK: BlockRef = BlockRef::new(1, 10);

struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let seed = std::env::var("DFS_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        println!("DFS_TEST_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let seed = self.below(1 << 30) as u64;
        (0..len as u64).map(|i| ((i * i + seed * 31 + i / 7) >> 3) as u8).collect()
    }
}

fn checksum() -> Checksum {
    Checksum::new(ChecksumKind::Crc32, 4096).expect("valid")
}

fn open(dir: &Path) -> Arc<Dataset> {
    let changes = Arc::new(ChangeQueue::default());
    Arc::new(Dataset::open(&[dir.to_owned()], Some(0), changes).expect("opens"))
}

fn write(writer: &mut ReplicaWriter, offset: usize, data: &[u8], sync: bool) {
    let mut sums = Vec::new();
    let head = ((4096 - offset % 4096) % 4096).min(data.len());
    checksum().append_checksums(&data[..head], &mut sums);
    checksum().append_checksums(&data[head..], &mut sums);
    writer.write_anywhere(offset as u64, data, &sums, sync).expect("written");
    if sync {
        writer.sync().expect("synced");
    }
}

fn create(dataset: &Arc<Dataset>, data: &[u8]) -> ReplicaWriter {
    let mut writer = dataset.create(BLOCK, Purpose::RandomWrite, checksum(), 0, None).expect("created");
    write(&mut writer, 0, data, true);
    writer
}

fn reopen(dataset: &Arc<Dataset>, block: BlockRef, stamp: u64) -> ReplicaWriter {
    let asked = Reopen {
        block,
        stamp: GenerationStamp(stamp),
        least: LENGTH as u64,
        most: LENGTH as u64,
        random: true,
    };
    dataset.append(asked, checksum()).expect("reopened")
}

fn find(dir: &Path, name: &str) -> PathBuf {
    fn below(dir: &Path, name: &str) -> Option<PathBuf> {
        fs::read_dir(dir).expect("readable").flatten().find_map(|entry| {
            let path = entry.path();
            if path.is_dir() { below(&path, name) } else { (entry.file_name() == name).then_some(path) }
        })
    }
    below(dir, name).expect("there")
}

/// Both files of the replica as they are on disk for certain.
struct Durable {
    data: Vec<u8>,
    meta: Vec<u8>,
}

fn read(dir: &Path, stamp: u64) -> Durable {
    let data = fs::read(find(dir, "blk_1")).expect("data");
    Durable { data, meta: fs::read(find(dir, &format!("blk_1_{stamp}.meta"))).expect("meta") }
}

/// Some pages are as they were on disk, others as the page cache had them.
fn fall_back(random: &mut Random, path: &Path, durable: &[u8]) {
    let mut content = fs::read(path).expect("read");
    for (i, page) in content.chunks_mut(512).enumerate() {
        let old = durable.get(i * 512..).unwrap_or_default();
        if random.below(2) == 0 && old.len() >= page.len() {
            page.copy_from_slice(&old[..page.len()]);
        }
    }
    fs::write(path, content).expect("written");
}

fn stop_machine(dir: &Path) {
    for index in ["0", "1"] {
        let path = dir.join("journal").join(index);
        let mut raw = fs::read(&path).expect("journal");
        let header = SegmentHeader::decode(&raw).expect("header");
        let other = SegmentHeader { boot: "an earlier boot".into(), ..header };
        raw[..BLOCK_BYTES].copy_from_slice(&other.encode());
        fs::write(&path, raw).expect("written");
    }
}

/// Reads everything, every chunk verified.
fn content(dataset: &Dataset, stamp: u64) -> Vec<u8> {
    let handle = dataset.open_read(BlockRef::new(1, stamp), 0).expect("opens");
    handle.verify().expect("every chunk fits");
    let mut data = vec![0; handle.length() as usize];
    handle.read_data(&mut data, 0).expect("read");
    data
}

#[test]
fn what_was_synced_is_there_after_a_stop_of_the_machine_and_every_chunk_fits() {
    let mut random = Random::seeded();
    for round in 0..6 {
        let dir = tempfile::tempdir().expect("temporary directory");
        let dataset = open(dir.path());
        let mut model = random.bytes(LENGTH);
        let mut writer = create(&dataset, &model);
        let mut stamp = 10;
        let mut durable = read(dir.path(), stamp);
        let mut unrecorded = false;
        // Bytes whose last write was not synced: anything may be there.
        let mut open_bytes = vec![false; LENGTH];
        for step in 0..60 {
            let large = random.below(6) == 0;
            let len = if large { 70_000 + random.below(60_000) } else { 1 + random.below(9000) };
            let offset = random.below(LENGTH - len);
            let data = random.bytes(len);
            let sync = random.below(2) == 0 && step < 50;
            model[offset..offset + len].copy_from_slice(&data);
            open_bytes[offset..offset + len].fill(true);
            unrecorded |= large;
            write(&mut writer, offset, &data, sync);
            if sync {
                open_bytes.fill(false);
                if std::mem::take(&mut unrecorded) {
                    durable = read(dir.path(), stamp);
                }
            }
            if step == 30 && round % 3 == 0 {
                writer.finalize(false).expect("closed");
                // Overwrites of a closed replica are on disk, whether or not anybody asked for it.
                open_bytes.fill(false);
                if std::mem::take(&mut unrecorded) {
                    durable = read(dir.path(), stamp);
                }
                writer = reopen(&dataset, BlockRef::new(1, stamp), stamp + 1);
                stamp += 1;
            }
        }
        let finalized = round % 2 == 0;
        if finalized {
            writer.finalize(false).expect("closed");
            open_bytes.fill(false);
            if unrecorded {
                durable = read(dir.path(), stamp);
            }
        } else {
            drop(writer);
        }
        drop(dataset);
        fall_back(&mut random, &find(dir.path(), "blk_1"), &durable.data);
        fall_back(&mut random, &find(dir.path(), &format!("blk_1_{stamp}.meta")), &durable.meta);
        stop_machine(dir.path());
        for _ in 0..2 {
            let dataset = open(dir.path());
            let found = content(&dataset, stamp);
            assert_eq!(found.len(), LENGTH);
            let lost = (0..LENGTH).find(|i| !open_bytes[*i] && found[*i] != model[*i]);
            assert_eq!(lost, None, "round {round}, finalized: {finalized}");
        }
    }
}

#[test]
fn a_reopening_that_the_disk_never_heard_of_leaves_no_torn_chunk() {
    let mut random = Random::seeded();
    let dir = tempfile::tempdir().expect("temporary directory");
    let dataset = open(dir.path());
    let before = random.bytes(LENGTH);
    create(&dataset, &before).finalize(true).expect("closed");
    let durable = read(dir.path(), 10);
    let mut writer = reopen(&dataset, BLOCK, 11);
    for _ in 0..20 {
        let (offset, data) = (random.below(200_000), random.bytes(5000));
        write(&mut writer, offset, &data, false);
    }
    write(&mut writer, 100_000, &random.bytes(100_000), false);
    drop(writer);
    drop(dataset);
    for (name, old_name, content) in
        [("blk_1", "blk_1", &durable.data), ("blk_1_11.meta", "blk_1_10.meta", &durable.meta)]
    {
        let path = find(dir.path(), name);
        fall_back(&mut random, &path, content);
        let old = dir.path().join("finalized/subdir0/subdir0").join(old_name);
        fs::rename(path, old).expect("moved back");
    }
    stop_machine(dir.path());
    assert_eq!(content(&open(dir.path()), 10).len(), LENGTH);
}

#[test]
fn rot_in_a_finalized_replica_stays_to_be_found() {
    let mut random = Random::seeded();
    let dir = tempfile::tempdir().expect("temporary directory");
    let dataset = open(dir.path());
    let data = random.bytes(LENGTH);
    create(&dataset, &data).finalize(true).expect("closed");
    let mut writer = reopen(&dataset, BLOCK, 11);
    write(&mut writer, 50_000, &random.bytes(5000), true);
    writer.finalize(false).expect("closed");
    drop(dataset);
    let path = find(dir.path(), "blk_1");
    let mut rotten = fs::read(&path).expect("read");
    rotten[200_000] ^= 1;
    rotten[51_000] ^= 1;
    fs::write(&path, rotten).expect("written");
    stop_machine(dir.path());
    let dataset = open(dir.path());
    let handle = dataset.open_read(BlockRef::new(1, 11), 0).expect("opens");
    let error = handle.verify().expect_err("damaged where nothing was overwritten");
    assert!(error.to_string().contains("byte 196608"), "{error}");
    // After the end of the process alone, too.
    drop((dataset, handle));
    let dataset = open(dir.path());
    assert!(dataset.verify(BlockRef::new(1, 11)).is_err());
}

#[test]
fn records_of_a_deleted_replica_do_not_touch_a_later_one() {
    let mut random = Random::seeded();
    let dir = tempfile::tempdir().expect("temporary directory");
    let dataset = open(dir.path());
    let mut writer = create(&dataset, &random.bytes(LENGTH));
    write(&mut writer, 4096, &[1; 4096], true);
    writer.finalize(false).expect("closed");
    dataset.invalidate(BLOCK).expect("deleted");
    let copied = random.bytes(LENGTH);
    let block = BlockRef::new(1, 12);
    let mut copy = dataset.create(block, Purpose::Copy, checksum(), 0, None).expect("created");
    copy.write_copied(&copied, 0).expect("written");
    let mut sums = Vec::new();
    checksum().append_checksums(&copied, &mut sums);
    copy.commit(0, LENGTH as u32, &sums).expect("shown");
    copy.finalize(true).expect("closed");
    // Not only because the journal ends in order.
    assert_eq!(journal_of(dir.path()).blocks(), 0);
    drop(dataset);
    stop_machine(dir.path());
    assert!(content(&open(dir.path()), 12) == copied);
}

#[test]
fn a_replica_with_torn_chunks_is_closed_by_a_recovery_only() {
    for torn in [false, true] {
        let mut random = Random::seeded();
        let dir = tempfile::tempdir().expect("temporary directory");
        let dataset = open(dir.path());
        let data = random.bytes(LENGTH);
        drop(create(&dataset, &data));
        drop(dataset);
        if torn {
            let path = find(dir.path(), "blk_1");
            let mut content = fs::read(&path).expect("read");
            content[77_777] ^= 1;
            fs::write(&path, content).expect("written");
        }
        stop_machine(dir.path());
        let dataset = open(dir.path());
        assert_eq!(content(&dataset, 10).len(), LENGTH);
        assert_eq!(dataset.finalize_found(BLOCK, LENGTH as u64).is_err(), torn);
        let id = GenerationStamp(20);
        dataset.begin_recovery(BLOCK, id).expect("begins").expect("a replica");
        dataset.finish_recovery(BLOCK, id, LENGTH as u64).expect("closed");
        assert_eq!(content(&dataset, 20).len(), LENGTH);
    }
}

fn flip(path: &Path, offset: usize) {
    let mut content = fs::read(path).expect("read");
    content[offset] ^= 1;
    fs::write(path, content).expect("written");
}

/// What a writer leaves whose process ends in the middle of a step.
fn leave_in_hand(dir: &Path, block: BlockRef, chunks: Range<u64>) {
    let in_hand = Arc::new(InHand::start(dir).expect("started"));
    in_hand.slot().take(block, chunks).expect("written");
}

#[test]
fn after_the_end_of_the_process_only_chunks_in_hand_get_new_checksums() {
    const ROT: usize = 200_000;
    for rot in [false, true] {
        let mut random = Random::seeded();
        let dir = tempfile::tempdir().expect("temporary directory");
        let dataset = open(dir.path());
        drop(create(&dataset, &random.bytes(LENGTH)));
        drop(dataset);
        flip(&find(dir.path(), "blk_1"), 77_777);
        flip(&find(dir.path(), "blk_1"), 82_000);
        leave_in_hand(dir.path(), BLOCK, 73_728..82_100);
        if rot {
            flip(&find(dir.path(), "blk_1"), ROT);
        }
        let dataset = open(dir.path());
        let verified = dataset.open_read(BLOCK, 0).expect("opens").verify();
        let bad = verified.err().map(|error| error.to_string());
        assert_eq!(bad.is_some(), rot, "{bad:?}");
        let chunk = ROT - ROT % 4096;
        assert!(bad.is_none_or(|bad| bad.contains(&format!("byte {chunk}"))));
        let asked = Reopen {
            block: BLOCK,
            stamp: GenerationStamp(11),
            least: LENGTH as u64,
            most: LENGTH as u64,
            random: true,
        };
        let resumed = dataset.recover_rbw(asked, checksum());
        assert_eq!(resumed.is_err(), rot, "the writer goes on unless something else is wrong: {resumed:?}");
        if rot {
            let candidate = dataset.begin_recovery(BLOCK, GenerationStamp(20)).expect("begins");
            let candidate = candidate.expect("a replica");
            assert_eq!((candidate.original_state, candidate.damaged), (ReplicaState::Rwr, true));
            assert_eq!(candidate.length, LENGTH as u64, "all of it is kept for rescue");
        }
    }
}

#[test]
fn a_torn_chunk_does_not_decide_beside_replicas_that_are_whole() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let dataset = open(dir.path());
    drop(create(&dataset, &Random::seeded().bytes(LENGTH)));
    drop(dataset);
    flip(&find(dir.path(), "blk_1"), 77_777);
    leave_in_hand(dir.path(), BLOCK, 77_777..77_778);
    let dataset = open(dir.path());
    assert!(dataset.finalize_found(BLOCK, LENGTH as u64).is_err());
    let candidate = dataset.begin_recovery(BLOCK, GenerationStamp(20)).expect("begins").expect("a replica");
    assert_eq!((candidate.original_state, candidate.damaged), (ReplicaState::Rwr, false));
}

#[test]
fn a_byte_that_changed_on_the_disk_does_not_win_a_recovery() {
    for changed in [false, true] {
        let mut random = Random::seeded();
        let dir = tempfile::tempdir().expect("temporary directory");
        let dataset = open(dir.path());
        let data = random.bytes(LENGTH);
        drop(create(&dataset, &data));
        drop(dataset);
        if changed {
            let path = find(dir.path(), "blk_1");
            let mut content = fs::read(&path).expect("read");
            content[77_777] ^= 1;
            fs::write(&path, content).expect("written");
        }
        // The datanode stopped, the machine did not.
        let dataset = open(dir.path());
        let candidate =
            dataset.begin_recovery(BLOCK, GenerationStamp(20)).expect("begins").expect("a replica");
        // One that is whole is preferred to this one.
        let expected = if changed { ReplicaState::Rwr } else { ReplicaState::Rbw };
        assert_eq!((candidate.original_state, candidate.damaged), (expected, changed));
        assert_eq!(candidate.length, LENGTH as u64);
    }
}

/// What a stop of the machine leaves of files whose names were never put on disk.
fn lose(dir: &Path, name: &str) {
    fs::remove_file(find(dir, name)).expect("removed");
}

#[test]
fn a_new_replica_that_was_synced_is_made_again_from_the_journal() {
    let mut random = Random::seeded();
    for lost in [&["blk_1", "blk_1_10.meta"][..], &["blk_1"], &["blk_1_10.meta"], &[]] {
        let dir = tempfile::tempdir().expect("dir");
        let mut model = random.bytes(10_000);
        let dataset = open(dir.path());
        let mut writer = create(&dataset, &model);
        let (at, more) = (random.below(9000), random.bytes(3000));
        model.resize(model.len().max(at + more.len()), 0);
        model[at..at + more.len()].copy_from_slice(&more);
        write(&mut writer, at, &more, true);
        drop((writer, dataset));
        stop_machine(dir.path());
        for name in ["blk_1", "blk_1_10.meta"] {
            if lost.contains(&name) {
                lose(dir.path(), name);
            } else {
                // The name was on disk, the content was not.
                fs::write(find(dir.path(), name), []).expect("emptied");
            }
        }
        let dataset = open(dir.path());
        assert_eq!(content(&dataset, 10), model, "without {lost:?}");
    }
}

#[test]
fn a_new_replica_whose_bytes_are_not_all_in_the_journal_has_its_names_on_disk() {
    let dir = tempfile::tempdir().expect("dir");
    let content = Random::seeded().bytes(400_000);
    let dataset = open(dir.path());
    // Too much for the journal; then little that would fit it.
    let mut writer = create(&dataset, &content);
    write(&mut writer, 0, &content[..100], true);
    drop((writer, dataset));
    stop_machine(dir.path());
    assert!(journal_of(dir.path()).created().is_empty());
}

#[test]
fn a_small_replica_that_came_whole_with_a_sync_is_closed_after_a_stop_of_the_machine() {
    let dir = tempfile::tempdir().expect("dir");
    let content = Random::seeded().bytes(5000);
    let mut sums = Vec::new();
    checksum().append_checksums(&content, &mut sums);
    let store = |dataset: &Arc<Dataset>, block| {
        let whole = Whole { data: &content, sums: &sums, checksum: checksum(), durable: true };
        assert!(dataset.create_whole(block, whole, None).expect("stored"));
    };
    let dataset = open(dir.path());
    let deleted = BlockRef::new(2, 11);
    store(&dataset, BLOCK);
    store(&dataset, deleted);
    dataset.invalidate(deleted).expect("deleted");
    drop(dataset);
    stop_machine(dir.path());
    lose(dir.path(), "blk_1");
    lose(dir.path(), "blk_1_10.meta");
    let dataset = open(dir.path());
    assert_eq!(read(dir.path(), 10).data, content);
    dataset.sync_replica(BLOCK, 5000).expect("closed and complete");
    assert!(dataset.sync_replica(deleted, 0).is_err(), "deleted stays deleted");
}

#[test]
fn a_small_replica_that_was_reopened_is_not_made_again_as_a_closed_one() {
    let dir = tempfile::tempdir().expect("dir");
    let content = Random::seeded().bytes(5000);
    let mut sums = Vec::new();
    checksum().append_checksums(&content, &mut sums);
    let dataset = open(dir.path());
    let whole = Whole { data: &content, sums: &sums, checksum: checksum(), durable: true };
    assert!(dataset.create_whole(BLOCK, whole, None).expect("stored"));
    let asked = Reopen { block: BLOCK, stamp: GenerationStamp(12), least: 5000, most: 5000, random: true };
    let mut writer = dataset.append(asked, checksum()).expect("reopened");
    // Announced on disk, and not synced.
    write(&mut writer, 100, &[7; 50], false);
    drop((writer, dataset));
    stop_machine(dir.path());
    lose(dir.path(), "blk_1");
    lose(dir.path(), "blk_1_12.meta");
    let dataset = open(dir.path());
    let found = dataset.begin_recovery(BlockRef::new(1, 12), GenerationStamp(13)).expect("may begin");
    let found = found.expect("a replica");
    assert_eq!((found.length, found.original_state), (5000, ReplicaState::Rwr));
}

#[test]
fn a_new_replica_that_is_put_on_disk_as_a_whole_leaves_nothing_to_the_journal() {
    let dir = tempfile::tempdir().expect("dir");
    let content = Random::seeded().bytes(5000);
    let dataset = open(dir.path());
    let mut writer = create(&dataset, &content);
    write(&mut writer, 5000, &[1; 100], true);
    writer.finalize(false).expect("closed");
    dataset.sync_replica(BLOCK, 5100).expect("on disk");
    drop(dataset);
    stop_machine(dir.path());
    assert_eq!(journal_of(dir.path()).blocks(), 0);
}

#[test]
fn what_was_synced_is_there_when_a_failed_volume_comes_back_without_what_the_page_cache_had() {
    let mut random = Random::seeded();
    for restarted in [false, true] {
        let dir = tempfile::tempdir().expect("dir");
        let dataset = open(dir.path());
        let mut model = random.bytes(LENGTH);
        let mut writer = create(&dataset, &model);
        let durable = read(dir.path(), 10);
        for _ in 0..20 {
            let (offset, data) = (random.below(LENGTH - 5000), random.bytes(5000));
            model[offset..offset + 5000].copy_from_slice(&data);
            write(&mut writer, offset, &data, true);
        }
        writer.finalize(false).expect("closed");
        let volume = dataset.volumes().remove(0);
        dataset.fail_volume(&volume, "pulled out");
        dataset.retire_volume(&volume);
        fall_back(&mut random, &find(dir.path(), "blk_1"), &durable.data);
        fall_back(&mut random, &find(dir.path(), "blk_1_10.meta"), &durable.meta);
        let dataset = if restarted {
            drop(dataset);
            open(dir.path())
        } else {
            dataset.take_back(dir.path()).expect("in service again");
            dataset
        };
        assert!(content(&dataset, 10) == model, "restarted: {restarted}");
    }
}

/// What the next start will find.
fn journal_of(dir: &Path) -> Found {
    Found::read(dir, "this boot").expect("readable")
}
