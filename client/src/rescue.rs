//! Reads what is left of a damaged file.
//!
//! Damage is rarely in the same place of all replicas. So a piece is taken from whichever replica has it with matching
//! checksums; where none has, chunk by chunk; and only what no replica has intact is taken as it is on some disk, or, if no
//! datanode can give it at all, as zeros. The caller is told which bytes are which.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dfs_proto::v1::{LocatedBlock, ReplicaLocation};

use crate::block_reader::{BlockRange, BlockReader};
use crate::dfs_client::Inner;
use crate::{DfsClient, DfsError, FileStatus, TransferFault, datanode};

/// Bytes asked for at once.
const PIECE_BYTES: u64 = 256 << 10;

/// Bytes asked for at once where no replica has a piece whole: what one checksum covers, in our own files.
const CHUNK_BYTES: u64 = 4 << 10;

/// How far bytes can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// They match their checksums, or are a hole.
    Verified,
    /// They are what is on a disk; no replica of them matches its checksums.
    Unverified,
    /// No datanode can give them: zeros stand for them.
    Lost,
}

/// A part of a file.
#[derive(Clone, Debug)]
pub struct Rescued {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes.
    pub bytes: Bytes,
    /// How far they can be trusted.
    pub trust: Trust,
}

/// Reads a file from start to end, whatever its replicas are like.
pub struct RescueReader {
    client: Arc<Inner>,
    path: String,
    status: FileStatus,
    blocks: std::vec::IntoIter<LocatedBlock>,
    /// The block being read.
    block: Option<LocatedBlock>,
    /// Parts of a piece that was taken chunk by chunk.
    parts: std::vec::IntoIter<Rescued>,
    position: u64,
}

impl std::fmt::Debug for RescueReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RescueReader")
            .field("path", &self.path)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl DfsClient {
    /// Opens a file to rescue what can be read of it. Locations are asked for once.
    pub async fn rescue(&self, path: &str) -> Result<RescueReader, DfsError> {
        let status = self.stat(path).await?;
        let blocks = self.locate(path, 0, status.size).await?;
        Ok(RescueReader {
            client: Arc::clone(&self.inner),
            path: path.to_owned(),
            status,
            blocks: blocks.into_iter(),
            block: None,
            parts: Vec::new().into_iter(),
            position: 0,
        })
    }
}

impl RescueReader {
    /// Attributes of the file.
    pub fn status(&self) -> &FileStatus {
        &self.status
    }

    /// The next part; `None` at the end of the file.
    pub async fn next(&mut self) -> Option<Rescued> {
        loop {
            if let Some(part) = self.parts.next() {
                return Some(part);
            }
            if self.position >= self.status.size {
                return None;
            }
            let block = match self.block.take().or_else(|| self.blocks.next()) {
                Some(block) if block.offset > self.position => {
                    let end = block.offset;
                    self.block = Some(block);
                    return Some(self.zeros(end, Trust::Verified));
                }
                Some(block) => block,
                None => return Some(self.zeros(self.status.size, Trust::Verified)),
            };
            let length = block.block.as_ref().map_or(0, |b| b.length);
            let end = (block.offset + length).min(self.status.size);
            if self.position >= end {
                continue;
            }
            self.parts = self.piece(&block, (end - self.position).min(PIECE_BYTES)).await.into_iter();
            self.block = Some(block);
        }
    }

    /// A stretch up to `end` without data, a piece of it at a time.
    fn zeros(&mut self, end: u64, trust: Trust) -> Rescued {
        let len = (end - self.position).min(PIECE_BYTES);
        let part = Rescued { offset: self.position, bytes: zeros(len), trust };
        self.position += len;
        part
    }

    async fn piece(&mut self, block: &LocatedBlock, len: u64) -> Vec<Rescued> {
        let from = self.position;
        self.position += len;
        if let Some(bytes) = self.verified(block, from, len).await {
            return vec![Rescued { offset: from, bytes, trust: Trust::Verified }];
        }
        let mut parts = Vec::new();
        let mut at = from;
        while at < from + len {
            let len = CHUNK_BYTES.min(from + len - at);
            parts.push(self.chunk(block, at, len).await);
            at += len;
        }
        parts
    }

    async fn chunk(&self, block: &LocatedBlock, offset: u64, len: u64) -> Rescued {
        if let Some(bytes) = self.verified(block, offset, len).await {
            return Rescued { offset, bytes, trust: Trust::Verified };
        }
        for location in &block.locations {
            match self.read(block, location, offset, len, true).await {
                Ok(bytes) => return Rescued { offset, bytes, trust: Trust::Unverified },
                Err(fault) => self.tell(block, location, &fault),
            }
        }
        Rescued { offset, bytes: zeros(len), trust: Trust::Lost }
    }

    /// The bytes from the first replica that has them with matching checksums.
    async fn verified(&self, block: &LocatedBlock, offset: u64, len: u64) -> Option<Bytes> {
        for location in &block.locations {
            match self.read(block, location, offset, len, false).await {
                Ok(bytes) => return Some(bytes),
                Err(fault) => self.tell(block, location, &fault),
            }
        }
        None
    }

    fn tell(&self, block: &LocatedBlock, location: &ReplicaLocation, fault: &TransferFault) {
        let (datanode, block) = (datanode::name(location), block.block.unwrap_or_default());
        tracing::debug!(path = self.path, %block, datanode, %fault, "replica cannot be read here");
    }

    async fn read(
        &self,
        block: &LocatedBlock,
        location: &ReplicaLocation,
        offset: u64,
        len: u64,
        raw: bool,
    ) -> Result<Bytes, TransferFault> {
        let (client, config) = (&self.client, &self.client.config);
        let address = datanode::address(location)?;
        let id = block.block.ok_or(TransferFault::Unexpected { field: "block" })?;
        let named = datanode::extended(&client.defaults.block_pool_id, id);
        let range = BlockRange { offset: offset - block.offset, len };
        let patience = config.datanode_timeout;
        let lease = client.peers.get(address, true, config.datanode_connect_timeout, patience).await?;
        let opened = BlockReader::open_as(lease.connection, named, &client.holder, range, raw);
        let mut reader = opened.await?;
        let mut bytes = BytesMut::zeroed(usize::try_from(len).unwrap_or(0));
        reader.fill(&mut bytes, &client.read_buffers).await?;
        Ok(bytes.freeze())
    }
}

fn zeros(len: u64) -> Bytes {
    Bytes::from(vec![0; usize::try_from(len).unwrap_or(0)])
}
