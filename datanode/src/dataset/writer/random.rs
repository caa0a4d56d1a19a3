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
use crate::journal::record::Change;

/// Longest block, the namenode's limit: no packet reaches beyond.
pub const MAX_BLOCK_BYTES: u64 = 4 << 30;

/// Smallest chunk with random access: HDFS's. Gaps get a checksum a chunk, and smaller chunks would let one packet write
/// gigabytes of them.
pub const MIN_CHUNK_BYTES: usize = 512;

/// Checksums of zeros written at a time.
const ZERO_SUMS_BYTES: usize = 64 << 10;

/// Zeros written at a time where no hole can be made.
const ZERO_PIECE_BYTES: usize = 64 << 10;

/// Data of one packet, and chunk, up to which an overwrite goes to the journal as a whole, so that putting it on disk takes
/// one flush. Larger ones would be written twice where two more flushes cost less.
const RECORDED_BYTES: usize = 64 << 10;

/// What the journal has of a writer.
#[derive(Debug)]
pub struct Recorded {
    /// The journal or the file system knows, on disk, that the replica is being overwritten.
    marked: bool,
    /// Something was written since the last sync that the journal does not have.
    unrecorded: bool,
    /// This writer's last record.
    last: u64,
    /// This writer has been told to sync, and will be again.
    syncs: bool,
}

impl Recorded {
    /// Of a writer that creates its replica, or reopens one.
    pub const fn new(create: bool) -> Self {
        Self { marked: create, unrecorded: false, last: 0, syncs: false }
    }
}

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
        let old = self.length;
        let first = old - old % chunk_len;
        let mut sums = Vec::new();
        if old > first {
            let mut chunk = self.old_chunk(first)?;
            chunk.resize((end - first).min(chunk_len) as usize, 0);
            sums.extend_from_slice(&self.checksum.of(&chunk).to_be_bytes());
        }
        self.announce(first, end, false)?;
        self.change(first, end, |writer| {
            writer.files.data.set_len(end).map_err(disk(&writer.files.data_path))?;
            writer.put_sums(first, &sums)?;
            writer.put_zero_sums(old.next_multiple_of(chunk_len), end)
        })
    }

    /// Makes whole chunks zeros. `to` is on a chunk boundary or the replica's length.
    fn punch(&mut self, from: u64, to: u64) -> Result<(), DatanodeError> {
        if from >= to {
            return Ok(());
        }
        self.announce(from, to, false)?;
        self.change(from, to, |writer| {
            writer.punch_data(from, to)?;
            writer.put_zero_sums(from, to)
        })
    }

    fn punch_data(&self, from: u64, to: u64) -> Result<(), DatanodeError> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.files.data, flags, from as i64, (to - from) as i64) {
            Ok(()) => Ok(()),
            Err(Errno::EOPNOTSUPP) => {
                let zeros = vec![0; ZERO_PIECE_BYTES.min((to - from) as usize)];
                let mut at = from;
                while at < to {
                    let len = zeros.len().min((to - at) as usize);
                    self.files.data.write_all_at(&zeros[..len], at).map_err(disk(&self.files.data_path))?;
                    at += len as u64;
                }
                Ok(())
            }
            Err(errno) => Err(disk(&self.files.data_path)(errno.into())),
        }
    }

    /// Writes the checksums of the chunks from `first` on, and the header if that is due.
    fn put_sums(&mut self, first: u64, sums: &[u8]) -> Result<(), DatanodeError> {
        let at = meta_file::checksum_offset(self.checksum, first);
        if self.header_due && at == META_HEADER_BYTES as u64 {
            let mut raw = meta_file::encode_header(self.checksum).to_vec();
            raw.extend_from_slice(sums);
            self.files.meta.write_all_at(&raw, 0).map_err(disk(&self.files.meta_path))?;
            self.header_due = false;
            return Ok(());
        }
        self.write_header_if_due()?;
        self.files.meta.write_all_at(sums, at).map_err(disk(&self.files.meta_path))
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

    /// Whether data goes to the journal as a whole.
    fn is_recorded(&self, data_len: usize, overwrites: bool, sync: bool) -> bool {
        let syncs = self.recorded.as_ref().is_some_and(|recorded| recorded.syncs);
        let small = data_len <= RECORDED_BYTES && self.checksum.bytes_per_checksum() <= RECORDED_BYTES;
        small && (overwrites || sync || syncs)
    }

    /// Chunks of `first..end` are about to be changed. Before the first of the replica's old bytes is overwritten, the journal
    /// knows of it, on disk: a stop of the machine may undo the move to `random/`.
    fn announce(&mut self, first: u64, end: u64, to_record: bool) -> Result<(), DatanodeError> {
        let overwrites = first < self.length;
        let Some(recorded) = &mut self.recorded else {
            return Err(DatanodeError::Field("random_access"));
        };
        recorded.unrecorded |= !to_record;
        let must_be_on_disk = overwrites && !recorded.marked;
        if must_be_on_disk || (overwrites && !to_record) {
            self.note(Change::Intent { offset: first, len: end - first })?;
        }
        if must_be_on_disk {
            self.commit_records()?;
            self.recorded.iter_mut().for_each(|recorded| recorded.marked = true);
        }
        Ok(())
    }

    fn note(&mut self, change: Change<'_>) -> Result<(), DatanodeError> {
        let noted = self.dataset.journal(&self.open.volume).append(self.block, change, &self.files);
        let number = noted.inspect_err(|error| self.dataset.note_error(&self.open.volume, error))?;
        self.recorded.iter_mut().for_each(|recorded| recorded.last = number);
        Ok(())
    }

    /// Puts this writer's records on disk.
    pub(super) fn commit_records(&self) -> Result<(), DatanodeError> {
        let last = self.recorded.as_ref().map_or(0, |recorded| recorded.last);
        self.dataset
            .journal(&self.open.volume)
            .commit(last)
            .inspect_err(|error| self.dataset.note_error(&self.open.volume, error))
    }

    /// [`ReplicaWriter::sync`] with random access: what the journal has need not be put on disk in the files.
    pub(super) fn sync_recorded(&mut self) -> Result<(), DatanodeError> {
        let unrecorded = self.recorded.as_mut().is_some_and(|recorded| {
            recorded.syncs = true;
            std::mem::take(&mut recorded.unrecorded)
        });
        self.sync_names()?;
        if !unrecorded {
            return self.commit_records();
        }
        let journal = Arc::clone(self.dataset.journal(&self.open.volume));
        let up_to = journal.last();
        self.files
            .sync()
            .and_then(|()| journal.settle(self.block, up_to))
            .inspect_err(|error| self.dataset.note_error(&self.open.volume, error))
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
