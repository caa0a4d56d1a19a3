//! Damage on datanodes' disks: found by a scrub, reported, repaired from a good replica; and what can still be read when no
//! replica is good.

use anyhow::{Context, Result, ensure};
use dfs_client::{DatanodeInfo, DfsClient, ReplicaWorth, ScrubProgress, Trust};
use dfs_proto::ErrorKind;
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::replica_files::{Damage, swap_data};
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::{read_all, write_file};

const BLOCK: u64 = 256 << 10;

/// Length of the block that is damaged: no multiple of a checksum's chunk, and too large to be made in one go.
const SHORT: u64 = 100_001;

async fn info(cluster: &MiniCluster, client: &DfsClient, index: usize) -> Result<DatanodeInfo> {
    for report in client.datanodes().await? {
        let info = report.info.context("datanode without identity")?;
        if cluster.datanode_index(&info.uuid)? == index {
            return Ok(info);
        }
    }
    anyhow::bail!("datanode {index} is not known")
}

/// Scrubs a datanode; answers the last word on each volume, with all findings.
async fn scrub(cluster: &MiniCluster, client: &DfsClient, index: usize) -> Result<Vec<ScrubProgress>> {
    let mut scrub = client.scrub(&info(cluster, client, index).await?).await?;
    let (mut done, mut found) = (Vec::new(), Vec::new());
    while let Some(mut news) = scrub.progress().await? {
        found.append(&mut news.found);
        if news.done {
            news.found = std::mem::take(&mut found);
            done.push(news);
        }
    }
    ensure!(done.iter().all(|volume| volume.failure.is_empty()), "{done:?}");
    Ok(done)
}

/// Writes `/f`: a whole block, and a short one, which is answered with its id and bytes.
async fn stored_file(cluster: &MiniCluster, client: &DfsClient) -> Result<(u64, Vec<u8>, Vec<u8>)> {
    let bytes = pattern(1, 0, (BLOCK + SHORT) as usize);
    write_file(client, "/f", &bytes).await?;
    cluster.wait_for_replication("/f", 3).await?;
    let block = cluster.blocks("/f").await?[1].block.context("block")?.id;
    let tail = bytes[BLOCK as usize..].to_vec();
    Ok((block, tail, bytes))
}

/// How many datanodes have the block's bytes on their disks.
fn intact(cluster: &MiniCluster, block: u64, bytes: &[u8]) -> Result<usize> {
    let mut count = 0;
    for index in 0..cluster.datanode_count() {
        let Some(files) = cluster.replica(index, block)? else { continue };
        let whole = std::fs::read(&files.data).is_ok_and(|stored| stored == bytes);
        count += usize::from(whole && files.meta.is_some_and(|meta| meta.exists()));
    }
    Ok(count)
}

/// Waits until three datanodes have the block and nobody anything else of it. All the time two good replicas must be there.
async fn repaired(cluster: &MiniCluster, client: &DfsClient, block: u64, bytes: &[u8]) -> Result<()> {
    wait_until("the bad replica is replaced", PATIENCE, async || {
        let good = intact(cluster, block, bytes)?;
        ensure!(good >= 2, "{good} good replicas are left: one was given up too early");
        let located = cluster.blocks("/f").await?;
        let counted = located[1].locations.len() == 3 && located[1].corrupt_replicas == 0;
        Ok(counted && good == 3 && cluster.stored_on(block)?.len() == 3)
    })
    .await?;
    let stats = client.stats().await?;
    ensure!(stats.corrupt_blocks == 0 && stats.missing_blocks == 0, "{stats:?}");
    Ok(())
}

/// Damage of one replica: nobody reads it, a scrub of its datanode finds it, and it is repaired.
async fn found_and_repaired(datanodes: usize, damage: Damage, said: &str) -> Result<()> {
    let cluster = MiniCluster::builder().datanodes(datanodes).block_size(BLOCK).start().await?;
    let client = cluster.client().await?;
    let (block, tail, bytes) = stored_file(&cluster, &client).await?;
    let index = cluster.located_on("/f", 1).await?[0];
    let clean = scrub(&cluster, &client, index).await?;
    ensure!(clean[0].bad == 0 && clean[0].replicas >= 1 && clean[0].bytes >= SHORT, "{clean:?}");
    cluster.corrupt_replica(index, block, damage)?;
    let found = scrub(&cluster, &client, index).await?;
    ensure!(found[0].bad == 1 && found[0].found.len() == 1, "{found:?}");
    let line = &found[0].found[0];
    ensure!(line.starts_with(&format!("blk_{block}_")) && line.contains(said), "{line}");
    repaired(&cluster, &client, block, &tail).await?;
    let again = scrub(&cluster, &client, index).await?;
    ensure!(again[0].bad == 0, "{again:?}");
    ensure_same("/f", &read_all(&client, "/f").await?, &bytes)
}

#[test]
fn a_flipped_bit_of_the_data_is_found_and_repaired() -> Result<()> {
    run(found_and_repaired(4, Damage::FlipBit(SHORT / 2), "checksum mismatch at byte 49152"))
}

#[test]
fn a_flipped_bit_is_found_and_repaired_when_no_other_datanode_is_free() -> Result<()> {
    run(found_and_repaired(3, Damage::FlipBit(SHORT - 1), "checksum mismatch"))
}

#[test]
fn a_flipped_bit_of_the_checksums_is_found_and_repaired() -> Result<()> {
    run(found_and_repaired(4, Damage::FlipMetaBit(7 + 4 * 3), "checksum mismatch at byte 12288"))
}

#[test]
fn a_flipped_bit_of_the_checksums_header_is_found_and_repaired() -> Result<()> {
    run(found_and_repaired(3, Damage::FlipMetaBit(1), "meta file version"))
}

#[test]
fn a_truncated_data_file_is_found_and_repaired() -> Result<()> {
    run(found_and_repaired(4, Damage::Truncate(SHORT / 2), "has 50000 bytes, not 100001"))
}

#[test]
fn a_data_file_that_has_grown_is_found_and_repaired() -> Result<()> {
    run(found_and_repaired(3, Damage::Extend(1), "has 100002 bytes, not 100001"))
}

#[test]
fn a_truncated_meta_file_is_found_and_repaired() -> Result<()> {
    run(found_and_repaired(4, Damage::TruncateMeta(20), "has 20 bytes, not 107"))
}

#[test]
fn a_missing_data_file_is_found_and_repaired() -> Result<()> {
    run(found_and_repaired(3, Damage::RemoveData, "No such file"))
}

#[test]
fn a_missing_meta_file_is_found_and_repaired() -> Result<()> {
    run(found_and_repaired(4, Damage::RemoveMeta, "No such file"))
}

#[test]
fn a_directory_in_place_of_the_data_file_is_found_and_repaired() -> Result<()> {
    run(found_and_repaired(3, Damage::DirectoryInstead, "not a regular file"))
}

#[test]
fn swapped_data_files_are_found_and_repaired() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(4).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let bytes = pattern(1, 0, 2 * BLOCK as usize);
        write_file(&client, "/f", &bytes).await?;
        cluster.wait_for_replication("/f", 3).await?;
        let blocks: Vec<u64> =
            cluster.blocks("/f").await?.iter().filter_map(|b| b.block).map(|b| b.id).collect();
        let both = |index: &usize| {
            blocks.iter().all(|block| cluster.replica(*index, *block).is_ok_and(|files| files.is_some()))
        };
        let index = (0..4).find(both).context("a datanode with both blocks")?;
        let files = |block| cluster.replica(index, block)?.context("replica");
        swap_data(&files(blocks[0])?, &files(blocks[1])?)?;
        let found = scrub(&cluster, &client, index).await?;
        ensure!(found[0].bad == 2, "{found:?}");
        for (at, block) in blocks.iter().enumerate() {
            let expected = &bytes[at * BLOCK as usize..(at + 1) * BLOCK as usize];
            wait_until("both are replaced", PATIENCE, async || {
                let good = intact(&cluster, *block, expected)?;
                ensure!(good >= 2, "{good} good replicas are left");
                Ok(good == 3 && cluster.stored_on(*block)?.len() == 3)
            })
            .await?;
        }
        ensure_same("/f", &read_all(&client, "/f").await?, &bytes)
    })
}

#[test]
fn the_scrubber_finds_damage_by_itself_and_goes_on_after_a_restart() -> Result<()> {
    run(async {
        let period = std::time::Duration::from_secs(2);
        let mut cluster =
            MiniCluster::builder().datanodes(4).block_size(BLOCK).scrub_period(period).start().await?;
        let client = cluster.client().await?;
        let (block, tail, bytes) = stored_file(&cluster, &client).await?;
        let verified = async |index| -> Result<u64> {
            let uuid = info(&cluster, &client, index).await?.uuid;
            let reports = client.datanodes().await?;
            let report = reports.iter().find(|r| r.info.as_ref().is_some_and(|i| i.uuid == uuid));
            Ok(report.and_then(|report| report.storages.first()).map_or(0, |storage| storage.scrubbed_s))
        };
        let index = cluster.located_on("/f", 1).await?[0];
        wait_until("a pass has ended", PATIENCE, async || Ok(verified(index).await? > 0)).await?;
        cluster.corrupt_replica(index, block, Damage::FlipBit(9))?;
        repaired(&cluster, &client, block, &tail).await?;
        let before = verified(index).await?;
        cluster.kill_datanode(index).await;
        cluster.start_datanode(index).await?;
        let client = cluster.client().await?;
        let reports = client.datanodes().await?;
        let told: Vec<u64> = reports.iter().flat_map(|r| &r.storages).map(|s| s.scrubbed_s).collect();
        ensure!(told.iter().any(|at| *at >= before), "{told:?} forgot the pass that ended at {before}");
        ensure_same("/f", &read_all(&client, "/f").await?, &bytes)
    })
}

#[test]
fn a_bad_replica_stays_bad_when_both_servers_restart() -> Result<()> {
    run(async {
        // Without another datanode nothing can be repaired, so the bad replica is the only one.
        let mut cluster =
            MiniCluster::builder().datanodes(1).replication(1).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        write_file(&client, "/f", &pattern(1, 0, SHORT as usize)).await?;
        cluster.wait_for_replication("/f", 1).await?;
        let block = cluster.blocks("/f").await?[0].block.context("block")?.id;
        cluster.corrupt_replica(0, block, Damage::FlipBit(1))?;
        ensure!(scrub(&cluster, &client, 0).await?[0].bad == 1);
        for _ in 0..2 {
            wait_until("it is counted as corrupt", PATIENCE, async || {
                Ok(client.stats().await.is_ok_and(|stats| stats.corrupt_blocks == 1))
            })
            .await?;
            cluster.restart_everything().await?;
        }
        Ok(())
    })
}

#[test]
fn files_of_replicas_that_vanish_and_appear_are_noticed() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(3).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let (block, tail, _) = stored_file(&cluster, &client).await?;
        let index = cluster.located_on("/f", 1).await?[0];
        let files = cluster.replica(index, block)?.context("replica")?;
        let meta = files.meta.clone().context(".meta")?;
        // A replica of a block that nobody knows, whole, and a data file without checksums.
        let dir = files.data.parent().context("directory")?;
        let stranger = dir.join(format!("blk_{}", block + 5));
        std::fs::copy(&files.data, &stranger)?;
        std::fs::copy(&meta, dir.join(format!("blk_{}_7.meta", block + 5)))?;
        let half = dir.join(format!("blk_{}", block + 6));
        std::fs::copy(&files.data, &half)?;
        // And one where no such block belongs.
        let misplaced = dir.join(format!("blk_{}", block + 500));
        std::fs::copy(&files.data, &misplaced)?;
        std::fs::remove_file(&files.data)?;
        std::fs::remove_file(&meta)?;
        let found = scrub(&cluster, &client, index).await?;
        ensure!(found[0].bad == 1, "{found:?}");
        repaired(&cluster, &client, block, &tail).await?;
        wait_until("the namenode has the stranger deleted", PATIENCE, async || Ok(!stranger.exists()))
            .await?;
        ensure!(!half.exists() && !misplaced.exists(), "what is no replica is set aside");
        Ok(())
    })
}

#[test]
fn what_is_left_of_a_corrupt_file_can_be_rescued() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(3).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let (block, tail, bytes) = stored_file(&cluster, &client).await?;
        let on: Vec<usize> = cluster.located_on("/f", 1).await?;
        // Each replica is damaged in another way; one chunk is bad everywhere, and one replica has no checksums.
        cluster.corrupt_replica(on[0], block, Damage::FlipBit(50_000))?;
        cluster.corrupt_replica(on[0], block, Damage::FlipBit(10))?;
        cluster.corrupt_replica(on[1], block, Damage::FlipBit(10))?;
        cluster.corrupt_replica(on[1], block, Damage::Truncate(60_000))?;
        cluster.corrupt_replica(on[2], block, Damage::RemoveMeta)?;
        for index in 0..3 {
            ensure!(scrub(&cluster, &client, index).await?[0].bad == 1);
        }
        wait_until("the block is corrupt", PATIENCE, async || Ok(client.stats().await?.corrupt_blocks == 1))
            .await?;
        let error = read_all(&client, "/f").await.expect_err("no good replica");
        let error = error.downcast_ref::<dfs_client::DfsError>().context("a library error")?;
        ensure!(error.kind() == ErrorKind::BlockMissing, "{error}");
        ensure!(error.to_string().contains(&format!("blk_{block}")), "{error}");

        let described = client.describe_block(block).await?;
        ensure!(described.path == b"/f".as_slice() && described.offset == BLOCK, "{described:?}");
        ensure!(described.replicas.len() == 3);
        for replica in &described.replicas {
            ensure!(replica.worth() == ReplicaWorth::Corrupt, "{replica:?}");
            let at = replica.location.clone().and_then(|l| l.datanode).context("datanode")?;
            let told = client.describe_replica(&at, described.block.context("block")?, true).await?;
            ensure!(told.verified && !told.damage.is_empty(), "{told:?}");
            let files = cluster.replica(cluster.datanode_index(&at.uuid)?, block)?.context("bytes stay")?;
            ensure!(files.data.display().to_string() == told.data_path, "{told:?}");
        }

        let mut rescue = client.rescue("/f").await?;
        let (mut got, mut doubtful) = (Vec::new(), Vec::new());
        while let Some(part) = rescue.next().await {
            ensure!(part.offset == got.len() as u64 && part.trust != Trust::Lost, "{part:?}");
            if part.trust == Trust::Unverified {
                doubtful.push(part.offset);
            }
            got.extend_from_slice(&part.bytes);
        }
        // One chunk is bad in all that have checksums; everything else comes from whoever has it whole.
        ensure!(doubtful == [BLOCK], "{doubtful:?}");
        ensure_same("/f but for one chunk", &got[BLOCK as usize + 4096..], &bytes[BLOCK as usize + 4096..])?;
        ensure_same("the first block", &got[..BLOCK as usize], &bytes[..BLOCK as usize])?;
        ensure!(cluster.stored_on(block)?.len() == 3 && intact(&cluster, block, &tail)? == 0);
        Ok(())
    })
}
