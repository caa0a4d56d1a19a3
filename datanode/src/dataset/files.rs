//! Disk work on the two files of a replica: moving, cutting, opening. The caller holds the replica's lock.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use dfs_proto::checksum::{Checksum, ChecksumKind};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::meta_file::{self, META_HEADER_BYTES, MetaError};
use super::open_replica::{Home, data_path, meta_path};
use super::volume::Volume;
use crate::error::{DatanodeError, disk};
use crate::replica::BlockRef;

/// Opens for reading and writing.
pub fn open_rw(path: &Path) -> Result<File, DatanodeError> {
    File::options().read(true).write(true).open(path).map_err(disk(path))
}

/// Moves a replica to another directory or stamp, `.meta` first, data second; see `layout`.
/// A failed second step takes the first one back.
pub fn relocate(volume: &Volume, from: (Home, BlockRef), to: (Home, BlockRef)) -> Result<(), DatanodeError> {
    if to.0 == Home::Finalized {
        volume.make_finalized_dir(to.1.id)?;
    }
    let (meta_from, meta_to) = (meta_path(volume, from.0, from.1), meta_path(volume, to.0, to.1));
    if meta_from != meta_to {
        fs::rename(&meta_from, &meta_to).map_err(disk(&meta_from))?;
    }
    if from.0 != to.0 {
        let data_from = data_path(volume, from.0, from.1);
        if let Err(e) = fs::rename(&data_from, data_path(volume, to.0, to.1)) {
            fs::rename(&meta_to, &meta_from).map_err(disk(&meta_to))?;
            return Err(disk(&data_from)(e));
        }
    }
    Ok(())
}

/// Has the next reads answer what the disk has: puts on it what the kernel has not tried to write yet, and has the kernel let go of the rest.
pub fn read_anew(file: &File, path: &Path) -> Result<(), DatanodeError> {
    file.sync_data().map_err(disk(path))?;
    posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        .map_err(|errno| disk(path)(errno.into()))
}

/// Reads the header of a `.meta` file.
pub fn read_checksum(meta: &File, path: &Path) -> Result<Checksum, DatanodeError> {
    let mut raw = [0u8; META_HEADER_BYTES];
    let have = meta_file::read_up_to(meta, &mut raw, 0).map_err(disk(path))?;
    meta_file::decode_header(&raw[..have])
        .map_err(|source| DatanodeError::Meta { path: path.to_owned(), source })
}

/// The stored checksum of the last chunk of a replica of `length` bytes if that chunk is short, else 0.
pub fn read_partial_sum(
    meta: &File,
    path: &Path,
    checksum: Checksum,
    length: u64,
) -> Result<u32, DatanodeError> {
    if length.is_multiple_of(checksum.bytes_per_checksum() as u64) || checksum.kind() == ChecksumKind::Null {
        return Ok(0);
    }
    let mut raw = [0u8; 4];
    let offset = meta_file::checksum_offset(checksum, length);
    let have = meta_file::read_up_to(meta, &mut raw, offset).map_err(disk(path))?;
    if have < raw.len() {
        return Err(DatanodeError::Meta { path: path.to_owned(), source: MetaError::Missing(length - 1) });
    }
    Ok(u32::from_be_bytes(raw))
}

/// Cuts a replica to `length` bytes, at most what it has. Returns the checksum of the last chunk if it is
/// short. Checksums first, data second, and of the checksums first those that go, then the one that changes: at every
/// moment all chunks but the last one fit; see `meta_file`.
///
/// The bytes that stay of a chunk that is cut are verified before they get a new checksum. `known_sum` is
/// the checksum of the short last chunk of the replica as it stands, if it is known better than from the file:
/// a writer that failed may have replaced the one in the file.
pub fn cut(
    volume: &Volume,
    home: Home,
    block: BlockRef,
    have: u64,
    known_sum: Option<u32>,
    length: u64,
) -> Result<u32, DatanodeError> {
    let (data_at, meta_at) = (data_path(volume, home, block), meta_path(volume, home, block));
    let (data, meta) = (open_rw(&data_at)?, open_rw(&meta_at)?);
    let header_len = meta.metadata().map_err(disk(&meta_at))?.len();
    if header_len == 0 && length == 0 {
        // Stopped before its first packet: the header comes with the next one.
        data.set_len(0).map_err(disk(&data_at))?;
        return Ok(0);
    }
    let checksum = read_checksum(&meta, &meta_at)?;
    let chunk_len = checksum.bytes_per_checksum() as u64;
    let tail = length % chunk_len;
    let mut partial_sum = 0;
    let mut last_sum = None;
    if tail > 0 && checksum.kind() != ChecksumKind::Null {
        let chunk_start = length - tail;
        let stored = (have - chunk_start).min(chunk_len);
        let mut chunk = vec![0u8; usize::try_from(stored).unwrap_or(0)];
        data.read_exact_at(&mut chunk, chunk_start).map_err(disk(&data_at))?;
        let expected = match known_sum {
            Some(sum) if stored < chunk_len => sum,
            _ => read_chunk_sum(&meta, &meta_at, checksum, chunk_start)?,
        };
        if checksum.of(&chunk) != expected {
            return Err(DatanodeError::Checksum { block, offset: chunk_start });
        }
        partial_sum = checksum.of(&chunk[..usize::try_from(tail).unwrap_or(0)]);
        last_sum = Some(meta_file::checksum_offset(checksum, chunk_start));
    }
    let sums = checksum.checksum_size() as u64 * length.div_ceil(chunk_len);
    meta.set_len(META_HEADER_BYTES as u64 + sums).map_err(disk(&meta_at))?;
    if let Some(at) = last_sum {
        meta.write_all_at(&partial_sum.to_be_bytes(), at).map_err(disk(&meta_at))?;
    }
    data.set_len(length).map_err(disk(&data_at))?;
    Ok(partial_sum)
}

fn read_chunk_sum(
    meta: &File,
    path: &Path,
    checksum: Checksum,
    chunk_start: u64,
) -> Result<u32, DatanodeError> {
    let mut raw = [0u8; 4];
    meta.read_exact_at(&mut raw, meta_file::checksum_offset(checksum, chunk_start)).map_err(disk(path))?;
    Ok(u32::from_be_bytes(raw))
}

/// Removes a file that may be gone already.
pub fn remove(path: &Path) -> Result<(), DatanodeError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(disk(path)(e)),
        _ => Ok(()),
    }
}

/// Gives a replica that was stopped before its first packet the header that it lacks.
pub fn write_header_if_missing(
    volume: &Volume,
    home: Home,
    block: BlockRef,
    checksum: Option<Checksum>,
) -> Result<(), DatanodeError> {
    let path = meta_path(volume, home, block);
    let meta = open_rw(&path)?;
    if meta.metadata().map_err(disk(&path))?.len() == 0 {
        let header = meta_file::encode_header(checksum.unwrap_or_default());
        meta.write_all_at(&header, 0).map_err(disk(&path))?;
    }
    Ok(())
}
