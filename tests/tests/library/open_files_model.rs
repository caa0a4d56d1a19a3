//! Random operations on an open file, compared with an array of bytes after every step, in the manner of fsx.
//! `DFS_TEST_SEED` replays a run; `DFS_TEST_STEPS` makes it longer.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_client::fs::{FileSystem, OpenFile};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run_within;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::rng::{Rng, seed_of_run};
use dfs_tests::workload::read_all;
use std::sync::Arc;

use super::open_files::{contents, create, open, session};

/// Small blocks, so that most operations meet an edge.
const BLOCK: u64 = 128 << 10;

/// The file's length stays below this.
const MAX_LEN: u64 = 5 * BLOCK;

/// Longest write.
const MAX_WRITE: u64 = 2 * BLOCK;

/// Steps of a run unless `DFS_TEST_STEPS` says otherwise.
const STEPS: usize = 400;

fn steps() -> usize {
    std::env::var("DFS_TEST_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(STEPS)
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Write { offset: u64, len: u64 },
    Append { len: u64 },
    Read { offset: u64, len: u64 },
    SetLen { size: u64 },
    Zero { offset: u64, len: u64, keep_size: bool },
    Punch { offset: u64, len: u64 },
    Allocate { offset: u64, len: u64, keep_size: bool },
    Flush,
    Sync,
    Reopen,
    Seek { offset: u64 },
}

fn next(rng: &mut Rng, size: u64) -> Step {
    let mut place = |longest: u64| {
        let len = match rng.below(3) {
            0 => 1 + rng.below(100),
            1 => 1 + rng.below(10_000),
            _ => 1 + rng.below(longest),
        };
        let mut offset = rng.below(MAX_LEN - len);
        if rng.chance(20) {
            offset -= offset % 4096;
        }
        (offset, len)
    };
    let (offset, len) = place(MAX_WRITE);
    let inside = |offset: u64| if size == 0 { 0 } else { offset % size };
    match rng.below(100) {
        0..40 => Step::Write { offset: if rng.chance(70) { inside(offset) } else { offset }, len },
        40..45 if size + len < MAX_LEN => Step::Append { len },
        40..65 => Step::Read { offset: inside(offset), len },
        65..73 => Step::SetLen { size: offset },
        73..78 => Step::Zero { offset, len, keep_size: rng.chance(50) },
        78..83 => Step::Punch { offset, len },
        83..85 => Step::Allocate { offset, len, keep_size: rng.chance(50) },
        85..90 => Step::Flush,
        90..94 => Step::Sync,
        94..97 => Step::Reopen,
        _ => Step::Seek { offset },
    }
}

fn put(model: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let end = offset as usize + data.len();
    if model.len() < end {
        model.resize(end, 0);
    }
    model[offset as usize..end].copy_from_slice(data);
}

fn clear(model: &mut Vec<u8>, offset: u64, len: u64, keep_size: bool) {
    let end = (offset + len) as usize;
    if !keep_size && model.len() < end {
        model.resize(end, 0);
    }
    let end = end.min(model.len());
    if (offset as usize) < end {
        model[offset as usize..end].fill(0);
    }
}

struct Run {
    fs: FileSystem,
    inode: u64,
    file: Arc<OpenFile>,
    model: Vec<u8>,
    number: u64,
}

impl Run {
    async fn step(&mut self, step: Step) -> Result<()> {
        self.number += 1;
        let (file, model) = (&self.file, &mut self.model);
        match step {
            Step::Write { offset, len } => {
                let data = pattern(self.number, 0, len as usize);
                put(model, offset, &data);
                file.write_at(offset, data.into()).await?;
            }
            Step::Append { len } => {
                let data = pattern(self.number, 0, len as usize);
                let at = model.len() as u64;
                put(model, at, &data);
                ensure!(file.append(data.into()).await? == at);
            }
            Step::Read { offset, len } => {
                let end = model.len().min((offset + len) as usize);
                let want = model.get(offset as usize..end).unwrap_or_default();
                ensure_same("read", &file.read_at(offset, len as usize).await?, want)?;
            }
            Step::SetLen { size } => {
                model.resize(size as usize, 0);
                file.set_len(size).await?;
            }
            Step::Zero { offset, len, keep_size } => {
                clear(model, offset, len, keep_size);
                file.zero_range(offset, len, keep_size).await?;
            }
            Step::Punch { offset, len } => {
                clear(model, offset, len, true);
                file.punch_hole(offset, len).await?;
            }
            Step::Allocate { offset, len, keep_size } => {
                let end = (offset + len) as usize;
                if !keep_size && model.len() < end {
                    model.resize(end, 0);
                }
                file.allocate(offset, len, keep_size).await?;
            }
            Step::Flush => file.flush().await?,
            Step::Sync => file.sync(self.number.is_multiple_of(2)).await?,
            Step::Reopen => {
                file.release(true).await?;
                self.file = open(&self.fs, self.inode, true).await?;
            }
            Step::Seek { offset } => {
                let size = model.len() as u64;
                let data = file.seek_data(offset).await?;
                let before = data.unwrap_or(size);
                ensure!(before <= size.max(offset));
                if offset < size {
                    let skipped = &model[offset as usize..before as usize];
                    ensure!(skipped.iter().all(|byte| *byte == 0), "data in a hole at {offset}, {data:?}");
                    let hole = file.seek_hole(offset).await?;
                    ensure!((offset..=size).contains(&hole), "hole at {hole}");
                }
            }
        }
        ensure!(self.file.status().size == self.model.len() as u64, "size {}", self.file.status().size);
        Ok(())
    }
}

async fn run_steps(run: &mut Run, rng: &mut Rng, seed: u64, count: usize) -> Result<()> {
    for _ in 0..count {
        let step = next(rng, run.model.len() as u64);
        let number = run.number;
        run.step(step).await.with_context(|| format!("seed {seed}, step {number}: {step:?}"))?;
    }
    ensure_same("the file", &contents(&run.file).await?, &run.model).with_context(|| format!("seed {seed}"))
}

#[test]
fn an_open_file_behaves_like_an_array_of_bytes() -> Result<()> {
    let seed = seed_of_run("an_open_file_behaves_like_an_array_of_bytes");
    run_within(Duration::from_secs(300), async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let fs = session(&cluster, BLOCK).await?;
        let (status, file) = create(&fs, "f").await?;
        let mut rng = Rng::new(seed);
        let mut run = Run { fs, inode: status.inode, file, model: Vec::new(), number: 0 };
        run_steps(&mut run, &mut rng, seed, steps()).await?;
        run.file.release(true).await?;
        let client = cluster.client().await?;
        ensure_same("elsewhere", &read_all(&client, "/f").await?, &run.model)?;
        run.fs.close().await?;
        Ok(())
    })
}

#[test]
fn an_open_file_behaves_like_an_array_of_bytes_when_a_datanode_dies() -> Result<()> {
    let seed = seed_of_run("an_open_file_behaves_like_an_array_of_bytes_when_a_datanode_dies");
    run_within(Duration::from_secs(300), async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let fs = session(&cluster, BLOCK).await?;
        let (status, file) = create(&fs, "f").await?;
        let mut rng = Rng::new(seed);
        let mut run = Run { fs, inode: status.inode, file, model: Vec::new(), number: 0 };
        run_steps(&mut run, &mut rng, seed, steps() / 3).await?;
        let victim = rng.index(3);
        cluster.kill_datanode(victim).await;
        run_steps(&mut run, &mut rng, seed, steps() / 3).await.context("with two datanodes")?;
        cluster.start_datanode(victim).await?;
        run_steps(&mut run, &mut rng, seed, steps() / 3).await.context("with all again")?;
        run.file.release(true).await?;
        let client = cluster.client().await?;
        ensure_same("elsewhere", &read_all(&client, "/f").await?, &run.model)?;
        run.fs.close().await?;
        Ok(())
    })
}
