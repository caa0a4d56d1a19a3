//! What readers see of a file that is being written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use dfs_client::CreateOptions;
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::workload::read_all;
use tokio::io::AsyncWriteExt;

const BLOCK: u64 = 64 << 10;

#[test]
fn flushed_bytes_are_visible_to_new_readers_and_more_comes_later() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let reader = cluster.client().await?;
        let bytes = pattern(1, 0, 3 * BLOCK as usize);
        let mut writer = client.create("/f", CreateOptions::default()).await?;
        let mut at = 0;
        for to in [1, 100, 4096, 5000, BLOCK as usize - 1, BLOCK as usize, BLOCK as usize + 1, bytes.len()] {
            writer.write_all(&bytes[at..to]).await?;
            writer.hflush().await?;
            at = to;
            let seen = read_all(&reader, "/f").await?;
            ensure!(seen.len() >= to, "a reader sees {} of {to} flushed bytes", seen.len());
            ensure_same("/f while open", &seen, &bytes[..seen.len()])?;
        }
        writer.close().await?;
        ensure_same("/f", &read_all(&reader, "/f").await?, &bytes)
    })
}

#[test]
fn a_reader_in_parallel_never_sees_less_than_was_flushed_nor_other_bytes() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let reader = cluster.client().await?;
        let total = 6 * BLOCK as usize;
        let bytes = Arc::new(pattern(2, 0, total));
        let flushed = Arc::new(AtomicU64::new(0));
        let mut writer = client.create("/f", CreateOptions::default()).await?;
        writer.hflush().await?;

        let watch = {
            let (bytes, flushed) = (bytes.clone(), flushed.clone());
            tokio::spawn(async move {
                let mut looks = 0;
                loop {
                    let least = flushed.load(Ordering::SeqCst) as usize;
                    let seen = read_all(&reader, "/f").await?;
                    ensure!(seen.len() >= least, "a reader sees {} of {least} flushed bytes", seen.len());
                    ensure_same("/f while written", &seen, &bytes[..seen.len()])?;
                    looks += 1;
                    if least == total {
                        return Ok(looks);
                    }
                }
            })
        };
        for piece in bytes.chunks(9_000) {
            writer.write_all(piece).await?;
            writer.hflush().await?;
            flushed.fetch_add(piece.len() as u64, Ordering::SeqCst);
        }
        writer.close().await?;
        let looks: usize = watch.await??;
        ensure!(looks > 1, "the reader looked {looks} times");
        Ok(())
    })
}

#[test]
fn hsync_records_the_length_at_the_namenode() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let mut writer = client.create("/f", CreateOptions::default()).await?;
        writer.write_all(&pattern(3, 0, 10_000)).await?;
        writer.hsync().await?;
        ensure_same("/f synced", &read_all(&client, "/f").await?, &pattern(3, 0, 10_000))?;
        writer.write_all(&pattern(3, 10_000, BLOCK as usize)).await?;
        writer.hsync().await?;
        let total = 10_000 + BLOCK as usize;
        ensure_same("/f synced", &read_all(&client, "/f").await?, &pattern(3, 0, total))?;
        writer.close().await?;
        assert_eq!(client.stat("/f").await?.size, total as u64);
        Ok(())
    })
}

#[test]
fn flushing_nothing_is_allowed_at_any_time() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let mut writer = client.create("/f", CreateOptions::default()).await?;
        writer.hflush().await?;
        writer.hsync().await?;
        writer.write_all(&pattern(4, 0, BLOCK as usize)).await?;
        for _ in 0..3 {
            writer.hflush().await?;
            writer.hsync().await?;
        }
        writer.close().await?;
        ensure_same("/f", &read_all(&client, "/f").await?, &pattern(4, 0, BLOCK as usize))
    })
}
