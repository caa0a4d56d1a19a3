//! Flipped bytes, missing and cut files: the namespace is the same as without, or opening the directory is refused with
//! the file's name. Nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::consensus::Offline;
use crate::consensus::dir_lock::DirLock;
use crate::namesystem::invariants::TableDigest;

type Digest = Vec<TableDigest>;

/// Numbers that look random, the same for a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A directory with so many directories in its namespace, some of them in the store and some in the log only.
fn directory(dir: &Path, count: usize) {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let consensus = start(small(dir, 1)).await;
        consensus.propose(initialize()).await.expect("initialised");
        for at in 0..count / 2 {
            consensus.propose(mkdir(&format!("/a{at}"))).await.expect("made");
        }
        consensus.shutdown().await;
        drop(consensus);
        let consensus = start(ConsensusConfig { checkpoint_commands: 1_000_000, ..small(dir, 1) }).await;
        for at in 0..count / 2 {
            consensus.propose(mkdir(&format!("/b{at}"))).await.expect("made");
        }
        // As by a crash: the log has what the store has not.
        let marked = consensus.synced();
        drop(consensus);
        assert!(marked > 0);
    });
    // Returns when the node has let go of its files.
    DirLock::take(dir).expect("free");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("log")).expect("made");
    for file in files(from) {
        fs::copy(from.join(&file), to.join(&file)).expect("copied");
    }
}

/// Paths below `dir` of the files that matter.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (below, prefix) in [(dir.to_owned(), PathBuf::new()), (dir.join("log"), PathBuf::from("log"))] {
        for entry in fs::read_dir(below).expect("listed") {
            let entry = entry.expect("listed");
            if entry.path().is_file() && !["LOCK", "reserve"].iter().any(|name| entry.file_name() == *name) {
                found.push(prefix.join(entry.file_name()));
            }
        }
    }
    found.sort();
    found
}

fn read(dir: &Path) -> Result<Digest, String> {
    let opened = Offline::open(dir, false).map_err(|error| dfs_proto::error::one_line(&error))?;
    let snapshot = opened.0.snapshot();
    let digest = snapshot.digest().map_err(|error| error.to_string());
    assert!(digest.is_err() || snapshot.check_invariants().is_ok_and(|violations| violations.is_empty()));
    digest
}

/// What became of a damaged copy.
#[derive(Debug, Default)]
struct Outcomes {
    same: usize,
    refused: usize,
}

impl Outcomes {
    #[track_caller]
    fn judge(&mut self, what: &str, file: &Path, outcome: Result<Digest, String>, sound: &Digest) {
        match outcome {
            Ok(digest) => {
                assert_eq!(&digest, sound, "{what}: another namespace, and nobody noticed");
                self.same += 1;
            }
            Err(text) => {
                // A page and its sum disagree, whichever of the two is damaged.
                let name = file.file_stem().and_then(|name| name.to_str()).expect("text");
                assert!(text.contains(name), "{what}: refused without the file's name: {text}");
                self.refused += 1;
            }
        }
    }
}

fn flip(dir: &Path, file: &Path, offset: u64, bit: u64) {
    let path = dir.join(file);
    let mut bytes = fs::read(&path).expect("read");
    bytes[offset as usize] ^= 1 << bit;
    fs::write(&path, bytes).expect("written");
}

fn flip_and_judge(
    pristine: &Path,
    work: &Path,
    file: &Path,
    offsets: &[u64],
    sound: &Digest,
    random: &mut Random,
) -> Outcomes {
    let mut outcomes = Outcomes::default();
    for offset in offsets {
        let _ = fs::remove_dir_all(work);
        copy(pristine, work);
        let bit = random.below(8);
        flip(work, file, *offset, bit);
        outcomes.judge(&format!("{} at {offset}, bit {bit}", file.display()), file, read(work), sound);
    }
    println!("{}: {} flips, {outcomes:?}", file.display(), offsets.len());
    outcomes
}

/// In memory if there is such a file system: these tests copy a lot.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("directory")
}

#[test]
fn every_region_of_every_file_of_a_small_namespace() {
    let scratch = scratch();
    let (pristine, work) = (scratch.path().join("pristine"), scratch.path().join("work"));
    directory(&pristine, 24);
    copy(&pristine, &work);
    let sound = read(&work).expect("sound");
    let mut random = Random(7);
    for file in files(&pristine) {
        let bytes = fs::metadata(pristine.join(&file)).expect("there").len();
        // Small files in small steps; of a store the head, and each page at some place.
        let offsets: Vec<u64> = match file.extension().and_then(|ending| ending.to_str()) {
            Some("redb") => (0..320)
                .step_by(9)
                .chain((4096..bytes).step_by(4096).map(|at| at + random.below(4096)))
                .collect(),
            Some("sums") => (0..40).step_by(3).chain((4096..bytes).step_by(61)).collect(),
            Some("log") => (0..bytes).step_by(23).collect(),
            _ => (0..bytes).collect(),
        };
        let outcomes = flip_and_judge(&pristine, &work, &file, &offsets, &sound, &mut random);
        assert!(outcomes.refused > 0, "{}: nothing was ever noticed", file.display());
    }
}

#[test]
fn random_bytes_of_a_larger_namespace() {
    let seed = std::env::var("DFS_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121);
    println!("seed {seed} (DFS_TEST_SEED)");
    let mut random = Random(seed);
    let scratch = scratch();
    let (pristine, work) = (scratch.path().join("pristine"), scratch.path().join("work"));
    directory(&pristine, 600);
    copy(&pristine, &work);
    let sound = read(&work).expect("sound");
    let files = files(&pristine);
    for _ in 0..60 {
        let file = &files[random.below(files.len() as u64) as usize];
        let bytes = fs::metadata(pristine.join(file)).expect("there").len();
        let offset = random.below(bytes);
        flip_and_judge(&pristine, &work, file, &[offset], &sound, &mut random);
    }
}

#[test]
fn files_that_are_missing_cut_or_empty() {
    let scratch = scratch();
    let (pristine, work) = (scratch.path().join("pristine"), scratch.path().join("work"));
    directory(&pristine, 60);
    copy(&pristine, &work);
    let sound = read(&work).expect("sound");
    let all = files(&pristine);
    let last_segment = all.iter().rfind(|file| file.starts_with("log")).expect("a log").clone();
    for file in &all {
        let bytes = fs::metadata(pristine.join(file)).expect("there").len();
        for keep in [None, Some(0), Some(bytes / 2), Some(bytes - 1)] {
            if *file == last_segment && keep.is_some_and(|keep| keep > 48) {
                // The torn end of the log is dropped: that is what it is for.
                continue;
            }
            let _ = fs::remove_dir_all(&work);
            copy(&pristine, &work);
            match keep {
                None => fs::remove_file(work.join(file)).expect("removed"),
                Some(keep) => {
                    let cut = fs::File::options().write(true).open(work.join(file)).expect("opened");
                    cut.set_len(keep).expect("cut");
                }
            }
            let what = format!("{}, {keep:?} of {bytes} bytes", file.display());
            match read(&work) {
                Ok(digest) => assert_eq!(digest, sound, "{what}"),
                Err(text) => assert!(text.contains(work.to_str().expect("text")), "{what}: {text}"),
            }
        }
    }
    // Without its log, a state is not all that was acknowledged.
    let _ = fs::remove_dir_all(&work);
    copy(&pristine, &work);
    for file in all.iter().filter(|file| file.starts_with("log")) {
        fs::remove_file(work.join(file)).expect("removed");
    }
    let text = read(&work).expect_err("no log");
    assert!(text.contains("log is missing"), "{text}");
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let refused = runtime.block_on(Consensus::start(small(&work, 1), ignore_effects()));
    assert!(matches!(refused, Err(crate::consensus::ConsensusError::LogMissing { .. })));
}
