//! Rereads a closed replica from the disk and tells what is wrong with it.
//!
//! A replica may be reopened, moved, cut or deleted while it is read, so damage counts only if the replica map still
//! says afterwards what it said before. A failure that says nothing of the replica (no memory, no descriptors) is
//! no damage.

use std::path::Path;

use dfs_proto::BlockId;
use dfs_proto::checksum::{Checksum, ChecksumKind};

use super::Dataset;
use super::direct_file::{DirectFile, Window};
use super::meta_file::{self, META_HEADER_BYTES};
use super::open_replica::{data_path, meta_path};
use super::replica_map::{Closed, Entry};
use super::volume::Volume;
use crate::error::{DatanodeError, disk};
use crate::replica::BlockRef;

/// Data read at a time: direct reads of this size keep a disk at its full rate, and nobody waits long behind one.
const STEP_BYTES: usize = 1 << 20;

/// Checksums read at a time.
const SUMS_BYTES: usize = 64 << 10;

/// Largest chunk that a checksum may cover.
const CHUNK_MAX: usize = 1 << 20;

/// What became of a verification.
#[derive(Debug)]
pub enum Verdict {
    /// All bytes match their checksums.
    Good {
        /// The replica.
        block: BlockRef,
        /// Its length.
        length: u64,
    },
    /// It is damaged.
    Bad {
        /// The replica.
        block: BlockRef,
        /// What is wrong.
        error: DatanodeError,
    },
    /// It is not here.
    Absent,
    /// It is being written or recovered, or was while it was read.
    Open,
    /// Whoever paces the reading stopped it.
    Stopped,
    /// It could not be read, for a reason that is not the replica's.
    Failed(DatanodeError),
}

/// Memory for verifications, one after the other.
#[derive(Debug)]
pub struct Verifier {
    data: Window,
    sums: Window,
}

impl Default for Verifier {
    fn default() -> Self {
        Self { data: Window::new(STEP_BYTES + CHUNK_MAX), sums: Window::new(SUMS_BYTES) }
    }
}

impl Verifier {
    /// Verifies the replica of a block. Bad news goes to the namenode. `go_on` is asked before each step with the bytes
    /// about to be read, may take its time, and stops the verification with `false`.
    pub fn verify(
        &mut self,
        dataset: &Dataset,
        id: BlockId,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Verdict {
        let verdict = self.look(dataset, id, go_on);
        if let Verdict::Bad { block, error } = &verdict
            && let Some(Entry::Closed(closed)) = dataset.map.get(id)
            && let Some(volume) = dataset.volume(closed.volume)
        {
            dataset.report_bad(*block, closed.length, volume.storage_id(), error);
        }
        verdict
    }

    /// The same without telling anybody, of a replica that nobody knows of yet.
    pub fn verify_quietly(&mut self, dataset: &Dataset, id: BlockId) -> Verdict {
        self.look(dataset, id, &mut |_| true)
    }

    fn look(&mut self, dataset: &Dataset, id: BlockId, go_on: &mut dyn FnMut(usize) -> bool) -> Verdict {
        let closed = match dataset.map.get(id) {
            None => return Verdict::Absent,
            Some(Entry::Open(_)) => return Verdict::Open,
            Some(Entry::Closed(closed)) => closed,
        };
        let block = BlockRef { id, stamp: closed.stamp };
        let Some(volume) = dataset.volume(closed.volume) else { return Verdict::Open };
        let outcome = self.read_all(&volume, block, closed, go_on);
        let unchanged = matches!(dataset.map.get(id), Some(Entry::Closed(now)) if now == closed);
        match outcome {
            _ if !unchanged || volume.is_failed() => Verdict::Open,
            Ok(true) => {
                dataset.damaged.forget(id);
                Verdict::Good { block, length: closed.length }
            }
            Ok(false) => Verdict::Stopped,
            Err(error) => {
                dataset.note_read_error(&volume, &error);
                if error.is_damage() { Verdict::Bad { block, error } } else { Verdict::Failed(error) }
            }
        }
    }

    /// `false`: stopped.
    fn read_all(
        &mut self,
        volume: &Volume,
        block: BlockRef,
        closed: Closed,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<bool, DatanodeError> {
        self.data.clear();
        self.sums.clear();
        let data_path = data_path(volume, closed.home(), block);
        let meta_path = meta_path(volume, closed.home(), block);
        let data = open(&data_path)?;
        if data.length() != closed.length {
            let (found, expected) = (data.length(), closed.length);
            return Err(DatanodeError::FileLength { path: data_path, found, expected });
        }
        let meta = open(&meta_path)?;
        let header = self.sums.read(&meta, 0, META_HEADER_BYTES).map_err(disk(&meta_path))?;
        let checksum = meta_file::decode_header(header)
            .map_err(|source| DatanodeError::Meta { path: meta_path.clone(), source })?;
        let expected = meta_length(checksum, closed.length);
        if meta.length() < expected {
            return Err(DatanodeError::FileLength { path: meta_path, found: meta.length(), expected });
        }
        let chunk = checksum.bytes_per_checksum();
        // Whole chunks, and no more than the window of the checksums holds.
        let chunks = (STEP_BYTES / chunk).max(1).min(SUMS_BYTES / checksum.checksum_size().max(1));
        let step = chunks * chunk;
        let mut offset = 0;
        while offset < closed.length {
            let len = usize::try_from(closed.length - offset).unwrap_or(usize::MAX).min(step);
            if !go_on(len) {
                return Ok(false);
            }
            let piece = self.data.read(&data, offset, len).map_err(disk(&data_path))?;
            if piece.len() < len {
                return Err(DatanodeError::Checksum { block, offset: offset + piece.len() as u64 });
            }
            if checksum.kind() != ChecksumKind::Null {
                let at = meta_file::checksum_offset(checksum, offset);
                let sums =
                    self.sums.read(&meta, at, checksum.checksums_len(len)).map_err(disk(&meta_path))?;
                if sums.len() < checksum.checksums_len(len) {
                    let found = meta.length();
                    return Err(DatanodeError::FileLength { path: meta_path, found, expected });
                }
                checksum.verify(piece, sums).map_err(|bad| DatanodeError::Checksum {
                    block,
                    offset: offset + (bad.chunk * chunk) as u64,
                })?;
            }
            offset += len as u64;
        }
        Ok(true)
    }
}

fn open(path: &Path) -> Result<DirectFile, DatanodeError> {
    let file = DirectFile::open(path).map_err(disk(path))?;
    file.ok_or_else(|| DatanodeError::NotAFile { path: path.to_owned() })
}

/// Least length of a `.meta` file.
fn meta_length(checksum: Checksum, data_length: u64) -> u64 {
    let chunks = data_length.div_ceil(checksum.bytes_per_checksum() as u64);
    META_HEADER_BYTES as u64 + chunks * checksum.checksum_size() as u64
}
