//! No acknowledged byte is lost or changed: every file reads as what was acknowledged, or as that and a part of what was
//! not.

use anyhow::{Context, Result};
use dfs_tests::chaos::observation::Found;
use dfs_tests::chaos::quiet::Quiet;

/// Compares all contents, as a client reads them.
pub fn check(quiet: &Quiet<'_>) -> Result<()> {
    for (path, wanted) in &quiet.wanted {
        if let (Some(Found::File(file)), Some(contents)) = (quiet.namespace.get(path), &wanted.contents) {
            contents.accept(&file.content).with_context(|| path.clone())?;
        }
    }
    Ok(())
}
