//! Moves a closed replica to another volume of the same datanode.
//!
//! The replica is copied, with its checksums verified on the way, into the other volume's `tmp/`, and put on disk. Then, with
//! the replica locked and only if it is still the same, the copy gets its final names, that is put on disk, the old files
//! are removed, and the map points at the new volume. Readers who have the old files open go on with them.
//!
//! | a crash leaves                  | what the scan at start makes of it                                   |
//! |---------------------------------|----------------------------------------------------------------------|
//! | files in `tmp/`                 | removed: the replica is where it was                                 |
//! | checksums under their new name  | removed: checksums without data                                      |
//! | both replicas, whole            | one that matches its checksums stays, the other is removed           |
//! | the new one, old checksums      | removed: checksums without data                                      |
//!
//! The namenode is told of the replica on its new storage, and thereby forgets the old one: a datanode has one replica
//! of a block. It is never told of a deletion, so it never counts one replica less. While a full report is under way
//! nothing moves, since a replica that moved between two volumes' parts of it would be in neither.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dfs_proto::BlockId;
use dfs_proto::v1::ReplicaEvent;

use super::meta_file;
use super::open_replica::{Home, data_path, meta_path};
use super::reader::ReadHandle;
use super::replica_map::{Closed, Entry};
use super::version_file::sync_dir;
use super::volume::Volume;
use super::{Dataset, files, layout};
use crate::error::{DatanodeError, disk};
use crate::replica::{BlockRef, Replica, ReplicaState, TransitionError};
use crate::throttle::Throttle;

/// Bytes copied in one step, at least a chunk.
const STEP_BYTES: usize = 1 << 20;

/// Zeros that become a hole.
const HOLE_BYTES: usize = 64 << 10;

/// Keeps moves and full reports apart, without either waiting under a lock: each says what it is about to do before it looks
/// whether the other is on.
#[derive(Debug, Default)]
pub struct MoveGate {
    reports: AtomicUsize,
    moves: AtomicUsize,
}

/// A full report is under way.
#[derive(Debug)]
pub struct ReportPause<'a>(&'a MoveGate);

/// A move is being finished.
#[derive(Debug)]
struct Finishing<'a>(&'a MoveGate);

impl MoveGate {
    /// From now on no move is finished; those that are being finished may be for a moment: see [`MoveGate::is_still`].
    pub fn pause(&self) -> ReportPause<'_> {
        self.reports.fetch_add(1, Ordering::SeqCst);
        ReportPause(self)
    }

    /// No move is being finished.
    pub fn is_still(&self) -> bool {
        self.moves.load(Ordering::SeqCst) == 0
    }

    fn finish(&self) -> Option<Finishing<'_>> {
        self.moves.fetch_add(1, Ordering::SeqCst);
        let finishing = Finishing(self);
        (self.reports.load(Ordering::SeqCst) == 0).then_some(finishing)
    }
}

impl Drop for ReportPause<'_> {
    fn drop(&mut self) {
        self.0.reports.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Finishing<'_> {
    fn drop(&mut self) {
        self.0.moves.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Dataset {
    /// Keeps moves between volumes and full reports apart.
    pub fn move_gate(&self) -> &MoveGate {
        &self.move_gate
    }

    /// Moves a closed replica to `target`, as fast as `pace` allows. Answers its length. A replica that is opened by
    /// somebody meanwhile stays where it is, which is a `Transition` error.
    pub fn move_to_volume(
        &self,
        id: BlockId,
        target: &Arc<Volume>,
        pace: &Throttle,
    ) -> Result<u64, DatanodeError> {
        let Some(Entry::Closed(closed)) = self.map.get(id) else {
            return Err(busy(BlockRef { id, stamp: Default::default() }));
        };
        let block = BlockRef { id, stamp: closed.stamp };
        let Some(source) = self.volume(closed.volume) else { return Err(busy(block)) };
        if self.journal(&source)?.is_live(id) || source.index() == target.index() {
            return Err(busy(block));
        }
        target.promise(closed.length);
        let outcome = self.copy_and_switch(block, closed, &source, target, pace);
        target.release(closed.length);
        match &outcome {
            Ok(_) | Err(DatanodeError::Transition(_) | DatanodeError::Stopping) => {}
            Err(error) => self.note_error(target, error),
        }
        outcome
    }

    fn copy_and_switch(
        &self,
        block: BlockRef,
        closed: Closed,
        source: &Volume,
        target: &Arc<Volume>,
        pace: &Throttle,
    ) -> Result<u64, DatanodeError> {
        let handle = self.open_read(block, 0)?;
        if !handle.is_finalized() || handle.length() != closed.length || handle.block() != block {
            return Err(busy(block));
        }
        let copy = Copy::new(target, block);
        let made = copy.fill(&handle, pace).inspect_err(|error| self.report_if_damaged(&handle, error));
        let moved = made.and_then(|()| self.switch(block, closed, source, target, &copy));
        if moved.is_err() {
            copy.discard();
        }
        moved.map(|()| closed.length)
    }

    /// Lets the copy take the replica's place.
    fn switch(
        &self,
        block: BlockRef,
        closed: Closed,
        source: &Volume,
        target: &Arc<Volume>,
        copy: &Copy,
    ) -> Result<(), DatanodeError> {
        let same = |replica: &Replica, written: bool| {
            let unchanged = replica.block() == block
                && replica.length() == closed.length
                && replica.state() == ReplicaState::Finalized;
            if unchanged && !written { Ok(()) } else { Err(busy(replica.block())) }
        };
        self.exclusively(block, same, |open, state| {
            let Some(_finishing) = self.move_gate.finish() else { return Err(busy(block)) };
            let here = open.volume.index() == source.index() && state.home == closed.home();
            if !here || self.journal(source)?.is_live(block.id) {
                return Err(busy(block));
            }
            copy.publish(target, closed.home(), block)?;
            for path in [state.data_path(source), state.meta_path(source)] {
                // What stays is found at the next start.
                if let Err(error) = files::remove(&path) {
                    tracing::warn!(%block, %error, "moved replica leaves a file behind");
                }
            }
            source.sub_used(closed.length);
            target.add_used(closed.length);
            state.gone = true;
            let moved = Closed { volume: target.index(), ..state.to_closed(source) };
            self.map.replace_open(block.id, open, Some(moved));
            open.notify(state);
            self.changed(ReplicaEvent::Received, block, closed.length, target);
            Ok(())
        })
    }
}

/// The replica is not what it was, or is in use.
fn busy(block: BlockRef) -> DatanodeError {
    TransitionError::State { block, state: ReplicaState::Rbw }.into()
}

/// The two files of a copy in `tmp/`. Their names are not those of replicas that come from other datanodes.
struct Copy {
    data: PathBuf,
    meta: PathBuf,
}

impl Copy {
    fn new(target: &Volume, block: BlockRef) -> Self {
        let path = |name: String| target.path(layout::TMP, &format!("moving-{name}"));
        Self { data: path(layout::data_name(block.id)), meta: path(layout::meta_name(block)) }
    }

    /// Copies and verifies; on disk on return.
    fn fill(&self, handle: &ReadHandle, pace: &Throttle) -> Result<(), DatanodeError> {
        let data = File::create(&self.data).map_err(disk(&self.data))?;
        let meta = File::create(&self.meta).map_err(disk(&self.meta))?;
        let (checksum, length) = (handle.checksum(), handle.length());
        meta.write_all_at(&meta_file::encode_header(checksum), 0).map_err(disk(&self.meta))?;
        let chunk = checksum.bytes_per_checksum();
        let mut buffer = vec![0; chunk * (STEP_BYTES / chunk).max(1)];
        let mut sums = Vec::new();
        let mut offset = 0;
        while offset < length {
            let end = (offset + buffer.len() as u64).min(length);
            pace.pay(end - offset)?;
            let piece = &mut buffer[..(end - offset) as usize];
            sums.clear();
            handle.read_data(piece, offset)?;
            handle.checksums(offset, end, &mut sums)?;
            handle.check(piece, offset, &sums)?;
            write_with_holes(&data, piece, offset).map_err(disk(&self.data))?;
            let at = meta_file::checksum_offset(checksum, offset);
            meta.write_all_at(&sums, at).map_err(disk(&self.meta))?;
            offset = end;
        }
        data.set_len(length).map_err(disk(&self.data))?;
        data.sync_all().map_err(disk(&self.data))?;
        meta.sync_all().map_err(disk(&self.meta))
    }

    /// Gives the files their final names, checksums first; on disk on return.
    fn publish(&self, target: &Volume, home: Home, block: BlockRef) -> Result<(), DatanodeError> {
        if home == Home::Finalized {
            target.make_finalized_dir(block.id)?;
        }
        let (data, meta) = (data_path(target, home, block), meta_path(target, home, block));
        fs::rename(&self.meta, &meta).map_err(disk(&self.meta))?;
        let named = fs::rename(&self.data, &data)
            .map_err(disk(&self.data))
            // The directory, and the two above in case that they are new.
            .and_then(|()| data.ancestors().skip(1).take(3).try_for_each(sync_dir));
        if named.is_err() {
            // Data first: checksums without data are nothing.
            remove_all(&[&data, &meta]);
        }
        named
    }

    fn discard(&self) {
        remove_all(&[&self.data, &self.meta]);
    }
}

fn remove_all(paths: &[&Path]) {
    for path in paths {
        if let Err(error) = files::remove(path) {
            tracing::warn!(%error, "unfinished move leaves a file behind");
        }
    }
}

/// Writes what is not zeros.
fn write_with_holes(file: &File, data: &[u8], offset: u64) -> std::io::Result<()> {
    for (index, piece) in data.chunks(HOLE_BYTES).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(piece, offset + (index * HOLE_BYTES) as u64)?;
        }
    }
    Ok(())
}

/// Two closed replicas that are the same are a move between volumes that was cut off: one stays, which matches its
/// checksums, and the other's files are removed. Answers whether it is the first that stays; `None`: they are not the same,
/// or neither matches.
pub(super) fn merge_twins(
    id: BlockId,
    one: (&Volume, &Entry),
    other: (&Volume, &Entry),
) -> Result<Option<bool>, DatanodeError> {
    let ((volume, Entry::Closed(one)), (other_volume, Entry::Closed(other))) = (one, other) else {
        return Ok(None);
    };
    if one.stamp != other.stamp || one.length != other.length {
        return Ok(None);
    }
    let block = BlockRef { id, stamp: one.stamp };
    let pairs = [(true, (volume, one), (other_volume, other)), (false, (other_volume, other), (volume, one))];
    for (first, (place, kept), (dropped_at, dropped)) in pairs {
        if !is_whole(place, kept, block) {
            continue;
        }
        tracing::info!(%block, storage_id = dropped_at.storage_id(), "twin of a moved replica removed");
        dropped_at.sub_used(dropped.length);
        files::remove(&data_path(dropped_at, dropped.home(), block))?;
        files::remove(&meta_path(dropped_at, dropped.home(), block))?;
        return Ok(Some(first));
    }
    Ok(None)
}

/// Whether a closed replica matches its checksums. One that cannot be read does not.
fn is_whole(volume: &Volume, closed: &Closed, block: BlockRef) -> bool {
    let (data_at, meta_at) =
        (data_path(volume, closed.home(), block), meta_path(volume, closed.home(), block));
    let good = || -> Result<u64, DatanodeError> {
        let data = File::open(&data_at).map_err(disk(&data_at))?;
        let meta = File::open(&meta_at).map_err(disk(&meta_at))?;
        let checksum = files::read_checksum(&meta, &meta_at)?;
        Ok(meta_file::good_length(&data, &meta, checksum).map_err(disk(&data_at))?.length)
    };
    good().is_ok_and(|length| length == closed.length)
}

#[cfg(test)]
mod tests;
