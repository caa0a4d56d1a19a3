//! What an administrator types, and what it says: scrubs, blocks, rescue, `fsck`, health, leaving datanodes, balancing.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use dfs_client::CreateOptions;
use dfs_tests::net_cluster::{Fault, NetCluster, Settings};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::programs::{Finished, LocalCluster, finish, program_dir, run};
use dfs_tests::wait::{PATIENCE, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

/// Bytes of the file that is damaged.
const LEN: usize = 100_000;

/// What `--json` said.
fn json(finished: &Finished) -> Result<Value> {
    serde_json::from_slice(&finished.stdout).with_context(|| format!("{finished:?}"))
}

/// The name of a file's only block.
async fn block_of(cluster: &LocalCluster, path: &str) -> Result<String> {
    let told = cluster.dfs(&["fsck", "-files", "-blocks", "-locations", path]).await?.ok()?.text();
    let at = told.find("blk_").with_context(|| told.clone())?;
    let is_part = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    Ok(told[at..].chars().take_while(is_part).collect())
}

/// Flips a byte of every replica that is told of, up to `most`; answers how its datanodes are called.
fn spoil(block: &Value, most: usize) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for replica in block["replicas"].as_array().context("replicas")?.iter().take(most) {
        let data: PathBuf = replica["stored"]["data"].as_str().context("a data file")?.into();
        let file = std::fs::File::options().read(true).write(true).open(data)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, 70_000)?;
        file.write_all_at(&[byte[0] ^ 4], 70_000)?;
        names.push(replica["datanode"].as_str().context("a datanode")?.to_owned());
    }
    Ok(names)
}

#[test]
fn damage_is_found_by_a_scrub_told_by_block_and_fsck_and_rescued_by_get() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&["--datanodes", "3", "--replication", "2"]).await?;
        let content = pattern(1, 0, LEN);
        cluster.dfs_with_input(&["put", "-", "/f"], &content).await?.ok()?;
        let health = cluster.dfs(&["admin", "health"]).await?;
        ensure!(health.code == Some(0) && health.text() == "HEALTHY\n", "{health:?}");
        let block = block_of(&cluster, "/f").await?;
        let told = cluster.dfs(&["admin", "block", &block, "--verify"]).await?.ok()?.text();
        ensure!(told.contains("File: /f") && told.matches("good, reread now").count() == 2, "{told}");
        let none = cluster.dfs(&["admin", "block", "blk_77"]).await?;
        ensure!(none.code == Some(1) && none.stderr.lines().count() == 1, "{none:?}");
        ensure!(none.stderr.contains("blk_77"), "{none:?}");
        ensure!(cluster.dfs(&["admin", "block", "f"]).await?.code == Some(2));
        let unknown = cluster.dfs(&["admin", "scrub", "nobody"]).await?;
        ensure!(unknown.code == Some(1) && unknown.stderr.contains("no such datanode"), "{unknown:?}");
        let forbidden = cluster.dfs(&["--user", "alice", "admin", "scrub", "127.0.0.1"]).await?;
        ensure!(forbidden.code == Some(1) && forbidden.stdout.is_empty(), "{forbidden:?}");

        // One bad replica: found, told, replaced.
        let described = json(&cluster.dfs(&["admin", "block", &block, "--json"]).await?.ok()?)?;
        let spoilt = spoil(&described, 1)?;
        let forbidden = cluster.dfs(&["--user", "alice", "admin", "scrub", &spoilt[0]]).await?;
        ensure!(forbidden.code == Some(1) && forbidden.stderr.contains("superuser"), "{forbidden:?}");
        let scrubbed = cluster.dfs(&["admin", "scrub", &spoilt[0]]).await?;
        let text = scrubbed.text();
        ensure!(scrubbed.code == Some(1) && text.contains("1 bad") && text.contains(&block), "{scrubbed:?}");
        wait_until("the bad replica is replaced", PATIENCE, async || {
            let told = cluster.dfs(&["admin", "block", &block, "--verify"]).await?;
            Ok(told.code == Some(0) && told.text().matches("good, reread now").count() == 2)
        })
        .await?;
        // It is deleted once the others have been read again.
        wait_until("the bad replica is gone", PATIENCE, async || {
            Ok(cluster.dfs(&["admin", "scrub", &spoilt[0]]).await?.code == Some(0))
        })
        .await?;
        wait_until("all is well", PATIENCE, async || {
            Ok(cluster.dfs(&["admin", "health"]).await?.code == Some(0))
        })
        .await?;

        // All of them: nothing is deleted, and what is left can be had.
        let described = json(&cluster.dfs(&["admin", "block", &block, "--json"]).await?.ok()?)?;
        for name in spoil(&described, 2)? {
            ensure!(cluster.dfs(&["admin", "scrub", &name]).await?.code == Some(1), "{name}");
        }
        wait_until("fsck says corrupt", PATIENCE, async || {
            let told = cluster.dfs(&["fsck", "--json", "/"]).await?;
            Ok(told.code == Some(1) && json(&told)?["healthy"] == Value::Bool(false))
        })
        .await?;
        let listed = cluster.dfs(&["fsck", "-list-corruptfileblocks", "/"]).await?;
        let text = listed.text();
        ensure!(listed.code == Some(1) && text.contains("/f") && text.contains(&block), "{listed:?}");
        let health = cluster.dfs(&["admin", "health"]).await?;
        ensure!(health.code == Some(1) && health.text().starts_with("UNHEALTHY\n"), "{health:?}");
        let id = block.rsplit_once('_').map_or(block.as_str(), |(id, _)| id);
        let read = cluster.dfs(&["cat", "/f"]).await?;
        ensure!(read.code == Some(1) && read.stderr.contains(id), "{read:?}");
        ensure!(cluster.dfs(&["get", "/f", "out"]).await?.code == Some(1));
        ensure!(!cluster.home().join("out").exists(), "a damaged file under its final name");
        let rescued = cluster.dfs(&["get", "--ignore-crc", "/f", "out"]).await?;
        ensure!(rescued.stderr.contains("rescued"), "{rescued:?}");
        let mut expected = content;
        expected[70_000] ^= 4;
        ensure_same("the rescued file", &std::fs::read(cluster.home().join("out"))?, &expected)?;
        ensure!(cluster.dfs(&["admin", "block", &block]).await?.code == Some(1), "no good replica");
        Ok(())
    })
}

#[test]
fn a_datanode_leaves_with_progress_and_comes_back_and_setrep_waits() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&["--datanodes", "3", "--replication", "2"]).await?;
        for at in 0..4u64 {
            let path = format!("/f{at}");
            cluster.dfs_with_input(&["put", "-", &path], &pattern(at, 0, LEN)).await?.ok()?;
        }
        let node = |index: u16| format!("127.0.0.1:{}", cluster.port_base() + 10 + 10 * index);

        let set = cluster.dfs(&["setrep", "-w", "3", "/f0", "/f1"]).await?.ok()?.text();
        ensure!(set.contains("Replication 3 set: /f0") && set.matches(" done").count() == 2, "{set}");
        let vain = cluster.dfs(&["setrep", "-w", "4", "/f0"]).await?;
        ensure!(vain.code == Some(1) && vain.stderr.contains("3 datanodes"), "{vain:?}");
        cluster.dfs(&["setrep", "-w", "2", "/f0", "/f1"]).await?.ok()?;

        let unknown = cluster.dfs(&["admin", "decommission", "nobody"]).await?;
        ensure!(unknown.code == Some(1) && unknown.stderr.lines().count() == 1, "{unknown:?}");
        let several = cluster.dfs(&["admin", "decommission", "127.0.0.1"]).await?;
        ensure!(several.code == Some(1) && several.stderr.contains("several"), "{several:?}");
        let left = cluster.dfs(&["admin", "decommission", "--wait", &node(0)]).await?.ok()?;
        ensure!(left.text().contains("may be stopped"), "{left:?}");
        let rows = json(&cluster.dfs(&["admin", "nodes", "--json"]).await?.ok()?)?;
        ensure!(rows.to_string().contains("decommissioned"), "{rows}");
        cluster.dfs(&["fsck", "/"]).await?.ok()?;

        // With another one nothing would be left for the second replicas: said, and not waited for.
        let stuck = cluster.dfs(&["admin", "decommission", "--wait", &node(1)]).await?;
        ensure!(stuck.code == Some(1) && stuck.stderr.contains("nowhere to go"), "{stuck:?}");
        for index in [0, 1] {
            cluster.dfs(&["admin", "recommission", &node(index)]).await?.ok()?;
        }
        wait_until("all is well", PATIENCE, async || {
            Ok(cluster.dfs(&["admin", "health"]).await?.code == Some(0))
        })
        .await?;
        for at in 0..4u64 {
            let read = cluster.dfs(&["cat", &format!("/f{at}")]).await?.ok()?;
            ensure_same("a file", &read.stdout, &pattern(at, 0, LEN))?;
        }
        Ok(())
    })
}

/// Runs `dfs` on a cluster in a network of its own.
fn dfs(cluster: &NetCluster, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(program_dir()?.join("dfs"));
    command.args(args).env("DFS_NAMENODE", cluster.namenode_address()).kill_on_drop(true);
    Ok(command)
}

#[test]
fn a_balancer_is_ended_by_ctrl_c_and_goes_on_when_it_is_run_again() -> Result<()> {
    const BLOCK: u64 = 1 << 20;
    const FILES: u64 = 20;
    run(async {
        let settings = Settings { datanodes: 2, block_size: BLOCK, liveness_ms: (2_000, 4_000) };
        let Some(mut cluster) = NetCluster::start(settings).await? else { return Ok(()) };
        finish(dfs(&cluster, &["balancer", "--background", "off"])?, b"").await?.ok()?;
        let client = cluster.client().await?;
        cluster.inject(1, Fault::Killed)?;
        cluster.wait_for_live(1).await?;
        let one = CreateOptions { replication: Some(1), ..CreateOptions::default() };
        for at in 0..FILES {
            let mut file = client.create(&format!("/f{at}"), one).await?;
            file.write_all(&pattern(at, 0, BLOCK as usize)).await?;
            file.close().await?;
        }
        cluster.heal(1, Fault::Killed)?;
        cluster.wait_for_live(2).await?;

        wait_until("heartbeats tell how full the datanodes are", PATIENCE, async || {
            let told = finish(dfs(&cluster, &["balancer", "--status", "--json"])?, b"").await?.ok()?;
            Ok(json(&told)?["average_percent"].as_f64() > Some(9.0))
        })
        .await?;
        let refused = finish(dfs(&cluster, &["balancer", "--threshold", "200%"])?, b"").await?;
        ensure!(refused.code == Some(2), "{refused:?}");
        let mut command = dfs(&cluster, &["balancer", "--threshold", "3%", "--bandwidth", "1M"])?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("standard output")?).lines();
        let head = lines.next_line().await?.context("a first line")?;
        ensure!(head.contains("Threshold 3.00%") && head.contains("1 M/s"), "{head}");
        let mut status = Value::Null;
        wait_until("something was moved", PATIENCE, async || {
            let told = finish(dfs(&cluster, &["balancer", "--status", "--json"])?, b"").await?.ok()?;
            status = json(&told)?;
            Ok(status["blocks_moved"].as_u64() > Some(0))
        })
        .await
        .with_context(|| status.to_string())?;
        kill(Pid::from_raw(i32::try_from(child.id().context("it runs")?)?), Signal::SIGINT)?;
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await??;
        let mut said = String::new();
        child.stderr.take().context("standard error")?.read_to_string(&mut said).await?;
        ensure!(ended.code() == Some(1) && said.contains("run it again to go on"), "{ended:?}: {said}");
        let told = finish(dfs(&cluster, &["balancer", "--status", "--json"])?, b"").await?.ok()?;
        ensure!(json(&told)?["state"] == "stopped", "{told:?}");

        let done = finish(dfs(&cluster, &["balancer", "--threshold", "3%"])?, b"").await?.ok()?;
        ensure!(done.text().contains("The cluster is balanced"), "{done:?}");
        let again = finish(dfs(&cluster, &["balancer", "--threshold", "3%"])?, b"").await?.ok()?;
        ensure!(again.text().contains("0 in 0 blocks moved"), "{again:?}");
        let mut on_second = 0;
        for at in 0..FILES {
            let path = format!("/f{at}");
            let read = finish(dfs(&cluster, &["cat", &path])?, b"").await?.ok()?;
            ensure_same(&path, &read.stdout, &pattern(at, 0, BLOCK as usize))?;
            for block in cluster.blocks(&path).await? {
                on_second += cluster.indexes_of(&block)?.iter().filter(|index| **index == 1).count();
            }
        }
        ensure!((6..=14).contains(&on_second), "{on_second} of {FILES} blocks were moved");
        Ok(())
    })
}
