//! The replicas of a datanode and the volumes they are on.
//!
//! Who owns what: [`volume`] a directory, its lock and space; [`replica_map`] which block is where;
//! [`open_replica`] the lock and state of a replica that changes; [`writer`] and [`reader`] open files.
//! `scan` fills the map at start, with the help of `redo` for what the journals know. Formats: [`meta_file`], [`version_file`], [`layout`].
//!
//! Everything here blocks and is called from data threads and disk workers only.
//!
//! Lock order: an open replica's lock, then the map's. Never the other way round.

pub mod extents;
pub mod files;
pub mod invalidate;
pub mod layout;
pub mod meta_file;
pub mod open_replica;
pub mod pipeline;
pub mod reader;
pub mod recovery;
mod redo;
pub mod replica_map;
mod scan;
mod spread;
pub mod sync_replica;
pub mod version_file;
pub mod volume;
pub mod whole;
pub mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dfs_proto::v1::{ReplicaEvent, StorageReport};
use dfs_proto::{BlockId, v1};
use uuid::Uuid;

use self::open_replica::{OpenReplica, OpenState};
use self::replica_map::{Entry, ReplicaMap};
use self::version_file::VersionFile;
use self::volume::Volume;
use crate::error::DatanodeError;
use crate::journal::replay::Found;
use crate::journal::{self, Journal};
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
    /// One a volume. First in line, so that they end before the volumes are given up.
    journals: Vec<Arc<Journal>>,
    volumes: Vec<Arc<Volume>>,
    map: ReplicaMap,
    uuid: String,
    identity: Mutex<Option<Identity>>,
    /// Volumes without a `VERSION` file when opened.
    unformatted: Mutex<Vec<Arc<Volume>>>,
    changes: Arc<ChangeQueue>,
    /// Varies the choice among volumes.
    choices: AtomicU64,
}

impl Dataset {
    /// Locks the volumes, checks that they belong together and scans them.
    pub fn open(
        dirs: &[PathBuf],
        reserved_bytes: Option<u64>,
        changes: Arc<ChangeQueue>,
    ) -> Result<Self, DatanodeError> {
        let mut volumes = Vec::with_capacity(dirs.len());
        let mut unformatted = Vec::new();
        let mut known: Option<VersionFile> = None;
        for (index, dir) in dirs.iter().enumerate() {
            let index = u16::try_from(index).map_err(|_| DatanodeError::Field("volumes"))?;
            let new_id = || format!("DS-{}", Uuid::new_v4());
            let (volume, version) = Volume::open(dir, index, reserved_bytes, new_id)?;
            let volume = Arc::new(volume);
            match (&known, version) {
                (_, None) => unformatted.push(Arc::clone(&volume)),
                (None, Some(version)) => known = Some(version),
                (Some(first), Some(version)) => check_same(&volume, first, &version)?,
            }
            volumes.push(volume);
        }
        let boot = journal::boot_id();
        let found = volumes.iter().map(|v| Found::read(v.dir(), &boot)).collect::<Result<Vec<_>, _>>()?;
        let map = scan::scan(&volumes, &found)?;
        // Only now is everything on disk that the journals stood for.
        let started = volumes
            .iter()
            .zip(&found)
            .map(|(volume, found)| Ok(Arc::new(Journal::start(volume.dir(), found.last() + 1)?)));
        let journals = started.collect::<Result<_, DatanodeError>>()?;
        Ok(Self {
            journals,
            volumes,
            map,
            uuid: known.as_ref().map_or_else(|| Uuid::new_v4().to_string(), |v| v.datanode_uuid.clone()),
            identity: Mutex::new(known.map(|v| Identity { cluster_id: v.cluster_id, pool_id: v.pool_id })),
            unformatted: Mutex::new(unformatted),
            changes,
            choices: AtomicU64::new(0),
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
            let path = self.volumes[0].dir().join(version_file::FILE_NAME);
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
        let mut unformatted = lock(&self.unformatted);
        while let Some(volume) = unformatted.last() {
            let version = VersionFile {
                cluster_id: identity.cluster_id.clone(),
                pool_id: identity.pool_id.clone(),
                datanode_uuid: self.uuid.clone(),
                storage_id: volume.storage_id().to_owned(),
            };
            version.write(volume.dir())?;
            unformatted.pop();
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
    fn journal(&self, volume: &Volume) -> &Arc<Journal> {
        &self.journals[usize::from(volume.index())]
    }

    /// Volumes.
    pub fn volumes(&self) -> &[Arc<Volume>] {
        &self.volumes
    }

    /// Volumes as the namenode is told of them.
    pub fn storage_reports(&self) -> Vec<StorageReport> {
        self.volumes.iter().map(|v| v.report()).collect()
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
            if !self.volumes[usize::from(replica.volume)].is_failed() {
                out.push(replica);
            }
        }
        (out, last)
    }

    /// Tells the namenode of a damaged replica.
    pub fn report_bad(&self, block: BlockRef, length: u64, storage_id: &str) {
        tracing::warn!(%block, storage_id, "replica is damaged");
        self.changes.push_bad(block, length, storage_id);
    }

    fn changed(&self, event: ReplicaEvent, block: BlockRef, length: u64, volume: &Volume) {
        self.changes.push(event, block, length, volume.storage_id());
    }

    /// Looks at an error: a failed device takes its volume out of service and asks for a full report.
    pub fn note_error(&self, volume: &Volume, error: &DatanodeError) {
        if let DatanodeError::Disk { source, .. } = error
            && volume.note_error(source)
        {
            tracing::error!(storage_id = volume.storage_id(), %error, "volume failed");
            self.changes.want_full_report();
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
        let mut candidates: Vec<(&Arc<Volume>, u64)> = Vec::with_capacity(self.volumes.len());
        for volume in self.volumes.iter().filter(|v| !v.is_failed()) {
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
                let volume = Arc::clone(&self.volumes[usize::from(closed.volume)]);
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
        let (here, length) = match self.map.get(block.id) {
            None => return Err(DatanodeError::ReplicaNotFound { block }),
            Some(Entry::Closed(closed)) => (closed.stamp, closed.length),
            Some(Entry::Open(open)) => {
                let state = open.lock();
                if state.replica.state() == ReplicaState::Temporary {
                    return Err(DatanodeError::ReplicaNotFound { block });
                }
                (state.replica.block().stamp, state.replica.visible_length())
            }
        };
        if here < block.stamp {
            return Err(DatanodeError::StaleReplica { block, here });
        }
        Ok(length)
    }
}

fn check_same(volume: &Volume, first: &VersionFile, this: &VersionFile) -> Result<(), DatanodeError> {
    let fields = [
        ("cluster", &this.cluster_id, &first.cluster_id),
        ("block pool", &this.pool_id, &first.pool_id),
        ("datanode", &this.datanode_uuid, &first.datanode_uuid),
    ];
    match fields.into_iter().find(|(_, found, expected)| found != expected) {
        None => Ok(()),
        Some((field, found, expected)) => Err(DatanodeError::WrongCluster {
            path: volume.dir().join(version_file::FILE_NAME),
            field,
            found: found.clone(),
            expected: expected.clone(),
        }),
    }
}

/// The message form of a reported replica's state.
pub fn report_state(replica: &ReportedReplica) -> v1::ReplicaState {
    replica.state.to_proto()
}
