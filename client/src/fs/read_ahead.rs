//! Reads ahead of readers in sequence.
//!
//! A read that goes on where an earlier one ended starts a *stream*: a task that keeps one read operation open on a replica and
//! fetches pieces ahead of what was asked for, by a window that grows while the reader keeps coming. Reads of one sequence may
//! come a little out of order and at the same time, as a kernel's do.
//!
//! Invariants: a stream begins only when nothing of the file is dirty or on its way, and every write ends all streams, so
//! that what a stream holds is what the replicas have; what a stream cannot get, its readers get without it; read-ahead takes
//! only memory of the session's that is free.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::file_system::FsInner;
use super::files_ahead::Arrival;
use super::open_file::FileCore;

mod fetch;

/// Streams of one file: more readers in sequence at a time are rare.
const MAX_STREAMS: usize = 8;

/// Ends of reads remembered, where a sequence might go on.
const MAX_ENDS: usize = 32;

/// Read ahead at first.
const FIRST_WINDOW: u64 = 1 << 20;

/// Read ahead at most: what a fast network delivers while a reader is not scheduled.
const MAX_WINDOW: u64 = 8 << 20;

/// Bytes kept behind the furthest read: reads of a sequence overtake each other by this much at most.
const KEPT_BEHIND: u64 = 2 << 20;

/// Idle time after which a stream ends and gives its connection back.
const IDLE_END: Duration = Duration::from_secs(2);

/// The streams of one file.
#[derive(Default)]
pub(super) struct ReadStreams {
    state: Mutex<Sequences>,
    /// There is a stream, or the whole file: writers look here first.
    any: AtomicBool,
}

#[derive(Default)]
struct Sequences {
    /// The whole file, fetched before it was opened.
    whole: Option<Arrival>,
    streams: Vec<Arc<Stream>>,
    ends: VecDeque<u64>,
}

/// One reader in sequence.
pub(super) struct Stream {
    fs: Arc<FsInner>,
    state: Mutex<StreamState>,
    /// A piece came, or the stream ended.
    arrived: Notify,
    /// More is wanted, or the stream ended.
    wanted: Notify,
}

struct StreamState {
    /// What was fetched and is kept, without gaps up to `fetched`.
    pieces: BTreeMap<u64, Piece>,
    fetched: u64,
    /// End of the furthest read.
    asked: u64,
    window: u64,
    /// End of the file when the stream began.
    end: u64,
    ended: bool,
}

struct Piece {
    data: Bytes,
    /// Bytes taken from the session's memory for it.
    charged: usize,
}

impl ReadStreams {
    fn lock(&self) -> MutexGuard<'_, Sequences> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all streams: the file is being written.
    pub(super) fn clear(&self) {
        if self.any.swap(false, Ordering::AcqRel) {
            let mut sequences = self.lock();
            sequences.whole = None;
            for stream in sequences.streams.drain(..) {
                stream.end();
            }
        }
    }

    /// The whole file was fetched before it was opened. Called under the lock of the file's state.
    pub(super) fn set_whole(&self, whole: Arrival) {
        self.lock().whole = Some(whole);
        self.any.store(true, Ordering::Release);
    }

    /// The whole file, here or on its way.
    pub(super) fn whole(&self) -> Option<Arrival> {
        if self.any.load(Ordering::Acquire) { self.lock().whole.clone() } else { None }
    }

    /// The stream that a read belongs to.
    fn find(&self, range: &Range<u64>) -> Option<Arc<Stream>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let mut sequences = self.lock();
        sequences.streams.retain(|stream| !stream.state().ended);
        sequences.streams.iter().find(|stream| stream.covers(range)).cloned()
    }

    /// Notes a read that no stream serves. True if it goes on where another one ended.
    fn note(&self, range: &Range<u64>) -> bool {
        let mut sequences = self.lock();
        let known = sequences.ends.iter().position(|end| *end == range.start);
        if let Some(known) = known {
            sequences.ends.remove(known);
        } else if sequences.ends.len() == MAX_ENDS {
            sequences.ends.pop_front();
        }
        sequences.ends.push_back(range.end);
        known.is_some()
    }

    fn add(&self, stream: &Arc<Stream>) {
        let mut sequences = self.lock();
        if sequences.streams.len() == MAX_STREAMS {
            sequences.streams.remove(0).end();
        }
        sequences.streams.push(Arc::clone(stream));
        self.any.store(true, Ordering::Release);
    }
}

impl Stream {
    fn state(&self) -> MutexGuard<'_, StreamState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn covers(&self, range: &Range<u64>) -> bool {
        let state = self.state();
        let first = state.pieces.first_key_value().map_or(state.fetched, |(at, _)| *at);
        !state.ended
            && range.start >= first
            && range.start <= state.asked.max(state.fetched) + KEPT_BEHIND
            && range.end <= state.end
    }

    fn end(&self) {
        let charged = {
            let mut state = self.state();
            state.ended = true;
            std::mem::take(&mut state.pieces).into_values().map(|piece| piece.charged).sum()
        };
        self.fs.budget.give(charged);
        self.arrived.notify_waiters();
        self.wanted.notify_one();
    }

    /// The bytes of a range, as soon as they have come; none if the stream cannot serve them.
    async fn take(&self, range: &Range<u64>) -> Option<Bytes> {
        {
            let mut state = self.state();
            if range.end > state.asked {
                state.asked = range.end;
                if state.asked + state.window / 2 > state.fetched {
                    state.window = (state.window * 2).min(MAX_WINDOW);
                }
            }
        }
        self.wanted.notify_one();
        loop {
            let arrived = self.arrived.notified();
            {
                let mut state = self.state();
                if state.fetched >= range.end || state.ended {
                    let bytes = state.bytes(range);
                    let freed = state.forget_passed();
                    drop(state);
                    self.fs.budget.give(freed);
                    return bytes;
                }
            }
            arrived.await;
        }
    }
}

impl StreamState {
    fn bytes(&self, range: &Range<u64>) -> Option<Bytes> {
        let (first, piece) = self.pieces.range(..=range.start).next_back()?;
        let (from, until) = (range.start - first, range.end - first);
        if until <= piece.data.len() as u64 {
            return Some(piece.data.slice(from as usize..until as usize));
        }
        let mut bytes = BytesMut::with_capacity((range.end - range.start) as usize);
        for (at, piece) in self.pieces.range(*first..range.end) {
            let from = range.start.max(*at) - at;
            let until = (range.end - at).min(piece.data.len() as u64);
            if from > until {
                return None;
            }
            bytes.extend_from_slice(&piece.data[from as usize..until as usize]);
        }
        (bytes.len() as u64 == range.end - range.start).then(|| bytes.freeze())
    }

    /// Drops what lies far behind; tells how much memory that frees.
    fn forget_passed(&mut self) -> usize {
        let behind = self.asked.saturating_sub(KEPT_BEHIND);
        let mut freed = 0;
        while let Some(entry) = self.pieces.first_entry()
            && entry.key() + entry.get().data.len() as u64 <= behind
        {
            freed += entry.remove().charged;
        }
        freed
    }
}

impl FileCore {
    /// A part of the file if all of it was fetched before it was opened.
    pub(super) async fn read_from_whole(&self, range: &Range<u64>) -> Option<Bytes> {
        let content = self.streams.whole()?.content().await?;
        (range.end <= content.len() as u64).then(|| content.slice(range.start as usize..range.end as usize))
    }

    /// A part of the file from a stream; none if there is none for it.
    pub(super) async fn read_from_stream(self: &Arc<Self>, range: &Range<u64>) -> Option<Bytes> {
        let stream = match self.streams.find(range) {
            Some(stream) => stream,
            None if self.streams.note(range) => self.start_stream(range)?,
            None => return None,
        };
        stream.take(range).await
    }

    fn start_stream(self: &Arc<Self>, range: &Range<u64>) -> Option<Arc<Stream>> {
        // Under this lock nobody writes, and who writes later ends the stream.
        let state = self.state();
        if !state.write.dirty.is_empty() || !state.write.in_flight.is_empty() || range.end >= state.size {
            return None;
        }
        let stream = Arc::new(Stream {
            fs: Arc::clone(&self.fs),
            state: Mutex::new(StreamState {
                pieces: BTreeMap::new(),
                fetched: range.start,
                asked: range.start,
                window: FIRST_WINDOW,
                end: state.size,
                ended: false,
            }),
            arrived: Notify::new(),
            wanted: Notify::new(),
        });
        self.streams.add(&stream);
        self.fs.spawn(fetch::run(Arc::clone(self), Arc::clone(&stream)));
        Some(stream)
    }
}
