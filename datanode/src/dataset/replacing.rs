//! Failed volumes, and what takes their place, while the datanode goes on.
//!
//! A volume that fails serves nothing from that moment on. Then its replicas leave the replica map, so that the datanode can
//! be given copies of them on other volumes, its files are closed, and the directory is let go: the disk can be unmounted.
//!
//! A directory comes back as a new volume when its disk passes a trial. If it has replicas they are scanned as at the
//! start. Not trusted are: an empty mount point (what was mounted there is still away), a volume of another datanode, and,
//! after an I/O error, the same disk before it has been unmounted or emptied: somebody must have looked at it.

use std::path::Path;
use std::sync::Arc;

use super::Dataset;
use super::mount_point::is_mount_point;
use super::opening::{self, check_same};
use super::replica_map::Entry;
use super::scan;
use super::version_file::{self, VersionFile};
use super::volume::Volume;
use crate::error::DatanodeError;

/// Replicas taken out of the map at a time.
const BATCH: usize = 4_096;

impl Dataset {
    /// Tries a volume; `probe`: by writing, too. One that does not pass fails.
    pub fn check_volume(&self, volume: &Volume, probe: bool) {
        if let Err(fault) = volume.check(probe) {
            self.fail_volume(volume, &fault.to_string());
        }
    }

    /// Takes a volume out of service.
    pub fn fail_volume(&self, volume: &Volume, reason: &str) {
        if volume.fail(reason) {
            self.volume_failed(volume);
        }
    }

    /// Lets go of everything on a failed volume. Waits for writers that are in the middle of something.
    pub fn retire_volume(&self, volume: &Volume) {
        let mut after = None;
        let mut count = 0usize;
        loop {
            let slice = self.map.slice(after, BATCH);
            let Some((last, _)) = slice.last() else { break };
            after = Some(*last);
            for (id, entry) in slice {
                match entry {
                    Entry::Closed(closed) if closed.volume == volume.index() => {
                        count += usize::from(self.map.remove_closed(id, closed));
                    }
                    Entry::Open(open) if open.volume.index() == volume.index() => {
                        let state = open.lock();
                        // One that does not stop finds out by itself: its files fail.
                        let Ok(mut state) = open.stop_writer(state) else { continue };
                        if !state.gone {
                            state.gone = true;
                            self.map.replace_open(id, &open, None);
                            open.notify(&state);
                            count += 1;
                        }
                    }
                    Entry::Closed(_) | Entry::Open(_) => {}
                }
            }
        }
        volume.sub_used(volume.used());
        if let Some(journal) = self.table.take_journal(volume) {
            journal.give_up();
        }
        volume.unlock();
        tracing::warn!(
            storage_id = volume.storage_id(),
            path = %volume.dir().display(),
            replicas = count,
            "replicas of the failed volume are given up"
        );
    }

    /// Whether what is in a failed volume's directory now may be looked at. `away`: the directory was seen gone or replaced
    /// since the failure.
    pub fn may_come_back(&self, failed: &Volume, away: bool) -> bool {
        let dir = failed.dir();
        let in_place = dir.is_dir() && failed.mount_point().is_none_or(is_mount_point);
        let emptied = !dir.join(version_file::FILE_NAME).exists();
        in_place && (away || emptied || !failed.is_suspicious())
    }

    /// Opens what is in a directory now as a new volume.
    pub fn take_back(&self, dir: &Path) -> Result<Arc<Volume>, DatanodeError> {
        let index = self.table.next_index().ok_or(DatanodeError::Field("volumes"))?;
        let (volume, version) = opening::open(dir, index, self.reserved_bytes)?;
        if let (Some(version), Some(identity)) = (&version, self.identity()) {
            let ours = VersionFile {
                cluster_id: identity.cluster_id,
                pool_id: identity.pool_id,
                datanode_uuid: self.uuid.clone(),
                storage_id: version.storage_id.clone(),
            };
            check_same(&volume, &ours, version)?;
        }
        let volume = Arc::new(volume);
        // Its disk may have been out of the machine meanwhile, and what the page cache had of it is gone: as after a stop.
        let loaded = opening::load(&volume, "")?;
        if let (None, Some(identity)) = (&version, self.identity()) {
            self.format(&volume, &identity)?;
        }
        let replicas = loaded.replicas.len();
        self.table.add(Arc::clone(&volume), Some(loaded.journal));
        for (id, entry) in loaded.replicas {
            if self.map.insert(id, entry.clone()).is_some() {
                // What the datanode has got meanwhile is at least as new.
                scan::set_aside_replica(&volume, id, &entry)?;
            }
        }
        tracing::warn!(
            storage_id = volume.storage_id(),
            path = %dir.display(),
            replicas,
            emptied = version.is_none(),
            "volume is in service again"
        );
        // The namenode learns of the storage, then of its replicas.
        self.changes.want_registration();
        Ok(volume)
    }
}
