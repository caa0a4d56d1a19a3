//! Disks of the servers: a file system in memory, or an ext4 in a file on one. Both fill up when something else lies on them; an
//! ext4 can also hang, turn read-only, and lose what is written to it.
//!
//! A process that waits for a disk that hangs cannot be killed, not even with all of its namespace: nothing may end while one
//! hangs. So it is thawed when it is dropped, and `isolation::thaw` does it for a run that is about to be killed.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::statvfs;

use crate::small_disk::{SmallDisk, device_of, fail_whole_pages, mount_ext4, remount_ext4};
use crate::wait::wait_until_blocking;

/// Size of each volume. What the load has at once, all replicas of it, takes a fraction of it.
const VOLUME_BYTES: u64 = 192 << 20;

/// Size of the namenode's disk.
const NAMENODE_BYTES: u64 = 128 << 20;

/// What an ext4 takes beside the bytes of its files.
const OVERHEAD: u64 = 16 << 20;

/// Bytes that the filler takes at a time.
const STEP: u64 = 8 << 20;

/// What a file takes at least.
const PAGE: u64 = 4096;

/// How the file systems are made: quickly, all of their room usable, and read-only after an error.
const EXT4_OPTIONS: [&str; 8] =
    ["-b", "4096", "-m", "0", "-e", "remount-ro", "-E", "lazy_itable_init=1,lazy_journal_init=1"];

/// Time that a killed server gets to let go of its disk.
const FREE_WITHIN: Duration = Duration::from_secs(20);

/// A disk.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Where it is mounted.
    pub root: PathBuf,
    ext4: Option<Arc<Ext4>>,
}

/// The parts of an ext4.
#[derive(Debug)]
struct Ext4 {
    root: PathBuf,
    below: SmallDisk,
    hangs: AtomicBool,
    is_read_only: AtomicBool,
}

impl Volume {
    /// Makes and mounts one in memory at `root`.
    pub fn in_memory(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root)?;
        let size = format!("size={VOLUME_BYTES}");
        mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .with_context(|| root.display().to_string())?;
        Ok(Self { root, ext4: None })
    }

    /// Makes and mounts an ext4 at `root`.
    pub fn ext4(root: PathBuf) -> Result<Self> {
        Self::ext4_of(root, VOLUME_BYTES)
    }

    /// The same for the namenode.
    pub fn of_namenode(root: PathBuf) -> Result<Self> {
        Self::ext4_of(root, NAMENODE_BYTES)
    }

    fn ext4_of(root: PathBuf, bytes: u64) -> Result<Self> {
        fs::create_dir_all(&root)?;
        let below = SmallDisk::mount(bytes + OVERHEAD)?.context("a file system in memory")?;
        ensure!(mount_ext4(&below, bytes, &EXT4_OPTIONS, &root)?, "no ext4 at {}", root.display());
        let (hangs, is_read_only) = (AtomicBool::new(false), AtomicBool::new(false));
        let ext4 = Ext4 { root: root.clone(), below, hangs, is_read_only };
        Ok(Self { root, ext4: Some(Arc::new(ext4)) })
    }

    /// The directory that the server uses.
    pub fn data(&self) -> PathBuf {
        self.root.join("dfs")
    }

    /// It takes changes.
    pub fn is_writable(&self) -> bool {
        self.ext4.as_ref().is_none_or(|ext4| {
            !ext4.hangs.load(Ordering::SeqCst) && !ext4.is_read_only.load(Ordering::SeqCst)
        })
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

    /// From now on writes wait, until [`Self::go_on`].
    pub fn hang(&self) -> Result<()> {
        let ext4 = self.parts()?;
        ensure!(fsfreeze("-f", &ext4.root)?, "the disk cannot be frozen");
        ext4.hangs.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// They go on.
    pub fn go_on(&self) -> Result<()> {
        self.parts()?.thaw()
    }

    /// From now on nothing can be written: the file system finds an error in itself. What was written before is on the disk.
    pub fn turn_read_only(&self) -> Result<()> {
        let ext4 = self.parts()?;
        nix::unistd::syncfs(File::open(&ext4.root)?)?;
        let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", device_of(&ext4.root)?);
        fs::write(&trigger, "1").context(trigger)?;
        ext4.is_read_only.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// From now on what is written does not arrive, which a sync finds out.
    pub fn lose_writes(&self) -> Result<()> {
        let ext4 = self.parts()?;
        fail_whole_pages(&ext4.root)?;
        ext4.below.fill()
    }

    /// Ends [`Self::turn_read_only`] and [`Self::lose_writes`]: the disk is taken out, checked, and put in again. Whoever used it
    /// has been killed. It has what has arrived on it, and nothing of what the kernel still kept for it.
    pub fn mend(&self) -> Result<()> {
        let ext4 = self.parts()?;
        ext4.below.free_again()?;
        let mut last = Ok(());
        let mended = wait_until_blocking("the disk is not in use", FREE_WITHIN, || {
            last = remount_ext4(&ext4.below, &ext4.root);
            Ok(last.is_ok())
        });
        last.and(mended)?;
        ext4.is_read_only.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn parts(&self) -> Result<&Ext4> {
        self.ext4.as_deref().with_context(|| format!("{} is no ext4", self.root.display()))
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

impl Ext4 {
    fn thaw(&self) -> Result<()> {
        if self.hangs.swap(false, Ordering::SeqCst) {
            ensure!(fsfreeze("-u", &self.root)?, "the disk stays frozen");
        }
        Ok(())
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        // Nothing else can be done about it; the namespace takes the mount with it.
        let _ = self.thaw();
    }
}

fn fsfreeze(what: &str, root: &Path) -> Result<bool> {
    Ok(Command::new("fsfreeze").arg(what).arg(root).status()?.success())
}
