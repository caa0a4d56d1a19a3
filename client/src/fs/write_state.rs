//! What of a file is on its way to the datanodes.
//!
//! Pure: no locks, no tasks. Part of a file's state, under its lock. Invariants: ids rise in the order of writing;
//! `in_flight` has every packet from when it was handed to its block's writer until it is acknowledged.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use dfs_proto::v1::{Block, LocatedBlock};
use tokio::sync::mpsc;

use super::dirty::{DirtyBuffer, UNIT_BYTES};
use super::write_block::BlockCommand;
use crate::unsynced_blocks::FinishedBlock;

/// A packet that is not acknowledged.
pub(super) struct InFlight {
    /// Block it goes to.
    pub index: u64,
    /// First byte, in the file.
    pub offset: u64,
    pub content: Content,
}

/// What a packet does.
pub(super) enum Content {
    Data(Bytes),
    Zeros(u64),
    /// Nothing: it only asks for a sync.
    Marker,
}

impl InFlight {
    /// The bytes it covers.
    pub(super) fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len()
    }

    fn len(&self) -> u64 {
        match &self.content {
            Content::Data(data) => data.len() as u64,
            Content::Zeros(len) => *len,
            Content::Marker => 0,
        }
    }

    /// Bytes of memory it holds.
    pub(super) fn held(&self) -> usize {
        match &self.content {
            Content::Data(data) => data.len(),
            Content::Zeros(_) | Content::Marker => 0,
        }
    }
}

/// A block that has a writer.
pub(super) struct WriterHandle {
    pub commands: mpsc::UnboundedSender<BlockCommand>,
    /// Packets not acknowledged.
    pub pending: usize,
    /// The last packet's id, of those that change something.
    pub data_id: u64,
    /// The last packet's id, of those that are acknowledged when everything before is on disk.
    pub sync_id: u64,
    /// Packets up to this id are on disk on all members.
    pub synced_id: u64,
    /// When the last packet was sent.
    pub used: Instant,
    /// End of the block with everything that was sent.
    pub end: u64,
    /// It was told to end the block and has not done so yet.
    pub finishing: bool,
    /// The block as it is, once it has a pipeline; its length is acknowledged.
    pub block: Option<Block>,
    /// Storages of the pipeline's members.
    pub storages: Vec<String>,
    /// What the namenode was told of it.
    pub recorded: Option<Block>,
    /// What the namenode has of it on its disk.
    pub kept: Option<Block>,
    /// The namenode does not know it any more: it only has to end.
    pub forgotten: bool,
}

impl WriterHandle {
    /// Whether something is not on disk on all members, for all that is known.
    pub(super) fn is_unsynced(&self) -> bool {
        self.data_id > self.synced_id
    }

    /// Whether all that the namenode does not know of it is how far it has grown, and the replicas would tell that: the namenode
    /// has on its disk under which stamp it is being written, and that there is something in it.
    fn only_grows(&self) -> bool {
        let same = |now: Block, kept: Block| {
            (now.id, now.generation_stamp) == (kept.id, kept.generation_stamp) && kept.length > 0
        };
        self.block == self.recorded
            || self.block.zip(self.kept).is_some_and(|(block, kept)| same(block, kept))
    }

    /// Whether a packet that puts everything on disk has been sent.
    pub(super) fn is_syncing(&self) -> bool {
        self.sync_id > self.synced_id && self.sync_id >= self.data_id
    }
}

/// Everything on its way.
#[derive(Default)]
pub(super) struct WriteState {
    pub dirty: DirtyBuffer,
    pub in_flight: BTreeMap<u64, InFlight>,
    /// Id of the last packet.
    pub last_id: u64,
    /// By index of the block.
    pub writers: BTreeMap<u64, WriterHandle>,
    /// Blocks that are ended and of which the namenode was not told yet.
    pub finished: BTreeMap<u64, FinishedBlock>,
    /// Ended blocks that the namenode was told of, but may lose again. At most as many as the file has.
    pub told: BTreeMap<u64, FinishedBlock>,
    /// Blocks that were ended and may not be on disk.
    pub unsynced: BTreeMap<u64, FinishedBlock>,
    /// First block, allocated when the file was created.
    pub prepared: Option<LocatedBlock>,
    /// Flushes under way: they tell the namenode of ended blocks.
    pub flushes: usize,
    pub sync_habit: SyncHabit,
}

/// Whether each write is followed by a sync. Then it may as well be put on disk at once: the sync finds that half done.
#[derive(Debug, Default)]
pub(super) struct SyncHabit {
    /// Writes since the last sync.
    writes: u32,
    /// There was one between the last two syncs.
    single: bool,
}

impl SyncHabit {
    /// Something is written. True if a sync will follow, for all that is known.
    pub(super) fn written(&mut self) -> bool {
        self.writes = self.writes.saturating_add(1);
        self.single && self.writes == 1
    }

    /// A sync is asked for. One without a write before it tells nothing.
    pub(super) fn synced(&mut self) {
        if self.writes > 0 {
            self.single = self.writes == 1;
        }
        self.writes = 0;
    }
}

impl WriteState {
    /// Nothing is to be written, or being written.
    pub(super) fn is_idle(&self) -> bool {
        self.dirty.is_empty() && self.in_flight.is_empty() && self.writers.is_empty()
    }

    /// The file has no blocks from index `kept` on any more; all writers there have ended.
    pub(super) fn cut(&mut self, kept: u64) {
        drop(self.finished.split_off(&kept));
        drop(self.unsynced.split_off(&kept));
        drop(self.told.split_off(&kept));
        if kept == 0 {
            self.prepared = None;
        }
    }

    /// Whether the replicas would tell everything about blocks that the namenode does not know.
    pub(super) fn only_grows(&self) -> bool {
        self.finished.is_empty() && self.writers.values().all(WriterHandle::only_grows)
    }

    /// Where the last of the blocks that are being written ends in the file.
    pub(super) fn end_of_writers(&self, block_size: u64) -> u64 {
        let end = |(index, writer): (&u64, &WriterHandle)| {
            writer.block.map_or(0, |block| index * block_size + block.length)
        };
        self.writers.iter().map(end).max().unwrap_or(0)
    }

    /// Every packet up to `id` is acknowledged.
    pub(super) fn is_acknowledged(&self, id: u64) -> bool {
        self.in_flight.first_key_value().is_none_or(|(first, _)| *first > id)
    }

    /// A packet's id.
    pub(super) fn take_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// What lies over the replicas' content in a range, oldest first.
    pub(super) fn overlay(&self, range: Range<u64>) -> Vec<Layer> {
        let mut layers = Vec::new();
        for packet in self.in_flight.values() {
            let of = packet.range();
            let (from, until) = (of.start.max(range.start), of.end.min(range.end));
            if from >= until {
                continue;
            }
            layers.push(match &packet.content {
                Content::Data(data) => {
                    let data = data.slice((from - of.start) as usize..(until - of.start) as usize);
                    Layer { range: from..until, data: Some(data) }
                }
                Content::Zeros(_) | Content::Marker => Layer { range: from..until, data: None },
            });
        }
        for (from, data) in self.dirty.overlay(range) {
            layers.push(Layer { range: from..from + data.len() as u64, data: Some(data) });
        }
        layers
    }
}

/// Bytes that replace what is below; without data they are zeros.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub range: Range<u64>,
    pub data: Option<Bytes>,
}

/// Data for one block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BlockPart {
    pub index: u64,
    /// First byte, in the block.
    pub offset: u64,
    pub data: Bytes,
}

/// Cuts pieces of a file, in order and not overlapping, into packets: each lies in one block and in one unit of the file, and
/// has all bytes that follow each other there. Only what has to be joined is copied.
pub(super) fn cut_into_packets(pieces: Vec<(u64, Bytes)>, block_size: u64) -> Vec<BlockPart> {
    let mut parts: Vec<BlockPart> = Vec::new();
    let mut joined = BytesMut::new();
    for (mut at, mut data) in pieces {
        while !data.is_empty() {
            let in_block = at % block_size;
            let room = (UNIT_BYTES - at % UNIT_BYTES).min(block_size - in_block).min(data.len() as u64);
            let part = data.split_to(room as usize);
            let index = at / block_size;
            let follows = parts.last().is_some_and(|last| {
                let len = if joined.is_empty() { last.data.len() } else { joined.len() } as u64;
                last.index == index && last.offset + len == in_block && at % UNIT_BYTES != 0
            });
            match parts.last_mut() {
                Some(last) if follows => {
                    if joined.is_empty() {
                        joined.reserve(UNIT_BYTES as usize);
                        joined.extend_from_slice(&last.data);
                        last.data = Bytes::new();
                    }
                    joined.extend_from_slice(&part);
                }
                last => {
                    if let Some(last) = last.filter(|_| !joined.is_empty()) {
                        last.data = std::mem::take(&mut joined).freeze();
                    }
                    parts.push(BlockPart { index, offset: in_block, data: part });
                }
            }
            at += room;
        }
    }
    if let Some(last) = parts.last_mut().filter(|_| !joined.is_empty()) {
        last.data = joined.freeze();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn shape(parts: &[BlockPart]) -> Vec<(u64, u64, usize)> {
        parts.iter().map(|part| (part.index, part.offset, part.data.len())).collect()
    }

    #[test]
    fn packets_stay_in_their_block_and_join_what_is_adjacent() {
        let piece = |at: u64, len: u64| (at, Bytes::from(vec![(at % 251) as u8; len as usize]));
        let block = 2 * MIB;
        let parts = cut_into_packets(vec![piece(0, 10), piece(10, 20), piece(40, 5)], block);
        assert_eq!(shape(&parts), [(0, 0, 30), (0, 40, 5)]);
        assert_eq!(parts[0].data[..], [vec![0u8; 10], vec![10u8; 20]].concat());
        let parts = cut_into_packets(vec![piece(MIB - 5, 10), piece(2 * MIB - 1, 4)], block);
        assert_eq!(shape(&parts), [(0, MIB - 5, 5), (0, MIB, 5), (0, 2 * MIB - 1, 1), (1, 0, 3)]);
        let parts = cut_into_packets(vec![piece(0, 3), piece(3, 4), piece(7, MIB)], 4096);
        assert_eq!(parts.len(), 257);
        assert_eq!(parts.iter().map(|part| part.data.len() as u64).sum::<u64>(), MIB + 7);
        assert!(parts.iter().all(|part| part.offset + part.data.len() as u64 <= 4096));
        assert!(cut_into_packets(Vec::new(), 4096).is_empty());
    }

    #[test]
    fn a_sync_is_expected_while_each_follows_one_write() {
        let mut habit = SyncHabit::default();
        assert!(!habit.written());
        habit.synced();
        assert!(habit.written());
        habit.synced();
        habit.synced();
        assert!(habit.written() && !habit.written());
        habit.synced();
        assert!(!habit.written(), "two writes were synced together");
        habit.synced();
        assert!(habit.written());
    }

    #[test]
    fn later_packets_lie_over_earlier_ones_and_dirty_bytes_over_all() {
        let mut state = WriteState::default();
        let data = Bytes::from_static(b"abcdef");
        for (offset, content) in [(10, Content::Data(data)), (12, Content::Zeros(2)), (0, Content::Marker)] {
            let id = state.take_id();
            state.in_flight.insert(id, InFlight { index: 0, offset, content });
        }
        state.dirty.insert(13, Bytes::from_static(b"Z"));
        let layers: Vec<_> = state.overlay(11..14).into_iter().map(|l| (l.range, l.data)).collect();
        assert_eq!(
            layers,
            [
                (11..14, Some(Bytes::from_static(b"bcd"))),
                (12..14, None),
                (13..14, Some(Bytes::from_static(b"Z")))
            ]
        );
        assert!(!state.is_acknowledged(1) && state.is_acknowledged(0) && !state.is_idle());
    }
}
