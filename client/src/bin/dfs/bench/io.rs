//! `dfs bench io`: large files in streams, beside the limits.
//!
//! For each replication one file is written and verified first, untimed. A round then goes through all
//! cases, each next to its limit; which of the two comes first alternates, so that neither always
//! inherits the other's state of disk and caches. Written pages are on disk before each measurement: the
//! write-back of one run is not the next one's. Readers in several streams all read that one file from
//! its start; files written in several streams have its size together.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dfs_client::{CreateOptions, DfsClient};
use tokio::task::JoinSet;

use super::args::IoArgs;
use super::cpu::CpuTimes;
use super::limits::{LimitRun, Limits};
use super::pattern::{PIECE_BYTES, Pattern};
use super::rows::{CpuSplit, IoRow};
use super::session::Session;
use super::stats::{median, median_if_known};

/// Replications measured if none is named.
const DEFAULT_REPLICATIONS: [u16; 2] = [1, 3];

/// Number of the file that is read; written ones have higher numbers.
const READ_FILE: u64 = 0;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// Client to datanodes.
    Write,
    /// Datanodes to client.
    Read,
}

/// What one row of the result is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    direction: Direction,
    streams: usize,
}

/// What the cluster took.
#[derive(Clone, Copy)]
struct StreamRun {
    elapsed: Duration,
    cpu: CpuTimes,
    bytes: u64,
}

/// All rounds of one case.
#[derive(Default)]
struct CaseRuns {
    cluster: Vec<StreamRun>,
    limit: Vec<LimitRun>,
}

/// Measures everything below `base`.
pub async fn measure(
    session: &Session,
    base: &str,
    args: &IoArgs,
    limits_parent: &Path,
) -> anyhow::Result<Vec<IoRow>> {
    let replications = replications(&args.replication, session.live_datanodes())?;
    let pattern = Pattern::new();
    let limits = if args.no_limits {
        None
    } else {
        session.step("preparing the limits".to_owned());
        let (parent, size, pattern) = (limits_parent.to_owned(), args.size, pattern.clone());
        let prepared = tokio::task::spawn_blocking(move || Limits::prepare(&parent, size, &pattern)).await?;
        Some(Arc::new(prepared.context("cannot measure the limits (see --dir)")?))
    };
    let mut rows = Vec::new();
    for replication in replications {
        let bench = Streams {
            session,
            base,
            replication,
            size: args.size,
            pattern: &pattern,
            limits: limits.as_ref(),
        };
        rows.extend(bench.measure(&args.streams, args.rounds.rounds).await?);
    }
    Ok(rows)
}

/// What was asked for, or of the default what the datanodes can hold. A file with fewer replicas than
/// its row says would make a wrong figure.
fn replications(asked: &[u16], live_datanodes: usize) -> anyhow::Result<Vec<u16>> {
    let fits = |replication: &&u16| usize::from(**replication) <= live_datanodes;
    if asked.is_empty() {
        let fitting: Vec<u16> = DEFAULT_REPLICATIONS.iter().filter(fits).copied().collect();
        ensure!(!fitting.is_empty(), "no live datanode");
        return Ok(fitting);
    }
    if let Some(replication) = asked.iter().find(|replication| !fits(replication)) {
        anyhow::bail!("replication {replication} needs as many live datanodes; there are {live_datanodes}");
    }
    Ok(asked.to_vec())
}

/// All cases of one replication.
struct Streams<'a> {
    session: &'a Session,
    base: &'a str,
    replication: u16,
    size: u64,
    pattern: &'a Pattern,
    limits: Option<&'a Arc<Limits>>,
}

impl Streams<'_> {
    async fn measure(&self, streams: &[usize], rounds: u32) -> anyhow::Result<Vec<IoRow>> {
        let cases: Vec<Case> = [Direction::Write, Direction::Read]
            .into_iter()
            .flat_map(|direction| streams.iter().map(move |streams| Case { direction, streams: *streams }))
            .collect();
        let mut runs: Vec<CaseRuns> = cases.iter().map(|_| CaseRuns::default()).collect();

        let empty = self.session.occupancy(0).await?;
        self.session.step(format!("replication {}: writing and verifying", self.replication));
        self.write_files(&[(READ_FILE, self.size)]).await?;
        self.read_streams(&[(READ_FILE, self.size)], true).await?;
        for case in &cases {
            if self.limits.is_some() {
                self.limit(*case).await?;
            }
        }
        for round in 0..rounds {
            for (case, runs) in cases.iter().zip(&mut runs) {
                self.session.step(self.describe(*case, round + 1, rounds));
                let limit_first = round % 2 == 0;
                if self.limits.is_some() && limit_first {
                    runs.limit.push(self.limit(*case).await?);
                }
                runs.cluster.push(self.cluster(*case, round == 0).await?);
                if self.limits.is_some() && !limit_first {
                    runs.limit.push(self.limit(*case).await?);
                }
            }
        }
        self.session.client.delete(&self.path(READ_FILE), false).await?;
        self.session.settle(empty).await?;
        Ok(cases.iter().zip(&runs).map(|(case, runs)| runs.row(*case, self.replication)).collect())
    }

    fn describe(&self, case: Case, round: u32, rounds: u32) -> String {
        let (replication, streams, op) = (self.replication, case.streams, case.direction.name());
        format!("{op}, replication {replication}, {streams} streams, round {round} of {rounds}")
    }

    /// Measures the limit of a case.
    async fn limit(&self, case: Case) -> anyhow::Result<LimitRun> {
        let limits = self.limits.context("limits are not measured")?.clone();
        let (stores, bytes) = (usize::from(self.replication), self.size);
        sync().await?;
        let run = tokio::task::spawn_blocking(move || match case.direction {
            Direction::Write => limits.write(stores, case.streams, bytes),
            Direction::Read => limits.read(case.streams),
        });
        run.await?.context("cannot measure the limits")
    }

    /// Measures the cluster. `verify` looks at what was written afterwards, untimed.
    async fn cluster(&self, case: Case, verify: bool) -> anyhow::Result<StreamRun> {
        match case.direction {
            Direction::Read => {
                sync().await?;
                self.read_streams(&vec![(READ_FILE, self.size); case.streams], false).await
            }
            Direction::Write => {
                let before = self.session.occupancy(self.size * u64::from(self.replication)).await?;
                let files = split(self.size, case.streams);
                sync().await?;
                let run = self.write_files(&files).await?;
                if verify {
                    self.read_streams(&files, true).await?;
                }
                for (number, bytes) in &files {
                    let path = self.path(*number);
                    let size = self.session.client.stat(&path).await?.size;
                    ensure!(size == *bytes, "{path}: {size} bytes, not {bytes}");
                    self.session.client.delete(&path, false).await?;
                }
                self.session.settle(before).await?;
                Ok(run)
            }
        }
    }

    /// Writes files, each given by its number and size, all at once.
    async fn write_files(&self, files: &[(u64, u64)]) -> anyhow::Result<StreamRun> {
        let options = CreateOptions { replication: Some(self.replication), ..CreateOptions::default() };
        self.timed(files, |client, path, number, bytes, pattern| async move {
            write_file(&client, &path, options, number, bytes, &pattern).await
        })
        .await
    }

    /// Reads files, each given by its number and size, all at once.
    async fn read_streams(&self, files: &[(u64, u64)], verify: bool) -> anyhow::Result<StreamRun> {
        self.timed(files, move |client, path, number, bytes, pattern| async move {
            read_file(&client, &path, number, bytes, verify.then_some(&pattern)).await
        })
        .await
    }

    async fn timed<F, R>(&self, files: &[(u64, u64)], stream: F) -> anyhow::Result<StreamRun>
    where
        F: Fn(DfsClient, String, u64, u64, Pattern) -> R,
        R: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        let (cpu, start) = (self.session.clocks.read(), Instant::now());
        for (number, bytes) in files {
            let (client, pattern) = (self.session.client.clone(), self.pattern.clone());
            tasks.spawn(stream(client, self.path(*number), *number, *bytes, pattern));
        }
        while let Some(stream) = tasks.join_next().await {
            stream??;
        }
        let elapsed = start.elapsed();
        let cpu = self.session.clocks.read().since(cpu);
        Ok(StreamRun { elapsed, cpu, bytes: files.iter().map(|(_, bytes)| bytes).sum() })
    }

    fn path(&self, number: u64) -> String {
        format!("{}/replication-{}-file-{number}", self.base, self.replication)
    }
}

/// Cuts `size` into files of almost the same size, numbered after the file that is read.
fn split(size: u64, streams: usize) -> Vec<(u64, u64)> {
    let streams = streams as u64;
    (0..streams).map(|i| (READ_FILE + 1 + i, size / streams + u64::from(i < size % streams))).collect()
}

async fn write_file(
    client: &DfsClient,
    path: &str,
    options: CreateOptions,
    number: u64,
    bytes: u64,
    pattern: &Pattern,
) -> anyhow::Result<()> {
    let mut file = client.create(path, options).await?;
    let mut offset = 0;
    while offset < bytes {
        let piece = pattern.piece(number, offset, (bytes - offset).min(PIECE_BYTES as u64) as usize);
        offset += piece.len() as u64;
        file.write_bytes(piece).await?;
    }
    file.close().await?;
    Ok(())
}

/// Reads a file to its end; with a pattern, compares it.
async fn read_file(
    client: &DfsClient,
    path: &str,
    number: u64,
    bytes: u64,
    pattern: Option<&Pattern>,
) -> anyhow::Result<()> {
    let mut file = client.open(path).await?;
    let mut offset = 0;
    while let Some(chunk) = file.chunk().await? {
        if let Some(pattern) = pattern {
            let same = pattern.matches(number, offset, &chunk);
            ensure!(same, "{path}: content at {offset} differs from what was written");
        }
        offset += chunk.len() as u64;
    }
    ensure!(offset == bytes, "{path}: {offset} bytes, not {bytes}");
    Ok(())
}

/// Writes the machine's dirty pages to disk, without blocking the runtime.
async fn sync() -> anyhow::Result<()> {
    tokio::task::spawn_blocking(nix::unistd::sync).await?;
    Ok(())
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// 10^6 bytes a second.
fn mb_per_s(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 / 1e6 / elapsed.as_secs_f64()
}

/// Seconds for 2^30 bytes.
fn per_gib(time: Duration, bytes: u64) -> f64 {
    time.as_secs_f64() * f64::from(1 << 30) / bytes as f64
}

impl CaseRuns {
    fn row(&self, case: Case, replication: u16) -> IoRow {
        let cpu = |of: fn(&CpuTimes) -> Option<Duration>| {
            median_if_known(self.cluster.iter().map(|run| Some(per_gib(of(&run.cpu)?, run.bytes))))
        };
        IoRow {
            op: case.direction.name(),
            replication,
            streams: case.streams,
            mb_per_s: median(self.cluster.iter().map(|run| mb_per_s(run.bytes, run.elapsed)))
                .unwrap_or_default(),
            limit_mb_per_s: median(self.limit.iter().map(|run| mb_per_s(run.bytes, run.elapsed))),
            cpu_s_per_gib: cpu(CpuTimes::total),
            split: CpuSplit {
                client: cpu(|cpu| cpu.client),
                datanodes: cpu(|cpu| cpu.datanodes),
                namenode: cpu(|cpu| cpu.namenode),
                limit: median_if_known(self.limit.iter().map(|run| Some(per_gib(run.cpu?, run.bytes)))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_never_claim_more_replicas_than_there_are() {
        assert_eq!(replications(&[], 3).expect("fits"), [1, 3]);
        assert_eq!(replications(&[], 2).expect("fits"), [1]);
        assert_eq!(replications(&[2], 2).expect("fits"), [2]);
        assert!(replications(&[], 0).is_err());
        let error = replications(&[1, 3], 2).expect_err("too few").to_string();
        assert!(error.contains("replication 3") && error.contains("there are 2"), "{error}");
    }

    #[test]
    fn streams_share_the_size() {
        assert_eq!(split(10, 4), [(1, 3), (2, 3), (3, 2), (4, 2)]);
        assert_eq!(split(1 << 30, 1), [(1, 1 << 30)]);
    }

    #[test]
    fn rows_are_medians_in_decimal_megabytes_and_binary_gigabytes() {
        let seconds = |s| Some(Duration::from_secs(s));
        let run = |ms, namenode| StreamRun {
            elapsed: Duration::from_millis(ms),
            cpu: CpuTimes { client: seconds(1), datanodes: seconds(2), namenode },
            bytes: 1 << 31,
        };
        let cluster = vec![run(1000, seconds(1)), run(4000, seconds(1)), run(2000, seconds(1))];
        let mut runs = CaseRuns { cluster, limit: Vec::new() };
        let case = Case { direction: Direction::Write, streams: 4 };
        let row = runs.row(case, 3);
        assert_eq!((row.op, row.replication, row.streams), ("write", 3, 4));
        assert!((row.mb_per_s - 1_073.741_824).abs() < 1e-9, "{}", row.mb_per_s);
        assert_eq!((row.cpu_s_per_gib, row.limit_mb_per_s), (Some(2.0), None));
        assert_eq!((row.split.client, row.split.datanodes, row.split.limit), (Some(0.5), Some(1.0), None));
        runs.cluster.push(run(2000, None));
        assert_eq!(runs.row(case, 3).cpu_s_per_gib, None, "an unknown part makes the sum unknown");
    }
}
