//! A namenode whose machine loses what it had answered and not synced: a sync never says that it is there.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dfs_client::fs::{
    Caller, FileSystem, FileSystemConfig, InodeId, MoveMode, OpenFile, OpenOptions, SetAttributes,
};
use dfs_client::{DfsError, ErrorKind};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::read_all;
use tempfile::TempDir;

use super::{ROOT, SUPERUSER, config, directory, file, inode, root, session, user};
use crate::ensure_error;

const WRITE: OpenOptions = OpenOptions { write: true, truncate: false };

/// What a namenode's disk has.
struct Disk(TempDir);

/// What the namenode's disk has when all that it was told is synced. Nothing is purged so soon after its start; the log is copied first, so
/// that a checkpoint in between leaves no gap.
async fn save(cluster: &MiniCluster, one: &FileSystem) -> Result<Disk> {
    one.sync().await?;
    copy_disk(cluster)
}

fn copy_disk(cluster: &MiniCluster) -> Result<Disk> {
    let saved = tempfile::tempdir()?;
    for part in ["log", "vote", "state.redb", "state.sums"] {
        copy(&cluster.namenode_dir().join(part), &saved.path().join(part))?;
    }
    Ok(Disk(saved))
}

/// What the namenode's disk surely has now, by what the log says of itself.
async fn save_synced(cluster: &MiniCluster) -> Result<Disk> {
    let log = cluster.namenode_dir().join("log");
    // After a sync the log says so in a mark, in a moment; a sync that nobody asks for comes later.
    let marked = wait_until("a mark ends the log", Duration::from_millis(50), async || {
        Ok(records(&fs::read(last_segment(&log)?)?).last().is_some_and(|record| record.is_mark))
    });
    let _ = marked.await;
    let disk = copy_disk(cluster)?;
    let segment = last_segment(&disk.0.path().join("log"))?;
    let records = records(&fs::read(&segment)?);
    let synced = records.iter().map(|record| record.synced).max().unwrap_or(0);
    if let Some(lost) = records.iter().find(|record| !record.is_mark && record.index >= synced) {
        fs::OpenOptions::new().write(true).open(&segment)?.set_len(lost.offset)?;
    }
    Ok(disk)
}

/// What a test looks at of a record of the namenode's log (`consensus/record.rs`).
struct Record {
    offset: u64,
    is_mark: bool,
    index: u64,
    synced: u64,
}

fn records(segment: &[u8]) -> Vec<Record> {
    let (mut found, mut at) = (Vec::new(), 48);
    while let Some(header) = segment.get(at..at + 48) {
        let number =
            |range: Range<usize>| header[range].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
        found.push(Record {
            offset: at as u64,
            is_mark: header[12] == 3,
            index: number(16..24),
            synced: number(40..48),
        });
        at += 48 + number(8..12) as usize;
    }
    found
}

fn last_segment(log: &Path) -> Result<PathBuf> {
    let segments: Result<Vec<PathBuf>, _> =
        fs::read_dir(log)?.map(|item| item.map(|item| item.path())).collect();
    segments?.into_iter().max().context("a log has a segment")
}

/// The namenode's machine fails, and has on its disk what was there then.
async fn fail_machine(cluster: &mut MiniCluster, disk: &Disk) -> Result<()> {
    cluster.kill_namenode().await;
    let dir = cluster.namenode_dir();
    fs::remove_dir_all(&dir)?;
    copy(disk.0.path(), &dir)?;
    cluster.start_namenode().await
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return Ok(fs::copy(from, to).map(drop)?);
    }
    fs::create_dir_all(to)?;
    for item in fs::read_dir(from)? {
        let item = item?;
        copy(&item.path(), &to.join(item.file_name()))?;
    }
    Ok(())
}

/// A session that sends each change by itself.
async fn direct_session(cluster: &MiniCluster) -> Result<FileSystem> {
    Ok(FileSystem::connect(FileSystemConfig { delegations: false, ..config(cluster) }).await?)
}

async fn new_file(fs: &FileSystem, name: &str, bytes: &[u8]) -> Result<(InodeId, Arc<OpenFile>)> {
    let (made, handle) = fs.create(&root(), ROOT, name.as_bytes(), file()).await?;
    handle.write_at(0, Bytes::copy_from_slice(bytes)).await?;
    Ok((inode(&made), handle))
}

fn ensure_lost<T: std::fmt::Debug>(outcome: Result<T, DfsError>) -> Result<()> {
    ensure_error(outcome, ErrorKind::ChangesLost, "")
}

#[test]
fn a_sync_of_what_was_lost_fails_once_and_only_that() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::start().await?;
        let one = direct_session(&cluster).await?;
        let me = root();
        // More than a block, so that some are ended and told of.
        let bytes = pattern(1, 0, 2_500_000);
        // In large pieces, so that the pipeline does not change under them, which would have the namenode sync.
        let (node, appended) = new_file(&one, "appended", &bytes[..200_000]).await?;
        let (_, quiet) = new_file(&one, "quiet", b"quiet").await?;
        for from in [200_000u32, 400_000] {
            // New files are closed by their first sync.
            appended.sync(false).await?;
            let more = &bytes[from as usize..][..200_000];
            appended.write_at(from.into(), Bytes::copy_from_slice(more)).await?;
        }
        // A sync that is about more than bytes leaves nothing to a recovery, for which the file would be closed durably.
        one.set_attributes(&me, node, SetAttributes { mode: Some(0o640), ..SetAttributes::default() })
            .await?;
        appended.sync(false).await?;
        quiet.sync(false).await?;
        let dir = inode(&one.make_node(&me, ROOT, b"dir", directory(0o755)).await?);
        let still = inode(&one.make_node(&me, ROOT, b"still", directory(0o755)).await?);
        one.make_node(&me, dir, b"old-name", file()).await?;
        one.sync().await?;
        let disk = save(&cluster, &one).await?;

        appended.write_at(600_000, Bytes::copy_from_slice(&bytes[600_000..])).await?;
        appended.flush().await?;
        let (made, forgotten) = new_file(&one, "forgotten", b"forgotten").await?;
        forgotten.flush().await?;
        one.rename(&me, dir, b"old-name", dir, b"new-name", MoveMode::Replace).await?;
        fail_machine(&mut cluster, &disk).await?;

        ensure_lost(appended.sync(false).await)?;
        appended.sync(false).await?;
        quiet.sync(false).await?;
        one.sync_directory(still).await?;
        ensure_lost(one.sync_directory(dir).await)?;
        one.sync_directory(dir).await?;
        ensure_lost(one.sync_directory(ROOT).await)?;
        one.sync_directory(ROOT).await?;
        ensure_lost(one.sync().await)?;
        one.sync().await?;
        ensure_lost(forgotten.sync(false).await)?;
        // That it is gone was told already.
        let _ = forgotten.release(true).await;
        ensure_error(one.stat(&me, made).await, ErrorKind::NotFound, "")?;
        one.lookup(&me, dir, b"old-name").await?;

        // What is new is synced as ever.
        let (_, after) = new_file(&one, "after", b"after").await?;
        after.sync(false).await?;
        after.release(true).await?;
        appended.write_at(2_500_000, Bytes::from_static(b"more")).await?;
        appended.sync(false).await?;
        appended.release(true).await?;
        quiet.release(true).await?;
        cluster.restart_namenode().await?;
        let client = cluster.client().await?;
        let found = read_all(&client, "/appended").await?;
        ensure_same("told again", &found[..1 << 20], &bytes[..1 << 20])?;
        ensure_same(
            "blocks that the namenode forgot",
            &found[1 << 20..2_500_000],
            &vec![0; 2_500_000 - (1 << 20)],
        )?;
        ensure_same("written after", &found[2_500_000..], b"more")?;
        one.close().await?;
        Ok(())
    })
}

#[test]
fn a_file_that_was_closed_before_its_changes_were_lost_fails_its_next_sync() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::start().await?;
        let one = direct_session(&cluster).await?;
        let me = root();
        let (node, handle) = new_file(&one, "f", b"old").await?;
        handle.sync(false).await?;
        handle.release(true).await?;
        one.sync().await?;
        let disk = save(&cluster, &one).await?;
        let handle = one.open(&me, node, WRITE).await?;
        handle.write_at(3, Bytes::from_static(b" and new")).await?;
        handle.release(true).await?;
        fail_machine(&mut cluster, &disk).await?;
        let handle = one.open(&me, node, WRITE).await?;
        ensure_lost(handle.sync(false).await)?;
        handle.sync(false).await?;
        handle.write_at(3, Bytes::from_static(b" and newer")).await?;
        handle.sync(false).await?;
        handle.release(true).await?;
        ensure_same("f", &read_all(&cluster.client().await?, "/f").await?, b"old and newer")?;
        one.close().await.or_else(|error| match error.kind() {
            // The session as a whole was never told.
            ErrorKind::ChangesLost => Ok(()),
            _ => Err(error),
        })?;
        Ok(())
    })
}

#[test]
fn what_was_synced_into_an_open_block_and_closed_stays_when_the_log_loses_its_end() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::start().await?;
        let one = direct_session(&cluster).await?;
        let me = root();
        for round in 0..3 {
            let name = format!("f{round}");
            let (node, handle) = new_file(&one, &name, &pattern(4, 0, 100_000)).await?;
            handle.sync(false).await?;
            handle.release(true).await?;
            // The second sync needs nothing of the namenode's disk.
            let handle = one.open(&me, node, WRITE).await?;
            for from in [100_000u32, 110_000] {
                handle.write_at(from.into(), Bytes::from(pattern(4, from.into(), 10_000))).await?;
                handle.sync(false).await?;
            }
            handle.release(true).await?;
            let disk = save_synced(&cluster).await?;
            fail_machine(&mut cluster, &disk).await?;
            // Before what was synced: it must not cut what is behind.
            let handle = one.open(&me, node, WRITE).await?;
            handle.write_at(50_000, Bytes::from(pattern(4, 50_000, 1_000))).await?;
            let _ = handle.sync(false).await;
            let _ = handle.release(true).await;
            let found = read_all(&cluster.client().await?, &format!("/{name}")).await?;
            ensure_same(&name, &found, &pattern(4, 0, 120_000))?;
        }
        Ok(())
    })
}

/// Makes files in a directory until it is delegated.
async fn delegated(one: &FileSystem, me: &Caller, dir: InodeId) -> Result<()> {
    let mut count = 0;
    wait_until("the directory is delegated", PATIENCE, async || {
        count += 1;
        one.make_node(me, dir, format!("first{count}").as_bytes(), file()).await?;
        Ok(one.delegation_counts().answered > 0)
    })
    .await
}

#[test]
fn a_delegated_directory_whose_changes_were_lost_fails_its_next_sync() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(0).start().await?;
        let one = session(&cluster).await?;
        let me = user(SUPERUSER, &["staff"]);
        let dir = inode(&one.make_node(&me, ROOT, b"d", directory(0o755)).await?);
        one.sync().await?;
        let disk = save(&cluster, &one).await?;
        delegated(&one, &me, dir).await?;
        for number in 0..500 {
            one.make_node(&me, dir, format!("f{number}").as_bytes(), file()).await?;
        }
        // Recalled, so that all was carried out; not synced.
        let two = session(&cluster).await?;
        two.lookup(&me, dir, b"f499").await?;
        fail_machine(&mut cluster, &disk).await?;
        ensure_error(two.lookup(&me, dir, b"f499").await, ErrorKind::NotFound, "")?;
        two.sync().await?;
        ensure_lost(one.sync_directory(dir).await)?;
        one.make_node(&me, dir, b"again", file()).await?;
        one.sync_directory(dir).await?;
        ensure_lost(one.sync().await)?;
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}

#[test]
fn a_file_that_was_lost_before_its_close_was_carried_out_fails_the_next_sync() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::start().await?;
        let one = session(&cluster).await?;
        let me = user(SUPERUSER, &["staff"]);
        let dir = inode(&one.make_node(&me, ROOT, b"d", directory(0o755)).await?);
        delegated(&one, &me, dir).await?;
        let disk = save(&cluster, &one).await?;
        let (_, handle) = one.create(&me, dir, b"f", file()).await?;
        handle.write_at(0, Bytes::from_static(b"never synced")).await?;
        wait_until("the file is made", PATIENCE, async || Ok(one.delegation_counts().queued == 0)).await?;
        cluster.kill_namenode().await;
        handle.flush().await?;
        fail_machine(&mut cluster, &disk).await?;
        ensure!(one.sync().await.is_err(), "the file is gone");
        ensure!(handle.sync(false).await.is_err(), "so it is for its writer");
        ensure_error(one.lookup(&me, dir, b"f").await, ErrorKind::NotFound, "f")?;
        let _ = handle.release(true).await;
        one.make_node(&me, dir, b"again", file()).await?;
        one.close()
            .await
            .or_else(|error| if error.kind() == ErrorKind::ChangesLost { Ok(()) } else { Err(error) })?;
        Ok(())
    })
}

#[test]
fn a_restart_that_loses_nothing_fails_no_sync() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::start().await?;
        for delegations in [false, true] {
            let one = FileSystem::connect(FileSystemConfig { delegations, ..config(&cluster) }).await?;
            let me = root();
            let dir = inode(&one.make_node(&me, ROOT, b"d", directory(0o755)).await?);
            let (_, open) = new_file(&one, "open", b"first").await?;
            open.flush().await?;
            for round in 0..4u64 {
                for number in 0..50 {
                    let name = format!("{round}-{number}");
                    one.make_node(&me, dir, name.as_bytes(), file()).await?;
                }
                open.write_at(round * 600_000, Bytes::from(vec![b'x'; 600_000])).await?;
                open.flush().await?;
                cluster.restart_namenode().await?;
                if round % 2 == 0 {
                    open.sync(false).await?;
                    one.sync_directory(dir).await?;
                }
            }
            one.sync().await?;
            open.sync(false).await?;
            open.release(true).await?;
            one.unlink(&me, ROOT, b"open", false).await?;
            one.rename(&me, ROOT, b"d", ROOT, format!("d-{delegations}").as_bytes(), MoveMode::Replace)
                .await?;
            one.close().await?;
        }
        Ok(())
    })
}
