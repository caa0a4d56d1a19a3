//! The namespace equals the model: everything acknowledged is there under its name, and nothing else.

use anyhow::{Result, bail, ensure};
use dfs_tests::chaos::expectation::Wanted;
use dfs_tests::chaos::observation::Found;
use dfs_tests::chaos::operation::Operation;
use dfs_tests::chaos::quiet::{COPYING_SUFFIX, Quiet};

/// Compares names, kinds and replications.
pub fn check(quiet: &Quiet<'_>) -> Result<()> {
    for (path, wanted) in &quiet.wanted {
        match quiet.namespace.get(path) {
            Some(found) => same_kind(path, found, wanted)?,
            None if wanted.may_be_absent => {}
            None => match &wanted.or_else {
                Some(other) => ensure!(quiet.namespace.contains_key(other), "neither {path} nor {other}"),
                None => bail!("{path} is lost"),
            },
        }
        if let Some(other) = wanted.or_else.as_ref().filter(|other| quiet.namespace.contains_key(*other)) {
            ensure!(!quiet.namespace.contains_key(path), "both {path} and {other}");
        }
    }
    for path in quiet.namespace.keys() {
        let copied = path.strip_suffix(COPYING_SUFFIX).and_then(|name| quiet.wanted.get(name));
        let left_over = copied.is_some_and(|wanted| wanted.may_be_absent);
        ensure!(quiet.wanted.contains_key(path) || left_over, "nobody made {path}");
    }
    replaced_at_once(quiet)
}

fn same_kind(path: &str, found: &Found, wanted: &Wanted) -> Result<()> {
    match (found, &wanted.contents) {
        (Found::Directory, None) => Ok(()),
        (Found::File(file), Some(_)) => {
            let right = wanted.replications.contains(&file.replication);
            ensure!(right, "{path} has replication {}, wanted {:?}", file.replication, wanted.replications);
            Ok(())
        }
        (Found::Directory, Some(_)) => bail!("{path} is a directory and was a file"),
        (Found::File(_), None) => bail!("{path} is a file and was a directory"),
    }
}

/// A rename that replaces a file and was not acknowledged has happened as a whole or not at all.
fn replaced_at_once(quiet: &Quiet<'_>) -> Result<()> {
    for known in &quiet.expectations {
        for doubt in known.doubts() {
            let Operation::Replace { from, to } = &doubt.operation else { continue };
            let Some(dfs_tests::chaos::expectation::Node::File { content, .. }) = known.node(from) else {
                continue;
            };
            let Some(Found::File(file)) = quiet.namespace.get(to) else { continue };
            let gone = !quiet.namespace.contains_key(from);
            ensure!(!gone || file.content == *content, "{from} is gone and {to} has not got its content");
        }
    }
    Ok(())
}
