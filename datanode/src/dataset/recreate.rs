//! Makes the files of replicas that a stop of the machine has left in the journal's records alone.
//!
//! A small new replica is put on disk by its records ([`Change::Created`](crate::journal::record::Change)); its files and their
//! names follow when the segment is dropped. What is missing of them is made here, empty and on disk, before the replicas
//! are looked at; the records then bring it to what it was. One that was deleted has no records that matter. Then the names of
//! all such replicas are put on disk, also if only the process had ended: the journal starts anew.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;

use super::open_replica::{Home, data_path, meta_path};
use super::replica_map::Entry;
use super::scan::{Found, Replicas};
use super::version_file::sync_dir;
use super::volume::Volume;
use crate::error::{DatanodeError, disk};
use crate::journal::replay::Found as FoundJournal;

/// Completes what was found of each kind of directory.
pub(super) fn recreate(
    volume: &Volume,
    journal: &FoundJournal,
    kinds: &mut [(Home, &mut Found)],
) -> Result<(), DatanodeError> {
    if journal.is_same_boot() {
        return Ok(());
    }
    let mut dirs: BTreeSet<PathBuf> = BTreeSet::new();
    for (block, closed) in journal.created() {
        let data_home = kinds.iter().find(|(_, found)| found.has_data(block.id)).map(|(home, _)| *home);
        let meta_home = kinds.iter().find(|(_, found)| found.has_meta(block.id)).map(|(home, _)| *home);
        if data_home.is_some() && meta_home.is_some() {
            continue;
        }
        let made = if closed { Home::Small } else { Home::Random };
        let home = data_home.or(meta_home).unwrap_or(made);
        let Some((_, found)) = kinds.iter_mut().find(|(kind, _)| *kind == home) else { continue };
        let mut make = |path: PathBuf| {
            File::create(&path).map_err(disk(&path))?;
            dirs.extend(path.parent().map(ToOwned::to_owned));
            Ok::<_, DatanodeError>(())
        };
        if data_home.is_none() {
            make(data_path(volume, home, block))?;
            found.add_data(block.id, 0);
        }
        if meta_home.is_none() {
            make(meta_path(volume, home, block))?;
            found.add_meta(block);
        }
        tracing::info!(%block, ?home, "new replica made again from the journal");
    }
    dirs.iter().try_for_each(|dir| sync_dir(dir))?;
    kinds.iter_mut().for_each(|(_, found)| found.sort());
    Ok(())
}

/// Puts the names of replicas on disk that may be there in records alone.
pub(super) fn put_names_on_disk(
    volume: &Volume,
    journal: &FoundJournal,
    replicas: &Replicas,
) -> Result<(), DatanodeError> {
    let mut dirs: BTreeSet<PathBuf> = BTreeSet::new();
    for (block, _) in journal.created() {
        let Ok(at) = replicas.binary_search_by_key(&block.id, |(id, _)| *id) else { continue };
        let home = match &replicas[at].1 {
            Entry::Closed(closed) => closed.home(),
            Entry::Open(open) => open.lock().home,
        };
        // The directory, and the two above in case that they are new.
        dirs.extend(data_path(volume, home, block).ancestors().skip(1).take(3).map(ToOwned::to_owned));
    }
    dirs.iter().try_for_each(|dir| sync_dir(dir))
}
