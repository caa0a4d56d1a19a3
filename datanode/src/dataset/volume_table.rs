//! The volumes of a datanode and their journals, by number.
//!
//! A number stands for one disk for the life of the process: a volume that is taken back, or the one that takes its
//! place, gets a new number, so that whoever still holds an old number never reaches another disk's files. Invariants: numbers only
//! grow; of the volumes in one directory the last one counts; a journal ends before its volume is given up.

use std::sync::{Arc, PoisonError, RwLock};

use nix::errno::Errno;

use super::volume::Volume;
use crate::error::{DatanodeError, disk};
use crate::journal::Journal;

/// A volume and what belongs to it.
#[derive(Debug)]
struct Slot {
    /// First in line, so that it ends first. None: the volume has failed.
    journal: Option<Arc<Journal>>,
    volume: Arc<Volume>,
    /// Another one has taken its place.
    replaced: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub struct VolumeTable {
    slots: RwLock<Vec<Slot>>,
}

impl VolumeTable {
    /// Adds a volume with the next number, which it must have, in place of one in the same directory.
    pub fn add(&self, volume: Arc<Volume>, journal: Option<Arc<Journal>>) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        debug_assert_eq!(slots.len(), usize::from(volume.index()));
        slots.iter_mut().filter(|s| s.volume.dir() == volume.dir()).for_each(|s| s.replaced = true);
        slots.push(Slot { journal, volume, replaced: false });
    }

    /// Number of the next volume; `None`: there are no more.
    pub fn next_index(&self) -> Option<u16> {
        u16::try_from(self.slots.read().unwrap_or_else(PoisonError::into_inner).len()).ok()
    }

    /// Volumes that count, failed or not.
    pub fn all(&self) -> Vec<Arc<Volume>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.iter().filter(|slot| !slot.replaced).map(|slot| Arc::clone(&slot.volume)).collect()
    }

    /// Volume with a number.
    pub fn get(&self, index: u16) -> Option<Arc<Volume>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(usize::from(index)).map(|slot| Arc::clone(&slot.volume))
    }

    /// Journal of a volume.
    pub fn journal(&self, volume: &Volume) -> Result<Arc<Journal>, DatanodeError> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let journal = slots.get(usize::from(volume.index())).and_then(|slot| slot.journal.clone());
        journal.ok_or_else(|| disk(volume.dir())(Errno::EIO.into()))
    }

    /// Journals of the good volumes.
    pub fn journals(&self) -> Vec<Arc<Journal>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.iter().filter_map(|slot| slot.journal.clone()).collect()
    }

    /// Takes the journal of a failed volume away.
    pub fn take_journal(&self, volume: &Volume) -> Option<Arc<Journal>> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.get_mut(usize::from(volume.index())).and_then(|slot| slot.journal.take())
    }
}
