//! Writing at any offset: overwriting, extending, leaving gaps, making ranges zeros.
//!
//! Every step leaves the replica with checksums that fit, under its lock: a reader who holds the lock never sees data of one
//! version with checksums of another. A chunk that is written in part is verified first, as it stands, so that damage in
//! what stays never gets a good checksum. Gaps are zeros and take no space.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use dfs_proto::checksum::{CHECKSUM_BYTES, Checksum};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::ReplicaWriter;
use crate::dataset::meta_file::{self, META_HEADER_BYTES};
use crate::error::{DatanodeError, disk};

/// Longest block, the namenode's limit: no packet reaches beyond.
pub const MAX_BLOCK_BYTES: u64 = 4 << 30;

/// Smallest chunk with random access: HDFS's. Gaps get a checksum a chunk, and smaller chunks would let one packet write
/// gigabytes of them.
pub const MIN_CHUNK_BYTES: usize = 512;

/// Checksums of zeros written at a time.
const ZERO_SUMS_BYTES: usize = 64 << 10;

/// Zeros written at a time where no hole can be made.
const ZERO_PIECE_BYTES: usize = 64 << 10;

/// Number of chunks that `len` bytes from `offset` on touch.
pub const fn chunks_touched(chunk_len: u64, offset: u64, len: u64) -> u64 {
    if len == 0 { 0 } else { (offset + len).div_ceil(chunk_len) - offset / chunk_len }
}

/// Checks data that may start anywhere against one checksum for each chunk that it touches, over the bytes of the chunk
/// that it carries. An error is the offset of the bad chunk's first byte carried.
pub fn verify_carried(checksum: Checksum, data: &[u8], offset: u64, sums: &[u8]) -> Result<(), u64> {
    let chunk_len = checksum.bytes_per_checksum();
    let in_chunk = (offset % chunk_len as u64) as usize;
    let head = if in_chunk == 0 { 0 } else { (chunk_len - in_chunk).min(data.len()) };
    let (first, rest) = sums.split_at(if head > 0 { CHECKSUM_BYTES } else { 0 });
    if head > 0 && checksum.of(&data[..head]).to_be_bytes() != *first {
        return Err(offset);
    }
    checksum.verify(&data[head..], rest).map_err(|bad| offset + (head + bad.chunk * chunk_len) as u64)
}

impl ReplicaWriter {
    /// Checks that a packet makes sense with random access.
    pub fn check_place(
        &self,
        offset: u64,
        data_len: u32,
        zero_len: u64,
        checksums_len: usize,
    ) -> Result<(), DatanodeError> {
        let chunk_len = self.carried.bytes_per_checksum() as u64;
        let chunks = chunks_touched(chunk_len, offset.min(MAX_BLOCK_BYTES), data_len.into());
        let end = offset.checked_add(zero_len).and_then(|end| end.checked_add(data_len.into()));
        let fits = checksums_len as u64 == chunks * CHECKSUM_BYTES as u64
            && end.is_some_and(|end| end <= MAX_BLOCK_BYTES)
            && (zero_len == 0 || data_len == 0);
        if fits {
            return Ok(());
        }
        let (block, length) = (self.block, self.length);
        Err(DatanodeError::PacketPlace { block, offset, data_len, checksums_len, length })
    }

    /// Checksums that packets carry; they may differ from the replica's with random access.
    pub const fn carried(&self) -> Checksum {
        self.carried
    }

    /// Writes data that was verified; `carried` are its checksums as they came.
    pub fn write_anywhere(&mut self, offset: u64, data: &[u8], carried: &[u8]) -> Result<(), DatanodeError> {
        if data.is_empty() {
            return Ok(());
        }
        if offset > self.length {
            self.extend_with_zeros(offset)?;
        }
        let chunk_len = self.checksum.bytes_per_checksum() as u64;
        let end = offset + data.len() as u64;
        self.take_space(end.saturating_sub(self.length))?;
        let first = offset - offset % chunk_len;
        let last = (end - 1) - (end - 1) % chunk_len;
        let covers_last = end.is_multiple_of(chunk_len) || end >= self.length;
        let head = if offset > first || (first == last && !covers_last) {
            Some(self.old_chunk(first)?)
        } else {
            None
        };
        let tail = if last > first && !covers_last { Some(self.old_chunk(last)?) } else { None };

        let mut sums = std::mem::take(&mut self.sums);
        sums.clear();
        if head.is_none() && tail.is_none() && self.carried == self.checksum {
            sums.extend_from_slice(carried);
        } else {
            let mut from = 0;
            if let Some(mut chunk) = head {
                let at = (offset - first) as usize;
                let len = data.len().min(chunk_len as usize - at);
                chunk.resize(chunk.len().max(at + len), 0);
                chunk[at..at + len].copy_from_slice(&data[..len]);
                sums.extend_from_slice(&self.checksum.of(&chunk).to_be_bytes());
                from = len;
            }
            let to = if tail.is_some() { data.len() - (end - last) as usize } else { data.len() };
            if from < to {
                self.checksum.append_checksums(&data[from..to], &mut sums);
            }
            if let Some(mut chunk) = tail {
                let len = (end - last) as usize;
                chunk[..len].copy_from_slice(&data[to..]);
                sums.extend_from_slice(&self.checksum.of(&chunk).to_be_bytes());
            }
        }
        let outcome = self.apply(offset, data, first, &sums);
        self.sums = sums;
        outcome
    }

    /// Makes a range zeros; whole pages of it take no space. What is behind the replica's end is added to it.
    pub fn zero_anywhere(&mut self, offset: u64, len: u64) -> Result<(), DatanodeError> {
        let end = offset + len;
        let within = end.min(self.length);
        if offset < within {
            let chunk_len = self.checksum.bytes_per_checksum() as u64;
            let from = offset.next_multiple_of(chunk_len).min(within);
            let to = if within == self.length { within } else { within - within % chunk_len }.max(from);
            self.write_zeros(offset, from)?;
            self.punch(from, to)?;
            self.write_zeros(to, within)?;
        }
        if end > self.length { self.extend_with_zeros(end) } else { Ok(()) }
    }

    /// Writes the zeros of less than a chunk.
    fn write_zeros(&mut self, from: u64, to: u64) -> Result<(), DatanodeError> {
        let zeros = vec![0; (to - from) as usize];
        let mut sums = Vec::new();
        let chunk_len = self.carried.bytes_per_checksum() as u64;
        let mut at = from;
        while at < to {
            let end = ((at / chunk_len + 1) * chunk_len).min(to);
            sums.extend_from_slice(&self.carried.of(&zeros[..(end - at) as usize]).to_be_bytes());
            at = end;
        }
        self.write_anywhere(from, &zeros, &sums)
    }

    /// A chunk of the replica as it stands, verified.
    fn old_chunk(&self, start: u64) -> Result<Vec<u8>, DatanodeError> {
        let len = (self.length - start).min(self.checksum.bytes_per_checksum() as u64);
        let mut chunk = vec![0; len as usize];
        let have = meta_file::read_up_to(&self.data, &mut chunk, start).map_err(disk(&self.data_path))?;
        let mut sum = [0; CHECKSUM_BYTES];
        let at = meta_file::checksum_offset(self.checksum, start);
        let sum_len = meta_file::read_up_to(&self.meta, &mut sum, at).map_err(disk(&self.meta_path))?;
        if have < chunk.len() || sum_len < sum.len() || self.checksum.of(&chunk).to_be_bytes() != sum {
            return Err(DatanodeError::Damaged { block: self.block, offset: start });
        }
        Ok(chunk)
    }

    /// Puts data and the checksums of all chunks that it touches in place. `first` is the first of these chunks.
    fn apply(&mut self, offset: u64, data: &[u8], first: u64, sums: &[u8]) -> Result<(), DatanodeError> {
        let end = offset + data.len() as u64;
        self.change(first, end, |writer| {
            writer.data.write_all_at(data, offset).map_err(disk(&writer.data_path))?;
            writer.put_sums(first, sums)
        })
    }

    /// Adds zeros up to `end`, which is behind the replica's end.
    fn extend_with_zeros(&mut self, end: u64) -> Result<(), DatanodeError> {
        let chunk_len = self.checksum.bytes_per_checksum() as u64;
        let old = self.length;
        let first = old - old % chunk_len;
        let mut sums = Vec::new();
        if old > first {
            let mut chunk = self.old_chunk(first)?;
            chunk.resize((end - first).min(chunk_len) as usize, 0);
            sums.extend_from_slice(&self.checksum.of(&chunk).to_be_bytes());
        }
        self.change(first, end, |writer| {
            writer.data.set_len(end).map_err(disk(&writer.data_path))?;
            writer.put_sums(first, &sums)?;
            writer.put_zero_sums(old.next_multiple_of(chunk_len), end)
        })
    }

    /// Makes whole chunks zeros. `to` is on a chunk boundary or the replica's length.
    fn punch(&mut self, from: u64, to: u64) -> Result<(), DatanodeError> {
        if from >= to {
            return Ok(());
        }
        self.change(from, to, |writer| {
            writer.punch_data(from, to)?;
            writer.put_zero_sums(from, to)
        })
    }

    fn punch_data(&self, from: u64, to: u64) -> Result<(), DatanodeError> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.data, flags, from as i64, (to - from) as i64) {
            Ok(()) => Ok(()),
            Err(Errno::EOPNOTSUPP) => {
                let zeros = vec![0; ZERO_PIECE_BYTES.min((to - from) as usize)];
                let mut at = from;
                while at < to {
                    let len = zeros.len().min((to - at) as usize);
                    self.data.write_all_at(&zeros[..len], at).map_err(disk(&self.data_path))?;
                    at += len as u64;
                }
                Ok(())
            }
            Err(errno) => Err(disk(&self.data_path)(errno.into())),
        }
    }

    /// Writes the checksums of the chunks from `first` on, and the header if that is due.
    fn put_sums(&mut self, first: u64, sums: &[u8]) -> Result<(), DatanodeError> {
        let at = meta_file::checksum_offset(self.checksum, first);
        if self.header_due && at == META_HEADER_BYTES as u64 {
            let mut raw = meta_file::encode_header(self.checksum).to_vec();
            raw.extend_from_slice(sums);
            self.meta.write_all_at(&raw, 0).map_err(disk(&self.meta_path))?;
            self.header_due = false;
            return Ok(());
        }
        self.write_header_if_due()?;
        self.meta.write_all_at(sums, at).map_err(disk(&self.meta_path))
    }

    /// Writes the checksums of chunks of zeros. `from` is on a chunk boundary.
    fn put_zero_sums(&mut self, from: u64, to: u64) -> Result<(), DatanodeError> {
        let chunk_len = self.checksum.bytes_per_checksum();
        let zeros = vec![0; chunk_len];
        let whole = self.checksum.of(&zeros).to_be_bytes();
        let mut at = from;
        let mut sums = Vec::with_capacity(ZERO_SUMS_BYTES);
        while at < to {
            let start = at;
            sums.clear();
            while at < to && sums.len() < ZERO_SUMS_BYTES {
                let len = (to - at).min(chunk_len as u64);
                if len == chunk_len as u64 {
                    sums.extend_from_slice(&whole);
                } else {
                    sums.extend_from_slice(&self.checksum.of(&zeros[..len as usize]).to_be_bytes());
                }
                at += len;
            }
            self.put_sums(start, &sums)?;
        }
        Ok(())
    }

    /// Changes the chunks of `first..end` under the replica's lock.
    fn change(
        &mut self,
        first: u64,
        end: u64,
        change: impl FnOnce(&mut Self) -> Result<(), DatanodeError>,
    ) -> Result<(), DatanodeError> {
        let open = Arc::clone(&self.open);
        let mut state = open.lock();
        if self.token.is_stopped() {
            return Err(DatanodeError::WriterStopped { block: self.block });
        }
        state.rewritten |= first < self.length;
        if let Err(error) = change(self) {
            drop(state);
            self.dataset.note_error(&self.open.volume, &error);
            return Err(error);
        }
        if end > self.length {
            open.volume.add_used(end - self.length);
            self.length = end;
            self.data_end = self.data_end.max(end);
            state.replica.received(end);
            open.notify(&state);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::checksum::ChecksumKind;

    #[test]
    fn chunks_are_counted_from_any_offset() {
        for (offset, len, chunks) in
            [(0, 0, 0), (0, 1, 1), (511, 1, 1), (511, 2, 2), (512, 512, 1), (100, 1000, 3), (1, 511, 1)]
        {
            assert_eq!(chunks_touched(512, offset, len), chunks, "{offset} + {len}");
        }
    }

    #[test]
    fn carried_checksums_cover_what_is_carried_of_each_chunk() {
        let checksum = Checksum::new(ChecksumKind::Crc32c, 512).expect("valid");
        let mut data: Vec<u8> = (0..1500u32).map(|i| (i * 31) as u8).collect();
        let mut sums = Vec::new();
        checksum.append_checksums(&data[..412], &mut sums);
        checksum.append_checksums(&data[412..], &mut sums);
        assert_eq!(verify_carried(checksum, &data, 100, &sums), Ok(()));
        for (bad, reported) in [(0, 100), (411, 100), (412, 512), (1499, 1536)] {
            data[bad] ^= 1;
            assert_eq!(verify_carried(checksum, &data, 100, &sums), Err(reported));
            data[bad] ^= 1;
        }
    }
}
