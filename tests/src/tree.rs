//! Real file trees on the local disk: where to find or make one, and how to compare two.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::pattern::{ensure_same, pattern};
use crate::rng::Rng;

/// Files that a real tree should have to be worth copying, and how many a copy in a test may have.
const USEFUL_FILES: std::ops::RangeInclusive<usize> = 300..=3_000;

/// Files of a generated tree.
const GENERATED_FILES: usize = 600;

/// What is compared of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Directory or regular file; trees with anything else are not used.
    pub is_dir: bool,
    /// Bytes of a file, 0 for a directory.
    pub len: u64,
    /// Permission bits.
    pub mode: u32,
    /// Modification time, seconds and nanoseconds.
    pub mtime: (i64, i64),
}

/// Copies directories and files, with their bytes, to a place that does not exist.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).with_context(|| to.display().to_string())?;
    for (path, entry) in entries(from)? {
        match entry.is_dir {
            true => fs::create_dir(to.join(path))?,
            false => drop(fs::copy(from.join(&path), to.join(path))?),
        }
    }
    Ok(())
}

/// The entries below `root` by path relative to it.
pub fn entries(root: &Path) -> Result<BTreeMap<PathBuf, Entry>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            ensure!(
                metadata.is_dir() || metadata.is_file(),
                "{} is neither file nor directory",
                path.display()
            );
            let len = if metadata.is_dir() { 0 } else { metadata.len() };
            found.insert(
                path.strip_prefix(root)?.to_owned(),
                Entry {
                    is_dir: metadata.is_dir(),
                    len,
                    mode: metadata.mode() & 0o7777,
                    mtime: (metadata.mtime(), metadata.mtime_nsec()),
                },
            );
            if metadata.is_dir() {
                directories.push(path);
            }
        }
    }
    Ok(found)
}

/// Compares names, types and every byte; with `attributes` also permission bits and modification times.
pub fn ensure_same_tree(got: &Path, want: &Path, attributes: bool) -> Result<()> {
    let (have, wanted) = (entries(got)?, entries(want)?);
    for (path, expected) in &wanted {
        let entry = have.get(path).with_context(|| format!("{} is missing", path.display()))?;
        ensure!(
            (entry.is_dir, entry.len) == (expected.is_dir, expected.len),
            "{} is {entry:?}, wanted {expected:?}",
            path.display()
        );
        if attributes {
            ensure!(entry == expected, "{} is {entry:?}, wanted {expected:?}", path.display());
        }
        if !entry.is_dir {
            ensure_same(
                &path.display().to_string(),
                &fs::read(got.join(path))?,
                &fs::read(want.join(path))?,
            )?;
        }
    }
    let extra = have.keys().find(|path| !wanted.contains_key(*path));
    ensure!(extra.is_none(), "{:?} should not be there", extra);
    Ok(())
}

/// A real tree of a few hundred files: the source of a large dependency in cargo's registry, or a part of
/// Python's library, and if this machine has neither, one generated below `scratch`.
pub fn real_tree(scratch: &Path) -> Result<PathBuf> {
    for candidate in registry_sources().into_iter().chain([PathBuf::from("/usr/lib/python3.13")]) {
        if let Ok(found) = entries(&candidate) {
            let files = found.values().filter(|entry| !entry.is_dir).count();
            if USEFUL_FILES.contains(&files) {
                return Ok(candidate);
            }
        }
    }
    let root = scratch.join("generated-tree");
    generate(&root, 1)?;
    Ok(root)
}

/// Source directories of dependencies that have many files.
fn registry_sources() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let Some(sources) = home.map(|home| home.join("registry/src")) else { return Vec::new() };
    let mut found = Vec::new();
    for registry in fs::read_dir(sources).into_iter().flatten().flatten() {
        for package in fs::read_dir(registry.path()).into_iter().flatten().flatten() {
            let name = package.file_name();
            if ["tokio-1", "libc-0.2", "nix-0"].iter().any(|p| name.to_string_lossy().starts_with(p)) {
                found.push(package.path());
            }
        }
    }
    found.sort();
    found
}

/// Makes a tree with nested and empty directories, empty files, odd names, odd modes and old times.
pub fn generate(root: &Path, seed: u64) -> Result<()> {
    generate_files(root, seed, GENERATED_FILES)
}

/// The same with `count` entries.
pub fn generate_files(root: &Path, seed: u64, count: usize) -> Result<()> {
    let mut rng = Rng::new(seed);
    fs::create_dir_all(root)?;
    let mut directories = vec![root.to_owned()];
    let odd_names = ["with space", "äöü-ß", "a'quote", "semi;colon", "-dash", "trailing.", "star*"];
    for number in 0..count {
        let parent = rng.pick(&directories).clone();
        let name =
            if rng.chance(10) { format!("{} {number}", rng.pick(&odd_names)) } else { format!("f{number}") };
        let path = parent.join(name);
        if rng.chance(12) {
            fs::create_dir(&path)?;
            directories.push(path);
            continue;
        }
        let len = match rng.below(10) {
            0 => 0,
            1 => 4096,
            2 => 100_000 + rng.below(100_000),
            _ => rng.below(8_000),
        };
        fs::write(&path, pattern(number as u64, 0, len as usize))?;
        set_mode(&path, *rng.pick(&[0o644, 0o600, 0o755, 0o444, 0o640]))?;
        set_mtime(&path, 1_000_000_000 + rng.below(500_000_000) as i64, rng.below(1_000_000_000) as i64)?;
    }
    Ok(())
}

/// Sets permission bits.
pub fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// Sets the modification time.
pub fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) -> Result<()> {
    use std::time::{Duration, SystemTime};
    let time = SystemTime::UNIX_EPOCH
        + Duration::from_secs(seconds.unsigned_abs())
        + Duration::from_nanos(nanoseconds.unsigned_abs());
    Ok(fs::File::open(path)?.set_modified(time)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_equals_its_like_and_no_other() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        generate(&a, 5)?;
        generate(&b, 5)?;
        ensure_same_tree(&a, &b, false)?;
        fs::write(b.join("extra"), b"")?;
        assert!(ensure_same_tree(&b, &a, false).is_err());
        assert!(ensure_same_tree(&a, &b, false).is_err());
        Ok(())
    }
}
