//! Backups of a namenode that serves, and namenodes that are restored from them.

use anyhow::{Context, Result, ensure};
use dfs_client::MkdirOptions;
use dfs_namenode::maintenance::{self, MaintenanceError};
use dfs_namenode::{NODE_ID, Namenode};
use dfs_proto::ErrorKind;
use dfs_tests::cluster::{MiniCluster, SUPERUSER};
use dfs_tests::harness::run;
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::{read_all, write_file};
use tokio::io::AsyncWriteExt as _;

use super::ensure_error;

#[test]
fn a_restored_namenode_keeps_what_it_does_not_know_until_told_otherwise() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(1).replication(1).start().await?;
        let client = cluster.client().await?;
        write_file(&client, "/before", b"before").await?;
        let backup = tempfile::tempdir()?;
        let file = backup.path().join("backup");
        let made = maintenance::from_namenode(&cluster.namenode_address(), SUPERUSER, &file).await?;
        ensure!(made.rows > 0 && made.path == file, "{made:?}");
        let again = maintenance::from_namenode(&cluster.namenode_address(), SUPERUSER, &file).await;
        ensure!(matches!(again, Err(MaintenanceError::Exists { .. })), "{again:?}");
        let (address, elsewhere) = (cluster.namenode_address(), backup.path().join("x"));
        let other = maintenance::from_namenode(&address, "alice", &elsewhere).await;
        ensure!(matches!(other, Err(MaintenanceError::Namenode { .. })), "superusers only");

        write_file(&client, "/since", b"since").await?;
        let since = cluster.blocks("/since").await?;
        let since = since.first().and_then(|block| block.block).context("a block")?;
        cluster.kill_namenode().await;

        // The disk of the namenode is lost.
        let dir = cluster.namenode_dir();
        let to = dir.clone();
        let lost = backup.path().join("lost");
        std::fs::rename(&dir, &lost)?;
        let restored =
            tokio::task::spawn_blocking(move || maintenance::restore(&file, &to, NODE_ID)).await??;
        ensure!(restored.rows == made.rows, "{restored:?}");
        cluster.start_namenode().await?;
        cluster.wait_for_live_datanodes(1).await?;
        let client = cluster.client().await?;
        assert_eq!(read_all(&client, "/before").await?, b"before");
        ensure_error(client.stat("/since").await, ErrorKind::NotFound, "/since")?;
        wait_until("the unknown replica is seen", PATIENCE, async || {
            Ok(client.restored(false).await?.kept_blocks == 1)
        })
        .await?;
        let stats = client.stats().await?;
        ensure!(stats.restored && stats.kept_blocks == 1 && stats.pending_deletion_blocks == 0, "{stats:?}");
        ensure!(cluster.replica(0, since.id)?.is_some(), "it is still there");

        // No id is given twice.
        write_file(&client, "/new", b"new").await?;
        let new = cluster.blocks("/new").await?.first().and_then(|block| block.block).context("a block")?;
        ensure!(new.id > since.id + (1 << 39) && new.generation_stamp > since.generation_stamp + (1 << 39));

        // A restart changes nothing, and then an operator says that it may go.
        cluster.restart_namenode().await?;
        cluster.wait_for_live_datanodes(1).await?;
        let client = cluster.client().await?;
        ensure!(client.restored(false).await?.restored, "remembered");
        ensure_error(
            cluster.client_of("alice").await?.restored(true).await,
            ErrorKind::NotPermitted,
            "restored",
        )?;
        client.restored(true).await?;
        cluster.restart_namenode().await?;
        wait_until("the unknown replica is deleted", PATIENCE, async || {
            Ok(cluster.replica(0, since.id)?.is_none())
        })
        .await?;
        ensure!(!client.restored(false).await?.restored, "ended");
        assert_eq!(read_all(&client, "/before").await?, b"before");
        assert_eq!(read_all(&client, "/new").await?, b"new");
        Ok(())
    })
}

#[test]
fn what_was_appended_after_the_backup_is_adopted_by_an_operator() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(2).replication(2).start().await?;
        let client = cluster.client().await?;
        for path in ["/appended", "/left", "/same"] {
            write_file(&client, path, b"before").await?;
        }
        let backup = tempfile::tempdir()?;
        let file = backup.path().join("backup");
        maintenance::from_namenode(&cluster.namenode_address(), SUPERUSER, &file).await?;
        for path in ["/appended", "/left"] {
            let mut writer = client.append(path).await?;
            writer.write_all(b" and after").await?;
            writer.close().await?;
        }
        cluster.kill_namenode().await;
        let dir = cluster.namenode_dir();
        std::fs::rename(&dir, backup.path().join("lost"))?;
        tokio::task::spawn_blocking(move || maintenance::restore(&file, &dir, NODE_ID)).await??;
        cluster.start_namenode().await?;
        cluster.wait_for_live_datanodes(2).await?;
        let client = cluster.client().await?;

        let mut told = client.restored(false).await?;
        wait_until("both replicas of both blocks are seen", PATIENCE, async || {
            told = client.restored(false).await?;
            Ok(told.newer.iter().map(|block| block.replicas).sum::<u32>() == 4)
        })
        .await?;
        ensure!((told.newer_blocks, told.kept_blocks) == (2, 2), "{told:?}");
        let of = |path: &str| told.newer.iter().find(|block| block.path == path.as_bytes());
        let newer = of("/appended").context("told by its path")?;
        let (known, found) = (newer.known.unwrap_or_default(), newer.found.unwrap_or_default());
        ensure!((known.length, found.length) == (6, 16) && found.stamp() > known.stamp(), "{newer:?}");

        // It would be deleted.
        ensure_error(client.restored(true).await, ErrorKind::InvalidArgument, "restored")?;
        client.delete("/left", false).await?;
        let alice = cluster.client_of("alice").await?;
        ensure_error(alice.adopt_newer_replicas().await, ErrorKind::NotPermitted, "restored")?;
        ensure_error(alice.discard_newer_replicas().await, ErrorKind::NotPermitted, "restored")?;
        let adopted = client.adopt_newer_replicas().await?;
        ensure!((adopted.adopted, adopted.newer_blocks) == (1, 0), "{adopted:?}");
        assert_eq!(read_all(&client, "/appended").await?, b"before and after");
        assert_eq!(read_all(&client, "/same").await?, b"before");

        // It is a block like any other, also after a restart.
        let mut writer = client.append("/appended").await?;
        writer.write_all(b", too").await?;
        writer.close().await?;
        client.restored(true).await?;
        cluster.restart_namenode().await?;
        cluster.wait_for_live_datanodes(2).await?;
        let client = cluster.client().await?;
        assert_eq!(read_all(&client, "/appended").await?, b"before and after, too");
        wait_until("both replicas are counted", PATIENCE, async || {
            let blocks = cluster.blocks("/appended").await?;
            Ok(blocks.iter().all(|block| block.locations.len() == 2))
        })
        .await
    })
}

#[test]
fn a_backup_of_a_directory_is_that_of_the_namenode_and_check_agrees() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(0).start().await?;
        let client = cluster.client().await?;
        for at in 0..50 {
            client.mkdir(&format!("/d{at}"), MkdirOptions::default()).await?;
        }
        let place = tempfile::tempdir()?;
        let online =
            maintenance::from_namenode(&cluster.namenode_address(), SUPERUSER, &place.path().join("a"))
                .await?;
        let dir = cluster.namenode_dir();
        let busy = {
            let dir = dir.clone();
            tokio::task::spawn_blocking(move || maintenance::check(&dir)).await?
        };
        ensure!(busy.is_err_and(|error| error.to_string().contains("in use")), "a namenode runs there");
        cluster.kill_namenode().await;

        let (from, to) = (dir.clone(), place.path().to_owned());
        let work = tokio::task::spawn_blocking(move || -> Result<()> {
            let report = maintenance::check(&from)?;
            ensure!(report.violations.is_empty(), "{report:?}");
            assert_eq!(report.counts, (51, 0));
            let offline = maintenance::from_directory(&from, &to)?;
            ensure!(offline.path.parent() == Some(&to), "{offline:?}");
            assert_eq!((offline.rows, offline.header.index), (online.rows, online.header.index));
            let restored = maintenance::restore(&offline.path, &to.join("new"), NODE_ID)?;
            assert_eq!(restored.counts, (51, 0));
            let report = maintenance::check(&to.join("new"))?;
            ensure!(report.violations.is_empty(), "{report:?}");
            let twice = maintenance::restore(&offline.path, &to.join("new"), NODE_ID);
            ensure!(twice.is_err(), "not over another namenode");

            // A flipped byte in the backup restores nothing.
            let mut bytes = std::fs::read(&offline.path)?;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            std::fs::write(to.join("bad"), bytes)?;
            let bad = maintenance::restore(&to.join("bad"), &to.join("other"), NODE_ID);
            ensure!(bad.is_err_and(|error| error.to_string().contains("bad")), "the file is named");
            ensure!(!to.join("other").exists(), "nothing is begun");
            Ok(())
        });
        work.await??;
        let config =
            dfs_namenode::NamenodeConfig { dir: place.path().join("new"), ..cluster.namenode_config() };
        let namenode = Namenode::start(config).await?;
        namenode.shutdown().await;
        Ok(())
    })
}
