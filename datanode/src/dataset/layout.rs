//! Names and places of a volume's files.
//!
//! ```text
//! VERSION            identity (version_file.rs)
//! in_use.lock        locked while a datanode uses the volume
//! finalized/subdirX/subdirY/blk_<id>, blk_<id>_<stamp>.meta     closed replicas
//! small/subdirZ/blk_<id>, blk_<id>_<stamp>.meta                 closed replicas made in one go (whole.rs)
//! rbw/subdirZ/blk_<id>, blk_<id>_<stamp>.meta                   replicas being written from start to end
//! random/subdirZ/blk_<id>, blk_<id>_<stamp>.meta                replicas being written at any offset
//! tmp/blk_<id>, blk_<id>_<stamp>.meta                           replicas being copied in; emptied at start
//! journal/0, journal/1                                          redo journal (../journal/record.rs)
//! orphaned/...                                                  files without their other half, kept for rescue
//! ```
//!
//! X is bits 16 to 20 of the block id and Y bits 8 to 12, as in HDFS: 1,024 directories, and 256
//! consecutive blocks share one. Z is bits 0 to 5: files get their inode where they are made, and one
//! directory for all would crowd them into one of the file system's inode groups (see `spread.rs`). The place of the data file is the place of the replica: a replica moves with
//! its `.meta` first and its data second, so a crash between the two leaves a `.meta` that is found by name.
//!
//! The scan at start treats the two kinds of unfinished replicas differently: see `scan.rs`.

use std::path::{Path, PathBuf};

use dfs_proto::{BlockId, GenerationStamp};

use crate::replica::BlockRef;

/// Directory of closed replicas.
pub const FINALIZED: &str = "finalized";
/// Directory of closed replicas made in one go.
pub const SMALL: &str = "small";
/// Directory of replicas being written.
pub const RBW: &str = "rbw";
/// Directory of replicas being written at any offset.
pub const RANDOM: &str = "random";
/// Directory of replicas being copied in, and of files on their way to deletion.
pub const TMP: &str = "tmp";
/// Directory of files without their other half.
pub const ORPHANED: &str = "orphaned";

/// Subdirectories on each of the two levels.
pub const SUBDIRS: usize = 32;

/// Subdirectories of `rbw`, of `random` and of `small`.
pub const RBW_SUBDIRS: u64 = 64;

/// What a file name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockFile {
    /// Data of a block.
    Data(BlockId),
    /// Checksums of an incarnation.
    Meta(BlockRef),
}

/// The two levels of subdirectory of a block.
pub const fn subdirs(id: BlockId) -> (usize, usize) {
    ((id.get() >> 16) as usize % SUBDIRS, (id.get() >> 8) as usize % SUBDIRS)
}

/// Name of the data file.
pub fn data_name(id: BlockId) -> String {
    id.to_string()
}

/// Name of the checksum file.
pub fn meta_name(block: BlockRef) -> String {
    format!("{block}.meta")
}

/// Directory of a closed replica.
pub fn finalized_dir(volume: &Path, id: BlockId) -> PathBuf {
    let (x, y) = subdirs(id);
    volume.join(format!("{FINALIZED}/subdir{x}/subdir{y}"))
}

/// Directory of a closed replica made in one go.
pub fn small_dir(volume: &Path, id: BlockId) -> PathBuf {
    volume.join(format!("{SMALL}/subdir{}", id.get() % RBW_SUBDIRS))
}

/// Directory of a replica being written.
pub fn rbw_dir(volume: &Path, id: BlockId) -> PathBuf {
    volume.join(format!("{RBW}/subdir{}", id.get() % RBW_SUBDIRS))
}

/// Directory of a replica being written at any offset.
pub fn random_dir(volume: &Path, id: BlockId) -> PathBuf {
    volume.join(format!("{RANDOM}/subdir{}", id.get() % RBW_SUBDIRS))
}

/// Recognises a block file; anything else is `None`. Only the canonical spelling counts, so that a name
/// and what it stands for determine each other.
pub fn parse(name: &str) -> Option<BlockFile> {
    let rest = name.strip_prefix("blk_")?;
    let number = |text: &str| -> Option<u64> {
        let value = text.parse::<u64>().ok()?;
        (value.to_string() == text).then_some(value)
    };
    if let Some(rest) = rest.strip_suffix(".meta") {
        let (id, stamp) = rest.split_once('_')?;
        let block = BlockRef { id: BlockId(number(id)?), stamp: GenerationStamp(number(stamp)?) };
        return Some(BlockFile::Meta(block));
    }
    number(rest).map(|id| BlockFile::Data(BlockId(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_blocks_determine_each_other() {
        let block = BlockRef::new(1_073_741_825, 1001);
        assert_eq!(parse(&data_name(block.id)), Some(BlockFile::Data(block.id)));
        assert_eq!(parse(&meta_name(block)), Some(BlockFile::Meta(block)));
        for other in
            ["blk_", "blk_x", "blk_1.meta", "blk_1_2", "blk_01", "blk_+1", "blk_1_02.meta", "VERSION"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn blocks_are_spread_as_in_hdfs() {
        let dir = finalized_dir(Path::new("/v"), BlockId(0x0012_3456));
        assert_eq!(dir, Path::new("/v/finalized/subdir18/subdir20"));
    }
}
