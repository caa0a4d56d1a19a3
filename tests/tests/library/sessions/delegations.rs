//! Directories that a session changes a lot: it answers changes itself, and nobody can tell.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dfs_client::fs::{
    Caller, FileStatus, FileSystem, FileSystemConfig, FileType, InodeId, MoveMode, NewNode, OpenOptions,
    SetAttributes, SetTime,
};
use dfs_client::{DfsError, ErrorKind};
use dfs_tests::cluster::{MiniCluster, SUPERUSER};
use dfs_tests::harness::run;
use dfs_tests::pattern::ensure_same;
use dfs_tests::rng::{Rng, seed_of_run};
use dfs_tests::wait::{PATIENCE, wait_until};

use super::{ROOT, config, directory, file, inode, session, user};
use crate::ensure_error;

/// Changes of a round of the comparison.
const STEPS: usize = 60;

/// The first ones, which leave the directory delegated.
const CALM_STEPS: usize = 45;

/// Rounds, each in directories of its own.
const ROUNDS: usize = 6;

/// A caller who says in which groups it is, as mounts do.
fn me() -> Caller {
    user(SUPERUSER, &["staff"])
}

/// A directory that is delegated to `fs`, with some files in it.
async fn delegated(fs: &FileSystem, name: &str) -> Result<InodeId> {
    let me = me();
    let dir = inode(&fs.make_node(&me, ROOT, name.as_bytes(), directory(0o755)).await?);
    let before = fs.delegation_counts().answered;
    let mut count = 0;
    wait_until("the directory is delegated", PATIENCE, async || {
        count += 1;
        fs.make_node(&me, dir, format!("first{count}").as_bytes(), file()).await?;
        Ok(fs.delegation_counts().answered > before)
    })
    .await?;
    Ok(dir)
}

fn ensure_nothing_went_wrong(fs: &FileSystem) -> Result<()> {
    let counts = fs.delegation_counts();
    ensure!(counts.answered > 0 && counts.refused == 0 && counts.corrected == 0, "{counts:?}");
    Ok(())
}

async fn list(fs: &FileSystem, dir: InodeId) -> Result<Vec<FileStatus>> {
    let (entries, more) = fs.list(&me(), dir, b"", 1_000).await?;
    ensure!(!more);
    Ok(entries)
}

#[test]
fn others_see_every_change_of_a_delegated_directory_at_once() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(0).start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let me = me();
        for round in 0..4 {
            let dir = delegated(&one, &format!("d{round}")).await?;
            for number in 0..100 {
                one.make_node(&me, dir, format!("n{number}").as_bytes(), file()).await?;
            }
            match round {
                0 => {
                    two.lookup(&me, dir, b"n99").await?;
                    ensure_error(two.lookup(&me, dir, b"no").await, ErrorKind::NotFound, "no")?;
                }
                1 => ensure!(list(&two, dir).await? == list(&one, dir).await?, "the same listing"),
                2 => {
                    let here = one.stat(&me, dir).await?;
                    ensure!(two.stat(&me, dir).await? == here, "the same directory");
                    one.unlink(&me, dir, b"n5", false).await?;
                    ensure_error(two.lookup(&me, dir, b"n5").await, ErrorKind::NotFound, "n5")?;
                }
                _ => {
                    let refused = two.make_node(&me, dir, b"n99", file()).await;
                    ensure_error(refused, ErrorKind::AlreadyExists, "n99")?;
                    two.make_node(&me, dir, b"other", file()).await?;
                    two.unlink(&me, dir, b"n98", false).await?;
                    one.lookup(&me, dir, b"other").await?;
                    ensure_error(one.lookup(&me, dir, b"n98").await, ErrorKind::NotFound, "n98")?;
                }
            }
        }
        ensure_nothing_went_wrong(&one)?;
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}

#[test]
fn files_are_written_read_and_removed_in_a_delegated_directory() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let me = me();
        let dir = delegated(&one, "d").await?;
        for number in 0..40u8 {
            let name = format!("f{number}");
            let (made, handle) = one.create(&me, dir, name.as_bytes(), file()).await?;
            handle.write_at(0, Bytes::from(vec![number; 3_000])).await?;
            let times = SetAttributes { mtime: Some(SetTime::At(77)), ..SetAttributes::default() };
            one.set_attributes(&me, inode(&made), times).await?;
            handle.flush().await?;
            handle.release(true).await?;
            let after = one.lookup(&me, dir, name.as_bytes()).await?;
            ensure!(
                (after.size, after.mtime_ns, after.under_construction) == (3_000, 77, false),
                "{after:?}"
            );
            if number % 4 == 0 {
                one.unlink(&me, dir, name.as_bytes(), false).await?;
            }
        }
        // One that was unlinked lives as long as it is open.
        let (_, open) = one.create(&me, dir, b"open", file()).await?;
        one.unlink(&me, dir, b"open", false).await?;
        open.write_at(0, Bytes::from_static(b"still here")).await?;
        open.flush().await?;
        ensure_same("unlinked", &open.read_at(0, 100).await?, b"still here")?;
        open.release(true).await?;

        ensure!(one.delegation_counts().directories == 1);
        let here = list(&one, dir).await?;
        ensure!(list(&two, dir).await? == here, "the same listing");
        for entry in here.iter().filter(|entry| entry.name.starts_with(b"f") && entry.size > 0) {
            let number: u8 = std::str::from_utf8(&entry.name[1..])?.parse()?;
            ensure!(number % 4 != 0);
            let handle = two.open(&me, inode(entry), OpenOptions::default()).await?;
            ensure_same("f", &handle.read_at(0, 4_000).await?, &[number; 3_000])?;
            handle.release(false).await?;
        }
        ensure_nothing_went_wrong(&one)?;
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}

#[test]
fn a_written_file_is_closed_without_a_call() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let me = me();
        let dir = delegated(&one, "d").await?;
        let mut open = Vec::new();
        for number in 0..20u8 {
            let (made, handle) = one.create(&me, dir, format!("f{number}").as_bytes(), file()).await?;
            open.push((made, handle, vec![number; 1_000 * usize::from(number)]));
        }
        // Their blocks are known now.
        wait_until("the files are made", PATIENCE, async || Ok(one.delegation_counts().queued == 0)).await?;
        cluster.kill_namenode().await;
        let mut closed = Vec::new();
        for (made, handle, content) in open {
            handle.write_at(0, Bytes::from(content.clone())).await?;
            handle.flush().await?;
            handle.release(true).await?;
            let status = one.stat(&me, inode(&made)).await?;
            ensure!((status.size, status.under_construction) == (content.len() as u64, false), "{status:?}");
            ensure!(status.allocated == status.size, "{status:?}");
            closed.push((status, content));
        }
        ensure!(one.delegation_counts().queued == 20, "{:?}", one.delegation_counts());
        cluster.start_namenode().await?;
        one.sync().await?;
        for (known, content) in closed {
            let status = two.stat(&me, inode(&known)).await?;
            ensure!(status == known, "{known:?} is {status:?}");
            let handle = two.open(&me, inode(&known), OpenOptions::default()).await?;
            ensure_same("closed", &handle.read_at(0, 100_000).await?, &content)?;
            handle.release(false).await?;
        }
        ensure_nothing_went_wrong(&one)?;
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}

#[test]
fn a_small_file_takes_no_call_of_its_own() -> Result<()> {
    const FILES: u64 = 60;
    run(async {
        let cluster = MiniCluster::start().await?;
        let one = session(&cluster).await?;
        let me = me();
        let dir = delegated(&one, "d").await?;
        let before = one.delegation_counts().answered;
        for number in 0..FILES {
            // Written before the namenode has answered that it is made.
            let (_, handle) = one.create(&me, dir, format!("f{number}").as_bytes(), file()).await?;
            handle.write_at(0, Bytes::from_static(b"something")).await?;
            handle.flush().await?;
            handle.release(true).await?;
        }
        // Made and closed; where the queue stood still for a second, a call was made instead.
        let answered = one.delegation_counts().answered - before;
        ensure!(answered > FILES + FILES / 2, "{answered} changes of {FILES} files");
        ensure_nothing_went_wrong(&one)?;
        one.close().await?;
        Ok(())
    })
}

#[test]
fn others_find_a_file_closed_as_soon_as_it_was_flushed() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let me = me();
        for round in 0..8u8 {
            let dir = delegated(&one, &format!("d{round}")).await?;
            let (made, handle) = one.create(&me, dir, b"f", file()).await?;
            let node = inode(&made);
            handle.write_at(0, Bytes::from(vec![round; 5_000])).await?;
            handle.flush().await?;
            let here = one.stat(&me, node).await?;
            match round % 4 {
                // By its name, by its number, and for writing; a lock looks at nothing.
                0 => ensure!(two.lookup(&me, dir, b"f").await? == here),
                1 => ensure!(two.stat(&me, node).await? == here),
                2 => {
                    let writable = OpenOptions { write: true, truncate: false };
                    let other = two.open(&me, node, writable).await?;
                    other.append(Bytes::from(vec![round; 1_000])).await?;
                    other.release(true).await?;
                    ensure!(one.stat(&me, node).await?.size == 6_000);
                }
                // The writer goes on.
                _ => {
                    handle.write_at(5_000, Bytes::from(vec![round; 1_000])).await?;
                    ensure!(one.stat(&me, node).await?.size == 6_000);
                    handle.flush().await?;
                }
            }
            let other = two.open(&me, node, OpenOptions::default()).await?;
            let length = if round % 4 < 2 { 5_000 } else { 6_000 };
            ensure_same("flushed", &other.read_at(0, 10_000).await?, &vec![round; length])?;
            other.release(false).await?;
            handle.release(true).await?;
        }
        ensure_nothing_went_wrong(&one)?;
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}

#[test]
fn what_was_answered_survives_a_restart_of_the_namenode() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(0).start().await?;
        let one = session(&cluster).await?;
        let me = me();
        let dir = delegated(&one, "d").await?;
        one.sync().await?;
        cluster.kill_namenode().await;
        // What is answered now waits in the session.
        let during = tokio::spawn({
            let (one, me) = (one.clone(), me.clone());
            async move {
                for number in 0..300 {
                    one.make_node(&me, dir, format!("n{number}").as_bytes(), file()).await?;
                    if number % 3 == 0 {
                        one.unlink(&me, dir, format!("n{number}").as_bytes(), false).await?;
                    }
                }
                one.sync().await
            }
        });
        cluster.start_namenode().await?;
        during.await??;
        let two = session(&cluster).await?;
        let found = list(&two, dir).await?;
        ensure!(found.iter().filter(|entry| entry.name.starts_with(b"n")).count() == 200, "{}", found.len());
        let counts = one.delegation_counts();
        ensure!(counts.refused == 0, "{counts:?}");
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}

/// One of two directories that are changed alike.
struct Side {
    fs: FileSystem,
    dir: InodeId,
}

impl Side {
    /// A name in the directory, or in one below it.
    async fn spot(&self, place: (u64, u64)) -> Result<(InodeId, String), DfsError> {
        let (below, name) = place;
        let dir = match below {
            0 => self.dir,
            _ => inode(&self.fs.lookup(&me(), self.dir, format!("n{below}").as_bytes()).await?),
        };
        Ok((dir, format!("n{name}")))
    }

    async fn step(&self, step: &Step) -> Result<Option<FileStatus>, DfsError> {
        let (fs, me) = (&self.fs, me());
        match step {
            Step::Make(place, kind) => {
                let (dir, name) = self.spot(*place).await?;
                let symlink = if *kind == FileType::Symlink { "target" } else { "" };
                let new =
                    NewNode { symlink: symlink.into(), umask: 0o022, ..NewNode::new(*kind, 0o666, "staff") };
                fs.make_node(&me, dir, name.as_bytes(), new).await.map(Some)
            }
            Step::Unlink(place, directory) => {
                let (dir, name) = self.spot(*place).await?;
                fs.unlink(&me, dir, name.as_bytes(), *directory).await.map(Some)
            }
            Step::Move(from, to, mode) => {
                let (from, to) = (self.spot(*from).await?, self.spot(*to).await?);
                let moved = fs.rename(&me, from.0, from.1.as_bytes(), to.0, to.1.as_bytes(), *mode).await?;
                Ok(moved.moved)
            }
            Step::Link(from, to) => {
                let (from, to) = (self.spot(*from).await?, self.spot(*to).await?);
                let node = inode(&fs.lookup(&me, from.0, from.1.as_bytes()).await?);
                fs.link(&me, node, to.0, to.1.as_bytes()).await.map(Some)
            }
            Step::Set(place, mode) => {
                let (dir, name) = self.spot(*place).await?;
                let node = inode(&fs.lookup(&me, dir, name.as_bytes()).await?);
                let set =
                    SetAttributes { mode: Some(*mode), mtime: Some(SetTime::At(5)), ..Default::default() };
                fs.set_attributes(&me, node, set).await.map(Some)
            }
            Step::Look(place) => {
                let (dir, name) = self.spot(*place).await?;
                fs.lookup(&me, dir, name.as_bytes()).await.map(Some)
            }
        }
    }

    /// Everything below, as the session `fs` sees it.
    async fn tree(&self, fs: &FileSystem) -> Result<BTreeMap<String, FileStatus>> {
        let mut found = BTreeMap::from([(String::new(), fs.stat(&me(), self.dir).await?)]);
        let mut waiting = vec![(String::new(), self.dir)];
        while let Some((path, dir)) = waiting.pop() {
            for mut entry in list(fs, dir).await? {
                let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
                entry.name = Bytes::new();
                if entry.r#type() == FileType::Directory {
                    waiting.push((path.clone(), inode(&entry)));
                }
                found.insert(path, entry);
            }
        }
        Ok(found)
    }
}

/// A change, of names in the directory (`0`) and in those that may be below it.
#[derive(Clone, Copy, Debug)]
enum Step {
    Make((u64, u64), FileType),
    Unlink((u64, u64), bool),
    Move((u64, u64), (u64, u64), MoveMode),
    Link((u64, u64), (u64, u64)),
    Set((u64, u64), u32),
    Look((u64, u64)),
}

impl Step {
    /// A `calm` one is nothing for which a directory is given back.
    fn random(rng: &mut Rng, calm: bool) -> Self {
        let mut place = || (if rng.chance(50) { 0 } else { rng.below(5) }, rng.below(8));
        let (from, to) = (place(), place());
        match rng.below(100) {
            0..40 => {
                let kinds =
                    [FileType::File, FileType::File, FileType::Directory, FileType::Symlink, FileType::Fifo];
                Self::Make(from, kinds[rng.index(kinds.len())])
            }
            40..60 => Self::Unlink(from, rng.chance(30)),
            60..78 => {
                let modes = [MoveMode::Replace, MoveMode::Replace, MoveMode::NoReplace, MoveMode::Exchange];
                let kinds = if !calm && rng.chance(20) { 4 } else { 3 };
                Self::Move(from, to, modes[rng.index(kinds)])
            }
            78..80 if !calm => Self::Link(from, to),
            78..90 => Self::Set(from, [0o600, 0o755, 0o4755][rng.index(if calm { 2 } else { 3 })]),
            _ => Self::Look(from),
        }
    }
}

/// What two sessions must agree in.
fn likeness(status: &FileStatus) -> (i32, u32, u32, u64, u64, &str, &str) {
    let FileStatus { r#type, mode, nlink, size, change, owner, group, .. } = status;
    (*r#type, *mode, *nlink, *size, *change, owner, group)
}

#[test]
fn a_session_that_answers_itself_is_like_one_that_asks() -> Result<()> {
    let seed = seed_of_run("a_session_that_answers_itself_is_like_one_that_asks");
    run(async {
        let cluster = MiniCluster::builder().datanodes(0).start().await?;
        let asking = FileSystemConfig { delegations: false, ..config(&cluster) };
        let (quick, asking) = (session(&cluster).await?, FileSystem::connect(asking).await?);
        let looker = session(&cluster).await?;
        let mut rng = Rng::new(seed);
        for round in 0..ROUNDS {
            let quick = Side { fs: quick.clone(), dir: delegated(&quick, &format!("q{round}")).await? };
            let firsts = list(&quick.fs, quick.dir).await?;
            let plain =
                asking.make_node(&me(), ROOT, format!("p{round}").as_bytes(), directory(0o755)).await?;
            let plain = Side { fs: asking.clone(), dir: inode(&plain) };
            for first in firsts {
                asking.make_node(&me(), plain.dir, &first.name, file()).await?;
            }
            for number in 0..STEPS {
                let step = Step::random(&mut rng, number < CALM_STEPS);
                let (one, other) = (quick.step(&step).await, plain.step(&step).await);
                let at = || format!("seed {seed}, round {round}, step {number}, {step:?}: {one:?} {other:?}");
                match (&one, &other) {
                    (Ok(one), Ok(other)) => {
                        let alike = one.as_ref().map(likeness) == other.as_ref().map(likeness);
                        ensure!(alike, "{}", at());
                    }
                    (Err(one), Err(other)) => ensure!(one.kind() == other.kind(), "{}", at()),
                    (Ok(_), Err(_)) | (Err(_), Ok(_)) => ensure!(false, "{}", at()),
                }
            }
            let at = || format!("seed {seed}, round {round}");
            let mine = quick.tree(&quick.fs).await?;
            let seen = quick.tree(&looker).await?;
            ensure!(mine == seen, "{}: {mine:#?} is shown as {seen:#?}", at());
            let there = plain.tree(&looker).await.with_context(at)?;
            let names = |tree: &BTreeMap<String, FileStatus>| tree.keys().cloned().collect::<Vec<_>>();
            ensure!(names(&mine) == names(&there), "{}", at());
            for (name, status) in &mine {
                ensure!(likeness(status) == likeness(&there[name]), "{}: {name}: {status:?}", at());
            }
        }
        ensure_nothing_went_wrong(&quick)?;
        for fs in [quick, asking, looker] {
            fs.close().await?;
        }
        Ok(())
    })
}
