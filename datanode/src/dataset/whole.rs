//! Small blocks that come whole: closed replicas from the start, without a stay among those being written.
//!
//! A replica that is written for a while is found by the scan at start in a directory of its own, and moves when it is closed. One
//! whose bytes are all here, verified, before its files are made needs no such place, and two renames less. It stays where
//! it was made: `small/` has directories in many of the file system's inode groups (see `spread.rs`), `finalized/` few that are in
//! use at a time. What a crash can leave: checksums without data, which the scan removes, or checksums with data that is cut
//! off, of a replica that nobody was told of; the namenode finds it shorter than its block, or without one. One that is to be
//! on disk before anybody is told goes to the volume's journal as well: one flush, which others share, instead of four.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use dfs_proto::checksum::Checksum;
use dfs_proto::v1::ReplicaEvent;

use super::Dataset;
use super::meta_file;
use super::open_replica::{Home, OpenReplica, OpenState};
use crate::error::{DatanodeError, disk};
use crate::journal::ReplicaFiles;
use crate::journal::record::Change;
use crate::replica::{BlockRef, Replica};

/// Content of a small block, verified.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    /// Bytes.
    pub data: &'a [u8],
    /// One checksum a chunk.
    pub sums: &'a [u8],
    /// How it is checksummed.
    pub checksum: Checksum,
    /// It is on disk before it is there.
    pub durable: bool,
}

impl Dataset {
    /// Makes a closed replica. `false`: something of this block is here, and nothing was done.
    pub fn create_whole(
        self: &Arc<Self>,
        block: BlockRef,
        whole: Whole<'_>,
        storage_id: Option<&str>,
    ) -> Result<bool, DatanodeError> {
        let length = whole.data.len() as u64;
        let volume = self.choose_volume(block.id, length, storage_id)?;
        let replica = Replica::create(block);
        let open =
            Arc::new(OpenReplica::new(Arc::clone(&volume), replica, Home::Small, Some(whole.checksum)));
        let mut state = open.lock();
        if self.map.insert_open(block.id, &open).is_some() {
            volume.release(length);
            return Ok(false);
        }
        let made = self.bury(block.id).and_then(|()| make(&open, &state, whole)).and_then(|files| {
            if whole.durable { self.put_in_journal(&open, block, whole, files) } else { Ok(()) }
        });
        volume.release(length);
        let mut next = state.replica.clone();
        next.received(length);
        if let Err(error) = made.and_then(|()| Ok(next.finalize()?)) {
            self.note_error(&volume, &error);
            if let Err(second) = self.remove_files(&open, &mut state) {
                tracing::warn!(%block, error = %second, "failed creation leaves files");
            }
            return Err(error);
        }
        volume.add_used(length);
        state.replica = next;
        state.gone = true;
        self.map.replace_open(block.id, &open, Some(state.to_closed(&volume)));
        open.notify(&state);
        drop(state);
        self.changed(ReplicaEvent::Received, block, length, &volume);
        Ok(true)
    }

    /// Puts a replica on disk in its volume's journal.
    fn put_in_journal(
        &self,
        open: &OpenReplica,
        block: BlockRef,
        whole: Whole<'_>,
        files: ReplicaFiles,
    ) -> Result<(), DatanodeError> {
        let (journal, files) = (self.journal(&open.volume)?, Arc::new(files));
        let Whole { data, sums, checksum, .. } = whole;
        // In this order: a replica that is made again has its bytes.
        journal.append(block, Change::Write { checksum, offset: 0, sums, data }, &files)?;
        let last = journal.append(block, Change::Created { closed: true }, &files)?;
        journal.commit(last)
    }
}

/// Writes the files, checksums first.
fn make(open: &OpenReplica, state: &OpenState, whole: Whole<'_>) -> Result<ReplicaFiles, DatanodeError> {
    let mut raw = meta_file::encode_header(whole.checksum).to_vec();
    raw.extend_from_slice(whole.sums);
    let (data_path, meta_path) = (state.data_path(&open.volume), state.meta_path(&open.volume));
    let write = |path: &Path, content: &[u8]| {
        let file = File::create(path)?;
        file.write_all_at(content, 0)?;
        Ok(Arc::new(file))
    };
    let meta = write(&meta_path, &raw).map_err(disk(&meta_path))?;
    let data = write(&data_path, whole.data).map_err(disk(&data_path))?;
    Ok(ReplicaFiles { data, data_path, meta, meta_path })
}
