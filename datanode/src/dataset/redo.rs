//! Brings a replica found at start into order with the journal: see [`crate::journal::replay`] for the rules.

use std::fs::File;
use std::os::unix::fs::FileExt;

use dfs_proto::checksum::{CHECKSUM_BYTES, Checksum, ChecksumKind};

use super::files;
use super::meta_file;
use super::open_replica::{Home, data_path, meta_path};
use super::volume::Volume;
use crate::error::{DatanodeError, disk};
use crate::journal::record::Change;
use crate::journal::replay::Found;
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
    if reopened {
        // The disk never heard that it was reopened; some overwrites it did hear of.
        let length = data.metadata().map_err(disk(&data_at))?.len();
        settle(block, (&data, &meta), length).map_err(disk(&data_at))?;
    }
    // The journal starts anew: what it stood for must be on disk.
    data.sync_data().map_err(disk(&data_at))?;
    meta.sync_data().map_err(disk(&meta_at))?;
    Ok(true)
}

/// Gives chunks that do not match their checksums the checksums of what is there. Returns how many.
pub fn settle(block: BlockRef, (data, meta): (&File, &File), length: u64) -> std::io::Result<usize> {
    let mut header = [0; meta_file::META_HEADER_BYTES];
    meta_file::read_up_to(meta, &mut header, 0)?;
    let Ok(checksum) = meta_file::decode_header(&header) else {
        return Ok(0);
    };
    if checksum.kind() == ChecksumKind::Null {
        return Ok(0);
    }
    let chunk_len = checksum.bytes_per_checksum() as u64;
    let step = (STEP_BYTES as u64 / chunk_len).max(1) * chunk_len;
    let mut settled = 0;
    let mut from = 0;
    while from < length {
        let to = (from + step).min(length);
        settled += settle_piece(checksum, (data, meta), from, to)?;
        from = to;
    }
    if settled > 0 {
        tracing::warn!(%block, settled, "chunks torn in the middle of an overwrite got new checksums");
    }
    Ok(settled)
}

fn settle_piece(
    checksum: Checksum,
    (data, meta): (&File, &File),
    from: u64,
    to: u64,
) -> std::io::Result<usize> {
    let mut content = vec![0; (to - from) as usize];
    let have = meta_file::read_up_to(data, &mut content, from)?;
    let mut sums = vec![0; checksum.checksums_len(have)];
    let sums_at = meta_file::checksum_offset(checksum, from);
    let sums_have = meta_file::read_up_to(meta, &mut sums, sums_at)?;
    let mut settled = 0;
    let chunks = content[..have].chunks(checksum.bytes_per_checksum());
    for (i, (chunk, sum)) in chunks.zip(sums[..sums_have].chunks_exact(CHECKSUM_BYTES)).enumerate() {
        let right = checksum.of(chunk).to_be_bytes();
        if right != *sum {
            meta.write_all_at(&right, sums_at + (i * CHECKSUM_BYTES) as u64)?;
            settled += 1;
        }
    }
    Ok(settled)
}

#[cfg(test)]
mod tests;
