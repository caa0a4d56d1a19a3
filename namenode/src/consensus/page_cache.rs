//! What a start reads is what the disk has.
//!
//! When the kernel cannot write a page of a file, it says so once, to who syncs the file next, keeps the page and takes it for
//! written from then on. A namenode that stopped at such a sync and is started again would read from memory what no disk has, find
//! nothing to sync, answer from it, and lose it with the next power failure. So before a start reads anything, [`renew`]
//!
//! 1. syncs the files: what a killed predecessor had written and nobody has tried to put on disk yet is there then, and nothing of it is
//!    lost. A page that cannot be written makes the start fail, and counts as written for the next one;
//! 2. has the kernel let go of their pages, all of which it takes for written now;
//! 3. compares what it does not let go of, because somebody else has mapped it or is just reading it, with what the disk has.
//!
//! What is read afterwards is what a power failure would have left, and is understood in the same way: of the log, entries of the last
//! segment from the first one on that is not whole, none of which a sync has covered; of the store, pages that its last durable
//! state does not refer to. Relaxed answers may be lost by that; [`super::terms`] tells. Names and lengths are not looked after here: a
//! file system that cannot write its own journal stops taking changes.
//!
//! Invariants: nobody writes the files meanwhile (the caller holds the directory's lock); nothing in them is changed.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::error::ConsensusError;
use super::{found_log, segment, state_store, vote_file};

/// How long pages may be in use by somebody who just reads them, a backup for example, before a start gives up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Time between two attempts.
const INTERVAL: Duration = Duration::from_millis(20);

/// Bytes of a file that are asked about at once: a multiple of every page size, and little memory for the answer.
const WINDOW: u64 = 256 << 20;

/// What direct reads are aligned to: no disk has larger sectors.
const ALIGNMENT: usize = 4096;

/// See the module. `dir` is a namenode's directory, or about to become one.
pub fn renew(dir: &Path) -> Result<(), ConsensusError> {
    let log = dir.join("log");
    let mut files: Vec<PathBuf> = state_store::files(dir).into();
    files.push(vote_file::path(dir));
    if log.is_dir() {
        files.extend(found_log::list(&log)?.into_iter().map(|first| log.join(segment::file_name(first))));
    }
    files.iter().try_for_each(|path| renew_file(path))
}

fn renew_file(path: &Path) -> Result<(), ConsensusError> {
    let failed = |action| move |error| ConsensusError::io(path, action, error);
    let file = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(failed("open"))?,
    };
    file.sync_data().map_err(failed("sync"))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .map_err(|errno| failed("read anew")(errno.into()))?;
        match first_stale(path, &file).map_err(failed("read"))? {
            None => return Ok(()),
            Some(_) if Instant::now() < deadline => thread::sleep(INTERVAL),
            Some(offset) => return Err(ConsensusError::NotOnDisk { path: path.to_owned(), offset }),
        }
    }
}

/// Offset of the first page that the kernel keeps and the disk has with other bytes.
fn first_stale(path: &Path, file: &File) -> io::Result<Option<u64>> {
    let length = file.metadata()?.len();
    let mut direct = None;
    let mut from = 0;
    while from < length {
        let window = from..length.min(from + WINDOW);
        for page in kept_pages(file, &window)? {
            if direct.is_none() {
                direct = open_direct(path)?;
            }
            // A file system without direct reads is one in memory, which has no disk.
            let Some(disk) = &direct else { return Ok(None) };
            if !is_same(file, disk, &page)? {
                return Ok(Some(page.start));
            }
        }
        from = window.end;
    }
    Ok(None)
}

fn open_direct(path: &Path) -> io::Result<Option<File>> {
    match File::options().read(true).custom_flags(libc::O_DIRECT).open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(None),
        opened => opened.map(Some),
    }
}

/// Whether a page is the same through the page cache and past it.
fn is_same(cached: &File, disk: &File, page: &Range<u64>) -> io::Result<bool> {
    let bytes = usize::try_from(page.end - page.start).unwrap_or(usize::MAX);
    let mut memory = vec![0; 2 * bytes + ALIGNMENT];
    let aligned = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    let (one, other) = memory[aligned..aligned + 2 * bytes].split_at_mut(bytes);
    let one_has = disk.read_at(one, page.start)?;
    let other_has = cached.read_at(other, page.start)?;
    Ok(one[..one_has] == other[..other_has])
}

/// The pages of a part of a file that are in the page cache. The part begins at a multiple of [`WINDOW`] and is not empty.
fn kept_pages(file: &File, part: &Range<u64>) -> io::Result<Vec<Range<u64>>> {
    // SAFETY: takes and gives numbers.
    let page_bytes = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(ALIGNMENT as u64);
    let too_large = |_| io::Error::from(Errno::EFBIG);
    let bytes = usize::try_from(part.end - part.start).map_err(too_large)?;
    let offset = libc::off_t::try_from(part.start).map_err(too_large)?;
    let mut kept = vec![0u8; (bytes as u64).div_ceil(page_bytes) as usize];
    // SAFETY: a new mapping in a place that the kernel chooses. Nothing is read or written through it, so that a file
    // that gets shorter does no harm.
    let mapped = unsafe {
        libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), offset)
    };
    if mapped == libc::MAP_FAILED {
        let error = io::Error::last_os_error();
        // What cannot be mapped nobody else has mapped.
        return if error.raw_os_error() == Some(Errno::ENODEV as i32) { Ok(Vec::new()) } else { Err(error) };
    }
    // SAFETY: `bytes` bytes are mapped there, and `kept` has a byte for each of their pages.
    let asked = unsafe { libc::mincore(mapped, bytes, kept.as_mut_ptr()) };
    let asked = if asked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: it was mapped above, and nobody else knows of it.
    unsafe { libc::munmap(mapped, bytes) };
    asked?;
    let starts = (part.start..).step_by(usize::try_from(page_bytes).map_err(too_large)?);
    let pages = starts.zip(kept).filter(|(_, kept)| kept & 1 == 1);
    Ok(pages.map(|(start, _)| start..start + page_bytes).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_written_stays_and_what_is_not_there_is_passed_over() {
        let dir = tempfile::tempdir().expect("directory");
        renew(dir.path()).expect("an empty directory");
        let log = dir.path().join("log");
        fs::create_dir(&log).expect("directory");
        let content: Vec<u8> = (0..100_001u32).map(|at| (at / 7) as u8).collect();
        let files = [vote_file::path(dir.path()), log.join(segment::file_name(3))];
        for path in &files {
            // Not synced: nobody but the page cache has it.
            fs::write(path, &content).expect("written");
        }
        fs::write(log.join("foreign"), b"").expect("written");
        renew(dir.path()).expect("renewed");
        for path in &files {
            assert_eq!(fs::read(path).expect("read"), content);
        }
    }

    #[test]
    fn pages_are_known_to_be_kept_until_they_are_let_go_of() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("file");
        let content = vec![7; 10 * 4096 + 1];
        fs::write(&path, &content).expect("written");
        let file = File::options().read(true).write(true).open(&path).expect("opened");
        let kept = || kept_pages(&file, &(0..content.len() as u64)).expect("asked");
        assert!(kept().last().is_some_and(|last| last.contains(&(content.len() as u64 - 1))));
        assert_eq!(first_stale(&path, &file).expect("compared"), None);
        renew_file(&path).expect("renewed");
        // A file system in memory keeps them.
        assert!(
            kept().is_empty() || open_direct(&path).expect("opened").is_none() || is_in_memory(dir.path())
        );
    }

    fn is_in_memory(dir: &Path) -> bool {
        nix::sys::statfs::statfs(dir).expect("asked").filesystem_type() == nix::sys::statfs::TMPFS_MAGIC
    }
}
