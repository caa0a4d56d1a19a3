//! The trash of a running cluster: the namenode empties it by itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_client::{DfsClient, MkdirOptions, RenameOptions, Trashed};
use dfs_namenode::{Namenode, NamenodeConfig};
use dfs_proto::ErrorKind;
use dfs_tests::cluster::{MiniCluster, SUPERUSER};
use dfs_tests::harness::run;
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::{read_all, write_file};

use super::ensure_error;

/// How long checkpoints are kept here, and how often they are made.
const KEEP: Duration = Duration::from_millis(1_500);
const ROUND: Duration = Duration::from_millis(300);

/// At the address that the datanodes know.
fn short_lived(cluster: &MiniCluster) -> NamenodeConfig {
    let port = cluster.namenode_address().rsplit(':').next().and_then(|port| port.parse().ok());
    NamenodeConfig {
        rpc_port: port.unwrap_or_default(),
        trash_keep_ms: KEEP.as_millis() as u64,
        trash_checkpoint_ms: ROUND.as_millis() as u64,
        ..cluster.namenode_config()
    }
}

async fn client_at(namenode: &Namenode, user: &str) -> Result<DfsClient> {
    Ok(DfsClient::builder().namenode(namenode.rpc_addr().to_string()).user(user).connect().await?)
}

async fn trash(client: &DfsClient, path: &str) -> Result<String> {
    match client.move_to_trash(path, true).await? {
        Trashed::Moved(to) => Ok(to),
        other => anyhow::bail!("{path}: {other:?}"),
    }
}

async fn checkpoints(client: &DfsClient, user: &str) -> Result<Vec<String>> {
    let listed = client.list(&format!("/user/{user}/.Trash")).await?;
    Ok(listed.into_iter().map(|entry| entry.path).filter(|path| !path.ends_with("/Current")).collect())
}

#[test]
fn the_namenode_empties_the_trash_of_all_users_also_after_a_restart() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(1).replication(1).start().await?;
        cluster.kill_namenode().await;
        let namenode = Namenode::start(short_lived(&cluster)).await?;
        let root = client_at(&namenode, SUPERUSER).await?;
        wait_until("the datanode is back", PATIENCE, async || Ok(root.stats().await?.live_datanodes == 1))
            .await?;
        root.mkdir("/shared", MkdirOptions { mode: 0o777, ..MkdirOptions::default() }).await?;
        let users = ["alice", "bob"];
        let mut removed = Vec::new();
        for user in users {
            let client = client_at(&namenode, user).await?;
            let file = format!("/shared/of-{user}");
            write_file(&client, &file, user.as_bytes()).await?;
            let to = trash(&client, &file).await?;
            assert_eq!(to, format!("/user/{user}/.Trash/Current{file}"));
            removed.push(Instant::now());
            assert_eq!(read_all(&client, &to).await?, user.as_bytes(), "it can be read there");
        }
        for user in users {
            wait_until("a checkpoint is made", PATIENCE, async || {
                Ok(!checkpoints(&root, user).await?.is_empty())
            })
            .await?;
        }
        namenode.shutdown().await;

        let namenode = Namenode::start(short_lived(&cluster)).await?;
        let root = client_at(&namenode, SUPERUSER).await?;
        for (user, removed) in users.iter().zip(removed) {
            wait_until("the checkpoint is deleted", PATIENCE, async || {
                Ok(checkpoints(&root, user).await?.is_empty())
            })
            .await?;
            ensure!(removed.elapsed() >= KEEP, "deleted after {:?}", removed.elapsed());
        }
        wait_until("the blocks are freed", PATIENCE, async || Ok(root.stats().await?.blocks == 0)).await?;
        namenode.shutdown().await;
        Ok(())
    })
}

#[test]
fn removing_a_large_tree_is_one_step_and_can_be_taken_back() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(1).replication(1).start().await?;
        let client = cluster.client().await?;
        for directory in 0..20 {
            let calls =
                (0..50).map(|at| {
                    let (client, path) = (client.clone(), format!("/tree/{directory}/{at}"));
                    async move {
                        client.mkdir(&path, MkdirOptions { parents: true, ..MkdirOptions::default() }).await
                    }
                });
            futures::future::try_join_all(calls).await?;
        }
        write_file(&client, "/tree/f", b"content").await?;
        let to = trash(&client, "/tree").await?;
        ensure_error(client.stat("/tree").await, ErrorKind::NotFound, "/tree")?;
        client.rename(&to, "/tree", RenameOptions::default()).await?;
        assert_eq!(read_all(&client, "/tree/f").await?, b"content");
        assert_eq!(client.content_summary("/tree").await?.directory_count, 1 + 20 + 20 * 50);

        // What the library deletes is gone.
        ensure!(client.delete("/tree", true).await?, "deleted");
        let trashed = client.list("/user/hdfs/.Trash/Current").await?;
        ensure!(trashed.is_empty(), "{trashed:?}");
        Ok(())
    })
}

#[test]
fn expunge_makes_a_checkpoint_and_immediately_deletes_all() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(1).replication(1).start().await?;
        let client = cluster.client().await?;
        let nothing = client.expunge(false).await?;
        ensure!(nothing.made.is_none() && nothing.deleted.is_empty(), "{nothing:?}");
        write_file(&client, "/f", b"one").await?;
        trash(&client, "/f").await?;
        let first = client.expunge(false).await?;
        let made = first.made.context("a checkpoint")?;
        assert_eq!(read_all(&client, &format!("{made}/f")).await?, b"one");
        assert_eq!(client.move_to_trash(&made, true).await?, Trashed::Inside);
        write_file(&client, "/f", b"two").await?;
        trash(&client, "/f").await?;
        let all = client.expunge(true).await?;
        assert_eq!(all.deleted.len(), 2, "{all:?}");
        ensure!(checkpoints(&client, SUPERUSER).await?.is_empty());
        Ok(())
    })
}

#[test]
fn a_cluster_without_trash_says_so() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(1).start().await?;
        cluster.kill_namenode().await;
        let config = NamenodeConfig { trash_keep_ms: 0, ..cluster.namenode_config() };
        let namenode = Namenode::start(config).await?;
        let client = client_at(&namenode, SUPERUSER).await?;
        client.mkdir("/d", MkdirOptions::default()).await?;
        assert_eq!(client.move_to_trash("/d", true).await?, Trashed::Off);
        client.stat("/d").await?;
        namenode.shutdown().await;
        Ok(())
    })
}
