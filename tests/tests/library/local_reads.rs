//! Readers on a datanode's machine read its files themselves.

use anyhow::{Context, Result, ensure};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::replica_files::Damage;
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::{read_all, write_file};

const BLOCK: u64 = 1 << 20;

#[test]
fn a_reader_that_has_the_files_needs_no_datanode() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).local_reads().start().await?;
        let client = cluster.client().await?;
        let bytes = pattern(1, 0, BLOCK as usize - 1000);
        write_file(&client, "/f", &bytes).await?;
        let mut reader = client.open("/f").await?;
        let mut got = reader.chunk().await?.context("a first piece")?.to_vec();
        for index in 0..cluster.datanode_count() {
            cluster.kill_datanode(index).await;
        }
        while let Some(piece) = reader.chunk().await? {
            got.extend_from_slice(&piece);
        }
        ensure_same("/f", &got, &bytes)
    })
}

#[test]
fn anywhere_and_across_blocks() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).local_reads().start().await?;
        let client = cluster.client().await?;
        let bytes = pattern(2, 0, 3 * BLOCK as usize + 12_345);
        write_file(&client, "/f", &bytes).await?;
        ensure_same("/f", &read_all(&client, "/f").await?, &bytes)?;
        let reader = client.open("/f").await?;
        let len = bytes.len() as u64;
        for (offset, wanted) in [(0, 1), (4095, 2), (BLOCK - 3, 7), (BLOCK, 300_000), (len - 1, 10), (len, 1)]
        {
            let mut buf = vec![0; wanted];
            let have = reader.read_at(offset, &mut buf).await?;
            let from = offset as usize;
            ensure_same("/f", &buf[..have], &bytes[from..(from + wanted).min(bytes.len())])?;
        }
        Ok(())
    })
}

#[test]
fn appended_and_unfinished_files_are_read_to_their_visible_end() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).local_reads().start().await?;
        let client = cluster.client().await?;
        let bytes = pattern(3, 0, 10_000);
        write_file(&client, "/f", &bytes[..5000]).await?;
        ensure_same("/f", &read_all(&client, "/f").await?, &bytes[..5000])?;
        let mut writer = client.append("/f").await?;
        writer.write_bytes(bytes[5000..].to_vec().into()).await?;
        writer.hflush().await?;
        ensure_same("/f", &read_all(&client, "/f").await?, &bytes)?;
        writer.close().await?;
        ensure_same("/f", &read_all(&client, "/f").await?, &bytes)
    })
}

#[test]
fn damage_on_this_machine_is_never_returned_and_gets_repaired() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(4).block_size(BLOCK).local_reads().start().await?;
        let client = cluster.client().await?;
        let bytes = pattern(4, 0, BLOCK as usize);
        write_file(&client, "/f", &bytes).await?;
        cluster.wait_for_replication("/f", 3).await?;
        let block = cluster.blocks("/f").await?[0].block.context("block")?.id;
        let index = cluster.located_on("/f", 0).await?[0];
        cluster.corrupt_replica(index, block, Damage::FlipBit(777_777))?;
        wait_until("the bad replica is replaced", PATIENCE, async || {
            // A client of its own, with no replica kept.
            let client = cluster.client().await?;
            ensure_same("/f", &read_all(&client, "/f").await?, &bytes)?;
            let Some(files) = cluster.replica(index, block)? else { return Ok(true) };
            Ok(std::fs::read(&files.data).is_ok_and(|stored| stored == bytes))
        })
        .await?;
        let replicas = cluster.blocks("/f").await?[0].locations.len();
        ensure!(replicas >= 2, "{replicas} replicas left");
        Ok(())
    })
}
