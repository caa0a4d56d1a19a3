//! Attributes: what the cluster says about a node, in the kernel's terms.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dfs_client::fs::{FileStatus, FileType as Kind};
use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::owners::Owners;

/// Preferred size of reads and writes, told by `stat`: programs that use buffers of this size ask 16 times less often than
/// with a page.
const PREFERRED_IO_BYTES: u32 = 64 << 10;
/// The same of directories: the C library takes a buffer of this size for a listing, and so does the kernel.
const PREFERRED_LISTING_BYTES: u32 = 256 << 10;
/// Unit of `st_blocks`.
const STAT_BLOCK_BYTES: u64 = 512;
const NS_PER_S: i128 = 1_000_000_000;

/// A node as the mount keeps it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Attributes for the kernel; the inode is the kernel's number.
    pub attr: FileAttr,
    /// Rises with every change of the node.
    pub change: u64,
    /// There are extended attributes.
    pub has_xattrs: bool,
    /// Target of a symbolic link.
    pub symlink: Option<Arc<[u8]>>,
}

impl Node {
    /// From the cluster's answer, with `ino` as the kernel's number for it.
    pub fn new(status: &FileStatus, ino: INodeNo, owners: &Owners) -> Self {
        let kind = kind_of(status.r#type());
        let attr = FileAttr {
            ino,
            size: if kind == FileType::Symlink { status.symlink.len() as u64 } else { status.size },
            blocks: status.allocated.div_ceil(STAT_BLOCK_BYTES),
            atime: time(status.atime_ns),
            mtime: time(status.mtime_ns),
            ctime: time(status.ctime_ns),
            crtime: time(status.btime_ns),
            kind,
            perm: (status.mode & 0o7777) as u16,
            nlink: status.nlink,
            uid: owners.uid(&status.owner),
            gid: owners.gid(&status.group),
            // The kernel's encoding of device numbers has 32 bits; what it gave to mknod comes back.
            rdev: u32::try_from(status.rdev).unwrap_or(0),
            blksize: if kind == FileType::Directory { PREFERRED_LISTING_BYTES } else { PREFERRED_IO_BYTES },
            flags: 0,
        };
        let symlink = (kind == FileType::Symlink).then(|| Arc::from(&status.symlink[..]));
        Self { attr, change: status.change, has_xattrs: status.has_xattrs, symlink }
    }

    /// Takes over what writing changes from `written`, a newer view of the same file.
    pub fn overlay(&mut self, written: &FileStatus) {
        self.attr.size = written.size;
        self.attr.blocks = written.allocated.div_ceil(STAT_BLOCK_BYTES);
        self.attr.mtime = time(written.mtime_ns);
        self.attr.ctime = self.attr.ctime.max(time(written.ctime_ns));
        self.change = self.change.max(written.change);
    }
}

/// The kernel's word for a type.
pub fn kind_of(kind: Kind) -> FileType {
    match kind {
        Kind::File | Kind::Unspecified => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// The type in the format bits of a mode given to mknod; `None` for what mknod does not make.
pub fn kind_of_mode(mode: u32) -> Option<Kind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(Kind::File),
        libc::S_IFIFO => Some(Kind::Fifo),
        libc::S_IFSOCK => Some(Kind::Socket),
        libc::S_IFCHR => Some(Kind::CharDevice),
        libc::S_IFBLK => Some(Kind::BlockDevice),
        _ => None,
    }
}

/// The moment `ns` nanoseconds after (or before) the epoch.
pub fn time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

/// Nanoseconds since the epoch of a time that the kernel asks to set; `None` for the time of the call. Times out of range
/// become the nearest that can be kept (years 1677 to 2262).
///
/// fuser 0.18 turns a time before the epoch of `-s` seconds plus `n` nanoseconds into the moment `s` seconds *and* `n`
/// nanoseconds before the epoch; that is undone here.
pub fn requested_ns(time: TimeOrNow) -> Option<i64> {
    let TimeOrNow::SpecificTime(time) = time else { return None };
    let ns = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i128::from(after.as_secs()) * NS_PER_S + i128::from(after.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            -i128::from(before.as_secs()) * NS_PER_S + i128::from(before.subsec_nanos())
        }
    };
    Some(i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> FileStatus {
        let mut status = FileStatus {
            inode: 7,
            mode: 0o4755,
            owner: "root".into(),
            group: "root".into(),
            nlink: 2,
            size: 5_000,
            allocated: 4_097,
            mtime_ns: 1_500_000_001,
            change: 9,
            ..FileStatus::default()
        };
        status.set_type(Kind::File);
        status
    }

    #[test]
    fn a_file_looks_to_the_kernel_as_it_is() {
        let node = Node::new(&status(), INodeNo(7), &Owners::default());
        assert_eq!((node.attr.size, node.attr.blocks, node.attr.perm), (5_000, 9, 0o4755));
        assert_eq!((node.attr.uid, node.attr.nlink, node.attr.kind), (0, 2, FileType::RegularFile));
        assert_eq!(node.attr.mtime, UNIX_EPOCH + Duration::new(1, 500_000_001));
        assert_eq!((node.change, node.has_xattrs, node.symlink), (9, false, None));
    }

    #[test]
    fn what_is_being_written_counts_before_it_is_recorded() {
        let mut node = Node::new(&status(), INodeNo(7), &Owners::default());
        let written =
            FileStatus { size: 9_000, mtime_ns: 2_000_000_000, ctime_ns: 2_000_000_001, ..status() };
        let written = FileStatus { change: 8, ..written };
        node.overlay(&written);
        assert_eq!((node.attr.size, node.change), (9_000, 9));
        assert_eq!(node.attr.mtime, UNIX_EPOCH + Duration::from_secs(2));
        assert_eq!(node.attr.ctime, UNIX_EPOCH + Duration::new(2, 1));
    }

    #[test]
    fn the_length_of_a_link_is_its_targets() {
        let mut link = FileStatus { symlink: "../a".into(), ..status() };
        link.set_type(Kind::Symlink);
        let node = Node::new(&link, INodeNo(7), &Owners::default());
        assert_eq!((node.attr.size, node.symlink.as_deref()), (4, Some(&b"../a"[..])));
    }

    #[test]
    fn times_before_the_epoch_survive_both_ways() {
        assert_eq!(time(-1_500_000_000), UNIX_EPOCH - Duration::from_millis(1_500));
        let as_fuser_gives = |seconds: u64, ns: u32| UNIX_EPOCH - Duration::new(seconds, ns);
        // The kernel's -2 s + 0.5 s.
        let given = TimeOrNow::SpecificTime(as_fuser_gives(2, 500_000_000));
        assert_eq!(requested_ns(given), Some(-1_500_000_000));
        assert_eq!(requested_ns(TimeOrNow::SpecificTime(time(1_500_000_001))), Some(1_500_000_001));
        assert_eq!(requested_ns(TimeOrNow::Now), None);
        let far = TimeOrNow::SpecificTime(UNIX_EPOCH + Duration::from_secs(1 << 40));
        assert_eq!(requested_ns(far), Some(i64::MAX));
    }

    #[test]
    fn mknod_makes_no_directories() {
        assert_eq!(kind_of_mode(libc::S_IFIFO | 0o644), Some(Kind::Fifo));
        assert_eq!(kind_of_mode(0o644), Some(Kind::File));
        assert_eq!(kind_of_mode(libc::S_IFDIR), None);
        for kind in [Kind::File, Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice] {
            assert_ne!(kind_of(kind), FileType::Directory);
        }
    }
}
