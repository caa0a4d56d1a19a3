//! Files of every size at which something changes: checksum chunks, packets, blocks.

use anyhow::Result;
use dfs_client::CreateOptions;
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::workload::{read_all, write_file};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// One checksum chunk.
const CHUNK: u64 = 4096;
/// Data of one packet of our client.
const PACKET: u64 = 1 << 20;

/// `edge - 1`, `edge` and `edge + 1` of each edge.
fn around(edges: &[u64]) -> Vec<u64> {
    let mut sizes: Vec<u64> =
        edges.iter().flat_map(|edge| [edge.saturating_sub(1), *edge, edge + 1]).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

async fn round_trips(block_size: u64, sizes: &[u64]) -> Result<()> {
    let cluster = MiniCluster::builder().block_size(block_size).start().await?;
    let client = cluster.client().await?;
    for &size in sizes {
        let path = format!("/size-{size}");
        let bytes = pattern(size, 0, size as usize);
        write_file(&client, &path, &bytes).await?;
        assert_eq!(client.stat(&path).await?.size, size);
        ensure_same(&path, &read_all(&client, &path).await?, &bytes)?;
        let blocks = cluster.blocks(&path).await?;
        assert_eq!(blocks.len() as u64, size.div_ceil(block_size), "blocks of {path}");
    }
    Ok(())
}

#[test]
fn sizes_around_chunk_and_block_edges() -> Result<()> {
    let block = 16 * CHUNK;
    run(round_trips(block, &around(&[0, 512, CHUNK, 2 * CHUNK, block, block + CHUNK, 2 * block, 3 * block])))
}

#[test]
fn sizes_around_packet_edges() -> Result<()> {
    run(round_trips(4 * PACKET, &around(&[64 << 10, PACKET, 2 * PACKET, 4 * PACKET, 5 * PACKET])))
}

#[test]
fn a_block_of_one_chunk_is_a_block() -> Result<()> {
    run(round_trips(CHUNK, &around(&[CHUNK, 2 * CHUNK, 9 * CHUNK])))
}

#[test]
fn content_does_not_depend_on_how_it_is_written() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(256 << 10).start().await?;
        let client = cluster.client().await?;
        let bytes = pattern(1, 0, 600_000);
        for step in [1_000, 4_096, 65_537, 300_000] {
            let path = format!("/by-{step}");
            let mut writer = client.create(&path, CreateOptions::default()).await?;
            for piece in bytes.chunks(step) {
                writer.write_all(piece).await?;
            }
            assert_eq!(writer.pos(), bytes.len() as u64);
            writer.close().await?;
            ensure_same(&path, &read_all(&client, &path).await?, &bytes)?;

            // The other way to read: AsyncRead with a buffer of the same odd size.
            let mut reader = client.open(&path).await?;
            let mut got = Vec::new();
            let mut buffer = vec![0u8; step];
            loop {
                let read = reader.read(&mut buffer).await?;
                if read == 0 {
                    break;
                }
                got.extend_from_slice(&buffer[..read]);
            }
            ensure_same(&path, &got, &bytes)?;
        }
        Ok(())
    })
}

#[test]
fn many_files_are_written_and_read_at_once() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(64 << 10).start().await?;
        let client = cluster.client().await?;
        let tasks = (0..24u64).map(|number| {
            let client = client.clone();
            async move {
                let path = format!("/dir{}/file{number}", number % 4);
                let bytes = pattern(number, 0, 10_000 * number as usize);
                write_file(&client, &path, &bytes).await?;
                ensure_same(&path, &read_all(&client, &path).await?, &bytes)
            }
        });
        for outcome in futures::future::join_all(tasks).await {
            outcome?;
        }
        Ok(())
    })
}
