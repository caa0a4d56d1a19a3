//! A namenode's disk whose syncs fail.

use anyhow::{Context, Result, ensure};
use dfs_client::{DfsClient, MkdirOptions, RetryPolicy};
use dfs_namenode::{Namenode, NamenodeConfig};
use dfs_tests::cluster::{MiniCluster, SUPERUSER};
use dfs_tests::harness::run;
use dfs_tests::small_disk::FailingDisk;
use std::time::Duration;

#[test]
fn a_failed_sync_stops_the_namenode_and_names_the_file() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(0).start().await?;
        cluster.kill_namenode().await;
        let Some(disk) = FailingDisk::mount()? else { return Ok(()) };
        let dir = disk.path().join("namenode");
        let config = NamenodeConfig { dir: dir.clone(), ..cluster.namenode_config() };
        let namenode = Namenode::start(config).await?;
        let retry = RetryPolicy { deadline: Duration::from_millis(500), ..RetryPolicy::default() };
        let client = DfsClient::builder()
            .namenode(namenode.rpc_addr().to_string())
            .user(SUPERUSER)
            .retry(retry)
            .connect()
            .await?;
        client.mkdir("/before", MkdirOptions::default()).await?;
        disk.fail()?;
        let mut acknowledged = 0;
        let refused = loop {
            match client.mkdir(&format!("/d{acknowledged}"), MkdirOptions::default()).await {
                Ok(_) => acknowledged += 1,
                Err(error) => break error,
            }
            ensure!(acknowledged < 100_000, "nothing fails");
        };
        let failure = tokio::time::timeout(Duration::from_secs(20), namenode.failed());
        let failure = failure.await.context("the namenode notices")?.to_string();
        println!("{acknowledged} were acknowledged; a client is told: {refused}; the namenode: {failure}");
        ensure!(failure.contains(&dir.display().to_string()), "{failure}");
        ensure!(
            ["sync", "write", "reserve", "create", "rename"].iter().any(|what| failure.contains(what)),
            "{failure}"
        );
        // Nothing is acknowledged any more.
        ensure!(client.mkdir("/after", MkdirOptions::default()).await.is_err());
        Ok(())
    })
}
