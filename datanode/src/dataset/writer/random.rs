//! Writing at any offset: overwriting, extending, leaving gaps, making ranges zeros.
//!
//! Every step leaves the replica with checksums that fit, under its lock: a reader who holds the lock never sees data of one
//! version with checksums of another. A chunk that is written in part is verified first, as it stands, so that damage in
//! what stays never gets a good checksum. Gaps are zeros and take no space.

use std::os::unix::fs::FileExt;

use dfs_proto::checksum::{CHECKSUM_BYTES, Checksum};

use super::ReplicaWriter;
use super::recorded::RECORDED_BYTES;
use crate::dataset::meta_file;
use crate::error::{DatanodeError, disk};
use crate::journal::record::Change;

/// Longest block, the namenode's limit: no packet reaches beyond.
pub const MAX_BLOCK_BYTES: u64 = 4 << 30;

/// Smallest chunk with random access: HDFS's. Gaps get a checksum a chunk, and smaller chunks would let one packet write
/// gigabytes of them.
pub const MIN_CHUNK_BYTES: usize = 512;

/// Added bytes after which the kernel is told to begin to write them: a mount's file is mostly synced in the end, and by itself the
/// kernel begins when a tenth of the memory waits. Large enough for long transfers.
const WRITE_BEHIND_BYTES: u64 = 8 << 20;

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

    /// Writes data that was verified; `carried` are its checksums as they came. `sync`: it is to be put on disk next.
    pub fn write_anywhere(
        &mut self,
        offset: u64,
        data: &[u8],
        carried: &[u8],
        sync: bool,
    ) -> Result<(), DatanodeError> {
        if data.is_empty() {
            return Ok(());
        }
        if offset > self.length {
            self.extend_with_zeros(offset)?;
        }
        let chunk_len = self.checksum.bytes_per_checksum() as u64;
        let rest_of_chunk = (chunk_len - offset % chunk_len) as usize;
        if offset == self.length
            && rest_of_chunk < chunk_len as usize
            && data.len() > rest_of_chunk.max(RECORDED_BYTES)
        {
            // The one chunk that is there goes to the journal, what is added behind it need not.
            let (first, others) = data.split_at(rest_of_chunk);
            let (first_sum, other_sums) = carried.split_at(CHECKSUM_BYTES);
            self.write_anywhere(offset, first, first_sum, sync)?;
            return self.write_anywhere(offset + rest_of_chunk as u64, others, other_sums, sync);
        }
        let end = offset + data.len() as u64;
        self.take_space(end.saturating_sub(self.length))?;
        let first = offset - offset % chunk_len;
        let last = (end - 1) - (end - 1) % chunk_len;
        let covers_last = end.is_multiple_of(chunk_len) || end >= self.length;
        // What stays of the first and of the last chunk, around the data.
        let (mut before, mut behind) = (Vec::new(), Vec::new());
        if first == last && !covers_last {
            before = self.old_chunk(first)?;
            behind = before.split_off((end - first) as usize);
        } else {
            if offset > first {
                before = self.old_chunk(first)?;
            }
            if !covers_last {
                behind = self.old_chunk(last)?.split_off((end - last) as usize);
            }
        }
        before.truncate((offset - first) as usize);

        let overwrites = first < self.length;
        let to_record = self.is_recorded(data.len(), overwrites, sync);
        let mut sums = std::mem::take(&mut self.sums);
        let mut merged = std::mem::take(&mut self.merged);
        sums.clear();
        merged.clear();
        let whole_chunks = before.is_empty() && behind.is_empty();
        let chunks = if whole_chunks {
            data
        } else {
            merged.extend_from_slice(&before);
            merged.extend_from_slice(data);
            merged.extend_from_slice(&behind);
            &merged
        };
        if whole_chunks && self.carried == self.checksum {
            sums.extend_from_slice(carried);
        } else {
            self.checksum.append_checksums(chunks, &mut sums);
        }
        let outcome = self.apply(offset, data, (first, chunks, &sums), to_record);
        (self.sums, self.merged) = (sums, merged);
        outcome
    }

    /// Puts data and the checksums of all chunks that it touches in place, and notes it in the journal. `chunks` are
    /// the first one's offset, their content and checksums.
    fn apply(
        &mut self,
        offset: u64,
        data: &[u8],
        (first, chunks, sums): (u64, &[u8], &[u8]),
        to_record: bool,
    ) -> Result<(), DatanodeError> {
        let end = offset + data.len() as u64;
        self.announce(first, end, to_record)?;
        self.change(first, end, |writer| {
            writer.files.data.write_all_at(data, offset).map_err(disk(&writer.files.data_path))?;
            writer.put_sums(first, sums)
        })?;
        if to_record {
            let checksum = self.checksum;
            self.note(Change::Write { checksum, offset: first, sums, data: chunks })?;
        } else if end == self.length && end >= self.begun + WRITE_BEHIND_BYTES {
            self.files.begin_data_sync(self.begun..end);
            self.begun = end;
        }
        Ok(())
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
        self.write_anywhere(from, &zeros, &sums, false)
    }

    /// A chunk of the replica as it stands, verified.
    fn old_chunk(&self, start: u64) -> Result<Vec<u8>, DatanodeError> {
        let len = (self.length - start).min(self.checksum.bytes_per_checksum() as u64);
        let mut chunk = vec![0; len as usize];
        let have = meta_file::read_up_to(&self.files.data, &mut chunk, start)
            .map_err(disk(&self.files.data_path))?;
        let mut sum = [0; CHECKSUM_BYTES];
        let at = meta_file::checksum_offset(self.checksum, start);
        let sum_len =
            meta_file::read_up_to(&self.files.meta, &mut sum, at).map_err(disk(&self.files.meta_path))?;
        if have < chunk.len() || sum_len < sum.len() || self.checksum.of(&chunk).to_be_bytes() != sum {
            return Err(DatanodeError::Damaged { block: self.block, offset: start });
        }
        Ok(chunk)
    }

    /// Adds zeros up to `end`, which is behind the replica's end.
    fn extend_with_zeros(&mut self, end: u64) -> Result<(), DatanodeError> {
        let chunk_len = self.checksum.bytes_per_checksum() as u64;
        self.write_zeros(self.length, self.length.next_multiple_of(chunk_len).min(end))?;
        let from = self.length;
        if from == end {
            return Ok(());
        }
        self.announce(from, end, false)?;
        self.change(from, end, |writer| {
            writer.files.data.set_len(end).map_err(disk(&writer.files.data_path))?;
            writer.put_zero_sums(from, end)
        })
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
