//! Hostile input on every port of the real servers: they go on working, and they do not grow.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use dfs_tests::hostile::{bombard, volley};
use dfs_tests::programs::{Footprint, LocalCluster, run};
use dfs_tests::rng::seed_of_run;
use dfs_tests::wait::{PATIENCE, wait_until};

/// Memory that a server may gain over three volleys: a leak of one largest message a salvo would be a
/// multiple of it.
const ALLOWED_GROWTH_KIB: u64 = 24 << 10;

/// Descriptors and threads by which a quiet server may differ from before.
const ALLOWED_MORE: usize = 6;

async fn still_works(cluster: &LocalCluster, name: &str) -> Result<()> {
    cluster.dfs_with_input(&["put", "-", name], b"still here").await?.ok()?;
    assert_eq!(cluster.dfs(&["cat", name]).await?.ok()?.text(), "still here");
    Ok(())
}

fn footprints(cluster: &LocalCluster) -> Result<BTreeMap<String, Footprint>> {
    cluster.processes()?.into_iter().map(|(name, pid)| Ok((name, Footprint::of(pid)?))).collect()
}

#[test]
fn servers_survive_hostile_input_and_do_not_grow() -> Result<()> {
    run(async {
        let seed = seed_of_run("servers_survive_hostile_input_and_do_not_grow");
        let cluster = LocalCluster::start(&["--datanodes", "2"]).await?;
        let pids = cluster.processes()?;
        // The first volley fills buffers and arenas that stay.
        bombard(cluster.ports()?, &volley(seed)).await?;
        still_works(&cluster, "/before").await?;
        let before = footprints(&cluster)?;
        for round in 1..=3 {
            bombard(cluster.ports()?, &volley(seed + round)).await?;
        }
        still_works(&cluster, "/after").await?;
        assert_eq!(cluster.processes()?, pids, "no server has died");
        wait_until("descriptors and threads are back", PATIENCE, async || {
            let now = footprints(&cluster)?;
            Ok(before.iter().all(|(name, was)| {
                now[name].descriptors <= was.descriptors + ALLOWED_MORE
                    && now[name].threads <= was.threads + ALLOWED_MORE
            }))
        })
        .await
        .with_context(|| format!("before {before:?}, now {:?}", footprints(&cluster)))?;
        for (name, now) in footprints(&cluster)? {
            let was = before[&name];
            println!("{name}: {was:?} -> {now:?}");
            let allowed = was.resident_kib + ALLOWED_GROWTH_KIB;
            ensure!(now.resident_kib <= allowed, "{name} grew from {was:?} to {now:?}");
        }
        Ok(())
    })
}

#[test]
fn a_client_at_a_wrong_port_gets_one_line_and_exit_code_1() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&["--datanodes", "1"]).await?;
        for (name, address) in cluster.ports()? {
            if name == "namenode rpc" {
                continue;
            }
            let address = address.to_string();
            let failed = cluster.dfs(&["--namenode", &address, "ls", "/"]).await?;
            ensure!(failed.code == Some(1) && failed.stdout.is_empty(), "{name}: {failed:?}");
            ensure!(failed.stderr.lines().count() == 1, "{name}: {}", failed.stderr);
            ensure!(failed.stderr.contains(&address), "{name}: {}", failed.stderr);
        }
        for address in ["127.0.0.1:1", "no-such-host.invalid:9820"] {
            let failed = cluster.dfs(&["--namenode", address, "ls", "/"]).await?;
            ensure!(failed.code == Some(1) && failed.stderr.lines().count() == 1, "{failed:?}");
            ensure!(failed.stderr.contains(address), "{}", failed.stderr);
        }
        still_works(&cluster, "/f").await
    })
}
