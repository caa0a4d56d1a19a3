//! A replica open for reading: a fixed range of bytes with checksums that fit, whatever writers do meanwhile.

mod consistent;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_proto::checksum::{CHECKSUM_BYTES, Checksum, ChecksumKind};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::Dataset;
use super::meta_file::{self, MetaError};
use super::open_replica::{Home, OpenReplica, data_path, meta_path};
use super::replica_map::{Closed, Entry};
use super::volume::Volume;
use crate::error::{DatanodeError, disk};
use crate::replica::{BlockRef, ReplicaState};

/// How long a reader waits for bytes that another pipeline member has acknowledged and this one is
/// about to write.
const WAIT_FOR_LENGTH: Duration = Duration::from_secs(3);

/// Looks at the map before a missing file counts as missing: it may just be moving.
const OPEN_ATTEMPTS: usize = 3;

/// Bytes of the `.meta` file read at once with its header: all checksums of 4 MiB of data.
const META_HEAD_BYTES: usize = 4096;

/// Replicas up to this size are fetched from the disk as soon as they are opened.
const AHEAD_BYTES: u64 = 64 << 10;

/// A replica open for reading.
#[derive(Debug)]
pub struct ReadHandle {
    block: BlockRef,
    volume: Arc<Volume>,
    length: u64,
    checksum: Checksum,
    data: File,
    data_path: PathBuf,
    meta: File,
    meta_path: PathBuf,
    meta_head: Vec<u8>,
    /// Checksum of the short last chunk, when the file may have a later one.
    last_sum: Option<u32>,
    finalized: bool,
    /// Finalized, and overwritten before.
    rewritten: bool,
    /// The replica may be overwritten while it is read: its lock.
    overwritten: Option<Arc<OpenReplica>>,
}

impl Dataset {
    /// Opens a replica with at least the stamp of `asked` and waits a while until it has `end` bytes.
    pub fn open_read(&self, asked: BlockRef, end: u64) -> Result<ReadHandle, DatanodeError> {
        let deadline = Instant::now() + WAIT_FOR_LENGTH;
        let mut attempts = OPEN_ATTEMPTS;
        loop {
            let error = match self.map.get(asked.id) {
                None => return Err(DatanodeError::ReplicaNotFound { block: asked }),
                Some(Entry::Closed(closed)) => match self.open_closed(asked, closed) {
                    Ok(handle) => return Ok(handle),
                    Err(error) => error,
                },
                Some(Entry::Open(open)) => {
                    let mut state = open.lock();
                    while state.replica.length() < end
                        && !state.gone
                        && state.writer.is_some()
                        && !state.is_newer(asked)
                    {
                        match open.wait_until(state, deadline) {
                            Some(again) => state = again,
                            None => {
                                state = open.lock();
                                break;
                            }
                        }
                    }
                    if state.gone {
                        continue;
                    }
                    if state.replica.state() == ReplicaState::Temporary {
                        return Err(DatanodeError::ReplicaNotFound { block: asked });
                    }
                    check_stamp(asked, state.replica.block())?;
                    let last_sum = state.known_sum();
                    let mut handle = ReadHandle::open(
                        &open.volume,
                        state.home,
                        state.replica.block(),
                        state.replica.length(),
                        state.checksum,
                    )?;
                    handle.last_sum = last_sum;
                    if state.home == Home::Random {
                        // Checksums are read together with the data.
                        handle.meta_head.clear();
                        handle.overwritten = Some(Arc::clone(&open));
                    }
                    return Ok(handle);
                }
            };
            attempts -= 1;
            let missing = matches!(&error, DatanodeError::Disk { source, .. } if source.kind() == io::ErrorKind::NotFound);
            if missing && attempts > 0 {
                continue;
            }
            if let Some(Entry::Closed(closed)) = self.map.get(asked.id)
                && let Some(volume) = &self.volume(closed.volume)
            {
                self.note_read_error(volume, &error);
                if error.is_damage() {
                    let here = BlockRef { id: asked.id, stamp: closed.stamp };
                    self.report_bad(here, closed.length, volume.storage_id(), &error);
                }
            }
            return Err(error);
        }
    }

    fn open_closed(&self, asked: BlockRef, closed: Closed) -> Result<ReadHandle, DatanodeError> {
        let here = BlockRef { id: asked.id, stamp: closed.stamp };
        check_stamp(asked, here)?;
        let volume = &self.volume(closed.volume).ok_or(DatanodeError::ReplicaNotFound { block: asked })?;
        let mut handle = ReadHandle::open(volume, closed.home(), here, closed.length, None)?;
        handle.finalized = true;
        handle.rewritten = closed.rewritten;
        Ok(handle)
    }

    /// Whether a handle is as good as a new one: its replica was finalized and is unchanged.
    pub fn is_current(&self, handle: &ReadHandle, asked: BlockRef) -> bool {
        handle.finalized
            && handle.block.id == asked.id
            && handle.block.stamp >= asked.stamp
            && matches!(self.map.get(asked.id), Some(Entry::Closed(closed))
                if closed.stamp == handle.block.stamp && closed.length == handle.length)
    }

    /// Verifies a whole replica and reports it if it is damaged. A replica being written is left alone.
    pub fn verify(&self, asked: BlockRef) -> Result<(), DatanodeError> {
        let handle = self.open_read(asked, 0)?;
        if !handle.finalized {
            return Ok(());
        }
        handle.verify().inspect_err(|error| self.report_if_damaged(&handle, error))
    }

    /// Reports the replica if this failure to read it says that it is damaged. One that has been cut, reopened
    /// or deleted in the meantime is not.
    pub fn report_if_damaged(&self, handle: &ReadHandle, error: &DatanodeError) {
        if error.is_damage() && self.is_current(handle, handle.block) {
            self.note_read_error(&handle.volume, error);
            self.report_bad(handle.block, handle.length, handle.storage_id(), error);
        }
    }
}

fn check_stamp(asked: BlockRef, here: BlockRef) -> Result<(), DatanodeError> {
    if here.stamp < asked.stamp {
        return Err(DatanodeError::StaleReplica { block: asked, here: here.stamp });
    }
    Ok(())
}

impl ReadHandle {
    fn open(
        volume: &Arc<Volume>,
        home: Home,
        block: BlockRef,
        length: u64,
        known: Option<Checksum>,
    ) -> Result<Self, DatanodeError> {
        volume.note_use();
        let (data_path, meta_path) = (data_path(volume, home, block), meta_path(volume, home, block));
        let data = File::open(&data_path).map_err(disk(&data_path))?;
        if length <= AHEAD_BYTES {
            // All of it will be wanted: the disk fetches it while it fetches the checksums. Only advice.
            let _ = posix_fadvise(&data, 0, 0, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
        }
        let meta = File::open(&meta_path).map_err(disk(&meta_path))?;
        // No more than the header and the checksums that there can be.
        let mut meta_head = vec![0u8; META_HEAD_BYTES];
        // One call: what a short one leaves out is read when it is needed.
        let have = meta.read_at(&mut meta_head, 0).map_err(disk(&meta_path))?;
        meta_head.truncate(have);
        let checksum = match (meta_file::decode_header(&meta_head), known) {
            (Ok(checksum), _) => checksum,
            (Err(_), Some(known)) if length == 0 => known,
            (Err(source), _) => return Err(DatanodeError::Meta { path: meta_path, source }),
        };
        Ok(Self {
            block,
            volume: Arc::clone(volume),
            length,
            checksum,
            data,
            data_path,
            meta,
            meta_path,
            meta_head,
            last_sum: None,
            finalized: false,
            rewritten: false,
            overwritten: None,
        })
    }

    /// Whether the replica may be overwritten while it is read. Pieces must then be read with
    /// [`Dataset::read_consistent`].
    pub const fn may_be_overwritten(&self) -> bool {
        self.overwritten.is_some() || self.rewritten
    }

    /// Replica.
    pub const fn block(&self) -> BlockRef {
        self.block
    }

    /// Bytes that can be read.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// How it is checksummed.
    pub const fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// Whether the replica is closed.
    pub const fn is_finalized(&self) -> bool {
        self.finalized
    }

    /// The data file.
    pub const fn data(&self) -> &File {
        &self.data
    }

    /// The `.meta` file.
    pub const fn meta(&self) -> &File {
        &self.meta
    }

    /// Reads exactly the bytes from `offset` on.
    pub fn read_data(&self, buf: &mut [u8], offset: u64) -> Result<(), DatanodeError> {
        self.volume.note_use();
        let have = meta_file::read_up_to(&self.data, buf, offset).map_err(disk(&self.data_path))?;
        if have < buf.len() {
            return Err(self.ends_at(offset + have as u64));
        }
        Ok(())
    }

    /// The failure that the data file ends at `offset`, before the replica does: damage, told as such.
    pub const fn ends_at(&self, offset: u64) -> DatanodeError {
        DatanodeError::Checksum { block: self.block, offset }
    }

    /// A failure of the data file.
    pub fn failed(&self, source: io::Error) -> DatanodeError {
        disk(&self.data_path)(source)
    }

    /// Appends the checksums of `start..end` to `out`. `start` is on a chunk boundary, and `end` too unless
    /// it is the length.
    pub fn checksums(&self, start: u64, end: u64, out: &mut Vec<u8>) -> Result<(), DatanodeError> {
        let wanted = self.checksum.checksums_len((end - start) as usize);
        let first = out.len();
        let at = meta_file::checksum_offset(self.checksum, start);
        let head_at = usize::try_from(at).unwrap_or(usize::MAX);
        if let Some(sums) = head_at.checked_add(wanted).and_then(|e| self.meta_head.get(head_at..e)) {
            out.extend_from_slice(sums);
        } else {
            out.resize(first + wanted, 0);
            let have =
                meta_file::read_up_to(&self.meta, &mut out[first..], at).map_err(disk(&self.meta_path))?;
            let missing_last =
                have + CHECKSUM_BYTES == wanted && self.last_sum.is_some() && end == self.length;
            if have < wanted && !missing_last {
                let chunks = (have / CHECKSUM_BYTES) as u64;
                let byte = start + chunks * self.checksum.bytes_per_checksum() as u64;
                return Err(DatanodeError::Meta {
                    path: self.meta_path.clone(),
                    source: MetaError::Missing(byte),
                });
            }
        }
        if let Some(sum) = self.last_sum
            && wanted >= CHECKSUM_BYTES
            && end == self.length
            && !end.is_multiple_of(self.checksum.bytes_per_checksum() as u64)
        {
            let last = out.len() - CHECKSUM_BYTES;
            out[last..].copy_from_slice(&sum.to_be_bytes());
        }
        Ok(())
    }

    /// Range that holds `offset..end` and can be verified: whole chunks, the last one up to the length.
    pub fn chunk_range(&self, offset: u64, end: u64) -> (u64, u64) {
        let chunk = self.checksum.bytes_per_checksum() as u64;
        let start = offset - offset % chunk;
        (start, end.next_multiple_of(chunk).min(self.length).max(start))
    }

    /// Reads everything and checks it.
    pub fn verify(&self) -> Result<(), DatanodeError> {
        let chunk = self.checksum.bytes_per_checksum();
        let step = chunk * ((1 << 20) / chunk).max(1);
        let mut buf = vec![0u8; step];
        let mut sums = Vec::new();
        let mut offset = 0;
        while offset < self.length {
            let end = (offset + step as u64).min(self.length);
            let piece = &mut buf[..(end - offset) as usize];
            sums.clear();
            self.checksums(offset, end, &mut sums)?;
            self.read_data(piece, offset)?;
            self.check(piece, offset, &sums)?;
            offset = end;
        }
        Ok(())
    }

    /// Checks data read from `offset` against its checksums.
    pub fn check(&self, data: &[u8], offset: u64, sums: &[u8]) -> Result<(), DatanodeError> {
        if self.checksum.kind() == ChecksumKind::Null {
            return Ok(());
        }
        self.checksum.verify(data, sums).map_err(|bad| DatanodeError::Checksum {
            block: self.block,
            offset: offset + (bad.chunk * self.checksum.bytes_per_checksum()) as u64,
        })
    }

    /// Its volume is in use: told before each large read that is not made through this.
    pub fn note_use(&self) {
        self.volume.note_use();
    }

    /// Storage it is on.
    pub fn storage_id(&self) -> &str {
        self.volume.storage_id()
    }

    /// The same replica as if it ended at `length`, with a checksum for the chunk that is cut, after that
    /// chunk has been verified. `None`: it does end there.
    pub fn prefix(&self, length: u64) -> Result<Option<Self>, DatanodeError> {
        if length >= self.length {
            return Ok(None);
        }
        let chunk_len = self.checksum.bytes_per_checksum() as u64;
        let mut last_sum = None;
        let tail = length % chunk_len;
        if tail > 0 {
            let start = length - tail;
            let end = (start + chunk_len).min(self.length);
            let mut chunk = vec![0u8; (end - start) as usize];
            let mut sums = Vec::new();
            self.read_data(&mut chunk, start)?;
            self.checksums(start, end, &mut sums)?;
            self.check(&chunk, start, &sums)?;
            last_sum = Some(self.checksum.of(&chunk[..tail as usize]));
        }
        Ok(Some(Self {
            block: self.block,
            volume: Arc::clone(&self.volume),
            length,
            checksum: self.checksum,
            data: self.data.try_clone().map_err(disk(&self.data_path))?,
            data_path: self.data_path.clone(),
            meta: self.meta.try_clone().map_err(disk(&self.meta_path))?,
            meta_path: self.meta_path.clone(),
            meta_head: self.meta_head.clone(),
            last_sum,
            finalized: false,
            rewritten: self.rewritten,
            overwritten: self.overwritten.clone(),
        }))
    }
}
