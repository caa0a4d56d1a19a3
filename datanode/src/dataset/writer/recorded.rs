//! What a writer at any offset leaves to the volume's journal.

use std::ops::Range;

use super::ReplicaWriter;
use crate::error::DatanodeError;
use crate::journal::in_hand::Slot;
use crate::journal::record::Change;

/// Data of one packet, and chunk, up to which an overwrite goes to the journal as a whole, so that putting it on disk takes
/// one flush. Larger ones would be written twice where two more flushes cost less.
pub(super) const RECORDED_BYTES: usize = 64 << 10;

/// What the journal has of a writer.
#[derive(Debug)]
pub struct Recorded {
    /// The journal or the file system knows, on disk, that the replica is being overwritten.
    marked: bool,
    /// Something was written since the last sync that the journal does not have.
    unrecorded: bool,
    /// That includes overwritten bytes.
    overwrote_unrecorded: bool,
    /// This writer's last record.
    last: u64,
    /// This writer has been told to sync, and will be again.
    syncs: bool,
    /// This writer made the replica, and everything in it is in the journal.
    complete: bool,
    /// The journal knows, on disk, that the replica was made: its files can be made anew.
    created: bool,
    /// Where it tells which chunks it is about to change.
    slot: Slot,
}

impl Recorded {
    /// Of a writer that creates its replica, or reopens one.
    pub const fn new(create: bool, slot: Slot) -> Self {
        Self {
            marked: create,
            unrecorded: false,
            overwrote_unrecorded: false,
            last: 0,
            syncs: false,
            complete: create,
            created: false,
            slot,
        }
    }
}

impl ReplicaWriter {
    /// Whether data goes to the journal as a whole.
    pub(super) fn is_recorded(&self, data_len: usize, overwrites: bool, sync: bool) -> bool {
        let syncs = self.recorded.as_ref().is_some_and(|recorded| recorded.syncs);
        let small = data_len <= RECORDED_BYTES && self.checksum.bytes_per_checksum() <= RECORDED_BYTES;
        small && (overwrites || sync || syncs)
    }

    /// Takes chunks in hand, changes them, and is done with them: whatever ends the process in between, a start finds which.
    pub(super) fn in_hand(
        &mut self,
        chunks: Range<u64>,
        change: impl FnOnce(&mut Self) -> Result<(), DatanodeError>,
    ) -> Result<(), DatanodeError> {
        let slot = |writer: &Self, step: &dyn Fn(&Slot) -> Result<(), DatanodeError>| match &writer.recorded {
            Some(recorded) => step(&recorded.slot),
            None => Err(DatanodeError::Field("random_access")),
        };
        slot(self, &|slot| slot.take(self.block, chunks.clone()))?;
        change(self)?;
        slot(self, &Slot::done)
    }

    /// Chunks of `first..end` are about to be changed. Before the first of the replica's old bytes is overwritten, the journal
    /// knows of it, on disk: a stop of the machine may undo the move to `random/`.
    pub(super) fn announce(&mut self, first: u64, end: u64, to_record: bool) -> Result<(), DatanodeError> {
        let overwrites = first < self.length;
        let Some(recorded) = &mut self.recorded else {
            return Err(DatanodeError::Field("random_access"));
        };
        recorded.unrecorded |= !to_record;
        recorded.complete &= to_record;
        recorded.overwrote_unrecorded |= overwrites && !to_record;
        if overwrites && !recorded.marked {
            self.note(Change::Intent { offset: first, len: end - first })?;
            self.commit_records()?;
            self.recorded.iter_mut().for_each(|recorded| recorded.marked = true);
        }
        Ok(())
    }

    pub(super) fn note(&mut self, change: Change<'_>) -> Result<(), DatanodeError> {
        let journal = self.dataset.journal(&self.open.volume)?;
        let noted = journal.append(self.block, change, &self.files);
        let number = noted.inspect_err(|error| self.dataset.note_error(&self.open.volume, error))?;
        self.recorded.iter_mut().for_each(|recorded| recorded.last = number);
        Ok(())
    }

    /// Puts this writer's records on disk.
    pub(super) fn commit_records(&self) -> Result<(), DatanodeError> {
        let last = self.recorded.as_ref().map_or(0, |recorded| recorded.last);
        self.dataset
            .journal(&self.open.volume)?
            .commit(last)
            .inspect_err(|error| self.dataset.note_error(&self.open.volume, error))
    }

    /// Puts overwrites on disk before the replica is closed: a closed one whose machine stops must not come back with old
    /// content and checksums that fit it. Data that was added and is lost is noticed, as everywhere.
    pub(super) fn settle_overwrites(&mut self) -> Result<(), DatanodeError> {
        if self.recorded.as_ref().is_some_and(|recorded| recorded.overwrote_unrecorded) {
            return self.sync_recorded();
        }
        self.commit_records()
    }

    /// [`ReplicaWriter::sync`] with random access: what the journal has need not be put on disk in the files, and the names of a
    /// new replica need not be on disk as long as the journal has all of it.
    pub(super) fn sync_recorded(&mut self) -> Result<(), DatanodeError> {
        let Some(recorded) = &mut self.recorded else {
            return Err(DatanodeError::Field("random_access"));
        };
        recorded.syncs = true;
        recorded.overwrote_unrecorded = false;
        let unrecorded = std::mem::take(&mut recorded.unrecorded);
        if recorded.complete && !self.names_synced {
            if !std::mem::replace(&mut recorded.created, true) {
                self.note(Change::Created { closed: false })?;
            }
            return self.commit_records();
        }
        self.sync_names()?;
        if !unrecorded {
            return self.commit_records();
        }
        let journal = self.dataset.journal(&self.open.volume)?;
        let up_to = journal.last();
        self.files
            .sync()
            .and_then(|()| journal.settle(self.block, up_to))
            .inspect_err(|error| self.dataset.note_error(&self.open.volume, error))
    }
}
