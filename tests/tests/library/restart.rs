//! What outlives a restart: everything that was answered.

use anyhow::{Context, Result, ensure};
use dfs_client::{CreateOptions, MkdirOptions};
use dfs_proto::v1::{CreateRequest, DeleteRequest, MkdirRequest, RenameRequest};
use dfs_proto::{ErrorKind, RpcError};
use dfs_tests::cluster::{MiniCluster, SUPERUSER, context_of, node};
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::wait::{PATIENCE, wait_for, wait_until};
use dfs_tests::workload::{read_all, write_file};
use tokio::io::AsyncWriteExt;
use tonic::Status;

const BLOCK: u64 = 64 << 10;

fn mkdir_request(call_id: u64, path: &str) -> MkdirRequest {
    MkdirRequest {
        context: Some(context_of(SUPERUSER, call_id)),
        node: Some(node(path)),
        mode: 0o755,
        create_parents: false,
    }
}

fn kind(status: &Status) -> ErrorKind {
    RpcError::from_status(status).kind
}

#[test]
fn a_repeated_call_acts_once_also_across_a_restart() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::start().await?;
        let mut rpc = cluster.rpc().await?;
        let made = rpc.mkdir(mkdir_request(1, "/d")).await?.into_inner();
        let again = rpc.mkdir(mkdir_request(1, "/d")).await?.into_inner();
        assert_eq!(made.inode, again.inode);
        let other = rpc.mkdir(mkdir_request(2, "/d")).await.expect_err("another call");
        assert_eq!(kind(&other), ErrorKind::AlreadyExists);

        let create = CreateRequest {
            context: Some(context_of(SUPERUSER, 3)),
            node: Some(node("/d/f")),
            mode: 0o644,
            holder: "holder".to_owned(),
            ..CreateRequest::default()
        };
        let created = rpc.create(create.clone()).await?.into_inner().status.context("status")?;
        let rename = RenameRequest {
            context: Some(context_of(SUPERUSER, 4)),
            src: Some(node("/d/f")),
            dst: Some(node("/d/g")),
            overwrite: false,
        };
        rpc.rename(rename.clone()).await?;
        let delete = DeleteRequest {
            context: Some(context_of(SUPERUSER, 5)),
            node: Some(node("/d/g")),
            recursive: false,
        };
        assert!(rpc.delete(delete.clone()).await?.into_inner().deleted);

        cluster.restart_namenode().await?;
        let mut rpc = cluster.rpc().await?;
        assert_eq!(rpc.mkdir(mkdir_request(1, "/d")).await?.into_inner().inode, made.inode);
        let replayed = rpc.create(create).await?.into_inner().status.context("status")?;
        assert_eq!(replayed.inode, created.inode);
        rpc.rename(rename).await?;
        assert!(rpc.delete(delete).await?.into_inner().deleted, "the first answer again");
        let names = cluster.client().await?.list("/d").await?;
        assert!(names.is_empty(), "repeated calls did something: {names:?}");
        Ok(())
    })
}

#[test]
fn everything_is_there_after_a_restart_of_everything() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        client.mkdir("/a/b", MkdirOptions { mode: 0o711, parents: true }).await?;
        for number in 0..12u64 {
            let len = number as usize * 20_000;
            write_file(&client, &format!("/a/f{number}"), &pattern(number, 0, len)).await?;
        }
        client.rename("/a/f1", "/a/b/moved", Default::default()).await?;
        client.delete("/a/f2", false).await?;
        client.set_replication("/a/f3", 1).await?;
        let before = client.list("/a").await?;

        for _ in 0..2 {
            cluster.restart_everything().await?;
            let client = cluster.client().await?;
            assert_eq!(client.list("/a").await?, before);
            assert_eq!(client.stat("/a/b").await?.mode, 0o711);
            for number in (0..12u64).filter(|number| ![1, 2].contains(number)) {
                let path = format!("/a/f{number}");
                let len = number as usize * 20_000;
                ensure_same(&path, &read_all(&client, &path).await?, &pattern(number, 0, len))?;
            }
            ensure_same("/a/b/moved", &read_all(&client, "/a/b/moved").await?, &pattern(1, 0, 20_000))?;
            write_file(&client, "/a/new", b"and writable").await?;
            client.delete("/a/new", false).await?;
        }
        Ok(())
    })
}

#[test]
fn files_are_readable_before_any_block_report() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        write_file(&client, "/f", &pattern(1, 0, 200_000)).await?;
        cluster.wait_for_replication("/f", 3).await?;
        cluster.restart_namenode().await?;
        // At once: the located blocks come from the hints, whether datanodes have reported or not.
        let located = cluster.blocks("/f").await?;
        ensure!(located.iter().all(|block| !block.locations.is_empty()), "{located:?}");
        ensure_same("/f", &read_all(&client, "/f").await?, &pattern(1, 0, 200_000))
    })
}

#[test]
fn a_client_works_on_through_a_namenode_restart() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let bytes = pattern(1, 0, 6 * BLOCK as usize);
        let mut writer = client.create("/f", CreateOptions::default()).await?;
        writer.write_all(&bytes[..100_000]).await?;
        writer.hflush().await?;
        cluster.restart_namenode().await?;
        writer.write_all(&bytes[100_000..]).await?;
        writer.close().await?;
        ensure_same("/f", &read_all(&client, "/f").await?, &bytes)?;

        // Calls that meet the outage itself wait for its end.
        cluster.kill_namenode().await;
        let call = client.mkdir("/made-during-the-outage", Default::default());
        let (made, started) = tokio::join!(call, cluster.start_namenode());
        started?;
        made?;
        Ok(())
    })
}

#[test]
fn an_open_file_survives_a_restart_of_everything() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let bytes = pattern(1, 0, 150_000);
        {
            let client = cluster.client().await?;
            let mut writer = client.create("/f", CreateOptions::default()).await?;
            writer.write_all(&bytes).await?;
            writer.hflush().await?;
        }
        cluster.restart_everything().await?;
        let client = cluster.client().await?;
        assert!(client.stat("/f").await?.under_construction);
        let seen = wait_for("the flushed bytes", PATIENCE, async || read_all(&client, "/f").await).await?;
        ensure_same("/f before recovery", &seen, &bytes)?;
        wait_until("/f is recovered", PATIENCE, async || Ok(client.recover_lease("/f").await?)).await?;
        ensure_same("/f", &read_all(&client, "/f").await?, &bytes)?;
        cluster.wait_for_replication("/f", 3).await
    })
}

#[test]
fn complete_files_survive_a_loss_of_power_that_undoes_the_closing_of_all_replicas() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let mut bytes = pattern(1, 0, 150_000);
        write_file(&client, "/f", &bytes).await?;
        cluster.wait_for_replication("/f", 3).await?;
        assert_eq!(cluster.lose_power_of_everything().await?, 9);

        let client = cluster.client().await?;
        let seen = wait_for("/f", PATIENCE, async || read_all(&client, "/f").await).await?;
        ensure_same("/f at once", &seen, &bytes)?;
        wait_until("all replicas are closed", PATIENCE, async || {
            Ok(cluster.all_replicas()?.iter().all(|(_, _, files)| files.finalized))
        })
        .await?;
        cluster.wait_for_replication("/f", 3).await?;
        wait_until("nothing is missing or corrupt", PATIENCE, async || {
            let stats = client.stats().await?;
            Ok(stats.missing_blocks + stats.corrupt_blocks + stats.under_replicated_blocks == 0)
        })
        .await?;
        // As good as before: it can be appended to.
        let mut writer = client.append("/f").await?;
        writer.write_all(&pattern(2, 0, 1_000)).await?;
        writer.close().await?;
        bytes.extend(pattern(2, 0, 1_000));
        ensure_same("/f", &read_all(&client, "/f").await?, &bytes)?;
        cluster.wait_for_replication("/f", 3).await
    })
}

#[test]
fn datanodes_restart_one_after_the_other_under_a_writer() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(4).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let bytes = pattern(1, 0, 12 * BLOCK as usize);
        let mut writer = client.create("/f", CreateOptions::default()).await?;
        for (number, piece) in bytes.chunks(bytes.len() / 4).enumerate() {
            let index = number % cluster.datanode_count();
            cluster.kill_datanode(index).await;
            writer.write_all(piece).await?;
            writer.hflush().await?;
            cluster.start_datanode(index).await?;
        }
        writer.close().await?;
        ensure_same("/f", &read_all(&client, "/f").await?, &bytes)?;
        cluster.wait_for_replication("/f", 3).await
    })
}

#[test]
fn numbers_that_a_power_failure_may_have_taken_back_are_not_given_again() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::start().await?;
        let number = async |cluster: &MiniCluster, path: &str| -> Result<(u64, u64, u64)> {
            write_file(&cluster.client().await?, path, b"bytes").await?;
            let inode = cluster.client().await?.stat(path).await?.inode;
            let blocks = cluster.blocks(path).await?;
            let block = blocks.first().and_then(|located| located.block).context("a block")?;
            Ok((inode, block.id, block.generation_stamp))
        };
        let before = number(&cluster, "/before").await?;
        let next = number(&cluster, "/next").await?;
        ensure!(
            next.0 - before.0 < 100 && next.1 - before.1 < 100,
            "one after the other: {before:?} {next:?}"
        );
        cluster.restart_namenode().await?;
        // Whatever was answered and not on disk has lower ones.
        let after = number(&cluster, "/after").await?;
        let apart = [after.0 - next.0, after.1 - next.1, after.2 - next.2];
        ensure!(apart.iter().all(|numbers| *numbers > 1 << 20), "{next:?} {after:?}");
        ensure!(read_all(&cluster.client().await?, "/next").await? == b"bytes");
        Ok(())
    })
}
