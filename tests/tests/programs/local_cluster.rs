//! `dfs cluster start|stop|status`.

use anyhow::{Context, Result, ensure};
use dfs_tests::programs::{LocalCluster, finish, run};
use dfs_tests::wait::{PATIENCE, wait_until};

#[test]
fn start_serves_at_once_is_idempotent_and_stop_ends_exactly_its_processes() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&[]).await?;
        // "Returns 0 once a write would succeed": the very next command is a write.
        cluster.dfs_with_input(&["put", "-", "/f"], b"first").await?.ok()?;
        let before = cluster.processes()?;
        let names: Vec<&str> = before.keys().map(String::as_str).collect();
        assert_eq!(names, ["datanode-0", "datanode-1", "datanode-2", "namenode"]);
        let stat = cluster.dfs(&["stat", "%r", "/f"]).await?.ok()?;
        assert_eq!(stat.text().trim(), "3", "replication");

        cluster.start_again().await?;
        assert_eq!(cluster.processes()?, before, "a second start changes nothing");
        let status = cluster.in_dir(&["cluster", "status"]).await?.ok()?;
        for name in before.keys() {
            ensure!(status.text().contains(name.as_str()), "{name} in {}", status.text());
        }

        let other = LocalCluster::start(&["--datanodes", "1"]).await?;
        other.dfs_with_input(&["put", "-", "/f"], b"second").await?.ok()?;
        assert_eq!(other.processes()?.len(), 2);
        cluster.in_dir(&["cluster", "stop"]).await?.ok()?;
        ensure!(cluster.processes()?.is_empty(), "stop leaves nothing running");
        assert_eq!(other.dfs(&["cat", "/f"]).await?.ok()?.text(), "second");

        // Stopping what is stopped, and starting what was stopped.
        cluster.in_dir(&["cluster", "stop"]).await?.ok()?;
        ensure!(cluster.in_dir(&["cluster", "status"]).await?.code == Some(1), "status of a stopped cluster");
        cluster.start_again().await?;
        assert_eq!(cluster.dfs(&["cat", "/f"]).await?.ok()?.text(), "first");
        Ok(())
    })
}

#[test]
fn start_revives_what_has_died() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&[]).await?;
        cluster.dfs_with_input(&["put", "-", "/f"], b"content").await?.ok()?;
        let before = cluster.processes()?;
        cluster.kill_9(|name| name == "datanode-1").await?;
        cluster.start_again().await?;
        let after = cluster.processes()?;
        assert_eq!(after.len(), before.len());
        assert_eq!(after["namenode"], before["namenode"], "what lives is left alone");
        ensure!(after["datanode-1"] != before["datanode-1"]);
        wait_until("all datanodes are live again", PATIENCE, async || {
            Ok(cluster.client().await?.stats().await?.live_datanodes == 3)
        })
        .await
    })
}

#[test]
fn a_second_namenode_program_on_the_directory_is_refused() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&["--datanodes", "1"]).await?;
        let dir = cluster.dir().join("namenode");
        let mut command = cluster.command("dfs-namenode")?;
        command.args(["--bind", "127.0.0.1", "--rpc-port", "0", "--http-port", "0", "--dir"]).arg(&dir);
        let refused = finish(command, b"").await?;
        ensure!(refused.code.is_some_and(|code| code != 0), "exit code {:?}", refused.code);
        let dir = dir.to_str().context("a UTF-8 path")?;
        ensure!(refused.stderr.contains(dir), "names the directory: {}", refused.stderr);
        cluster.dfs_with_input(&["put", "-", "/f"], b"undisturbed").await?.ok()?;
        Ok(())
    })
}

#[test]
fn a_cluster_that_cannot_be_had_is_refused_with_a_reason() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&["--datanodes", "2"]).await?;
        for (options, code) in [
            (["--datanodes", "0"], 2),
            (["--datanodes", "1"], 1),
            (["--replication", "9"], 2),
            (["--port-base", "80"], 2),
            (["--no-such-option", "1"], 2),
        ] {
            let mut args = vec!["cluster", "start"];
            args.extend(options);
            let refused = cluster.in_dir(&args).await?;
            ensure!(
                refused.code.is_some_and(|got| got == code || got == 1) && !refused.stderr.is_empty(),
                "{options:?}: {refused:?}"
            );
        }
        assert_eq!(cluster.processes()?.len(), 3);
        Ok(())
    })
}
