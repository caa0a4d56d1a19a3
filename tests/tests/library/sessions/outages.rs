//! A namenode that is away, and one that comes back without its memory.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use dfs_client::ErrorKind;
use dfs_client::fs::{FileLock, LockType, OpenOptions};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::ensure_same;
use dfs_tests::wait::{PATIENCE, wait_until};

use super::{ROOT, directory, file, impatient_session, inode, root, session};
use crate::ensure_error;

#[test]
fn calls_wait_for_the_namenode_to_come_back_and_act_once() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(0).start().await?;
        let fs = session(&cluster).await?;
        let impatient = impatient_session(&cluster).await?;
        let me = root();
        fs.make_node(&me, ROOT, b"d", directory(0o755)).await?;
        fs.sync().await?;
        cluster.kill_namenode().await;

        let started = Instant::now();
        ensure_error(impatient.stat(&me, ROOT).await, ErrorKind::Unavailable, "namenode")?;
        ensure!(started.elapsed() < Duration::from_secs(10), "gave up after {:?}", started.elapsed());
        let mut waiting = tokio::spawn({
            let (fs, me) = (fs.clone(), me.clone());
            async move {
                let made = fs.make_node(&me, ROOT, b"made", directory(0o755)).await?;
                let found = fs.lookup(&me, ROOT, b"d").await?;
                Ok::<_, dfs_client::DfsError>((made, found))
            }
        });
        let early = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
        ensure!(early.is_err(), "it waits");
        cluster.start_namenode().await?;
        let (made, _) = tokio::time::timeout(PATIENCE, waiting).await???;
        assert_eq!(fs.lookup(&me, ROOT, b"made").await?.inode, made.inode);
        impatient.close().await?;
        fs.close().await?;
        Ok(())
    })
}

#[test]
fn a_session_survives_a_restart_of_the_namenode_with_its_locks_and_open_files() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let me = root();
        let (made, handle) = one.create(&me, ROOT, b"f", file()).await?;
        handle.write_at(0, Bytes::from_static(b"before ")).await?;
        handle.sync(false).await?;
        one.unlink(&me, ROOT, b"f", false).await?;
        let lock = FileLock {
            inode: made.inode,
            owner: 5,
            start: 10,
            end: 19,
            r#type: LockType::Write.into(),
            ..Default::default()
        };
        ensure!(one.set_lock(&me, lock, false).await?);
        one.sync().await?;

        cluster.restart_namenode().await?;
        wait_until("the lock is there again", PATIENCE, async || {
            Ok(two.get_lock(&me, FileLock { owner: 6, ..lock }).await?.is_some())
        })
        .await?;
        handle.write_at(7, Bytes::from_static(b"and after")).await?;
        handle.flush().await?;
        let again = one.open(&me, inode(&made), OpenOptions::default()).await?;
        ensure_same("orphan", &again.read_at(0, 100).await?, b"before and after")?;
        again.release(false).await?;
        ensure!(one.set_lock(&me, FileLock { r#type: LockType::Unlock.into(), ..lock }, false).await?);
        ensure!(two.set_lock(&me, lock, false).await?);
        handle.release(true).await?;
        wait_until("it is gone", PATIENCE, async || {
            let found = two.stat(&me, inode(&made)).await;
            Ok(found.is_err_and(|error| error.kind() == ErrorKind::NotFound))
        })
        .await?;
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}
