//! Locks between sessions.

use std::time::Duration;

use anyhow::{Result, ensure};
use dfs_client::ErrorKind;
use dfs_client::fs::{FileLock, LOCK_END, LockSpace, LockType};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::wait::{PATIENCE, wait_until};

use super::{ROOT, file, inode, root, session};
use crate::ensure_error;

/// Long enough for what must not happen.
const A_MOMENT: Duration = Duration::from_millis(50);

fn lock(file: u64, owner: u64, range: (u64, u64), kind: LockType) -> FileLock {
    let (start, end) = range;
    FileLock { inode: file, owner, start, end, r#type: kind.into(), pid: 99, ..Default::default() }
}

#[test]
fn ranges_are_kept_apart_between_sessions_and_owners() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(0).start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let me = root();
        let file = one.make_node(&me, ROOT, b"f", file()).await?.inode;
        let write = |owner, from, to| lock(file, owner, (from, to), LockType::Write);
        ensure!(one.set_lock(&me, write(1, 0, 99), false).await?);
        ensure!(!two.set_lock(&me, write(1, 50, 149), false).await?, "another session");
        ensure!(!one.set_lock(&me, write(2, 50, 149), false).await?, "another owner");
        ensure!(two.set_lock(&me, write(1, 100, 149), false).await?);
        let blocker = two.get_lock(&me, write(1, 0, LOCK_END)).await?.expect("is locked");
        assert_eq!((blocker.start, blocker.end, blocker.r#type(), blocker.pid), (0, 99, LockType::Write, 0));
        assert_eq!(one.get_lock(&me, write(2, 0, 0)).await?.map(|lock| lock.pid), Some(99));

        let unlock = lock(file, 1, (0, LOCK_END), LockType::Unlock);
        ensure!(one.set_lock(&me, unlock, false).await?);
        ensure!(two.set_lock(&me, write(1, 0, 50), false).await?);
        // The other space.
        let whole = FileLock { space: LockSpace::Flock.into(), ..write(7, 5, 6) };
        ensure!(one.set_lock(&me, whole, false).await?);
        ensure!(!two.set_lock(&me, FileLock { start: 90, end: 91, ..whole }, false).await?);

        // A session that ends has no locks.
        one.close().await?;
        ensure!(two.set_lock(&me, whole, false).await?);
        two.close().await?;
        Ok(())
    })
}

#[test]
fn a_waiting_lock_is_granted_when_it_is_free_and_leaves_nothing_when_given_up() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(0).start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let me = root();
        let file = one.make_node(&me, ROOT, b"f", file()).await?.inode;
        let write = lock(file, 1, (0, 9), LockType::Write);
        let unlock = FileLock { r#type: LockType::Unlock.into(), ..write };
        ensure!(one.set_lock(&me, write, false).await?);

        let mut waiting = tokio::spawn({
            let (two, me) = (two.clone(), me.clone());
            async move { two.set_lock(&me, write, true).await }
        });
        ensure!(tokio::time::timeout(A_MOMENT, &mut waiting).await.is_err(), "it waits");
        ensure!(one.set_lock(&me, unlock, false).await?);
        ensure!(tokio::time::timeout(PATIENCE, waiting).await???, "granted");

        // The first keeps a shared part of what it gives up to wait for.
        let other = lock(file, 1, (100, 199), LockType::Read);
        ensure!(one.set_lock(&me, other, false).await?);
        let whole = lock(file, 1, (0, LOCK_END), LockType::Write);
        let given_up = tokio::time::timeout(A_MOMENT, one.set_lock(&me, whole, true)).await;
        ensure!(given_up.is_err(), "the other session has a part of it");
        ensure!(two.set_lock(&me, unlock, false).await?);
        wait_until("nothing is left of the attempt", PATIENCE, async || {
            let low = two.get_lock(&me, lock(file, 2, (0, 99), LockType::Write)).await?;
            let kept = two.get_lock(&me, lock(file, 2, (100, 199), LockType::Write)).await?;
            Ok(low.is_none() && kept.is_some_and(|lock| lock.r#type() == LockType::Read))
        })
        .await?;
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}

#[test]
fn two_sessions_that_wait_for_each_other_are_told() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(0).start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let me = root();
        let file = inode(&one.make_node(&me, ROOT, b"f", file()).await?).get();
        let low = lock(file, 1, (0, 0), LockType::Write);
        let high = lock(file, 1, (1, 1), LockType::Write);
        ensure!(one.set_lock(&me, low, false).await?);
        ensure!(two.set_lock(&me, high, false).await?);
        let waiting = tokio::spawn({
            let (one, me) = (one.clone(), me.clone());
            async move { one.set_lock(&me, high, true).await }
        });
        // Whoever comes second closes the circle.
        let second = two.set_lock(&me, low, true);
        let outcome = tokio::select! {
            second = second => second,
            first = waiting => first?,
        };
        ensure_error(outcome, ErrorKind::Deadlock, "")?;
        Ok(())
    })
}
