//! System calls that the standard library does not have, and shared mappings.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use anyhow::{Context, Result};

/// Room for the names or the value of extended attributes.
const XATTR_ROOM: usize = 70_000;

/// Blocks of `st_blocks`.
pub const STAT_BLOCK: u64 = 512;

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn c_name(name: &str) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// setxattr(2).
pub fn set_xattr(path: &Path, name: &str, value: &[u8], flags: i32) -> io::Result<()> {
    let (path, name) = (c_path(path)?, c_name(name)?);
    // SAFETY: both strings end with NUL, and the value is `value.len()` bytes long.
    let result =
        unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    checked(result as isize).map(|_| ())
}

/// getxattr(2).
pub fn get_xattr(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    let (path, name) = (c_path(path)?, c_name(name)?);
    let mut value = vec![0u8; XATTR_ROOM];
    // SAFETY: both strings end with NUL, and the buffer has the length that is passed.
    let result =
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(checked(result)?);
    Ok(value)
}

/// listxattr(2), sorted.
pub fn list_xattrs(path: &Path) -> io::Result<Vec<String>> {
    let path = c_path(path)?;
    let mut names = vec![0u8; XATTR_ROOM];
    // SAFETY: the string ends with NUL, and the buffer has the length that is passed.
    let result = unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(checked(result)?);
    let mut names: Vec<String> = names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// removexattr(2).
pub fn remove_xattr(path: &Path, name: &str) -> io::Result<()> {
    let (path, name) = (c_path(path)?, c_name(name)?);
    // SAFETY: both strings end with NUL.
    let result = unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) };
    checked(result as isize).map(|_| ())
}

/// renameat2(2) of two paths.
pub fn rename(from: &Path, to: &Path, flags: u32) -> io::Result<()> {
    let (from, to) = (c_path(from)?, c_path(to)?);
    // SAFETY: both strings end with NUL.
    let result =
        unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    checked(result as isize).map(|_| ())
}

/// fallocate(2).
pub fn fallocate(file: &File, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: a call with an open descriptor and numbers.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) };
    checked(result as isize).map(|_| ())
}

/// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`.
pub fn seek(file: &File, offset: u64, whence: i32) -> io::Result<u64> {
    // SAFETY: a call with an open descriptor and numbers.
    let result = unsafe { libc::lseek(file.as_raw_fd(), offset as i64, whence) };
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Has the kernel forget the clean pages of a file.
pub fn drop_pages(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// flock(2).
pub fn flock(file: &File, operation: i32) -> io::Result<()> {
    // SAFETY: a call with an open descriptor and a number.
    let result = unsafe { libc::flock(file.as_raw_fd(), operation) };
    checked(result as isize).map(|_| ())
}

/// fcntl(2) with `F_SETLK`, `F_SETLKW` or their like for open file descriptions on `len` bytes from `start`.
pub fn record_lock(file: &File, command: i32, kind: i32, start: u64, len: u64) -> io::Result<()> {
    let lock = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start as i64,
        l_len: len as i64,
        l_pid: 0,
    };
    // SAFETY: these commands take a pointer to a `struct flock`, which lives until the call returns.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const lock) };
    checked(result as isize).map(|_| ())
}

/// fcntl(2) with `F_GETLK`: type and process of the lock that is in the way of an exclusive one, if there is one.
pub fn lock_in_the_way(file: &File, start: u64, len: u64) -> io::Result<Option<(i32, i32)>> {
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start as i64,
        l_len: len as i64,
        l_pid: 0,
    };
    // SAFETY: F_GETLK takes a pointer to a `struct flock` and fills it in.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) };
    checked(result as isize)?;
    Ok((i32::from(lock.l_type) != libc::F_UNLCK).then_some((i32::from(lock.l_type), lock.l_pid)))
}

/// A shared mapping of a file, for reading and writing.
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps the first `len` bytes, which the file has.
    pub fn shared(file: &File, len: usize) -> Result<Self> {
        // SAFETY: the kernel chooses the place; the descriptor is open.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("mmap");
        }
        Ok(Self { start: NonNull::new(start.cast()).context("mmap")?, len })
    }

    /// Stores `bytes` at `offset`.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        // SAFETY: the range is inside of the mapping, which lives as long as self, and does not overlap `bytes`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(offset), bytes.len()) }
    }

    /// Copies `len` bytes at `offset`.
    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        let mut out = vec![0u8; len];
        // SAFETY: the range is inside of the mapping, which lives as long as self, and does not overlap `out`.
        unsafe { std::ptr::copy_nonoverlapping(self.start.as_ptr().add(offset), out.as_mut_ptr(), len) }
        out
    }

    /// msync(2) with `MS_SYNC`.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the range is this mapping.
        let result = unsafe { libc::msync(self.start.as_ptr().cast(), self.len, libc::MS_SYNC) };
        checked(result as isize).map(|_| ())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping, and nothing refers to it any longer.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
