//! Random work of three sessions on the files of one directory, in turns: each open, look-up and listing shows what the model says,
//! and what is open keeps its bytes when it loses its name. And at the same time: readers beside a session that takes names away.
//! `DFS_TEST_SEED` replays a run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use dfs_client::ErrorKind;
use dfs_client::fs::{FileSystem, FileSystemConfig, InodeId, MoveMode, OpenFile, SetAttributes};
use dfs_tests::harness::run;
use dfs_tests::rng::{Rng, seed_of_run};
use dfs_tests::wait::{PATIENCE, wait_until};

use super::shared_directories::{CUT, READ, content, me, put, replace, small_cluster};
use super::{ROOT, config, directory, inode, session};

const SESSIONS: usize = 3;
const NAMES: u64 = 12;
/// Directories that were changed rest for a while: each round has one of its own.
const ROUNDS: usize = 24;
/// Reads before each change: so many that directories are delegated.
const READS: usize = 40;
const CHANGES: usize = 3;
/// Directories in which a file is replaced while others read it.
const REPLACED: u64 = 40;
/// Longest content: within a block, or more than one.
const LONGEST: usize = 1_500_000;

/// A file that stays open, and what it had when nothing has changed it since.
struct Kept {
    handle: Arc<OpenFile>,
    inode: InodeId,
    bytes: Vec<u8>,
}

struct World {
    sessions: Vec<FileSystem>,
    dir: InodeId,
    model: BTreeMap<String, (InodeId, Vec<u8>)>,
    kept: Vec<Kept>,
}

impl World {
    fn session(&self, rng: &mut Rng) -> &FileSystem {
        &self.sessions[rng.index(self.sessions.len())]
    }

    async fn look(&mut self, rng: &mut Rng) -> Result<()> {
        let (fs, name) = (self.session(rng).clone(), format!("n{}", rng.below(NAMES)));
        fs.reading(&me(), self.dir);
        let found = match fs.lookup(&me(), self.dir, name.as_bytes()).await {
            Ok(found) => Some(found),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let expected = self.model.get(&name);
        ensure!(found.as_ref().map(inode) == expected.map(|(inode, _)| *inode), "{name}: {found:?}");
        let Some((file, bytes)) = expected else { return Ok(()) };
        ensure!(found.is_some_and(|found| found.size == bytes.len() as u64), "{name}: its size");
        let handle = fs.open(&me(), *file, READ).await?;
        let seen = content(&handle).await?;
        ensure!(seen == *bytes, "{name}: {} bytes, not {}", seen.len(), bytes.len());
        if rng.chance(20) && self.kept.len() < 8 {
            self.kept.push(Kept { handle, inode: *file, bytes: seen });
        } else {
            handle.release(false).await?;
        }
        Ok(())
    }

    async fn list(&self, rng: &mut Rng) -> Result<()> {
        let (entries, _) = self.session(rng).list(&me(), self.dir, b"", 100).await?;
        let seen: Vec<_> =
            entries.iter().map(|entry| (entry.name.to_vec(), inode(entry), entry.size)).collect();
        let expected = self.model.iter();
        let expected: Vec<_> = expected
            .map(|(name, (inode, bytes))| (name.clone().into_bytes(), *inode, bytes.len() as u64))
            .collect();
        ensure!(seen == expected, "{seen:?} instead of {expected:?}");
        Ok(())
    }

    async fn change(&mut self, rng: &mut Rng) -> Result<()> {
        let fs = self.session(rng).clone();
        let (name, other) = (format!("n{}", rng.below(NAMES)), format!("n{}", rng.below(NAMES)));
        let longest = if rng.chance(10) { LONGEST } else { 5_000 };
        let len = 1 + rng.index(longest);
        let bytes = rng.bytes(len);
        let Some((file, known)) = self.model.get(&name).cloned() else {
            let file = put(&fs, self.dir, &name, &bytes).await?;
            self.model.insert(name, (file, bytes));
            return Ok(());
        };
        match rng.below(100) {
            0..35 => {
                self.changed(file).await?;
                replace(&fs, file, &bytes, CUT).await?;
                self.model.insert(name, (file, bytes));
            }
            35..50 => {
                self.changed(file).await?;
                let size = rng.index(known.len() + 1);
                let set = SetAttributes { size: Some(size as u64), ..SetAttributes::default() };
                fs.set_attributes(&me(), file, set).await?;
                self.model.insert(name, (file, known[..size].to_vec()));
            }
            50..75 if name != other => {
                fs.rename(&me(), self.dir, name.as_bytes(), self.dir, other.as_bytes(), MoveMode::Replace)
                    .await?;
                self.model.remove(&name);
                self.model.insert(other, (file, known));
            }
            75..90 => {
                fs.unlink(&me(), self.dir, name.as_bytes(), false).await?;
                self.model.remove(&name);
            }
            _ => {
                let mode = Some([0o600, 0o644, 0o755][rng.index(3)]);
                fs.set_attributes(&me(), file, SetAttributes { mode, ..SetAttributes::default() }).await?;
            }
        }
        Ok(())
    }

    /// Who has a file open while its content changes is promised nothing.
    async fn changed(&mut self, file: InodeId) -> Result<()> {
        for kept in self.kept.extract_if(.., |kept| kept.inode == file) {
            kept.handle.release(false).await?;
        }
        Ok(())
    }

    async fn read_kept(&mut self, releases: bool) -> Result<()> {
        for kept in &self.kept {
            let seen = content(&kept.handle).await?;
            ensure!(seen == kept.bytes, "inode {}: {} bytes", kept.inode, seen.len());
        }
        if releases {
            for kept in self.kept.drain(..) {
                kept.handle.release(false).await?;
            }
        }
        Ok(())
    }
}

#[test]
fn sessions_in_turns_are_like_one_directory() -> Result<()> {
    let seed = seed_of_run("sessions_in_turns_are_like_one_directory");
    run(async {
        let cluster = small_cluster().await?;
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            sessions.push(session(&cluster).await?);
        }
        // One that does not get the directories alone, after which they would rest.
        let maker = FileSystem::connect(FileSystemConfig { delegations: false, ..config(&cluster) }).await?;
        let mut rng = Rng::new(seed);
        for round in 0..ROUNDS {
            let name = format!("d{round}");
            let dir = inode(&maker.make_node(&me(), ROOT, name.as_bytes(), directory(0o755)).await?);
            let mut world =
                World { sessions: sessions.clone(), dir, model: BTreeMap::new(), kept: Vec::new() };
            for number in 0..NAMES / 2 {
                let (name, bytes) = (format!("n{number}"), rng.bytes(100));
                let file = put(&maker, dir, &name, &bytes).await?;
                world.model.insert(name, (file, bytes));
            }
            let at = |step: usize| format!("seed {seed}, round {round}, step {step}");
            for step in 0..CHANGES {
                for _ in 0..rng.index(READS) {
                    world.look(&mut rng).await.with_context(|| at(step))?;
                }
                world.list(&mut rng).await.with_context(|| at(step))?;
                world.change(&mut rng).await.with_context(|| at(step))?;
                world.read_kept(false).await.with_context(|| at(step))?;
            }
            world.read_kept(true).await.with_context(|| at(CHANGES))?;
        }
        let opened: u64 = sessions.iter().map(|fs| fs.delegation_counts().opened).sum();
        let refused: u64 = sessions.iter().map(|fs| fs.delegation_counts().refused).sum();
        ensure!(
            opened > 0 && refused == 0,
            "{opened} files were opened without a call, {refused} changes refused"
        );
        for fs in sessions {
            fs.close().await?;
        }
        maker.close().await?;
        Ok(())
    })
}

/// Reads a file by its name until `done` and a little longer. Each open file is whole, the old or the new one, and the
/// new one if it was looked up after `done`.
async fn read_beside(
    fs: FileSystem,
    dir: InodeId,
    done: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
) -> Result<()> {
    let mut kept = Vec::new();
    let mut after = 0;
    while after < 3 {
        let is_done = done.load(Ordering::SeqCst);
        after += u32::from(is_done);
        let found = fs.lookup(&me(), dir, b"f").await?;
        let handle = match fs.open(&me(), inode(&found), READ).await {
            Ok(handle) => handle,
            // It lost its name before it was opened.
            Err(error) if error.kind() == ErrorKind::NotFound && !is_done => continue,
            Err(error) => return Err(error.into()),
        };
        let bytes = content(&handle).await?;
        ensure!(bytes == OLD || bytes == NEW, "{} bytes", bytes.len());
        ensure!(bytes == NEW || !is_done, "the old file after it was replaced");
        reads.fetch_add(1, Ordering::SeqCst);
        if kept.len() < 4 {
            kept.push((handle, bytes));
        } else {
            handle.release(false).await?;
        }
        tokio::task::yield_now().await;
    }
    for (handle, bytes) in kept {
        ensure!(content(&handle).await? == bytes, "it changed while it was open");
        handle.release(false).await?;
    }
    Ok(())
}

const OLD: &[u8] = &[1; 700];
const NEW: &[u8] = &[2; 900];

#[test]
fn readers_have_whole_files_while_another_session_replaces_them() -> Result<()> {
    let seed = seed_of_run("readers_have_whole_files_while_another_session_replaces_them");
    run(async {
        let cluster = small_cluster().await?;
        let (writer, one, two) =
            (session(&cluster).await?, session(&cluster).await?, session(&cluster).await?);
        let mut rng = Rng::new(seed);
        let reads = Arc::new(AtomicU64::new(0));
        for number in 0..REPLACED {
            let at = || format!("seed {seed}, directory {number}");
            let name = format!("d{number}");
            let dir = inode(&writer.make_node(&me(), ROOT, name.as_bytes(), directory(0o755)).await?);
            put(&writer, dir, "f", OLD).await?;
            put(&writer, dir, "g", NEW).await?;
            for _ in 0..4 {
                one.reading(&me(), dir);
                two.reading(&me(), dir);
            }
            let done = Arc::new(AtomicBool::new(false));
            let readers = [&one, &two]
                .map(|fs| tokio::spawn(read_beside(fs.clone(), dir, done.clone(), reads.clone())));
            // At different moments: before they have the directory, while they ask for it, and after.
            let begun = reads.load(Ordering::SeqCst) + rng.below(60);
            wait_until("they read", PATIENCE, async || Ok(reads.load(Ordering::SeqCst) >= begun)).await?;
            if rng.chance(50) {
                writer.rename(&me(), dir, b"g", dir, b"f", MoveMode::Replace).await?;
            } else {
                writer.rename(&me(), dir, b"f", dir, b"g", MoveMode::Exchange).await?;
                // The old one is called g now.
                writer.unlink(&me(), dir, b"g", false).await?;
            }
            done.store(true, Ordering::SeqCst);
            for reader in readers {
                reader.await?.with_context(at)?;
            }
        }
        let opened = one.delegation_counts().opened + two.delegation_counts().opened;
        ensure!(opened > 0, "{reads:?} reads, none of a file opened without a call");
        for fs in [writer, one, two] {
            fs.close().await?;
        }
        Ok(())
    })
}
