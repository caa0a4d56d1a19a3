//! No orphans: some time after the last fault every replica on a disk is one that the namenode counts.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dfs_tests::chaos::observation::{Found, Namespace};
use dfs_tests::chaos::quiet::Quiet;
use dfs_tests::wait::wait_until_blocking;

/// Longest that it may take: some full block reports, each of which finds what is left.
const WITHIN: Duration = Duration::from_secs(60);

/// Waits until the disks have nothing but what the namenode counts.
pub fn check(quiet: &Quiet<'_>) -> Result<()> {
    let began = Instant::now();
    let mut orphans = Vec::new();
    let gone = wait_until_blocking("there are no orphans", WITHIN, || {
        let Ok(namespace) = quiet.look_again() else { return Ok(false) };
        let known = known(&namespace);
        orphans = quiet.replicas()?;
        orphans.retain(|replica| !known.contains(&(replica.block, replica.stamp, replica.datanode.clone())));
        Ok(orphans.is_empty())
    });
    gone.with_context(|| format!("{orphans:?}"))?;
    quiet.events.note(format_args!("orphans were gone after {:?}", began.elapsed()));
    Ok(())
}

/// Block, stamp and datanode of all replicas that the namenode counts.
fn known(namespace: &Namespace) -> BTreeSet<(u64, u64, String)> {
    let mut known = BTreeSet::new();
    for found in namespace.values() {
        let Found::File(file) = found else { continue };
        for located in &file.blocks {
            let Some(block) = located.block else { continue };
            for datanode in located.locations.iter().filter_map(|location| location.datanode.as_ref()) {
                known.insert((block.id, block.generation_stamp, datanode.hostname.clone()));
            }
        }
    }
    known
}
