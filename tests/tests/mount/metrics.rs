//! What a mount counts, and mounts that answer no changes themselves.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::{wait_until, with_cluster};

use crate::sys::{get_xattr, list_xattrs};

/// A mount's metric.
pub fn metric(root: &Path, name: &str) -> Result<u64> {
    let text = String::from_utf8(get_xattr(root, "user.dfs.metrics")?)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("no {name} in {text}"))?.parse()?)
}

#[test]
fn delegations_are_counted_and_can_be_switched_off() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (one, two) = (cluster.mount(&[])?, cluster.mount(&["-o", "nodelegations"])?);
        fs::create_dir(one.path("d"))?;
        let mut made = 0;
        wait_until("changes are answered by the mount", || {
            made += 1;
            fs::write(one.path(format!("d/{made}")), "")?;
            Ok(metric(one.root(), "dfs_mount_changes_answered_total")? > 0)
        })?;
        wait_until("they are carried out", || {
            Ok(metric(one.root(), "dfs_mount_changes_queued")? == 0
                && metric(one.root(), "dfs_mount_change_batches_total")? > 0)
        })?;
        ensure!(metric(one.root(), "dfs_mount_delegations_granted_total")? > 0);
        ensure!(metric(one.root(), "dfs_mount_delegations_recalled_total")? == 0);
        // Somebody else wants the directory.
        let names = fs::read_dir(two.path("d"))?.count();
        ensure!(names == made, "{names} of {made} files are seen");
        ensure!(metric(one.root(), "dfs_mount_delegations_recalled_total")? == 1);
        wait_until("it is given back", || Ok(metric(one.root(), "dfs_mount_delegated_directories")? == 0))?;
        ensure!(metric(one.root(), "dfs_mount_changes_refused_total")? == 0);

        fs::create_dir(two.path("e"))?;
        for number in 0..50 {
            fs::write(two.path(format!("e/{number}")), "")?;
        }
        for name in ["dfs_mount_changes_answered_total", "dfs_mount_delegations_granted_total"] {
            ensure!(metric(two.root(), name)? == 0, "{name} with nodelegations");
        }
        ensure!(list_xattrs(one.root())?.is_empty(), "metrics are not listed");
        Ok(())
    })
}
