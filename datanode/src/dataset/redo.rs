//! Brings a replica found at start into order with the journal: see [`crate::journal::replay`] for the rules.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use dfs_proto::checksum::{CHECKSUM_BYTES, Checksum, ChecksumKind};

use super::files;
use super::meta_file;
use super::open_replica::{Home, data_path, meta_path};
use super::volume::Volume;
use crate::error::{DatanodeError, disk};
use crate::journal;
use crate::journal::record::Change;
use crate::journal::replay::{Found, InFlight};
use crate::replica::BlockRef;

/// Data looked at in one step.
const STEP_BYTES: usize = 1 << 20;

/// Applies a replica's records if the machine stopped since they were written. Returns whether there are any.
pub fn redo(found: &Found, volume: &Volume, home: Home, block: BlockRef) -> Result<bool, DatanodeError> {
    if found.records(block.id).next().is_none() {
        return Ok(false);
    }
    let (data_at, meta_at) = (data_path(volume, home, block), meta_path(volume, home, block));
    let (data, meta) = (files::open_rw(&data_at)?, files::open_rw(&meta_at)?);
    if !found.is_same_boot() {
        // After the failure of a volume the kernel may have of it what the disk has not.
        files::read_anew(&data, &data_at)?;
        files::read_anew(&meta, &meta_at)?;
    }
    let mut applied = 0usize;
    let mut reopened = false;
    for record in found.records(block.id) {
        reopened |= record.block.stamp > block.stamp;
        let Change::Write { checksum, offset, sums, data: content } = record.change else {
            continue;
        };
        if found.is_same_boot() {
            continue;
        }
        if files::read_checksum(&meta, &meta_at).is_ok_and(|here| here != checksum) {
            tracing::warn!(%block, "journal knows other checksums than the replica has");
            continue;
        }
        let header = meta_file::encode_header(checksum);
        meta.write_all_at(&header, 0).map_err(disk(&meta_at))?;
        data.write_all_at(content, offset).map_err(disk(&data_at))?;
        let at = meta_file::checksum_offset(checksum, offset);
        meta.write_all_at(sums, at).map_err(disk(&meta_at))?;
        applied += 1;
    }
    if !found.is_same_boot() {
        tracing::info!(%block, applied, "overwrites applied again");
    }
    if reopened && !found.is_same_boot() {
        // The disk never heard that it was reopened; some overwrites it did hear of.
        let length = data.metadata().map_err(disk(&data_at))?.len();
        settle(block, (&data, &meta), length, &InFlight::Unknown).map_err(disk(&data_at))?;
    }
    // The journal starts anew: what it stood for must be on disk.
    let data_synced = data.sync_data().map_err(disk(&data_at));
    let synced = data_synced.and(meta.sync_data().map_err(disk(&meta_at)));
    if synced.is_err() && found.is_same_boot() {
        // It is told once; the next start would find nothing to sync.
        journal::forget_boot(volume.dir());
    }
    synced.map(|()| true)
}

/// What became of chunks that do not match their checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Number of those that were being written: they have got the checksums of what is there.
    pub torn: usize,
    /// First byte of the first one that nobody was writing: its disk spoilt it, and it stays as it is.
    pub damaged: Option<u64>,
}

/// Gives chunks that were in flight, and do not match their checksums, the checksums of what is there.
pub fn settle(
    block: BlockRef,
    files: (&File, &File),
    length: u64,
    in_flight: &InFlight,
) -> std::io::Result<Settled> {
    let mut settled = Settled::default();
    let mut header = [0; meta_file::META_HEADER_BYTES];
    meta_file::read_up_to(files.1, &mut header, 0)?;
    let Ok(checksum) = meta_file::decode_header(&header) else {
        return Ok(settled);
    };
    if checksum.kind() == ChecksumKind::Null {
        return Ok(settled);
    }
    let chunk_len = checksum.bytes_per_checksum() as u64;
    let step = (STEP_BYTES as u64 / chunk_len).max(1) * chunk_len;
    let mut from = 0;
    while from < length {
        let to = (from + step).min(length);
        settle_piece(checksum, files, from..to, in_flight, &mut settled)?;
        from = to;
    }
    if settled.torn > 0 {
        let torn = settled.torn;
        tracing::warn!(%block, torn, "chunks torn in the middle of an overwrite got new checksums");
    }
    if let Some(offset) = settled.damaged {
        tracing::warn!(%block, offset, "replica that was being written has a damaged chunk");
    }
    Ok(settled)
}

fn settle_piece(
    checksum: Checksum,
    (data, meta): (&File, &File),
    piece: Range<u64>,
    in_flight: &InFlight,
    settled: &mut Settled,
) -> std::io::Result<()> {
    let mut content = vec![0; (piece.end - piece.start) as usize];
    let have = meta_file::read_up_to(data, &mut content, piece.start)?;
    let mut sums = vec![0; checksum.checksums_len(have)];
    let sums_at = meta_file::checksum_offset(checksum, piece.start);
    let sums_have = meta_file::read_up_to(meta, &mut sums, sums_at)?;
    let chunk_len = checksum.bytes_per_checksum();
    let chunks = content[..have].chunks(chunk_len);
    for (i, (chunk, sum)) in chunks.zip(sums[..sums_have].chunks_exact(CHECKSUM_BYTES)).enumerate() {
        let right = checksum.of(chunk).to_be_bytes();
        if right == *sum {
            continue;
        }
        let offset = piece.start + (i * chunk_len) as u64;
        if in_flight.covers(offset..offset + chunk.len() as u64) {
            meta.write_all_at(&right, sums_at + (i * CHECKSUM_BYTES) as u64)?;
            settled.torn += 1;
        } else {
            settled.damaged.get_or_insert(offset);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
