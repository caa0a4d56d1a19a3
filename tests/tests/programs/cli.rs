//! The `dfs` command: exit codes, what goes to which stream, and one-line messages that name path and cause.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::programs::{LocalCluster, run};
use dfs_tests::wait::{PATIENCE, wait_until};

/// A failed command: code 1, nothing on standard output, one line on standard error that has all `parts`.
async fn ensure_fails(cluster: &LocalCluster, args: &[&str], parts: &[&str]) -> Result<()> {
    let failed = cluster.dfs(args).await?;
    ensure!(failed.code == Some(1), "{args:?}: {failed:?}");
    ensure!(failed.stdout.is_empty(), "{args:?}: standard output has {}", failed.text());
    ensure!(failed.stderr.lines().count() == 1, "{args:?}: more than one line: {}", failed.stderr);
    for part in parts {
        ensure!(failed.stderr.contains(part), "{args:?}: no {part} in {}", failed.stderr);
    }
    Ok(())
}

#[test]
fn failures_have_code_1_and_one_line_with_path_and_cause() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&["--datanodes", "1"]).await?;
        fs::write(cluster.home().join("local"), b"content")?;
        cluster.dfs(&["mkdir", "-p", "/d/full/x", "/d/empty"]).await?.ok()?;
        cluster.dfs(&["put", "local", "/d/f"]).await?.ok()?;
        let long = format!("/{}", "n".repeat(256));
        let missing = "No such file or directory";
        for (args, parts) in [
            (vec!["ls", "/none"], vec!["/none", missing]),
            (vec!["cat", "/none"], vec!["/none", missing]),
            (vec!["cat", "/d"], vec!["/d", "Is a directory"]),
            (vec!["get", "/none", "out"], vec!["/none", missing]),
            (vec!["put", "no-such-local", "/x"], vec!["no-such-local", missing]),
            (vec!["put", "local", "/no/parent/x"], vec!["/no", missing]),
            (vec!["put", "local", "/d/f"], vec!["/d/f", "File exists"]),
            (vec!["put", "local", "/d/f/x"], vec!["/d/f", "Not a directory"]),
            (vec!["mkdir", "/d/f"], vec!["/d/f", "File exists"]),
            (vec!["mkdir", "/no/parent"], vec!["/no", missing]),
            (vec!["rmdir", "/d/full"], vec!["/d/full", "Directory not empty"]),
            (vec!["rmdir", "/d/f"], vec!["/d/f", "Not a directory"]),
            (vec!["rm", "/d/empty"], vec!["/d/empty", "Is a directory"]),
            (vec!["rm", "/none"], vec!["/none", missing]),
            (vec!["mv", "/none", "/x"], vec!["/none", missing]),
            (vec!["stat", "/none"], vec!["/none", missing]),
            (vec!["setrep", "2", "/none"], vec!["/none", missing]),
            (vec!["chmod", "644", "/none"], vec!["/none", missing]),
            (vec!["truncate", "100", "/d/f"], vec!["/d/f"]),
            (vec!["mkdir", &long], vec![&long, "too long"]),
            (vec!["--user", "nobody-special", "mkdir", "/mine"], vec!["/mine", "Permission denied"]),
            (vec!["--user", "nobody-special", "rm", "/d/f"], vec!["/d", "Permission denied"]),
        ] {
            ensure_fails(&cluster, &args, &parts).await?;
        }
        ensure!(!cluster.home().join("out").exists(), "nothing half-done is left behind");
        assert_eq!(cluster.dfs(&["cat", "/d/f"]).await?.ok()?.text(), "content");
        Ok(())
    })
}

#[test]
fn bad_usage_has_code_2_and_does_nothing() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&["--datanodes", "1"]).await?;
        for args in [
            vec![],
            vec!["no-such-verb"],
            vec!["ls", "--no-such-flag", "/"],
            vec!["mv", "/only-one"],
            vec!["setrep", "zero", "/f"],
            vec!["setrep", "0", "/f"],
            vec!["chmod", "9999", "/f"],
            vec!["mkdir"],
            vec!["test", "/f"],
        ] {
            let refused = cluster.dfs(&args).await?;
            ensure!(refused.code == Some(2) && !refused.stderr.is_empty(), "{args:?}: {refused:?}");
            ensure!(refused.stdout.is_empty(), "{args:?}: {}", refused.text());
        }
        // Asking for help is no bad usage.
        for args in [vec!["--help"], vec!["put", "--help"], vec!["--version"]] {
            ensure!(!cluster.dfs(&args).await?.ok()?.stdout.is_empty(), "{args:?}");
        }
        assert_eq!(cluster.dfs(&["ls", "/"]).await?.ok()?.text(), "");
        Ok(())
    })
}

#[test]
fn verbs_do_what_hdfs_users_expect() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&["--datanodes", "2"]).await?;
        let say = async |args: &[&str]| -> Result<String> { Ok(cluster.dfs(args).await?.ok()?.text()) };
        cluster.dfs_with_input(&["put", "-", "/f"], b"one\ntwo\nthree\n").await?.ok()?;
        say(&["mkdir", "-p", "/d/e"]).await?;
        say(&["cp", "/f", "/d/copy"]).await?;
        say(&["mv", "/f", "/d/e"]).await?;
        assert_eq!(say(&["cat", "/d/e/f", "/d/copy"]).await?, "one\ntwo\nthree\none\ntwo\nthree\n");
        assert_eq!(say(&["ls", "-C", "/d"]).await?, "/d/copy\n/d/e\n");
        assert_eq!(say(&["ls", "-C", "-R", "/d"]).await?, "/d/copy\n/d/e\n/d/e/f\n");
        assert_eq!(say(&["ls", "-C", "/d/c*", "/d/?/f"]).await?, "/d/copy\n/d/e/f\n");
        assert_eq!(say(&["-ls", "-C", "/d/e"]).await?, "/d/e/f\n", "hdfs's spelling with a dash");
        assert_eq!(say(&["find", "/d", "-name", "f"]).await?, "/d/e/f\n");
        assert_eq!(say(&["stat", "%b %r %n", "/d/copy"]).await?, "14 2 copy\n");
        assert_eq!(say(&["head", "/d/copy"]).await?, "one\ntwo\nthree\n");

        say(&["setrep", "-w", "1", "/d/copy"]).await?;
        say(&["chmod", "600", "/d/copy"]).await?;
        say(&["chown", "alice:staff", "/d/copy"]).await?;
        assert_eq!(say(&["stat", "%r %a %u %g", "/d/copy"]).await?, "1 600 alice staff\n");
        say(&["chgrp", "wheel", "/d/copy"]).await?;
        say(&["chmod", "-R", "u+x,go-r", "/d"]).await?;
        assert_eq!(say(&["stat", "%a %g", "/d/copy"]).await?, "700 wheel\n");
        say(&["truncate", "-w", "4", "/d/copy"]).await?;
        assert_eq!(say(&["cat", "/d/copy"]).await?, "one\n");
        say(&["touch", "/d/touched"]).await?;

        for (args, yes) in [
            (["test", "-e", "/d/copy"], true),
            (["test", "-e", "/none"], false),
            (["test", "-d", "/d"], true),
            (["test", "-d", "/d/copy"], false),
            (["test", "-f", "/d/copy"], true),
            (["test", "-z", "/d/touched"], true),
            (["test", "-s", "/d/touched"], false),
        ] {
            let answer = cluster.dfs(&args).await?;
            assert_eq!(answer.code, Some(if yes { 0 } else { 1 }), "{args:?}");
            ensure!(answer.stdout.is_empty() && answer.stderr.is_empty(), "{answer:?}");
        }
        let usage = say(&["du", "-s", "/d"]).await?;
        let numbers: Vec<&str> = usage.split_ascii_whitespace().collect();
        assert_eq!(numbers, ["18", "32", "/d"], "4 bytes once and 14 bytes twice");

        ensure!(say(&["rm", "/d/copy"]).await?.contains("/d/copy"));
        say(&["rm", "-f", "/none"]).await?;
        say(&["rm", "-r", "-skipTrash", "/d"]).await?;
        assert_eq!(say(&["ls", "-C", "/"]).await?, "/user\n");
        Ok(())
    })
}

#[test]
fn reports_are_for_people_and_for_scripts() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&["--datanodes", "2"]).await?;
        cluster.dfs_with_input(&["put", "-", "/f"], &pattern(1, 0, 100_000)).await?.ok()?;
        for args in [
            vec!["ls", "--json", "/"],
            vec!["stat", "--json", "/f"],
            vec!["du", "--json", "/"],
            vec!["df", "--json"],
            vec!["count", "--json", "/"],
            vec!["fsck", "--json", "/"],
            vec!["admin", "report", "--json"],
            vec!["admin", "nodes", "--json"],
            vec!["checksum", "--json", "/f"],
        ] {
            let text = cluster.dfs(&args).await?.ok().with_context(|| format!("{args:?}"))?.text();
            serde_json::from_str::<serde_json::Value>(&text).with_context(|| format!("{args:?}: {text}"))?;
        }
        for args in [vec!["df"], vec!["fsck", "/"], vec!["admin", "report"], vec!["admin", "nodes"]] {
            ensure!(!cluster.dfs(&args).await?.ok()?.stdout.is_empty(), "{args:?}");
        }

        // fsck says by its exit code that something is wrong.
        cluster.kill_9(|name| name.starts_with("datanode")).await?;
        wait_until("fsck finds the missing block", PATIENCE, async || {
            Ok(cluster.dfs(&["fsck", "/"]).await?.code == Some(1))
        })
        .await
    })
}

#[test]
fn a_broken_pipe_is_no_failure() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&["--datanodes", "1"]).await?;
        cluster.dfs_with_input(&["put", "-", "/f"], &pattern(1, 0, 8 << 20)).await?.ok()?;
        let mut command = cluster.command("dfs")?;
        command.args(["cat", "/f"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        drop(child.stdout.take());
        let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await??;
        ensure!(output.status.success(), "{:?}", output.status);
        ensure!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    })
}

#[test]
fn an_interrupted_put_leaves_nothing_under_its_final_name() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&["--datanodes", "1"]).await?;
        let mut command = cluster.command("dfs")?;
        command.args(["put", "-", "/final"]).stdin(Stdio::piped()).kill_on_drop(true);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut stdin = child.stdin.take().context("standard input")?;
        tokio::io::AsyncWriteExt::write_all(&mut stdin, &pattern(1, 0, 3 << 20)).await?;
        let client = cluster.client().await?;
        // It has begun, somewhere: then it is ended in the middle, first politely, then not.
        wait_until("the copy has begun", PATIENCE, async || Ok(!client.list("/").await?.is_empty())).await?;
        child.start_kill()?;
        child.wait().await?;
        drop(stdin);
        ensure!(cluster.dfs(&["test", "-e", "/final"]).await?.code == Some(1), "a half-written /final");

        // The same name can be written at once.
        cluster.dfs_with_input(&["put", "-", "/final"], b"whole").await?.ok()?;
        ensure_same("/final", &cluster.dfs(&["cat", "/final"]).await?.ok()?.stdout, b"whole")
    })
}

#[test]
fn the_address_comes_from_option_environment_or_file() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&["--datanodes", "1"]).await?;
        cluster.dfs(&["mkdir", "/here"]).await?.ok()?;
        let address = cluster.namenode_address();
        let with = async |variable: Option<&str>, option: Option<&str>| {
            let mut command = cluster.command("dfs")?;
            match variable {
                Some(value) => command.env("DFS_NAMENODE", value),
                None => command.env_remove("DFS_NAMENODE"),
            };
            command
                .args(option.map(|value| ["--namenode", value]).into_iter().flatten())
                .args(["ls", "-C", "/"]);
            dfs_tests::programs::finish(command, b"").await
        };
        let nowhere = "127.0.0.1:1";
        assert_eq!(with(Some(nowhere), Some(&address)).await?.ok()?.text(), "/here\n");
        ensure!(with(Some(&address), Some(nowhere)).await?.code == Some(1), "the option wins");
        fs::write(cluster.home().join("dfs.toml"), format!("namenode = \"{address}\"\n"))?;
        assert_eq!(with(None, None).await?.ok()?.text(), "/here\n");
        ensure!(with(Some(nowhere), None).await?.code == Some(1), "the environment wins over the file");
        fs::write(cluster.home().join("dfs.toml"), "nonsense = 1\n")?;
        let failed = with(None, None).await?;
        ensure!(failed.code == Some(1) && failed.stderr.contains("dfs.toml"), "{failed:?}");
        Ok(())
    })
}
