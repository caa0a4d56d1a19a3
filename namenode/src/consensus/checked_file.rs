//! The file of a redb store, every page of which is verified when it is read.
//!
//! redb reads and writes through [`CheckedFile`]; the sums are in a file of their own ([`super::page_sums`]) and in
//! memory (a thousandth of the store). They are written only when redb syncs: before that, no durable state refers to
//! the pages that have changed.
//!
//! Invariants: a page that was read has the sum that it was written with; a sync makes sums durable before it returns;
//! the sum of a new page 0 is durable before that page is written. Any error is final: redb stops at the first one, and so
//! does the namenode; it names the file. A disk without room need not be an error ([`WaitForRoom`]): what the file grows by is taken
//! from the disk at once, if it has that much, and who still finds it full waits. Readers of pages that redb has in memory only may wait
//! with it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::durable_file;
use super::error::{ConsensusError, Damage};
use super::page_sums::{self, HEADER_BYTES, Header, PAGE_BYTES, SUM_BYTES};
use super::room::{self, WaitForRoom};

const PAGE: u64 = PAGE_BYTES as u64;

/// Sums that are written together: those of 4 MiB of the store.
const GROUP_SUMS: usize = HEADER_BYTES / SUM_BYTES;

/// Ending of the file with the sums.
const SUMS_ENDING: &str = "sums";

/// Where the sums of the store at `path` are.
pub fn sums_path(path: &Path) -> PathBuf {
    path.with_extension(SUMS_ENDING)
}

/// A store's file with its sums.
#[derive(Debug)]
pub struct CheckedFile {
    path: PathBuf,
    file: FileBackend,
    /// The same file.
    room_ahead: File,
    room: WaitForRoom,
    /// Read when redb has locked the file: until then, its last user may be writing them.
    sums: OnceLock<Sums>,
}

#[derive(Debug)]
struct Sums {
    file: File,
    /// One a page.
    pages: RwLock<Vec<u32>>,
    /// Held while pages are written, with what is not in the file of sums yet.
    writing: Mutex<Unsaved>,
}

#[derive(Debug)]
struct Unsaved {
    header: Header,
    groups: BTreeSet<usize>,
}

fn open(path: &Path) -> Result<File, ConsensusError> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(|error| ConsensusError::io(path, "open", error))
}

impl Sums {
    /// Reads the sums of the store at `store`; a store without bytes gets new ones.
    fn load(store: &Path, bytes: u64) -> Result<Self, ConsensusError> {
        let path = sums_path(store);
        if bytes == 0 {
            let zeros = crc32c::crc32c(&[0; PAGE_BYTES]);
            durable_file::replace(&path, &Header { head: zeros, new_head: zeros }.encode())?;
        }
        let raw = fs::read(&path).map_err(|error| ConsensusError::io(&path, "read", error))?;
        let damaged = |reason| ConsensusError::Damaged { path: path.clone(), offset: 0, reason };
        let header = Header::decode(&raw).map_err(damaged)?;
        let pages = RwLock::new(page_sums::decode_sums(&raw));
        let writing = Mutex::new(Unsaved { header, groups: BTreeSet::new() });
        Ok(Self { file: open(&path)?, pages, writing })
    }

    fn writing(&self) -> MutexGuard<'_, Unsaved> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, page: u64) -> Option<u32> {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        pages.get(usize::try_from(page).ok()?).copied()
    }

    fn set(&self, unsaved: &mut Unsaved, page: u64, sum: u32) {
        let at = usize::try_from(page).unwrap_or(usize::MAX);
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = pages.get_mut(at) {
            *slot = sum;
            unsaved.groups.insert(at / GROUP_SUMS);
        }
    }

    /// The store has so many pages now; new ones are zero.
    fn resize(&self, unsaved: &mut Unsaved, count: usize) {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        let before = pages.len();
        pages.resize(count, crc32c::crc32c(&[0; PAGE_BYTES]));
        if count > before {
            unsaved.groups.extend(before / GROUP_SUMS..count.div_ceil(GROUP_SUMS));
        }
    }

    /// Writes sums that have changed; not durable.
    fn save(&self, unsaved: &mut Unsaved) -> io::Result<()> {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        for group in &unsaved.groups {
            let from = group * GROUP_SUMS;
            let to = pages.len().min(from + GROUP_SUMS);
            let sums = pages.get(from..to).unwrap_or_default();
            let bytes: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
            self.file.write_all_at(&bytes, (HEADER_BYTES + from * SUM_BYTES) as u64)?;
        }
        unsaved.groups.clear();
        Ok(())
    }

    /// Offset of the first page that has not its sum. Page 0 counts as damaged as long as its sums are not given.
    fn first_damaged(&self, offset: u64, pages: &[u8], header: Option<Header>) -> Option<u64> {
        let mut at = offset;
        for page in pages.chunks(PAGE_BYTES) {
            let sum = crc32c::crc32c(page);
            let is_good = match at / PAGE {
                0 => header.is_some_and(|header| [header.head, header.new_head].contains(&sum)),
                number => self.of(number) == Some(sum),
            };
            if !is_good {
                return Some(at);
            }
            at += PAGE;
        }
        None
    }
}

impl CheckedFile {
    /// Opens the store at `path`, or makes an empty one. `room` says what becomes of writes when the disk is full.
    pub fn open(path: &Path, room: &WaitForRoom) -> Result<Self, ConsensusError> {
        let room_ahead = open(path)?;
        let file = room_ahead.try_clone().map_err(|error| ConsensusError::io(path, "open", error))?;
        let file = FileBackend::new(file).map_err(|error| ConsensusError::store(path, error))?;
        Ok(Self { path: path.to_owned(), file, room_ahead, room: room.clone(), sums: OnceLock::new() })
    }

    fn sums(&self) -> io::Result<&Sums> {
        if let Some(sums) = self.sums.get() {
            return Ok(sums);
        }
        let bytes = self.file.len().map_err(|error| self.failed(&self.path, "stat", error))?;
        let sums =
            Sums::load(&self.path, bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        Ok(self.sums.get_or_init(|| sums))
    }

    /// Reads whole pages, the first of which begins at `offset`.
    fn read_pages(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let sums = self.sums()?;
        self.file.read(offset, out)?;
        if sums.first_damaged(offset, out, None).is_none() {
            return Ok(());
        }
        // Perhaps one was being written.
        let unsaved = sums.writing();
        self.file.read(offset, out)?;
        match sums.first_damaged(offset, out, Some(unsaved.header)) {
            None => Ok(()),
            Some(at) => Err(self.damage(at)),
        }
    }

    fn damage(&self, offset: u64) -> io::Error {
        let path = self.path.clone();
        let damage = ConsensusError::Damaged { path, offset, reason: Damage::Checksum };
        io::Error::new(ErrorKind::InvalidData, damage)
    }

    /// Says which file could not be used for what.
    fn failed(&self, path: &Path, action: &'static str, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), ConsensusError::io(path, action, error))
    }

    fn sums_failed(&self, action: &'static str, error: io::Error) -> io::Error {
        self.failed(&sums_path(&self.path), action, error)
    }

    /// Makes the sum of a new page 0 durable.
    fn announce_head(&self, sums: &Sums, unsaved: &mut Unsaved, new_head: u32) -> io::Result<()> {
        // What page 0 is now, whichever of the two that was.
        let mut page = [0; PAGE_BYTES];
        self.file.read(0, &mut page)?;
        let head = crc32c::crc32c(&page);
        if ![unsaved.header.head, unsaved.header.new_head].contains(&head) {
            return Err(self.damage(0));
        }
        let header = Header { head, new_head };
        if header != unsaved.header {
            sums.file
                .write_all_at(&header.encode(), 0)
                .and_then(|()| sums.file.sync_data())
                .map_err(|error| self.sums_failed("write", error))?;
            unsaved.header = header;
        }
        Ok(())
    }

    /// Writes, and notes the sums of the pages that this changes. Can be done again after it failed.
    fn write_pages(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let failed = |error| self.failed(&self.path, "write", error);
        let sums = self.sums()?;
        let (first, bytes) = Self::pages_of(offset, data.len());
        let mut unsaved = sums.writing();
        let whole = first == offset && bytes == data.len();
        let mut pages = Vec::new();
        if !whole {
            pages.resize(bytes, 0);
            self.file.read(first, &mut pages).map_err(failed)?;
            let from = usize::try_from(offset - first).unwrap_or(usize::MAX);
            pages[from..from + data.len()].copy_from_slice(data);
        }
        let content = if whole { data } else { &pages };
        if let Some(page) = content.get(..PAGE_BYTES).filter(|_| first == 0) {
            self.announce_head(sums, &mut unsaved, crc32c::crc32c(page))?;
        }
        self.file.write(offset, data).map_err(failed)?;
        for (number, page) in (first / PAGE..).zip(content.chunks(PAGE_BYTES)) {
            sums.set(&mut unsaved, number, crc32c::crc32c(page));
        }
        Ok(())
    }

    /// The pages that a range of bytes touches: offset of the first one, and bytes of all.
    fn pages_of(offset: u64, bytes: usize) -> (u64, usize) {
        let first = offset / PAGE * PAGE;
        let end = (offset + bytes as u64).next_multiple_of(PAGE);
        (first, usize::try_from(end - first).unwrap_or(usize::MAX))
    }
}

impl StorageBackend for CheckedFile {
    fn len(&self) -> io::Result<u64> {
        // What redb asks first when it has locked the file.
        self.sums()?;
        self.file.len().map_err(|error| self.failed(&self.path, "stat", error))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (first, bytes) = Self::pages_of(offset, out.len());
        let read = if first == offset && bytes == out.len() {
            self.read_pages(offset, out)
        } else {
            let mut pages = vec![0; bytes];
            let from = usize::try_from(offset - first).unwrap_or(usize::MAX);
            self.read_pages(first, &mut pages).map(|()| out.copy_from_slice(&pages[from..from + out.len()]))
        };
        read.map_err(|error| match error.kind() {
            ErrorKind::InvalidData => error,
            _ => self.failed(&self.path, "read", error),
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let sums = self.sums()?;
        let before = self.file.len().map_err(|error| self.failed(&self.path, "stat", error))?;
        let grow = || self.file.set_len(len);
        self.room
            .write(&self.path, grow)
            .map_err(|error| self.failed(&self.path, "set the length", error))?;
        if len > before {
            room::take_ahead(&self.room_ahead, before, len - before);
        }
        let mut unsaved = sums.writing();
        sums.resize(&mut unsaved, usize::try_from(len.div_ceil(PAGE)).unwrap_or(usize::MAX));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let sums = self.sums()?;
        self.room
            .write(&sums_path(&self.path), || sums.save(&mut sums.writing()))
            .map_err(|error| self.sums_failed("write", error))?;
        sums.file.sync_data().map_err(|error| self.sums_failed("sync", error))?;
        self.file.sync_data().map_err(|error| self.failed(&self.path, "sync", error))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        // Without the lock on sums while it waits: readers need it.
        self.room.write(&self.path, || self.write_pages(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
