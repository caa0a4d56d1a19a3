//! What a start makes of the journal.
//!
//! | what stopped | replicas                                       | records                | chunks that do not match then |
//! |--------------|------------------------------------------------|------------------------|-------------------------------|
//! | the process  | in `random/`, chunks that a writer had in hand | not needed             | settled                       |
//! |              | others                                         | not needed             | damage                        |
//! | the machine  | in `random/`, or with an older stamp than one  | applied in their order | settled                       |
//! |              | of their records                               |                        |                               |
//! |              | others                                         | applied in their order | damage                        |
//!
//! A volume that failed counts as one whose machine stopped: its disk may have lost what the kernel took for written.
//!
//! A replica that was new when the machine stopped may be there in records alone: its files are made first.
//!
//! *Settled*: the chunk gets the checksum of what is there. It was being overwritten, nobody was told that the new
//! content is durable, and POSIX leaves open which parts of such a write a stop lets through. After the end of the process
//! alone only the chunks of the packet in hand can be torn, and [`super::in_hand`] tells which those are; all that was acknowledged is in
//! the page cache. A replica leaves `random/` only when its overwrites are on disk, in the journal or in its files: damage of a
//! closed one stays to be found.
//!
//! After a stop of the machine any chunk may be torn that was written since the files were last put on disk, and nothing on disk tells
//! which those are: to write that down before each of them could reach the disk would cost a flush where there is none now. So all of
//! such a replica is settled, but it is a replica with torn chunks from then on, which no block recovery lets decide beside one that is whole.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use dfs_proto::BlockId;

use super::record::{Change, Record, SegmentHeader, records};
use super::{in_hand, segment_path};
use crate::error::{DatanodeError, disk};
use crate::replica::BlockRef;

/// A journal as it was found.
#[derive(Debug, Default)]
pub struct Found {
    segments: Vec<(u64, Vec<u8>)>,
    /// Numbers up to which records of a block do not matter.
    settled: HashMap<BlockId, u64>,
    /// Blocks with records that do matter.
    live: HashMap<BlockId, Vec<(usize, usize)>>,
    same_boot: bool,
    last: u64,
    /// Chunks that writers had in hand; `None`: nobody knows.
    in_hand: Option<in_hand::Chunks>,
}

/// Which chunks of a replica may not match for no other reason than that they were being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InFlight {
    /// Any.
    Unknown,
    /// Those of these ranges.
    Ranges(Vec<Range<u64>>),
}

impl InFlight {
    /// Whether a chunk is among them.
    pub fn covers(&self, chunk: Range<u64>) -> bool {
        match self {
            Self::Unknown => true,
            Self::Ranges(ranges) => ranges.iter().any(|r| r.start < chunk.end && chunk.start < r.end),
        }
    }
}

impl Found {
    /// Reads the journal of a volume. `boot` is the machine's present boot.
    pub fn read(volume: &Path, boot: &str) -> Result<Self, DatanodeError> {
        let mut found = Self::default();
        let mut boots = Vec::new();
        for index in 0..2 {
            let path = segment_path(volume, index);
            let raw = match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(disk(&path))?,
            };
            match SegmentHeader::decode(&raw) {
                Some(header) if header.first > 0 => {
                    boots.push(header.boot);
                    found.segments.push((header.first, raw));
                }
                Some(_) => {}
                None => tracing::warn!(path = %path.display(), "journal segment without a header"),
            }
        }
        found.same_boot = !boot.is_empty() && !boots.is_empty() && boots.iter().all(|b| b == boot);
        found.in_hand = if found.same_boot { in_hand::read(volume)? } else { None };
        found.segments.sort_by_key(|(first, _)| *first);
        found.index();
        Ok(found)
    }

    fn index(&mut self) {
        let mut all: HashMap<BlockId, Vec<(usize, usize, u64)>> = HashMap::new();
        for (segment, (first, raw)) in self.segments.iter().enumerate() {
            self.last = self.last.max(first - 1);
            for (at, record) in records(raw, *first) {
                self.last = self.last.max(record.number);
                match record.change {
                    Change::Settled { up_to } => {
                        let settled = self.settled.entry(record.block.id).or_default();
                        *settled = up_to.max(*settled);
                    }
                    Change::Write { .. } | Change::Intent { .. } | Change::Created { .. } => {
                        all.entry(record.block.id).or_default().push((segment, at, record.number));
                    }
                }
            }
        }
        for (id, places) in all {
            let settled = self.settled.get(&id).copied().unwrap_or(0);
            let live: Vec<_> =
                places.into_iter().filter(|(_, _, n)| *n > settled).map(|(s, at, _)| (s, at)).collect();
            if !live.is_empty() {
                self.live.insert(id, live);
            }
        }
    }

    /// Whether the machine has not stopped since the journal was written.
    pub const fn is_same_boot(&self) -> bool {
        self.same_boot
    }

    /// Which chunks of a replica in `random/` were in flight.
    pub fn in_flight(&self, id: BlockId) -> InFlight {
        match &self.in_hand {
            None => InFlight::Unknown,
            Some(known) => InFlight::Ranges(known.get(&id).cloned().unwrap_or_default()),
        }
    }

    /// Number of the last record.
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// Number of blocks with records.
    pub fn blocks(&self) -> usize {
        self.live.len()
    }

    /// Replicas that may be there in records alone, with the last stamp of these, and whether they were closed. One that was reopened
    /// under a later stamp since was not.
    pub fn created(&self) -> Vec<(BlockRef, bool)> {
        let created = |id: &BlockId| {
            let (mut stamp, mut made) = (None, None);
            for record in self.records(*id) {
                stamp = stamp.max(Some(record.block.stamp));
                if let Change::Created { closed } = record.change {
                    made = Some((record.block.stamp, closed));
                }
            }
            let (stamp, (made_under, closed)) = (stamp?, made?);
            Some((BlockRef { id: *id, stamp }, closed && made_under == stamp))
        };
        self.live.keys().filter_map(created).collect()
    }

    /// Records of a block that matter, in order.
    pub fn records(&self, id: BlockId) -> impl Iterator<Item = Record<'_>> {
        let places = self.live.get(&id).map(Vec::as_slice).unwrap_or_default();
        places.iter().filter_map(|(segment, at)| {
            let (_, raw) = &self.segments[*segment];
            Record::decode(&raw[*at..]).map(|(record, _)| record)
        })
    }
}
