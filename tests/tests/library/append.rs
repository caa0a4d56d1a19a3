//! Append and truncate at every edge.

use anyhow::Result;
use dfs_client::CreateOptions;
use dfs_proto::ErrorKind;
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::{Content, ensure_same, pattern};
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::{read_all, write_file};
use tokio::io::AsyncWriteExt;

use crate::ensure_error;

const CHUNK: u64 = 4096;
const BLOCK: u64 = 4 * CHUNK;

#[test]
fn appends_continue_at_any_offset() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        for start in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK] {
            for more in [0, 1, CHUNK - 1, CHUNK, BLOCK, 2 * BLOCK + 7] {
                let path = format!("/append-{start}-{more}");
                let mut content = Content::new(start, start);
                write_file(&client, &path, &content.bytes()).await?;
                let mut writer = client.append(&path).await?;
                assert_eq!(writer.pos(), start);
                writer.write_all(&pattern(99, 0, more as usize)).await?;
                writer.close().await?;
                content.append(99, more);
                ensure_same(&path, &read_all(&client, &path).await?, &content.bytes())?;
                assert_eq!(client.stat(&path).await?.size, content.len());
            }
        }
        Ok(())
    })
}

#[test]
fn many_small_appends_add_up() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let mut content = Content::new(0, 10);
        write_file(&client, "/log", &content.bytes()).await?;
        for record in 1..40 {
            let len = record * 37;
            let mut writer = client.append("/log").await?;
            writer.write_all(&pattern(record, 0, len as usize)).await?;
            writer.close().await?;
            content.append(record, len);
        }
        ensure_same("/log", &read_all(&client, "/log").await?, &content.bytes())?;
        cluster.wait_for_replication("/log", 3).await
    })
}

#[test]
fn truncate_cuts_at_any_length_and_appends_go_on_there() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let full = 3 * BLOCK + 100;
        for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, full - 1, full]
        {
            let path = format!("/truncate-{len}");
            let mut content = Content::new(len, full);
            write_file(&client, &path, &content.bytes()).await?;
            let done = client.truncate(&path, len).await?;
            assert!(done || !len.is_multiple_of(BLOCK), "a cut at a block edge is done at once ({len})");
            wait_until(&format!("{path} is closed"), PATIENCE, async || {
                Ok(!client.stat(&path).await?.under_construction)
            })
            .await?;
            content.truncate(len);
            assert_eq!(client.stat(&path).await?.size, len);
            ensure_same(&path, &read_all(&client, &path).await?, &content.bytes())?;

            let mut writer = client.append(&path).await?;
            writer.write_all(&pattern(5, 0, 5_000)).await?;
            writer.close().await?;
            content.append(5, 5_000);
            ensure_same(&path, &read_all(&client, &path).await?, &content.bytes())?;
        }
        ensure_error(client.truncate("/truncate-0", 1 << 40).await, ErrorKind::InvalidArgument, "/truncate-0")
    })
}

#[test]
fn append_to_what_is_no_file_is_refused() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let client = cluster.client().await?;
        client.mkdir("/dir", Default::default()).await?;
        ensure_error(client.append("/none").await.map(drop), ErrorKind::NotFound, "/none")?;
        ensure_error(client.append("/dir").await.map(drop), ErrorKind::IsADirectory, "/dir")?;
        ensure_error(client.truncate("/none", 0).await, ErrorKind::NotFound, "/none")?;
        ensure_error(client.truncate("/dir", 0).await, ErrorKind::IsADirectory, "/dir")?;
        let mut writer = client.create("/open", CreateOptions::default()).await?;
        writer.write_all(b"x").await?;
        let other = cluster.client().await?;
        ensure_error(other.append("/open").await.map(drop), ErrorKind::LeaseHeldByOther, "/open")?;
        ensure_error(other.truncate("/open", 0).await, ErrorKind::LeaseHeldByOther, "/open")?;
        writer.close().await?;
        Ok(())
    })
}
