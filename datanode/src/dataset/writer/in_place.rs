//! The steps of a writer at any offset in its two files.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::ReplicaWriter;
use crate::dataset::meta_file::{self, META_HEADER_BYTES};
use crate::error::{DatanodeError, disk};

/// Checksums of zeros written at a time.
const ZERO_SUMS_BYTES: usize = 64 << 10;

/// Zeros written at a time where no hole can be made.
const ZERO_PIECE_BYTES: usize = 64 << 10;

impl ReplicaWriter {
    /// Makes whole chunks zeros. `to` is on a chunk boundary or the replica's length.
    pub(super) fn punch(&mut self, from: u64, to: u64) -> Result<(), DatanodeError> {
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
    pub(super) fn put_sums(&mut self, first: u64, sums: &[u8]) -> Result<(), DatanodeError> {
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
    pub(super) fn put_zero_sums(&mut self, from: u64, to: u64) -> Result<(), DatanodeError> {
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
    pub(super) fn change(
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
        let overwrites = first < self.length;
        state.rewritten |= overwrites;
        // Of what is only added, what has no checksums yet is cut off at a start.
        let changed = if overwrites { self.in_hand(first..end, change) } else { change(self) };
        if let Err(error) = changed {
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
