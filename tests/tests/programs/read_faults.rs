//! Datanodes that are dead, silent or slow under readers: the next replica serves.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dfs_client::fs::{Caller, InodeId, OpenOptions};
use dfs_client::{DfsClient, FileReader};
use dfs_tests::net::Link;
use dfs_tests::net_cluster::{Fault, NetCluster, Settings};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::programs::run_within;
use dfs_tests::rng::Rng;
use dfs_tests::workload::{read_all, write_file};

const DEADLINE: Duration = Duration::from_secs(300);

const BLOCK: u64 = 4 << 20;

const FILE: usize = 12 << 20;

/// A read goes on elsewhere within this time (and what a machine with other work needs).
const NEXT_WITHIN: Duration = Duration::from_secs(2);

const SETTINGS: Settings = Settings { datanodes: 3, block_size: BLOCK, liveness_ms: (20_000, 60_000) };

/// Bytes of one random read.
const READ: usize = 4 << 10;

/// Random reads that are measured.
const READS: usize = 1500;

/// A link on which such a read takes 40 ms: a hundred times as long.
const SLOW_LINK: Link = Link::Slow(100 << 10);

/// Least time of a read over it.
const SLOW_READ: Duration = Duration::from_millis(25);

/// Reads a file to its end and answers its bytes and the longest wait for some of them.
async fn read_timed(client: &DfsClient, path: &str) -> Result<(Vec<u8>, Duration)> {
    let (mut bytes, mut longest) = (Vec::new(), Duration::ZERO);
    let mut began = Instant::now();
    let mut reader = client.open(path).await?;
    while let Some(chunk) = reader.chunk().await? {
        bytes.extend_from_slice(&chunk);
        longest = longest.max(began.elapsed());
        began = Instant::now();
    }
    Ok((bytes, longest))
}

#[test]
fn a_reader_goes_on_with_another_replica_within_a_second() -> Result<()> {
    run_within(DEADLINE, async {
        let Some(mut cluster) = NetCluster::start(SETTINGS).await? else { return Ok(()) };
        let client = cluster.client().await?;
        let bytes = pattern(1, 0, FILE);
        write_file(&client, "/large", &bytes).await?;
        for number in 0..20 {
            write_file(&client, &format!("/small-{number}"), &bytes[..5000 + number]).await?;
        }
        for (victim, fault) in
            [Fault::Killed, Fault::Stopped, Fault::Cut, Fault::Slow].into_iter().enumerate()
        {
            let victim = victim % 3;
            cluster.inject(victim, fault)?;
            // Who has seen nothing yet, and has no connections.
            let client = cluster.client().await?;
            let (read, sequential) = read_timed(&client, "/large").await?;
            ensure_same("/large", &read, &bytes)?;
            let client = cluster.client().await?;
            let mut small = Duration::ZERO;
            for number in 0..20 {
                let path = format!("/small-{number}");
                let began = Instant::now();
                ensure_same(&path, &read_all(&client, &path).await?, &bytes[..5000 + number])?;
                small = small.max(began.elapsed());
            }
            let fs = cluster.session().await?;
            let inode = client.stat("/large").await?.inode;
            let options = OpenOptions { write: false, truncate: false };
            let file = fs.open(&Caller::named("root"), InodeId(inode), options).await?;
            let (mut open_file, mut at) = (Duration::ZERO, 0);
            while at < FILE {
                let began = Instant::now();
                let part = file.read_at(at as u64, 128 << 10).await?;
                open_file = open_file.max(began.elapsed());
                ensure_same("/large", &part, &bytes[at..at + part.len()])?;
                at += part.len();
            }
            eprintln!(
                "{fault:?}: longest wait {sequential:.2?} in sequence, {small:.2?} for a small file, {open_file:.2?} in an open file"
            );
            let longest = sequential.max(small).max(open_file);
            ensure!(longest <= NEXT_WITHIN, "{fault:?}: a read took {longest:?}");
            cluster.heal(victim, fault)?;
        }
        Ok(())
    })
}

/// Times of random reads, shortest first.
async fn random_reads(reader: &FileReader, rng: &mut Rng, bytes: &[u8]) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(READS);
    let mut buffer = vec![0; READ];
    for _ in 0..READS {
        let at = rng.below((FILE - READ) as u64) as usize;
        let began = Instant::now();
        reader.read_at(at as u64, &mut buffer).await?;
        times.push(began.elapsed());
        ensure_same("/large", &buffer, &bytes[at..at + READ])?;
    }
    times.sort();
    Ok(times)
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    times[times.len() * percent / 100]
}

#[test]
fn readers_do_not_wait_for_a_datanode_that_is_a_hundred_times_slower() -> Result<()> {
    run_within(DEADLINE, async {
        let Some(cluster) = NetCluster::start(SETTINGS).await? else { return Ok(()) };
        let client = cluster.client().await?;
        let bytes = pattern(1, 0, FILE);
        write_file(&client, "/large", &bytes).await?;
        let reader = client.open("/large").await?;
        let mut rng = Rng::new(7);
        let healthy = random_reads(&reader, &mut rng, &bytes).await?;
        let began = Instant::now();
        read_timed(&client, "/large").await?;
        let healthy_sequence = began.elapsed();

        // Nearest to one of the blocks at least.
        let victim = cluster.indexes_of(&cluster.blocks("/large").await?[0])?[0];
        cluster.set_link(victim, SLOW_LINK)?;
        let slow = random_reads(&reader, &mut rng, &bytes).await?;
        let began = Instant::now();
        let (read, _) = read_timed(&client, "/large").await?;
        let slow_sequence = began.elapsed();
        ensure_same("/large", &read, &bytes)?;

        let waited = slow.iter().filter(|time| **time >= SLOW_READ).count();
        let (p99, healthy_p99) = (percentile(&slow, 99), percentile(&healthy, 99));
        eprintln!(
            "4 KiB reads: p50 {:.2?} and {:.2?} with a slow datanode, p99 {healthy_p99:.2?} and {p99:.2?} ({:.1} times), \
             {waited} of {READS} waited for it; in sequence {healthy_sequence:.2?} and {slow_sequence:.2?}",
            percentile(&healthy, 50),
            percentile(&slow, 50),
            p99.as_secs_f64() / healthy_p99.as_secs_f64(),
        );
        // A third of the reads would wait for it without second questions.
        ensure!(waited < READS / 20, "{waited} of {READS} reads waited for the slow datanode");
        ensure!(slow_sequence < healthy_sequence * 3 + NEXT_WITHIN, "{slow_sequence:?} in sequence");
        Ok(())
    })
}
