//! Balancing of real datanodes on small file systems in memory: between datanodes, in the background, and between the
//! volumes of one. Files are read all the time, and no block is ever missing or lacks a replica.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_client::{
    BalanceAction, BalanceDisksAction, BalanceDisksRequest, BalanceRequest, BalanceState, BalanceStatus,
    DfsClient,
};
use dfs_proto::ErrorKind;
use dfs_tests::cluster::{MiniCluster, can_mount_volumes};
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::{read_all, write_file};

use super::ensure_error;

const BLOCK: u64 = 256 << 10;

const MIB: u64 = 1 << 20;

/// Blocks of each file.
const BLOCKS_A_FILE: usize = 8;

async fn write_files(client: &DfsClient, count: u64) -> Result<()> {
    for number in 0..count {
        let bytes = pattern(number, 0, BLOCKS_A_FILE * BLOCK as usize);
        write_file(client, &format!("/f{number}"), &bytes).await?;
    }
    Ok(())
}

async fn read_file(client: &DfsClient, number: u64) -> Result<()> {
    let path = format!("/f{number}");
    let bytes = pattern(number, 0, BLOCKS_A_FILE * BLOCK as usize);
    ensure_same(&path, &read_all(client, &path).await?, &bytes)
}

/// Used percent of each datanode.
async fn percents(client: &DfsClient) -> Result<Vec<f64>> {
    let reports = client.datanodes().await?;
    let percent = |report: &dfs_client::DatanodeReport| {
        let sum =
            |field: fn(&dfs_client::StorageReport) -> u64| report.storages.iter().map(field).sum::<u64>();
        sum(|storage| storage.used) as f64 * 100.0 / sum(|storage| storage.capacity) as f64
    };
    Ok(reports.iter().map(percent).collect())
}

async fn ensure_safe(client: &DfsClient) -> Result<()> {
    let stats = client.stats().await?;
    let lacking = stats.missing_blocks + stats.under_replicated_blocks + stats.corrupt_blocks;
    ensure!(lacking == 0, "a block lacks something: {stats:?}");
    Ok(())
}

fn request(action: BalanceAction) -> BalanceRequest {
    BalanceRequest { action: action.into(), ..BalanceRequest::default() }
}

/// Follows the run to its end, reading files all the time.
async fn follow(client: &DfsClient, files: u64) -> Result<BalanceStatus> {
    let deadline = Instant::now() + PATIENCE;
    for number in (0..files).cycle() {
        let run_id = client.balance(request(BalanceAction::Get)).await?.run_id;
        let status = client.balance(BalanceRequest { run_id, ..request(BalanceAction::Get) }).await?;
        if status.state() != BalanceState::Running {
            return Ok(status);
        }
        ensure!(Instant::now() < deadline, "no end: {status:?}");
        ensure_safe(client).await?;
        read_file(client, number).await?;
    }
    unreachable!("the numbers go round")
}

#[test]
fn a_run_sees_what_was_written_a_moment_before() -> Result<()> {
    if !can_mount_volumes()? {
        return Ok(());
    }
    run(async {
        let settings = MiniCluster::builder().datanodes(2).replication(1).block_size(BLOCK);
        let mut cluster = settings.volume_bytes(64 * MIB).start().await?;
        let client = cluster.client().await?;
        let off = BalanceRequest { background_bandwidth: Some(0), ..request(BalanceAction::Set) };
        client.balance(off).await?;
        // All on one datanode; the other one has told that it is empty, and so did this one, before.
        cluster.kill_datanode(1).await;
        write_files(&client, 12).await?;
        cluster.start_datanode(1).await?;
        let start = BalanceRequest { threshold: Some(300), ..request(BalanceAction::Start) };
        client.balance(start).await?;
        let status = follow(&client, 12).await?;
        ensure!(status.state() == BalanceState::Balanced && status.blocks_moved > 0, "{status:?}");
        Ok(())
    })
}

#[test]
fn an_added_datanode_is_filled_by_a_run_within_its_bandwidth() -> Result<()> {
    if !can_mount_volumes()? {
        return Ok(());
    }
    run(async {
        let settings = MiniCluster::builder().datanodes(3).replication(2).block_size(BLOCK);
        let mut cluster = settings.volume_bytes(64 * MIB).start().await?;
        let client = cluster.client().await?;
        let off = BalanceRequest { background_bandwidth: Some(0), ..request(BalanceAction::Set) };
        client.balance(off).await?;
        let files = 24;
        write_files(&client, files).await?;
        cluster.grow().await?;
        cluster.wait_for_live_datanodes(4).await?;

        // Only a superuser may; settings have bounds.
        let stranger = cluster.client_of("somebody").await?;
        ensure_error(
            stranger.balance(request(BalanceAction::Start)).await,
            ErrorKind::NotPermitted,
            "balancer",
        )?;
        ensure!(stranger.balance(request(BalanceAction::Get)).await?.state() == BalanceState::None);
        let slow = BalanceRequest { bandwidth: Some(1), ..request(BalanceAction::Start) };
        ensure_error(client.balance(slow).await, ErrorKind::InvalidArgument, "bandwidth")?;

        let bandwidth = 8 * MIB;
        let start = BalanceRequest {
            threshold: Some(300),
            bandwidth: Some(bandwidth),
            ..request(BalanceAction::Start)
        };
        let begun = Instant::now();
        let status = client.balance(start.clone()).await?;
        ensure!(status.bytes_left > 0 && status.under_utilized >= 1, "{status:?}");
        // Stopped in the middle, and resumed.
        wait_until("some blocks are moved", PATIENCE, async || {
            Ok(client.balance(request(BalanceAction::Get)).await?.blocks_moved > 10)
        })
        .await?;
        let stopped = client.balance(request(BalanceAction::Stop)).await?;
        ensure!(stopped.state() == BalanceState::Stopped && stopped.bytes_left > 0, "{stopped:?}");
        wait_until("copies on their way arrive", PATIENCE, async || {
            Ok(client.balance(request(BalanceAction::Get)).await?.bytes_being_moved == 0)
        })
        .await?;
        let first = client.balance(request(BalanceAction::Get)).await?.bytes_moved;
        client.balance(start).await?;
        let status = follow(&client, files).await?;
        ensure!(status.state() == BalanceState::Balanced, "{status:?}");
        let (moved, took) = (first + status.bytes_moved, begun.elapsed());
        let rate = moved as f64 / took.as_secs_f64() / MIB as f64;
        println!("{} MiB moved in {took:?}: {rate:.1} MiB/s of {} allowed", moved / MIB, bandwidth / MIB);
        ensure!(rate <= 1.2 * (bandwidth / MIB) as f64, "all of it went to one datanode");

        let percents = percents(&client).await?;
        let mean = percents.iter().sum::<f64>() / percents.len() as f64;
        ensure!(percents.iter().all(|percent| (percent - mean).abs() < 4.0), "{percents:?}");
        for number in 0..files {
            cluster.wait_for_replication(&format!("/f{number}"), 2).await?;
            read_file(&client, number).await?;
        }
        Ok(())
    })
}

#[test]
fn an_added_datanode_fills_with_no_operator() -> Result<()> {
    if !can_mount_volumes()? {
        return Ok(());
    }
    run(async {
        let settings = MiniCluster::builder().datanodes(2).replication(1).block_size(BLOCK);
        let mut cluster = settings.volume_bytes(48 * MIB).start().await?;
        let client = cluster.client().await?;
        write_files(&client, 30).await?;
        cluster.grow().await?;
        wait_until("the new datanode is as full as the others", PATIENCE, async || {
            ensure_safe(&client).await?;
            let percents = percents(&client).await?;
            let mean = percents.iter().sum::<f64>() / percents.len() as f64;
            Ok(percents.len() == 3 && percents.iter().all(|percent| (percent - mean).abs() < 10.5))
        })
        .await?;
        for number in 0..30 {
            read_file(&client, number).await?;
        }
        let status = client.balance(request(BalanceAction::Get)).await?;
        ensure!(status.state() == BalanceState::None && status.background_bytes_moved > 0, "{status:?}");
        Ok(())
    })
}

#[test]
fn the_volumes_of_a_datanode_are_evened_out_while_it_serves() -> Result<()> {
    if !can_mount_volumes()? {
        return Ok(());
    }
    run(async {
        let settings = MiniCluster::builder().datanodes(1).volumes(2).replication(1).block_size(BLOCK);
        let mut cluster = settings.volume_bytes(64 * MIB).start().await?;
        let client = cluster.client().await?;
        let files = 20;
        write_files(&client, files).await?;

        // All replicas are carried to the first volume.
        cluster.kill_datanode(0).await;
        let volumes = cluster.datanode_config(0).volumes;
        for (_, _, replica) in cluster.all_replicas()? {
            for file in [Some(replica.data), replica.meta].into_iter().flatten() {
                let Ok(place) = file.strip_prefix(&volumes[1]) else { continue };
                let target = volumes[0].join(place);
                std::fs::create_dir_all(target.parent().context("a directory")?)?;
                std::fs::copy(&file, &target)?;
                std::fs::remove_file(&file)?;
            }
        }
        cluster.start_datanode(0).await?;
        wait_until("all blocks are found again", PATIENCE, async || Ok(ensure_safe(&client).await.is_ok()))
            .await?;

        let info = client.datanodes().await?.pop().and_then(|report| report.info).context("a datanode")?;
        let ask = async |action: BalanceDisksAction, bandwidth: Option<u64>| {
            client
                .balance_disks(
                    info.clone(),
                    BalanceDisksRequest { action: action.into(), bandwidth, context: None },
                )
                .await
        };
        let before = ask(BalanceDisksAction::Get, None).await?;
        // Looking is for everybody, orders are for superusers.
        let alice = cluster.client_of("alice").await?;
        for (action, allowed) in [
            (BalanceDisksAction::Get, true),
            (BalanceDisksAction::Start, false),
            (BalanceDisksAction::Stop, false),
        ] {
            let request =
                BalanceDisksRequest { action: action.into(), bandwidth: None, ..Default::default() };
            match alice.balance_disks(info.clone(), request).await {
                Ok(status) => ensure!(allowed && !status.running, "{action:?}: {status:?}"),
                Err(error) => ensure!(!allowed && error.kind() == ErrorKind::NotPermitted, "{error}"),
            }
        }
        ensure!(before.difference > 5_000, "{before:?}");
        let bandwidth = 8 * MIB;
        let begun = Instant::now();
        let mut status = ask(BalanceDisksAction::Start, Some(bandwidth)).await?;
        let mut number = 0;
        while status.running {
            ensure!(begun.elapsed() < PATIENCE, "no end: {status:?}");
            ensure_safe(&client).await?;
            read_file(&client, number % files).await?;
            number += 1;
            status = ask(BalanceDisksAction::Get, None).await?;
        }
        let took = begun.elapsed();
        let rate = status.bytes_moved as f64 / took.as_secs_f64() / MIB as f64;
        println!("{} MiB moved in {took:?}: {rate:.1} MiB/s of 8 allowed", status.bytes_moved / MIB);
        ensure!(status.difference <= 200 && status.failures == 0, "{status:?}");
        ensure!(rate < 9.0 && took > Duration::from_secs(1));
        // The namenode has followed: both storages hold their part, and a restart finds the same.
        wait_until("the namenode knows", PATIENCE, async || {
            let reports = client.datanodes().await?;
            Ok(reports[0].storages.iter().all(|storage| storage.used > 15 * MIB))
        })
        .await?;
        cluster.kill_datanode(0).await;
        cluster.start_datanode(0).await?;
        wait_until("all blocks are found again", PATIENCE, async || Ok(ensure_safe(&client).await.is_ok()))
            .await?;
        for number in 0..files {
            read_file(&client, number).await?;
        }
        ensure!(cluster.all_replicas()?.len() == files as usize * BLOCKS_A_FILE, "one replica a block");
        Ok(())
    })
}
