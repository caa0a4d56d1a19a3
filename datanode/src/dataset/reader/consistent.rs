//! Reading replicas that are overwritten meanwhile: data and checksums of one version.
//!
//! While it is written, a replica is read under its lock. One that is closed is read without, and it counts only if the
//! replica is still the same afterwards: reopening it changes its stamp.

use dfs_proto::checksum::{CHECKSUM_BYTES, Checksum};

use super::ReadHandle;
use crate::dataset::Dataset;
use crate::error::DatanodeError;
use crate::replica::BlockRef;

/// How often a reader follows a replica that is closed and reopened under its hands, in one read.
const MAX_REOPENINGS: usize = 100;

/// Verified at a time.
const VERIFIED_BYTES: usize = 1 << 20;

impl Dataset {
    /// Reads data of `start..start + data.len()` and appends its checksums to `sums`, both of one version of the replica,
    /// whatever writers do. `start` is on a chunk boundary. The handle is replaced if its replica has been closed or
    /// reopened meanwhile.
    pub fn read_consistent(
        &self,
        handle: &mut ReadHandle,
        data: &mut [u8],
        start: u64,
        sums: &mut Vec<u8>,
    ) -> Result<(), DatanodeError> {
        let end = start + data.len() as u64;
        let first_sum = sums.len();
        for _ in 0..MAX_REOPENINGS {
            sums.truncate(first_sum);
            match &handle.overwritten {
                Some(open) => {
                    let state = open.lock();
                    if !state.gone {
                        return handle.read_with_sums(data, start, state.replica.length(), sums);
                    }
                }
                None if handle.finalized => {
                    let outcome = handle.read_with_sums(data, start, handle.length, sums);
                    if self.is_current(handle, handle.block) {
                        return outcome;
                    }
                }
                None => {
                    handle.read_data(data, start)?;
                    return handle.checksums(start, end, sums);
                }
            }
            *handle = self.open_read(handle.block, end)?;
        }
        Err(DatanodeError::WriterBusy { block: handle.block })
    }

    /// Checksums of the first `asked` bytes of a replica, or of all if it has fewer or `asked` is `None`, with the length
    /// that they are for.
    pub fn prefix_checksums(
        &self,
        block: BlockRef,
        asked: Option<u64>,
    ) -> Result<(Checksum, Vec<u8>, u64), DatanodeError> {
        for _ in 0..MAX_REOPENINGS {
            let handle = self.open_read(block, 0)?;
            let state = handle.overwritten.as_ref().map(|open| open.lock());
            if state.as_ref().is_some_and(|s| s.gone || s.replica.length() != handle.length) {
                continue;
            }
            let length = asked.unwrap_or(u64::MAX).min(handle.length);
            let prefix = handle.prefix(length)?;
            let mut sums = Vec::new();
            prefix.as_ref().unwrap_or(&handle).checksums(0, length, &mut sums)?;
            return Ok((handle.checksum, sums, length));
        }
        Err(DatanodeError::WriterBusy { block })
    }
}

impl Dataset {
    /// Reads the first `asked` bytes of a replica that nobody writes, or all of it, and compares them with their checksums. A
    /// closed one that does not fit them is reported.
    pub fn verify_prefix(&self, block: BlockRef, asked: Option<u64>) -> Result<(), DatanodeError> {
        let whole = self.open_read(block, 0)?;
        self.compare_prefix(&whole, asked).inspect_err(|error| self.report_if_damaged(&whole, error))
    }

    fn compare_prefix(&self, whole: &ReadHandle, asked: Option<u64>) -> Result<(), DatanodeError> {
        let length = asked.unwrap_or(u64::MAX).min(whole.length);
        let prefix = whole.prefix(length)?;
        let handle = prefix.as_ref().unwrap_or(whole);
        let chunk_len = handle.checksum.bytes_per_checksum();
        let mut data = vec![0; (VERIFIED_BYTES / chunk_len).max(1) * chunk_len];
        let mut sums = Vec::new();
        let mut start = 0;
        while start < length {
            let count = (length - start).min(data.len() as u64);
            let read = &mut data[..count as usize];
            handle.read_data(read, start)?;
            sums.clear();
            handle.checksums(start, start + count, &mut sums)?;
            handle.check(read, start, &sums)?;
            start += count;
        }
        Ok(())
    }
}

impl ReadHandle {
    /// Reads data and checksums of a replica of `length` bytes that does not change meanwhile. A chunk that is read in part
    /// gets a checksum of that part, after it has been verified.
    fn read_with_sums(
        &self,
        data: &mut [u8],
        start: u64,
        length: u64,
        sums: &mut Vec<u8>,
    ) -> Result<(), DatanodeError> {
        let end = start + data.len() as u64;
        if end > length {
            return Err(self.ends_at(length));
        }
        self.read_data(data, start)?;
        let chunk_len = self.checksum.bytes_per_checksum() as u64;
        let tail = end % chunk_len;
        if tail == 0 || end == length {
            return self.checksums(start, end, sums);
        }
        let last = end - tail;
        self.checksums(start, last, sums)?;
        let mut chunk = vec![0; chunk_len.min(length - last) as usize];
        let mut stored = Vec::with_capacity(CHECKSUM_BYTES);
        self.read_data(&mut chunk, last)?;
        self.checksums(last, last + chunk.len() as u64, &mut stored)?;
        self.check(&chunk, last, &stored)?;
        sums.extend_from_slice(&self.checksum.of(&chunk[..tail as usize]).to_be_bytes());
        Ok(())
    }
}
