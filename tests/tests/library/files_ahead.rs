//! Small files fetched before they are opened: what is read is what was closed last, whoever wrote it when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dfs_client::fs::{FileSystem, InodeId, MAX_AHEAD_BYTES, MAX_GUESSES, OpenFile, SetAttributes};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::replica_files::Damage;
use dfs_tests::rng::{Rng, seed_of_run};
use dfs_tests::wait::{PATIENCE, wait_until};

use crate::open_files::{contents, create, open, root, session};

const BLOCK: u64 = 1 << 20;

/// A file of these bytes, closed.
async fn make(fs: &FileSystem, name: &str, bytes: &[u8]) -> Result<u64> {
    let (status, file) = create(fs, name).await?;
    file.write_at(0, Bytes::copy_from_slice(bytes)).await?;
    file.release(true).await?;
    Ok(status.inode)
}

/// Changes a closed file and closes it again.
async fn change(
    fs: &FileSystem,
    inode: u64,
    how: impl AsyncFnOnce(Arc<OpenFile>) -> Result<()>,
) -> Result<()> {
    let file = open(fs, inode, true).await?;
    how(Arc::clone(&file)).await?;
    Ok(file.release(true).await?)
}

async fn fetch(fs: &FileSystem, inodes: &[u64]) -> Result<()> {
    let before = fs.ahead_counts();
    let inodes: Vec<InodeId> = inodes.iter().map(|inode| InodeId(*inode)).collect();
    fs.fetch_ahead(&root(), &inodes);
    let wanted = before.here + inodes.len() as u64;
    wait_until("the files have come", PATIENCE, async || Ok(fs.ahead_counts().here >= wanted)).await
}

async fn read_whole(fs: &FileSystem, inode: u64) -> Result<Vec<u8>> {
    let file = open(fs, inode, false).await?;
    let bytes = contents(&file).await?;
    file.release(false).await?;
    Ok(bytes)
}

#[test]
fn files_fetched_ahead_are_read_without_datanodes() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let (writer, reader) = (session(&cluster, BLOCK).await?, session(&cluster, BLOCK).await?);
        let mut files = Vec::new();
        for (number, len) in [1, 4095, 4096, 20_000, MAX_AHEAD_BYTES as usize].into_iter().enumerate() {
            let bytes = pattern(number as u64, 0, len);
            files.push((make(&writer, &format!("f{number}"), &bytes).await?, bytes));
        }
        let inodes: Vec<u64> = files.iter().map(|(inode, _)| *inode).collect();
        fetch(&reader, &inodes).await?;
        for index in 0..cluster.datanode_count() {
            cluster.kill_datanode(index).await;
        }
        for (inode, bytes) in &files {
            let file = open(&reader, *inode, false).await?;
            ensure!(file.content_ahead().is_some_and(|content| content == bytes));
            ensure_same(
                "in parts",
                &file.read_at(1, 100).await?,
                &bytes[1.min(bytes.len())..bytes.len().min(101)],
            )?;
            ensure_same("whole", &contents(&file).await?, bytes)?;
            file.release(false).await?;
        }
        let counts = reader.ahead_counts();
        ensure!((counts.used, counts.refuted, counts.kept) == (5, 0, 0), "{counts:?}");
        Ok(())
    })
}

#[test]
fn a_file_that_another_session_changed_after_the_guess_is_read_anew() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let (writer, reader) = (session(&cluster, BLOCK).await?, session(&cluster, BLOCK).await?);
        let mut files = Vec::new();
        for number in 0..6u64 {
            let bytes = pattern(number, 0, 10_000);
            files.push((make(&writer, &format!("f{number}"), &bytes).await?, bytes));
        }
        let inodes: Vec<u64> = files.iter().map(|(inode, _)| *inode).collect();
        fetch(&reader, &inodes).await?;
        // Overwritten in place, in the same length; longer; shorter; emptied and written; other attributes.
        let new = pattern(77, 0, 10_000);
        change(&writer, inodes[0], async |file| {
            Ok(file.write_at(5_000, Bytes::copy_from_slice(&new[..10])).await?)
        })
        .await?;
        files[0].1[5_000..5_010].copy_from_slice(&new[..10]);
        change(&writer, inodes[1], async |file| {
            Ok(file.append(Bytes::from_static(b"more")).await.map(drop)?)
        })
        .await?;
        files[1].1.extend_from_slice(b"more");
        change(&writer, inodes[2], async |file| Ok(file.set_len(3_000).await?)).await?;
        files[2].1.truncate(3_000);
        change(&writer, inodes[3], async |file| {
            file.set_len(0).await?;
            Ok(file.write_at(0, Bytes::copy_from_slice(&new)).await?)
        })
        .await?;
        files[3].1.copy_from_slice(&new);
        let mode = SetAttributes { mode: Some(0o600), ..SetAttributes::default() };
        writer.set_attributes(&root(), InodeId(inodes[4]), mode).await?;
        for (inode, bytes) in &files[..5] {
            ensure_same("changed", &read_whole(&reader, *inode).await?, bytes)?;
        }
        let counts = reader.ahead_counts();
        ensure!((counts.used, counts.refuted, counts.kept) == (0, 5, 1), "{counts:?}");
        // Being written: its last synced bytes are read, not those of the guess.
        let writing = open(&writer, inodes[5], true).await?;
        writing.write_at(0, Bytes::from_static(b"synced")).await?;
        writing.sync(true).await?;
        files[5].1[..6].copy_from_slice(b"synced");
        ensure_same("being written", &read_whole(&reader, inodes[5]).await?, &files[5].1)?;
        Ok(writing.release(true).await?)
    })
}

#[test]
fn what_the_own_session_writes_counts_at_once() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let fs = session(&cluster, BLOCK).await?;
        let mut bytes = pattern(1, 0, 10_000);
        let inode = make(&fs, "f", &bytes).await?;
        fetch(&fs, &[inode]).await?;
        let reader = open(&fs, inode, false).await?;
        ensure!(reader.content_ahead().is_some());
        let writer = open(&fs, inode, true).await?;
        for round in 0..20usize {
            let at = round * 400;
            writer.write_at(at as u64, Bytes::from_static(b"written")).await?;
            bytes[at..at + 7].copy_from_slice(b"written");
            ensure_same("through the other handle", &contents(&reader).await?, &bytes)?;
        }
        writer.set_len(500).await?;
        ensure_same("cut", &contents(&reader).await?, &bytes[..500])?;
        writer.release(true).await?;
        ensure_same("closed", &contents(&reader).await?, &bytes[..500])?;
        Ok(reader.release(false).await?)
    })
}

#[test]
fn what_cannot_be_fetched_is_read_as_always() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(1).replication(1).block_size(BLOCK).start().await?;
        let fs = session(&cluster, BLOCK).await?;
        let (large, bytes) = (MAX_AHEAD_BYTES as usize + 1, pattern(3, 0, MAX_AHEAD_BYTES as usize + 1));
        let large_file = make(&fs, "large", &bytes[..large]).await?;
        let empty = make(&fs, "empty", b"").await?;
        let overwritten = make(&fs, "overwritten", &bytes[..9_000]).await?;
        change(&fs, overwritten, async |file| Ok(file.write_at(0, Bytes::from_static(b"new")).await?))
            .await?;
        let damaged = make(&fs, "damaged", &bytes[..9_000]).await?;
        let block = cluster.blocks("/damaged").await?[0].block.context("a block")?.id;
        cluster.corrupt_replica(0, block, Damage::FlipBit(7_777))?;
        let inodes = [large_file, empty, overwritten, damaged, 999_999].map(InodeId);
        fs.fetch_ahead(&root(), &inodes);
        // A batch behind it has come: so has this one, as far as it comes.
        let last = make(&fs, "last", b"last").await?;
        fetch(&fs, &[last]).await?;
        ensure_same("large", &read_whole(&fs, large_file).await?, &bytes)?;
        ensure!(read_whole(&fs, empty).await?.is_empty());
        let got = read_whole(&fs, overwritten).await?;
        ensure!(&got[..3] == b"new" && got[3..] == bytes[3..9_000]);
        ensure!(read_whole(&fs, damaged).await.is_err(), "damaged bytes are never given");
        Ok(())
    })
}

#[test]
fn guesses_that_nobody_uses_are_bounded() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let fs = session(&cluster, BLOCK).await?;
        let mut inodes = Vec::new();
        for number in 0..MAX_GUESSES + 40 {
            inodes.push(make(&fs, &format!("f{number:03}"), b"a small file").await?);
        }
        for batch in inodes.chunks(20) {
            let batch: Vec<InodeId> = batch.iter().map(|inode| InodeId(*inode)).collect();
            let guessed = fs.ahead_counts().guessed;
            // At most some batches are under way at a time.
            wait_until("there is room for a batch", PATIENCE, async || {
                fs.fetch_ahead(&root(), &batch);
                Ok(fs.ahead_counts().guessed > guessed)
            })
            .await?;
            ensure!(fs.ahead_counts().kept <= MAX_GUESSES as u64);
        }
        ensure!(fs.ahead_counts().unused >= 40, "{:?}", fs.ahead_counts());
        Ok(())
    })
}

/// One session changes files and closes them, another guesses, opens and reads; every read must give what was closed last.
#[test]
fn random_changes_and_guesses() -> Result<()> {
    run(async {
        const FILES: u64 = 6;
        let mut rng = Rng::new(seed_of_run("random_changes_and_guesses"));
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let (writer, reader) = (session(&cluster, BLOCK).await?, session(&cluster, BLOCK).await?);
        let mut files = BTreeMap::new();
        for number in 0..FILES {
            let bytes = pattern(number, 0, 5_000);
            files.insert(make(&writer, &format!("f{number}"), &bytes).await?, bytes);
        }
        let inodes: Vec<u64> = files.keys().copied().collect();
        for step in 0..150u64 {
            let inode = inodes[rng.index(inodes.len())];
            let bytes = files.get_mut(&inode).context("made")?;
            match rng.below(5) {
                0 | 1 => {
                    let guessed: Vec<InodeId> = inodes.iter().map(|inode| InodeId(*inode)).collect();
                    reader.fetch_ahead(&root(), &guessed);
                    if rng.chance(50) {
                        // What comes without being waited for meets the changes half way.
                        tokio::time::timeout(
                            Duration::from_millis(rng.below(20)),
                            std::future::pending::<()>(),
                        )
                        .await
                        .ok();
                    }
                }
                2 => {
                    let at = rng.below(bytes.len() as u64);
                    let piece = pattern(step, 0, 1 + rng.index(3_000));
                    let end = (at as usize + piece.len()).max(bytes.len());
                    bytes.resize(end, 0);
                    bytes[at as usize..at as usize + piece.len()].copy_from_slice(&piece);
                    change(&writer, inode, async |file| Ok(file.write_at(at, piece.into()).await?)).await?;
                }
                3 => {
                    let size = 1 + rng.below(8_000);
                    bytes.resize(size as usize, 0);
                    change(&writer, inode, async |file| Ok(file.set_len(size).await?)).await?;
                }
                _ => ensure_same(&format!("step {step}"), &read_whole(&reader, inode).await?, bytes)?,
            }
        }
        println!("{:?}", reader.ahead_counts());
        Ok(())
    })
}
