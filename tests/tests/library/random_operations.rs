//! Random operations through the client library, compared with the reference model after every step.
//! `DFS_TEST_SEED` replays a run; `DFS_TEST_STEPS` makes it longer.

use std::time::Duration;

use anyhow::{Context, Result};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::{run, run_within};
use dfs_tests::model::Model;
use dfs_tests::rng::seed_of_run;
use dfs_tests::workload::{Workload, compare_contents, compare_trees, step};

const BLOCK: u64 = 16 << 10;

/// Steps of a run unless `DFS_TEST_STEPS` says otherwise.
const STEPS: usize = 1_000;

/// Steps between two restarts.
const RESTART_EVERY: usize = 40;

fn steps() -> usize {
    std::env::var("DFS_TEST_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(STEPS)
}

#[test]
fn a_quiet_cluster_behaves_like_the_model() -> Result<()> {
    let seed = seed_of_run("a_quiet_cluster_behaves_like_the_model");
    run(async {
        let cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let (mut model, mut workload) = (Model::default(), Workload::new(seed, BLOCK, 3));
        for number in 0..steps() {
            let operation = workload.next_operation(&model);
            step(&client, &mut model, &operation)
                .await
                .with_context(|| format!("seed {seed}, step {number}: {operation:?}"))?;
        }
        compare_contents(&client, &model).await.with_context(|| format!("seed {seed}, at the end"))
    })
}

#[test]
fn a_cluster_under_restarts_behaves_like_the_model() -> Result<()> {
    let seed = seed_of_run("a_cluster_under_restarts_behaves_like_the_model");
    run_within(Duration::from_secs(400), async {
        let mut cluster = MiniCluster::builder().datanodes(4).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let (mut model, mut workload) = (Model::default(), Workload::new(seed, BLOCK, 3));
        for number in 0..steps() / 2 {
            let context = |what: &str| format!("seed {seed}, step {number}: {what}");
            if number % RESTART_EVERY == RESTART_EVERY / 2 {
                match number / RESTART_EVERY % 3 {
                    0 => cluster.restart_namenode().await?,
                    1 => {
                        let index = number / RESTART_EVERY % cluster.datanode_count();
                        cluster.kill_datanode(index).await;
                        cluster.start_datanode(index).await?;
                    }
                    _ => cluster.restart_everything().await?,
                }
                compare_trees(&client, &model).await.with_context(|| context("after a restart"))?;
                compare_contents(&client, &model).await.with_context(|| context("after a restart"))?;
            }
            let operation = workload.next_operation(&model);
            step(&client, &mut model, &operation)
                .await
                .with_context(|| context(&format!("{operation:?}")))?;
        }
        compare_contents(&client, &model).await.with_context(|| format!("seed {seed}, at the end"))
    })
}
