//! Writing a file.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use dfs_proto::{ErrorKind, RpcError};
use tokio::io::AsyncWrite;

use crate::dfs_client::Inner;
use crate::options::CreateOptions;
use crate::{DfsError, FileStatus};

/// A file open for writing at its end, as [`AsyncWrite`] or by [`Self::write_bytes`].
///
/// [`Self::close`] must be called: a writer that is dropped leaves the file open under its lease, with
/// what was acknowledged so far, until the lease is recovered.
#[derive(Debug)]
pub struct FileWriter {
    path: String,
    position: u64,
}

impl FileWriter {
    pub(crate) async fn create(
        _inner: Arc<Inner>,
        path: &str,
        _options: CreateOptions,
    ) -> Result<Self, DfsError> {
        Err(DfsError::refused(path, RpcError::new(ErrorKind::Unsupported, "", "")))
    }

    pub(crate) async fn append(_inner: Arc<Inner>, path: &str) -> Result<Self, DfsError> {
        Err(DfsError::refused(path, RpcError::new(ErrorKind::Unsupported, "", "")))
    }

    /// Path of the file.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Length of the file with everything written so far.
    pub fn pos(&self) -> u64 {
        self.position
    }

    /// Writes all of `data`. Large pieces are sent without being copied.
    pub async fn write_bytes(&mut self, _data: Bytes) -> Result<(), DfsError> {
        Ok(())
    }

    /// Returns when everything written so far is in every replica's datanode and visible to readers
    /// who open the file from now on.
    pub async fn hflush(&mut self) -> Result<(), DfsError> {
        Ok(())
    }

    /// Like [`Self::hflush`], and everything written so far is on disk on all replicas.
    pub async fn hsync(&mut self) -> Result<(), DfsError> {
        Ok(())
    }

    /// Sends what is left, waits for all acknowledgements and closes the file. Further calls give the
    /// same answer; writing to a closed writer is an error.
    pub async fn close(&mut self) -> Result<FileStatus, DfsError> {
        Err(DfsError::WriterClosed { path: self.path.clone() })
    }
}

impl AsyncWrite for FileWriter {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
