//! `dfs-namenode check`, `backup` and `restore` on the directory of a real cluster.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use dfs_tests::programs::{Finished, LocalCluster, finish, run};

async fn operator(cluster: &LocalCluster, args: &[&str]) -> Result<Finished> {
    let mut command = cluster.command("dfs-namenode")?;
    command.args(args);
    finish(command, b"").await
}

/// The newest segment of the log.
fn last_segment(dir: &Path) -> Result<std::path::PathBuf> {
    let mut segments: Vec<_> =
        std::fs::read_dir(dir.join("log"))?.flatten().map(|entry| entry.path()).collect();
    segments.sort();
    segments.pop().context("a segment")
}

#[test]
fn an_operator_checks_backs_up_and_restores() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&["--datanodes", "1"]).await?;
        let dir = cluster.dir().join("namenode");
        let dir_text = dir.to_str().context("text")?;
        cluster.dfs_with_input(&["put", "-", "/f"], b"content").await?.ok()?;

        // While it serves.
        let busy = operator(&cluster, &["check", "--dir", dir_text]).await?;
        ensure!(busy.code == Some(1) && busy.stderr.contains("in use"), "{busy:?}");
        let made = operator(&cluster, &["backup", "--to", "backup"]).await?.ok()?;
        ensure!(made.text().contains("verified"), "{made:?}");
        let twice = operator(&cluster, &["backup", "--to", "backup"]).await?;
        ensure!(twice.code == Some(1) && twice.stderr.contains("backup: exists"), "{twice:?}");

        // kill -9, and a flipped byte.
        cluster.kill_9(|_| true).await?;
        let sound = operator(&cluster, &["check", "--dir", dir_text]).await?.ok()?;
        ensure!(sound.text().contains("The namespace holds together"), "{sound:?}");
        let segment = last_segment(&dir)?;
        let mut bytes = std::fs::read(&segment)?;
        bytes[60] ^= 16;
        std::fs::write(&segment, &bytes)?;
        let damaged = operator(&cluster, &["check", "--dir", dir_text]).await?;
        let name = segment.to_str().context("text")?;
        ensure!(damaged.code == Some(1) && damaged.stderr.contains(name), "{damaged:?}");
        ensure!(damaged.stderr.contains("damaged at offset 48"), "{damaged:?}");
        let refused = cluster.in_dir(&["cluster", "start"]).await?;
        ensure!(refused.code != Some(0), "a namenode starts on a damaged log: {refused:?}");
        cluster.in_dir(&["cluster", "stop"]).await?;

        // From the backup.
        std::fs::rename(&dir, cluster.home().join("damaged"))?;
        let restored = operator(&cluster, &["restore", "--from", "backup", "--dir", dir_text]).await?.ok()?;
        ensure!(restored.text().contains("holds together"), "{restored:?}");
        cluster.start_again().await?;
        assert_eq!(cluster.dfs(&["cat", "/f"]).await?.ok()?.text(), "content");
        let told = cluster.dfs(&["admin", "restored"]).await?.ok()?.text();
        ensure!(told.contains("Restored from a backup of"), "{told}");
        ensure!(cluster.dfs(&["admin", "report"]).await?.ok()?.text().contains("Restored from a backup"));
        cluster.dfs(&["admin", "restored", "finish"]).await?.ok()?;
        let told = cluster.dfs(&["admin", "restored"]).await?.ok()?.text();
        ensure!(told.contains("Nothing is kept"), "{told}");
        Ok(())
    })
}
