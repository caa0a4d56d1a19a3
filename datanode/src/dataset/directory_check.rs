//! Compares what is in a volume's directories with the replica map, while the datanode works.
//!
//! Replicas whose files are gone, are something else, or have another length are verified at once, which reports them.
//! Files of closed replicas that the map does not know (somebody put them back) become replicas if they are whole and match
//! their checksums; the namenode decides what they are worth. What has lost its other half is set aside.
//!
//! No file is taken for unknown that is being made or deleted: a replica has its entry in the map before its files exist, and
//! keeps it until they are gone; so files that are there before and after the map was asked, and not in it, are unknown.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dfs_proto::v1::ReplicaEvent;
use dfs_proto::{BlockId, GenerationStamp};

use super::layout::{self, BlockFile};
use super::open_replica::{Home, data_path, meta_path};
use super::replica_map::{Closed, Entry};
use super::verify::{Verdict, Verifier};
use super::volume::Volume;
use super::{Dataset, scan};
use crate::error::{DatanodeError, disk};
use crate::replica::BlockRef;

/// Replicas looked at between two questions whether to go on.
const BATCH: usize = 1_024;

/// A bad replica that was found, for people.
pub type Finding = (BlockId, String);

/// The files of one block in one directory.
#[derive(Debug, Default)]
struct Files {
    data: Option<u64>,
    metas: Vec<BlockRef>,
}

impl Dataset {
    /// Checks the directories of a volume. `go_on` is asked now and then, and may take its time. Answers the bad replicas
    /// that were found; a volume that cannot be read fails by itself.
    pub fn check_directories(
        &self,
        volume: &Volume,
        verifier: &mut Verifier,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        let outcome = self
            .check_unknown(volume, verifier, go_on)
            .and_then(|()| self.check_known(volume, verifier, go_on, &mut findings));
        if let Err(error) = outcome {
            tracing::warn!(storage_id = volume.storage_id(), %error, "directories cannot be checked");
            self.note_read_error(volume, &error);
        }
        findings
    }

    /// Replicas in the map whose files are not what they should be.
    fn check_known(
        &self,
        volume: &Volume,
        verifier: &mut Verifier,
        go_on: &mut dyn FnMut() -> bool,
        findings: &mut Vec<Finding>,
    ) -> Result<(), DatanodeError> {
        let mut after = None;
        while go_on() {
            let (ids, last) = self.closed_on(volume, after, BATCH);
            for id in ids {
                let Some(Entry::Closed(closed)) = self.map.get(id) else { continue };
                if has_its_files(volume, id, closed)? {
                    continue;
                }
                // One look at the directory first: if the disk is away, the replicas are not to blame.
                self.check_volume(volume, false);
                if let Verdict::Bad { block, error } = verifier.verify(self, id, &mut |_| go_on()) {
                    findings.push((id, format!("{block}: {error}")));
                }
            }
            match last {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        Ok(())
    }

    /// Files of closed replicas that are not in the map.
    fn check_unknown(
        &self,
        volume: &Volume,
        verifier: &mut Verifier,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), DatanodeError> {
        let small =
            (0..layout::RBW_SUBDIRS).map(|n| (Home::Small, layout::small_dir(volume.dir(), BlockId(n))));
        let finalized = (0..layout::SUBDIRS * layout::SUBDIRS).map(|n| {
            let (x, y) = (n / layout::SUBDIRS, n % layout::SUBDIRS);
            let dir = volume.dir().join(layout::FINALIZED).join(format!("subdir{x}/subdir{y}"));
            (Home::Finalized, dir)
        });
        for (home, dir) in small.chain(finalized) {
            if !go_on() {
                break;
            }
            for (id, files) in list(&dir)? {
                let place = match home {
                    Home::Small => layout::small_dir(volume.dir(), id),
                    _ => layout::finalized_dir(volume.dir(), id),
                };
                if place != dir {
                    // No replica is ever here.
                    let names = files.metas.iter().map(|block| layout::meta_name(*block));
                    for name in names.chain(files.data.map(|_| layout::data_name(id))) {
                        tracing::warn!(path = %dir.join(&name).display(), "block file in a wrong directory set aside");
                        scan::set_aside(volume, &dir.join(name))?;
                    }
                } else if self.map.get(id).is_none() {
                    self.take_unknown(volume, home, id, &files, verifier)?;
                }
            }
        }
        Ok(())
    }

    /// Makes a replica of unknown files, or sets them aside.
    fn take_unknown(
        &self,
        volume: &Volume,
        home: Home,
        id: BlockId,
        files: &Files,
        verifier: &mut Verifier,
    ) -> Result<(), DatanodeError> {
        let stamp = files.metas.iter().map(|block| block.stamp).max().unwrap_or(GenerationStamp(0));
        let block = BlockRef { id, stamp };
        let (data_at, meta_at) = (data_path(volume, home, block), meta_path(volume, home, block));
        let mut found: Vec<PathBuf> =
            files.metas.iter().map(|block| meta_path(volume, home, *block)).filter(|p| p.exists()).collect();
        found.extend(files.data.map(|_| data_at.clone()).filter(|path| path.exists()));
        if found.is_empty() {
            // Deleted since they were listed, or in a directory where they do not belong.
            return Ok(());
        }
        if let (Some(length), [_]) = (files.data, &files.metas[..]) {
            let small = home == Home::Small;
            let closed = Closed { stamp, length, volume: volume.index(), rewritten: false, small };
            if self.map.insert(id, Entry::Closed(closed)).is_some() {
                return Ok(());
            }
            volume.add_used(length);
            let verdict = verifier.verify_quietly(self, id);
            if matches!(verdict, Verdict::Good { .. }) {
                tracing::warn!(%block, path = %data_at.display(), "files of an unknown replica taken in");
                self.changed(ReplicaEvent::Received, block, length, volume);
                return Ok(());
            }
            if !self.map.remove_closed(id, closed) {
                return Ok(());
            }
            volume.sub_used(length);
            tracing::warn!(%block, path = %meta_at.display(), ?verdict, "files of an unknown replica are damaged");
        }
        for path in found {
            tracing::warn!(path = %path.display(), "file that belongs to no replica set aside");
            scan::set_aside(volume, &path)?;
        }
        Ok(())
    }
}

/// Whether both files of a replica are there, and the data has its length.
fn has_its_files(volume: &Volume, id: BlockId, closed: Closed) -> Result<bool, DatanodeError> {
    let block = BlockRef { id, stamp: closed.stamp };
    let data = regular_length(&data_path(volume, closed.home(), block))?;
    let meta = regular_length(&meta_path(volume, closed.home(), block))?;
    Ok(data == Some(closed.length) && meta.is_some())
}

/// Length of a regular file; `None`: there is none.
fn regular_length(path: &Path) -> Result<Option<u64>, DatanodeError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
        Err(error) => {
            let error = disk(path)(error);
            if error.is_damage() { Ok(None) } else { Err(error) }
        }
    }
}

/// Block files of a directory by block.
fn list(dir: &Path) -> Result<BTreeMap<BlockId, Files>, DatanodeError> {
    let mut found: BTreeMap<BlockId, Files> = BTreeMap::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(disk(dir)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(disk(dir))?;
        match entry.file_name().to_str().and_then(layout::parse) {
            Some(BlockFile::Data(id)) => {
                if let Some(length) = regular_length(&entry.path())? {
                    found.entry(id).or_default().data = Some(length);
                }
            }
            Some(BlockFile::Meta(block)) => found.entry(block.id).or_default().metas.push(block),
            None => {}
        }
    }
    Ok(found)
}
