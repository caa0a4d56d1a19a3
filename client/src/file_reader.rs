//! Reading a file.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use dfs_proto::{ErrorKind, RpcError};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};

use crate::dfs_client::Inner;
use crate::{DfsError, FileStatus};

/// An open file. Reads sequentially as [`AsyncRead`] (+ [`AsyncSeek`]) or, without a copy, by [`Self::chunk`]; reads anywhere
/// and from several tasks at once by [`Self::read_at`].
#[derive(Debug)]
pub struct FileReader {
    status: FileStatus,
    position: u64,
}

impl FileReader {
    pub(crate) async fn open(_inner: Arc<Inner>, path: &str) -> Result<Self, DfsError> {
        Err(DfsError::refused(path, RpcError::new(ErrorKind::Unsupported, "", "")))
    }

    /// Attributes as of opening.
    pub fn status(&self) -> &FileStatus {
        &self.status
    }

    /// Bytes that can be read. Of a file being written: what was visible when it was opened.
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

    /// Moves the position; past the end reads give nothing.
    pub fn seek_to(&mut self, position: u64) {
        self.position = position;
    }

    /// Reads the next bytes without copying them: up to a packet of verified data, `None` at the end of the file.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, DfsError> {
        Ok(None)
    }

    /// Fills `buf` from `offset` on and tells how many bytes there were: fewer than asked for only at
    /// the end of the file. Does not move the position.
    pub async fn read_at(&self, _offset: u64, _buf: &mut [u8]) -> Result<usize, DfsError> {
        Ok(0)
    }
}

impl AsyncRead for FileReader {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncSeek for FileReader {
    fn start_seek(self: Pin<&mut Self>, _position: io::SeekFrom) -> io::Result<()> {
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.position))
    }
}
