//! Opens the volumes of a datanode when it starts: locks them, checks that they belong together, scans them.
//!
//! A disk that fails costs what is on it, not the datanode: its volume is failed from the start, as long as another one is
//! good. Volumes of another cluster, or in use by another datanode, are mistakes of the configuration and refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use uuid::Uuid;

use super::replica_map::ReplicaMap;
use super::version_file::{self, VersionFile};
use super::volume::Volume;
use super::{health, scan};
use crate::error::DatanodeError;
use crate::journal::replay::Found;
use crate::journal::{self, Journal};

/// What was opened.
#[derive(Debug)]
pub(super) struct Opened {
    /// Volumes by number, the good ones with their journals.
    pub(super) volumes: Vec<(Arc<Volume>, Option<Arc<Journal>>)>,
    /// Identity of those that have one.
    pub(super) known: Option<VersionFile>,
    /// All replicas.
    pub(super) map: ReplicaMap,
}

/// What one volume holds.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) journal: Arc<Journal>,
    pub(super) replicas: scan::Replicas,
}

/// Opens all volumes.
pub(super) fn open_all(dirs: &[PathBuf], reserved_bytes: Option<u64>) -> Result<Opened, DatanodeError> {
    let mut volumes = Vec::with_capacity(dirs.len());
    let mut known: Option<VersionFile> = None;
    let mut first_failure = None;
    for (index, dir) in dirs.iter().enumerate() {
        let index = u16::try_from(index).map_err(|_| DatanodeError::Field("volumes"))?;
        match open(dir, index, reserved_bytes) {
            Ok((volume, version)) => {
                match (&known, version) {
                    (_, None) => {}
                    (None, Some(version)) => known = Some(version),
                    (Some(first), Some(version)) => check_same(&volume, first, &version)?,
                }
                volumes.push(Arc::new(volume));
            }
            Err(error) if is_of_disk(&error) => {
                tracing::error!(path = %dir.display(), %error, "volume failed");
                volumes.push(Arc::new(Volume::unavailable(dir, index, &error.to_string())));
                first_failure.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    let good: Vec<Arc<Volume>> = volumes.iter().filter(|volume| !volume.is_failed()).cloned().collect();
    let boot = journal::boot_id();
    let loads: Vec<Result<Loaded, DatanodeError>> = thread::scope(|scope| {
        let threads: Vec<_> = good.iter().map(|volume| scope.spawn(|| load(volume, &boot))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    });
    let mut found = Vec::with_capacity(good.len());
    let mut journals = vec![None; volumes.len()];
    for (volume, loaded) in good.iter().zip(loads) {
        match loaded {
            Ok(Loaded { journal, replicas }) => {
                journals[usize::from(volume.index())] = Some(journal);
                found.push((Arc::clone(volume), replicas));
            }
            Err(error) if is_of_disk(&error) => {
                volume.fail(&error.to_string());
                volume.unlock();
                tracing::error!(path = %volume.dir().display(), %error, "volume failed");
                first_failure.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(failure) = first_failure
        && volumes.iter().all(|volume| volume.is_failed())
    {
        return Err(failure);
    }
    let map = scan::merge(found)?;
    Ok(Opened { volumes: volumes.into_iter().zip(journals).collect(), known, map })
}

/// Opens and tries one volume. One without a `VERSION` file gets a new storage id.
pub(super) fn open(
    dir: &Path,
    index: u16,
    reserved_bytes: Option<u64>,
) -> Result<(Volume, Option<VersionFile>), DatanodeError> {
    let opened = Volume::open(dir, index, reserved_bytes, || format!("DS-{}", Uuid::new_v4()))?;
    health::probe(dir)
        .map_err(|source| DatanodeError::VolumeFault { path: dir.to_owned(), source: source.into() })?;
    Ok(opened)
}

/// Scans an opened volume and starts its journal. `boot`: of the machine; empty if the volume's page cache is not to be relied upon.
pub(super) fn load(volume: &Arc<Volume>, boot: &str) -> Result<Loaded, DatanodeError> {
    let found = Found::read(volume.dir(), boot)?;
    let replicas = scan::scan_volume(volume, &found)?;
    // Only now is everything on disk that the journal stood for.
    let journal = Arc::new(Journal::start(volume.dir(), found.last() + 1)?);
    Ok(Loaded { journal, replicas })
}

/// Whether an error means that a disk fails.
fn is_of_disk(error: &DatanodeError) -> bool {
    matches!(error, DatanodeError::Disk { .. } | DatanodeError::VolumeFault { .. })
}

/// Refuses a volume of another cluster or datanode.
pub(super) fn check_same(
    volume: &Volume,
    first: &VersionFile,
    this: &VersionFile,
) -> Result<(), DatanodeError> {
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
