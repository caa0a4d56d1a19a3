//! Writers that are killed with `kill -9` in the middle of their work: another writer, or the namenode, closes their files; no flushed
//! byte is lost, and all replicas agree.
//!
//! A writer is a process of its own: this test's program, told by a variable to be one ([`the_writer_that_is_killed`]). It says
//! what it has done, line by line, and dies when it has said as much as a seed decides.

use std::fs;
use std::io::Write as _;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dfs_client::{CreateOptions, DfsClient};
use dfs_tests::cluster::{MiniCluster, SUPERUSER};
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::rng::{Rng, seed_of_run};
use dfs_tests::wait::{PATIENCE, wait_for, wait_until};
use dfs_tests::workload::read_all;
use futures::future::try_join_all;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

/// Names the namenode, the path, the seed and the moment to the writer's process.
const WRITER_VARIABLE: &str = "DFS_TEST_DEAD_WRITER";

const BLOCK: usize = 256 << 10;

/// Limits of the lease: short enough to wait for, longer than a busy machine stands still.
const SOFT_MS: u64 = 4_000;
/// See [`SOFT_MS`].
const HARD_MS: u64 = 8_000;

/// Begins the lines that count: the test harness prints others.
const MARK: &str = "written ";

/// What the writer is at when it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Pieces of 64 KiB, none of which is flushed.
    Streaming,
    /// Records of up to 10,000 bytes, each flushed.
    Hflush,
    /// Small flushed records around the end of a block.
    BlockEnd,
}

const MOMENTS: [Moment; 3] = [Moment::Streaming, Moment::Hflush, Moment::BlockEnd];

/// Who closes the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heir {
    /// Another writer, who appends.
    Writer,
    /// The namenode, after the hard limit.
    Namenode,
}

async fn client_of(namenode: &str) -> Result<DfsClient> {
    let builder = DfsClient::builder().namenode(namenode).user(SUPERUSER);
    Ok(builder.lease_renewal(Duration::from_millis(SOFT_MS / 10)).connect().await?)
}

/// Not a test unless a test starts it: writes until it is killed.
#[test]
fn the_writer_that_is_killed() -> Result<()> {
    let Ok(order) = std::env::var(WRITER_VARIABLE) else { return Ok(()) };
    let words: Vec<&str> = order.split(' ').collect();
    let [namenode, path, seed, moment] = words[..] else { bail!("{order}") };
    let (seed, moment) = (seed.parse()?, MOMENTS[moment.parse::<usize>()?]);
    run(write_until_killed(namenode, path, seed, moment))
}

async fn write_until_killed(namenode: &str, path: &str, seed: u64, moment: Moment) -> Result<()> {
    let client = client_of(namenode).await?;
    let mut writer = client.create(path, CreateOptions::default()).await?;
    let mut rng = Rng::new(seed);
    let mut written = 0;
    if moment == Moment::BlockEnd {
        written = BLOCK - 4_000 - rng.index(4_000);
        writer.write_all(&pattern(seed, 0, written)).await?;
        writer.hflush().await?;
    }
    loop {
        let len = match moment {
            Moment::Streaming => 64 << 10,
            Moment::Hflush => 1 + rng.index(10_000),
            Moment::BlockEnd => 1 + rng.index(1_000),
        };
        writer.write_all(&pattern(seed, written as u64, len)).await?;
        if moment != Moment::Streaming {
            writer.hflush().await?;
        }
        written += len;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{MARK}{written}")?;
        out.flush()?;
    }
}

/// Starts a writer and kills it when it has said `lines` lines; answers what it wrote last, by its own word.
async fn write_and_die(order: &str, lines: usize) -> Result<(usize, ExitStatus)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["dead_writers::the_writer_that_is_killed", "--exact", "--nocapture"]);
    command.env(WRITER_VARIABLE, order).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut said = BufReader::new(child.stdout.take().context("no output")?).lines();
    let (mut written, mut count) = (0, 0);
    while let Some(line) = said.next_line().await? {
        // The harness says the test's name, without an end of line, before the first one.
        let Some(number) = line.split(MARK).nth(1) else { continue };
        written = number.parse()?;
        count += 1;
        if count == lines {
            // SIGKILL; what it said before it died is read to the end.
            child.start_kill()?;
        }
    }
    Ok((written, child.wait().await?))
}

/// One dead writer, from its beginning to the checks.
async fn outlive(cluster: &MiniCluster, number: usize, rng_seed: u64) -> Result<()> {
    let mut rng = Rng::new(rng_seed);
    let moment = MOMENTS[number % MOMENTS.len()];
    let heir = if (number / MOMENTS.len()).is_multiple_of(2) { Heir::Writer } else { Heir::Namenode };
    let (path, seed) = (format!("/dead{number}"), rng.next_u64());
    let order = format!("{} {path} {seed} {}", cluster.namenode_address(), number % MOMENTS.len());
    let (written, status) = write_and_die(&order, 1 + rng.index(24)).await?;
    ensure!(status.code().is_none(), "{path}: the writer ended by itself: {status}");
    let flushed = if moment == Moment::Streaming { 0 } else { written };
    let began = Instant::now();
    let client = client_of(&cluster.namenode_address()).await?;
    let mut expected = Vec::new();
    let size = match heir {
        Heir::Writer => {
            let mut writer =
                wait_for("the takeover", PATIENCE, async || Ok(client.append(&path).await?)).await?;
            eprintln!("{path}: {moment:?}, taken over by another writer after {:.2?}", began.elapsed());
            let size = usize::try_from(writer.pos())?;
            writer.write_all(&pattern(!seed, 0, 3_000)).await?;
            writer.close().await?;
            expected.extend_from_slice(&pattern(!seed, 0, 3_000));
            size
        }
        Heir::Namenode => {
            wait_until(&format!("{path} is closed"), PATIENCE, async || {
                Ok(!client.stat(&path).await?.under_construction)
            })
            .await?;
            eprintln!("{path}: {moment:?}, closed by the namenode after {:.2?}", began.elapsed());
            usize::try_from(client.stat(&path).await?.size)?
        }
    };
    ensure!(size >= flushed, "{path}: {flushed} bytes were flushed and {size} are left");
    let mut content = pattern(seed, 0, size);
    content.append(&mut expected);
    ensure_same(&path, &read_all(&client, &path).await?, &content)?;
    if !content.is_empty() {
        cluster.wait_for_replication(&path, 3).await?;
    }
    let mut at = 0;
    for block in cluster.blocks(&path).await? {
        let length = usize::try_from(block.block.unwrap_or_default().length)?;
        let id = block.block.unwrap_or_default().id;
        ensure!(block.locations.len() == 3, "{path}: block {id} has {} replicas", block.locations.len());
        for location in &block.locations {
            let uuid = location.datanode.as_ref().context("no datanode")?.uuid.clone();
            let index = cluster.datanode_index(&uuid)?;
            let files =
                cluster.replica(index, id)?.with_context(|| format!("{path}: no replica on {index}"))?;
            let name = format!("{path}: replica of block {id} on datanode {index}");
            ensure_same(&name, &fs::read(&files.data)?, &content[at..at + length])?;
        }
        at += length;
    }
    ensure!(at == content.len(), "{path}: blocks of {at} bytes for {} bytes", content.len());
    Ok(())
}

#[test]
fn files_of_writers_killed_at_any_moment_are_closed_and_their_replicas_agree() -> Result<()> {
    run(async {
        let seed = seed_of_run("files_of_writers_killed_at_any_moment_are_closed_and_their_replicas_agree");
        let cluster = MiniCluster::builder()
            .datanodes(4)
            .block_size(BLOCK as u64)
            .leases_ms(SOFT_MS, HARD_MS)
            .start()
            .await?;
        let mut rng = Rng::new(seed);
        let writers = (0..4 * MOMENTS.len()).map(|number| outlive(&cluster, number, rng.next_u64()));
        try_join_all(writers.collect::<Vec<_>>()).await.with_context(|| format!("seed {seed}"))?;
        Ok(())
    })
}
