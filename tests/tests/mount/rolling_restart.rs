//! Every server is restarted, one after the other, while programs work through the library, the command line and a mount:
//! none of their calls fails, and none of their bytes is lost or changed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_client::CreateOptions;
use dfs_tests::mount::{Cluster, wait_until, with_cluster};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::workload::{read_all, write_file};
use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;

/// Datanodes: one more than replicas, so that writers have a choice while one is away.
const DATANODES: usize = 4;

/// Longest that one call may take: a restart of a namenode in a debug build on a busy machine, and what retries add.
const CALL_PATIENCE: Duration = Duration::from_secs(30);

/// What the workers share.
struct Load<'a> {
    cluster: &'a Cluster,
    over: AtomicBool,
    /// Longest duration of each kind of call, and their number.
    calls: Mutex<BTreeMap<&'static str, (u32, Duration)>>,
}

impl Load<'_> {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Notes a call that took from `begun` until now.
    fn done(&self, kind: &'static str, begun: Instant) -> Result<()> {
        let took = begun.elapsed();
        let mut calls = self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = calls.entry(kind).or_default();
        *known = (known.0 + 1, known.1.max(took));
        ensure!(took < CALL_PATIENCE, "{kind} took {took:?}");
        Ok(())
    }

    /// Runs one worker: its failure ends the others.
    fn worker(&self, name: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
        let outcome = body().with_context(|| name.to_owned());
        if outcome.is_err() {
            self.over.store(true, Ordering::Relaxed);
        }
        outcome
    }
}

/// Small files, written, read back, renamed and removed through the library.
fn library(load: &Load<'_>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let client = dfs_client::DfsClient::connect(load.cluster.namenode_address()).await?;
        let mut number = 0;
        while load.goes_on() {
            number += 1;
            let bytes = pattern(number, 0, 300_000);
            let path = format!("/library/f{}", number % 8);
            let begun = Instant::now();
            write_file(&client, &path, &bytes).await?;
            load.done("library: write", begun)?;
            let begun = Instant::now();
            ensure_same(&path, &read_all(&client, &path).await?, &bytes)?;
            load.done("library: read", begun)?;
            let begun = Instant::now();
            client.list("/library").await?;
            client.stat(&path).await?;
            load.done("library: list and stat", begun)?;
            if number % 5 == 0 {
                let begun = Instant::now();
                ensure!(client.delete(&path, false).await?, "{path} was there");
                load.done("library: delete", begun)?;
            }
        }
        Ok(())
    })
}

/// One file that is written and flushed all the time: its pipeline meets every restart.
fn long_writer(load: &Load<'_>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let client = dfs_client::DfsClient::connect(load.cluster.namenode_address()).await?;
        let options = CreateOptions { create_parents: true, ..CreateOptions::default() };
        let mut writer = client.create("/long/f", options).await?;
        let mut length = 0u64;
        while load.goes_on() {
            let begun = Instant::now();
            writer.write_all(&pattern(7, length, 4_000)).await?;
            length += 4_000;
            writer.hflush().await?;
            load.done("library: write and hflush in one long file", begun)?;
        }
        writer.close().await?;
        ensure_same("/long/f", &read_all(&client, "/long/f").await?, &pattern(7, 0, usize::try_from(length)?))
    })
}

fn command_line(load: &Load<'_>) -> Result<()> {
    let mut number = 0;
    while load.goes_on() {
        number += 1;
        let bytes = pattern(1_000 + number, 0, 150_000);
        let local = load.cluster.home().join("put-source");
        fs::write(&local, &bytes)?;
        let name = format!("/cli/f{}", number % 4);
        let begun = Instant::now();
        let source = local.to_str().context("path")?;
        load.cluster.dfs(&["put", "-f", source, &name])?.ok().context("dfs put")?;
        load.done("dfs put", begun)?;
        let begun = Instant::now();
        ensure_same(&name, &load.cluster.dfs(&["cat", &name])?.ok().context("dfs cat")?.stdout, &bytes)?;
        load.done("dfs cat", begun)?;
        let begun = Instant::now();
        load.cluster.dfs(&["ls", "/cli"])?.ok().context("dfs ls")?;
        load.done("dfs ls", begun)?;
    }
    Ok(())
}

/// Files on the mount: new ones, and one that is overwritten and synced in place.
fn mounted(load: &Load<'_>, root: &Path) -> Result<()> {
    let in_place = root.join("in-place");
    let mut content = pattern(5, 0, 400_000);
    fs::write(&in_place, &content)?;
    let open = OpenOptions::new().read(true).write(true).open(&in_place)?;
    let mut number = 0;
    while load.goes_on() {
        number += 1;
        let begun = Instant::now();
        let bytes = pattern(2_000 + number, 0, 120_000);
        let path = root.join(format!("f{}", number % 6));
        let mut file = File::create(&path).context("create")?;
        file.write_all(&bytes).context("write")?;
        file.sync_all().context("fsync")?;
        drop(file);
        load.done("mount: create, write, fsync", begun)?;
        let begun = Instant::now();
        let mut got = Vec::new();
        File::open(&path).context("open")?.read_to_end(&mut got).context("read")?;
        ensure_same("a file of the mount", &got, &bytes)?;
        fs::rename(&path, root.join(format!("g{}", number % 6))).context("rename")?;
        load.done("mount: read and rename", begun)?;
        let begun = Instant::now();
        let at = usize::try_from(number * 7_919 % 390_000)?;
        let piece = pattern(3_000 + number, 0, 5_000);
        open.write_all_at(&piece, at as u64).context("overwrite")?;
        open.sync_data().context("fdatasync")?;
        content[at..at + piece.len()].copy_from_slice(&piece);
        load.done("mount: overwrite and fdatasync", begun)?;
    }
    let mut got = vec![0; content.len()];
    open.read_exact_at(&mut got, 0).context("read in place")?;
    ensure_same("the file overwritten in place", &got, &content)
}

/// Restarts every server in turn. The next one's turn comes when the last one serves again, as an operator would do it.
fn restart_all(load: &Load<'_>, signal: Signal) -> Result<()> {
    let client = load.cluster.client()?;
    let datanodes = (0..DATANODES).map(|index| format!("datanode-{index}"));
    for server in std::iter::once("namenode".to_owned()).chain(datanodes) {
        if !load.goes_on() {
            return Ok(());
        }
        load.cluster.end(signal, |name| name == server)?;
        let begun = Instant::now();
        load.cluster.start_again()?;
        // One that has only just stopped still counts as live: what tells is a heartbeat since then.
        wait_until(&format!("all datanodes were heard since {server} was restarted"), || {
            let Ok(reports) = load.cluster.block_on(client.datanodes()) else { return Ok(false) };
            let since = begun.elapsed().as_millis();
            let heard = |report: &dfs_client::DatanodeReport| {
                let state = report.info.as_ref().map(dfs_client::DatanodeInfo::state);
                state == Some(dfs_client::DatanodeState::Live) && u128::from(report.last_heartbeat_ms) < since
            };
            Ok(reports.len() == DATANODES && reports.iter().all(heard))
        })?;
    }
    Ok(())
}

#[test]
fn every_server_is_restarted_under_load_and_no_call_fails() -> Result<()> {
    let datanodes = DATANODES.to_string();
    with_cluster(&["--datanodes", &datanodes, "--replication", "3"], |cluster| {
        let mount = cluster.mount(&["-o", "block-size=65536"])?;
        let work = mount.path("mounted");
        fs::create_dir(&work)?;
        cluster.dfs(&["mkdir", "/cli"])?.ok()?;
        let load = Load { cluster, over: AtomicBool::new(false), calls: Mutex::default() };
        let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
            let workers = [
                scope.spawn(|| load.worker("library", || library(&load))),
                scope.spawn(|| load.worker("long writer", || long_writer(&load))),
                scope.spawn(|| load.worker("command line", || command_line(&load))),
                scope.spawn(|| load.worker("mount", || mounted(&load, &work))),
            ];
            let restarted = load.worker("restarts", || {
                restart_all(&load, Signal::SIGTERM)?;
                restart_all(&load, Signal::SIGKILL)
            });
            load.over.store(true, Ordering::Relaxed);
            let ended = workers.map(|worker| worker.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
            std::iter::once(restarted).chain(ended).collect()
        });
        for (kind, (count, longest)) in
            load.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter()
        {
            println!("{kind}: {count} calls, longest {longest:?}");
        }
        let failed: Vec<String> =
            outcomes.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
        ensure!(failed.is_empty(), "{failed:#?}");
        wait_until("every block has its replicas", || {
            let checked = cluster.dfs(&["fsck", "/"])?;
            Ok(checked.code == Some(0) && !checked.text().contains("Under replicated"))
        })
    })
}
