//! The files of a replica on a datanode's volume, found by name, and ways to damage them.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Directories that a datanode spreads the replicas being written over, by block id.
const RBW_SUBDIRS: u64 = 64;

/// One replica as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaFiles {
    /// The block's bytes: `blk_<id>`.
    pub data: PathBuf,
    /// Its checksums: `blk_<id>_<stamp>.meta`.
    pub meta: Option<PathBuf>,
    /// It lies below a `finalized` directory.
    pub finalized: bool,
}

/// Ways in which a disk can spoil a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One bit of the data, in the byte at this offset, is the other way.
    FlipBit(u64),
    /// The data file ends here.
    Truncate(u64),
    /// The data file is gone.
    RemoveData,
    /// The file of the checksums is gone.
    RemoveMeta,
    /// One bit of the file of the checksums, in the byte at this offset, is the other way.
    FlipMetaBit(u64),
    /// The file of the checksums ends here.
    TruncateMeta(u64),
    /// The data file has so many bytes more.
    Extend(u64),
    /// A directory is where the data file should be.
    DirectoryInstead,
}

impl ReplicaFiles {
    /// Spoils the replica behind the datanode's back.
    pub fn damage(&self, damage: Damage) -> Result<()> {
        let data = || OpenOptions::new().read(true).write(true).open(&self.data);
        let meta = || self.meta.as_ref().context("the replica has no .meta file");
        let outcome = match damage {
            Damage::FlipBit(offset) => data().and_then(|file| flip_bit(&file, offset)),
            Damage::FlipMetaBit(offset) => {
                let file = OpenOptions::new().read(true).write(true).open(meta()?);
                file.and_then(|file| flip_bit(&file, offset))
            }
            Damage::TruncateMeta(len) => {
                OpenOptions::new().write(true).open(meta()?).and_then(|file| file.set_len(len))
            }
            Damage::Extend(bytes) => data().and_then(|file| {
                let len = file.metadata()?.len();
                file.set_len(len + bytes)
            }),
            Damage::DirectoryInstead => fs::remove_file(&self.data).and_then(|()| fs::create_dir(&self.data)),
            Damage::Truncate(len) => {
                let file = data()?;
                ensure!(file.metadata()?.len() > len, "{} has no {len} bytes", self.data.display());
                file.set_len(len)
            }
            Damage::RemoveData => fs::remove_file(&self.data),
            Damage::RemoveMeta => fs::remove_file(meta()?),
        };
        outcome.with_context(|| format!("{damage:?} of {}", self.data.display()))
    }
}

/// Swaps the data files of two replicas.
pub fn swap_data(one: &ReplicaFiles, other: &ReplicaFiles) -> Result<()> {
    let aside = one.data.with_extension("swapped");
    fs::rename(&one.data, &aside)?;
    fs::rename(&other.data, &one.data)?;
    Ok(fs::rename(&aside, &other.data)?)
}

fn flip_bit(file: &fs::File, offset: u64) -> io::Result<()> {
    let mut byte = [0u8];
    file.read_exact_at(&mut byte, offset)?;
    byte[0] ^= 0x10;
    file.write_all_at(&byte, offset)
}

/// Moves every closed replica below `volume`, whose datanode is down, back to where it was written: what a loss of
/// power leaves when the last renames were not on disk. Answers how many there were.
pub fn undo_closing(volume: &Path) -> Result<usize> {
    let mut moved = 0;
    for (id, files) in replicas_below(volume)?.into_iter().filter(|(_, files)| files.finalized) {
        let dir = volume.join(format!("rbw/subdir{}", id % RBW_SUBDIRS));
        ensure!(dir.is_dir(), "{} is no directory", dir.display());
        let meta = files.meta.context("the replica has no .meta file")?;
        for path in [files.data, meta] {
            let name = path.file_name().context("a file without a name")?;
            fs::rename(&path, dir.join(name)).with_context(|| path.display().to_string())?;
        }
        moved += 1;
    }
    Ok(moved)
}

/// All replicas below `volume` as (block id, files).
pub fn replicas_below(volume: &Path) -> Result<Vec<(u64, ReplicaFiles)>> {
    let files = files_below(volume)?;
    let mut found = Vec::new();
    for path in &files {
        let Some(id) = block_of_data_file(path) else { continue };
        let prefix = format!("blk_{id}_");
        let meta = files.iter().find(|other| {
            other.parent() == path.parent()
                && other.extension().is_some_and(|extension| extension == "meta")
                && other.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        });
        let finalized =
            path.components().any(|part| part.as_os_str() == "finalized" || part.as_os_str() == "small");
        found.push((id, ReplicaFiles { data: path.clone(), meta: meta.cloned(), finalized }));
    }
    Ok(found)
}

/// The replica of block `id` below `volume`, if it has one.
pub fn replica_below(volume: &Path, id: u64) -> Result<Option<ReplicaFiles>> {
    Ok(replicas_below(volume)?.into_iter().find(|(block, _)| *block == id).map(|(_, files)| files))
}

fn block_of_data_file(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("blk_")?.parse().ok()
}

/// All regular files below `dir`. Entries that vanish meanwhile are left out: the datanode is at work.
fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![dir.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| directory.display().to_string()),
        };
        for entry in entries {
            let entry = entry?;
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_found_by_name_and_damaged_in_place() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let deep = dir.path().join("finalized/subdir3");
        fs::create_dir_all(&deep)?;
        fs::write(deep.join("blk_7"), b"0123456789")?;
        fs::write(deep.join("blk_7_1001.meta"), b"sums")?;
        fs::write(deep.join("blk_70_1001.meta"), b"of another block")?;
        fs::write(dir.path().join("VERSION"), b"no replica")?;

        let files = replica_below(dir.path(), 7)?.context("replica 7")?;
        assert!(files.finalized);
        assert_eq!(files.meta, Some(deep.join("blk_7_1001.meta")));
        assert_eq!(replicas_below(dir.path())?.len(), 1);

        files.damage(Damage::FlipBit(1))?;
        assert_eq!(fs::read(&files.data)?, b"0!23456789");
        files.damage(Damage::Truncate(4))?;
        assert_eq!(fs::read(&files.data)?, b"0!23");
        files.damage(Damage::RemoveMeta)?;
        files.damage(Damage::RemoveData)?;
        assert_eq!(replica_below(dir.path(), 7)?, None);
        Ok(())
    }
}
