//! Decommission, maintenance, the bandwidth of repair, and changes of replication, on real servers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_client::{AdminState, DatanodeReport, DfsClient};
use dfs_proto::ErrorKind;
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::{read_all, write_file};

use super::ensure_error;

const BLOCK: u64 = 256 << 10;
const HOUR: Duration = Duration::from_secs(3_600);

/// The datanode as `set_datanode_admin` can name it.
fn name(cluster: &MiniCluster, index: usize) -> Result<String> {
    Ok(cluster.xfer_addr(index)?.to_string())
}

async fn row(cluster: &MiniCluster, client: &DfsClient, index: usize) -> Result<DatanodeReport> {
    for row in client.datanodes().await? {
        let uuid = row.info.as_ref().map(|info| info.uuid.clone()).unwrap_or_default();
        if cluster.datanode_index(&uuid).ok() == Some(index) {
            return Ok(row);
        }
    }
    anyhow::bail!("datanode {index} is not known")
}

async fn wait_until_done(cluster: &MiniCluster, client: &DfsClient, index: usize) -> Result<()> {
    wait_until("nothing depends on the datanode", PATIENCE, async || {
        Ok(row(cluster, client, index).await?.admin.is_some_and(|admin| admin.done))
    })
    .await
}

/// Replicas of each block on other datanodes than `index`.
async fn others(cluster: &MiniCluster, path: &str, index: usize) -> Result<Vec<usize>> {
    let mut counts = Vec::new();
    for block in 0..cluster.blocks(path).await?.len() {
        let holders = cluster.located_on(path, block).await?;
        counts.push(holders.into_iter().filter(|holder| *holder != index).count());
    }
    Ok(counts)
}

#[test]
fn a_decommissioned_datanode_can_be_stopped_and_nothing_is_lost() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(4).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let bytes = pattern(7, 0, 6 * BLOCK as usize);
        write_file(&client, "/f", &bytes).await?;
        cluster.wait_for_replication("/f", 3).await?;
        let leaving = cluster.located_on("/f", 0).await?[0];
        let ordered = name(&cluster, leaving)?;
        client.set_datanode_admin(&ordered, AdminState::Decommission, Duration::ZERO).await?;
        // The order is in the namespace: it holds for the next namenode.
        cluster.restart_namenode().await?;
        cluster.wait_for_live_datanodes(4).await?;
        let client = cluster.client().await?;
        write_file(&client, "/later", &bytes).await?;
        for block in 0..6 {
            ensure!(!cluster.located_on("/later", block).await?.contains(&leaving), "a new block went there");
        }
        wait_until_done(&cluster, &client, leaving).await?;
        ensure!(others(&cluster, "/f", leaving).await?.iter().all(|count| *count == 3), "not drained");
        cluster.kill_datanode(leaving).await;
        ensure_same("/f", &read_all(&client, "/f").await?, &bytes)?;
        wait_until("the datanode is dead, as expected", PATIENCE, async || {
            let stats = client.stats().await?;
            Ok((stats.dead_datanodes, stats.expected_dead_datanodes) == (1, 1))
        })
        .await?;
        let stats = client.stats().await?;
        ensure!(stats.under_replicated_blocks == 0 && stats.missing_blocks == 0, "{stats:?}");
        Ok(())
    })
}

#[test]
fn a_dead_datanode_is_removed_for_good_until_it_comes_back() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(4).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        write_file(&client, "/f", &pattern(9, 0, BLOCK as usize)).await?;
        let gone = cluster.located_on("/f", 0).await?[0];
        let named = name(&cluster, gone)?;
        ensure_error(client.remove_datanode(&named).await, ErrorKind::InvalidArgument, &named)?;
        client.set_datanode_admin(&named, AdminState::Decommission, Duration::ZERO).await?;
        wait_until_done(&cluster, &client, gone).await?;
        cluster.kill_datanode(gone).await;
        wait_until("the datanode is removed", PATIENCE, async || {
            Ok(client.remove_datanode(&named).await.is_ok())
        })
        .await?;
        ensure!(client.datanodes().await?.len() == 3, "it is listed");
        cluster.restart_namenode().await?;
        cluster.wait_for_live_datanodes(3).await?;
        let client = cluster.client().await?;
        let stats = client.stats().await?;
        ensure!(
            stats.dead_datanodes == 0 && client.datanodes().await?.len() == 3,
            "it is remembered: {stats:?}"
        );
        cluster.start_datanode(gone).await?;
        cluster.wait_for_live_datanodes(4).await?;
        let stats = client.stats().await?;
        ensure!(stats.decommissioning_datanodes + stats.decommissioned_datanodes == 0, "it is a new one");
        Ok(())
    })
}

#[test]
fn a_datanode_that_is_taken_back_is_used_again_and_excess_replicas_go() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(4).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        write_file(&client, "/f", &pattern(8, 0, 3 * BLOCK as usize)).await?;
        cluster.wait_for_replication("/f", 3).await?;
        let leaving = cluster.located_on("/f", 0).await?[0];
        let ordered = name(&cluster, leaving)?;
        client.set_datanode_admin(&ordered, AdminState::Decommission, Duration::ZERO).await?;
        wait_until_done(&cluster, &client, leaving).await?;
        ensure!(cluster.blocks("/f").await?[0].locations.len() == 4, "what it has stays to be read");
        client.set_datanode_admin(&ordered, AdminState::Normal, Duration::ZERO).await?;
        cluster.wait_for_replication("/f", 3).await?;
        ensure!(row(&cluster, &client, leaving).await?.admin.is_some_and(|admin| !admin.done));
        Ok(())
    })
}

#[test]
fn a_cluster_that_is_too_small_to_drain_tells_so() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        write_file(&client, "/f", &pattern(9, 0, 2 * BLOCK as usize)).await?;
        cluster.wait_for_replication("/f", 3).await?;
        client.set_datanode_admin(&name(&cluster, 0)?, AdminState::Decommission, Duration::ZERO).await?;
        wait_until("it is told that nothing can go anywhere", PATIENCE, async || {
            let admin = row(&cluster, &client, 0).await?.admin.context("progress")?;
            ensure!(!admin.done);
            Ok((admin.blocks_left, admin.blocks_stuck) == (2, 2))
        })
        .await?;
        cluster.grow().await?;
        wait_until_done(&cluster, &client, 0).await
    })
}

#[test]
fn a_datanode_in_maintenance_is_not_replaced_before_its_time_is_over() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(4).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        write_file(&client, "/f", &pattern(10, 0, 3 * BLOCK as usize)).await?;
        cluster.wait_for_replication("/f", 3).await?;
        let away = cluster.located_on("/f", 0).await?[0];
        let ordered = name(&cluster, away)?;
        client.set_datanode_admin(&ordered, AdminState::Maintenance, HOUR).await?;
        wait_until_done(&cluster, &client, away).await?;
        cluster.kill_datanode(away).await;
        wait_until("it is dead", PATIENCE, async || Ok(client.stats().await?.dead_datanodes == 1)).await?;
        let copied = client.stats().await?.copied_blocks;
        // Blocks that lack replicas would be in a queue at once.
        let stats = client.stats().await?;
        ensure!(stats.under_replicated_blocks == 0 && stats.expected_dead_datanodes == 1, "{stats:?}");
        // Its end: the same as if the time had passed.
        let uuid = row(&cluster, &client, away).await?.info.context("info")?.uuid;
        client.set_datanode_admin(&uuid, AdminState::Maintenance, Duration::from_secs(1)).await?;
        wait_until("what it had is copied", PATIENCE, async || {
            let stats = client.stats().await?;
            Ok(stats.copied_blocks > copied && stats.under_replicated_blocks == 0)
        })
        .await?;
        ensure!(others(&cluster, "/f", away).await?.iter().all(|count| *count == 3));
        Ok(())
    })
}

#[test]
fn only_superusers_administer_and_names_must_mean_one_datanode() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().start().await?;
        let (client, ann) = (cluster.client().await?, cluster.client_of("ann").await?);
        let node = name(&cluster, 0)?;
        let order = AdminState::Decommission;
        let refused = ann.set_datanode_admin(&node, order, Duration::ZERO).await;
        ensure_error(refused, ErrorKind::NotPermitted, &node)?;
        ensure_error(ann.set_repair_bandwidth(Some(1)).await, ErrorKind::NotPermitted, "repair bandwidth")?;
        ensure!(ann.repair_bandwidth().await?.is_none(), "anybody may look");
        for (name, part) in [("nowhere", "no such datanode"), ("127.0.0.1", "several datanodes")] {
            let error = client.set_datanode_admin(name, order, Duration::ZERO).await.expect_err(name);
            ensure!(error.to_string().contains(part), "{error}");
        }
        let forever = client.set_datanode_admin(&node, AdminState::Maintenance, 10_000 * HOUR).await;
        ensure_error(forever, ErrorKind::InvalidArgument, &node)
    })
}

#[test]
fn the_bandwidth_of_repair_holds_across_a_restart() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().start().await?;
        cluster.client().await?.set_repair_bandwidth(Some(5 << 20)).await?;
        cluster.restart_namenode().await?;
        let client = cluster.client().await?;
        ensure!(client.repair_bandwidth().await? == Some(5 << 20));
        client.set_repair_bandwidth(None).await?;
        ensure!(client.repair_bandwidth().await?.is_none());
        Ok(())
    })
}

#[test]
fn replication_goes_up_and_down() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(4).block_size(BLOCK).start().await?;
        let client = cluster.client().await?;
        let bytes = pattern(11, 0, 3 * BLOCK as usize + 5);
        write_file(&client, "/f", &bytes).await?;
        for count in [3, 4, 1, 2, 4, 3] {
            client.set_replication("/f", count).await?;
            cluster.wait_for_replication("/f", count.into()).await?;
            ensure_same("/f", &read_all(&client, "/f").await?, &bytes)?;
        }
        Ok(())
    })
}
