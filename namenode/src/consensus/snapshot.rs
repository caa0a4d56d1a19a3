//! Snapshots: the state as a stream of rows, for a follower that lags behind the log.
//!
//! The sender reads a redb read transaction on the thread `raft-snapshot-send`; the receiver fills a
//! fresh store on the thread `raft-snapshot-recv`. Between them stand bounded channels, so neither holds
//! more than a few parts whatever the size of the state.

use std::ops::Bound;
use std::path::PathBuf;

use redb::ReadTransaction;
use tokio::sync::{mpsc, oneshot};

use super::error::ConsensusError;
use super::health::Health;
use super::raft_types::SnapshotMeta;
use super::state_store::{Position, ReceivedStore};
use super::threads::spawn;
use crate::log::raft_snapshot_part::Part;
use crate::log::{RaftSnapshotEnd, RaftSnapshotPart, RaftSnapshotRows};
use crate::namesystem::Table;

/// Rows in one message, in bytes: large enough to be efficient, small enough that a few fit in memory.
const PART_BYTES: usize = 256 << 10;

/// Parts between network and disk.
pub const PARTS_MAX: usize = 4;

/// What openraft calls the data of a snapshot.
pub enum SnapshotSource {
    /// None: the snapshot only names a checkpoint.
    Checkpoint,
    /// The state as it was.
    Current(Box<ReadTransaction>),
    /// A complete received store.
    Received(PathBuf),
}

/// A snapshot that was received, ready to be installed.
#[derive(Debug)]
pub struct ReceivedSnapshot {
    /// The store.
    pub path: PathBuf,
    /// What it is.
    pub meta: SnapshotMeta,
}

/// Starts the thread that turns `txn` into parts. The last part is [`Part::End`]; a stream that ends
/// without it is incomplete.
pub fn send(
    txn: ReadTransaction,
    store: PathBuf,
    health: Health,
) -> Result<mpsc::Receiver<RaftSnapshotPart>, ConsensusError> {
    let guard = health.clone();
    let (parts, receiver) = mpsc::channel(PARTS_MAX);
    let body = move || {
        if let Err(error) = send_rows(&txn, &parts) {
            health.fail(ConsensusError::store(store, error));
        }
    };
    spawn("raft-snapshot-send", &guard, body)?;
    Ok(receiver)
}

fn send_rows(txn: &ReadTransaction, parts: &mpsc::Sender<RaftSnapshotPart>) -> Result<(), redb::Error> {
    let mut rows = 0;
    for table in Table::ALL {
        let open = match txn.open_table(table.definition()) {
            Ok(open) => open,
            Err(redb::TableError::TableDoesNotExist(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        let mut part = RaftSnapshotRows { table: table.name().to_owned(), ..Default::default() };
        let mut bytes = 0;
        let all: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Unbounded);
        for row in open.range::<&[u8]>(all)? {
            let (key, value) = row?;
            bytes += key.value().len() + value.value().len();
            part.keys.push(key.value().to_vec());
            part.values.push(value.value().to_vec());
            rows += 1;
            if bytes >= PART_BYTES {
                let next = RaftSnapshotRows { table: table.name().to_owned(), ..Default::default() };
                if !send_part(parts, Part::Rows(std::mem::replace(&mut part, next))) {
                    return Ok(());
                }
                bytes = 0;
            }
        }
        if !part.keys.is_empty() && !send_part(parts, Part::Rows(part)) {
            return Ok(());
        }
    }
    send_part(parts, Part::End(RaftSnapshotEnd { rows }));
    Ok(())
}

/// False if nobody receives any more.
fn send_part(parts: &mpsc::Sender<RaftSnapshotPart>, part: Part) -> bool {
    parts.blocking_send(RaftSnapshotPart { part: Some(part) }).is_ok()
}

/// Why a snapshot was not received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The stream ended before its end, or holds what no sender of ours sends.
    #[error("incomplete or malformed snapshot stream")]
    Malformed,
    /// This node could not store it.
    #[error(transparent)]
    Store(#[from] ConsensusError),
}

/// Starts the thread that fills a store at `path` from parts, and answers its position.
pub fn receive(
    path: PathBuf,
    parts: mpsc::Receiver<RaftSnapshotPart>,
    health: &Health,
) -> Result<oneshot::Receiver<Result<Position, ReceiveError>>, ConsensusError> {
    let (done, answer) = oneshot::channel();
    let body = move || {
        let _ = done.send(receive_rows(path, parts));
    };
    spawn("raft-snapshot-recv", health, body)?;
    Ok(answer)
}

fn receive_rows(
    path: PathBuf,
    mut parts: mpsc::Receiver<RaftSnapshotPart>,
) -> Result<Position, ReceiveError> {
    let store = ReceivedStore::create(path)?;
    let mut count = 0;
    while let Some(part) = parts.blocking_recv() {
        match part.part {
            Some(Part::Rows(rows)) => {
                let table = Table::ALL.into_iter().find(|table| table.name() == rows.table);
                let Some(table) = table.filter(|_| rows.keys.len() == rows.values.len()) else {
                    return Err(ReceiveError::Malformed);
                };
                count += rows.keys.len() as u64;
                let pairs: Vec<(&[u8], &[u8])> =
                    rows.keys.iter().map(Vec::as_slice).zip(rows.values.iter().map(Vec::as_slice)).collect();
                store.insert(table, &pairs)?;
            }
            Some(Part::End(end)) if end.rows == count => return Ok(store.finish()?),
            Some(Part::End(_) | Part::Begin(_)) | None => return Err(ReceiveError::Malformed),
        }
    }
    Err(ReceiveError::Malformed)
}
