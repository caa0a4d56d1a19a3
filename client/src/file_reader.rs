//! Reading a file.
//!
//! A sequential reader has one read operation open on one datanode at a time; the socket's receive buffer is what
//! reads ahead while the caller works, so no task and no hand-off is needed. The operation's range starts at
//! [`FIRST_WINDOW_BYTES`] and doubles while reading goes on in sequence, so that a short visit wastes little and a
//! long one asks once a block.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};

use crate::block_map::{BlockMap, Extent};
use crate::block_reader::READ_PIECE_BYTES;
use crate::dfs_client::Inner;
use crate::hedged_reads::Part;
use crate::replica_reads::{Attempts, OpenReplica};
use crate::{DfsError, FileStatus, datanode};

/// Bytes asked for by the first read after opening or seeking.
const FIRST_WINDOW_BYTES: u64 = 1 << 20;

/// Largest window: no block is larger, so the block's end is the bound from then on.
const MAX_WINDOW_BYTES: u64 = 4 << 30;

/// A forward seek of at most this many bytes reads over them: cheaper than a new operation.
const MAX_SKIP_BYTES: u64 = 256 << 10;

/// What a hole reads as, a piece at a time.
static ZEROS: [u8; READ_PIECE_BYTES] = [0; READ_PIECE_BYTES];

/// An open file.
///
/// Reads sequentially as [`AsyncRead`] and [`AsyncSeek`] or, without a copy, by [`Self::chunk`]; reads anywhere, and
/// from several tasks at once, by [`Self::read_at`]. All data is verified against its checksums. When a datanode fails
/// or a replica is corrupt, the next replica is used; corrupt replicas are reported. When a datanode takes much longer than usual,
/// another one is asked for the same bytes, and the one that was late is left alone for a while; only the last one is waited for as long
/// as [`datanode_timeout`](crate::ClientBuilder::datanode_timeout) says.
///
/// Memory: 256 KiB and what the caller holds, and the kernel's socket buffer.
pub struct FileReader {
    map: Arc<BlockMap>,
    status: FileStatus,
    sequence: Option<Sequence>,
    /// A `poll_read` that is under way; it owns the sequence. The lock is never contended (only `get_mut` is used):
    /// it makes the reader `Sync`.
    polled: Option<Mutex<PolledChunk>>,
    /// Bytes read but not handed out.
    rest: Bytes,
    /// Offset of the next byte handed out.
    position: u64,
}

type PolledChunk = Pin<Box<dyn Future<Output = (Sequence, Result<Option<Bytes>, DfsError>)> + Send>>;

/// The sequential read: what is open, and how far it reads ahead.
struct Sequence {
    map: Arc<BlockMap>,
    len: u64,
    /// Offset of the next byte of the stream.
    next: u64,
    window: u64,
    open: Option<OpenReplica>,
    /// Datanode read from last: its connection has the kernel's full windows, a new one begins with small ones.
    in_use: String,
}

impl FileReader {
    pub(crate) async fn open(client: Arc<Inner>, path: &str) -> Result<Self, DfsError> {
        let (map, status) = BlockMap::open(client, path).await?;
        let map = Arc::new(map);
        Ok(Self { map, status, sequence: None, polled: None, rest: Bytes::new(), position: 0 })
    }

    /// Attributes as of opening. Of a file being written, `size` is what was visible then.
    pub fn status(&self) -> &FileStatus {
        &self.status
    }

    /// Bytes that can be read.
    pub fn len(&self) -> u64 {
        self.status.size
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Offset of the next sequential read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Moves the position; at and past the end there is nothing to read.
    pub fn seek_to(&mut self, position: u64) {
        let skipped = position.checked_sub(self.position).and_then(|n| usize::try_from(n).ok());
        match skipped {
            Some(skipped) if skipped <= self.rest.len() && self.polled.is_none() => {
                self.rest.advance(skipped)
            }
            _ => {
                self.rest = Bytes::new();
                self.polled = None;
            }
        }
        self.position = position;
    }

    /// Reads the next bytes without copying them: up to 256 KiB of verified data, `None` at the end of the file. Drop them
    /// before the next call if you can: then the next bytes go into the same memory, which is still in the processor's
    /// cache. If the call is cancelled, the position has not moved.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, DfsError> {
        if self.polled.is_some() {
            std::future::poll_fn(|cx| self.poll_fetch(cx)).await?;
        }
        if self.rest.is_empty() {
            let mut sequence = self.take_sequence();
            let fetched = sequence.fetch().await;
            self.sequence = Some(sequence);
            self.rest = fetched?.unwrap_or_default();
        }
        let bytes = std::mem::take(&mut self.rest);
        self.position += bytes.len() as u64;
        Ok((!bytes.is_empty()).then_some(bytes))
    }

    /// Fills `buf` from `offset` on and tells how many bytes there were: fewer than asked for only at the end of the
    /// file. Does not move the position.
    pub async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, DfsError> {
        let available = self.len().saturating_sub(offset);
        let wanted = usize::try_from(available).unwrap_or(usize::MAX).min(buf.len());
        let buf = &mut buf[..wanted];
        let mut attempts = Attempts::default();
        let (mut done, mut open) = (0, None);
        while done < wanted {
            let at = offset + done as u64;
            if let Extent::Hole { end } = self.map.extent_at(at).await? {
                let part = usize::try_from(end - at).unwrap_or(usize::MAX).min(wanted - done);
                buf[done..done + part].fill(0);
                done += part;
                continue;
            }
            let (choice, reader) = match open.take() {
                Some(OpenReplica { reader, choice }) => (choice, Some(reader)),
                None => (self.map.choose_replica(at, "", &mut attempts).await?, None),
            };
            let wanted_part = Part { at, wanted: (wanted - done) as u64, choice, reader };
            let read = self.map.read_part(wanted_part, &mut buf[done..]).await;
            done += read.bytes;
            match read.outcome {
                Ok(rest) => {
                    attempts = Attempts::default();
                    open = rest;
                }
                Err((choice, broken)) => self.map.give_up_read(&choice, broken, &mut attempts),
            }
        }
        Ok(wanted)
    }

    /// The sequential read at the present position.
    fn take_sequence(&mut self) -> Sequence {
        let next = self.position;
        match self.sequence.take() {
            Some(mut sequence) => {
                sequence.go_to(next);
                sequence
            }
            None => Sequence {
                map: Arc::clone(&self.map),
                len: self.len(),
                next,
                window: FIRST_WINDOW_BYTES,
                open: None,
                in_use: String::new(),
            },
        }
    }

    /// Fetches into `rest` by a future of its own, which a cancelled poll leaves under way.
    fn poll_fetch(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DfsError>> {
        if self.polled.is_none() {
            let mut sequence = self.take_sequence();
            self.polled = Some(Mutex::new(Box::pin(async move {
                let fetched = sequence.fetch().await;
                (sequence, fetched)
            })));
        }
        let Some(polled) = &mut self.polled else { return Poll::Ready(Ok(())) };
        let future = polled.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (sequence, fetched) = ready!(future.as_mut().poll(cx));
        self.polled = None;
        self.sequence = Some(sequence);
        self.rest = fetched?.unwrap_or_default();
        Poll::Ready(Ok(()))
    }
}

impl Sequence {
    /// The next bytes; `None` at the end of the file.
    async fn fetch(&mut self) -> Result<Option<Bytes>, DfsError> {
        let mut attempts = Attempts::default();
        while self.next < self.len {
            // Taken out while it is used: if this call is cancelled in the middle of a packet, it is closed.
            let (choice, reader) = match self.open.take() {
                Some(OpenReplica { reader, choice }) => (choice, Some(reader)),
                None => {
                    if let Extent::Hole { end } = self.map.extent_at(self.next).await? {
                        let part = end.min(self.len) - self.next;
                        let zeros = usize::try_from(part).unwrap_or(usize::MAX).min(ZEROS.len());
                        self.next += zeros as u64;
                        return Ok(Some(Bytes::from_static(&ZEROS[..zeros])));
                    }
                    (self.map.choose_replica(self.next, &self.in_use, &mut attempts).await?, None)
                }
            };
            let part = Part { at: self.next, wanted: self.window.min(self.len - self.next), choice, reader };
            match self.map.read_piece(part).await {
                Ok((open, bytes)) => {
                    datanode::uuid(&open.choice.location).clone_into(&mut self.in_use);
                    let end = open.choice.block.offset + open.reader.position();
                    self.put_back(open).await;
                    let Some(mut bytes) = bytes else { continue };
                    let skip = usize::try_from(self.next - (end - bytes.len() as u64)).unwrap_or(usize::MAX);
                    if skip < bytes.len() {
                        bytes.advance(skip);
                        self.next += bytes.len() as u64;
                        return Ok(Some(bytes));
                    }
                }
                Err((choice, broken)) => self.map.give_up_read(&choice, broken, &mut attempts),
            }
        }
        Ok(None)
    }

    /// Keeps a replica open for the next fetch, or ends its operation if its range was read whole.
    async fn put_back(&mut self, open: OpenReplica) {
        if open.reader.is_done() {
            self.map.finish(open).await;
            self.window = (self.window * 2).min(MAX_WINDOW_BYTES);
        } else {
            self.open = Some(open);
        }
    }

    /// Goes on at `next`; keeps what is open if `next` is at most a little ahead.
    fn go_to(&mut self, next: u64) {
        if let Some(open) = &self.open {
            let at = open.choice.block.offset + open.reader.position();
            if next < at || next - at > MAX_SKIP_BYTES {
                self.open = None;
                self.window = FIRST_WINDOW_BYTES;
            }
        } else if next != self.next {
            self.window = FIRST_WINDOW_BYTES;
        }
        self.next = next;
    }
}

impl AsyncRead for FileReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            ready!(self.poll_fetch(cx))?;
        }
        let n = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..n]);
        self.rest.advance(n);
        self.position += n as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncSeek for FileReader {
    fn start_seek(mut self: Pin<&mut Self>, to: io::SeekFrom) -> io::Result<()> {
        let position = match to {
            io::SeekFrom::Start(offset) => Some(offset),
            io::SeekFrom::End(delta) => self.len().checked_add_signed(delta),
            io::SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        let position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.seek_to(position);
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.position))
    }
}

impl std::fmt::Debug for FileReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileReader")
            .field("path", &self.map.path())
            .field("len", &self.len())
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
