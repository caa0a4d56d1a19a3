//! Small writes that are synced: they go to all members of a pipeline at once.

use std::time::Duration;

use anyhow::{Result, ensure};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::rng::{Rng, seed_of_run};
use dfs_tests::workload::read_all;

use crate::open_files::{contents, create, open, session};

const BLOCK: u64 = 1 << 20;

#[test]
fn each_member_may_die_between_two_synced_writes() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let (client, fs) = (cluster.client().await?, session(&cluster, BLOCK).await?);
        let (_, file) = create(&fs, "f").await?;
        let mut bytes = Vec::new();
        for index in 0..3 {
            for round in 0..6u64 {
                let data = pattern(index as u64 * 100 + round, 0, 3000);
                if round == 3 {
                    cluster.kill_datanode(index).await;
                }
                file.write_at(bytes.len() as u64, data.clone().into()).await?;
                bytes.extend_from_slice(&data);
                file.sync(true).await?;
            }
            ensure_same("without a member", &contents(&file).await?, &bytes)?;
            cluster.start_datanode(index).await?;
            cluster.wait_for_live_datanodes(3).await?;
        }
        file.release(true).await?;
        ensure_same("elsewhere", &read_all(&client, "/f").await?, &bytes)?;
        cluster.wait_for_replication("/f", 3).await?;
        fs.close().await?;
        Ok(())
    })
}

#[test]
fn a_file_may_change_between_small_synced_writes_and_bulk() -> Result<()> {
    run(async {
        let mut rng = Rng::new(seed_of_run("form"));
        let cluster = MiniCluster::builder().block_size(4 * BLOCK).start().await?;
        let (client, fs) = (cluster.client().await?, session(&cluster, 4 * BLOCK).await?);
        let (_, file) = create(&fs, "f").await?;
        let mut bytes = vec![0; 3 << 20];
        let put = |bytes: &mut Vec<u8>, offset: usize, len: usize, seed: u64| {
            let data = pattern(seed, 0, len);
            bytes[offset..offset + len].copy_from_slice(&data);
            (offset as u64, bytes::Bytes::from(data))
        };
        let (offset, data) = put(&mut bytes, 0, 4096, 1);
        file.write_at(offset, data).await?;
        file.sync(true).await?;
        for turn in 0..3u64 {
            let (offset, data) = put(&mut bytes, 0, 3 << 20, 100 + turn);
            file.write_at(offset, data).await?;
            for small in 0..12u64 {
                let at = rng.below((3 << 20) - 5000) as usize;
                let (offset, data) = put(&mut bytes, at, 1 + rng.below(5000) as usize, turn * 50 + small);
                file.write_at(offset, data).await?;
                file.sync(true).await?;
            }
            ensure_same("as written", &contents(&file).await?, &bytes)?;
        }
        file.release(true).await?;
        ensure_same("elsewhere", &read_all(&client, "/f").await?, &bytes)?;
        let stored = cluster.all_replicas()?;
        ensure!(stored.len() == 3, "{} replicas", stored.len());
        fs.close().await?;
        Ok(())
    })
}

#[test]
fn small_files_that_are_synced_and_closed_survive_and_may_be_written_again() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let (client, fs) = (cluster.client().await?, session(&cluster, BLOCK).await?);
        let mut files = Vec::new();
        for n in 0..8u64 {
            let name = format!("f{n}");
            let (status, file) = create(&fs, &name).await?;
            let data = pattern(n, 0, 1 + n as usize * 900);
            file.write_at(0, data.clone().into()).await?;
            file.sync(false).await?;
            ensure_same(&name, &contents(&file).await?, &data)?;
            if n == 5 {
                // This one goes on after all.
                file.write_at(data.len() as u64, data.clone().into()).await?;
                file.sync(false).await?;
            }
            if n == 6 {
                cluster.kill_datanode(1).await;
            }
            file.flush().await?;
            file.release(true).await?;
            let data = if n == 5 { [data.clone(), data].concat() } else { data };
            files.push((name, status.inode, data));
        }
        cluster.start_datanode(1).await?;
        for (name, inode, data) in &mut files {
            ensure_same(name, &read_all(&client, &format!("/{name}")).await?, data)?;
            let file = open(&fs, *inode, true).await?;
            let more = pattern(77, 0, 100);
            file.write_at(data.len() as u64, more.clone().into()).await?;
            file.sync(true).await?;
            file.release(true).await?;
            data.extend_from_slice(&more);
        }
        cluster.restart_everything().await?;
        for (name, _, data) in &files {
            ensure_same(name, &read_all(&client, &format!("/{name}")).await?, data)?;
            tokio::time::timeout(
                Duration::from_secs(60),
                cluster.wait_for_replication(&format!("/{name}"), 3),
            )
            .await??;
        }
        fs.close().await?;
        Ok(())
    })
}
