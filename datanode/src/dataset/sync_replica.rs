//! Puts a closed replica on disk after the fact, for a writer that closed it first and wants it durable later.
//!
//! The files are opened anew. Linux tells an error of an earlier write-back to the first who syncs after it, whichever
//! descriptor that is, so nothing is hidden by that; but it tells it once, so a volume that failed is not asked again.

use std::fs::File;
use std::io;

use nix::errno::Errno;

use super::Dataset;
use super::open_replica::{Home, OpenReplica, OpenState, data_path, meta_path};
use super::replica_map::{Closed, Entry};
use super::version_file::sync_dir;
use super::volume::Volume;
use crate::error::{DatanodeError, disk};
use crate::replica::{BlockRef, ReplicaState, TransitionError};

/// Looks at the map before a missing file counts as missing: it may just be moving.
const OPEN_ATTEMPTS: usize = 3;

impl Dataset {
    /// Puts data, checksums and names of a replica on disk that is finalized or written at any offset. It must have at least the stamp of `asked`
    /// and at least `length` bytes.
    pub fn sync_replica(&self, asked: BlockRef, length: u64) -> Result<(), DatanodeError> {
        let mut attempts = OPEN_ATTEMPTS;
        loop {
            let (closed, home) = self.syncable(asked)?;
            if closed.stamp < asked.stamp {
                return Err(DatanodeError::StaleReplica { block: asked, here: closed.stamp });
            }
            if closed.length < length {
                let (end, length) = (length, closed.length);
                return Err(DatanodeError::Range { block: asked, offset: 0, end, length });
            }
            let volume =
                &self.volume(closed.volume).ok_or(DatanodeError::ReplicaNotFound { block: asked })?;
            let here = BlockRef { id: asked.id, stamp: closed.stamp };
            let journal = self.journal(volume)?;
            let up_to = journal.last();
            let outcome = put_on_disk(volume, home, here).and_then(|()| journal.settle(here, up_to));
            attempts -= 1;
            match outcome {
                Err(DatanodeError::Disk { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && attempts > 0 => {}
                Err(error) => {
                    self.note_error(volume, &error);
                    return Err(error);
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Puts a replica's files on disk if the journal has records of it, and drops those: what comes next is not recorded.
    /// The replica's lock is held and it has no writer.
    pub(super) fn retire_records(&self, open: &OpenReplica, state: &OpenState) -> Result<(), DatanodeError> {
        let block = state.replica.block();
        let journal = self.journal(&open.volume)?;
        if !journal.is_live(block.id) {
            return Ok(());
        }
        let up_to = journal.last();
        let data_path = state.data_path(&open.volume);
        for path in [&data_path, &state.meta_path(&open.volume)] {
            File::open(path).and_then(|file| file.sync_data()).map_err(disk(path))?;
        }
        // Of a new replica the names may be in the journal alone.
        data_path.parent().map_or(Ok(()), sync_dir)?;
        journal.settle(block, up_to)
    }

    fn syncable(&self, asked: BlockRef) -> Result<(Closed, Home), DatanodeError> {
        loop {
            let open = match self.map.get(asked.id) {
                None => return Err(DatanodeError::ReplicaNotFound { block: asked }),
                Some(Entry::Closed(closed)) => return Ok((closed, closed.home())),
                Some(Entry::Open(open)) => open,
            };
            let state = open.lock();
            let block = state.replica.block();
            match state.replica.state() {
                _ if state.gone => {}
                ReplicaState::Temporary => return Err(DatanodeError::ReplicaNotFound { block: asked }),
                // Opened for a moment, by an order that changes nothing or has not changed it yet.
                ReplicaState::Finalized => {
                    return Ok((state.to_closed(&open.volume), state.home));
                }
                ReplicaState::Rbw if state.home == Home::Random => {
                    return Ok((state.to_closed(&open.volume), Home::Random));
                }
                state @ (ReplicaState::Rbw | ReplicaState::Rwr | ReplicaState::Rur) => {
                    return Err(TransitionError::State { block, state }.into());
                }
            }
        }
    }
}

fn put_on_disk(volume: &Volume, home: Home, block: BlockRef) -> Result<(), DatanodeError> {
    if volume.is_failed() {
        return Err(disk(volume.dir())(Errno::EIO.into()));
    }
    let (data_path, meta_path) = (data_path(volume, home, block), meta_path(volume, home, block));
    let data = File::open(&data_path).map_err(disk(&data_path))?;
    let meta = File::open(&meta_path).map_err(disk(&meta_path))?;
    data.sync_data().map_err(disk(&data_path))?;
    meta.sync_data().map_err(disk(&meta_path))?;
    // The directory, and the two above in case that they are new.
    data_path.ancestors().skip(1).take(3).try_for_each(sync_dir)
}
