//! Moves between two directories, what a crash leaves of them, and others who use the replica meanwhile.

use std::sync::atomic::AtomicBool;

use dfs_proto::GenerationStamp;
use dfs_proto::checksum::{Checksum, ChecksumKind};

use super::*;
use crate::dataset::pipeline::{Purpose, Reopen};
use crate::dataset::whole::Whole;
use crate::dataset::writer::ReplicaWriter;
use crate::namenode_link::changes::ChangeQueue;

const LENGTH: usize = 300_000;

struct Volumes {
    dirs: [tempfile::TempDir; 2],
}

fn checksum() -> Checksum {
    Checksum::new(ChecksumKind::Crc32, 4096).expect("valid")
}

fn block(id: u64) -> BlockRef {
    BlockRef::new(id, 10)
}

fn bytes(id: u64, len: usize) -> Vec<u8> {
    // Some of it is a hole.
    (0..len as u64).map(|i| if i / 65_536 == 1 { 0 } else { (i * i / 3 + id * 31) as u8 }).collect()
}

fn fast() -> Throttle {
    Throttle::new(u64::MAX >> 16)
}

impl Volumes {
    fn new() -> Self {
        let dir = || tempfile::tempdir().expect("temporary directory");
        Self { dirs: [dir(), dir()] }
    }

    fn open(&self) -> (Arc<Dataset>, Arc<ChangeQueue>) {
        let changes = Arc::new(ChangeQueue::default());
        let dirs = self.dirs.each_ref().map(|dir| dir.path().to_owned());
        let dataset = Dataset::open(&dirs, Some(0), Arc::clone(&changes)).expect("opens");
        (Arc::new(dataset), changes)
    }

    /// Directories (0, 1) with any file of the block.
    fn with_files(&self, id: u64) -> Vec<usize> {
        let name = layout::data_name(BlockId(id));
        (0..2)
            .filter(|at| files_below(self.dirs[*at].path()).iter().any(|path| ends_with(path, &name)))
            .collect()
    }
}

fn ends_with(path: &Path, part: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(part))
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("readable").flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

fn write(dataset: &Arc<Dataset>, id: u64, len: usize, volume: usize) -> ReplicaWriter {
    let storage = volume_at(dataset, volume).storage_id().to_owned();
    let made = dataset.create(block(id), Purpose::RandomWrite, checksum(), len as u64, Some(&storage));
    let mut writer = made.expect("created");
    for (index, piece) in bytes(id, len).chunks(1 << 20).enumerate() {
        let mut sums = Vec::new();
        checksum().append_checksums(piece, &mut sums);
        writer.write_anywhere((index << 20) as u64, piece, &sums, false).expect("written");
    }
    writer
}

fn assert_content(dataset: &Dataset, id: u64, len: usize) {
    let handle = dataset.open_read(block(id), 0).expect("opens");
    handle.verify().expect("every chunk fits");
    let mut data = vec![0; handle.length() as usize];
    handle.read_data(&mut data, 0).expect("read");
    assert!(data == bytes(id, len), "content of block {id}");
}

fn volume_at(dataset: &Dataset, at: usize) -> Arc<Volume> {
    dataset.volumes().swap_remove(at)
}

fn to(dataset: &Dataset, volume: usize) -> Arc<Volume> {
    volume_at(dataset, volume)
}

#[test]
fn a_replica_moves_with_its_content_and_open_readers_go_on() {
    let volumes = Volumes::new();
    let (dataset, changes) = volumes.open();
    write(&dataset, 1, LENGTH, 0).finalize(false).expect("closed");
    let small = bytes(2, 5_000);
    let mut sums = Vec::new();
    checksum().append_checksums(&small, &mut sums);
    let whole = Whole { data: &small, sums: &sums, checksum: checksum(), durable: false };
    let storage = volume_at(&dataset, 0).storage_id().to_owned();
    assert!(dataset.create_whole(block(2), whole, Some(&storage)).expect("created"));
    let before = dataset.open_read(block(1), 0).expect("opens");
    changes.take(100);

    assert_eq!(dataset.move_to_volume(BlockId(1), &to(&dataset, 1), &fast()).expect("moved"), LENGTH as u64);
    assert_eq!(dataset.move_to_volume(BlockId(2), &to(&dataset, 1), &fast()).expect("moved"), 5_000);
    before.verify().expect("the old files are still open");
    assert!(dataset.is_current(&before, block(1)), "and as good as before");
    for (id, len) in [(1, LENGTH), (2, 5_000)] {
        assert_content(&dataset, id, len);
        assert_eq!(volumes.with_files(id), [1]);
    }
    let used: Vec<u64> = dataset.volumes().iter().map(|volume| volume.report().used).collect();
    assert_eq!(used, [0, LENGTH as u64 + 5_000]);
    let told: Vec<_> =
        changes.take(100).into_iter().map(|change| (change.event(), change.storage_id)).collect();
    let there = (ReplicaEvent::Received, volume_at(&dataset, 1).storage_id().to_owned());
    assert_eq!(told, [there.clone(), there], "arrivals, and no deletion");

    // Where it is already.
    assert!(dataset.move_to_volume(BlockId(1), &to(&dataset, 1), &fast()).is_err());
    drop(before);
    drop(dataset);
    let (dataset, _) = volumes.open();
    assert_eq!(dataset.replica_count(), 2);
    assert_content(&dataset, 1, LENGTH);
    assert_content(&dataset, 2, 5_000);
}

#[test]
fn a_replica_of_which_the_disk_has_records_only_moves_when_its_files_are_there() {
    let volumes = Volumes::new();
    let (dataset, _) = volumes.open();
    let small = bytes(2, 5_000);
    let mut sums = Vec::new();
    checksum().append_checksums(&small, &mut sums);
    let whole = Whole { data: &small, sums: &sums, checksum: checksum(), durable: true };
    let storage = volume_at(&dataset, 0).storage_id().to_owned();
    assert!(dataset.create_whole(block(2), whole, Some(&storage)).expect("created"));
    let refused = dataset.move_to_volume(BlockId(2), &to(&dataset, 1), &fast());
    assert!(matches!(refused, Err(DatanodeError::Transition(_))), "{refused:?}");
    dataset.sync_replica(block(2), 5_000).expect("on disk");
    dataset.move_to_volume(BlockId(2), &to(&dataset, 1), &fast()).expect("moved");
    assert_content(&dataset, 2, 5_000);
    assert_eq!(volumes.with_files(2), [1]);
}

#[test]
fn what_a_crash_leaves_is_one_whole_replica() {
    for case in 0..6 {
        let volumes = Volumes::new();
        let (dataset, _) = volumes.open();
        write(&dataset, 1, LENGTH, 0).finalize(true).expect("closed");
        let source = data_path(&volume_at(&dataset, 0), Home::Finalized, block(1));
        let source_meta = meta_path(&volume_at(&dataset, 0), Home::Finalized, block(1));
        let target = data_path(&volume_at(&dataset, 1), Home::Finalized, block(1));
        let target_meta = meta_path(&volume_at(&dataset, 1), Home::Finalized, block(1));
        volume_at(&dataset, 1).make_finalized_dir(BlockId(1)).expect("directory");
        let copy = Copy::new(&volume_at(&dataset, 1), block(1));
        drop(dataset);
        fs::copy(&source, &copy.data).expect("copied");
        fs::copy(&source_meta, &copy.meta).expect("copied");
        let expected = usize::from(matches!(case, 2 | 4 | 5));
        if case > 0 {
            fs::rename(&copy.meta, &target_meta).expect("renamed");
        }
        if case > 1 {
            fs::rename(&copy.data, &target).expect("renamed");
        }
        if case == 3 || case == 4 {
            // One of the two is damaged.
            let damaged = if case == 3 { &target } else { &source };
            let mut content = fs::read(damaged).expect("read");
            content[100_000] ^= 1;
            fs::write(damaged, content).expect("written");
        }
        if case == 5 {
            fs::remove_file(&source).expect("removed");
        }
        let (dataset, _) = volumes.open();
        assert_content(&dataset, 1, LENGTH);
        assert_eq!(volumes.with_files(1), [expected], "case {case}");
        assert_eq!(dataset.replica_count(), 1);
        let used: Vec<u64> = dataset.volumes().iter().map(|volume| volume.report().used).collect();
        assert_eq!(used[expected], LENGTH as u64, "case {case}: {used:?}");
        assert_eq!(used[1 - expected], 0, "case {case}: {used:?}");
        assert!(files_below(&volumes.dirs[1].path().join(layout::TMP)).is_empty());
    }
}

#[test]
fn replicas_in_use_stay_where_they_are() {
    let volumes = Volumes::new();
    let (dataset, _) = volumes.open();
    let is_busy = |id| {
        let moved = dataset.move_to_volume(BlockId(id), &to(&dataset, 1), &fast());
        matches!(moved, Err(DatanodeError::Transition(_)))
    };
    let writer = write(&dataset, 1, LENGTH, 0);
    assert!(is_busy(1), "it is being written");
    writer.finalize(false).expect("closed");
    {
        let _report = dataset.move_gate().pause();
        assert!(is_busy(1), "a full report is under way");
    }
    let asked = Reopen {
        block: block(1),
        stamp: GenerationStamp(11),
        least: LENGTH as u64,
        most: LENGTH as u64,
        random: true,
    };
    let mut writer = dataset.append(asked, checksum()).expect("reopened");
    let mut sums = Vec::new();
    checksum().append_checksums(&[7; 4096], &mut sums);
    writer.write_anywhere(8192, &[7; 4096], &sums, true).expect("written");
    writer.sync().expect("synced");
    assert!(is_busy(1), "it is being overwritten");
    writer.finalize(true).expect("closed");
    assert!(is_busy(1), "the journal has records of it");
    assert!(is_busy(99), "there is no such replica");
    assert_eq!(volumes.with_files(1), [0]);
    assert!(files_below(&volumes.dirs[1].path().join(layout::TMP)).is_empty(), "nothing is left behind");
}

#[test]
fn readers_appends_and_deletions_do_not_mind_moves() {
    let volumes = Volumes::new();
    let (dataset, _) = volumes.open();
    for id in 1..=4 {
        write(&dataset, id, LENGTH, 0).finalize(false).expect("closed");
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                for id in 1..=3 {
                    assert_content(&dataset, id, LENGTH);
                    reads += 1;
                }
            }
            reads
        });
        let mut moves = 0;
        for round in 0..20 {
            for id in 1..=4 {
                if round == 10 && id == 4 {
                    dataset.invalidate(block(4)).expect("deleted");
                }
                let moved = dataset.move_to_volume(BlockId(id), &to(&dataset, (round + 1) % 2), &fast());
                match moved {
                    Ok(_) => moves += 1,
                    // A reader has it open for a moment, or it is the deleted one.
                    Err(DatanodeError::Transition(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(moves >= 60, "{moves}");
        assert!(reader.join().expect("the reader ends") > 0);
    });
    assert_eq!(dataset.replica_count(), 3);
    assert_eq!(volumes.with_files(4), [0usize; 0]);
    for id in 1..=3 {
        assert_eq!(volumes.with_files(id).len(), 1);
    }
}
