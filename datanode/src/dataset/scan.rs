//! The scan at start: finds all replicas, completes moves that a crash interrupted, cuts unfinished replicas
//! back to their last good checksum, and sets aside what has lost its other half.
//!
//! Volumes are scanned in parallel, and several threads share one volume's directories.
//! Nothing is deleted but copies that were on their way in (the source still has them), replicas without a
//! single byte, and checksums without data. Everything that is dropped or set aside is logged.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use dfs_proto::BlockId;

use super::files;
use super::layout::{self, BlockFile};
use super::meta_file::{self, META_HEADER_BYTES};
use super::open_replica::{Home, OpenReplica, data_path, meta_path};
use super::replica_map::{Closed, Entry, ReplicaMap};
use super::volume::Volume;
use crate::error::{DatanodeError, disk};
use crate::replica::{BlockRef, Replica};
use crate::sync::lock;

/// Threads that share one volume's directories: enough to keep a disk's queue filled.
const THREADS_A_VOLUME: usize = 4;

/// Files of one directory kind.
#[derive(Debug, Default)]
struct Found {
    /// Data files with their lengths.
    data: Vec<(BlockId, u64)>,
    /// Checksum files.
    meta: Vec<BlockRef>,
}

impl Found {
    fn sort(&mut self) {
        self.data.sort_unstable_by_key(|(id, _)| *id);
        self.meta.sort_unstable_by_key(|b| (b.id, b.stamp));
    }

    /// Checksum files of a block, lowest stamp first.
    fn metas(&self, id: BlockId) -> &[BlockRef] {
        let from = self.meta.partition_point(|b| b.id < id);
        let to = self.meta.partition_point(|b| b.id <= id);
        &self.meta[from..to]
    }

    fn has_data(&self, id: BlockId) -> bool {
        self.data.binary_search_by_key(&id, |(id, _)| *id).is_ok()
    }
}

/// Scans all volumes.
pub fn scan(volumes: &[Arc<Volume>]) -> Result<ReplicaMap, DatanodeError> {
    let outcomes: Vec<Result<Vec<(BlockId, Entry)>, DatanodeError>> = thread::scope(|scope| {
        let threads: Vec<_> = volumes.iter().map(|volume| scope.spawn(|| scan_volume(volume))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    });
    let mut map = BTreeMap::new();
    for (volume, outcome) in volumes.iter().zip(outcomes) {
        for (id, entry) in outcome? {
            let Some(other) = map.remove(&id) else {
                map.insert(id, entry);
                continue;
            };
            let (kept, dropped) = if rank(&entry) > rank(&other) { (entry, other) } else { (other, entry) };
            let dropped_at = match &dropped {
                Entry::Closed(closed) => &volumes[usize::from(closed.volume)],
                Entry::Open(_) => volume,
            };
            tracing::warn!(block = %id, storage_id = dropped_at.storage_id(), "second replica of a block set aside");
            set_aside_replica(volumes, id, &dropped)?;
            map.insert(id, kept);
        }
    }
    Ok(ReplicaMap::new(map))
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

fn set_aside_replica(volumes: &[Arc<Volume>], id: BlockId, entry: &Entry) -> Result<(), DatanodeError> {
    let (volume, home, block) = match entry {
        Entry::Closed(closed) => {
            let volume = &volumes[usize::from(closed.volume)];
            (Arc::clone(volume), Home::Finalized, BlockRef { id, stamp: closed.stamp })
        }
        Entry::Open(open) => (Arc::clone(&open.volume), Home::Rbw, open.lock().replica.block()),
    };
    volume.sub_used(length_of(entry));
    set_aside(&volume, &data_path(&volume, home, block))?;
    set_aside(&volume, &meta_path(&volume, home, block))
}

fn scan_volume(volume: &Arc<Volume>) -> Result<Vec<(BlockId, Entry)>, DatanodeError> {
    let tmp = volume.dir().join(layout::TMP);
    let mut unfinished_copies = 0usize;
    for entry in list(&tmp)? {
        files::remove(&entry.path())?;
        unfinished_copies += 1;
    }
    let mut rbw = Found::default();
    for subdir in 0..layout::RBW_SUBDIRS {
        scan_dir(volume, &layout::rbw_dir(volume.dir(), BlockId(subdir)), None, &mut rbw)?;
    }
    rbw.sort();
    let mut finalized = scan_finalized(volume)?;
    finalized.sort();
    let replicas = resolve(volume, &mut rbw, &finalized)?;
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

/// Pairs data with checksums.
fn resolve(
    volume: &Arc<Volume>,
    rbw: &mut Found,
    finalized: &Found,
) -> Result<Vec<(BlockId, Entry)>, DatanodeError> {
    let mut out = Vec::with_capacity(finalized.data.len() + rbw.data.len());
    for &(id, length) in &finalized.data {
        if let Some(block) = finalized.metas(id).last() {
            let closed = Closed { stamp: block.stamp, length, volume: volume.index() };
            out.push((id, Entry::Closed(closed)));
        } else if rbw.metas(id).last().is_some() && !rbw.has_data(id) {
            // Stopped between the two renames of an append or a cut: complete the move.
            let block =
                BlockRef { id, stamp: rbw.metas(id).last().map_or_else(Default::default, |b| b.stamp) };
            let from = data_path(volume, Home::Finalized, block);
            fs::rename(&from, data_path(volume, Home::Rbw, block)).map_err(disk(&from))?;
            out.push((id, open_unfinished(volume, block)?));
        } else {
            let path = data_path(volume, Home::Finalized, BlockRef { id, stamp: Default::default() });
            tracing::warn!(path = %path.display(), length, "data without checksums set aside");
            set_aside(volume, &path)?;
        }
    }
    for &(id, length) in &rbw.data {
        let data = data_path(volume, Home::Rbw, BlockRef { id, stamp: Default::default() });
        if finalized.has_data(id) {
            tracing::warn!(path = %data.display(), length, "unfinished twin of a closed replica set aside");
            set_aside(volume, &data)?;
        } else if let Some(block) = rbw.metas(id).last() {
            out.push((id, open_unfinished(volume, *block)?));
        } else if let Some(block) = finalized.metas(id).last() {
            // Stopped between the two renames of a close: take the checksums back.
            let from = meta_path(volume, Home::Finalized, *block);
            fs::rename(&from, meta_path(volume, Home::Rbw, *block)).map_err(disk(&from))?;
            out.push((id, open_unfinished(volume, *block)?));
        } else if length == 0 {
            files::remove(&data)?;
        } else {
            tracing::warn!(path = %data.display(), length, "data without checksums set aside");
            set_aside(volume, &data)?;
        }
    }
    volume.add_used(out.iter().map(|(_, entry)| length_of(entry)).sum());
    out.sort_unstable_by_key(|(id, _)| *id);
    drop_loose_metas(volume, Home::Finalized, &finalized.meta, &out)?;
    drop_loose_metas(volume, Home::Rbw, &rbw.meta, &out)?;
    Ok(out)
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
            Entry::Closed(closed) => home == Home::Finalized && closed.stamp == block.stamp,
            Entry::Open(open) => open.lock().replica.block() == *block,
        });
        if !belongs {
            let path = meta_path(volume, home, *block);
            tracing::warn!(path = %path.display(), "checksums without data removed");
            files::remove(&path)?;
        }
    }
    Ok(())
}

/// Cuts an unfinished replica back to what matches its checksums.
fn open_unfinished(volume: &Arc<Volume>, block: BlockRef) -> Result<Entry, DatanodeError> {
    let (data_at, meta_at) = (data_path(volume, Home::Rbw, block), meta_path(volume, Home::Rbw, block));
    let (data, meta) = (files::open_rw(&data_at)?, files::open_rw(&meta_at)?);
    let data_len = data.metadata().map_err(disk(&data_at))?.len();
    let checksum = files::read_checksum(&meta, &meta_at).ok();
    let mut length = 0;
    let mut partial_sum = 0;
    let mut meta_len = 0;
    if let Some(checksum) = checksum {
        let good = meta_file::good_length(&data, &meta, checksum).map_err(disk(&data_at))?;
        (length, partial_sum) = (good.length, good.partial_sum);
        let chunks = length.div_ceil(checksum.bytes_per_checksum() as u64);
        meta_len = META_HEADER_BYTES as u64 + chunks * checksum.checksum_size() as u64;
    }
    if length < data_len {
        tracing::warn!(%block, length, cut = data_len - length, "unfinished replica cut back to its checksums");
    }
    meta.set_len(meta_len).map_err(disk(&meta_at))?;
    data.set_len(length).map_err(disk(&data_at))?;
    let replica = Replica::found_unfinished(block, length);
    let open = OpenReplica::new(Arc::clone(volume), replica, Home::Rbw, checksum);
    open.lock().partial_sum = partial_sum;
    Ok(Entry::Open(Arc::new(open)))
}

/// Moves a file to `orphaned/`, under a name of its own if the name is taken.
fn set_aside(volume: &Volume, path: &Path) -> Result<(), DatanodeError> {
    let dir = volume.dir().join(layout::ORPHANED);
    fs::create_dir_all(&dir).map_err(disk(&dir))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut target = dir.join(&name);
    let mut number = 1u64;
    while target.exists() {
        target = dir.join(format!("{name}.{number}"));
        number += 1;
    }
    fs::rename(path, &target).map_err(disk(path))
}
