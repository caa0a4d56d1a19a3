//! The kernel's requests, handed to the operations. Nothing is decided here.
//!
//! Not there, and thereby refused with ENOSYS, after which the kernel does not ask again: `access` (it checks permissions itself,
//! `default_permissions`), `poll` (files are always ready), `copy_file_range` (it copies through the page cache).

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use dfs_client::fs::{FileType as Kind, MoveMode};
use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use crate::errno::Refusal;
use crate::kernel_features::{self, Extra};
use crate::mount::Mount;
use crate::ops::attributes::{self, Setting};
use crate::ops::locks::{self, Wanted};
use crate::ops::names::{self, Making};
use crate::ops::opening::{self, Opening};
use crate::ops::{directories, files, links, space, xattrs};
use crate::raw_request;

/// The file system as the kernel sees it.
pub struct DfsFilesystem {
    mount: Arc<Mount>,
    extra: Option<Extra>,
}

impl DfsFilesystem {
    /// Serves `mount`, with `extra` if the kernel has it.
    pub fn new(mount: Arc<Mount>, extra: Option<Extra>) -> Self {
        Self { mount, extra }
    }
}

impl Filesystem for DfsFilesystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        kernel_features::negotiate(&self.mount, self.extra, config);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        names::lookup(&self.mount, request.into(), parent, name.as_bytes(), reply);
    }

    fn forget(&self, _request: &Request, _ino: INodeNo, _lookups: u64) {
        // Inode numbers are the cluster's, valid without the kernel's references.
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        attributes::getattr(&self.mount, request.into(), ino, reply);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let writable = |handle| self.mount.files.get(handle).is_ok_and(|handle| handle.writer);
        let setting = Setting {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
            opened: handle.is_some_and(writable),
            kill_privileges: raw_request::setattr_kills_privileges(request),
        };
        attributes::setattr(&self.mount, request.into(), ino, setting, reply);
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        links::readlink(&self.mount, request.into(), ino, reply);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let at = (parent, name.as_bytes());
        names::mknod(&self.mount, request.into(), at, (mode, umask, rdev), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let making = Making::new(Kind::Directory, mode, umask);
        names::make(&self.mount, request.into(), (parent, name.as_bytes()), making, reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        names::remove(&self.mount, request.into(), (parent, name.as_bytes()), false, reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        names::remove(&self.mount, request.into(), (parent, name.as_bytes()), true, reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        links::symlink(&self.mount, request.into(), (parent, name.as_bytes()), target, reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = if flags.is_empty() {
            MoveMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            MoveMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            MoveMode::Exchange
        } else {
            return Mount::refuse(reply, &Refusal::InvalidArgument);
        };
        let (from, to) = ((parent, name.as_bytes()), (new_parent, new_name.as_bytes()));
        names::rename(&self.mount, request.into(), from, to, mode, reply);
    }

    fn link(&self, request: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        links::link(&self.mount, request.into(), ino, (parent, name.as_bytes()), reply);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opening = Opening::new(flags.0, raw_request::open_kills_privileges(request));
        opening::open(&self.mount, request.into(), ino, opening, reply);
    }

    fn read(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        files::read(&self.mount, request.into(), handle, offset, size, reply);
    }

    fn write(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        files::write(&self.mount, request.into(), handle, offset, data, (write_flags, flags.0), reply);
    }

    fn flush(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        opening::flush(&self.mount, request.into(), handle, owner, reply);
    }

    fn release(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        flock: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        opening::release(&self.mount, request.into(), handle, flock, reply);
    }

    fn fsync(&self, request: &Request, _ino: INodeNo, handle: FileHandle, datasync: bool, reply: ReplyEmpty) {
        files::fsync(&self.mount, request.into(), handle, datasync, reply);
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        directories::open(&self.mount, ino, reply);
    }

    fn readdir(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let bytes = raw_request::listing_bytes(request);
        directories::read(&self.mount, request.into(), handle, (offset, bytes), reply);
    }

    fn readdirplus(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let bytes = raw_request::listing_bytes(request);
        directories::read(&self.mount, request.into(), handle, (offset, bytes), reply);
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        directories::release(&self.mount, handle, reply);
    }

    fn fsyncdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        directories::fsync(&self.mount, request.into(), ino, reply);
    }

    fn statfs(&self, request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        space::statfs(&self.mount, request.into(), reply);
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        xattrs::set(&self.mount, request.into(), ino, (name.as_bytes(), value), flags, reply);
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        xattrs::get(&self.mount, request.into(), ino, name.as_bytes(), size, reply);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        xattrs::list(&self.mount, request.into(), ino, size, reply);
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        xattrs::remove(&self.mount, request.into(), ino, name.as_bytes(), reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let at = (parent, name.as_bytes());
        opening::create(&self.mount, request.into(), at, (mode, umask, flags), reply);
    }

    fn getlk(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let flock = raw_request::is_flock(request);
        let wanted = Wanted { flock, owner: owner.0, start, end, kind, pid };
        locks::get(&self.mount, request.into(), ino, wanted, reply);
    }

    fn setlk(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let flock = raw_request::is_flock(request);
        let wanted = Wanted { flock, owner: owner.0, start, end, kind, pid };
        locks::set(&self.mount, request.into(), (ino, handle), wanted, sleep, reply);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        files::fallocate(&self.mount, request.into(), handle, (offset, length), mode, reply);
    }

    fn lseek(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        files::lseek(&self.mount, request.into(), handle, offset, whence, reply);
    }
}
