//! Reads from whichever replica serves: chooses, connects, goes on to the next on a failure.
//!
//! A datanode that is later than usual is not waited for alone: another one is asked for the same bytes ([`hedge`](crate::hedge)). When
//! that is not allowed, a silent one is waited for in earnest only if no other can be asked: before that it gets [`HURRIED_PATIENCE`] and
//! then counts as slow, so that it is asked after all others.
//!
//! Invariants: every attempt that fails takes its replica out of the choice or, once, to its end, and the locations are asked
//! for again at most [`MAX_REFRESHES`] times without progress, so that a read ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs_proto::v1::{LocatedBlock, ReplicaLocation};

use crate::block_map::BlockMap;
use crate::block_reader::{BlockRange, BlockReader};
use crate::buffer_pool::BufferPool;
use crate::config::ClientConfig;
use crate::connection::DataConnection;
use crate::error::ReplicaFault;
use crate::local_reader::LocalReader;
use crate::read_times::ReadKind;
use crate::{DfsError, TransferFault, datanode};

/// Times that locations are asked for again when every known replica failed. With the waits between them that is three
/// seconds: a namenode that has just been started may know one replica of a block, and that one damaged, before the other
/// datanodes have reported.
const MAX_REFRESHES: u32 = 5;

/// Wait before the locations are asked for again; doubled each time.
const FIRST_REFRESH_DELAY: Duration = Duration::from_millis(200);

/// Longest silence of a datanode while another one can be asked: a reader goes on within a second. A disk that is merely
/// busy answers sooner, as a rule; if it does not, the other replica's does.
const HURRIED_PATIENCE: Duration = Duration::from_millis(800);

/// A replica to read.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub block: Arc<LocatedBlock>,
    pub location: ReplicaLocation,
    /// There is another one that was not slow lately.
    pub hurried: bool,
}

/// Longest silence to accept.
pub(crate) fn patience(config: &ClientConfig, hurried: bool) -> Duration {
    if hurried { HURRIED_PATIENCE.min(config.datanode_timeout) } else { config.datanode_timeout }
}

/// What a read has been through since it last got data.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    refreshes: u32,
    last: Option<ReplicaFault>,
}

/// A read in progress from one replica.
pub(crate) struct OpenReplica {
    pub reader: ReplicaReader,
    pub choice: Choice,
}

/// Where the bytes come from.
pub(crate) enum ReplicaReader {
    /// The datanode sends them.
    Network(Box<BlockReader>),
    /// The replica's files are on this machine.
    Local(LocalReader),
}

impl ReplicaReader {
    /// Offset in the block of the next byte.
    pub(crate) fn position(&self) -> u64 {
        match self {
            Self::Network(reader) => reader.position(),
            Self::Local(reader) => reader.position(),
        }
    }

    /// Whether the whole range was handed out.
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Self::Network(reader) => reader.is_done(),
            Self::Local(reader) => reader.is_done(),
        }
    }

    /// The next verified bytes, up to a piece; `None` at the end of the range.
    pub(crate) async fn next_bytes(
        &mut self,
        pool: &Arc<BufferPool>,
    ) -> Result<Option<Bytes>, TransferFault> {
        match self {
            Self::Network(reader) => reader.next_bytes(pool).await,
            Self::Local(reader) => reader.next_bytes(pool).await,
        }
    }

    /// Fills `into`, which is at most what is left of the range.
    pub(crate) async fn fill(
        &mut self,
        into: &mut [u8],
        pool: &Arc<BufferPool>,
    ) -> Result<(), TransferFault> {
        match self {
            Self::Network(reader) => reader.fill(into, pool).await,
            Self::Local(reader) => reader.fill(into, pool).await,
        }
    }

    /// Ends a read whose range was read whole; the connection, if there is one, can be used again.
    async fn finish(self) -> Result<Option<DataConnection>, TransferFault> {
        match self {
            Self::Network(reader) => reader.finish().await.map(Some),
            Self::Local(_) => Ok(None),
        }
    }
}

/// What a read that did not succeed leaves behind: why, and the reader if it had begun.
pub(crate) struct Broken {
    pub fault: TransferFault,
    pub reader: Option<ReplicaReader>,
}

impl From<TransferFault> for Broken {
    fn from(fault: TransferFault) -> Self {
        Self { fault, reader: None }
    }
}

impl Choice {
    /// The part of a range of the file that the block has.
    pub(crate) fn range(&self, offset: u64, len: u64) -> BlockRange {
        let in_block = offset - self.block.offset;
        let block_len = self.block.block.as_ref().map_or(0, |b| b.length);
        BlockRange { offset: in_block, len: len.min(block_len.saturating_sub(in_block)) }
    }
}

impl BlockMap {
    /// How long a read of the choice is waited for before another replica is asked; none: there is no other.
    pub(crate) fn patience(&self, choice: &Choice, kind: ReadKind) -> Option<Duration> {
        choice.hurried.then(|| self.client().times.patience(datanode::uuid(&choice.location), kind))
    }

    /// Starts reading from the replica of another datanode that was not slow lately, if there is one and it goes well.
    pub(crate) async fn open_other(&self, instead: &Choice, offset: u64, len: u64) -> Option<OpenReplica> {
        let location = self.choose_other(&instead.block, datanode::uuid(&instead.location))?;
        let choice = Choice { block: Arc::clone(&instead.block), location, hurried: true };
        // Never from files on this machine: they may be what is late.
        match self.open_remote(&choice, choice.range(offset, len)).await {
            Ok(reader) => Some(OpenReplica { reader, choice }),
            Err(fault) => {
                self.failed(&choice, &fault);
                None
            }
        }
    }

    /// The block at `offset` of the file and its nearest good replica.
    pub(crate) async fn choose_replica(
        &self,
        offset: u64,
        in_use: &str,
        attempts: &mut Attempts,
    ) -> Result<Choice, DfsError> {
        loop {
            let block = self.block_at(offset).await?;
            match self.choose(&block, in_use) {
                Some((location, hurried)) => return Ok(Choice { block, location, hurried }),
                None => self.wait_for_replicas(&block, offset, attempts).await?,
            }
        }
    }

    /// Takes a replica that failed out of the choice, or to its end.
    pub(crate) fn give_up(&self, choice: &Choice, fault: TransferFault, attempts: &mut Attempts) {
        self.failed(choice, &fault);
        attempts.last = Some(ReplicaFault { datanode: datanode::name(&choice.location), fault });
    }

    /// Takes a replica whose read failed out of the choice, or to its end; one that was read from its files is read over the
    /// network next.
    pub(crate) fn give_up_read(&self, choice: &Choice, broken: Broken, attempts: &mut Attempts) {
        self.note_broken(choice, &broken);
        attempts.last =
            Some(ReplicaFault { datanode: datanode::name(&choice.location), fault: broken.fault });
    }

    /// The same, when the bytes have come from elsewhere.
    pub(crate) fn note_broken(&self, choice: &Choice, broken: &Broken) {
        match &broken.reader {
            None | Some(ReplicaReader::Network(_)) => self.failed(choice, &broken.fault),
            Some(ReplicaReader::Local(_)) => {
                tracing::debug!(path = %self.path(), fault = %broken.fault, "local read failed, the network is next");
                self.read_over_network(&choice.block);
            }
        }
    }

    /// Ends a read whose range was read whole and keeps its connection.
    pub(crate) async fn finish(&self, open: OpenReplica) {
        match open.reader.finish().await {
            Ok(Some(connection)) => self.client().peers.put(connection),
            Ok(None) => {}
            Err(fault) => {
                // All bytes came and were verified: only the connection is lost.
                tracing::debug!(path = %self.path(), datanode = %datanode::name(&open.choice.location), %fault,
                    "read did not end cleanly");
            }
        }
    }

    /// Starts reading a range of the chosen replica.
    pub(crate) async fn open_at(
        &self,
        choice: &Choice,
        range: BlockRange,
    ) -> Result<ReplicaReader, TransferFault> {
        match self.open_local(choice, range).await {
            Some(local) => Ok(ReplicaReader::Local(local)),
            None => self.open_remote(choice, range).await,
        }
    }

    async fn open_remote(&self, choice: &Choice, range: BlockRange) -> Result<ReplicaReader, TransferFault> {
        let client = self.client();
        let config = &client.config;
        let patience = patience(config, choice.hurried);
        let connect_timeout = config.datanode_connect_timeout.min(patience);
        let address = datanode::address(&choice.location)?;
        let id = choice.block.block.ok_or(TransferFault::Unexpected { field: "block" })?;
        let mut fresh = false;
        loop {
            let lease = client.peers.get(address, fresh, connect_timeout, patience).await?;
            let block = datanode::extended(&client.defaults.block_pool_id, id);
            match BlockReader::open(lease.connection, block, &client.holder, range).await {
                // The datanode closed an idle connection just when it was used again.
                Err(TransferFault::Io(_)) if lease.reused => fresh = true,
                result => return result.map(|reader| ReplicaReader::Network(Box::new(reader))),
            }
        }
    }

    /// The chosen replica's files, if they are on this machine and settled.
    async fn open_local(&self, choice: &Choice, range: BlockRange) -> Option<LocalReader> {
        let client = self.client();
        let id = choice.block.block?;
        if !client.config.local_reads || choice.block.under_construction || self.is_network_only(&id) {
            return None;
        }
        let named = datanode::extended(&client.defaults.block_pool_id, id);
        let replica = client.local.get(datanode::uuid(&choice.location), &id, named).await?;
        Some(LocalReader::new(replica, id.length, range))
    }

    async fn wait_for_replicas(
        &self,
        block: &LocatedBlock,
        offset: u64,
        attempts: &mut Attempts,
    ) -> Result<(), DfsError> {
        if attempts.refreshes == MAX_REFRESHES {
            return Err(DfsError::BlockMissing {
                path: self.path().to_owned(),
                block: block.block.as_ref().map(ToString::to_string).unwrap_or_default(),
                last: attempts.last.take().map(Box::new),
            });
        }
        if attempts.refreshes > 0 {
            tokio::time::sleep(FIRST_REFRESH_DELAY * (1 << (attempts.refreshes - 1))).await;
        }
        attempts.refreshes += 1;
        self.refresh(offset).await
    }
}
