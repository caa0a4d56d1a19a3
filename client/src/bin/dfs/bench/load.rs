//! Runs one operation many times from concurrent callers.
//!
//! Each caller is a task that waits for its answer before it makes the next call; callers take numbers
//! from one counter, so that a slow one delays nobody. The first failure ends the load.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::cpu::{CpuClocks, CpuTimes};
use super::rows::CallRow;
use super::stats::{Latencies, median, median_if_known};

/// What one load took.
pub struct LoadRun {
    operations: u64,
    elapsed: Duration,
    latencies: Latencies,
    cpu: CpuTimes,
}

/// Calls `operation` with the numbers 0 to `operations - 1` from `callers` tasks.
pub async fn run<F, R>(
    callers: usize,
    operations: u64,
    clocks: &CpuClocks,
    operation: F,
) -> anyhow::Result<LoadRun>
where
    F: Fn(u64) -> R + Clone + Send + 'static,
    R: Future<Output = anyhow::Result<()>> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let mut latencies = Latencies::new()?;
    let mut tasks = JoinSet::new();
    let (cpu, start) = (clocks.read(), Instant::now());
    for _ in 0..callers {
        let (next, operation, mut latencies) = (next.clone(), operation.clone(), Latencies::new()?);
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= operations {
                    return anyhow::Ok(latencies);
                }
                let start = Instant::now();
                operation(number).await?;
                latencies.record(start.elapsed());
            }
        });
    }
    let mut finished = Vec::with_capacity(callers);
    while let Some(caller) = tasks.join_next().await {
        finished.push(caller??);
    }
    let elapsed = start.elapsed();
    let cpu = clocks.read().since(cpu);
    for caller in &finished {
        latencies.merge(caller)?;
    }
    Ok(LoadRun { operations, elapsed, latencies, cpu })
}

/// All rounds of one operation with one number of callers.
pub struct LoadResult {
    op: &'static str,
    callers: usize,
    rounds: Vec<LoadRun>,
}

impl LoadResult {
    /// No round yet.
    pub fn new(op: &'static str, callers: usize) -> Self {
        Self { op, callers, rounds: Vec::new() }
    }

    /// Adds a round.
    pub fn add(&mut self, run: LoadRun) {
        self.rounds.push(run);
    }

    /// Medians of the rounds; percentiles of all calls of all rounds.
    pub fn row(&self) -> anyhow::Result<CallRow> {
        let mut latencies = Latencies::new()?;
        for run in &self.rounds {
            latencies.merge(&run.latencies)?;
        }
        let us = |of: fn(&CpuTimes) -> Option<Duration>| {
            let each = |run: &LoadRun| Some(of(&run.cpu)?.as_secs_f64() * 1e6 / run.operations as f64);
            median_if_known(self.rounds.iter().map(each))
        };
        let rate = |run: &LoadRun| run.operations as f64 / run.elapsed.as_secs_f64();
        Ok(CallRow {
            op: self.op,
            callers: self.callers,
            ops_per_s: median(self.rounds.iter().map(rate)).unwrap_or_default(),
            p50_us: latencies.percentile_us(50.0),
            p99_us: latencies.percentile_us(99.0),
            namenode_cpu_us: us(|cpu| cpu.namenode),
            client_cpu_us: us(|cpu| cpu.client),
            datanodes_cpu_us: us(|cpu| cpu.datanodes),
        })
    }
}

/// The results of several operations, each with several numbers of callers.
pub struct LoadResults(Vec<LoadResult>);

impl LoadResults {
    /// No result yet.
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a round of `op` with `callers`.
    pub fn add(&mut self, op: &'static str, callers: usize, run: LoadRun) {
        match self.0.iter_mut().find(|result| result.op == op && result.callers == callers) {
            Some(result) => result.add(run),
            None => {
                let mut result = LoadResult::new(op, callers);
                result.add(run);
                self.0.push(result);
            }
        }
    }

    /// One row an operation and number of callers, in the order in which they came first.
    pub fn rows(&self) -> anyhow::Result<Vec<CallRow>> {
        self.0.iter().map(LoadResult::row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_number_is_called_once_whatever_the_callers() {
        for callers in [1, 3, 64] {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let operation = {
                let seen = seen.clone();
                move |number| {
                    seen.lock().expect("no panic").push(number);
                    async { Ok(()) }
                }
            };
            let run = run(callers, 40, &CpuClocks::default(), operation).await.expect("runs");
            let mut seen = seen.lock().expect("no panic").clone();
            seen.sort_unstable();
            assert_eq!(seen, (0..40).collect::<Vec<u64>>(), "{callers} callers");
            assert_eq!((run.operations, run.cpu.namenode), (40, None));
            assert!(run.latencies.percentile_us(50.0).is_some());
        }
    }

    #[tokio::test]
    async fn the_first_failure_ends_the_load() {
        let operation = |number| async move {
            if number == 5 {
                anyhow::bail!("number {number}")
            }
            if number > 5 {
                std::future::pending::<()>().await
            }
            Ok(())
        };
        let error = run(4, 1000, &CpuClocks::default(), operation).await.err().expect("fails");
        assert_eq!(error.to_string(), "number 5");
    }

    #[test]
    fn rows_are_medians_in_order_of_appearance() {
        let run = |ms, namenode| LoadRun {
            operations: 100,
            elapsed: Duration::from_millis(ms),
            latencies: Latencies::new().expect("bounds"),
            cpu: CpuTimes { client: Some(Duration::from_millis(2)), datanodes: None, namenode },
        };
        let mut results = LoadResults::new();
        for (ms, cpu) in [(10, 1), (1000, 100), (20, 5)] {
            results.add("stat", 16, run(ms, Some(Duration::from_millis(cpu))));
            results.add("list", 16, run(ms, None));
        }
        let rows = results.rows().expect("rows");
        assert_eq!(rows.iter().map(|row| row.op).collect::<Vec<_>>(), ["stat", "list"]);
        assert_eq!((rows[0].ops_per_s, rows[0].namenode_cpu_us), (5000.0, Some(50.0)));
        assert_eq!((rows[1].namenode_cpu_us, rows[1].client_cpu_us), (None, Some(20.0)));
    }
}
