//! Reading anywhere: positioned reads, seeks, and reads past the end.

use std::io::SeekFrom;

use anyhow::Result;
use dfs_proto::ErrorKind;
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::rng::{Rng, seed_of_run};
use dfs_tests::workload::write_file;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::ensure_error;

const BLOCK: u64 = 64 << 10;
const LEN: u64 = 3 * BLOCK + 1234;

#[test]
fn positioned_reads_answer_exactly_what_is_there() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let bytes = pattern(1, 0, LEN as usize);
        write_file(&client, "/f", &bytes).await?;
        let reader = client.open("/f").await?;
        assert_eq!(reader.len(), LEN);

        let mut rng = Rng::new(seed_of_run("positioned_reads_answer_exactly_what_is_there"));
        let edges = [0, 1, 4095, 4096, BLOCK - 1, BLOCK, BLOCK + 1, LEN - 1, LEN, LEN + 1, 10 * LEN];
        for round in 0..150 {
            let offset = if round < edges.len() { edges[round] } else { rng.below(LEN + 100) };
            let wanted = [1, 4096, 10_000, 2 * BLOCK as usize + 5][rng.index(4)];
            let mut buffer = vec![0u8; wanted];
            let read = reader.read_at(offset, &mut buffer).await?;
            let start = offset.min(LEN) as usize;
            let expected = &bytes[start..(start + wanted).min(bytes.len())];
            ensure_same(&format!("{wanted} at {offset}"), &buffer[..read], expected)?;
        }
        Ok(())
    })
}

#[test]
fn positioned_reads_share_a_reader() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let bytes = pattern(2, 0, LEN as usize);
        write_file(&client, "/f", &bytes).await?;
        let reader = client.open("/f").await?;
        let reads = (0..16u64).map(|number| {
            let (reader, bytes) = (&reader, &bytes);
            async move {
                let offset = number * 12_345;
                let mut buffer = vec![0u8; 5_000];
                let read = reader.read_at(offset, &mut buffer).await?;
                let expected = &bytes[offset as usize..(offset as usize + 5_000).min(bytes.len())];
                ensure_same(&format!("at {offset}"), &buffer[..read], expected)
            }
        });
        for outcome in futures::future::join_all(reads).await {
            outcome?;
        }
        Ok(())
    })
}

#[test]
fn seeks_move_the_sequential_position() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let bytes = pattern(3, 0, LEN as usize);
        write_file(&client, "/f", &bytes).await?;
        let mut reader = client.open("/f").await?;
        let mut buffer = vec![0u8; 100];

        for (seek, position) in [
            (SeekFrom::Start(BLOCK - 50), BLOCK - 50),
            (SeekFrom::Current(-100), BLOCK - 50),
            (SeekFrom::End(-100), LEN - 100),
            (SeekFrom::Start(0), 0),
            (SeekFrom::Start(2 * BLOCK), 2 * BLOCK),
        ] {
            assert_eq!(reader.seek(seek).await?, position, "{seek:?}");
            reader.read_exact(&mut buffer).await?;
            ensure_same(&format!("after {seek:?}"), &buffer, &bytes[position as usize..][..100])?;
        }
        reader.seek(SeekFrom::Start(LEN + 5)).await?;
        assert_eq!(reader.read(&mut buffer).await?, 0, "past the end there is nothing");
        assert!(reader.seek(SeekFrom::Start(0)).await.is_ok());
        assert!(reader.seek(SeekFrom::Current(-1)).await.is_err(), "before the start is an error");
        let mut all = Vec::new();
        reader.seek(SeekFrom::Start(7)).await?;
        reader.read_to_end(&mut all).await?;
        ensure_same("from 7", &all, &bytes[7..])
    })
}

#[test]
fn opening_what_is_no_file_is_refused() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let client = cluster.client().await?;
        client.mkdir("/dir", Default::default()).await?;
        ensure_error(client.open("/none").await.map(drop), ErrorKind::NotFound, "/none")?;
        ensure_error(client.open("/dir").await.map(drop), ErrorKind::IsADirectory, "/dir")?;
        write_file(&client, "/empty", b"").await?;
        let mut reader = client.open("/empty").await?;
        let mut buffer = [0u8; 10];
        assert_eq!(reader.read_at(0, &mut buffer).await?, 0);
        assert_eq!(reader.read(&mut buffer).await?, 0);
        Ok(())
    })
}
