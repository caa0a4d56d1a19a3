//! Faults of datanodes under a mount's open files and truncated ones, and between two datanodes that the client reaches both.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dfs_client::CreateOptions;
use dfs_client::fs::{Caller, FileSystem, FileType, InodeId, NewNode, OpenFile, OpenOptions};
use dfs_tests::net_cluster::{Fault, NetCluster, Settings};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::programs::run_within;
use dfs_tests::wait::wait_until;
use dfs_tests::workload::{read_all, write_file};
use tokio::io::AsyncWriteExt;

const DEADLINE: Duration = Duration::from_secs(300);

/// The longest time in which a caller may see nothing move.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a machine that runs other tests may add.
const NOISE: Duration = Duration::from_secs(3);

/// Chooses cells by what happens to the member: `slow`, say.
const CELLS_VARIABLE: &str = "DFS_TEST_OPEN_FILE_CELLS";

const BLOCK: u64 = 4 << 20;
const DATANODES: usize = 5;
const RECORD: usize = 16 << 10;

const SETTINGS: Settings = Settings { datanodes: DATANODES, block_size: BLOCK, liveness_ms: (3_000, 8_000) };

async fn create(fs: &FileSystem, name: &str) -> Result<(u64, Arc<OpenFile>)> {
    let caller = Caller::named("root");
    let new = NewNode::new(FileType::File, 0o644, "");
    let (status, file) = fs.create(&caller, InodeId::ROOT, name.as_bytes(), new).await?;
    Ok((status.inode, file))
}

/// Writes `count` records from `offset` on, each synced; answers the longest time that one took.
async fn write_synced(file: &OpenFile, seed: u64, offset: u64, count: usize) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for record in 0..count {
        let at = offset + (record * RECORD) as u64;
        let began = Instant::now();
        file.write_at(at, Bytes::from(pattern(seed, at, RECORD))).await?;
        file.sync(false).await?;
        longest = longest.max(began.elapsed());
    }
    Ok(longest)
}

#[test]
fn an_open_file_outlives_any_member_of_its_pipeline() -> Result<()> {
    run_within(DEADLINE, async {
        let Some(mut cluster) = NetCluster::start(SETTINGS).await? else { return Ok(()) };
        let cells =
            [(0, Fault::Stopped), (1, Fault::Cut), (2, Fault::Slow), (0, Fault::Killed), (1, Fault::Full)];
        let words = std::env::var(CELLS_VARIABLE).unwrap_or_default().to_lowercase();
        let wanted =
            cells.into_iter().filter(|(_, fault)| format!("{fault:?}").to_lowercase().contains(&words));
        for (number, (place, fault)) in wanted.enumerate() {
            let name = format!("open-{number}");
            let fs = cluster.session().await?;
            let (inode, file) = create(&fs, &name).await?;
            write_synced(&file, 1, 0, 10).await?;
            let path = format!("/{name}");
            let block = cluster.blocks(&path).await?.pop().context("no block")?;
            let victim = cluster.indexes_of(&block)?[place];
            cluster.inject(victim, fault)?;
            let mut pause = write_synced(&file, 1, 10 * RECORD as u64, 40).await?;
            let began = Instant::now();
            file.flush().await?;
            file.release(true).await?;
            pause = pause.max(began.elapsed());
            eprintln!("open file, {fault:?}: pause {pause:.2?}");
            ensure!(pause <= LONGEST_PAUSE + NOISE, "{fault:?}: nothing moved for {pause:?}");

            let reader = cluster.session().await?;
            let options = OpenOptions { write: false, truncate: false };
            let file = reader.open(&Caller::named("root"), InodeId(inode), options).await?;
            let began = Instant::now();
            let bytes = file.read_at(0, 50 * RECORD).await?;
            eprintln!("open file, {fault:?}: read in {:.2?}", began.elapsed());
            ensure_same(&path, &bytes, &pattern(1, 0, 50 * RECORD))?;
            cluster.heal(victim, fault)?;
            cluster.wait_for_live(DATANODES).await?;
        }
        Ok(())
    })
}

#[test]
fn a_cut_between_two_members_holds_a_writer_up_for_a_moment() -> Result<()> {
    run_within(DEADLINE, async {
        let Some(cluster) = NetCluster::start(SETTINGS).await? else { return Ok(()) };
        let client = cluster.client().await?;
        for (first, second) in [(0, 1), (1, 2)] {
            let path = format!("/cut-{first}");
            let mut writer = client.create(&path, CreateOptions::default()).await?;
            writer.write_all(&pattern(2, 0, RECORD)).await?;
            writer.hflush().await?;
            let members = writer.pipeline();
            let (one, other) = (cluster.index_of(&members[first])?, cluster.index_of(&members[second])?);
            cluster.network().part(one, other)?;
            let mut pause = Duration::ZERO;
            for record in 1..20 {
                let began = Instant::now();
                writer.write_all(&pattern(2, (record * RECORD) as u64, RECORD)).await?;
                writer.hflush().await?;
                pause = pause.max(began.elapsed());
            }
            let began = Instant::now();
            writer.close().await?;
            pause = pause.max(began.elapsed());
            eprintln!("cut between members {first} and {second}: pause {pause:.2?}");
            ensure!(pause <= LONGEST_PAUSE + NOISE, "{path}: nothing moved for {pause:?}");
            ensure_same(&path, &read_all(&client, &path).await?, &pattern(2, 0, 20 * RECORD))?;
            cluster.network().join(one, other)?;
        }
        Ok(())
    })
}

#[test]
fn a_truncation_is_not_held_up_by_one_replica() -> Result<()> {
    run_within(DEADLINE, async {
        let Some(mut cluster) = NetCluster::start(SETTINGS).await? else { return Ok(()) };
        let client = cluster.client().await?;
        let (length, cut) = (40 * RECORD, 17 * RECORD + 5);
        for (place, fault) in [(0, Fault::Stopped), (1, Fault::Cut), (2, Fault::Stopped)] {
            let path = format!("/truncated-{place}");
            write_file(&client, &path, &pattern(3, 0, length)).await?;
            let block = cluster.blocks(&path).await?.pop().context("no block")?;
            let victim = cluster.indexes_of(&block)?[place];
            cluster.inject(victim, fault)?;
            let began = Instant::now();
            ensure!(!client.truncate(&path, cut as u64).await?, "a cut within a block is made by datanodes");
            wait_until(&format!("{path} is closed"), LONGEST_PAUSE + NOISE, async || {
                Ok(!client.stat(&path).await?.under_construction)
            })
            .await?;
            eprintln!("truncation, {fault:?} replica {place}: {:.2?}", began.elapsed());
            ensure_same(&path, &read_all(&client, &path).await?, &pattern(3, 0, cut))?;
            cluster.heal(victim, fault)?;
            cluster.wait_for_live(DATANODES).await?;
        }
        Ok(())
    })
}
