//! Locks of files that are delegated to the session that uses them alone: nobody may see a difference.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_client::ErrorKind;
use dfs_client::fs::{FileLock, FileSystem, LOCK_END, LockSpace, LockType};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::rng::{Rng, seed_of_run};
use dfs_tests::wait::{PATIENCE, wait_until};

use super::{ROOT, file, root, session};
use crate::ensure_error;

/// Long enough for what must not happen.
const A_MOMENT: Duration = Duration::from_millis(50);

fn lock(file: u64, owner: u64, range: (u64, u64), kind: LockType) -> FileLock {
    let (start, end) = range;
    FileLock { inode: file, owner, start, end, r#type: kind.into(), pid: 99, ..Default::default() }
}

fn unlocked(lock: FileLock) -> FileLock {
    FileLock { r#type: LockType::Unlock.into(), ..lock }
}

async fn new_file(fs: &FileSystem, name: &str) -> Result<u64> {
    Ok(fs.make_node(&root(), ROOT, name.as_bytes(), file()).await?.inode)
}

/// Locks a byte beyond all others until the locks of the file are delegated, and once more.
async fn delegate(fs: &FileSystem, file: u64) -> Result<()> {
    let far = lock(file, 1, (1 << 40, 1 << 40), LockType::Write);
    let before = fs.lock_delegation_counts();
    wait_until("the locks are delegated", PATIENCE, async || {
        ensure!(fs.set_lock(&root(), far, false).await? && fs.set_lock(&root(), unlocked(far), false).await?);
        Ok(fs.lock_delegation_counts().files > before.files)
    })
    .await?;
    ensure!(
        fs.set_lock_here(far, false).context("not delegated")??
            && fs.set_lock_here(unlocked(far), false).context("not delegated")??
    );
    Ok(())
}

#[test]
fn others_see_the_locks_of_who_decides_about_them() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(0).start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let me = root();
        let file = new_file(&one, "f").await?;
        delegate(&one, file).await?;
        let write = |owner, from, to| lock(file, owner, (from, to), LockType::Write);
        ensure!(one.set_lock(&me, write(1, 0, 99), false).await?);
        ensure!(!one.set_lock(&me, write(2, 50, 149), false).await?, "another owner");
        ensure!(one.set_lock(&me, lock(file, 2, (200, 299), LockType::Read), false).await?);
        assert_eq!(one.get_lock(&me, write(2, 0, 0)).await?.map(|lock| lock.pid), Some(99));
        let whole = FileLock { space: LockSpace::Flock.into(), ..write(7, 5, 6) };
        ensure!(one.set_lock(&me, whole, false).await?);
        ensure!(one.lock_delegation_counts().files == 1);

        let blocker = two.get_lock(&me, write(1, 0, LOCK_END)).await?.context("is locked")?;
        assert_eq!((blocker.start, blocker.end, blocker.r#type(), blocker.pid), (0, 99, LockType::Write, 0));
        let counts = one.lock_delegation_counts();
        ensure!(counts.files == 0 && counts.recalled == 1 && counts.answered > 4, "{counts:?}");
        ensure!(!two.set_lock(&me, write(1, 50, 149), false).await?, "another session");
        ensure!(two.set_lock(&me, lock(file, 1, (100, 299), LockType::Read), false).await?);
        ensure!(!one.set_lock(&me, write(2, 200, 299), false).await?, "two has it, too");
        ensure!(!two.set_lock(&me, FileLock { start: 90, end: 91, ..whole }, false).await?);
        one.close().await?;
        ensure!(two.set_lock(&me, whole, false).await?, "a session that ends has no locks");
        two.close().await?;
        Ok(())
    })
}

#[test]
fn a_holder_that_ends_leaves_nothing() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(0).start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let file = new_file(&one, "f").await?;
        delegate(&one, file).await?;
        let write = lock(file, 1, (0, 9), LockType::Write);
        ensure!(one.set_lock(&root(), write, false).await?);
        one.close().await?;
        ensure!(two.set_lock(&root(), write, false).await?);
        two.close().await?;
        Ok(())
    })
}

#[test]
fn who_waits_gets_the_lock_when_it_is_free() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(0).start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let me = root();
        let waits = |fs: &FileSystem, lock| {
            let (fs, me) = (fs.clone(), root());
            tokio::spawn(async move { fs.set_lock(&me, lock, true).await })
        };
        // Another session, and another owner of the same one.
        for (name, waiter, owner) in [("f", &two, 1), ("g", &one, 2)] {
            let file = new_file(&one, name).await?;
            delegate(&one, file).await?;
            let held = lock(file, 1, (0, 9), LockType::Write);
            ensure!(one.set_lock(&me, held, false).await?);
            let wanted = FileLock { owner, ..held };
            let mut waiting = waits(waiter, wanted);
            ensure!(tokio::time::timeout(A_MOMENT, &mut waiting).await.is_err(), "it waits");
            ensure!(one.set_lock(&me, unlocked(held), false).await?);
            ensure!(tokio::time::timeout(PATIENCE, waiting).await???, "granted");
            ensure!(waiter.set_lock(&me, unlocked(wanted), false).await?);
        }

        // Each has the locks of a file, and waits for the other's.
        let (low, high) = (new_file(&one, "low").await?, new_file(&one, "high").await?);
        delegate(&one, low).await?;
        delegate(&two, high).await?;
        let (low, high) = (lock(low, 1, (0, 0), LockType::Write), lock(high, 1, (0, 0), LockType::Write));
        ensure!(one.set_lock(&me, low, false).await? && two.set_lock(&me, high, false).await?);
        let waiting = waits(&one, high);
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

#[test]
fn locks_that_the_namenode_never_heard_of_survive_its_restart() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(0).start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let me = root();
        let file = new_file(&one, "f").await?;
        one.sync().await?;
        delegate(&one, file).await?;
        let held = lock(file, 1, (10, 19), LockType::Write);
        ensure!(one.set_lock_here(held, false).context("is delegated")??);
        cluster.restart_namenode().await?;
        wait_until("the lock is there again", PATIENCE, async || {
            Ok(two.get_lock(&me, FileLock { owner: 6, ..held }).await?.is_some())
        })
        .await?;
        ensure!(!two.set_lock(&me, held, false).await?);
        ensure!(one.set_lock(&me, unlocked(held), false).await?);
        ensure!(two.set_lock(&me, held, false).await?);
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}

#[test]
fn nothing_is_answered_while_the_namenode_is_away() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(0).start().await?;
        let one = session(&cluster).await?;
        let file = new_file(&one, "f").await?;
        one.sync().await?;
        delegate(&one, file).await?;
        let wanted = lock(file, 1, (10, 19), LockType::Write);
        cluster.kill_namenode().await;
        wait_until("the session hears of it", PATIENCE, async || {
            Ok(one.set_lock_here(wanted, false).is_none())
        })
        .await?;
        let mut waiting = tokio::spawn({
            let one = one.clone();
            async move { one.set_lock(&root(), FileLock { owner: 2, start: 50, end: 50, ..wanted }, false).await }
        });
        ensure!(tokio::time::timeout(A_MOMENT, &mut waiting).await.is_err(), "it waits");
        cluster.start_namenode().await?;
        ensure!(tokio::time::timeout(PATIENCE, waiting).await???, "granted");
        one.close().await?;
        Ok(())
    })
}

/// Bytes of a file in the comparison.
const BYTES: u64 = 10;
/// Owners of each session.
const OWNERS: u64 = 2;

/// What everybody has locked in one file: for each (session, owner), each byte's lock.
type Model = Vec<[LockType; BYTES as usize]>;

fn is_blocked(model: &Model, who: usize, (start, end): (u64, u64), kind: LockType) -> bool {
    let others = model.iter().enumerate().filter(|(other, _)| *other != who);
    let mut held = others.flat_map(|(_, bytes)| &bytes[start as usize..=end as usize]);
    held.any(|held| match kind {
        LockType::Unlock => false,
        LockType::Read => *held == LockType::Write,
        LockType::Write => *held != LockType::Unlock,
    })
}

#[test]
fn random_locks_are_answered_as_by_one_table() -> Result<()> {
    let seed = seed_of_run("random_locks_are_answered_as_by_one_table");
    run(async {
        let mut random = Rng::new(seed);
        let cluster = MiniCluster::builder().datanodes(0).start().await?;
        let sessions = [session(&cluster).await?, session(&cluster).await?];
        let me = root();
        // What was recalled rests: each round has a file of its own.
        for round in 0..25 {
            let file = new_file(&sessions[0], &format!("f{round}")).await?;
            let mut model: Model = vec![[LockType::Unlock; BYTES as usize]; 2 * OWNERS as usize];
            for step in 0..60 {
                // First one of them alone.
                let session = if step < 25 { round % 2 } else { random.below(2) as usize };
                let owner = random.below(OWNERS);
                let (a, b) = (random.below(BYTES), random.below(BYTES));
                let range = (a.min(b), a.max(b));
                let kind = [LockType::Unlock, LockType::Read, LockType::Write][random.below(3) as usize];
                let who = session * OWNERS as usize + owner as usize;
                let wanted = lock(file, owner, range, kind);
                let what = format!("seed {seed} round {round} step {step} session {session} {wanted:?}");
                let free = !is_blocked(&model, who, range, kind);
                if random.below(4) == 0 {
                    let found = sessions[session].get_lock(&me, wanted).await?;
                    ensure!(found.is_none() == free, "{what}: {found:?}");
                }
                ensure!(sessions[session].set_lock(&me, wanted, false).await? == free, "{what}: free {free}");
                if free {
                    model[who][range.0 as usize..=range.1 as usize].fill(kind);
                }
            }
        }
        let counts = sessions.each_ref().map(FileSystem::lock_delegation_counts);
        ensure!(counts.iter().all(|counts| counts.answered > 50 && counts.recalled > 3), "{counts:?}");
        Ok(())
    })
}

/// How long locks are taken at the same time, and in how many files.
const CROWDED: Duration = Duration::from_millis(1_500);
const CROWDED_FILES: usize = 40;

#[test]
fn an_exclusive_lock_is_one_owners_whoever_decides() -> Result<()> {
    let seed = seed_of_run("an_exclusive_lock_is_one_owners_whoever_decides");
    run(async {
        let mut random = Rng::new(seed);
        let cluster = MiniCluster::builder().datanodes(0).start().await?;
        let sessions = [session(&cluster).await?, session(&cluster).await?];
        let mut files = Vec::new();
        for index in 0..CROWDED_FILES {
            let inode = new_file(&sessions[0], &format!("f{index}")).await?;
            files.push((inode, AtomicBool::new(false), AtomicU64::new(0)));
        }
        let files = Arc::new(files);
        let until = Instant::now() + CROWDED;
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..4u64 {
            let (fs, files) = (sessions[(task % 2) as usize].clone(), Arc::clone(&files));
            let mut random = Rng::new(random.below(u64::MAX));
            tasks.spawn(async move {
                let me = root();
                while Instant::now() < until {
                    let (inode, taken, times) = &files[random.below(CROWDED_FILES as u64) as usize];
                    let wanted = lock(*inode, task, (0, 0), LockType::Write);
                    // Several times, so that it is worth asking for.
                    for _ in 0..random.below(8) {
                        if !fs.set_lock(&me, wanted, random.below(3) == 0).await? {
                            continue;
                        }
                        ensure!(!taken.swap(true, Ordering::SeqCst), "two have a lock of inode {inode}");
                        times.fetch_add(1, Ordering::Relaxed);
                        tokio::task::yield_now().await;
                        taken.store(false, Ordering::SeqCst);
                        ensure!(fs.set_lock(&me, unlocked(wanted), false).await?);
                    }
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        let taken: u64 = files.iter().map(|(_, _, times)| times.load(Ordering::Relaxed)).sum();
        let counts = sessions.each_ref().map(FileSystem::lock_delegation_counts);
        println!("{taken} locks, {counts:?}");
        ensure!(taken > 100 && counts.iter().any(|counts| counts.recalled > 0), "{taken} {counts:?}");
        for (index, (inode, ..)) in files.iter().enumerate() {
            let found =
                sessions[index % 2].get_lock(&root(), lock(*inode, 9, (0, 9), LockType::Write)).await?;
            ensure!(found.is_none(), "left behind: {found:?}");
        }
        Ok(())
    })
}
