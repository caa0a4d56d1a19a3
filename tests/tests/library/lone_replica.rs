//! Writing on with one replica of several: what that one has is looked at first, since its new stamp makes the others stale.

use anyhow::{Context, Result, ensure};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::replica_files::Damage;
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::{read_all, write_file};
use tokio::io::AsyncWriteExt as _;

use crate::open_files::{create, session};

const BLOCK: u64 = 1 << 20;

async fn two_datanodes() -> Result<MiniCluster> {
    MiniCluster::builder().datanodes(2).replication(2).block_size(BLOCK).start().await
}

async fn block_of(cluster: &MiniCluster, path: &str) -> Result<u64> {
    let blocks = cluster.blocks(path).await?;
    Ok(blocks.first().and_then(|located| located.block).context("a block")?.id)
}

#[test]
fn a_file_is_not_written_on_with_a_spoilt_replica_that_is_left_alone() -> Result<()> {
    run(async {
        let mut cluster = two_datanodes().await?;
        let (client, fs) = (cluster.client().await?, session(&cluster, BLOCK).await?);
        let mut bytes = pattern(1, 0, 300_000);
        let (_, file) = create(&fs, "f").await?;
        file.write_at(0, bytes.clone().into()).await?;
        file.sync(true).await?;
        let block = block_of(&cluster, "/f").await?;

        cluster.kill_datanode(1).await;
        cluster.corrupt_replica(0, block, Damage::FlipBit(50_000))?;
        let data = pattern(2, 0, 1000);
        bytes[200_000..201_000].copy_from_slice(&data);
        file.write_at(200_000, data.into()).await?;
        let (synced, started) = tokio::join!(file.sync(true), async {
            cluster.wait_for_live_datanodes(1).await?;
            cluster.start_datanode(1).await
        });
        started?;
        synced.context("the other one has come back")?;
        file.release(true).await?;
        ensure_same("with the replica that is whole", &read_all(&client, "/f").await?, &bytes)?;
        cluster.wait_for_replication("/f", 2).await?;
        for index in 0..2 {
            let files = cluster.replica(index, block)?.context("a replica")?;
            ensure_same("on each disk", &std::fs::read(files.data)?, &bytes)?;
        }
        fs.close().await?;
        Ok(())
    })
}

#[test]
fn nothing_is_appended_to_a_spoilt_replica_that_is_left_alone() -> Result<()> {
    run(async {
        let mut cluster = two_datanodes().await?;
        let client = cluster.client().await?;
        let mut bytes = pattern(1, 0, 300_000);
        write_file(&client, "/f", &bytes).await?;
        let block = block_of(&cluster, "/f").await?;

        cluster.kill_datanode(1).await;
        cluster.wait_for_live_datanodes(1).await?;
        cluster.corrupt_replica(0, block, Damage::FlipBit(50_000))?;
        let appended = async {
            let mut writer = client.append("/f").await?;
            writer.write_all(b"more").await?;
            writer.close().await?;
            anyhow::Ok(())
        };
        ensure!(appended.await.is_err(), "only the spoilt replica is there");
        cluster.start_datanode(1).await?;
        cluster.wait_for_live_datanodes(2).await?;
        // What the writer had has to be closed first.
        wait_until("the file is closed", PATIENCE, async || Ok(client.recover_lease("/f").await?)).await?;
        ensure_same("as before", &read_all(&client, "/f").await?, &bytes)?;

        let mut writer = client.append("/f").await?;
        writer.write_all(b"more").await?;
        writer.close().await?;
        bytes.extend_from_slice(b"more");
        ensure_same("with what was appended later", &read_all(&client, "/f").await?, &bytes)?;
        Ok(())
    })
}
