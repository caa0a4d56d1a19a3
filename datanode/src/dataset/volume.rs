//! One volume: a directory on one disk, its lock, its space.
//!
//! Invariants: the lock is held from open to drop; space promised to replicas being written is not
//! promised again; the space used is the sum of the lengths of the replicas, whatever their state; a volume
//! once failed stays failed: what takes its place, be it the same disk, is another volume.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dfs_proto::{BlockId, v1};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::statvfs;

use super::health::{self, VolumeFault};
use super::mount_point::{DirectoryId, mount_point_of};
use super::scrub_counts::ScrubCounts;
use super::version_file::{VersionFile, sync_dir};
use super::{layout, spread};
use crate::error::{DatanodeError, disk};
use crate::sync::lock;

/// Name of the lock file.
const LOCK_FILE: &str = "in_use.lock";

/// How long a predecessor that was killed may take to be gone: the kernel ends its disk writes first.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Time between two attempts to lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// Default reserve: at most this much,
const RESERVE_MAX_BYTES: u64 = 1 << 30;
/// and at most this part of the volume.
const RESERVE_DIVISOR: u64 = 100;

/// One volume.
#[derive(Debug)]
pub struct Volume {
    dir: PathBuf,
    index: u16,
    storage_id: String,
    reserve_bytes: u64,
    /// Bytes promised to replicas being written and not written yet.
    promised: AtomicU64,
    /// Data bytes of all replicas on it, closed or not: the sum of their lengths.
    used: AtomicU64,
    failed: AtomicBool,
    /// Why it failed.
    failure: Mutex<String>,
    /// An I/O error made it fail: what it has may be wrong.
    suspicious: AtomicBool,
    /// Something went wrong that one bad sector may explain, or a bad disk.
    check_wanted: AtomicBool,
    /// It has a `VERSION` file.
    formatted: AtomicBool,
    /// When a reader or writer last used it, in milliseconds since `opened`.
    used_at: AtomicU64,
    scrub: ScrubCounts,
    opened: Instant,
    directory: DirectoryId,
    mount_point: Option<PathBuf>,
    /// Bit `y` of word `x`: `finalized/subdirX/subdirY` exists.
    subdirs: [AtomicU32; layout::SUBDIRS],
    lock: Mutex<Option<Flock<File>>>,
}

/// Space of a volume in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What replicas may use at all.
    pub capacity: u64,
    /// What they use.
    pub used: u64,
    /// What is left for them.
    pub remaining: u64,
}

impl Volume {
    /// Locks the directory, creating it if need be. `identity` is its `VERSION` file if it has one,
    /// `new_storage_id` the id it gets otherwise.
    pub fn open(
        dir: &Path,
        index: u16,
        reserved_bytes: Option<u64>,
        new_storage_id: impl FnOnce() -> String,
    ) -> Result<(Self, Option<VersionFile>), DatanodeError> {
        fs::create_dir_all(dir).map_err(disk(dir))?;
        let directory = DirectoryId::of(dir).map_err(disk(dir))?;
        let mount_point = mount_point_of(dir).map_err(disk(dir))?;
        let lock_path = dir.join(LOCK_FILE);
        let lock_file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(disk(&lock_path))?;
        let held = lock_exclusively(lock_file, &lock_path)?;
        let identity = VersionFile::read(dir)?;
        for name in [layout::FINALIZED, layout::SMALL, layout::RBW, layout::RANDOM, layout::TMP] {
            let path = dir.join(name);
            fs::create_dir_all(&path).map_err(disk(&path))?;
            spread::over_inode_groups(&path);
        }
        for subdir in 0..layout::RBW_SUBDIRS {
            let id = BlockId(subdir);
            for path in [layout::small_dir(dir, id), layout::rbw_dir(dir, id), layout::random_dir(dir, id)] {
                fs::create_dir_all(&path).map_err(disk(&path))?;
            }
        }
        sync_dir(&dir.join(layout::SMALL))?;
        sync_dir(&dir.join(layout::RBW))?;
        sync_dir(&dir.join(layout::RANDOM))?;
        sync_dir(dir)?;
        let storage_id = identity.as_ref().map_or_else(new_storage_id, |v| v.storage_id.clone());
        let (total, _) = file_system_space(dir)?;
        let volume = Self {
            dir: dir.to_owned(),
            index,
            storage_id,
            reserve_bytes: reserved_bytes.unwrap_or(RESERVE_MAX_BYTES.min(total / RESERVE_DIVISOR)),
            promised: AtomicU64::new(0),
            used: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            failure: Mutex::default(),
            suspicious: AtomicBool::new(false),
            check_wanted: AtomicBool::new(false),
            formatted: AtomicBool::new(identity.is_some()),
            used_at: AtomicU64::new(0),
            scrub: ScrubCounts::default(),
            opened: Instant::now(),
            directory,
            mount_point,
            subdirs: Default::default(),
            lock: Mutex::new(Some(held)),
        };
        Ok((volume, identity))
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its place in the list of volumes.
    pub const fn index(&self) -> u16 {
        self.index
    }

    /// Its identity.
    pub fn storage_id(&self) -> &str {
        &self.storage_id
    }

    /// Whether it failed.
    pub fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// A volume that could not be opened. It holds nothing; what takes its place may.
    pub fn unavailable(dir: &Path, index: u16, reason: &str) -> Self {
        Self {
            dir: dir.to_owned(),
            index,
            storage_id: format!("unavailable-{}", dir.display()),
            reserve_bytes: 0,
            promised: AtomicU64::new(0),
            used: AtomicU64::new(0),
            failed: AtomicBool::new(true),
            failure: Mutex::new(reason.to_owned()),
            suspicious: AtomicBool::new(false),
            check_wanted: AtomicBool::new(false),
            formatted: AtomicBool::new(false),
            used_at: AtomicU64::new(0),
            scrub: ScrubCounts::default(),
            opened: Instant::now(),
            directory: DirectoryId::default(),
            mount_point: None,
            subdirs: Default::default(),
            lock: Mutex::new(None),
        }
    }

    /// Looks at an error of writing one of its files: an I/O error of the device or a file system that turned
    /// read-only fails the volume. Returns whether the volume failed just now.
    pub fn note_error(&self, error: &io::Error, told: &str) -> bool {
        let errno = error.raw_os_error().map(Errno::from_raw);
        if errno == Some(Errno::EIO) {
            self.suspicious.store(true, Ordering::Relaxed);
        }
        let fatal =
            matches!(errno, Some(Errno::EIO | Errno::EROFS | Errno::ENODEV | Errno::ENXIO | Errno::EUCLEAN));
        fatal && self.fail(told)
    }

    /// Takes it out of service. Returns whether it was in service.
    pub fn fail(&self, reason: &str) -> bool {
        let mut failure = lock(&self.failure);
        let first = !self.failed.swap(true, Ordering::Relaxed);
        if first {
            reason.clone_into(&mut failure);
        }
        first
    }

    /// Why it failed; empty: it did not.
    pub fn failure(&self) -> String {
        lock(&self.failure).clone()
    }

    /// Whether an I/O error made it fail, so that it is not to be trusted before somebody has looked at it.
    pub fn is_suspicious(&self) -> bool {
        self.suspicious.load(Ordering::Relaxed)
    }

    /// Something went wrong with one of its files: it is tried soon.
    pub fn want_check(&self) {
        self.check_wanted.store(true, Ordering::Relaxed);
    }

    /// Whether it is to be tried; asks no longer.
    pub fn take_check(&self) -> bool {
        self.check_wanted.swap(false, Ordering::Relaxed)
    }

    /// Looks at its directory; `probe` tries its disk, too.
    pub fn check(&self, probe: bool) -> Result<(), VolumeFault> {
        health::look(&self.dir, self.directory, self.formatted.load(Ordering::Relaxed))?;
        if probe { health::probe(&self.dir) } else { Ok(()) }
    }

    /// Whether it has a `VERSION` file.
    pub fn is_formatted(&self) -> bool {
        self.formatted.load(Ordering::Relaxed)
    }

    /// It has got its `VERSION` file.
    pub fn set_formatted(&self) {
        self.formatted.store(true, Ordering::Relaxed);
    }

    /// Where its file system was mounted when it was opened; `None`: on that of the root directory.
    pub fn mount_point(&self) -> Option<&Path> {
        self.mount_point.as_deref()
    }

    /// Lets go of the directory, so that it can be unmounted.
    pub fn unlock(&self) {
        lock(&self.lock).take();
    }

    /// A reader or writer uses it.
    pub fn note_use(&self) {
        let ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used_at.store(ms, Ordering::Relaxed);
    }

    /// Whether a reader or writer used it within the time given.
    pub fn used_within(&self, window: Duration) -> bool {
        let at = self.used_at.load(Ordering::Relaxed);
        at > 0 && self.opened.elapsed().saturating_sub(Duration::from_millis(at)) < window
    }

    /// Data bytes of its replicas.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// How far its scrub is.
    pub fn scrub(&self) -> &ScrubCounts {
        &self.scrub
    }

    /// Its space as it stands.
    pub fn space(&self) -> Result<Space, DatanodeError> {
        let (total, free) = file_system_space(&self.dir)?;
        let promised = self.promised.load(Ordering::Relaxed);
        Ok(Space {
            capacity: total.saturating_sub(self.reserve_bytes),
            used: self.used.load(Ordering::Relaxed),
            remaining: free.saturating_sub(self.reserve_bytes).saturating_sub(promised),
        })
    }

    /// What the namenode is told. A volume whose file system does not answer counts as failed.
    pub fn report(&self) -> v1::StorageReport {
        let asked =
            if self.is_failed() { Err(self.failure()) } else { self.space().map_err(|e| e.to_string()) };
        let (space, failure) = match asked {
            Ok(space) => (Some(space), String::new()),
            Err(failure) => (None, failure),
        };
        let scrub = self.scrub.figures();
        v1::StorageReport {
            storage_id: self.storage_id.clone(),
            capacity: space.map_or(0, |s| s.capacity),
            used: space.map_or(0, |s| s.used),
            remaining: space.map_or(0, |s| s.remaining),
            failed: space.is_none(),
            path: self.dir.display().to_string(),
            failure,
            scrubbed_s: scrub.ended_s,
            scrub_done_milli: scrub.done_milli,
            scrub_bad: scrub.bad,
        }
    }

    /// Promises `bytes` to a replica.
    pub fn promise(&self, bytes: u64) {
        self.promised.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes back what was promised: it has been written, or will not be.
    pub fn release(&self, bytes: u64) {
        if bytes > 0 {
            self.promised.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Replicas came or grew by `bytes` bytes.
    pub fn add_used(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Replicas went or were cut by `bytes` bytes.
    pub fn sub_used(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Path in one of the flat directories.
    pub fn path(&self, dir: &str, name: &str) -> PathBuf {
        let mut path = PathBuf::with_capacity(self.dir.as_os_str().len() + dir.len() + name.len() + 2);
        path.push(&self.dir);
        path.push(dir);
        path.push(name);
        path
    }

    /// Directory for a closed replica, which exists on return. Looks at the disk once a directory.
    pub fn make_finalized_dir(&self, id: BlockId) -> Result<PathBuf, DatanodeError> {
        let dir = layout::finalized_dir(&self.dir, id);
        let (x, y) = layout::subdirs(id);
        if self.subdirs[x].load(Ordering::Relaxed) & (1 << y) == 0 {
            fs::create_dir_all(&dir).map_err(disk(&dir))?;
            self.subdirs[x].fetch_or(1 << y, Ordering::Relaxed);
        }
        Ok(dir)
    }
}

/// Total bytes, and bytes free for unprivileged users.
fn file_system_space(dir: &Path) -> Result<(u64, u64), DatanodeError> {
    let stat = statvfs(dir).map_err(|e| disk(dir)(e.into()))?;
    let unit = stat.fragment_size();
    Ok((stat.blocks().saturating_mul(unit), stat.blocks_available().saturating_mul(unit)))
}

/// Locks a volume for this process.
fn lock_exclusively(mut file: File, path: &Path) -> Result<Flock<File>, DatanodeError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                file = unlocked;
                std::thread::sleep(LOCK_INTERVAL);
            }
            Err((_, Errno::EWOULDBLOCK)) => return Err(DatanodeError::VolumeInUse { path: path.to_owned() }),
            Err((_, other)) => {
                return Err(DatanodeError::Disk { path: path.to_owned(), source: other.into() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, reserved: Option<u64>) -> Result<Volume, DatanodeError> {
        Volume::open(dir, 0, reserved, || "DS-1".into()).map(|(volume, _)| volume)
    }

    #[test]
    fn a_volume_is_used_by_one_datanode() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let volume = open(dir.path(), None).expect("opens");
        assert!(matches!(open(dir.path(), None), Err(DatanodeError::VolumeInUse { .. })));
        drop(volume);
        open(dir.path(), None).expect("opens again");
    }

    #[test]
    fn promised_and_reserved_space_is_not_offered() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let volume = open(dir.path(), Some(0)).expect("opens");
        let before = volume.space().expect("space").remaining;
        volume.promise(1 << 40);
        assert!(volume.space().expect("space").remaining <= before.saturating_sub(1 << 39));
        volume.release(1 << 40);
        drop(volume);
        let volume = open(dir.path(), Some(u64::MAX)).expect("opens");
        let space = volume.space().expect("space");
        assert_eq!((space.capacity, space.remaining), (0, 0));
    }

    #[test]
    fn only_errors_of_the_device_fail_a_volume() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let volume = open(dir.path(), None).expect("opens");
        for harmless in [Errno::ENOENT, Errno::ENOSPC, Errno::EMFILE] {
            assert!(!volume.note_error(&harmless.into(), ""));
        }
        assert!(volume.note_error(&Errno::EIO.into(), "first"));
        assert!(!volume.note_error(&Errno::EIO.into(), "second"), "reported once");
        assert!(volume.is_failed() && volume.report().failed);
        assert_eq!(volume.report().failure, "first");
    }
}
