//! The replicas of a datanode and the volumes they are on.
//!
//! Who owns what: [`volume`] a directory, its lock and space; [`replica_map`] which block is where;
//! [`open_replica`] the lock and state of a replica that changes; [`writer`] and [`reader`] open files.
//! `scan` fills the map at start, with the help of `redo` for what the journals know. Formats: [`meta_file`], [`version_file`], [`layout`].
//!
//! Everything here blocks and is called from data threads and disk workers only.
//!
//! Lock order: an open replica's lock, then the map's. Never the other way round.

pub mod damaged;
pub mod describe;
pub mod direct_file;
pub mod directory_check;
pub mod extents;
pub mod files;
pub mod health;
pub mod invalidate;
pub mod layout;
pub mod meta_file;
pub mod mount_point;
pub mod open_replica;
mod opening;
pub mod pipeline;
pub mod reader;
pub mod recovery;
mod recreate;
mod redo;
pub mod relocation;
pub mod replacing;
pub mod replica_map;
mod scan;
pub mod scrub_counts;
mod spread;
pub mod sync_replica;
pub mod verify;
pub mod version_file;
pub mod volume;
pub mod volume_table;
pub mod whole;
pub mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dfs_proto::v1::{ReplicaEvent, StorageReport};
use dfs_proto::{BlockId, v1};
use uuid::Uuid;

use self::damaged::{Damaged, DamagedReplicas};
use self::open_replica::{OpenReplica, OpenState};
use self::relocation::MoveGate;
use self::replica_map::{Entry, ReplicaMap};
use self::verify::{Verdict, Verifier};
use self::version_file::VersionFile;
use self::volume::Volume;
use self::volume_table::VolumeTable;
use crate::error::DatanodeError;
use crate::journal::Journal;
use crate::namenode_link::changes::ChangeQueue;
use crate::replica::{BlockRef, Replica, ReplicaState};
use crate::sync::lock;

/// Cluster a datanode belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Cluster.
    pub cluster_id: String,
    /// Block pool.
    pub pool_id: String,
}

/// One line of a block report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedReplica {
    /// Replica.
    pub block: BlockRef,
    /// Length in bytes.
    pub length: u64,
    /// State.
    pub state: ReplicaState,
    /// Index of its volume.
    pub volume: u16,
}

/// All replicas of a datanode.
#[derive(Debug)]
pub struct Dataset {
    table: VolumeTable,
    map: ReplicaMap,
    uuid: String,
    identity: Mutex<Option<Identity>>,
    reserved_bytes: Option<u64>,
    changes: Arc<ChangeQueue>,
    /// Varies the choice among volumes.
    choices: AtomicU64,
    damaged: DamagedReplicas,
    move_gate: MoveGate,
}

impl Dataset {
    /// Locks the volumes, checks that they belong together and scans them. A volume whose disk fails is left out, as long
    /// as another one is good.
    pub fn open(
        dirs: &[PathBuf],
        reserved_bytes: Option<u64>,
        changes: Arc<ChangeQueue>,
    ) -> Result<Self, DatanodeError> {
        let opened = opening::open_all(dirs, reserved_bytes)?;
        let table = VolumeTable::default();
        let known = opened.known;
        for (volume, journal) in opened.volumes {
            table.add(volume, journal);
        }
        Ok(Self {
            table,
            map: opened.map,
            uuid: known.as_ref().map_or_else(|| Uuid::new_v4().to_string(), |v| v.datanode_uuid.clone()),
            identity: Mutex::new(known.map(|v| Identity { cluster_id: v.cluster_id, pool_id: v.pool_id })),
            reserved_bytes,
            changes,
            choices: AtomicU64::new(0),
            damaged: DamagedReplicas::default(),
            move_gate: MoveGate::default(),
        })
    }

    /// Identity of the datanode.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Cluster that the volumes belong to, if that is known yet.
    pub fn identity(&self) -> Option<Identity> {
        lock(&self.identity).clone()
    }

    /// Takes the identity that the namenode told: new volumes are marked with it, a different one is refused.
    pub fn adopt_identity(&self, identity: &Identity) -> Result<(), DatanodeError> {
        if let Some(ours) = self.identity() {
            let path =
                self.volumes().first().map_or_else(PathBuf::new, |v| v.dir().join(version_file::FILE_NAME));
            let differs = |field, found: &str, expected: &str| DatanodeError::WrongCluster {
                path: path.clone(),
                field,
                found: found.to_owned(),
                expected: expected.to_owned(),
            };
            if ours.cluster_id != identity.cluster_id {
                return Err(differs("cluster", &ours.cluster_id, &identity.cluster_id));
            }
            if ours.pool_id != identity.pool_id {
                return Err(differs("block pool", &ours.pool_id, &identity.pool_id));
            }
        }
        for volume in self.volumes().iter().filter(|volume| !volume.is_failed() && !volume.is_formatted()) {
            self.format(volume, identity)?;
        }
        *lock(&self.identity) = Some(identity.clone());
        Ok(())
    }

    /// Checks the block pool of a request; an empty one means ours.
    pub fn check_pool(&self, asked: &str) -> Result<(), DatanodeError> {
        let identity = lock(&self.identity);
        let ours = &identity.as_ref().ok_or(DatanodeError::NotRegistered)?.pool_id;
        if !asked.is_empty() && asked != ours {
            return Err(DatanodeError::WrongPool { asked: asked.to_owned(), ours: ours.clone() });
        }
        Ok(())
    }

    /// Journal of a volume.
    fn journal(&self, volume: &Volume) -> Result<Arc<Journal>, DatanodeError> {
        self.table.journal(volume)
    }

    /// Sees to it that no earlier replica of a block comes back beside the one that is about to be made, or into it.
    fn bury(&self, id: BlockId) -> Result<(), DatanodeError> {
        self.table.journals().iter().try_for_each(|journal| journal.bury(id))
    }

    /// Marks a volume as belonging to this datanode and its cluster.
    fn format(&self, volume: &Volume, identity: &Identity) -> Result<(), DatanodeError> {
        let version = VersionFile {
            cluster_id: identity.cluster_id.clone(),
            pool_id: identity.pool_id.clone(),
            datanode_uuid: self.uuid.clone(),
            storage_id: volume.storage_id().to_owned(),
        };
        version.write(volume.dir())?;
        volume.set_formatted();
        Ok(())
    }

    /// Volumes, failed ones too.
    pub fn volumes(&self) -> Vec<Arc<Volume>> {
        self.table.all()
    }

    /// Volumes as the namenode is told of them. One whose file system does not answer has failed, here as well as there.
    pub fn storage_reports(&self) -> Vec<StorageReport> {
        let volumes = self.volumes();
        for volume in volumes.iter().filter(|volume| !volume.is_failed()) {
            if let Err(error) = volume.space() {
                self.fail_volume(volume, &error.to_string());
            }
        }
        volumes.iter().map(|volume| volume.report()).collect()
    }

    /// Up to `max` replicas after `after`, ascending, as the map has them.
    pub fn entries(&self, after: Option<BlockId>, max: usize) -> Vec<(BlockId, Entry)> {
        self.map.slice(after, max)
    }

    /// Number of replicas.
    pub fn replica_count(&self) -> usize {
        self.map.count()
    }

    /// Up to `max` replicas after `after`, ascending, with the last id looked at; `None`: no more.
    /// Replicas being copied in and those of failed volumes are left out.
    pub fn report_slice(
        &self,
        after: Option<BlockId>,
        max: usize,
    ) -> (Vec<ReportedReplica>, Option<BlockId>) {
        let slice = self.map.slice(after, max);
        let last = slice.last().map(|(id, _)| *id);
        let mut out = Vec::with_capacity(slice.len());
        for (id, entry) in slice {
            let replica = match entry {
                Entry::Closed(closed) => ReportedReplica {
                    block: BlockRef { id, stamp: closed.stamp },
                    length: closed.length,
                    state: ReplicaState::Finalized,
                    volume: closed.volume,
                },
                Entry::Open(open) => {
                    let state = open.lock();
                    if state.gone || state.replica.state() == ReplicaState::Temporary {
                        continue;
                    }
                    ReportedReplica {
                        block: state.replica.block(),
                        length: state.replica.length(),
                        state: state.replica.state(),
                        volume: open.volume.index(),
                    }
                }
            };
            if self.volume(replica.volume).is_some_and(|volume| !volume.is_failed()) {
                out.push(replica);
            }
        }
        (out, last)
    }

    /// Tells the namenode of a damaged replica.
    pub fn report_bad(&self, block: BlockRef, length: u64, storage_id: &str, error: &DatanodeError) {
        let damaged = Damaged { block, length, storage_id: storage_id.to_owned(), reason: error.to_string() };
        self.changes.push_bad(&damaged);
        if self.damaged.note(damaged) {
            tracing::warn!(%block, storage_id, %error, "replica is damaged");
        }
    }

    /// Replicas known to be damaged.
    pub fn damaged_replicas(&self) -> Vec<Damaged> {
        self.damaged.list(|damaged| {
            matches!(self.map.get(damaged.block.id),
                Some(Entry::Closed(closed)) if closed.stamp == damaged.block.stamp)
        })
    }

    /// Tells the namenode again of all replicas known to be damaged: it may have forgotten them.
    pub fn repeat_bad(&self) {
        self.damaged_replicas().iter().for_each(|damaged| self.changes.push_bad(damaged));
    }

    /// Remembers a replica that was found bad before the datanode started, and tells the namenode.
    pub fn remember_bad(&self, damaged: Damaged) {
        let here = matches!(self.map.get(damaged.block.id),
            Some(Entry::Closed(closed)) if closed.stamp == damaged.block.stamp);
        if here {
            self.changes.push_bad(&damaged);
            self.damaged.note(damaged);
        }
    }

    /// Closed replicas of a volume after `after` among the next `max` of the datanode, ascending, with the last id looked at;
    /// `None`: no more.
    pub fn closed_on(
        &self,
        volume: &Volume,
        after: Option<BlockId>,
        max: usize,
    ) -> (Vec<BlockId>, Option<BlockId>) {
        let slice = self.map.slice(after, max);
        let last = slice.last().map(|(id, _)| *id);
        let here = slice.into_iter().filter_map(|(id, entry)| match entry {
            Entry::Closed(closed) => (closed.volume == volume.index()).then_some(id),
            Entry::Open(_) => None,
        });
        (here.collect(), last)
    }

    /// Verifies a replica that the namenode wants to know about. A good one is told of, too. `go_on` as in
    /// [`Verifier::verify`].
    pub fn verify_for_namenode(
        &self,
        verifier: &mut Verifier,
        asked: BlockRef,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) {
        match verifier.verify(self, asked.id, go_on) {
            Verdict::Good { block, length } => {
                if let Some(Entry::Closed(closed)) = self.map.get(asked.id)
                    && let Some(volume) = self.volume(closed.volume)
                {
                    self.changes.push_verified(block, length, volume.storage_id());
                }
            }
            Verdict::Bad { .. } | Verdict::Open | Verdict::Stopped => {}
            Verdict::Absent => self.tell_deleted(asked),
            Verdict::Failed(error) => tracing::warn!(block = %asked, %error, "replica cannot be verified"),
        }
    }

    /// Tells the namenode that a replica is not here, so that it does not ask again.
    fn tell_deleted(&self, block: BlockRef) {
        // Any storage in service can speak for the datanode.
        if let Some(volume) = self.volumes().iter().find(|volume| !volume.is_failed()) {
            self.changed(ReplicaEvent::Deleted, block, 0, volume);
        }
    }

    /// Volume by its number.
    fn volume(&self, index: u16) -> Option<Arc<Volume>> {
        self.table.get(index)
    }

    /// Looks at an error of a read. One bad sector does not make a bad disk.
    pub fn note_read_error(&self, volume: &Volume, error: &DatanodeError) {
        if let DatanodeError::Disk { source, .. } = error
            && source.kind() != std::io::ErrorKind::NotFound
        {
            volume.want_check();
        } else if error.is_damage() {
            // The file is gone: perhaps they all are.
            volume.want_check();
        }
    }

    /// The volume has been taken out of service.
    fn volume_failed(&self, volume: &Volume) {
        tracing::error!(
            storage_id = volume.storage_id(),
            path = %volume.dir().display(),
            reason = volume.failure(),
            "volume failed"
        );
        self.changes.want_full_report();
    }

    fn changed(&self, event: ReplicaEvent, block: BlockRef, length: u64, volume: &Volume) {
        self.changes.push(event, block, length, volume.storage_id());
    }

    /// Looks at an error: a failed device takes its volume out of service and asks for a full report.
    pub fn note_error(&self, volume: &Volume, error: &DatanodeError) {
        let DatanodeError::Disk { source, .. } = error else { return };
        if volume.note_error(source, &error.to_string()) {
            self.volume_failed(volume);
        } else if source.kind() != std::io::ErrorKind::StorageFull {
            volume.want_check();
        }
    }

    /// Chooses a volume with at least `needed` bytes left, at random in proportion to what is left, or the
    /// one asked for if it has room. Promises the bytes.
    fn choose_volume(
        &self,
        id: BlockId,
        needed: u64,
        storage_id: Option<&str>,
    ) -> Result<Arc<Volume>, DatanodeError> {
        let volumes = self.volumes();
        let mut candidates: Vec<(&Arc<Volume>, u64)> = Vec::with_capacity(volumes.len());
        for volume in volumes.iter().filter(|v| !v.is_failed()) {
            match volume.space() {
                Ok(space) if space.remaining > needed => candidates.push((volume, space.remaining)),
                Ok(_) => {}
                Err(error) => self.note_error(volume, &error),
            }
        }
        let asked = storage_id.and_then(|s| candidates.iter().find(|(v, _)| v.storage_id() == s));
        let chosen = asked.or_else(|| {
            let total: u128 = candidates.iter().map(|(_, remaining)| u128::from(*remaining)).sum();
            let mut point = u128::from(self.next_choice()) * total / (u128::from(u64::MAX) + 1);
            candidates.iter().find(|(_, remaining)| {
                let hit = point < u128::from(*remaining);
                point = point.saturating_sub(u128::from(*remaining));
                hit
            })
        });
        let (volume, _) = chosen.ok_or(DatanodeError::NoSpace { id, needed })?;
        volume.promise(needed);
        volume.note_use();
        Ok(Arc::clone(volume))
    }

    /// Well-mixed numbers (SplitMix64).
    fn next_choice(&self) -> u64 {
        let mut z = self.choices.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The open replica of a block; a closed one is opened.
    fn adopt(&self, id: BlockId) -> Option<Arc<OpenReplica>> {
        let mut map = self.map.lock();
        let entry = map.get_mut(&id)?;
        match entry {
            Entry::Open(open) => Some(Arc::clone(open)),
            Entry::Closed(closed) => {
                let volume = self.table.get(closed.volume)?;
                let open = Arc::new(OpenReplica::of_closed(volume, id, *closed));
                *entry = Entry::Open(Arc::clone(&open));
                Some(open)
            }
        }
    }

    /// Runs `act` on a block's replica with its lock held and no writer.
    /// `check` is given the replica and whether it is being written, and runs before a writer is stopped: a
    /// request that it refuses leaves the writer alone.
    fn exclusively<T>(
        &self,
        asked: BlockRef,
        check: impl Fn(&Replica, bool) -> Result<(), DatanodeError>,
        act: impl FnOnce(&Arc<OpenReplica>, &mut OpenState) -> Result<T, DatanodeError>,
    ) -> Result<T, DatanodeError> {
        loop {
            let open = self.adopt(asked.id).ok_or(DatanodeError::ReplicaNotFound { block: asked })?;
            let mut state = open.lock();
            let mut outcome = Ok(());
            if !state.gone {
                outcome = check(&state.replica, state.writer.is_some());
            }
            if outcome.is_ok() && !state.gone {
                state = open.stop_writer(state)?;
                if !state.gone {
                    outcome = check(&state.replica, state.writer.is_some());
                }
            }
            if state.gone {
                continue;
            }
            let result = outcome.and_then(|()| act(&open, &mut state));
            if let Err(error) = &result {
                self.note_error(&open.volume, error);
            }
            self.settle(&open, &mut state);
            return result;
        }
    }

    /// Makes a finalized replica without a writer a closed one again.
    fn settle(&self, open: &Arc<OpenReplica>, state: &mut OpenState) {
        if !state.gone && state.writer.is_none() && state.replica.state() == ReplicaState::Finalized {
            let closed = state.to_closed(&open.volume);
            state.gone = true;
            self.map.replace_open(state.replica.block().id, open, Some(closed));
        }
        open.notify(state);
    }

    /// Visible length of a replica with at least this stamp.
    pub fn visible_length(&self, block: BlockRef) -> Result<u64, DatanodeError> {
        self.visible_length_and_progress(block).map(|(length, _)| length)
    }

    /// The same, and the units that its writer, if it has one, has received and written.
    pub fn visible_length_and_progress(
        &self,
        block: BlockRef,
    ) -> Result<(u64, Option<(u64, u64)>), DatanodeError> {
        let mut progress = None;
        let (here, length) = match self.map.get(block.id) {
            None => return Err(DatanodeError::ReplicaNotFound { block }),
            Some(Entry::Closed(closed)) => (closed.stamp, closed.length),
            Some(Entry::Open(open)) => {
                let state = open.lock();
                if state.replica.state() == ReplicaState::Temporary {
                    return Err(DatanodeError::ReplicaNotFound { block });
                }
                progress = state.writer.as_ref().map(|writer| writer.progress());
                (state.replica.block().stamp, state.replica.visible_length())
            }
        };
        if here < block.stamp {
            return Err(DatanodeError::StaleReplica { block, here });
        }
        Ok((length, progress))
    }
}

/// The message form of a reported replica's state.
pub fn report_state(replica: &ReportedReplica) -> v1::ReplicaState {
    replica.state.to_proto()
}
