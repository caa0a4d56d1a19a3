//! Rules about the source itself, those of ARCHITECTURE.md that are absences among them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// Longest source file: what can be read in one sitting.
const MAX_LINES: usize = 700;

/// Crates of the workspace.
const CRATES: [&str; 6] = ["proto", "namenode", "datanode", "client", "fuse-mount", "tests"];

/// Modules that decide without the world: no network, clock, randomness or async.
const PURE: [&str; 4] = [
    "namenode/src/namesystem",
    "namenode/src/block_management",
    "datanode/src/replica.rs",
    "tests/src/model.rs",
];

/// What a pure module does not mention outside of its tests.
const IMPURE: [&str; 8] = [
    "tokio::",
    "tonic::",
    "SystemTime::now",
    "Instant::now",
    "std::fs",
    "std::net::Tcp",
    "std::thread",
    "new_v4",
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(below: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if below.is_file() {
        found.push(below.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(below)? {
        let path = entry?.path();
        if path.is_dir() || path.extension().is_some_and(|extension| extension == "rs") {
            sources(&path, found)?;
        }
    }
    Ok(())
}

fn sources_of(places: &[&str]) -> Result<Vec<(PathBuf, String)>> {
    let mut paths = Vec::new();
    for place in places {
        sources(&workspace().join(place), &mut paths)?;
    }
    paths.into_iter().map(|path| Ok((path.clone(), fs::read_to_string(path)?))).collect()
}

/// The lines of a file before its tests, without comments.
fn production_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(index, line)| (index + 1, line))
}

#[test]
fn files_can_be_read_in_one_sitting_and_have_nothing_left_over() -> Result<()> {
    // Put together here, so that this file does not find itself.
    let left_over = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let ignored = format!("#[{}", "ignore");
    for (path, text) in sources_of(&CRATES)? {
        let lines = text.lines().count();
        ensure!(lines <= MAX_LINES, "{}: {lines} lines", path.display());
        for (number, line) in text.lines().enumerate() {
            let bad = left_over.iter().any(|macro_call| line.contains(macro_call)) || line.contains(&ignored);
            ensure!(!bad, "{}:{}: {line}", path.display(), number + 1);
        }
    }
    Ok(())
}

#[test]
fn pure_modules_mention_neither_clock_nor_network_nor_runtime() -> Result<()> {
    for (path, text) in sources_of(&PURE)? {
        // Test modules in files and directories of their own.
        let names = path.strip_prefix(workspace())?.with_extension("");
        if names.iter().skip(1).any(|name| name.to_string_lossy().ends_with("tests")) {
            continue;
        }
        for (number, line) in production_lines(&text) {
            let found = IMPURE.iter().find(|word| line.contains(**word));
            ensure!(found.is_none(), "{}:{number}: {line}", path.display());
        }
    }
    Ok(())
}

#[test]
fn tests_wait_for_conditions_and_never_sleep() -> Result<()> {
    for (path, text) in sources_of(&["tests"])? {
        for (number, line) in text.lines().enumerate() {
            let sleeps =
                line.contains(concat!("slee", "p(Duration")) || line.contains(concat!("time::", "sleep"));
            ensure!(!sleeps, "{}:{}: {line}", path.display(), number + 1);
        }
    }
    Ok(())
}
