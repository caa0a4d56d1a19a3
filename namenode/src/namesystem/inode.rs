//! Inode records.
//!
//! | offset | size | field                                                            |
//! |--------|------|------------------------------------------------------------------|
//! | 0      | 1    | version, 2                                                       |
//! | 1      | 1    | type, a number of `FileType`                                     |
//! | 2      | 2    | mode, at most 07777                                              |
//! | 4      | 4    | link count; of a directory: 2 and its subdirectories; 0: unlinked |
//! | 8      | 8    | parent; of a node with several links a hint: it was one once      |
//! | 16     | 8    | device number                                                    |
//! | 24     | 8    | size in bytes                                                    |
//! | 32     | 8    | access time, ns                                                  |
//! | 40     | 8    | modification time, ns                                            |
//! | 48     | 8    | attribute change time, ns                                        |
//! | 56     | 8    | creation time, ns                                                |
//! | 64     | 8    | block size in bytes; 0 unless a file                             |
//! | 72     | 8    | change counter                                                   |
//! | 80     | 2    | replication; 0 unless a file                                     |
//! | 82     | 1    | bytes of the owner                                               |
//! | 83     | 1    | bytes of the group                                               |
//! | 84     | 2    | bytes of the lease holder; 0: not under construction             |
//! | 86     | 2    | bytes of the symbolic link's target                              |
//! | 88     | 4    | bytes of the extended attributes                                 |
//! | 92     | 8    | bytes in the file's block rows                                   |
//! | 100    | 4    | blocks of the file that are not complete, at most                |
//! | 104    |      | owner, group, holder, target, extended attributes                |
//!
//! Integers are little-endian. Extended attributes are opaque here.
//!
//! Version 1 ends its header at offset 92: files had no holes then, so their rows had as many bytes as the
//! file, and only the last block of a file with a lease holder could be open.

use dfs_proto::{InodeId, v1};
use v1::FileType;

use super::acl::Guard;
use super::error::{RecordFault, StoreError};
use super::keys;
use super::tables::Table;

const VERSION: u8 = 2;
const HEADER_BYTES: usize = 104;
const HEADER_BYTES_1: usize = 92;

/// A node of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Id.
    pub id: InodeId,
    /// Type.
    pub kind: FileType,
    /// Permission bits.
    pub mode: u16,
    /// Link count; 0 while an unlinked node waits to be freed.
    pub nlink: u32,
    /// Directory that holds it.
    pub parent: InodeId,
    /// Device number of a device node.
    pub rdev: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last access, ns since the epoch.
    pub atime_ns: i64,
    /// Last change of the content, ns since the epoch.
    pub mtime_ns: i64,
    /// Last change of the attributes, ns since the epoch.
    pub ctime_ns: i64,
    /// Creation, ns since the epoch.
    pub btime_ns: i64,
    /// Block size of a file in bytes.
    pub block_size: u64,
    /// Rises with every change.
    pub change: u64,
    /// Replication of a file.
    pub replication: u16,
    /// Owner.
    pub owner: String,
    /// Group.
    pub group: String,
    /// Lease holder while the file is under construction.
    pub holder: Option<String>,
    /// Target of a symbolic link.
    pub symlink: Vec<u8>,
    /// Extended attributes, opaque.
    pub xattrs: Vec<u8>,
    /// Bytes in the file's block rows: what holes do not count in.
    pub allocated: u64,
    /// Blocks of the file that are not complete: not less than there are, and exact for a file that was
    /// made since records have this field.
    pub open_blocks: u32,
}

impl Inode {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == FileType::File
    }

    /// What decides about access to it.
    pub(super) fn guard(&self) -> Guard<'_> {
        let (id, mode) = (self.id, self.mode);
        Guard { id, mode, owner: &self.owner, group: &self.group, xattrs: &self.xattrs }
    }

    /// Notes a change of content: modification time, attribute time, change counter.
    pub(super) const fn touch_content(&mut self, now_ns: i64) {
        self.mtime_ns = now_ns;
        self.touch_attributes(now_ns);
    }

    /// Notes a change of attributes.
    pub(super) const fn touch_attributes(&mut self, now_ns: i64) {
        self.ctime_ns = now_ns;
        self.change += 1;
    }

    /// Attributes as messages carry them; `name` is for listings.
    pub fn status(&self, name: bytes::Bytes) -> v1::FileStatus {
        let (owner, group) = (self.owner.clone(), self.group.clone());
        let symlink = bytes::Bytes::copy_from_slice(&self.symlink);
        self.status_with(name, owner, group, symlink)
    }

    /// As [`Self::status`], of an inode that is not needed any more.
    pub fn into_status(mut self, name: bytes::Bytes) -> v1::FileStatus {
        let (owner, group) = (std::mem::take(&mut self.owner), std::mem::take(&mut self.group));
        let symlink = std::mem::take(&mut self.symlink).into();
        self.status_with(name, owner, group, symlink)
    }

    fn status_with(
        &self,
        name: bytes::Bytes,
        owner: String,
        group: String,
        symlink: bytes::Bytes,
    ) -> v1::FileStatus {
        v1::FileStatus {
            inode: self.id.get(),
            r#type: self.kind.into(),
            name,
            mode: u32::from(self.mode),
            owner,
            group,
            nlink: self.nlink,
            rdev: self.rdev,
            size: self.size,
            atime_ns: self.atime_ns,
            mtime_ns: self.mtime_ns,
            ctime_ns: self.ctime_ns,
            btime_ns: self.btime_ns,
            block_size: self.block_size,
            replication: u32::from(self.replication),
            change: self.change,
            symlink,
            under_construction: self.holder.is_some(),
            allocated: self.allocated,
            has_xattrs: !self.xattrs.is_empty(),
        }
    }

    /// The record.
    ///
    /// # Panics
    /// If a text is longer than its length field can say: operations refuse such texts before.
    pub fn encode(&self) -> Vec<u8> {
        let holder = self.holder.as_deref().unwrap_or_default();
        let texts =
            [self.owner.as_bytes(), self.group.as_bytes(), holder.as_bytes(), &self.symlink, &self.xattrs];
        let mut out = Vec::with_capacity(HEADER_BYTES + texts.iter().map(|t| t.len()).sum::<usize>());
        out.push(VERSION);
        out.push(u8::try_from(i32::from(self.kind)).expect("few file types"));
        out.extend_from_slice(&self.mode.to_le_bytes());
        out.extend_from_slice(&self.nlink.to_le_bytes());
        for word in [self.parent.get(), self.rdev, self.size] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for time in [self.atime_ns, self.mtime_ns, self.ctime_ns, self.btime_ns] {
            out.extend_from_slice(&time.to_le_bytes());
        }
        out.extend_from_slice(&self.block_size.to_le_bytes());
        out.extend_from_slice(&self.change.to_le_bytes());
        out.extend_from_slice(&self.replication.to_le_bytes());
        out.push(u8::try_from(self.owner.len()).expect("owners are at most 255 bytes"));
        out.push(u8::try_from(self.group.len()).expect("groups are at most 255 bytes"));
        let holder_bytes = u16::try_from(holder.len()).expect("holders are at most 255 bytes");
        out.extend_from_slice(&holder_bytes.to_le_bytes());
        let symlink_bytes = u16::try_from(self.symlink.len()).expect("targets are at most a path long");
        out.extend_from_slice(&symlink_bytes.to_le_bytes());
        let xattr_bytes = u32::try_from(self.xattrs.len()).expect("attributes are bounded");
        out.extend_from_slice(&xattr_bytes.to_le_bytes());
        out.extend_from_slice(&self.allocated.to_le_bytes());
        out.extend_from_slice(&self.open_blocks.to_le_bytes());
        for text in texts {
            out.extend_from_slice(text);
        }
        out
    }

    /// Reads the record of inode `id`.
    pub fn decode(id: InodeId, raw: &[u8]) -> Result<Self, StoreError> {
        let view = InodeView::new(id, raw)?;
        let symlink_bytes = usize::from(u16::from_le_bytes(view.array(86)));
        let holder = view.text(view.holder_at(), view.symlink_at(), "holder")?;
        let xattrs_at = view.symlink_at() + symlink_bytes;
        let size = view.word(24);
        let (allocated, open_blocks) = if view.header_bytes() == HEADER_BYTES_1 {
            (size, u32::from(!holder.is_empty()))
        } else {
            (view.word(92), u32::from_le_bytes(view.array(100)))
        };
        Ok(Self {
            id,
            kind: view.kind()?,
            mode: view.mode(),
            nlink: view.nlink(),
            parent: InodeId(view.word(8)),
            rdev: view.word(16),
            size,
            atime_ns: view.word(32).cast_signed(),
            mtime_ns: view.word(40).cast_signed(),
            ctime_ns: view.word(48).cast_signed(),
            btime_ns: view.word(56).cast_signed(),
            block_size: view.word(64),
            change: view.word(72),
            replication: u16::from_le_bytes(view.array(80)),
            owner: view.owner()?.to_owned(),
            group: view.group()?.to_owned(),
            holder: (!holder.is_empty()).then(|| holder.to_owned()),
            symlink: raw[view.symlink_at()..xattrs_at].to_vec(),
            xattrs: raw[xattrs_at..].to_vec(),
            allocated,
            open_blocks,
        })
    }
}

/// A record read in place: what path resolution needs, without copying texts.
#[derive(Clone, Copy)]
pub(super) struct InodeView<'a> {
    id: InodeId,
    raw: &'a [u8],
}

impl<'a> InodeView<'a> {
    /// Checks version and lengths.
    pub(super) fn new(id: InodeId, raw: &'a [u8]) -> Result<Self, StoreError> {
        let view = Self { id, raw };
        if raw.first().is_some_and(|version| !(1..=VERSION).contains(version)) {
            return Err(view.corrupt(RecordFault::Version(raw[0])));
        }
        if raw.is_empty() || raw.len() < view.header_bytes() {
            return Err(view.corrupt(RecordFault::Length(raw.len())));
        }
        let symlink_bytes = usize::from(u16::from_le_bytes(view.array(86)));
        let xattr_bytes = u64::from(u32::from_le_bytes(view.array(88)));
        let length = (view.symlink_at() + symlink_bytes) as u64 + xattr_bytes;
        if raw.len() as u64 != length {
            return Err(view.corrupt(RecordFault::Length(raw.len())));
        }
        Ok(view)
    }

    pub(super) fn kind(&self) -> Result<FileType, StoreError> {
        match FileType::try_from(i32::from(self.raw[1])) {
            Ok(FileType::Unspecified) | Err(_) => Err(self.corrupt(RecordFault::Field("type"))),
            Ok(kind) => Ok(kind),
        }
    }

    fn mode(&self) -> u16 {
        u16::from_le_bytes(self.array(2))
    }

    pub(super) fn nlink(&self) -> u32 {
        u32::from_le_bytes(self.array(4))
    }

    /// What decides about access to it.
    pub(super) fn guard(&self) -> Result<Guard<'a>, StoreError> {
        let xattr_bytes = u32::from_le_bytes(self.array(88)) as usize;
        Ok(Guard {
            id: self.id,
            mode: self.mode(),
            owner: self.owner()?,
            group: self.group()?,
            xattrs: &self.raw[self.raw.len() - xattr_bytes..],
        })
    }

    fn owner(&self) -> Result<&'a str, StoreError> {
        self.text(self.header_bytes(), self.group_at(), "owner")
    }

    fn group(&self) -> Result<&'a str, StoreError> {
        self.text(self.group_at(), self.holder_at(), "group")
    }

    fn header_bytes(&self) -> usize {
        if self.raw[0] == 1 { HEADER_BYTES_1 } else { HEADER_BYTES }
    }

    fn group_at(&self) -> usize {
        self.header_bytes() + usize::from(self.raw[82])
    }

    fn holder_at(&self) -> usize {
        self.group_at() + usize::from(self.raw[83])
    }

    fn symlink_at(&self) -> usize {
        self.holder_at() + usize::from(u16::from_le_bytes(self.array(84)))
    }

    fn text(&self, from: usize, to: usize, field: &'static str) -> Result<&'a str, StoreError> {
        std::str::from_utf8(&self.raw[from..to]).map_err(|_| self.corrupt(RecordFault::Field(field)))
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.raw[at..at + N]);
        out
    }

    fn corrupt(&self, fault: RecordFault) -> StoreError {
        StoreError::Corrupt { table: Table::Inodes.name(), key: keys::inode(self.id).to_vec(), fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Inode {
        Inode {
            id: InodeId(9),
            kind: FileType::File,
            mode: 0o644,
            nlink: 1,
            parent: InodeId(2),
            rdev: 3,
            size: 4,
            atime_ns: 5,
            mtime_ns: 6,
            ctime_ns: 7,
            btime_ns: -1,
            block_size: 8,
            change: 9,
            replication: 10,
            owner: "ann".to_owned(),
            group: "dev".to_owned(),
            holder: Some("h".to_owned()),
            symlink: b"t".to_vec(),
            xattrs: vec![0xee, 0xff],
            allocated: 11,
            open_blocks: 12,
        }
    }

    #[rustfmt::skip]
    const GOLDEN: [u8; 114] = [
        2, 1, 0xa4, 0x01,                              // version, type, mode
        1, 0, 0, 0,                                    // link count
        2, 0, 0, 0, 0, 0, 0, 0,                        // parent
        3, 0, 0, 0, 0, 0, 0, 0,                        // device number
        4, 0, 0, 0, 0, 0, 0, 0,                        // size
        5, 0, 0, 0, 0, 0, 0, 0,                        // access time
        6, 0, 0, 0, 0, 0, 0, 0,                        // modification time
        7, 0, 0, 0, 0, 0, 0, 0,                        // attribute change time
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // creation time
        8, 0, 0, 0, 0, 0, 0, 0,                        // block size
        9, 0, 0, 0, 0, 0, 0, 0,                        // change counter
        10, 0,                                         // replication
        3, 3, 1, 0, 1, 0,                              // lengths of owner, group, holder, target
        2, 0, 0, 0,                                    // length of extended attributes
        11, 0, 0, 0, 0, 0, 0, 0,                       // bytes in block rows
        12, 0, 0, 0,                                   // open blocks
        b'a', b'n', b'n', b'd', b'e', b'v', b'h', b't', 0xee, 0xff,
    ];

    #[test]
    fn golden_bytes() {
        assert_eq!(sample().encode(), GOLDEN);
        assert_eq!(Inode::decode(InodeId(9), &GOLDEN).expect("decodes"), sample());
    }

    #[test]
    fn version_1_had_no_holes() {
        let mut old = GOLDEN.to_vec();
        old[0] = 1;
        old.drain(HEADER_BYTES_1..HEADER_BYTES);
        let expected = Inode { allocated: 4, open_blocks: 1, ..sample() };
        assert_eq!(Inode::decode(InodeId(9), &old).expect("decodes"), expected);
        for length in 0..old.len() {
            assert!(Inode::decode(InodeId(9), &old[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn every_truncation_and_bad_field_is_refused() {
        for length in 0..GOLDEN.len() {
            assert!(Inode::decode(InodeId(9), &GOLDEN[..length]).is_err(), "{length} bytes");
        }
        let mut long = GOLDEN.to_vec();
        long.push(0);
        assert!(Inode::decode(InodeId(9), &long).is_err());
        // Version, type, owner length, group that is not UTF-8.
        for (at, value) in [(0, 3), (0, 0), (1, 0), (1, 99), (82, 4), (107, 0xff)] {
            let mut bad = GOLDEN;
            bad[at] = value;
            assert!(Inode::decode(InodeId(9), &bad).is_err(), "byte {at} = {value}");
        }
    }
}
