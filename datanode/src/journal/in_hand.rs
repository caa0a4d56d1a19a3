//! What the writers at any offset of a volume have in hand: the file `journal/in-hand`, a slot for each writer.
//!
//! One step of such a writer changes data, then checksums. The end of the process between the two (`kill -9`) leaves chunks that
//! do not match, and so does a disk that lost a bit. A start can tell one from the other, because each step first writes here which
//! old chunks it changes, and empties its slot when it is done. (New data without checksums is cut off at a start.) The file is never put on disk: it is about the end of the process
//! alone, which the page cache outlives, and is not believed after a stop of the machine.
//!
//! Slots follow each other, 64 bytes each, so that none crosses a page and none is ever torn by the end of a process:
//!
//! | offset | size | field   | rule                                            |
//! |--------|------|---------|-------------------------------------------------|
//! | 0      | 4    | magic   | `DJH1`                                          |
//! | 4      | 4    | padding | zeros                                           |
//! | 8      | 8    | block   | big-endian; block id                            |
//! | 16     | 8    | stamp   | big-endian; generation stamp                    |
//! | 24     | 8    | first   | big-endian; first byte, on a chunk boundary     |
//! | 32     | 8    | end     | big-endian; end of the bytes that are changed   |
//! | 40     | 20   | padding | zeros                                           |
//! | 60     | 4    | CRC     | big-endian; CRC-32C of bytes 0 to 59            |
//!
//! An empty slot is all zeros; what is neither that nor valid says nothing.
//!
//! Invariant: a slot belongs to one writer at a time. There are as many as there were writers at once, which the data
//! transfer server's connections bound.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dfs_proto::{BlockId, GenerationStamp};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::DIR_NAME;
use crate::error::{DatanodeError, disk};
use crate::replica::BlockRef;
use crate::sync::lock;

/// Name of the file beside the segments.
const FILE_NAME: &str = "in-hand";

const SLOT_BYTES: usize = 64;
const SLOT_MAGIC: &[u8; 4] = b"DJH1";
const CRC_AT: usize = SLOT_BYTES - 4;

/// Room taken from the disk at the start, so that writers find some when the disk is full: a thousand of them.
const ROOM_BYTES: i64 = 64 << 10;

/// Slots of all writers of a volume.
#[derive(Debug)]
pub struct InHand {
    file: File,
    path: PathBuf,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    returned: Vec<u32>,
    next: u32,
}

/// A writer's slot, given back when it is dropped.
#[derive(Debug)]
pub struct Slot {
    of: Arc<InHand>,
    number: u32,
}

/// Chunks by block.
pub type Chunks = HashMap<BlockId, Vec<Range<u64>>>;

fn path(volume: &Path) -> PathBuf {
    volume.join(DIR_NAME).join(FILE_NAME)
}

fn encode(block: BlockRef, chunks: &Range<u64>) -> [u8; SLOT_BYTES] {
    let mut raw = [0; SLOT_BYTES];
    raw[..4].copy_from_slice(SLOT_MAGIC);
    raw[8..16].copy_from_slice(&block.id.get().to_be_bytes());
    raw[16..24].copy_from_slice(&block.stamp.get().to_be_bytes());
    raw[24..32].copy_from_slice(&chunks.start.to_be_bytes());
    raw[32..40].copy_from_slice(&chunks.end.to_be_bytes());
    let crc = crc32c::crc32c(&raw[..CRC_AT]);
    raw[CRC_AT..].copy_from_slice(&crc.to_be_bytes());
    raw
}

fn decode(raw: &[u8]) -> Option<(BlockRef, Range<u64>)> {
    let (body, crc) = raw.split_at_checked(CRC_AT)?;
    if body[..4] != *SLOT_MAGIC || crc32c::crc32c(body).to_be_bytes() != *crc {
        return None;
    }
    let number = |at: usize| body.get(at..at + 8)?.first_chunk().copied().map(u64::from_be_bytes);
    let block = BlockRef { id: BlockId(number(8)?), stamp: GenerationStamp(number(16)?) };
    Some((block, number(24)?..number(32)?))
}

/// What was in hand when the process ended; `None`: there is no such file, as an earlier version of this program leaves it.
pub fn read(volume: &Path) -> Result<Option<Chunks>, DatanodeError> {
    let path = path(volume);
    let raw = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(disk(&path))?,
    };
    let mut found = Chunks::new();
    for (block, chunks) in raw.chunks_exact(SLOT_BYTES).filter_map(decode) {
        found.entry(block.id).or_default().push(chunks);
    }
    Ok(Some(found))
}

impl InHand {
    /// Starts with an empty file; what was in it has been taken care of.
    pub fn start(volume: &Path) -> Result<Self, DatanodeError> {
        let path = path(volume);
        let file = File::create(&path).map_err(disk(&path))?;
        match fallocate(&file, FallocateFlags::empty(), 0, ROOM_BYTES) {
            // Where the room cannot be taken ahead, or there is none, writers find out by themselves.
            Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSPC) => {}
            Err(errno) => return Err(disk(&path)(errno.into())),
        }
        Ok(Self { file, path, free: Mutex::default() })
    }

    /// A slot for a writer.
    pub fn slot(self: &Arc<Self>) -> Slot {
        let mut free = lock(&self.free);
        let number = free.returned.pop().unwrap_or_else(|| {
            free.next += 1;
            free.next - 1
        });
        Slot { of: Arc::clone(self), number }
    }
}

impl Slot {
    fn write(&self, raw: &[u8; SLOT_BYTES]) -> Result<(), DatanodeError> {
        let at = u64::from(self.number) * SLOT_BYTES as u64;
        self.of.file.write_all_at(raw, at).map_err(disk(&self.of.path))
    }

    /// Chunks are about to be changed.
    pub fn take(&self, block: BlockRef, chunks: Range<u64>) -> Result<(), DatanodeError> {
        self.write(&encode(block, &chunks))
    }

    /// They have been.
    pub fn done(&self) -> Result<(), DatanodeError> {
        self.write(&[0; SLOT_BYTES])
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.of.free).returned.push(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: BlockRef = BlockRef::new(0x0102_0304, 9);

    #[rustfmt::skip]
    const GOLDEN: [u8; SLOT_BYTES] = [
        b'D', b'J', b'H', b'1', 0, 0, 0, 0,
        0, 0, 0, 0, 1, 2, 3, 4,              // block
        0, 0, 0, 0, 0, 0, 0, 9,              // stamp
        0, 0, 0, 0, 0, 0, 0x10, 0,           // first: 4096
        0, 0, 0, 0, 0, 0, 0x20, 1,           // end: 8193
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0xf3, 0x37, 0x6d, 0x7b,              // CRC
    ];

    #[test]
    fn golden_bytes() {
        assert_eq!(encode(BLOCK, &(4096..8193)), GOLDEN);
        assert_eq!(decode(&GOLDEN), Some((BLOCK, 4096..8193)));
        for bit in 0..SLOT_BYTES * 8 {
            let mut raw = GOLDEN;
            raw[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&raw), None, "bit {bit}");
        }
        assert!((0..SLOT_BYTES).all(|len| decode(&GOLDEN[..len]).is_none()));
        assert_eq!(decode(&[0; SLOT_BYTES]), None);
    }

    #[test]
    fn what_is_not_done_is_found_by_the_next_start_only() {
        let dir = tempfile::tempdir().expect("dir");
        fs::create_dir(dir.path().join(DIR_NAME)).expect("made");
        assert_eq!(read(dir.path()).expect("readable"), None, "an earlier version");
        let in_hand = Arc::new(InHand::start(dir.path()).expect("started"));
        let (one, two, three) = (in_hand.slot(), in_hand.slot(), in_hand.slot());
        one.take(BLOCK, 0..100).expect("written");
        two.take(BlockRef::new(7, 1), 4096..9000).expect("written");
        three.take(BLOCK, 8192..9000).expect("written");
        one.done().expect("written");
        drop(three);
        let found = read(dir.path()).expect("readable").expect("there");
        for (id, chunks) in [(BlockId(7), 4096..9000), (BLOCK.id, 8192..9000)] {
            assert!(found[&id].iter().eq([&chunks]), "{found:?}");
        }
        // A slot that was given back is the next writer's.
        in_hand.slot().take(BlockRef::new(8, 1), 0..1).expect("written");
        let found = read(dir.path()).expect("readable").expect("there");
        assert_eq!(found.get(&BLOCK.id), None);
        drop((one, two, InHand::start(dir.path()).expect("started")));
        assert!(read(dir.path()).expect("readable").expect("there").is_empty());
    }
}
