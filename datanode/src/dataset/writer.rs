//! A replica open for writing: its two files and its share of the space.
//!
//! The receiver calls, for each packet: [`ReplicaWriter::place`], then [`ReplicaWriter::write_data`] for each
//! verified piece, then [`ReplicaWriter::commit`]. Nothing is visible to readers before `commit`, and nothing
//! unverified is written. Dropping the writer leaves the replica as it is, for recovery; a replica that was
//! being copied in is removed. A writer with random access has steps of its own: see [`random`].

mod copied;
mod in_place;
pub mod random;
mod recorded;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use dfs_proto::checksum::{CHECKSUM_BYTES, Checksum};
use dfs_proto::v1::ReplicaEvent;

use self::recorded::Recorded;
use super::meta_file::{self, META_HEADER_BYTES};
use super::open_replica::{Home, OpenReplica, OpenState, WriterToken};
use super::version_file::sync_dir;
use super::{Dataset, files, layout};
use crate::error::{DatanodeError, disk};
use crate::journal::ReplicaFiles;
use crate::replica::{BlockRef, ReplicaState};

/// Bytes written beyond the promised ones between two looks at the volume's free space.
const SPACE_CHECK_BYTES: u64 = 8 << 20;

/// Where a packet's data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The replica has it already: sent again after a failure elsewhere.
    Known,
    /// Starts on a chunk boundary.
    Aligned,
    /// Goes on in the middle of a chunk and ends in it.
    Continued,
}

/// A replica open for writing.
#[derive(Debug)]
pub struct ReplicaWriter {
    dataset: Arc<Dataset>,
    open: Arc<OpenReplica>,
    token: Arc<WriterToken>,
    block: BlockRef,
    checksum: Checksum,
    /// Checksums that packets carry: the same, unless the writer writes at any offset.
    carried: Checksum,
    files: Arc<ReplicaFiles>,
    /// With random access, what the journal has of this writer.
    recorded: Option<Recorded>,
    length: u64,
    partial_sum: u32,
    /// Physical end of the data file.
    data_end: u64,
    /// End of the data copied in, holes included.
    copied_end: u64,
    /// With random access: the kernel was told to begin to write what was added before this.
    begun: u64,
    header_due: bool,
    names_synced: bool,
    promised: u64,
    unpromised: u64,
    sums: Vec<u8>,
    merged: Vec<u8>,
}

impl ReplicaWriter {
    /// Opens the files of a replica whose lock is held and which has no writer, and makes this the writer.
    /// `promised` bytes of the volume were promised to it. The files match the state's length.
    pub(super) fn open(
        dataset: &Arc<Dataset>,
        open: &Arc<OpenReplica>,
        state: &mut OpenState,
        checksum: Checksum,
        promised: u64,
        create: bool,
    ) -> Result<Self, DatanodeError> {
        let (data_path, meta_path) = (state.data_path(&open.volume), state.meta_path(&open.volume));
        let mut options = File::options();
        options.read(true).write(true).create(create).truncate(create);
        let data = options.open(&data_path).map_err(disk(&data_path))?;
        let meta = options.open(&meta_path).map_err(disk(&meta_path))?;
        let length = state.replica.length();
        let block = state.replica.block();
        let mut header_due = true;
        let mut partial_sum = 0;
        let carried = checksum;
        let mut checksum = checksum;
        let random = state.home == Home::Random;
        if !create && meta.metadata().map_err(disk(&meta_path))?.len() > 0 {
            header_due = false;
            let here = files::read_checksum(&meta, &meta_path)?;
            if random {
                checksum = here;
            } else if here != checksum {
                return Err(DatanodeError::ChecksumDiffers {
                    block,
                    here: format!("{here:?}"),
                    asked: format!("{checksum:?}"),
                });
            }
            partial_sum = files::read_partial_sum(&meta, &meta_path, checksum, length)?;
        }
        let recorded = match random {
            true => Some(Recorded::new(create, dataset.journal(&open.volume)?.slot())),
            false => None,
        };
        let token = Arc::new(WriterToken::default());
        state.writer = Some(Arc::clone(&token));
        state.checksum = Some(checksum);
        state.partial_sum = partial_sum;
        Ok(Self {
            dataset: Arc::clone(dataset),
            open: Arc::clone(open),
            token,
            block,
            checksum,
            carried,
            files: Arc::new(ReplicaFiles {
                data: Arc::new(data),
                data_path,
                meta: Arc::new(meta),
                meta_path,
            }),
            recorded,
            length,
            partial_sum,
            data_end: length,
            copied_end: 0,
            begun: length,
            header_due,
            names_synced: false,
            promised,
            unpromised: 0,
            sums: Vec::new(),
            merged: Vec::new(),
        })
    }

    /// Replica.
    pub const fn block(&self) -> BlockRef {
        self.block
    }

    /// How it is checksummed.
    pub const fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// Bytes with checksums.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Storage it is on.
    pub fn storage_id(&self) -> &str {
        self.open.volume.storage_id()
    }

    /// How this writer is told to stop.
    pub fn token(&self) -> &Arc<WriterToken> {
        &self.token
    }

    /// Checks where a packet belongs.
    pub fn place(&self, offset: u64, data_len: u32, checksums_len: usize) -> Result<Place, DatanodeError> {
        let chunk_len = self.checksum.bytes_per_checksum() as u64;
        let end = offset + u64::from(data_len);
        let in_chunk = offset % chunk_len;
        let fits = checksums_len == self.checksum.checksums_len(data_len as usize)
            && offset <= self.length
            && (in_chunk == 0 || in_chunk + u64::from(data_len) <= chunk_len);
        if !fits {
            return Err(DatanodeError::PacketPlace {
                block: self.block,
                offset,
                data_len,
                checksums_len,
                length: self.length,
            });
        }
        Ok(if end <= self.length {
            Place::Known
        } else if in_chunk == 0 {
            Place::Aligned
        } else {
            Place::Continued
        })
    }

    /// Writes verified data.
    pub fn write_data(&mut self, data: &[u8], offset: u64) -> Result<(), DatanodeError> {
        if self.token.is_stopped() {
            return Err(DatanodeError::WriterStopped { block: self.block });
        }
        self.open.volume.note_use();
        if let Err(source) = self.files.data.write_all_at(data, offset) {
            let error = disk(&self.files.data_path)(source);
            self.dataset.note_error(&self.open.volume, &error);
            return Err(error);
        }
        self.data_end = self.data_end.max(offset + data.len() as u64);
        Ok(())
    }

    /// Checksum of the chunk that `data` at `offset` goes on in.
    pub fn continued_sum(&self, offset: u64, data: &[u8]) -> Result<u32, DatanodeError> {
        let chunk_len = self.checksum.bytes_per_checksum() as u64;
        let head = if offset == self.length {
            self.partial_sum
        } else {
            let start = offset - offset % chunk_len;
            let mut head = vec![0u8; (offset - start) as usize];
            self.files.data.read_exact_at(&mut head, start).map_err(disk(&self.files.data_path))?;
            self.checksum.of(&head)
        };
        Ok(meta_file::extend(self.checksum, head, data))
    }

    /// The packet's data has been written: writes its checksums and shows it to readers. `sums` are those of
    /// all chunks from the one with `offset` on.
    pub fn commit(&mut self, offset: u64, data_len: u32, sums: &[u8]) -> Result<(), DatanodeError> {
        let end = offset + u64::from(data_len);
        let chunk_len = self.checksum.bytes_per_checksum() as u64;
        let short = !end.is_multiple_of(chunk_len);
        self.take_space(u64::from(data_len))?;
        let mut at = meta_file::checksum_offset(self.checksum, offset);
        self.sums.clear();
        if self.header_due {
            self.sums.extend_from_slice(&meta_file::encode_header(self.checksum));
            at -= META_HEADER_BYTES as u64;
        }
        self.sums.extend_from_slice(sums);

        let mut state = self.open.lock();
        if self.token.is_stopped() {
            return Err(DatanodeError::WriterStopped { block: self.block });
        }
        if let Err(source) = self.files.meta.write_all_at(&self.sums, at) {
            drop(state);
            let error = disk(&self.files.meta_path)(source);
            self.dataset.note_error(&self.open.volume, &error);
            return Err(error);
        }
        self.header_due = false;
        self.open.volume.add_used(end.saturating_sub(self.length));
        self.length = end;
        self.partial_sum = match sums.last_chunk::<CHECKSUM_BYTES>() {
            Some(last) if short => u32::from_be_bytes(*last),
            _ => 0,
        };
        state.replica.received(end);
        state.partial_sum = self.partial_sum;
        self.open.notify(&state);
        Ok(())
    }

    fn take_space(&mut self, bytes: u64) -> Result<(), DatanodeError> {
        let from_promise = bytes.min(self.promised);
        self.open.volume.release(from_promise);
        self.promised -= from_promise;
        let before = self.unpromised / SPACE_CHECK_BYTES;
        self.unpromised += bytes - from_promise;
        if self.unpromised / SPACE_CHECK_BYTES > before && self.open.volume.space()?.remaining == 0 {
            return Err(DatanodeError::NoSpace { id: self.block.id, needed: bytes });
        }
        Ok(())
    }

    /// All members from here on have everything up to `end`.
    pub fn acknowledged(&self, end: u64) {
        self.open.lock().replica.acknowledged(end);
    }

    /// Puts data, checksums and, the first time, the names on disk.
    pub fn sync(&mut self) -> Result<(), DatanodeError> {
        self.write_header_if_due()?;
        if self.recorded.is_some() {
            return self.sync_recorded();
        }
        let synced = self
            .files
            .data
            .sync_data()
            .map_err(disk(&self.files.data_path))
            .and_then(|()| self.files.meta.sync_data().map_err(disk(&self.files.meta_path)));
        if let Err(error) = synced {
            self.dataset.note_error(&self.open.volume, &error);
            return Err(error);
        }
        self.sync_names()
    }

    fn sync_names(&mut self) -> Result<(), DatanodeError> {
        if !self.names_synced {
            if let Some(dir) = self.files.data_path.parent() {
                sync_dir(dir)?;
            }
            self.names_synced = true;
        }
        Ok(())
    }

    fn write_header_if_due(&mut self) -> Result<(), DatanodeError> {
        if self.header_due {
            let header = meta_file::encode_header(self.checksum);
            self.files.meta.write_all_at(&header, 0).map_err(disk(&self.files.meta_path))?;
            self.header_due = false;
        }
        Ok(())
    }

    /// Closes the replica; with `durable`, everything incl. its final name is on disk on return.
    pub fn finalize(mut self, durable: bool) -> Result<(), DatanodeError> {
        self.write_header_if_due()?;
        self.end_with_hole()?;
        if self.data_end > self.length {
            self.files.data.set_len(self.length).map_err(disk(&self.files.data_path))?;
        }
        if durable {
            self.sync()?;
        }
        self.settle_overwrites()?;
        let volume = Arc::clone(&self.open.volume);
        let open = Arc::clone(&self.open);
        let mut state = open.lock();
        if self.token.is_stopped() {
            return Err(DatanodeError::WriterStopped { block: self.block });
        }
        let mut next = state.replica.clone();
        next.finalize()?;
        files::relocate(&volume, (state.home, self.block), (Home::Finalized, self.block))?;
        if durable {
            let dir = layout::finalized_dir(volume.dir(), self.block.id);
            dir.ancestors().take(3).try_for_each(sync_dir)?;
        }
        state.replica = next;
        state.home = Home::Finalized;
        state.writer = None;
        state.gone = true;
        let closed = state.to_closed(&volume);
        self.dataset.map.replace_open(self.block.id, &self.open, Some(closed));
        open.notify(&state);
        drop(state);
        self.dataset.changed(ReplicaEvent::Received, self.block, self.length, &volume);
        Ok(())
    }

    /// A replica that was copied in joins a pipeline.
    pub fn become_rbw(mut self) -> Result<(), DatanodeError> {
        self.write_header_if_due()?;
        self.end_with_hole()?;
        let open = Arc::clone(&self.open);
        let mut state = open.lock();
        if self.token.is_stopped() {
            return Err(DatanodeError::WriterStopped { block: self.block });
        }
        let mut next = state.replica.clone();
        next.become_rbw()?;
        files::relocate(&open.volume, (state.home, self.block), (Home::Rbw, self.block))?;
        state.replica = next;
        state.home = Home::Rbw;
        Ok(())
    }

    /// Undoes the creation of a replica whose pipeline could not be set up.
    pub fn discard(self) -> Result<(), DatanodeError> {
        let open = Arc::clone(&self.open);
        let mut state = open.lock();
        if state.replica.length() > 0 || self.token.is_stopped() {
            return Ok(());
        }
        self.dataset.remove_files(&open, &mut state)
    }
}

impl Drop for ReplicaWriter {
    fn drop(&mut self) {
        self.open.volume.release(self.promised);
        let open = Arc::clone(&self.open);
        let mut state = open.lock();
        if state.writer.as_ref().is_some_and(|w| Arc::ptr_eq(w, &self.token)) {
            state.writer = None;
        }
        if !state.gone
            && state.replica.state() == ReplicaState::Temporary
            && let Err(error) = self.dataset.remove_files(&open, &mut state)
        {
            tracing::warn!(block = %self.block, %error, "unfinished copy cannot be removed");
        }
        open.notify(&state);
    }
}
