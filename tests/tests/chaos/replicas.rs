//! Replica counts converge: some time after the last fault every block has as many replicas as its file wants, all of them
//! with the right bytes on their disks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_tests::chaos::observation::{Found, FoundFile, Namespace, Replica};
use dfs_tests::chaos::quiet::Quiet;
use dfs_tests::wait::wait_until_blocking;

/// Longest that it may take; some blocks of a few hundred KiB are missing.
const WITHIN: Duration = Duration::from_secs(60);

/// Waits for the counts, then compares bytes.
pub fn check(quiet: &Quiet<'_>) -> Result<()> {
    let began = Instant::now();
    let mut last = String::new();
    let converged = wait_until_blocking("all blocks have their replicas", WITHIN, || {
        last = match quiet.look_again() {
            Ok(namespace) => difference(quiet, &namespace),
            Err(error) => format!("{error:#}"),
        };
        Ok(last.is_empty())
    });
    converged.with_context(|| last.clone())?;
    quiet.events.note(format_args!("replicas were complete after {:?}", began.elapsed()));
    // A replica that has just been copied is reported before its file is found, and the other way round.
    let mut last = None;
    let same = wait_until_blocking("all replicas have the right bytes", WITHIN, || {
        last = same_bytes(quiet).err();
        Ok(last.is_none())
    });
    match (same, last) {
        (Ok(()), _) => Ok(()),
        (Err(late), Some(error)) => Err(error.context(late)),
        (Err(late), None) => Err(late),
    }
}

/// The first block whose replicas are not as wanted; empty if there is none.
fn difference(quiet: &Quiet<'_>, namespace: &Namespace) -> String {
    for (path, file) in files(namespace) {
        let wanted = usize::from(file.replication).min(quiet.volumes.len());
        for located in &file.blocks {
            if located.locations.len() != wanted || located.corrupt || located.corrupt_replicas > 0 {
                return format!("{path} wants {wanted} replicas: {located:?}");
            }
        }
    }
    String::new()
}

/// Every replica that the namenode knows is on its disk with its file's bytes, unless a byte of one was changed there
/// and nobody has looked since.
fn same_bytes(quiet: &Quiet<'_>) -> Result<()> {
    let replicas = quiet.replicas()?;
    let mut places: BTreeMap<(u64, &str), &Replica> = BTreeMap::new();
    for replica in &replicas {
        places.insert((replica.block, &replica.datanode), replica);
    }
    for (path, file) in files(&quiet.look_again()?) {
        for located in &file.blocks {
            let block = located.block.context("a block")?;
            let from = located.offset as usize;
            let wanted = file.content.get(from..from + block.length as usize);
            let wanted = wanted.with_context(|| format!("{path} has no bytes for {located:?}"))?;
            let mut wrong: Vec<&PathBuf> = Vec::new();
            for location in &located.locations {
                let datanode = &location.datanode.as_ref().context("a datanode")?.hostname;
                let replica = places
                    .get(&(block.id, datanode.as_str()))
                    .with_context(|| format!("blk_{} of {path} is not on {datanode}", block.id))?;
                ensure!(
                    replica.stamp == block.generation_stamp,
                    "{} has stamp {} and not {}",
                    replica.data.display(),
                    replica.stamp,
                    block.generation_stamp
                );
                // A mount's truncation leaves the rest of the last block on the disks until that is written again.
                if !std::fs::read(&replica.data)?.starts_with(wanted) {
                    wrong.push(&replica.data);
                }
            }
            let unseen = usize::from(quiet.damaged.contains(&block.id));
            ensure!(wrong.len() <= unseen, "{path}: other bytes in {wrong:?}");
        }
    }
    Ok(())
}

fn files(namespace: &Namespace) -> impl Iterator<Item = (&String, &FoundFile)> {
    namespace.iter().filter_map(|(path, found)| match found {
        Found::File(file) => Some((path, file)),
        Found::Directory => None,
    })
}
