//! Every server is stopped and started, one after the other, while clients work: none of their calls fails, and none of their
//! bytes is lost. The same with real programs, the command line and a mount is among the tests of mounts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_client::{CreateOptions, DfsClient};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::{read_all, write_file};
use tokio::io::AsyncWriteExt as _;

const BLOCK: u64 = 256 << 10;

/// One more than replicas, so that writers have a choice while one is away.
const DATANODES: usize = 4;

/// What the workers share.
#[derive(Default)]
struct Load {
    over: AtomicBool,
    /// Number of calls of each kind, and the longest.
    calls: Mutex<BTreeMap<&'static str, (u32, Duration)>>,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn done(&self, kind: &'static str, begun: Instant) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let known = calls.entry(kind).or_default();
        *known = (known.0 + 1, known.1.max(begun.elapsed()));
    }
}

/// Files that are written, read back and sometimes removed.
async fn files(load: Arc<Load>, client: DfsClient, worker: u64) -> Result<()> {
    let mut number = 0;
    while load.goes_on() {
        number += 1;
        let bytes = pattern(worker * 10_000 + number, 0, 600_000);
        let path = format!("/w{worker}/f{}", number % 6);
        let begun = Instant::now();
        write_file(&client, &path, &bytes).await?;
        load.done("write", begun);
        let begun = Instant::now();
        ensure_same(&path, &read_all(&client, &path).await?, &bytes)?;
        load.done("read", begun);
        let begun = Instant::now();
        client.stat(&path).await?;
        load.done("stat", begun);
        if number % 5 == 0 {
            let begun = Instant::now();
            ensure!(client.delete(&path, false).await?, "{path} was there");
            load.done("delete", begun);
        }
    }
    Ok(())
}

/// One file that is written and flushed all the time: its pipeline meets every restart.
async fn long_file(load: Arc<Load>, client: DfsClient) -> Result<()> {
    let options = CreateOptions { create_parents: true, ..CreateOptions::default() };
    let mut writer = client.create("/long/f", options).await?;
    let mut length = 0u64;
    while load.goes_on() {
        let begun = Instant::now();
        writer.write_all(&pattern(7, length, 4_000)).await.context("write")?;
        length += 4_000;
        writer.hflush().await.context("hflush")?;
        load.done("write and hflush", begun);
    }
    writer.close().await.context("close")?;
    ensure_same("/long/f", &read_all(&client, "/long/f").await?, &pattern(7, 0, usize::try_from(length)?))
}

#[test]
fn every_server_is_restarted_while_clients_work_and_no_call_fails() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(DATANODES).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let load = Arc::new(Load::default());
        let mut workers = tokio::task::JoinSet::new();
        for worker in 0..2 {
            workers.spawn(files(load.clone(), cluster.client().await?, worker));
        }
        workers.spawn(long_file(load.clone(), cluster.client().await?));
        for server in 0..=DATANODES {
            if server == 0 {
                cluster.restart_namenode().await?;
            } else {
                cluster.kill_datanode(server - 1).await;
                cluster.start_datanode(server - 1).await?;
            }
            // An operator goes on when the last one serves again.
            cluster.wait_for_live_datanodes(DATANODES).await?;
            if let Some(ended) = workers.try_join_next() {
                ended?.with_context(|| format!("after restart {server}"))?;
            }
        }
        load.over.store(true, Ordering::Relaxed);
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        for (kind, (count, longest)) in load.calls.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            println!("{kind}: {count} calls, longest {longest:?}");
            ensure!(*longest < PATIENCE, "{kind} took {longest:?}");
        }
        wait_until("every block has its replicas", PATIENCE, async || {
            let stats = client.stats().await?;
            Ok(stats.under_replicated_blocks + stats.missing_blocks + stats.corrupt_blocks == 0)
        })
        .await
    })
}
