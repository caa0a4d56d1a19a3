//! The task of a stream: fetches what is wanted.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dfs_proto::v1::LocatedBlock;
use tokio::time::timeout;

use super::{IDLE_END, Piece, Stream};
use crate::block_reader::{BlockReader, READ_PIECE_BYTES};
use crate::datanode;
use crate::fs::open_file::FileCore;
use crate::fs::read_table::length;
use crate::hedge::{Raced, race};
use crate::read_times::ReadKind;
use crate::replica_reads::patience;

/// What a hole is read from.
static ZEROS: [u8; READ_PIECE_BYTES] = [0; READ_PIECE_BYTES];

/// First range asked of a replica; doubled with each. A short visit wastes little, and a long one asks once a block.
const FIRST_RANGE: u64 = 1 << 20;

/// Longest range asked: no block is larger.
const MAX_RANGE: u64 = 4 << 30;

/// A read operation on a datanode.
struct Open {
    reader: BlockReader,
    uuid: String,
    row: Arc<LocatedBlock>,
    /// There is another replica that was not slow lately.
    hurried: bool,
}

/// Fetches until the stream ends: by itself when its reader stays away, at the file's end, or when no replica can be read.
pub(super) async fn run(file: Arc<FileCore>, stream: Arc<Stream>) {
    let mut open: Option<Open> = None;
    let mut range = FIRST_RANGE;
    // A replica that was left off in mid-block is a good choice for the next.
    let mut last_used = String::new();
    while let Some(at) = next_wanted(&stream).await {
        let fetched = fetch(&file, at, &mut open, &mut range, &mut last_used).await;
        let Some(data) = fetched.filter(|data| !data.is_empty()) else { break };
        let charged = if stream.fs.budget.try_take(data.len()) { data.len() } else { 0 };
        let mut state = stream.state();
        if state.ended {
            drop(state);
            stream.fs.budget.give(charged);
            break;
        }
        if charged == 0 {
            // Memory is short: no further ahead than what is asked for.
            state.window = 0;
        }
        state.fetched = at + data.len() as u64;
        state.pieces.insert(at, Piece { data, charged });
        drop(state);
        stream.arrived.notify_waiters();
    }
    stream.end();
}

/// Where to fetch next, once that is wanted; none when the stream has ended or is idle.
async fn next_wanted(stream: &Stream) -> Option<u64> {
    loop {
        {
            let state = stream.state();
            if state.ended {
                return None;
            }
            if state.fetched < state.end.min(state.asked + state.window) {
                return Some(state.fetched);
            }
        }
        if timeout(IDLE_END, stream.wanted.notified()).await.is_err() {
            return None;
        }
    }
}

/// The next piece at `at`; none if no replica can be read: the readers find out what to do about it.
async fn fetch(
    file: &Arc<FileCore>,
    at: u64,
    open: &mut Option<Open>,
    range: &mut u64,
    last_used: &mut String,
) -> Option<Bytes> {
    let pool = &file.fs.client.read_buffers;
    let mut failed = HashSet::new();
    loop {
        if let Some(mut current) = open.take() {
            let client = &file.fs.client;
            let patience = current.hurried.then(|| client.times.patience(&current.uuid, ReadKind::Piece));
            let (began, uuid, row) = (Instant::now(), current.uuid.clone(), Arc::clone(&current.row));
            let first = async {
                let outcome = current.reader.next_bytes(pool).await;
                outcome.map(|data| (current, data))
            };
            let second = second(file, &row, at, *range, &failed, &uuid);
            match race(first, patience, &client.times, second).await {
                Raced::First(Ok((current, Some(data)))) => {
                    client.note_read(&uuid, ReadKind::Piece, began.elapsed());
                    *open = Some(current);
                    finish_if_done(file, open).await;
                    return Some(data);
                }
                Raced::First(Ok((_, None))) => {}
                Raced::First(Err(fault)) => {
                    tracing::debug!(file = %file.subject, datanode = %uuid, %fault, "stream broke");
                    failed.insert(uuid);
                }
                Raced::Second((other, data), _) => {
                    tracing::debug!(file = %file.subject, datanode = %uuid, "stream late, another one was asked");
                    client.note_lost(&uuid);
                    last_used.clone_from(&other.uuid);
                    *open = Some(other);
                    finish_if_done(file, open).await;
                    return Some(data);
                }
            }
            continue;
        }
        let index = at / file.block_size;
        let start = index * file.block_size;
        let row = file.row(index).await.ok()?;
        let in_block = at - start;
        let Some(row) = row.filter(|row| length(row) > in_block) else {
            let size = file.state().size;
            let end = (start + file.block_size).min(size);
            let len = end.saturating_sub(at).min(ZEROS.len() as u64);
            return Some(Bytes::from_static(&ZEROS[..len as usize]));
        };
        let (location, hurried) = file.choose_preferring(&row, &failed, last_used)?;
        let end = length(&row).min(in_block + *range);
        let patience = patience(&file.fs.client.config, hurried);
        let uuid = datanode::uuid(&location).to_owned();
        match file.open_reader(&row, &location, patience, in_block..end).await {
            Ok(reader) => {
                *range = (*range * 2).min(MAX_RANGE);
                last_used.clone_from(&uuid);
                *open = Some(Open { reader, uuid, row, hurried });
            }
            Err(fault) => {
                tracing::debug!(file = %file.subject, datanode = %uuid, %fault, "no stream");
                failed.insert(uuid);
            }
        }
    }
}

/// The next piece from another datanode than `except`, which is late.
async fn second(
    file: &FileCore,
    row: &Arc<LocatedBlock>,
    at: u64,
    range: u64,
    failed: &HashSet<String>,
    except: &str,
) -> Option<(Open, Bytes)> {
    let location = file.choose_other(row, failed, except)?;
    let in_block = at - at / file.block_size * file.block_size;
    let end = length(row).min(in_block + range);
    let patience = patience(&file.fs.client.config, true);
    let mut reader = file.open_reader(row, &location, patience, in_block..end).await.ok()?;
    let data = reader.next_bytes(&file.fs.client.read_buffers).await.ok()??;
    let uuid = datanode::uuid(&location).to_owned();
    Some((Open { reader, uuid, row: Arc::clone(row), hurried: true }, data))
}

/// Ends an operation whose range was read whole and keeps its connection.
async fn finish_if_done(file: &FileCore, open: &mut Option<Open>) {
    let Some(done) = open.take_if(|open| open.reader.is_done()) else { return };
    match done.reader.finish().await {
        Ok(connection) => file.fs.client.peers.put(connection),
        Err(fault) => tracing::debug!(file = %file.subject, %fault, "read did not end cleanly"),
    }
}
