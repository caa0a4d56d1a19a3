//! A disk that hangs: an ext4 on a loop device, frozen with `fsfreeze`. Who writes to it waits, for as long as it stays
//! frozen, and cannot be interrupted; the process lives on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::small_disk::{SmallDisk, mount_ext4};

/// Bytes of the file system, which lies in memory.
const BYTES: u64 = 160 << 20;

/// The disk. Dropping it thaws and unmounts it.
#[derive(Debug)]
pub struct FrozenDisk {
    mounted: PathBuf,
    frozen: AtomicBool,
    /// Unmounted after this.
    _below: SmallDisk,
    _dir: TempDir,
}

impl FrozenDisk {
    /// Mounts one, not frozen; none, loudly, where that is not allowed.
    pub fn mount() -> Result<Option<Self>> {
        let Some(below) = SmallDisk::mount(BYTES + (16 << 20))? else { return Ok(None) };
        let dir = tempfile::tempdir()?;
        if !mount_ext4(&below, BYTES, &[], dir.path())? {
            return Ok(None);
        }
        Ok(Some(Self {
            mounted: dir.path().to_owned(),
            frozen: AtomicBool::new(false),
            _below: below,
            _dir: dir,
        }))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// From now on writes hang.
    pub fn freeze(&self) -> Result<()> {
        ensure!(self.fsfreeze("-f")?, "the disk cannot be frozen");
        self.frozen.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// They go on.
    pub fn thaw(&self) -> Result<()> {
        if self.frozen.swap(false, Ordering::SeqCst) {
            ensure!(self.fsfreeze("-u")?, "the disk stays frozen");
        }
        Ok(())
    }

    fn fsfreeze(&self, what: &str) -> Result<bool> {
        Ok(Command::new("fsfreeze").arg(what).arg(&self.mounted).status()?.success())
    }
}

impl Drop for FrozenDisk {
    fn drop(&mut self) {
        // Unmounting tells whether it worked.
        let _ = self.thaw();
        let unmounted = Command::new("umount").arg("-l").arg(&self.mounted).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the disk that was frozen stays mounted");
    }
}
