//! Measures what a scrub (`dfs admin scrub NODE`) does to readers of the same datanode, and how fast it gets on: a cluster of one
//! datanode, reads of 4 KiB and 1 MiB over the network at random places, in turns with and without a scrub. The kernel is told to
//! forget the replicas before each turn, so that both go to the disk.
//!
//! ```text
//! cargo run --release -p dfs-tests --example scrub_effect -- [MIB [ROUNDS [SECONDS]]]
//! ```
//!
//! `DFS_TEST_PROGRAMS` names a directory with programs to measure instead of those that would be built.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_client::{CreateOptions, DfsClient};
use dfs_tests::programs::{LocalCluster, run_within};
use dfs_tests::rng::Rng;
use futures::future::try_join_all;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest that everything may take.
const DEADLINE: Duration = Duration::from_secs(3_600);

/// Bytes of a file: one block.
const FILE_BYTES: u64 = 64 << 20;

/// Readers at once.
const READERS: u64 = 4;

/// The port of the datanode's HTTP server behind the first of the cluster.
const HTTP_OFFSET: u16 = 12;

/// The same of its data server.
const XFER_OFFSET: u16 = 10;

/// Sizes of reads.
const SIZES: [usize; 2] = [4 << 10, 1 << 20];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| -> Result<u64> {
        arguments.next().map_or(Ok(default), |text| text.parse().context("a number is expected"))
    };
    let (mib, rounds, seconds) = (number(1_024)?, number(3)?, number(4)?);
    run_within(DEADLINE, measure((mib << 20) / FILE_BYTES, rounds, Duration::from_secs(seconds)))
}

async fn measure(files: u64, rounds: u64, time: Duration) -> Result<()> {
    ensure!(files > 0, "at least 64 MiB");
    let cluster = LocalCluster::start(&["--datanodes", "1"]).await?;
    let client =
        DfsClient::builder().namenode(cluster.namenode_address()).local_reads(false).connect().await?;
    let content = vec![0xa5; FILE_BYTES as usize];
    for file in 0..files {
        let mut writer = client.create(&format!("/{file}"), CreateOptions::default()).await?;
        writer.write_all(&content).await?;
        writer.hsync().await?;
        writer.close().await?;
    }
    let node = format!("127.0.0.1:{}", cluster.port_base() + XFER_OFFSET);
    forget(&cluster.dir())?;
    let began = Instant::now();
    cluster.dfs(&["admin", "scrub", &node]).await?.ok()?;
    let alone = (files * FILE_BYTES) as f64 / began.elapsed().as_secs_f64();
    println!("scrub alone: {:.0} MB/s", alone / 1e6);
    for round in 1..=rounds {
        for size in SIZES {
            forget(&cluster.dir())?;
            let quiet = read_for(&client, files, size, time).await?;
            forget(&cluster.dir())?;
            let (busy, rate) = beside_a_scrub(&cluster, &client, &node, files, size, time).await?;
            println!(
                "round {round}, reads of {} KiB by {READERS}: p50 {:.2?} -> {:.2?} ({:.2}x), p99 {:.2?} -> {:.2?} ({:.2}x), \
                 reads/s {:.0} -> {:.0} ({:.2}x); the scrub beside them {:.0} MB/s ({:.2} of alone)",
                size >> 10,
                quiet.p50,
                busy.p50,
                ratio(busy.p50, quiet.p50),
                quiet.p99,
                busy.p99,
                ratio(busy.p99, quiet.p99),
                quiet.rate,
                busy.rate,
                busy.rate / quiet.rate,
                rate / 1e6,
                rate / alone,
            );
        }
    }
    Ok(())
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64().max(1e-9)
}

/// What readers saw.
struct Reads {
    p50: Duration,
    p99: Duration,
    rate: f64,
}

/// Reads at random places for a while.
async fn read_for(client: &DfsClient, files: u64, size: usize, time: Duration) -> Result<Reads> {
    let began = Instant::now();
    let readers = (0..READERS).map(|reader| async move {
        let mut rng = Rng::new(reader + size as u64);
        let mut open = Vec::new();
        for file in 0..files {
            open.push(client.open(&format!("/{file}")).await?);
        }
        let (mut times, mut buffer) = (Vec::new(), vec![0; size]);
        while began.elapsed() < time {
            let file = rng.index(open.len());
            let offset = rng.below(FILE_BYTES / size as u64) * size as u64;
            let asked = Instant::now();
            let bytes = open[file].read_at(offset, &mut buffer).await?;
            times.push(asked.elapsed());
            ensure!(bytes == size, "{bytes} bytes of {size}");
        }
        Ok(times)
    });
    let mut times = try_join_all(readers).await?.concat();
    let passed = began.elapsed();
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    Ok(Reads { p50: at(50), p99: at(99), rate: times.len() as f64 / passed.as_secs_f64() })
}

/// The same while scrubs follow each other; answers also how many bytes a second these read.
async fn beside_a_scrub(
    cluster: &LocalCluster,
    client: &DfsClient,
    node: &str,
    files: u64,
    size: usize,
    time: Duration,
) -> Result<(Reads, f64)> {
    let scrub = async {
        loop {
            cluster.dfs(&["admin", "scrub", node]).await?.ok()?;
        }
    };
    let reads = async {
        let (before, began) = (scrubbed_bytes(cluster).await?, Instant::now());
        let reads = read_for(client, files, size, time).await?;
        let bytes = scrubbed_bytes(cluster).await? - before;
        Ok((reads, bytes / began.elapsed().as_secs_f64()))
    };
    tokio::select! {
        reads = reads => reads,
        ended = scrub => ended,
    }
}

/// The datanode's own count, as of its last heartbeat.
async fn scrubbed_bytes(cluster: &LocalCluster) -> Result<f64> {
    let mut socket = TcpStream::connect(("127.0.0.1", cluster.port_base() + HTTP_OFFSET)).await?;
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: datanode\r\nConnection: close\r\n\r\n").await?;
    let mut page = String::new();
    socket.read_to_string(&mut page).await?;
    let line = page.lines().find_map(|line| line.strip_prefix("dfs_datanode_scrubbed_bytes_total "));
    Ok(line.context("no such metric")?.trim().parse()?)
}

/// Has the kernel forget the pages of all replica files.
fn forget(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget(&entry.path())?;
        } else if entry.file_name().to_string_lossy().starts_with("blk_") {
            let file = File::open(entry.path())?;
            file.sync_all()?;
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
    }
    Ok(())
}
