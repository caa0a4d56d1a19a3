//! Small disks: a file system in memory for each volume, which fills up when something else lies on it.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::statvfs;

/// Size of each volume. What the load has at once, all replicas of it, takes a fraction of it.
const VOLUME: &str = "size=192m";

/// Bytes that the filler takes at a time.
const STEP: u64 = 8 << 20;

/// What a file takes at least.
const PAGE: u64 = 4096;

/// A volume of a datanode.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Where it is mounted.
    pub root: PathBuf,
}

impl Volume {
    /// Makes and mounts a volume at `root`.
    pub fn new(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root)?;
        mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), Some(VOLUME))
            .with_context(|| root.display().to_string())?;
        Ok(Self { root })
    }

    /// The directory that the datanode uses.
    pub fn data(&self) -> PathBuf {
        self.root.join("dfs")
    }

    /// Fills the volume until at most `left` bytes are free.
    pub fn fill(&self, left: u64) -> Result<()> {
        let file = OpenOptions::new().create(true).append(true).open(self.filler())?;
        let mut len = file.metadata()?.len();
        while self.free()? > left {
            let step = STEP.min(self.free()?.saturating_sub(left)).max(PAGE);
            match nix::fcntl::posix_fallocate(&file, i64::try_from(len)?, i64::try_from(step)?) {
                Ok(()) => len += step,
                Err(nix::errno::Errno::ENOSPC) => break,
                Err(error) => return Err(error).context("fill"),
            }
        }
        Ok(())
    }

    /// Frees what [`Self::fill`] took.
    pub fn free_up(&self) -> Result<()> {
        match fs::remove_file(self.filler()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Bytes that are free.
    pub fn free(&self) -> Result<u64> {
        let stat = statvfs(&self.root)?;
        Ok(stat.blocks_available() * stat.fragment_size())
    }

    fn filler(&self) -> PathBuf {
        self.root.join("filler")
    }
}

impl AsRef<Path> for Volume {
    fn as_ref(&self) -> &Path {
        &self.root
    }
}
