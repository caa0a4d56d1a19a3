//! Open files of a mount's session: what is written is read, kept, and seen elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dfs_client::ErrorKind;
use dfs_client::fs::{
    Caller, FileStatus, FileSystem, FileSystemConfig, FileType, InodeId, NewNode, OpenFile, OpenOptions,
};
use dfs_tests::cluster::{MiniCluster, SUPERUSER};
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::replica_files::Damage;
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::read_all;

const BLOCK: u64 = 1 << 20;

/// A session of the superuser.
pub async fn session(cluster: &MiniCluster, block_size: u64) -> Result<FileSystem> {
    let config = FileSystemConfig {
        user: Some(SUPERUSER.to_owned()),
        block_size: Some(block_size),
        ..FileSystemConfig::of_namenodes(&cluster.namenode_address())
    };
    Ok(FileSystem::connect(config).await?)
}

pub fn root() -> Caller {
    Caller::named(SUPERUSER)
}

/// Makes a file of the root directory and opens it for writing.
pub async fn create(fs: &FileSystem, name: &str) -> Result<(FileStatus, Arc<OpenFile>)> {
    let new = NewNode::new(FileType::File, 0o644, "");
    Ok(fs.create(&root(), InodeId::ROOT, name.as_bytes(), new).await?)
}

/// Opens a file.
pub async fn open(fs: &FileSystem, inode: u64, write: bool) -> Result<Arc<OpenFile>> {
    Ok(fs.open(&root(), InodeId(inode), OpenOptions { write, truncate: false }).await?)
}

/// All bytes of an open file.
pub async fn contents(file: &OpenFile) -> Result<Vec<u8>> {
    let size = file.status().size;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < size {
        let part = file.read_at(bytes.len() as u64, 700_000).await?;
        ensure!(!part.is_empty(), "ends at {} of {size}", bytes.len());
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

#[test]
fn what_was_written_is_read_before_and_after_it_is_flushed() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let (client, fs) = (cluster.client().await?, session(&cluster, BLOCK).await?);
        let bytes = pattern(7, 0, 3 * BLOCK as usize + 12_345);
        let (status, file) = create(&fs, "f").await?;
        for (index, piece) in bytes.chunks(100_000).enumerate() {
            file.write_at(index as u64 * 100_000, Bytes::copy_from_slice(piece)).await?;
        }
        ensure!(file.status().size == bytes.len() as u64);
        ensure!(
            fs.stat(&root(), InodeId(status.inode)).await?.size == bytes.len() as u64,
            "stat is overlaid"
        );
        ensure_same("before the flush", &contents(&file).await?, &bytes)?;
        file.flush().await?;
        ensure_same("after the flush", &contents(&file).await?, &bytes)?;
        ensure_same("elsewhere", &read_all(&client, "/f").await?, &bytes)?;
        ensure!(!client.stat("/f").await?.under_construction, "closed with the flush of the only handle");
        file.release(true).await?;
        cluster.wait_for_replication("/f", 3).await?;

        let again = open(&fs, status.inode, false).await?;
        ensure_same("opened again", &contents(&again).await?, &bytes)?;
        again.release(false).await?;
        fs.close().await?;
        Ok(())
    })
}

#[test]
fn overwrites_change_blocks_in_place_and_are_on_every_replica() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let (client, fs) = (cluster.client().await?, session(&cluster, BLOCK).await?);
        let mut bytes = pattern(1, 0, 2 * BLOCK as usize);
        let (status, file) = create(&fs, "f").await?;
        file.write_at(0, bytes.clone().into()).await?;
        file.flush().await?;
        file.release(true).await?;
        let before = cluster.blocks("/f").await?;

        let file = open(&fs, status.inode, true).await?;
        for (seed, offset, len) in
            [(2u64, 5usize, 10usize), (3, 4096, 4096), (4, BLOCK as usize - 7, 14), (5, 70_000, 9_000)]
        {
            let data = pattern(seed, 0, len);
            bytes[offset..offset + len].copy_from_slice(&data);
            file.write_at(offset as u64, data.into()).await?;
            ensure_same("dirty", &contents(&file).await?, &bytes)?;
        }
        file.sync(true).await?;
        ensure_same("synced", &contents(&file).await?, &bytes)?;
        file.release(true).await?;
        ensure_same("elsewhere", &read_all(&client, "/f").await?, &bytes)?;
        let after = cluster.blocks("/f").await?;
        for (before, after) in before.iter().zip(&after) {
            let (before, after) = (before.block.context("block")?, after.block.context("block")?);
            ensure!(before.id == after.id && before.generation_stamp < after.generation_stamp);
        }
        for block in &after {
            ensure!(block.locations.len() == 3, "{block:?}");
        }
        fs.close().await?;
        Ok(())
    })
}

#[test]
fn holes_take_no_blocks_and_read_as_zeros() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let (client, fs) = (cluster.client().await?, session(&cluster, BLOCK).await?);
        let (_, file) = create(&fs, "f").await?;
        file.write_at(5 * BLOCK + 10, Bytes::from_static(b"end")).await?;
        file.write_at(BLOCK, Bytes::from_static(b"second")).await?;
        file.set_len(7 * BLOCK).await?;
        let mut bytes = vec![0; 7 * BLOCK as usize];
        bytes[BLOCK as usize..BLOCK as usize + 6].copy_from_slice(b"second");
        bytes[5 * BLOCK as usize + 10..][..3].copy_from_slice(b"end");
        ensure_same("here", &contents(&file).await?, &bytes)?;
        file.flush().await?;
        ensure_same("flushed", &contents(&file).await?, &bytes)?;
        ensure!(file.seek_data(0).await? == Some(BLOCK));
        let hole = file.seek_hole(BLOCK).await?;
        ensure!((BLOCK + 6..=2 * BLOCK).contains(&hole), "{hole}");
        // The block at the end begins with a hole of its own, of which whole pages are told.
        let data = file.seek_data(2 * BLOCK).await?.context("data")?;
        ensure!((5 * BLOCK..=5 * BLOCK + 10).contains(&data), "{data}");
        file.write_at(4 * BLOCK + BLOCK / 2, Bytes::from(vec![1; 4096])).await?;
        file.punch_hole(BLOCK, 6).await?;
        bytes[4 * BLOCK as usize + BLOCK as usize / 2..][..4096].fill(1);
        bytes[BLOCK as usize..BLOCK as usize + 6].fill(0);
        ensure_same("punched", &contents(&file).await?, &bytes)?;
        let data = file.seek_data(2 * BLOCK).await?.context("data")?;
        ensure!(data == 4 * BLOCK + BLOCK / 2, "{data}");
        ensure!(file.seek_hole(data).await? == data + 4096);
        ensure!(file.seek_data(6 * BLOCK).await?.is_none());
        ensure!(file.seek_hole(6 * BLOCK).await? == 6 * BLOCK);
        file.release(true).await?;
        ensure!(cluster.blocks("/f").await?.len() == 3);
        ensure_same("elsewhere", &read_all(&client, "/f").await?, &bytes)?;
        fs.close().await?;
        Ok(())
    })
}

#[test]
fn a_second_session_sees_what_was_flushed_and_gets_the_lease_of_an_idle_writer() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let (one, two) = (session(&cluster, BLOCK).await?, session(&cluster, BLOCK).await?);
        let (status, first) = create(&one, "f").await?;
        first.write_at(0, Bytes::from_static(b"first")).await?;
        first.sync(false).await?;
        let seen = open(&two, status.inode, false).await?;
        ensure_same("synced", &contents(&seen).await?, b"first")?;
        seen.release(false).await?;

        // The writer stays open and idle: the lease is recalled.
        let began = Instant::now();
        let second = open(&two, status.inode, true).await?;
        ensure!(began.elapsed() < Duration::from_secs(6), "took {:?}", began.elapsed());
        second.write_at(5, Bytes::from_static(b"second")).await?;
        let refused = first.write_at(0, Bytes::from_static(b"x")).await;
        ensure!(refused.is_err_and(|e| e.kind() == ErrorKind::LeaseHeldByOther) || second.status().size > 0);
        second.release(true).await?;
        first.write_at(0, Bytes::from_static(b"F")).await?;
        first.release(true).await?;
        let seen = open(&two, status.inode, false).await?;
        ensure_same("both", &contents(&seen).await?, b"Firstsecond")?;
        seen.release(false).await?;
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}

#[test]
fn an_fsync_survives_the_loss_of_a_datanode_and_writing_goes_on() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let (client, fs) = (cluster.client().await?, session(&cluster, BLOCK).await?);
        let mut bytes = pattern(1, 0, 3 * BLOCK as usize);
        let (_, file) = create(&fs, "f").await?;
        file.write_at(0, bytes.clone().into()).await?;
        file.sync(false).await?;
        cluster.kill_datanode(1).await;
        for round in 0..20u64 {
            let data = pattern(round + 2, 0, 4096);
            let offset = (round * 131 * 4096 % (3 * BLOCK)) as usize;
            bytes[offset..offset + 4096].copy_from_slice(&data);
            file.write_at(offset as u64, data.into()).await?;
            file.sync(true).await?;
        }
        ensure_same("with two datanodes", &contents(&file).await?, &bytes)?;
        file.release(true).await?;
        ensure_same("elsewhere", &read_all(&client, "/f").await?, &bytes)?;
        cluster.start_datanode(1).await?;
        cluster.wait_for_replication("/f", 3).await?;
        ensure_same("again", &read_all(&client, "/f").await?, &bytes)?;
        fs.close().await?;
        Ok(())
    })
}

#[test]
fn a_file_being_written_survives_a_restart_of_all_datanodes() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let (client, fs) = (cluster.client().await?, session(&cluster, BLOCK).await?);
        let mut bytes = pattern(1, 0, 2 * BLOCK as usize);
        let (_, file) = create(&fs, "f").await?;
        file.write_at(0, bytes.clone().into()).await?;
        // The second one keeps its pipeline, with bytes that are on no disk.
        file.sync(true).await?;
        let data = pattern(2, 0, 50_000);
        bytes[BLOCK as usize + 100..][..50_000].copy_from_slice(&data);
        file.write_at(BLOCK + 100, data.into()).await?;
        ensure!(file.seek_data(0).await? == Some(0), "everything is acknowledged");
        for index in 0..3 {
            cluster.kill_datanode(index).await;
        }
        let data = pattern(3, 0, 10_000);
        bytes[BLOCK as usize + 20_000..][..10_000].copy_from_slice(&data);
        file.write_at(BLOCK + 20_000, data.into()).await?;
        let syncing = tokio::spawn({
            let file = Arc::clone(&file);
            async move { file.sync(true).await }
        });
        for index in 0..3 {
            cluster.start_datanode(index).await?;
        }
        syncing.await??;
        ensure_same("synced", &contents(&file).await?, &bytes)?;
        file.release(true).await?;
        ensure_same("elsewhere", &read_all(&client, "/f").await?, &bytes)?;
        cluster.wait_for_replication("/f", 3).await?;
        fs.close().await?;
        Ok(())
    })
}

#[test]
fn what_nobody_flushes_is_written_back_and_its_blocks_are_ended() -> Result<()> {
    run(async {
        let small = 64 << 10;
        let cluster = MiniCluster::builder().block_size(small).start().await?;
        let (client, fs) = (cluster.client().await?, session(&cluster, small).await?);
        let (_, file) = create(&fs, "f").await?;
        let mut bytes = vec![0; 40 * small as usize];
        // More blocks than a file has pipelines at a time, each written in two places.
        for round in 0..2u64 {
            for index in 0..40u64 {
                let offset = index * small + 1000 + round * 20_000;
                let data = pattern(index + 100 * round, 0, 5_000);
                bytes[offset as usize..][..5_000].copy_from_slice(&data);
                file.write_at(offset, data.into()).await?;
            }
        }
        bytes.truncate(39 * small as usize + 26_000);
        wait_until("all blocks to be complete", PATIENCE, async || {
            let blocks = cluster.blocks("/f").await?;
            Ok(blocks.len() == 40 && blocks.iter().all(|block| !block.under_construction))
        })
        .await?;
        ensure_same("here", &contents(&file).await?, &bytes)?;
        file.release(true).await?;
        ensure_same("elsewhere", &read_all(&client, "/f").await?, &bytes)?;
        fs.close().await?;
        Ok(())
    })
}

#[test]
fn many_writers_share_little_memory() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(4 * BLOCK).start().await?;
        let config = FileSystemConfig {
            user: Some(SUPERUSER.to_owned()),
            memory_bytes: 8 << 20,
            ..FileSystemConfig::of_namenodes(&cluster.namenode_address())
        };
        let (client, fs) = (cluster.client().await?, FileSystem::connect(config).await?);
        let writers = (0..6u64).map(|number| {
            let fs = fs.clone();
            async move {
                let (_, file) = create(&fs, &format!("f{number}")).await?;
                // In pages, every other one first: nothing of it makes up a packet for long.
                let bytes = pattern(number, 0, 4 * BLOCK as usize);
                for parity in [0, 1] {
                    for (index, page) in
                        bytes.chunks(4096).enumerate().filter(|(index, _)| index % 2 == parity)
                    {
                        file.write_at(index as u64 * 4096, Bytes::copy_from_slice(page)).await?;
                    }
                }
                file.release(true).await?;
                anyhow::Ok(bytes)
            }
        });
        let written = futures::future::try_join_all(writers).await?;
        for (number, bytes) in written.iter().enumerate() {
            ensure_same("a file", &read_all(&client, &format!("/f{number}")).await?, bytes)?;
        }
        fs.close().await?;
        Ok(())
    })
}

#[test]
fn an_outage_of_all_datanodes_is_waited_out() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let (client, fs) = (cluster.client().await?, session(&cluster, BLOCK).await?);
        let bytes = pattern(1, 0, 100_000);
        let (_, file) = create(&fs, "f").await?;
        file.write_at(0, bytes.clone().into()).await?;
        file.flush().await?;
        for index in 0..3 {
            cluster.kill_datanode(index).await;
        }
        let reading = tokio::spawn({
            let file = Arc::clone(&file);
            async move { file.read_at(0, 100_000).await }
        });
        for index in 0..3 {
            cluster.start_datanode(index).await?;
        }
        ensure_same("read", &reading.await??, &bytes)?;
        file.write_at(100_000, Bytes::from_static(b"more")).await?;
        file.release(true).await?;
        wait_until("the file to be whole", PATIENCE, async || {
            Ok(read_all(&client, "/f").await?.ends_with(b"more"))
        })
        .await?;
        fs.close().await?;
        Ok(())
    })
}

#[test]
fn small_files_come_whole_from_this_machine_and_damage_never_does() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).local_reads().start().await?;
        let fs = session(&cluster, BLOCK).await?;
        let sizes = [1, 4096, 5000, 16_000, 17_000, 65_536, 65_537];
        let mut inodes = Vec::new();
        for (seed, size) in sizes.into_iter().enumerate() {
            let (status, file) = create(&fs, &format!("f{size}")).await?;
            file.write_at(0, pattern(seed as u64, 0, size).into()).await?;
            file.release(true).await?;
            inodes.push(status.inode);
        }
        for (seed, (size, inode)) in sizes.into_iter().zip(&inodes).enumerate() {
            let file = open(&fs, *inode, false).await?;
            ensure_same("whole", &contents(&file).await?, &pattern(seed as u64, 0, size))?;
            let part = file.read_at(size as u64 / 2, 100).await?;
            ensure_same("part", &part, &pattern(seed as u64, 0, size)[size / 2..(size / 2 + 100).min(size)])?;
            file.release(false).await?;
        }
        // Cut without its replicas, which are longer than the block now.
        let file = open(&fs, inodes[2], true).await?;
        file.set_len(3000).await?;
        file.release(true).await?;
        let other = session(&cluster, BLOCK).await?;
        let file = open(&other, inodes[2], false).await?;
        ensure_same("cut", &contents(&file).await?, &pattern(2, 0, 3000))?;
        file.release(false).await?;
        // One replica after the other is damaged, and each is found out and replaced.
        let bytes = pattern(3, 0, 16_000);
        let block = cluster.blocks("/f16000").await?[0].block.context("block")?.id;
        for index in 0..cluster.datanode_count() {
            cluster.corrupt_replica(index, block, Damage::FlipBit(9000))?;
            wait_until("the bad replica is replaced", PATIENCE, async || {
                let fs = session(&cluster, BLOCK).await?;
                let file = open(&fs, inodes[3], false).await?;
                ensure_same("/f16000", &contents(&file).await?, &bytes)?;
                let files = cluster.replica(index, block)?;
                let good = files.is_none_or(|f| std::fs::read(&f.data).is_ok_and(|stored| stored == bytes));
                Ok(good && cluster.blocks("/f16000").await?[0].locations.len() >= 2)
            })
            .await?;
        }
        Ok(())
    })
}
