//! Measures how long the repair of a dead datanode's small blocks takes: a local cluster of the real programs with its
//! default settings, `kill -9` of one datanode, and a look at the namenode's figures every few milliseconds until every block has all
//! its replicas again.
//!
//! ```text
//! cargo run --release -p dfs-tests --example repair_time -- [BLOCKS [DATANODES [BYTES [RUNS]]]]
//! ```
//!
//! `BLOCKS` (10,000) is how many the datanode holds that dies. `DFS_TEST_PROGRAMS` names a directory with programs to measure
//! instead of those that would be built.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_client::{CreateOptions, DfsClient};
use dfs_tests::programs::{LocalCluster, run_within};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::io::AsyncWriteExt;

/// The longest that everything may take.
const DEADLINE: Duration = Duration::from_secs(3_600);

/// Replicas of a file: the default.
const REPLICATION: u64 = 3;

/// Writers at once.
const WRITERS: usize = 32;

/// Time between two looks at the namenode's figures.
const LOOK: Duration = Duration::from_millis(5);

/// Longest wait for the end of repair.
const REPAIR_DEADLINE: Duration = Duration::from_secs(600);

/// The datanode that dies.
const VICTIM: &str = "datanode-0";

/// Times since the kill.
#[derive(Debug)]
struct Times {
    /// The namenode gave the datanode up.
    dead: Duration,
    /// The first copy arrived.
    first: Duration,
    /// Every block had its replicas.
    full: Duration,
    /// Copies made.
    copies: u64,
    /// Processor time of the namenode, and of the other datanodes together, from the death to the end.
    namenode_cpu: Duration,
    datanodes_cpu: Duration,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| -> Result<u64> {
        arguments.next().map_or(Ok(default), |text| text.parse().context("a number is expected"))
    };
    let (blocks, datanodes, bytes, runs) = (number(10_000)?, number(4)?, number(4_096)?, number(1)?);
    ensure!(datanodes > REPLICATION, "repair needs more datanodes than replicas");
    run_within(DEADLINE, async {
        for run in 1..=runs {
            let times = measure(blocks, datanodes, bytes).await?;
            let rate = times.copies as f64 / (times.full - times.first).as_secs_f64().max(1e-3);
            println!(
                "run {run}: {} copies of {bytes} bytes, {datanodes} datanodes: dead after {:.2?}, first copy {:.2?}, \
                 all replicas {:.2?} after the kill ({:.2?} after the death, {rate:.0} copies/s); CPU since the death: \
                 namenode {:.2?}, datanodes {:.2?}",
                times.copies,
                times.dead,
                times.first,
                times.full,
                times.full - times.dead,
                times.namenode_cpu,
                times.datanodes_cpu,
            );
        }
        Ok(())
    })
}

async fn measure(blocks: u64, datanodes: u64, bytes: u64) -> Result<Times> {
    let cluster = LocalCluster::start(&["--datanodes", &datanodes.to_string()]).await?;
    let client = cluster.client().await?;
    fill(&client, blocks * datanodes / REPLICATION, usize::try_from(bytes)?).await?;
    let settled = async |client: &DfsClient| -> Result<bool> {
        let stats = client.stats().await?;
        Ok(stats.under_replicated_blocks == 0 && stats.pending_replication_blocks == 0)
    };
    let mut looks = tokio::time::interval(LOOK);
    let began = Instant::now();
    while !settled(&client).await? {
        ensure!(began.elapsed() < REPAIR_DEADLINE, "the files do not get all their replicas");
        looks.tick().await;
    }
    let copied = client.stats().await?.copied_blocks;
    cluster.kill_9(|name| name == VICTIM).await?;
    let began = Instant::now();
    let (mut dead, mut first) = (None, None);
    let mut cpu = (Duration::ZERO, Duration::ZERO);
    loop {
        let stats = client.stats().await?;
        let passed = began.elapsed();
        ensure!(passed < REPAIR_DEADLINE, "repair does not end");
        if stats.dead_datanodes > 0 && dead.is_none() {
            dead = Some(passed);
            cpu = processor_time(&cluster)?;
        }
        if stats.copied_blocks > copied {
            first.get_or_insert(passed);
        }
        let lacking = stats.under_replicated_blocks + stats.pending_replication_blocks;
        if let (Some(dead), Some(first), 0) = (dead, first, lacking) {
            let (namenode, others) = processor_time(&cluster)?;
            return Ok(Times {
                dead,
                first,
                full: passed,
                copies: stats.copied_blocks - copied,
                namenode_cpu: namenode.saturating_sub(cpu.0),
                datanodes_cpu: others.saturating_sub(cpu.1),
            });
        }
        looks.tick().await;
    }
}

/// Writes `files` files of one block of `bytes` bytes.
async fn fill(client: &DfsClient, files: u64, bytes: usize) -> Result<()> {
    let content = vec![0x5a; bytes];
    stream::iter(0..files)
        .map(|file| {
            let content = &content;
            async move {
                let options = CreateOptions { create_parents: true, ..CreateOptions::default() };
                let path = format!("/small/{}/{file}", file / 1_000);
                let mut writer = client.create(&path, options).await?;
                writer.write_all(content).await?;
                writer.close().await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(WRITERS)
        .try_collect::<()>()
        .await
}

/// What the kernel counted for the namenode, and for all datanodes that live.
fn processor_time(cluster: &LocalCluster) -> Result<(Duration, Duration)> {
    let (mut namenode, mut datanodes) = (Duration::ZERO, Duration::ZERO);
    for (name, pid) in cluster.processes()? {
        let time = nanoseconds_on_cpu(&Path::new("/proc").join(pid.to_string()))?;
        if name.starts_with("datanode") {
            datanodes += time;
        } else {
            namenode += time;
        }
    }
    Ok((namenode, datanodes))
}

/// Sum over the threads that live.
fn nanoseconds_on_cpu(process: &Path) -> Result<Duration> {
    let mut sum = 0;
    for task in std::fs::read_dir(process.join("task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        sum += text.split_ascii_whitespace().next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(sum))
}
