//! What is done with open files.

use std::sync::Arc;

use bytes::Bytes;
use dfs_client::fs::{InodeId, SetAttributes};
use fuser::{FileHandle, ReplyData, ReplyEmpty, ReplyLseek, ReplyWrite, WriteFlags};

use crate::caller::{Asker, Who};
use crate::errno::Refusal;
use crate::mount::Mount;

/// `read`.
pub fn read(mount: &Arc<Mount>, who: Who, handle: FileHandle, offset: u64, size: u32, reply: ReplyData) {
    let handle = match mount.files.get(handle) {
        Ok(handle) => handle,
        Err(refusal) => return Mount::refuse(reply, &refusal),
    };
    let work = async move { Ok(handle.file.read_at(offset, size as usize).await?) };
    mount.answer(who, reply, work, |reply, data: Bytes| reply.data(&data));
}

/// `write`. With `O_APPEND` the end is where the cluster has it, not where the kernel remembers it; but what comes from the page
/// cache (a shared mapping) has its place.
pub fn write(
    mount: &Arc<Mount>,
    who: Who,
    handle: FileHandle,
    offset: u64,
    data: &[u8],
    (flags, open_flags): (WriteFlags, i32),
    reply: ReplyWrite,
) {
    let handle = match mount.files.get(handle) {
        Ok(handle) => handle,
        Err(refusal) => return Mount::refuse(reply, &refusal),
    };
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    // The buffer belongs to the event loop, which needs it for the next request.
    let data = Bytes::copy_from_slice(data);
    let append = open_flags & libc::O_APPEND != 0 && !flags.contains(WriteFlags::FUSE_WRITE_CACHE);
    let kill_privileges = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
    let shared = mount.clone();
    let work = async move {
        handle.writing();
        let written = match append {
            true => handle.file.append(data).await.map(drop),
            false => handle.file.write_at(offset, data).await.map(drop),
        };
        shared.noted(&handle, written)?;
        if kill_privileges {
            shared.kill_privileges(who, handle.inode).await?;
        }
        Ok(length)
    };
    mount.answer(who, reply, work, |reply, length| reply.written(length));
}

/// `fsync` and `fdatasync`.
pub fn fsync(mount: &Arc<Mount>, who: Who, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
    let (handle, shared) = (mount.files.get(handle), mount.clone());
    let work = async move {
        let handle = handle?;
        shared.noted(&handle, handle.file.sync(data_only).await)?;
        if handle.writer {
            shared.written_back(&handle);
        }
        Ok(())
    };
    mount.answer(who, reply, work, |reply, ()| reply.ok());
}

/// `fallocate`.
pub fn fallocate(
    mount: &Arc<Mount>,
    who: Who,
    handle: FileHandle,
    (offset, length): (u64, u64),
    mode: i32,
    reply: ReplyEmpty,
) {
    let handle = mount.files.get(handle);
    let work = async move {
        let handle = handle?;
        handle.writing();
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => handle.file.allocate(offset, length, keep_size).await?,
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => handle.file.punch_hole(offset, length).await?,
            libc::FALLOC_FL_ZERO_RANGE => handle.file.zero_range(offset, length, keep_size).await?,
            _ => return Err(Refusal::NotSupported),
        }
        Ok(())
    };
    mount.answer(who, reply, work, |reply, ()| reply.ok());
}

/// `lseek`, which the kernel asks for data and holes only.
pub fn lseek(mount: &Arc<Mount>, who: Who, handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
    if mount.writeback.get().is_some() {
        // Data that the kernel has not written yet would be passed over. It then takes everything for data, and does not ask again.
        return reply.error(fuser::Errno::ENOSYS);
    }
    let handle = mount.files.get(handle);
    let work = async move {
        let file = &handle?.file;
        let offset = u64::try_from(offset).map_err(|_| Refusal::BeyondEnd)?;
        if offset >= file.status().size {
            return Err(Refusal::BeyondEnd);
        }
        let found = match whence {
            libc::SEEK_DATA => file.seek_data(offset).await?.ok_or(Refusal::BeyondEnd)?,
            libc::SEEK_HOLE => file.seek_hole(offset).await?,
            _ => return Err(Refusal::InvalidArgument),
        };
        i64::try_from(found).map_err(|_| Refusal::BeyondEnd)
    };
    mount.answer(who, reply, work, |reply, offset| reply.offset(offset));
}

impl Mount {
    /// Clears set-user-id and set-group-id, if the file has them, as a write by an ordinary user does.
    pub async fn kill_privileges(&self, who: Who, inode: InodeId) -> Result<(), Refusal> {
        let node = self.current(who, inode).await?;
        if u32::from(node.attr.perm) & (libc::S_ISUID | libc::S_ISGID) == 0 && !node.has_xattrs {
            return Ok(());
        }
        let set = SetAttributes { kill_privileges: true, opened: true, ..SetAttributes::default() };
        let mut asker = Asker::new(who, &self.owners);
        loop {
            match self.fs.set_attributes(asker.caller(), inode, set.clone()).await {
                Err(refusal) if asker.widen(&refusal) => {}
                answer => {
                    self.learn_change(&answer?);
                    return Ok(());
                }
            }
        }
    }
}
