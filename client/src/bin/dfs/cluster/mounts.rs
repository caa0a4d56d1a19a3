//! The mount of a local cluster: `DIR/run/mount` holds the path of its mount point.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::mount::{self, MountPoint, State};

/// How long a mount elsewhere may take to write everything back.
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(60);

/// Where the cluster in a directory is mounted.
#[derive(Debug)]
pub struct ClusterMount {
    record: PathBuf,
    log: PathBuf,
}

impl ClusterMount {
    /// Of the cluster in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { record: dir.join("run").join("mount"), log: dir.join("logs").join("mount.log") }
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The mount point, if the cluster was mounted and not unmounted since.
    pub fn recorded(&self) -> anyhow::Result<Option<MountPoint>> {
        let shown = || self.record.display().to_string();
        match std::fs::read(&self.record) {
            Ok(path) => {
                // A mount point that does not exist any longer is no mount.
                Ok(MountPoint::new(Path::new(&OsString::from_vec(path))).ok())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(shown),
        }
    }

    /// Mounts `namenode` at `mountpoint`; a mount elsewhere is taken away.
    pub fn mount(&self, namenode: &str, mountpoint: &Path) -> anyhow::Result<()> {
        let place = MountPoint::new(mountpoint).with_context(|| mountpoint.display().to_string())?;
        if let Some(before) = self.recorded()? {
            if before.path() == place.path() && matches!(place.state(), State::Alive { .. }) {
                return Ok(());
            }
            self.unmount(UNMOUNT_DEADLINE)?;
        }
        mount::mount_local(namenode, place.path(), &self.log)?;
        std::fs::write(&self.record, place.path().as_os_str().as_bytes())
            .with_context(|| self.record.display().to_string())
    }

    /// Unmounts, if the cluster is mounted; while the servers still run, so that everything is written back.
    pub fn unmount(&self, timeout: Duration) -> anyhow::Result<()> {
        if let Some(place) = self.recorded()? {
            place.unmount(timeout)?;
        }
        // Nothing depends on it: a record without a mount is ignored.
        let _ = std::fs::remove_file(&self.record);
        Ok(())
    }

    /// Mount point and state, for people.
    pub fn state(&self) -> anyhow::Result<Option<(PathBuf, State)>> {
        Ok(self.recorded()?.map(|place| (place.path().to_owned(), place.state())))
    }
}
