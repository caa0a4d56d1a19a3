//! Deleting a large tree must not make other calls wait.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_proto::ErrorKind;
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::wait::{PATIENCE, wait_until};

const DIRECTORIES: usize = 40;
const ENTRIES_EACH: usize = 500;

/// Longest that any other call may take meanwhile. Freeing 20,000 entries in one go takes many times as
/// long as one of its portions in an unoptimised build on two busy cores.
const LONGEST_CALL: Duration = Duration::from_millis(1_500);

#[test]
fn deleting_a_large_tree_does_not_stall_other_calls() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let client = cluster.client().await?;
        client.mkdir("/big", Default::default()).await?;
        client.mkdir("/other", Default::default()).await?;
        for directory in 0..DIRECTORIES {
            client.mkdir(&format!("/big/{directory}"), Default::default()).await?;
            let made = futures::future::join_all((0..ENTRIES_EACH).map(|entry| {
                let client = &client;
                async move { client.mkdir(&format!("/big/{directory}/{entry}"), Default::default()).await }
            }));
            made.await.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
        let full = client.stats().await?.inodes;
        ensure!(full > (DIRECTORIES * ENTRIES_EACH) as u64, "{full} inodes");

        let start = Instant::now();
        assert!(client.delete("/big", true).await?);
        let unlinked = start.elapsed();
        crate::ensure_error(client.stat("/big/0").await, ErrorKind::NotFound, "/big")?;
        let mut slowest = unlinked;
        let mut call = 0;
        wait_until("the tree is freed", PATIENCE, async || {
            for _ in 0..10 {
                let start = Instant::now();
                client.mkdir(&format!("/other/{call}"), Default::default()).await?;
                client.list("/other").await?;
                slowest = slowest.max(start.elapsed());
                call += 1;
            }
            // Root, /other and what this loop has made.
            Ok(client.stats().await?.inodes <= 2 + call)
        })
        .await
        .context("freeing")?;
        println!("unlinked in {unlinked:?}, slowest call {slowest:?}, {call} calls meanwhile");
        ensure!(slowest < LONGEST_CALL, "a call took {slowest:?} while the tree was freed");
        Ok(())
    })
}
