//! What was answered before it was on disk, and whether the log still has it after a start.

use std::time::Duration;

use dfs_proto::v1::LogPosition;

use super::single::crash_image;
use super::*;

async fn relaxed(consensus: &Consensus, path: &str) -> LogPosition {
    consensus.propose_relaxed(mkdir(path)).await.expect("made").1
}

fn has(consensus: &Consensus, position: LogPosition) -> bool {
    consensus.has(&position).expect("it leads")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_a_machine_lost_are_not_taken_for_those_made_in_their_place() {
    let dir = tempfile::tempdir().expect("directory");
    let consensus = start(small(dir.path(), 1)).await;
    consensus.propose(initialize()).await.expect("initialized");
    let kept = relaxed(&consensus, "/kept").await;
    consensus.wait_synced(kept.index).await.expect("synced");
    // All that a disk has which loses what is not synced.
    let image = crash_image(dir.path());
    let lost = relaxed(&consensus, "/lost").await;
    assert!(has(&consensus, kept) && has(&consensus, lost));
    consensus.shutdown().await;

    let revived = start(small(image.path(), 1)).await;
    assert!(has(&revived, kept) && !has(&revived, lost));
    let instead = relaxed(&revived, "/instead").await;
    assert_eq!(instead.index, lost.index, "the same place in the log");
    assert!(has(&revived, instead) && !has(&revived, lost));
    // Also when the log of that time is purged and only the state tells.
    for name in 0..200 {
        revived.propose(mkdir(&format!("/d{name}"))).await.expect("made");
    }
    let first = || std::fs::read_dir(image.path().join("log")).expect("log").count();
    eventually("the log is purged", || first() < 4).await;
    revived.shutdown().await;
    drop(revived);
    let again = start(small(image.path(), 1)).await;
    assert!(has(&again, kept) && has(&again, instead) && !has(&again, lost));
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_seems_lost_after_the_end_of_the_process() {
    let dir = tempfile::tempdir().expect("directory");
    let config = ConsensusConfig { checkpoint_interval: Duration::from_millis(20), ..small(dir.path(), 1) };
    let mut told = Vec::new();
    for round in 0..6 {
        let consensus = start(config.clone()).await;
        if round == 0 {
            consensus.propose(initialize()).await.expect("initialized");
        }
        for position in &told {
            assert!(has(&consensus, *position), "{position:?} in round {round}");
        }
        for name in 0..40 {
            told.push(relaxed(&consensus, &format!("/{round}-{name}")).await);
        }
        // As by kill -9: what was answered is in the log file.
        drop(consensus);
    }
}
