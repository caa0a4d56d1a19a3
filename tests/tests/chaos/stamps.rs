//! Generation stamps never go back: no block of the namespace has a lower one than was ever seen of it, on any disk or in the
//! namespace before.

use anyhow::{Result, ensure};
use dfs_tests::chaos::observation::Found;
use dfs_tests::chaos::quiet::Quiet;

/// Compares the namespace with what was seen.
pub fn check(quiet: &Quiet<'_>) -> Result<()> {
    for (path, found) in &quiet.namespace {
        let Found::File(file) = found else { continue };
        for block in file.blocks.iter().filter_map(|located| located.block) {
            let seen = quiet.stamps.get(&block.id).copied().unwrap_or(0);
            ensure!(
                block.generation_stamp >= seen,
                "blk_{} of {path} has stamp {}, and {seen} was seen before",
                block.id,
                block.generation_stamp
            );
        }
    }
    Ok(())
}
