//! What a log's files hold: reading and verifying all of them, as a start and a check do.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use openraft::EntryPayload;

use super::catalog::{self, Segment};
use super::durable_file;
use super::error::{ConsensusError, Damage};
use super::raft_types::{Entry, Membership};
use super::record::{self, Kind};
use super::segment::{self, EntryId};

/// What the files of a log hold.
#[derive(Debug)]
pub struct Found {
    /// The segments, without the torn end.
    pub segments: Vec<Segment>,
    /// Segments of a log that a snapshot replaced.
    pub stale: Vec<Segment>,
    /// Bytes behind the last whole record.
    pub torn_bytes: u64,
    /// Last entry, or the one before the first.
    pub last: Option<EntryId>,
    /// The last membership in the log.
    pub membership: Option<Membership>,
    /// The last entries, as many as fit the given bound.
    pub tail: Vec<Entry>,
}

/// Reads all segments in `dir`, verifies every record, and changes nothing. Refuses damage of what was acknowledged, and a
/// log that begins after `state_next`.
pub fn read_files(dir: &Path, tail_bytes: usize, state_next: u64) -> Result<Found, ConsensusError> {
    let firsts = list(dir)?;
    let mut segments: Vec<Segment> = Vec::new();
    let mut stale: Vec<Segment> = Vec::new();
    let mut tail: Vec<Entry> = Vec::new();
    let mut last = None;
    let mut membership = None;
    let mut torn_bytes = 0;
    for (position, first) in firsts.iter().enumerate() {
        let path = dir.join(segment::file_name(*first));
        let bytes = fs::read(&path).map_err(|error| ConsensusError::io(&path, "read", error))?;
        let damaged = |offset: usize, reason| ConsensusError::Damaged {
            path: path.clone(),
            offset: offset as u64,
            reason,
        };
        let header = segment::Header::decode(&bytes, *first).map_err(|reason| damaged(0, reason))?;
        if segments.last().is_some_and(|before| before.next != *first) {
            // The rest of a log that a snapshot replaced; the new log begins here.
            stale.append(&mut segments);
            tail.clear();
        }
        let scan =
            segment::scan(&bytes, &header).map_err(|refused| damaged(refused.offset, refused.reason))?;
        if let Some(reason) = scan.tail {
            if position + 1 < firsts.len() {
                return Err(damaged(scan.end, reason));
            }
            torn_bytes = (bytes.len() - scan.end) as u64;
        }
        let mut segment = Segment {
            path: path.clone(),
            previous: header.previous,
            first: *first,
            next: *first,
            offsets: Vec::new(),
            bytes: scan.end as u64,
        };
        last = header.previous;
        for found in &scan.entries {
            segment.note(found.offset as u64);
            last = Some(found.id);
        }
        if let Some(found) = scan.entries.iter().rfind(|found| found.kind == Kind::Membership) {
            let entry = record::decode(&bytes[found.offset..]).and_then(|record| catalog::entry(&record));
            if let EntryPayload::Membership(set) =
                entry.map_err(|reason| damaged(found.offset, reason))?.payload
            {
                membership = Some(set);
            }
        }
        append_tail(&bytes, &scan, tail_bytes, &mut tail)
            .map_err(|(offset, reason)| damaged(offset, reason))?;
        segments.push(segment);
    }
    if let Some(begin) = segments.first().filter(|begin| begin.first > state_next) {
        let path = begin.path.clone();
        return Err(ConsensusError::Gap { path, log_begins: begin.first, state_ends: state_next });
    }
    Ok(Found { segments, stale, torn_bytes, last, membership, tail })
}

/// First indexes of the segments in `dir`, sorted.
pub fn list(dir: &Path) -> Result<Vec<u64>, ConsensusError> {
    let mut firsts: Vec<u64> =
        names(dir)?.iter().filter_map(|name| segment::parse_file_name(name.to_str()?)).collect();
    firsts.sort_unstable();
    Ok(firsts)
}

/// Deletes files that were being written aside.
pub fn remove_asides(dir: &Path) -> Result<(), ConsensusError> {
    for name in names(dir)? {
        let path = dir.join(name);
        if path.extension().is_some_and(|ending| ending == durable_file::ASIDE_ENDING) {
            durable_file::remove(&path)?;
        }
    }
    Ok(())
}

fn names(dir: &Path) -> Result<Vec<OsString>, ConsensusError> {
    let listed = fs::read_dir(dir).and_then(|items| items.map(|item| Ok(item?.file_name())).collect());
    listed.map_err(|error| ConsensusError::io(dir, "list", error))
}

/// Adds the entries of a segment to `tail`, which holds the last entries up to a size.
fn append_tail(
    bytes: &[u8],
    scan: &segment::Scan,
    tail_bytes: usize,
    tail: &mut Vec<Entry>,
) -> Result<(), (usize, Damage)> {
    let begin = scan.end.saturating_sub(tail_bytes);
    let kept = scan.entries.partition_point(|found| found.offset < begin);
    if kept > 0 {
        tail.clear();
    }
    for found in &scan.entries[kept..] {
        let damaged = |reason| (found.offset, reason);
        let record = record::decode(&bytes[found.offset..]).map_err(damaged)?;
        tail.push(catalog::entry(&record).map_err(damaged)?);
    }
    Ok(())
}
