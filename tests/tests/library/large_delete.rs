//! Deleting a large tree must not make other calls wait.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dfs_client::DfsClient;
use dfs_proto::ErrorKind;
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::wait::{PATIENCE, wait_until};

const DIRECTORIES: usize = 40;
const ENTRIES_EACH: usize = 500;

/// Longest that any other call may take meanwhile. Freeing 20,000 entries in one go takes many times as
/// long as one of its portions in an unoptimised build on two busy cores.
const LONGEST_CALL: Duration = Duration::from_millis(1_500);

/// A machine that stands still for a moment makes a call slow, too, but hardly in every attempt.
const ATTEMPTS: usize = 3;

#[test]
fn deleting_a_large_tree_does_not_stall_other_calls() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let client = cluster.client().await?;
        let mut slowest = Vec::new();
        for attempt in 0..ATTEMPTS {
            slowest.push(slowest_call(&client, &format!("/other{attempt}")).await?);
            if slowest[attempt] < LONGEST_CALL {
                return Ok(());
            }
        }
        bail!("while a tree was freed a call took, in every attempt: {slowest:?}")
    })
}

/// Makes a large tree, deletes it, and works in directory `other` until it is freed: the time of the
/// slowest call.
async fn slowest_call(client: &DfsClient, other: &str) -> Result<Duration> {
    client.mkdir("/big", Default::default()).await?;
    client.mkdir(other, Default::default()).await?;
    for directory in 0..DIRECTORIES {
        client.mkdir(&format!("/big/{directory}"), Default::default()).await?;
        let made = futures::future::join_all((0..ENTRIES_EACH).map(|entry| async move {
            client.mkdir(&format!("/big/{directory}/{entry}"), Default::default()).await
        }));
        made.await.into_iter().collect::<Result<Vec<_>, _>>()?;
    }
    let full = client.stats().await?.inodes;
    let large = (DIRECTORIES * ENTRIES_EACH + DIRECTORIES + 1) as u64;
    ensure!(full > large, "{full} inodes");

    let start = Instant::now();
    assert!(client.delete("/big", true).await?);
    let unlinked = start.elapsed();
    crate::ensure_error(client.stat("/big/0").await, ErrorKind::NotFound, "/big")?;
    let mut slowest = unlinked;
    let mut call = 0;
    wait_until("the tree is freed", PATIENCE, async || {
        for _ in 0..10 {
            let start = Instant::now();
            client.mkdir(&format!("{other}/{call}"), Default::default()).await?;
            client.list(other).await?;
            slowest = slowest.max(start.elapsed());
            call += 1;
        }
        Ok(client.stats().await?.inodes <= full - large + call)
    })
    .await
    .context("freeing")?;
    println!("unlinked in {unlinked:?}, slowest call {slowest:?}, {call} calls meanwhile");
    Ok(slowest)
}
