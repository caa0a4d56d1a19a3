//! A node alone: restart, crash, damage, checkpoints.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::consensus::segment::{self, Header};
use crate::consensus::{ConsensusError, Damage, ProposeError};
use crate::log::{CreateOp, DeleteOp};

fn dir() -> TempDir {
    tempfile::tempdir().expect("directory")
}

/// What a machine that lost its process finds: the files as they are now. The log is copied before the
/// state, oldest segment first, so that a checkpoint or a purge in between leaves no hole.
pub(super) fn crash_image(from: &Path) -> TempDir {
    let to = dir();
    fs::create_dir(to.path().join("log")).expect("created");
    let segments = segments(from).into_iter().map(|path| (path.clone(), Path::new("log").join(name(&path))));
    // A page that is overwritten meanwhile has been freed by a state that the copy does not have yet.
    let others = ["vote", "state.redb", "state.sums"].map(|file| (from.join(file), PathBuf::from(file)));
    for (source, target) in segments.chain(others) {
        match fs::copy(source, to.path().join(target)) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "only purged segments may vanish"),
        }
    }
    to
}

fn name(path: &Path) -> &OsStr {
    path.file_name().expect("named")
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let list = fs::read_dir(dir.join("log")).expect("log");
    let mut paths: Vec<PathBuf> = list.map(|item| item.expect("readable").path()).collect();
    paths.sort();
    paths
}

fn create(path: &str) -> CreateOp {
    CreateOp {
        node: Some(node(path)),
        mode: 0o644,
        holder: "writer".into(),
        replication: 1,
        block_size: 1 << 20,
        ..CreateOp::default()
    }
}

async fn make(consensus: &Consensus, names: std::ops::Range<usize>) {
    for name in names {
        consensus.propose(mkdir(&format!("/d{name}"))).await.expect("applied");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_made_together_are_carried_out_in_their_order() {
    let dir = dir();
    let consensus = start(small(dir.path(), 1)).await;
    consensus.propose(initialize()).await.expect("carried out");
    // Each needs the one before; each second one is refused and stops nothing. More than an entry holds.
    let mut path = String::new();
    let mut commands = Vec::new();
    for at in 0..700 {
        if at % 50 == 0 {
            path = format!("/{at}");
        } else {
            path.push_str("/d");
        }
        commands.extend([mkdir(&path), mkdir(&path)]);
    }
    let outcomes = consensus.propose_all_relaxed(commands).await;
    assert_eq!(outcomes.len(), 1_400);
    for pair in outcomes.chunks(2) {
        assert!(pair[0].is_ok() && matches!(pair[1], Err(ProposeError::Refused(_))), "{pair:?}");
    }
    let indexes: Vec<u64> = outcomes.iter().flatten().map(|(_, position)| position.index).collect();
    assert!(indexes.is_sorted() && indexes.last() > indexes.first());
    consensus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_is_applied_and_a_refusal_reported() {
    let dir = dir();
    let consensus = start(small(dir.path(), 1)).await;
    assert!(consensus.is_leader());
    consensus.propose(initialize()).await.expect("initialized");
    consensus.propose(mkdir("/a")).await.expect("made");
    assert!(exists(&consensus, "/a"));
    match consensus.propose(mkdir("/a")).await {
        Err(ProposeError::Refused(error)) => assert_eq!(error.to_string(), "/a: exists"),
        other => panic!("{other:?}"),
    }
    consensus.shutdown().await;
    assert!(matches!(
        consensus.propose(mkdir("/b")).await,
        Err(ProposeError::Stopped | ProposeError::NotLeader { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_namenode_on_the_directory_is_refused() {
    let dir = dir();
    let first = start(small(dir.path(), 1)).await;
    let second = Consensus::start(small(dir.path(), 1), ignore_effects()).await;
    assert!(matches!(second, Err(ConsensusError::Locked { .. })));
    first.shutdown().await;
    drop(first);
    let second = start(small(dir.path(), 1)).await;
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_with_other_files_is_left_alone() {
    let dir = dir();
    fs::create_dir(dir.path().join("lost+found")).expect("created");
    fs::write(dir.path().join("thesis.txt"), "precious").expect("written");
    let refused = Consensus::start(small(dir.path(), 1), ignore_effects()).await;
    assert!(matches!(refused, Err(ConsensusError::ForeignDirectory { name, .. }) if name == "thesis.txt"));
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 2, "nothing was made");
    fs::remove_file(dir.path().join("thesis.txt")).expect("removed");
    start(small(dir.path(), 1)).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_restart_finds_everything_and_the_retry_cache_too() {
    let dir = dir();
    let consensus = start(small(dir.path(), 1)).await;
    consensus.propose(initialize()).await.expect("initialized");
    let keyed = Command { client_id: vec![7; 16], call_id: 1, ..mkdir("/once") };
    let reply = consensus.propose(keyed.clone()).await.expect("made");
    consensus.shutdown().await;
    drop(consensus);
    let consensus = start(small(dir.path(), 1)).await;
    assert!(exists(&consensus, "/once"));
    assert_eq!(consensus.propose(keyed).await.expect("same reply"), reply);
    consensus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_loses_nothing_acknowledged() {
    let dir = dir();
    let consensus = start(small(dir.path(), 1)).await;
    consensus.propose(initialize()).await.expect("initialized");
    // Enough for several segments and checkpoints; the image is taken between two of them.
    make(&consensus, 0..120).await;
    let image = crash_image(dir.path());
    let revived = start(small(image.path(), 1)).await;
    for name in 0..120 {
        assert!(exists(&revived, &format!("/d{name}")), "/d{name} is lost");
    }
    make(&revived, 120..130).await;
    revived.shutdown().await;
    consensus.shutdown().await;
}

/// Layers are flushed by their thread all the time, also while the image is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_after_a_crash_is_the_state_before_it_wherever_its_rows_were() {
    let seed =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    println!("seed {seed}");
    let mut random = u64::try_from(seed & u128::from(u64::MAX)).expect("masked");
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let digest = |consensus: &Consensus| Snapshot::open(&consensus.store()).digest().expect("readable");
    // A copy of a file while a checkpoint is written is no image of one moment.
    let config = |dir: &TempDir| ConsensusConfig { checkpoint_commands: 10_000, ..small(dir.path(), 1) };
    let mut dir = dir();
    let mut consensus = start(config(&dir)).await;
    consensus.propose(initialize()).await.expect("initialized");
    let mut names = 0;
    for _ in 0..8 {
        for _ in 0..1 + below(90) {
            let command = match below(4) {
                0 => command(Op::Delete(DeleteOp {
                    node: Some(node(&format!("/d{}", below(names + 1)))),
                    recursive: true,
                })),
                _ => mkdir(&format!("/d{names}")),
            };
            names += 1;
            match consensus.propose_relaxed(command).await {
                Ok(_) | Err(ProposeError::Refused(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let before = digest(&consensus);
        let image = crash_image(dir.path());
        let revived = start(config(&image)).await;
        assert_eq!(digest(&revived), before);
        consensus.shutdown().await;
        (consensus, dir) = (revived, image);
        if below(3) == 0 {
            consensus.shutdown().await;
            drop(consensus);
            consensus = start(config(&dir)).await;
            assert_eq!(digest(&consensus), before);
        }
    }
    consensus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_node_frees_the_directory() {
    let dir = dir();
    let consensus = start(small(dir.path(), 1)).await;
    consensus.propose(initialize()).await.expect("initialized");
    make(&consensus, 0..3).await;
    drop(consensus);
    let revived = start(small(dir.path(), 1)).await;
    assert!(exists(&revived, "/d2"));
    revived.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_purged_behind_checkpoints() {
    let dir = dir();
    let consensus = start(small(dir.path(), 1)).await;
    consensus.propose(initialize()).await.expect("initialized");
    make(&consensus, 0..300).await;
    eventually("old segments are deleted", || {
        let segments = segments(dir.path());
        !segments[0].ends_with("00000000000000000000.log") && segments.len() < 10
    })
    .await;
    let image = crash_image(dir.path());
    consensus.shutdown().await;
    let revived = start(small(image.path(), 1)).await;
    assert!(exists(&revived, "/d0") && exists(&revived, "/d299"));
    revived.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_proposals_share_entries_and_syncs() {
    const CALLERS: usize = 16;
    const EACH: usize = 40;
    let dir = dir();
    let config = ConsensusConfig::new(dir.path(), 1);
    let consensus = start(config).await;
    consensus.propose(initialize()).await.expect("initialized");
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let consensus = consensus.clone();
        tasks.spawn(async move {
            for call in 0..EACH {
                consensus.propose(mkdir(&format!("/c{caller}-{call}"))).await.expect("made");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic");
    }
    let entries = usize::try_from(consensus.synced()).expect("small");
    assert!(entries < CALLERS * EACH, "{entries} entries");
    assert!(exists(&consensus, &format!("/c{}-{}", CALLERS - 1, EACH - 1)));
    consensus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relaxed_proposal_becomes_durable_soon() {
    let dir = dir();
    let consensus = start(small(dir.path(), 1)).await;
    consensus.propose(initialize()).await.expect("initialized");
    let (_, position) = consensus.propose_relaxed(mkdir("/soon")).await.expect("made");
    assert!(exists(&consensus, "/soon"));
    consensus.wait_synced(position.index).await.expect("synced");
    assert!(consensus.synced() > position.index);
    let image = crash_image(dir.path());
    consensus.shutdown().await;
    let revived = start(small(image.path(), 1)).await;
    assert!(exists(&revived, "/soon"));
    revived.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_tail_is_dropped_at_every_byte() {
    let dir = dir();
    let config = ConsensusConfig::new(dir.path(), 1);
    let consensus = start(config).await;
    consensus.propose(initialize()).await.expect("initialized");
    make(&consensus, 0..3).await;
    let image = crash_image(dir.path());
    consensus.shutdown().await;
    let last = segments(image.path()).pop().expect("a segment");
    let whole = fs::read(&last).expect("readable");
    let header = Header::decode(&whole, 0).expect("header");
    let scan = segment::scan(&whole, &header).expect("valid");
    let last_record = scan.entries.last().expect("entries").offset;
    for cut in (last_record..whole.len()).step_by(7) {
        let torn = crash_image(image.path());
        let path = torn.path().join("log").join(name(&last));
        fs::write(path, &whole[..cut]).expect("written");
        let revived = start(ConsensusConfig::new(torn.path(), 1)).await;
        assert!(exists(&revived, "/d1"), "cut at {cut}");
        revived.propose(mkdir("/after")).await.expect("goes on");
        revived.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_the_log_is_refused_with_file_and_offset() {
    let dir = dir();
    let consensus = start(ConsensusConfig::new(dir.path(), 1)).await;
    consensus.propose(initialize()).await.expect("initialized");
    make(&consensus, 0..3).await;
    // The mark that says that the last entry is on disk follows a moment after the reply.
    let marked = || fs::metadata(&segments(dir.path())[0]).expect("segment").len();
    let before = marked();
    consensus.propose(mkdir("/last")).await.expect("made");
    eventually("the mark is written", || marked() > before + 100).await;
    let image = crash_image(dir.path());
    consensus.shutdown().await;
    let path = segments(image.path()).pop().expect("a segment");
    let mut bytes = fs::read(&path).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).expect("written");
    match Consensus::start(ConsensusConfig::new(image.path(), 1), ignore_effects()).await {
        Err(ConsensusError::Damaged { path: named, offset, reason }) => {
            assert_eq!((named, reason), (path, Damage::Acknowledged));
            assert!(offset <= middle as u64 && offset > 0);
        }
        Ok(_) => panic!("started on a damaged log"),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_with_a_missing_segment_is_refused() {
    let dir = dir();
    let config = ConsensusConfig {
        segment_bytes: 4 << 10,
        checkpoint_commands: 1_000_000,
        ..ConsensusConfig::new(dir.path(), 1)
    };
    let consensus = start(config.clone()).await;
    consensus.propose(initialize()).await.expect("initialized");
    make(&consensus, 0..200).await;
    let image = crash_image(dir.path());
    consensus.shutdown().await;
    let segments = segments(image.path());
    assert!(segments.len() > 2, "{} segments", segments.len());
    fs::remove_file(&segments[1]).expect("deleted");
    let config = ConsensusConfig { dir: image.path().to_owned(), ..config };
    match Consensus::start(config, ignore_effects()).await {
        Err(ConsensusError::Gap { state_ends, log_begins, .. }) => assert!(log_begins > state_ends),
        Ok(_) => panic!("started with a gap in the log"),
        Err(other) => panic!("{other}: {segments:?}"),
    }
    assert!(segments[0].exists(), "nothing may be deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_written_stops_everything_and_is_named() {
    let dir = dir();
    let consensus = start(small(dir.path(), 1)).await;
    consensus.propose(initialize()).await.expect("initialized");
    // The next segment cannot be created.
    fs::remove_dir_all(dir.path().join("log")).expect("removed");
    let mut acknowledged = 0;
    let refused = loop {
        let call = consensus.propose(mkdir(&format!("/d{acknowledged}")));
        match tokio::time::timeout(PATIENCE, call).await.expect("answered") {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1_000, "the segment never fills");
    };
    assert!(matches!(refused, ProposeError::Stopped | ProposeError::NotLeader { .. }), "{refused}");
    let failure = tokio::time::timeout(PATIENCE, consensus.failed()).await.expect("noticed");
    assert!(
        matches!(&*failure, ConsensusError::Io { path, .. } if path.starts_with(dir.path())),
        "{failure}"
    );
    let again = tokio::time::timeout(PATIENCE, consensus.propose(mkdir("/later"))).await.expect("answered");
    assert!(again.is_err());
    consensus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_arrive_before_the_reply() {
    let dir = dir();
    let effects = Effects::default();
    let consensus = Consensus::start(small(dir.path(), 1), effects.sink()).await.expect("started");
    consensus.wait_for_leader(PATIENCE).await.expect("leads");
    consensus.propose(initialize()).await.expect("initialized");
    assert_eq!(effects.count(), 0);
    consensus.propose(command(Op::Create(create("/f")))).await.expect("created");
    assert_eq!(effects.count(), 1, "the lease");
    consensus.shutdown().await;
}
