//! Directories that sessions read a lot: they open files there without asking, and nobody can tell.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use dfs_client::ErrorKind;
use dfs_client::fs::{Caller, FileSystem, InodeId, MoveMode, OpenFile, OpenOptions, SetAttributes};
use dfs_tests::cluster::{MiniCluster, SUPERUSER};
use dfs_tests::harness::run;
use dfs_tests::pattern::ensure_same;
use dfs_tests::wait::{PATIENCE, wait_until};

use super::{ROOT, directory, file, inode, session, user};
use crate::ensure_error;

pub(super) const READ: OpenOptions = OpenOptions { write: false, truncate: false };
const WRITE: OpenOptions = OpenOptions { write: true, truncate: false };
pub(super) const CUT: OpenOptions = OpenOptions { write: true, truncate: true };

/// A caller who says in which groups it is, as mounts do.
pub(super) fn me() -> Caller {
    user(SUPERUSER, &["staff"])
}

pub(super) async fn small_cluster() -> Result<MiniCluster> {
    MiniCluster::builder().datanodes(1).replication(1).start().await
}

/// Makes a file with this content.
pub(super) async fn put(fs: &FileSystem, dir: InodeId, name: &str, bytes: &[u8]) -> Result<InodeId> {
    let (made, handle) = fs.create(&me(), dir, name.as_bytes(), file()).await?;
    handle.write_at(0, Bytes::copy_from_slice(bytes)).await?;
    handle.flush().await?;
    handle.release(true).await?;
    Ok(inode(&made))
}

/// Gives a file another content.
pub(super) async fn replace(
    fs: &FileSystem,
    file: InodeId,
    bytes: &[u8],
    options: OpenOptions,
) -> Result<()> {
    let handle = fs.open(&me(), file, options).await?;
    handle.write_at(0, Bytes::copy_from_slice(bytes)).await?;
    handle.flush().await?;
    handle.release(true).await?;
    Ok(())
}

pub(super) async fn content(handle: &Arc<OpenFile>) -> Result<Vec<u8>> {
    let size = usize::try_from(handle.status().size)?;
    Ok(handle.read_at(0, size).await?.to_vec())
}

/// What an open sees.
async fn read(fs: &FileSystem, file: InodeId) -> Result<Vec<u8>> {
    let handle = fs.open(&me(), file, READ).await?;
    let bytes = content(&handle).await?;
    handle.release(false).await?;
    Ok(bytes)
}

/// Reads so much in a directory that it is delegated, for reading.
async fn share(fs: &FileSystem, dir: InodeId) -> Result<()> {
    let before = fs.delegation_counts().granted;
    wait_until("the directory is delegated for reading", PATIENCE, async || {
        fs.reading(&me(), dir);
        Ok(fs.delegation_counts().granted > before)
    })
    .await?;
    ensure!(fs.delegation_counts().shared > 0);
    Ok(())
}

/// A directory made by `fs` that it has not delegated.
async fn plain_directory(fs: &FileSystem, name: &str) -> Result<InodeId> {
    Ok(inode(&fs.make_node(&me(), ROOT, name.as_bytes(), directory(0o755)).await?))
}

/// Opens a file without a call.
async fn open_here(fs: &FileSystem, file: InodeId) -> Result<Arc<OpenFile>> {
    let before = fs.delegation_counts().opened;
    let handle = fs.open(&me(), file, READ).await?;
    ensure!(fs.delegation_counts().opened > before, "opened without a call");
    Ok(handle)
}

#[test]
fn sessions_that_read_share_a_directory_and_see_every_change_of_it_at_once() -> Result<()> {
    run(async {
        let cluster = small_cluster().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let writer = session(&cluster).await?;
        let mut now = Vec::new();
        for round in 0..6u8 {
            let dir = plain_directory(&writer, &format!("d{round}")).await?;
            let f = put(&writer, dir, "f", &[1; 3_000]).await?;
            let g = put(&writer, dir, "g", b"g").await?;
            for fs in [&one, &two] {
                share(fs, dir).await?;
                for _ in 0..2 {
                    let handle = open_here(fs, f).await?;
                    ensure_same("f", &content(&handle).await?, &[1; 3_000])?;
                    handle.release(false).await?;
                }
                fs.lookup(&me(), dir, b"g").await?;
            }
            match round {
                0 => replace(&writer, f, &[2; 5_000], WRITE).await?,
                1 => replace(&writer, f, b"short", CUT).await?,
                2 => drop(writer.rename(&me(), dir, b"g", dir, b"f", MoveMode::Replace).await?),
                3 => drop(writer.unlink(&me(), dir, b"f", false).await?),
                4 => {
                    let set = SetAttributes { size: Some(10), ..SetAttributes::default() };
                    writer.set_attributes(&me(), f, set).await?;
                }
                _ => {
                    // One that shares it changes it itself.
                    replace(&one, f, &[3; 10], CUT).await?;
                    ensure_same("own", &read(&one, f).await?, &[3; 10])?;
                }
            }
            for fs in [&one, &two, &writer] {
                let named = match fs.lookup(&me(), dir, b"f").await {
                    Ok(found) => Some(read(fs, inode(&found)).await?),
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    Err(error) => return Err(error.into()),
                };
                now.push(named);
            }
            let expected: Option<&[u8]> = match round {
                0 => Some(&[2; 5_000]),
                1 => Some(b"short"),
                2 => Some(b"g"),
                3 => None,
                4 => Some(&[1; 10]),
                _ => Some(&[3; 10]),
            };
            for named in now.drain(..) {
                ensure!(named.as_deref() == expected, "round {round}: {named:?}");
            }
            ensure!(writer.stat(&me(), g).await?.nlink == 1);
        }
        for fs in [one, two, writer] {
            fs.close().await?;
        }
        Ok(())
    })
}

#[test]
fn a_file_that_was_opened_without_a_call_outlives_its_name() -> Result<()> {
    run(async {
        let cluster = small_cluster().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        for round in 0..4 {
            let dir = plain_directory(&two, &format!("d{round}")).await?;
            let f = put(&two, dir, "f", b"still here").await?;
            put(&two, dir, "g", b"another").await?;
            share(&one, dir).await?;
            let handle = open_here(&one, f).await?;
            let (who, replaces) = ([&two, &one][round % 2], round / 2 == 1);
            match replaces {
                false => drop(who.unlink(&me(), dir, b"f", false).await?),
                true => drop(who.rename(&me(), dir, b"g", dir, b"f", MoveMode::Replace).await?),
            }
            ensure!(two.stat(&me(), f).await?.nlink == 0);
            ensure_same("without a name", &content(&handle).await?, b"still here")?;
            let again = one.open(&me(), f, READ).await?;
            handle.release(false).await?;
            ensure_same("opened again", &content(&again).await?, b"still here")?;
            again.release(false).await?;
            gone(&two, f).await?;
        }
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}

/// The space of a file is free.
async fn gone(fs: &FileSystem, file: InodeId) -> Result<()> {
    wait_until("it is gone", PATIENCE, async || {
        let found = fs.stat(&me(), file).await;
        Ok(found.is_err_and(|error| error.kind() == ErrorKind::NotFound))
    })
    .await
}

#[test]
fn a_file_opened_in_a_directory_that_is_changed_a_lot_outlives_its_name() -> Result<()> {
    run(async {
        let cluster = small_cluster().await?;
        let fs = session(&cluster).await?;
        let dir = plain_directory(&fs, "d").await?;
        let mut made = 0;
        wait_until("the directory is delegated", PATIENCE, async || {
            made += 1;
            put(&fs, dir, &format!("f{made}"), b"content").await?;
            Ok(fs.delegation_counts().answered > 3)
        })
        .await?;
        let f = inode(&fs.lookup(&me(), dir, format!("f{made}").as_bytes()).await?);
        let handle = open_here(&fs, f).await?;
        let answered = fs.delegation_counts().answered;
        fs.unlink(&me(), dir, format!("f{made}").as_bytes(), false).await?;
        ensure!(fs.delegation_counts().answered > answered, "removed without a call");
        fs.sync().await?;
        ensure_same("without a name", &content(&handle).await?, b"content")?;
        let other = session(&cluster).await?;
        ensure!(other.stat(&me(), f).await?.nlink == 0);
        handle.release(false).await?;
        gone(&other, f).await?;
        other.close().await?;
        fs.close().await?;
        Ok(())
    })
}

#[test]
fn who_may_not_read_is_refused_as_ever() -> Result<()> {
    run(async {
        let cluster = small_cluster().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let dir = plain_directory(&two, "d").await?;
        let f = put(&two, dir, "f", b"secret").await?;
        share(&one, dir).await?;
        let anne = user("anne", &["people"]);
        let handle = one.open(&anne, f, READ).await?;
        handle.release(false).await?;
        let set = |mode| SetAttributes { mode: Some(mode), ..SetAttributes::default() };
        two.set_attributes(&me(), f, set(0o600)).await?;
        ensure_error(one.open(&anne, f, READ).await, ErrorKind::AccessDenied, &f.to_string())?;
        // Who has its own way, too: the owner and the superuser.
        ensure_same("mine", &read(&one, f).await?, b"secret")?;
        one.set_attributes(&me(), f, set(0o640)).await?;
        let member = user("ben", &["staff"]);
        one.open(&member, f, READ).await?.release(false).await?;
        ensure_error(one.open(&anne, f, READ).await, ErrorKind::AccessDenied, &f.to_string())?;
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}

#[test]
fn a_session_that_is_gone_is_waited_for_until_its_time_is_over() -> Result<()> {
    run(async {
        let cluster =
            MiniCluster::builder().datanodes(1).replication(1).session_timeout_ms(2_000).start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let dir = plain_directory(&two, "d").await?;
        let f = put(&two, dir, "f", b"content").await?;
        share(&one, dir).await?;
        // Not closed: it falls silent.
        drop(one);
        let begun = Instant::now();
        two.lookup(&me(), dir, b"f").await?;
        ensure!(begun.elapsed() < Duration::from_secs(1), "who looks does not wait");
        replace(&two, f, b"new", CUT).await?;
        ensure!(begun.elapsed() < PATIENCE);
        ensure_same("new", &read(&two, f).await?, b"new")?;
        two.close().await?;
        Ok(())
    })
}

#[test]
fn what_is_open_without_a_call_survives_a_restart_of_the_namenode() -> Result<()> {
    run(async {
        let mut cluster = small_cluster().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let dir = plain_directory(&two, "d").await?;
        let f = put(&two, dir, "f", b"content").await?;
        two.sync().await?;
        share(&one, dir).await?;
        let handle = open_here(&one, f).await?;
        cluster.restart_namenode().await?;
        wait_until("the session is known again", PATIENCE, async || Ok(one.delegation_counts().shared == 0))
            .await?;
        // Opened by a call after everything was registered.
        one.open(&me(), f, READ).await?.release(false).await?;
        two.unlink(&me(), dir, b"f", false).await?;
        ensure!(two.stat(&me(), f).await?.nlink == 0);
        ensure_same("without a name", &content(&handle).await?, b"content")?;
        handle.release(false).await?;
        gone(&two, f).await?;
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}

#[test]
fn a_session_that_changes_a_directory_it_reads_gets_it_alone() -> Result<()> {
    run(async {
        let cluster = small_cluster().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let dir = plain_directory(&two, "d").await?;
        put(&two, dir, "f", b"content").await?;
        share(&one, dir).await?;
        share(&two, dir).await?;
        let (before, begun) = (one.delegation_counts().answered, Instant::now());
        let mut made = 0;
        wait_until("it is delegated to it alone", PATIENCE, async || {
            made += 1;
            one.make_node(&me(), dir, format!("n{made}").as_bytes(), file()).await?;
            Ok(one.delegation_counts().answered > before)
        })
        .await?;
        ensure!(begun.elapsed() < Duration::from_secs(4), "it does not rest: {:?}", begun.elapsed());
        two.lookup(&me(), dir, format!("n{made}").as_bytes()).await?;
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}
