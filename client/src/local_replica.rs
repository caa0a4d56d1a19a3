//! A replica on this machine, read through descriptors of its files.
//!
//! Every byte is verified against the `.meta` file, as one that came over the network is. A replica may be reopened and
//! overwritten while it is read here: data and checksum then disagree for a moment, so a mismatch is looked at again
//! before it counts; and what counts is only that the bytes are to be had over the network, where the datanode
//! serves data and checksums that belong together and finds out about real damage.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use dfs_proto::checksum::{Checksum, ChecksumMismatch};
use dfs_proto::data_transfer::META_HEADER_BYTES;

use crate::TransferFault;

/// Looks at a range whose checksums do not match. A writer needs microseconds between data and checksum.
const ATTEMPTS: usize = 3;

/// The two files.
#[derive(Debug)]
pub(crate) struct LocalReplica {
    data: File,
    meta: File,
    checksum: Checksum,
    /// Every byte was good at some time.
    verified: AtomicBool,
}

impl LocalReplica {
    pub(crate) fn new(data: File, meta: File, checksum: Checksum) -> Self {
        Self { data, meta, checksum, verified: AtomicBool::new(false) }
    }

    /// The data file.
    pub(crate) fn data(&self) -> &File {
        &self.data
    }

    /// Whether all of it was verified once.
    pub(crate) fn is_verified(&self) -> bool {
        self.verified.load(Ordering::Relaxed)
    }

    /// All of it was verified.
    pub(crate) fn set_verified(&self) {
        self.verified.store(true, Ordering::Relaxed);
    }

    /// Range that holds `offset..end` and can be verified: whole chunks, the last one up to `length`, the valid
    /// length of the block.
    pub(crate) fn chunk_range(&self, offset: u64, end: u64, length: u64) -> (u64, u64) {
        let chunk = self.checksum.bytes_per_checksum() as u64;
        (offset - offset % chunk, end.next_multiple_of(chunk).min(length))
    }

    /// Fills `into` from `offset`, which is on a chunk boundary; `into` ends on one or at the end of the block. `sums` is
    /// scratch space. Blocks the thread while the disk works.
    pub(crate) fn read_chunks(
        &self,
        into: &mut [u8],
        offset: u64,
        sums: &mut Vec<u8>,
    ) -> Result<(), TransferFault> {
        let mut mismatch = ChecksumMismatch { chunk: 0 };
        for _ in 0..ATTEMPTS {
            self.data.read_exact_at(into, offset).map_err(short)?;
            sums.resize(self.checksum.checksums_len(into.len()), 0);
            let chunk = offset / self.checksum.bytes_per_checksum() as u64;
            let at = META_HEADER_BYTES as u64 + chunk * self.checksum.checksum_size() as u64;
            self.meta.read_exact_at(sums, at).map_err(short)?;
            match self.checksum.verify(into, sums) {
                Ok(()) => return Ok(()),
                Err(bad) => mismatch = bad,
            }
        }
        Err(mismatch.into())
    }
}

/// A file that ends too early was cut meanwhile.
fn short(error: io::Error) -> TransferFault {
    TransferFault::Io(error.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use dfs_proto::checksum::ChecksumKind;

    use super::*;

    /// A replica of `data` with its `.meta` file.
    fn replica(data: &[u8]) -> LocalReplica {
        let checksum = Checksum::new(ChecksumKind::Crc32, 512).expect("valid");
        let mut sums = vec![0; META_HEADER_BYTES];
        checksum.append_checksums(data, &mut sums);
        let (mut data_file, mut meta_file) =
            (tempfile::tempfile().expect("file"), tempfile::tempfile().expect("file"));
        data_file.write_all(data).expect("write");
        meta_file.write_all(&sums).expect("write");
        LocalReplica::new(data_file, meta_file, checksum)
    }

    #[test]
    fn ranges_are_read_and_verified() {
        let data: Vec<u8> = (0..3000u32).map(|i| (i * 7) as u8).collect();
        let replica = replica(&data);
        let mut sums = Vec::new();
        for (offset, end) in [(0, 1), (511, 513), (0, 3000), (2999, 3000), (1024, 2048)] {
            let (from, to) = replica.chunk_range(offset, end, 3000);
            let mut into = vec![0; (to - from) as usize];
            replica.read_chunks(&mut into, from, &mut sums).expect("good");
            assert_eq!(into, data[from as usize..to as usize]);
        }
    }

    #[test]
    fn a_flipped_bit_and_a_cut_file_are_noticed() {
        let replica = replica(&[9; 2048]);
        let mut sums = Vec::new();
        replica.data.write_all_at(&[8], 700).expect("write");
        replica.read_chunks(&mut [0; 512], 0, &mut sums).expect("another chunk");
        let fault = replica.read_chunks(&mut [0; 512], 512, &mut sums).expect_err("damaged");
        assert!(fault.is_corruption(), "{fault}");
        replica.data.set_len(1024).expect("cut");
        let fault = replica.read_chunks(&mut [0; 1024], 1024, &mut sums).expect_err("cut");
        assert!(!fault.is_corruption(), "{fault}");
    }
}
