//! Disks that can be filled: a file system in memory of a given size, and an ext4 on it whose blocks run out behind its
//! back, so that syncing fails.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use tempfile::TempDir;

use crate::wait::wait_until_blocking;

/// Time that whoever was ended gets to let go of a disk.
const FREE_WITHIN: Duration = Duration::from_secs(20);

/// A file system in memory. Dropping it unmounts it.
#[derive(Debug)]
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts one; none, loudly, where that is not allowed.
    pub fn mount(bytes: u64) -> Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let options = format!("size={bytes}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).status()?;
        if !mounted.success() {
            ensure!(std::env::var_os("CI").is_none(), "cannot mount a tmpfs, which CI must be able to");
            eprintln!("SKIPPED: cannot mount a tmpfs");
            return Ok(None);
        }
        Ok(Some(Self(dir)))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that is left.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.path().join("filler"))?;
        let mut piece = vec![0; 1 << 20];
        while piece.len() >= 512 {
            if file.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
        Ok(())
    }

    /// Gives it back.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.path().join("filler"))?)
    }

    /// Gives it back, if it was taken.
    pub fn free_again(&self) -> Result<()> {
        match self.free() {
            Err(_) if !self.path().join("filler").exists() => Ok(()),
            freed => freed,
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the small disk stays mounted");
    }
}

/// An ext4 that believes to have room: when the disk under it is filled, what is written does not arrive, and a sync fails
/// with an I/O error as that of a broken disk does.
#[derive(Debug)]
pub struct FailingDisk {
    mounted: PathBuf,
    /// Unmounted after this.
    below: SmallDisk,
    _dir: TempDir,
}

/// Makes an ext4 of `bytes` in a file on `below` and mounts it at `at`. False, loudly, where that is not allowed.
pub fn mount_ext4(below: &SmallDisk, bytes: u64, options: &[&str], at: &Path) -> Result<bool> {
    let image = below.path().join("image");
    File::create(&image)?.set_len(bytes)?;
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).args(options).arg(&image).status();
    let mounted = made.is_ok_and(|made| made.success())
        && Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at).status()?.success();
    if !mounted {
        ensure!(std::env::var_os("CI").is_none(), "cannot mount an ext4, which CI must be able to");
        eprintln!("SKIPPED: cannot mount an ext4");
    }
    Ok(mounted)
}

/// Name of the device that is mounted at `root`.
pub fn device_of(root: &Path) -> Result<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let here = format!(" {} ", root.display());
    let line = mounts.lines().rfind(|line| line.contains(&here)).context("not mounted")?;
    let source = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').nth(1)).context("no source")?;
    Ok(source.trim_start_matches("/dev/").to_owned())
}

/// From now on a write to the ext4 at `root`, which has blocks of a page, arrives or fails, but for its pages each: of a longer one that
/// arrives in part the loop device (of Linux 6.18) says that it has arrived.
pub fn fail_whole_pages(root: &Path) -> Result<()> {
    let setting = format!("/sys/block/{}/queue/max_sectors_kb", device_of(root)?);
    fs::write(&setting, "4").context(setting)
}

/// Unmounts what [`mount_ext4`] mounted, repairs it as after a crash, and mounts it again. What was written and not on the disk is
/// gone. Nobody may use it.
pub fn remount_ext4(below: &SmallDisk, at: &Path) -> Result<()> {
    let image = below.path().join("image");
    let run = |command: &mut Command| -> Result<std::process::Output> {
        command.output().with_context(|| format!("{command:?}"))
    };
    // A second attempt finds nothing to unmount.
    let unmounted = run(Command::new("umount").arg(at))?;
    let text = String::from_utf8_lossy(&unmounted.stderr);
    ensure!(unmounted.status.success() || text.contains("not mounted"), "{text}");
    // 1: errors were corrected.
    let checked = run(Command::new("e2fsck").arg("-fy").arg(&image))?;
    ensure!(matches!(checked.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&checked.stdout));
    let mounted = run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at))?;
    ensure!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    Ok(())
}

impl FailingDisk {
    /// Mounts one; none, loudly, where that is not allowed.
    pub fn mount() -> Result<Option<Self>> {
        let Some(below) = SmallDisk::mount(48 << 20)? else { return Ok(None) };
        let dir = tempfile::tempdir()?;
        // One with a journal stops taking changes when that cannot be written, and would not be good again.
        let options = ["-b", "4096", "-O", "^has_journal", "-E", "lazy_itable_init=1"];
        if !mount_ext4(&below, 400 << 20, &options, dir.path())? {
            return Ok(None);
        }
        Ok(Some(Self { mounted: dir.path().to_owned(), below, _dir: dir }))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// From now on nothing new arrives on it. What was written before has arrived.
    pub fn fail(&self) -> Result<()> {
        nix::unistd::syncfs(File::open(&self.mounted)?)?;
        fail_whole_pages(&self.mounted)?;
        self.below.fill()
    }

    /// Has the kernel try to write what it has not tried to yet. Who syncs a file afterwards is told whether that failed.
    pub fn write_back(&self) -> Result<()> {
        match nix::unistd::syncfs(File::open(&self.mounted)?) {
            Ok(()) | Err(Errno::EIO | Errno::ENOSPC) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Ends [`Self::fail`]: what is written arrives again. What did not arrive the kernel takes for written, and shows to readers as long as
    /// it keeps it.
    pub fn heal(&self) -> Result<()> {
        self.below.free()
    }

    /// Takes the disk out and puts it in again: what has not arrived is gone. Nobody may use it; whoever has just been ended gets a
    /// moment to let go of it.
    pub fn remount(&self) -> Result<()> {
        let mut last = Ok(());
        let remounted = wait_until_blocking("the disk is not in use", FREE_WITHIN, || {
            last = remount_ext4(&self.below, &self.mounted);
            Ok(last.is_ok())
        });
        last.and(remounted)
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.mounted).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the failing disk stays mounted");
    }
}
