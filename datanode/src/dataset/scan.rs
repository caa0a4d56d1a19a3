//! The scan at start: finds all replicas, completes moves that a crash interrupted, cuts unfinished replicas
//! back to their last good checksum, and sets aside what has lost its other half. Replicas that were written at any offset are
//! not cut but brought into order with the volume's journal: see `redo.rs`.
//!
//! Volumes are scanned in parallel, and several threads share one volume's directories.
//! Nothing is deleted but copies that were on their way in (the source still has them), replicas without a
//! single byte, and checksums without data. Of a replica that is cut where its damage begins, the files are copied to `orphaned/` first.
//! Everything that is dropped or set aside is logged.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use dfs_proto::BlockId;

use super::files;
use super::layout::{self, BlockFile};
use super::meta_file::{self, META_HEADER_BYTES};
use super::open_replica::{Home, OpenReplica, data_path, meta_path};
use super::recreate::{put_names_on_disk, recreate};
use super::redo;
use super::relocation;
use super::replica_map::{Closed, Entry, ReplicaMap};
use super::volume::Volume;
use crate::error::{DatanodeError, disk};
use crate::journal::replay::Found as FoundJournal;
use crate::replica::{BlockRef, Replica};
use crate::sync::lock;

/// Threads that share one volume's directories: enough to keep a disk's queue filled.
const THREADS_A_VOLUME: usize = 4;

/// What a volume holds.
pub(super) type Replicas = Vec<(BlockId, Entry)>;

/// Files of one directory kind.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Data files with their lengths.
    data: Vec<(BlockId, u64)>,
    /// Checksum files.
    meta: Vec<BlockRef>,
}

impl Found {
    pub(super) fn sort(&mut self) {
        self.data.sort_unstable_by_key(|(id, _)| *id);
        self.meta.sort_unstable_by_key(|b| (b.id, b.stamp));
    }

    /// Checksum files of a block, lowest stamp first.
    fn metas(&self, id: BlockId) -> &[BlockRef] {
        let from = self.meta.partition_point(|b| b.id < id);
        let to = self.meta.partition_point(|b| b.id <= id);
        &self.meta[from..to]
    }

    /// Both need what is there to be sorted.
    pub(super) fn has_data(&self, id: BlockId) -> bool {
        self.data.binary_search_by_key(&id, |(id, _)| *id).is_ok()
    }

    pub(super) fn has_meta(&self, id: BlockId) -> bool {
        !self.metas(id).is_empty()
    }

    /// Adds a file, out of order.
    pub(super) fn add_data(&mut self, id: BlockId, length: u64) {
        self.data.push((id, length));
    }

    pub(super) fn add_meta(&mut self, block: BlockRef) {
        self.meta.push(block);
    }
}

/// Makes one map of what volumes hold. Of two replicas of a block the better one counts, the other one is set aside.
pub(super) fn merge(found: Vec<(Arc<Volume>, Replicas)>) -> Result<ReplicaMap, DatanodeError> {
    let mut map: BTreeMap<BlockId, (usize, Entry)> = BTreeMap::new();
    let volumes: Vec<Arc<Volume>> = found.iter().map(|(volume, _)| Arc::clone(volume)).collect();
    for (here, (_, replicas)) in found.into_iter().enumerate() {
        for (id, entry) in replicas {
            let Some(other) = map.remove(&id) else {
                map.insert(id, (here, entry));
                continue;
            };
            let (one, two) = ((&*volumes[here], &entry), (&*volumes[other.0], &other.1));
            if let Some(first) = relocation::merge_twins(id, one, two)? {
                map.insert(id, if first { (here, entry) } else { other });
                continue;
            }
            let this = (here, entry);
            let (kept, dropped) = if rank(&this.1) > rank(&other.1) { (this, other) } else { (other, this) };
            set_aside_replica(&volumes[dropped.0], id, &dropped.1)?;
            map.insert(id, kept);
        }
    }
    Ok(ReplicaMap::new(map.into_iter().map(|(id, (_, entry))| (id, entry)).collect()))
}

/// Which of two replicas of one block is the better one.
fn rank(entry: &Entry) -> (u64, bool, u64) {
    match entry {
        Entry::Closed(closed) => (closed.stamp.get(), true, closed.length),
        Entry::Open(open) => {
            let state = open.lock();
            (state.replica.block().stamp.get(), false, state.replica.length())
        }
    }
}

fn length_of(entry: &Entry) -> u64 {
    match entry {
        Entry::Closed(closed) => closed.length,
        Entry::Open(open) => open.lock().replica.length(),
    }
}

/// Sets a replica of a volume aside.
pub(super) fn set_aside_replica(volume: &Volume, id: BlockId, entry: &Entry) -> Result<(), DatanodeError> {
    let (home, block) = match entry {
        Entry::Closed(closed) => (closed.home(), BlockRef { id, stamp: closed.stamp }),
        Entry::Open(open) => {
            let state = open.lock();
            (state.home, state.replica.block())
        }
    };
    tracing::warn!(%block, storage_id = volume.storage_id(), "second replica of a block set aside");
    volume.sub_used(length_of(entry));
    set_aside(volume, &data_path(volume, home, block))?;
    set_aside(volume, &meta_path(volume, home, block))
}

/// Finds the replicas of a volume, with what was found of its journal.
pub(super) fn scan_volume(
    volume: &Arc<Volume>,
    journal: &FoundJournal,
) -> Result<Vec<(BlockId, Entry)>, DatanodeError> {
    let tmp = volume.dir().join(layout::TMP);
    let mut unfinished_copies = 0usize;
    for entry in list(&tmp)? {
        files::remove(&entry.path())?;
        unfinished_copies += 1;
    }
    let (mut small, mut rbw, mut random) = (Found::default(), Found::default(), Found::default());
    for subdir in (0..layout::RBW_SUBDIRS).map(BlockId) {
        scan_dir(volume, &layout::small_dir(volume.dir(), subdir), None, &mut small)?;
        scan_dir(volume, &layout::rbw_dir(volume.dir(), subdir), None, &mut rbw)?;
        scan_dir(volume, &layout::random_dir(volume.dir(), subdir), None, &mut random)?;
    }
    small.sort();
    rbw.sort();
    random.sort();
    let mut finalized = scan_finalized(volume)?;
    finalized.sort();
    let mut kinds = [
        (Home::Finalized, &mut finalized),
        (Home::Small, &mut small),
        (Home::Rbw, &mut rbw),
        (Home::Random, &mut random),
    ];
    recreate(volume, journal, &mut kinds)?;
    let replicas = resolve(volume, journal, &Halves { finalized, small, rbw, random })?;
    put_names_on_disk(volume, journal, &replicas)?;
    tracing::info!(
        storage_id = volume.storage_id(),
        replicas = replicas.len(),
        unfinished_copies,
        "volume scanned"
    );
    Ok(replicas)
}

fn list(dir: &Path) -> Result<Vec<DirEntry>, DatanodeError> {
    fs::read_dir(dir).and_then(Iterator::collect).map_err(disk(dir))
}

/// Reads one directory. With `place`, only blocks that belong there count.
fn scan_dir(
    volume: &Volume,
    dir: &Path,
    place: Option<(usize, usize)>,
    found: &mut Found,
) -> Result<(), DatanodeError> {
    for entry in list(dir)? {
        let name = entry.file_name();
        let file = name.to_str().and_then(layout::parse);
        let id = match file {
            Some(BlockFile::Data(id)) => id,
            Some(BlockFile::Meta(block)) => block.id,
            None => {
                tracing::warn!(path = %entry.path().display(), "not a block file");
                continue;
            }
        };
        if place.is_some_and(|place| layout::subdirs(id) != place) {
            tracing::warn!(path = %entry.path().display(), "block file in a wrong directory set aside");
            set_aside(volume, &entry.path())?;
            continue;
        }
        match file {
            Some(BlockFile::Data(id)) => {
                let length = entry.metadata().map_err(disk(&entry.path()))?.len();
                found.data.push((id, length));
            }
            Some(BlockFile::Meta(block)) => found.meta.push(block),
            None => {}
        }
    }
    Ok(())
}

fn scan_finalized(volume: &Volume) -> Result<Found, DatanodeError> {
    let root = volume.dir().join(layout::FINALIZED);
    let mut dirs = Vec::new();
    for x in 0..layout::SUBDIRS {
        let level = root.join(format!("subdir{x}"));
        if level.is_dir() {
            let y = (0..layout::SUBDIRS).map(|y| ((x, y), level.join(format!("subdir{y}"))));
            dirs.extend(y.filter(|(_, dir)| dir.is_dir()));
        }
    }
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Found::default());
    let worker = || -> Result<(), DatanodeError> {
        let mut found = Found::default();
        while let Some((place, dir)) = dirs.get(next.fetch_add(1, Ordering::Relaxed)) {
            scan_dir(volume, dir, Some(*place), &mut found)?;
        }
        let mut all = lock(&all);
        all.data.append(&mut found.data);
        all.meta.append(&mut found.meta);
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS_A_VOLUME.min(dirs.len())).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
    })?;
    Ok(all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// What was found of each kind.
struct Halves {
    finalized: Found,
    small: Found,
    rbw: Found,
    random: Found,
}

impl Halves {
    /// Kinds, the one whose data counts first.
    fn kinds(&self) -> [(Home, &Found); 4] {
        [
            (Home::Finalized, &self.finalized),
            (Home::Small, &self.small),
            (Home::Rbw, &self.rbw),
            (Home::Random, &self.random),
        ]
    }

    /// Where the checksums of a block are that has none beside its data.
    fn strayed(&self, id: BlockId, beside: Home) -> Option<(Home, BlockRef)> {
        let others = self.kinds().into_iter().filter(|(home, _)| *home != beside);
        others.filter_map(|(home, found)| Some((home, *found.metas(id).last()?))).next()
    }

    /// Whether a block's data is also in a place that counts more.
    fn is_twin(&self, id: BlockId, here: Home) -> bool {
        self.kinds().into_iter().take_while(|(home, _)| *home != here).any(|(_, found)| found.has_data(id))
    }
}

/// Pairs data with checksums.
fn resolve(
    volume: &Arc<Volume>,
    journal: &FoundJournal,
    halves: &Halves,
) -> Result<Vec<(BlockId, Entry)>, DatanodeError> {
    let mut out = Vec::with_capacity(halves.kinds().iter().map(|(_, found)| found.data.len()).sum());
    for (home, found) in halves.kinds() {
        for &(id, length) in &found.data {
            let path = data_path(volume, home, BlockRef { id, stamp: Default::default() });
            if halves.is_twin(id, home) {
                tracing::warn!(path = %path.display(), length, "unfinished twin of a replica set aside");
                set_aside(volume, &path)?;
            } else if let Some(block) = found.metas(id).last() {
                out.push((id, open_found(volume, journal, home, *block, length)?));
            } else if let Some((other, block)) = halves.strayed(id, home) {
                let place = complete_move(volume, home, other, block)?;
                out.push((id, open_found(volume, journal, place, block, length)?));
            } else if length == 0 && !home.is_closed() {
                files::remove(&path)?;
            } else {
                tracing::warn!(path = %path.display(), length, "data without checksums set aside");
                set_aside(volume, &path)?;
            }
        }
    }
    volume.add_used(out.iter().map(|(_, entry)| length_of(entry)).sum());
    out.sort_unstable_by_key(|(id, _)| *id);
    for (home, found) in halves.kinds() {
        drop_loose_metas(volume, home, &found.meta, &out)?;
    }
    Ok(out)
}

/// Stopped between the two renames of a move, checksums first: a replica that was being reopened or cut goes on to where its
/// checksums are; of one that was being closed or handed over the checksums are taken back. Returns where it is then.
fn complete_move(
    volume: &Volume,
    data_home: Home,
    meta_home: Home,
    block: BlockRef,
) -> Result<Home, DatanodeError> {
    let (from, to) = if data_home.is_closed() {
        (data_path(volume, data_home, block), data_path(volume, meta_home, block))
    } else {
        (meta_path(volume, meta_home, block), meta_path(volume, data_home, block))
    };
    fs::rename(&from, to).map_err(disk(&from))?;
    Ok(if data_home.is_closed() { meta_home } else { data_home })
}

/// The entry of a replica whose two files are in one place.
fn open_found(
    volume: &Arc<Volume>,
    journal: &FoundJournal,
    home: Home,
    block: BlockRef,
    mut length: u64,
) -> Result<Entry, DatanodeError> {
    if redo::redo(journal, volume, home, block)? {
        let path = data_path(volume, home, block);
        length = fs::metadata(&path).map_err(disk(&path))?.len();
    }
    match home {
        Home::Finalized | Home::Small => {
            let (stamp, volume, small) = (block.stamp, volume.index(), home == Home::Small);
            Ok(Entry::Closed(Closed { stamp, length, volume, rewritten: false, small }))
        }
        Home::Rbw | Home::Random | Home::Tmp => open_unfinished(volume, journal, home, block),
    }
}

/// Removes checksum files that belong to no replica found.
fn drop_loose_metas(
    volume: &Volume,
    home: Home,
    metas: &[BlockRef],
    replicas: &[(BlockId, Entry)],
) -> Result<(), DatanodeError> {
    for block in metas {
        let at = replicas.binary_search_by_key(&block.id, |(id, _)| *id);
        let belongs = at.is_ok_and(|i| match &replicas[i].1 {
            Entry::Closed(closed) => home == closed.home() && closed.stamp == block.stamp,
            Entry::Open(open) => {
                let state = open.lock();
                // One that was moved to its data has not been seen there.
                state.replica.block() == *block
                    && (state.home == home || !meta_path(volume, home, *block).exists())
            }
        });
        if !belongs {
            let path = meta_path(volume, home, *block);
            tracing::warn!(path = %path.display(), "checksums without data removed");
            files::remove(&path)?;
        }
    }
    Ok(())
}

/// Cuts an unfinished replica back: one written from start to end to what matches its checksums, one written at any
/// offset to what has checksums.
fn open_unfinished(
    volume: &Arc<Volume>,
    journal: &FoundJournal,
    home: Home,
    block: BlockRef,
) -> Result<Entry, DatanodeError> {
    let (data_at, meta_at) = (data_path(volume, home, block), meta_path(volume, home, block));
    let (data, meta) = (files::open_rw(&data_at)?, files::open_rw(&meta_at)?);
    let data_len = data.metadata().map_err(disk(&data_at))?.len();
    let checksum = files::read_checksum(&meta, &meta_at).ok();
    let mut length = 0;
    let mut partial_sum = 0;
    let mut meta_len = 0;
    let mut damaged = false;
    if let Some(checksum) = checksum {
        let good = if home == Home::Random {
            meta_file::covered_length(&data, &meta, checksum)
        } else {
            meta_file::good_length(&data, &meta, checksum)
        };
        let good = good.map_err(disk(&data_at))?;
        (length, partial_sum) = (good.length, good.partial_sum);
        let covered = meta_file::covered_length(&data, &meta, checksum).map_err(disk(&data_at))?.length;
        damaged = covered > length + checksum.bytes_per_checksum() as u64;
        if damaged {
            tracing::warn!(%block, length, "unfinished replica is damaged in the middle; its files are kept aside");
            for path in [&data_at, &meta_at] {
                let kept = orphan_path(volume, path)?;
                if let Err(error) = fs::copy(path, &kept) {
                    // Other replicas have it too; a full disk is no reason not to start.
                    tracing::warn!(path = %kept.display(), %error, "not kept aside");
                }
            }
        }
        let chunks = length.div_ceil(checksum.bytes_per_checksum() as u64);
        meta_len = META_HEADER_BYTES as u64 + chunks * checksum.checksum_size() as u64;
    }
    if length < data_len {
        tracing::warn!(%block, length, cut = data_len - length, "unfinished replica cut back to its checksums");
    }
    meta.set_len(meta_len).map_err(disk(&meta_at))?;
    data.set_len(length).map_err(disk(&data_at))?;
    let mut torn = false;
    if home == Home::Random {
        let in_flight = journal.in_flight(block.id);
        let settled = redo::settle(block, (&data, &meta), length, &in_flight).map_err(disk(&data_at))?;
        (torn, damaged) = (settled.torn > 0, settled.damaged.is_some());
    }
    // Which bytes of a torn chunk are right only other replicas know, or the writer, who sends again what was not acknowledged: so does
    // one that is cut. A damaged one is nothing to go on with, and kept in case that it is the last.
    let replica = match journal.is_same_boot() && !damaged {
        true if home == Home::Random && !torn => Replica::found_intact(block, length),
        true => Replica::found_resumable(block, length),
        false => Replica::found_unfinished(block, length),
    };
    let open = OpenReplica::new(Arc::clone(volume), replica, home, checksum);
    {
        let mut state = open.lock();
        (state.partial_sum, state.torn, state.damaged) = (partial_sum, torn, damaged);
    }
    Ok(Entry::Open(Arc::new(open)))
}

/// Moves a file to `orphaned/`, under a name of its own if the name is taken.
pub(super) fn set_aside(volume: &Volume, path: &Path) -> Result<(), DatanodeError> {
    let target = orphan_path(volume, path)?;
    fs::rename(path, &target).map_err(disk(path))
}

/// A free path in `orphaned/` for a file of this name.
fn orphan_path(volume: &Volume, path: &Path) -> Result<PathBuf, DatanodeError> {
    let dir = volume.dir().join(layout::ORPHANED);
    fs::create_dir_all(&dir).map_err(disk(&dir))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut target = dir.join(&name);
    let mut number = 1u64;
    while target.exists() {
        target = dir.join(format!("{name}.{number}"));
        number += 1;
    }
    Ok(target)
}
