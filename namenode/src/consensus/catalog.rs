//! Which segments of the log there are, and reading entries back from them.
//!
//! Written by the log thread, read by the log reader thread. The catalog describes only bytes that were
//! written; a segment that it no longer lists may be deleted at any moment.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::{ConsensusError, Damage};
use super::raft_types::{self, Entry};
use super::record::{self, Kind};
use super::segment::{self, EntryId};

/// One in so many entries has its offset remembered; to read another one, at most as many records are
/// skipped.
const INDEX_STRIDE: u64 = 64;

/// A segment as readers see it.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its file.
    pub path: PathBuf,
    /// Entry before the first one.
    pub previous: Option<EntryId>,
    /// First index.
    pub first: u64,
    /// Index after the last entry.
    pub next: u64,
    /// Offset of every [`INDEX_STRIDE`]th entry.
    pub offsets: Vec<u64>,
    /// Bytes written.
    pub bytes: u64,
}

impl Segment {
    /// Notes that the next entry is at `offset`.
    pub fn note(&mut self, offset: u64) {
        if (self.next - self.first).is_multiple_of(INDEX_STRIDE) {
            self.offsets.push(offset);
        }
        self.next += 1;
    }
}

/// The segments, for readers.
#[derive(Debug, Default)]
pub struct Catalog {
    segments: Mutex<Vec<Segment>>,
}

impl Catalog {
    fn lock(&self) -> MutexGuard<'_, Vec<Segment>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A catalog of `segments`, which are consecutive.
    pub fn new(segments: Vec<Segment>) -> Self {
        Self { segments: Mutex::new(segments) }
    }

    /// Adds a segment.
    pub fn push(&self, segment: Segment) {
        self.lock().push(segment);
    }

    /// The last segment.
    pub fn last(&self) -> Option<Segment> {
        self.lock().last().cloned()
    }

    /// Replaces the last segment.
    pub fn replace_last(&self, segment: Segment) {
        if let Some(last) = self.lock().last_mut() {
            *last = segment;
        }
    }

    /// Notes entries written at `offsets` of the last segment, which now has `bytes`.
    pub fn extend_last(&self, offsets: impl Iterator<Item = u64>, bytes: u64) {
        if let Some(last) = self.lock().last_mut() {
            offsets.for_each(|offset| last.note(offset));
            last.bytes = bytes;
        }
    }

    /// Removes the last segment if it begins with `index` or later; the first segment stays.
    pub fn pop_from(&self, index: u64) -> Option<Segment> {
        let mut segments = self.lock();
        if segments.len() > 1 { segments.pop_if(|last| last.first >= index) } else { None }
    }

    /// Removes the first segment if it holds nothing after `index`; the last segment stays.
    pub fn pop_up_to(&self, index: u64) -> Option<Segment> {
        let mut segments = self.lock();
        match &segments[..] {
            [_, second, ..] if second.first <= index + 1 => Some(segments.remove(0)),
            _ => None,
        }
    }

    /// Removes all segments.
    pub fn take(&self) -> Vec<Segment> {
        std::mem::take(&mut *self.lock())
    }

    /// Reads the entries from `start` to before `end` that exist, at most `bytes_max` of payload but at
    /// least one entry if there is one. Blocks on the disk.
    pub fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, ConsensusError> {
        let mut entries = Vec::new();
        let (mut next, mut bytes_left) = (start, bytes_max);
        while next < end && (entries.is_empty() || bytes_left > 0) {
            let found = self.lock().iter().find(|s| s.first <= next && next < s.next).cloned();
            let Some(segment) = found else { break };
            let before = entries.len();
            read_segment(&segment, next, end, &mut bytes_left, &mut entries)?;
            if entries.len() == before {
                break;
            }
            next += (entries.len() - before) as u64;
        }
        Ok(entries)
    }
}

/// Reads on from one segment; stops at its end.
fn read_segment(
    segment: &Segment,
    start: u64,
    end: u64,
    bytes_left: &mut usize,
    entries: &mut Vec<Entry>,
) -> Result<(), ConsensusError> {
    let file = match File::open(&segment.path) {
        Ok(file) => file,
        // Purged meanwhile: its entries do not exist any more.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ConsensusError::io(&segment.path, "open", error)),
    };
    let stride = usize::try_from((start - segment.first) / INDEX_STRIDE).unwrap_or(usize::MAX);
    let mut offset = segment.offsets.get(stride).copied().unwrap_or(segment::HEADER_BYTES as u64);
    let mut header = [0; record::HEADER_BYTES];
    let mut buffer = Vec::new();
    while offset < segment.bytes {
        let read = |buffer: &mut [u8], offset| {
            file.read_exact_at(buffer, offset)
                .map_err(|error| ConsensusError::io(&segment.path, "read", error))
        };
        let at = offset;
        let damaged = |reason| ConsensusError::Damaged { path: segment.path.clone(), offset: at, reason };
        read(&mut header, offset)?;
        let payload = record::u32_at(&header, 8) as usize;
        if payload > record::PAYLOAD_BYTES_MAX {
            return Err(damaged(Damage::Length(record::u32_at(&header, 8))));
        }
        buffer.clear();
        buffer.extend_from_slice(&header);
        buffer.resize(record::HEADER_BYTES + payload, 0);
        read(&mut buffer[record::HEADER_BYTES..], offset + record::HEADER_BYTES as u64)?;
        let record = record::decode(&buffer).map_err(damaged)?;
        offset += record.size() as u64;
        if record.header.kind == Kind::SyncMark || record.header.index < start {
            continue;
        }
        if record.header.index >= end || (*bytes_left == 0 && !entries.is_empty()) {
            return Ok(());
        }
        entries.push(entry(&record).map_err(damaged)?);
        *bytes_left = bytes_left.saturating_sub(payload);
    }
    Ok(())
}

/// Decodes the entry of a record that is no sync mark.
pub fn entry(record: &record::Record<'_>) -> Result<Entry, Damage> {
    let header = record.header;
    let id = EntryId { term: header.term, node_id: header.node_id, index: header.index };
    let payload = raft_types::decode_payload(header.kind, record.payload)?;
    Ok(Entry { log_id: raft_types::log_id(id), payload })
}
