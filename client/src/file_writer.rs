//! Writing a file.
//!
//! The caller's task cuts the data into packets and checksums them; a streamer task sends them, keeps the unacknowledged
//! ones and rebuilds the pipeline when a datanode fails. A file that fits one packet never gets a task of its own: its
//! streamer runs inside [`FileWriter::close`].

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use dfs_proto::v1;
use tokio::io::AsyncWrite;
use tokio::sync::watch;

use crate::dfs_client::Inner;
use crate::open_block::OpenBlock;
use crate::options::CreateOptions;
use crate::writer_core::{Stage, WriterCore};
use crate::{DfsError, FileStatus, path};

/// A file open for writing at its end.
///
/// Write with [`Self::write_bytes`] or as [`AsyncWrite`]. Data is handed on when a packet is full; [`Self::hflush`] and
/// [`Self::hsync`] hand on what is there and wait. `AsyncWrite`'s `flush` does nothing more than writing does (as in HDFS), and
/// its `shutdown` is [`Self::close`].
///
/// [`Self::close`] must be called: a writer that is dropped leaves the file open under its lease, with what
/// was acknowledged so far, until another client recovers the lease or it expires.
///
/// When datanodes fail, the writer goes on with those that are left and has others added when too few are. Memory: the
/// packets in flight (by default 8 of 1 MiB) and a few more.
pub struct FileWriter {
    /// Absent only while `busy` has it.
    core: Option<Box<WriterCore>>,
    busy: Option<Busy>,
    path: String,
    position: u64,
    pipeline: watch::Receiver<Vec<v1::ReplicaLocation>>,
}

type Busy = Pin<Box<dyn Future<Output = (Box<WriterCore>, Result<(), DfsError>)> + Send>>;

impl FileWriter {
    pub(crate) async fn create(
        client: Arc<Inner>,
        path: &str,
        options: CreateOptions,
    ) -> Result<Self, DfsError> {
        let nn = &client.namenode;
        let request = v1::CreateRequest {
            context: nn.context(),
            node: Some(path::node(path)?),
            mode: options.mode,
            holder: client.holder.clone(),
            overwrite: options.overwrite,
            create_parents: options.create_parents,
            replication: options.replication.or(client.config.replication).map_or(0, u32::from),
            block_size: options.block_size.or(client.config.block_size).unwrap_or(0),
            allocate_block: options.allocate_block,
        };
        let answer = nn.call(path, request, |mut s, r| async move { s.create(r).await }).await?;
        let status = answer.status.ok_or_else(|| DfsError::incomplete(path, "status"))?;
        // Without a block now, the first packet asks again, with the error if there is one.
        let block = answer.block.filter(|block| !block.locations.is_empty());
        Ok(Self::build(client, path, status, block, None))
    }

    pub(crate) async fn append(client: Arc<Inner>, path: &str) -> Result<Self, DfsError> {
        let nn = &client.namenode;
        let request = v1::AppendRequest {
            context: nn.context(),
            node: Some(path::node(path)?),
            holder: client.holder.clone(),
        };
        let answer = nn.call(path, request, |mut s, r| async move { s.append(r).await }).await?;
        let status = answer.status.ok_or_else(|| DfsError::incomplete(path, "status"))?;
        let reopened = match answer.last_block {
            Some(block) => Some(OpenBlock::reopened(path, block, answer.new_generation_stamp)?),
            None => None,
        };
        Ok(Self::build(client, path, status, None, reopened))
    }

    fn build(
        client: Arc<Inner>,
        path: &str,
        status: v1::FileStatus,
        prepared: Option<v1::LocatedBlock>,
        reopened: Option<OpenBlock>,
    ) -> Self {
        let position = status.size;
        let (shown, pipeline) = watch::channel(Vec::new());
        let core = WriterCore::new(client, path, status, prepared, reopened, shown);
        Self { core: Some(Box::new(core)), busy: None, path: path.to_owned(), position, pipeline }
    }

    /// Path of the file.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Length of the file with everything written so far.
    pub fn pos(&self) -> u64 {
        self.position
    }

    /// Where the block being written goes, nearest datanode first; empty before the first packet of a block is sent
    /// and after its last is acknowledged.
    pub fn pipeline(&self) -> Vec<v1::ReplicaLocation> {
        self.pipeline.borrow().clone()
    }

    /// Writes all of `data`. What makes up whole packets is sent without being copied.
    pub async fn write_bytes(&mut self, mut data: Bytes) -> Result<(), DfsError> {
        self.core().await?.check_open()?;
        while !data.is_empty() {
            let Some(core) = &mut self.core else { break };
            let before = data.len();
            core.packetizer.push_bytes(&mut data, &mut core.made);
            self.position += (before - data.len()) as u64;
            core.hand_over().await?;
        }
        Ok(())
    }

    /// Returns when everything written so far is with every datanode of the pipeline and visible to readers that open
    /// the file from now on. It survives the crash of any program, but not of all these machines.
    pub async fn hflush(&mut self) -> Result<(), DfsError> {
        self.core().await?.flush(false).await
    }

    /// Like [`Self::hflush`], and everything written so far is on disk on all replicas: those of the block being written
    /// and those of all blocks that this writer finished before. After the first call, every block is put on disk when
    /// it ends, so that a later call has little left to do. The blocks that an append found in the file are
    /// not included, except the one that it goes on with.
    ///
    /// A datanode that fails while the block being written is synced is left out of the pipeline, and the writer goes
    /// on with the others. A replica of a finished block that its datanode cannot sync, or whose datanode does not answer, is
    /// reported as bad before this returns: it is a replica no longer, and the namenode replaces it. If no replica of a finished
    /// block can be synced, or the report is refused, the call fails, with [`DfsError::NotSynced`] in the first case. So do
    /// all later calls, because a second sync cannot make a failed one good; writing and closing go on.
    ///
    /// A writer remembers its last 256 unsynced blocks; when it finishes more without a call to this method, it has the
    /// oldest synced one by one. A failure of that is told by the next call.
    pub async fn hsync(&mut self) -> Result<(), DfsError> {
        self.core().await?.flush(true).await
    }

    /// Sends what is left, waits for all acknowledgements and closes the file. Called again, it gives the same
    /// answer; writing to a closed writer is an error.
    pub async fn close(&mut self) -> Result<FileStatus, DfsError> {
        self.core().await?.close().await
    }

    /// The core, after a poll that may be under way has ended.
    async fn core(&mut self) -> Result<&mut WriterCore, DfsError> {
        if self.busy.is_some() {
            std::future::poll_fn(|cx| self.poll_busy(cx)).await?;
        }
        match &mut self.core {
            Some(core) => Ok(core),
            None => Err(DfsError::WriterClosed { path: self.path.clone() }),
        }
    }

    /// Drives what an earlier poll began.
    fn poll_busy(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DfsError>> {
        let Some(busy) = &mut self.busy else { return Poll::Ready(Ok(())) };
        let (core, outcome) = ready!(busy.as_mut().poll(cx));
        self.busy = None;
        self.core = Some(core);
        Poll::Ready(outcome)
    }
}

impl AsyncWrite for FileWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_busy(cx))?;
            let Some(mut core) = self.core.take() else {
                return Poll::Ready(Err(DfsError::WriterClosed { path: self.path.clone() }.into()));
            };
            if let Err(error) = core.check_open() {
                self.core = Some(core);
                return Poll::Ready(Err(error.into()));
            }
            if !core.try_hand_over() {
                self.busy = Some(Box::pin(async move {
                    let outcome = core.hand_over().await;
                    (core, outcome)
                }));
                continue;
            }
            let mut taken = 0;
            while taken < data.len() && core.made.is_empty() {
                let core = &mut *core;
                taken += core.packetizer.push(&data[taken..], &mut core.made);
                core.try_hand_over();
            }
            self.core = Some(core);
            self.position += taken as u64;
            return Poll::Ready(Ok(taken));
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_busy(cx))?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_busy(cx))?;
            match self.core.take() {
                None => return Poll::Ready(Ok(())),
                Some(core) if matches!(core.stage, Stage::Closed(_)) => {
                    self.core = Some(core);
                    return Poll::Ready(Ok(()));
                }
                Some(mut core) => {
                    self.busy = Some(Box::pin(async move {
                        let outcome = core.close().await.map(drop);
                        (core, outcome)
                    }));
                }
            }
        }
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if let Some(core) = &self.core
            && matches!(core.stage, Stage::Waiting(_) | Stage::Running(_))
        {
            tracing::warn!(path = %self.path, holder = %core.client.holder, "writer dropped without being closed");
        }
    }
}

impl std::fmt::Debug for FileWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWriter")
            .field("path", &self.path)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
