//! Puts a closed replica on disk after the fact, for a writer that closed it first and wants it durable later.
//!
//! The files are opened anew. Linux tells an error of an earlier write-back to the first who syncs after it, whichever
//! descriptor that is, so nothing is hidden by that; but it tells it once, so a volume that failed is not asked again.

use std::fs::File;
use std::io;

use nix::errno::Errno;

use super::open_replica::{Home, data_path, meta_path};
use super::replica_map::{Closed, Entry};
use super::version_file::sync_dir;
use super::volume::Volume;
use super::{Dataset, layout};
use crate::error::{DatanodeError, disk};
use crate::replica::{BlockRef, ReplicaState, TransitionError};

/// Looks at the map before a missing file counts as missing: it may just be moving.
const OPEN_ATTEMPTS: usize = 3;

impl Dataset {
    /// Puts data, checksums and names of a finalized replica on disk. It must have at least the stamp of `asked`
    /// and at least `length` bytes.
    pub fn sync_replica(&self, asked: BlockRef, length: u64) -> Result<(), DatanodeError> {
        let mut attempts = OPEN_ATTEMPTS;
        loop {
            let closed = self.finalized(asked)?;
            if closed.stamp < asked.stamp {
                return Err(DatanodeError::StaleReplica { block: asked, here: closed.stamp });
            }
            if closed.length < length {
                let (end, length) = (length, closed.length);
                return Err(DatanodeError::Range { block: asked, offset: 0, end, length });
            }
            let volume = &self.volumes[usize::from(closed.volume)];
            let outcome = put_on_disk(volume, BlockRef { id: asked.id, stamp: closed.stamp });
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

    fn finalized(&self, asked: BlockRef) -> Result<Closed, DatanodeError> {
        loop {
            let open = match self.map.get(asked.id) {
                None => return Err(DatanodeError::ReplicaNotFound { block: asked }),
                Some(Entry::Closed(closed)) => return Ok(closed),
                Some(Entry::Open(open)) => open,
            };
            let state = open.lock();
            let block = state.replica.block();
            match state.replica.state() {
                _ if state.gone => {}
                ReplicaState::Temporary => return Err(DatanodeError::ReplicaNotFound { block: asked }),
                // Opened for a moment, by an order that changes nothing or has not changed it yet.
                ReplicaState::Finalized => {
                    return Ok(state.to_closed(&open.volume));
                }
                state @ (ReplicaState::Rbw | ReplicaState::Rwr | ReplicaState::Rur) => {
                    return Err(TransitionError::State { block, state }.into());
                }
            }
        }
    }
}

fn put_on_disk(volume: &Volume, block: BlockRef) -> Result<(), DatanodeError> {
    if volume.is_failed() {
        return Err(disk(volume.dir())(Errno::EIO.into()));
    }
    let (data_path, meta_path) =
        (data_path(volume, Home::Finalized, block), meta_path(volume, Home::Finalized, block));
    let data = File::open(&data_path).map_err(disk(&data_path))?;
    let meta = File::open(&meta_path).map_err(disk(&meta_path))?;
    data.sync_data().map_err(disk(&data_path))?;
    meta.sync_data().map_err(disk(&meta_path))?;
    // The directory, and the two above in case that they are new.
    layout::finalized_dir(volume.dir(), block.id).ancestors().take(3).try_for_each(sync_dir)
}
