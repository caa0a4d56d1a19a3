//! Faults of pipeline members at every moment of a write: the write goes on after a short pause, and everything is there in full
//! replication in the end.
//!
//! A *cell* is a member's place in the pipeline, what happens to it, and when. A part of the cells covers every fault at every
//! place and every moment; `DFS_TEST_CELLS=all` tries all combinations, `DFS_TEST_CELLS=slow` those whose names contain the word.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dfs_client::{CreateOptions, DfsClient, FileWriter};
use dfs_tests::net_cluster::{Fault, NetCluster, Settings};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::programs::run_within;
use dfs_tests::wait::wait_until;
use dfs_tests::workload::read_all;
use tokio::io::AsyncWriteExt;

/// Chooses cells.
const CELLS_VARIABLE: &str = "DFS_TEST_CELLS";

/// The longest time in which a writer's owner may see nothing move.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a machine that runs other tests may add.
const NOISE: Duration = Duration::from_secs(3);

/// A member that crawls holds a writer up for no longer in all.
const LONGEST_CRAWL: Duration = Duration::from_secs(15);

/// Until every block has all its replicas again.
const REPLICATED_WITHIN: Duration = Duration::from_secs(60);

const DEADLINE: Duration = Duration::from_secs(1200);

const BLOCK: u64 = 4 << 20;

/// What one call writes, as a rule.
const PIECE: usize = 64 << 10;

/// What one call writes between two flushes.
const RECORD: usize = 4 << 10;

const RECORDS: usize = 40;

/// Places in a pipeline of three.
const PLACES: [&str; 3] = ["first", "middle", "last"];

/// When something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// The block is allocated, and no pipeline is set up.
    Setup,
    /// In the middle of a stream that is not flushed.
    Streaming,
    /// Between two flushes of small records.
    Hflush,
    /// Shortly before the end of a block.
    BlockEnd,
    /// Before the close.
    Close,
}

const MOMENTS: [Moment; 5] =
    [Moment::Setup, Moment::Streaming, Moment::Hflush, Moment::BlockEnd, Moment::Close];

#[derive(Clone, Copy, Debug)]
struct Cell {
    place: usize,
    fault: Fault,
    moment: Moment,
}

impl Cell {
    fn name(self) -> String {
        format!("{} {:?} at {:?}", PLACES[self.place], self.fault, self.moment).to_lowercase()
    }

    /// The cells of some faults that are to be tried.
    fn chosen(faults: &[Fault]) -> Vec<Self> {
        let choice = std::env::var(CELLS_VARIABLE).ok();
        let mut cells = Vec::new();
        for (row, fault) in Fault::ALL.into_iter().enumerate() {
            for place in 0..PLACES.len() {
                for (column, moment) in MOMENTS.into_iter().enumerate() {
                    let cell = Self { place, fault, moment };
                    let usual = column == (row + 2 * place) % MOMENTS.len();
                    let wanted = match choice.as_deref() {
                        None => usual,
                        Some(words) => {
                            words == "all" || words.split(' ').all(|word| cell.name().contains(word))
                        }
                    };
                    if faults.contains(&fault) && wanted {
                        cells.push(cell);
                    }
                }
            }
        }
        cells
    }
}

/// What the owner of a writer saw.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Longest call.
    pause: Duration,
    /// From the fault to the end of the close.
    rest: Duration,
    /// From there until all replicas were there.
    replicated: Duration,
    /// Reading it, with the fault still there.
    read: Duration,
}

/// A writer whose calls are timed.
struct Timed {
    writer: FileWriter,
    seen: Seen,
    seed: u64,
    written: usize,
}

impl Timed {
    async fn write(&mut self, len: usize, piece: usize, flush: bool) -> Result<()> {
        let bytes = pattern(self.seed, self.written as u64, len);
        for part in bytes.chunks(piece) {
            let began = Instant::now();
            self.writer.write_all(part).await?;
            if flush {
                self.writer.hflush().await?;
            }
            self.seen.pause = self.seen.pause.max(began.elapsed());
        }
        self.written += len;
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        self.write(0, 1, false).await?;
        Ok(self.writer.hflush().await?)
    }

    async fn close(&mut self) -> Result<()> {
        let began = Instant::now();
        self.writer.close().await?;
        self.seen.pause = self.seen.pause.max(began.elapsed());
        Ok(())
    }
}

/// Does what is written before the fault.
async fn before(moment: Moment, timed: &mut Timed) -> Result<()> {
    match moment {
        Moment::Setup => Ok(()),
        Moment::Streaming => timed.write(2 << 20, PIECE, false).await,
        Moment::Hflush => timed.write(RECORDS / 4 * RECORD, RECORD, true).await,
        Moment::BlockEnd => {
            timed.write(BLOCK as usize - PIECE, PIECE, false).await?;
            timed.flush().await
        }
        Moment::Close => {
            timed.write(BLOCK as usize / 2, PIECE, false).await?;
            timed.flush().await
        }
    }
}

/// Does what is written after it.
async fn after(moment: Moment, timed: &mut Timed) -> Result<()> {
    match moment {
        Moment::Setup | Moment::Streaming => timed.write(6 << 20, PIECE, false).await?,
        Moment::Hflush => timed.write(RECORDS * RECORD, RECORD, true).await?,
        Moment::BlockEnd => timed.write(PIECE + (1 << 20), PIECE, false).await?,
        Moment::Close => {}
    }
    timed.close().await
}

async fn try_cell(cluster: &mut NetCluster, cell: Cell, number: u64) -> Result<Seen> {
    let path = format!("/cell-{number}");
    let client = cluster.client().await?;
    let options = CreateOptions { replication: Some(3), ..CreateOptions::default() };
    let writer = client.create(&path, options).await?;
    let mut timed = Timed { writer, seen: Seen::default(), seed: number, written: 0 };
    before(cell.moment, &mut timed).await?;
    timed.seen = Seen::default();
    // The last block is the one being written.
    let blocks = cluster.blocks(&path).await?;
    let members = match timed.writer.pipeline() {
        shown if shown.is_empty() => cluster.indexes_of(blocks.last().context("no block")?)?,
        shown => shown.iter().map(|member| cluster.index_of(member)).collect::<Result<_>>()?,
    };
    let victim = *members.get(cell.place).with_context(|| format!("pipeline {members:?}"))?;
    cluster.inject(victim, cell.fault)?;
    let began = Instant::now();
    let outcome = after(cell.moment, &mut timed).await;
    timed.seen.rest = began.elapsed();
    if let Err(error) = outcome {
        cluster.heal(victim, cell.fault)?;
        return Err(error.context(format!("after {:?}", timed.seen)));
    }

    let closed = Instant::now();
    wait_until(&format!("{path} is replicated"), REPLICATED_WITHIN, async || {
        let blocks = cluster.blocks(&path).await?;
        Ok(blocks.iter().all(|block| block.locations.len() >= 3 && block.corrupt_replicas == 0))
    })
    .await?;
    timed.seen.replicated = closed.elapsed();
    let began = Instant::now();
    check(&cluster.client().await?, &path, &timed).await?;
    timed.seen.read = began.elapsed();
    cluster.heal(victim, cell.fault)?;
    cluster.wait_for_live(DATANODES).await?;
    client.delete(&path, false).await?;
    Ok(timed.seen)
}

async fn check(client: &DfsClient, path: &str, timed: &Timed) -> Result<()> {
    ensure_same(path, &read_all(client, path).await?, &pattern(timed.seed, 0, timed.written))
}

const DATANODES: usize = 5;

/// Tries the cells of some faults, prints what was seen and judges it.
async fn try_cells(faults: &[Fault]) -> Result<()> {
    let cells = Cell::chosen(faults);
    let settings = Settings { datanodes: DATANODES, block_size: BLOCK, liveness_ms: (3_000, 8_000) };
    let mut cluster = match NetCluster::start(settings).await? {
        Some(cluster) if !cells.is_empty() => cluster,
        Some(_) | None => return Ok(()),
    };
    let (mut table, mut bad) = (String::new(), Vec::new());
    for (number, cell) in cells.iter().enumerate() {
        let line = match try_cell(&mut cluster, *cell, number as u64).await {
            Ok(seen) => {
                if seen.pause > LONGEST_PAUSE + NOISE {
                    bad.push(format!("{}: nothing moved for {:?}", cell.name(), seen.pause));
                }
                if cell.fault == Fault::Slow && seen.rest > LONGEST_CRAWL {
                    bad.push(format!("{}: crawled for {:?}", cell.name(), seen.rest));
                }
                format!(
                    "pause {:>6.2} s, written after {:>6.2} s, replicated after {:>6.2} s, read in {:>6.2} s",
                    seen.pause.as_secs_f64(),
                    seen.rest.as_secs_f64(),
                    seen.replicated.as_secs_f64(),
                    seen.read.as_secs_f64(),
                )
            }
            Err(error) => {
                bad.push(format!("{}: {error:#}", cell.name()));
                cluster.wait_for_live(DATANODES).await.with_context(|| format!("after {}", cell.name()))?;
                format!("{error:#}")
            }
        };
        let line = format!("{:<28} {line}\n", cell.name());
        eprint!("{line}");
        table.push_str(&line);
    }
    ensure!(bad.is_empty(), "{}\n\n{table}", bad.join("\n"));
    if table.is_empty() { bail!("no cell") } else { Ok(()) }
}

#[test]
fn a_member_that_is_killed_or_full_holds_a_writer_up_for_a_moment() -> Result<()> {
    run_within(DEADLINE, try_cells(&[Fault::Killed, Fault::Full]))
}

#[test]
fn a_member_that_is_stopped_or_cut_off_holds_a_writer_up_for_a_moment() -> Result<()> {
    run_within(DEADLINE, try_cells(&[Fault::Stopped, Fault::Cut]))
}

#[test]
fn a_member_that_crawls_is_left_behind() -> Result<()> {
    run_within(DEADLINE, try_cells(&[Fault::Slow]))
}
