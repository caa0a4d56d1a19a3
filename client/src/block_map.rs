//! The located blocks of one open file, and which replicas its reader gave up.
//!
//! Shared by all reads of one [`FileReader`](crate::FileReader); every lock is short and never held across an await.
//! Invariants: at most [`MAX_BLOCKS`] blocks are kept; a replica found corrupt is not tried again, a datanode found
//! dead only after the locations were asked for again. Datanodes that were slow lately come last in every choice.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_proto::v1::{self, LocatedBlock, NodeRef, ReplicaLocation};

use crate::dfs_client::Inner;
use crate::read_times::ReadKind;
use crate::replica_reads::{Choice, patience};
use crate::{DfsError, FileStatus, TransferFault, datanode};

/// Located blocks kept. A block with three locations has about 700 bytes, so a reader holds about a megabyte.
const MAX_BLOCKS: usize = 1500;

/// Bytes of a file whose blocks are asked for in one call: 16 blocks of the default size.
const LOCATE_AHEAD_BYTES: u64 = 2 << 30;

/// Blocks of a file and the reader's experience with them.
pub(crate) struct BlockMap {
    client: Arc<Inner>,
    path: String,
    node: NodeRef,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By offset in the file.
    blocks: BTreeMap<u64, Arc<LocatedBlock>>,
    /// Ranges without a block, from their first byte to behind their last.
    holes: BTreeMap<u64, u64>,
    /// Datanodes (uuid) that failed.
    dead: HashSet<String>,
    /// Replicas (block id, datanode uuid) that a datanode does not have any more.
    missing: HashSet<(u64, String)>,
    /// Replicas (block id, datanode uuid) with bad data.
    corrupt: HashSet<(u64, String)>,
    /// Blocks (id) whose local files could not be read.
    network_only: HashSet<u64>,
}

impl State {
    fn is_usable(&self, id: u64, uuid: &str) -> bool {
        let replica = (id, uuid.to_owned());
        !self.dead.contains(uuid) && !self.missing.contains(&replica) && !self.corrupt.contains(&replica)
    }
}

/// What a file has at an offset.
pub(crate) enum Extent {
    /// Bytes of a block.
    Block(Arc<LocatedBlock>),
    /// Zeros that no block holds, up to `end` at least.
    Hole {
        /// Offset behind them.
        end: u64,
    },
}

impl BlockMap {
    /// Opens the file: its attributes, with the visible length if it is being written, and its first blocks.
    pub(crate) async fn open(client: Arc<Inner>, path: &str) -> Result<(Self, FileStatus), DfsError> {
        let by_path = crate::path::node(path)?;
        let answer = client.located_blocks(path, by_path, 0, LOCATE_AHEAD_BYTES).await?;
        let raw = answer.status.clone().ok_or_else(|| DfsError::incomplete(path, "status"))?;
        let mut status = FileStatus::of_path(path, raw);
        // From here on the inode is meant: a rename does not disturb the reader.
        let node = NodeRef { base: status.inode, path: bytes::Bytes::new() };
        let map = Self { client, path: path.to_owned(), node, state: Mutex::default() };
        let under_construction = status.under_construction;
        let last = map.remember(answer, 0, LOCATE_AHEAD_BYTES);
        if under_construction {
            let last = match last {
                Some(block) if block.under_construction => Some(block),
                _ => {
                    let from = status.size.saturating_sub(1);
                    let answer =
                        map.client.located_blocks(path, map.node.clone(), from, u64::MAX - from).await?;
                    map.remember(answer, from, u64::MAX - from)
                }
            };
            if let Some(block) = last
                && block.under_construction
            {
                status.size = map.measure_open_block(&block).await?;
            }
        }
        Ok((map, status))
    }

    /// Path the file was opened by, for errors.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The client.
    pub(crate) fn client(&self) -> &Arc<Inner> {
        &self.client
    }

    /// The block that holds the byte at `offset`, asked for if not known.
    pub(crate) async fn block_at(&self, offset: u64) -> Result<Arc<LocatedBlock>, DfsError> {
        match self.extent_at(offset).await? {
            Extent::Block(block) => Ok(block),
            Extent::Hole { .. } => Err(self.changed(offset)),
        }
    }

    /// What the file has at `offset`, asked for if not known.
    pub(crate) async fn extent_at(&self, offset: u64) -> Result<Extent, DfsError> {
        if let Some(extent) = self.known(offset) {
            return Ok(extent);
        }
        self.fetch(offset).await?;
        self.known(offset).ok_or_else(|| self.changed(offset))
    }

    fn changed(&self, wanted: u64) -> DfsError {
        let available = self.lock().blocks.last_key_value().map_or(0, |(at, b)| at + length(b));
        DfsError::FileChanged { path: self.path.clone(), available, wanted }
    }

    /// The replica to use: the nearest that is not known to be bad, slow ones last, of equally near ones that of datanode
    /// `in_use`; and whether another one could take its place at once.
    pub(crate) fn choose(&self, block: &LocatedBlock, in_use: &str) -> Option<(ReplicaLocation, bool)> {
        let id = block.block.as_ref().map_or(0, |b| b.id);
        let state = self.lock();
        let usable = |location: &&ReplicaLocation| state.is_usable(id, datanode::uuid(location));
        let (slow, fast) = self.slow_last(block.locations.iter().filter(usable));
        let hurried = fast.len() > 1;
        let kept =
            fast.iter().find(|l| datanode::uuid(l) == in_use && datanode::is_as_near(l, fast[0])).copied();
        let nearest = || fast.iter().chain(&slow).next().copied();
        kept.or_else(nearest).map(|location| (location.clone(), hurried))
    }

    /// The nearest replica of another datanode than `except` that is not known to be bad and was not slow lately.
    pub(crate) fn choose_other(&self, block: &LocatedBlock, except: &str) -> Option<ReplicaLocation> {
        let id = block.block.as_ref().map_or(0, |b| b.id);
        let state = self.lock();
        let usable = |location: &&ReplicaLocation| {
            let uuid = datanode::uuid(location);
            uuid != except && state.is_usable(id, uuid) && !self.client.slow.contains(uuid)
        };
        block.locations.iter().find(usable).cloned()
    }

    /// Remembers how long a read took.
    pub(crate) fn note_read(&self, choice: &Choice, kind: ReadKind, took: Duration) {
        self.client.note_read(datanode::uuid(&choice.location), kind, took);
    }

    /// Another datanode was faster by far.
    pub(crate) fn note_lost(&self, choice: &Choice) {
        tracing::debug!(path = %self.path, datanode = %datanode::name(&choice.location), "late, another one was asked");
        self.client.note_lost(datanode::uuid(&choice.location));
    }

    /// Locations by whether their datanodes were slow lately.
    fn slow_last<'a>(
        &self,
        locations: impl Iterator<Item = &'a ReplicaLocation>,
    ) -> (Vec<&'a ReplicaLocation>, Vec<&'a ReplicaLocation>) {
        locations.partition(|location| self.client.slow.contains(datanode::uuid(location)))
    }

    /// Records that a replica failed its reader; a corrupt one is reported to the namenode in the background.
    pub(crate) fn failed(&self, choice: &Choice, fault: &TransferFault) {
        let (block, location) = (&choice.block, &choice.location);
        let uuid = datanode::uuid(location).to_owned();
        let id = block.block.as_ref().map_or(0, |b| b.id);
        tracing::debug!(path = %self.path, block = id, datanode = %datanode::name(location), %fault, "replica failed");
        if matches!(fault, TransferFault::Timeout) {
            self.client.slow.note(&uuid);
            if choice.hurried {
                return;
            }
        }
        let mut state = self.lock();
        if fault.is_corruption() {
            state.corrupt.insert((id, uuid));
            drop(state);
            self.report_corrupt(block, location);
        } else if matches!(fault, TransferFault::Refused { .. }) {
            state.missing.insert((id, uuid));
        } else {
            state.dead.insert(uuid);
        }
    }

    /// From now on the block is read from datanodes, not from files on this machine.
    pub(crate) fn read_over_network(&self, block: &LocatedBlock) {
        if let Some(id) = &block.block {
            self.client.local.forget(id);
            self.lock().network_only.insert(id.id);
        }
    }

    /// Whether a block is read from datanodes only.
    pub(crate) fn is_network_only(&self, block: &v1::Block) -> bool {
        self.lock().network_only.contains(&block.id)
    }

    /// Asks for the block's locations again, and gives every replica that is not corrupt another chance.
    pub(crate) async fn refresh(&self, offset: u64) -> Result<(), DfsError> {
        {
            let mut state = self.lock();
            state.dead.clear();
            state.missing.clear();
        }
        self.fetch(offset).await
    }

    async fn fetch(&self, offset: u64) -> Result<(), DfsError> {
        let node = self.node.clone();
        let answer = self.client.located_blocks(&self.path, node, offset, LOCATE_AHEAD_BYTES).await?;
        if let Some(last) = self.remember(answer, offset, LOCATE_AHEAD_BYTES)
            && last.under_construction
        {
            self.measure_open_block(&last).await?;
        }
        Ok(())
    }

    /// Stores the answer to a question about `wanted` bytes from `from` on, and returns the last block of it. What lies
    /// between blocks, and behind the last one up to the file's end, is a hole; behind a block that is being written nobody
    /// knows.
    fn remember(&self, answer: v1::LocatedBlocks, from: u64, wanted: u64) -> Option<Arc<LocatedBlock>> {
        let (size, block_size) = answer.status.as_ref().map_or((0, 0), |s| (s.size, s.block_size));
        let mut state = self.lock();
        if state.blocks.len() + answer.blocks.len() > MAX_BLOCKS {
            state.blocks.clear();
            state.holes.clear();
        }
        state.holes.retain(|_, end| *end <= from);
        let (mut last, mut covered) = (None, from);
        for block in answer.blocks {
            let block = Arc::new(block);
            if block.offset > covered {
                state.holes.insert(covered, block.offset);
            }
            let extent = if block.under_construction { block_size } else { length(&block) };
            covered = covered.max(block.offset + extent);
            state.blocks.insert(block.offset, Arc::clone(&block));
            last = Some(block);
        }
        let end = from.saturating_add(wanted).min(size);
        if answer.complete && covered < end {
            state.holes.insert(covered, end);
        }
        last
    }

    fn known(&self, offset: u64) -> Option<Extent> {
        let state = self.lock();
        if let Some((start, block)) = state.blocks.range(..=offset).next_back()
            && offset - start < length(block)
        {
            return Some(Extent::Block(Arc::clone(block)));
        }
        let (_, end) = state.holes.range(..=offset).next_back()?;
        (offset < *end).then_some(Extent::Hole { end: *end })
    }

    /// Asks a datanode how much of the block being written readers may see, stores that as its length, and returns
    /// the length of the file up to there. A block that no datanode has yet is empty.
    async fn measure_open_block(&self, block: &LocatedBlock) -> Result<u64, DfsError> {
        let mut visible = length(block);
        if let Some(id) = &block.block {
            visible = visible.max(self.ask_visible_length(block, *id).await.unwrap_or(0));
            let measured =
                LocatedBlock { block: Some(v1::Block { length: visible, ..*id }), ..block.clone() };
            self.lock().blocks.insert(block.offset, Arc::new(measured));
        }
        Ok(block.offset + visible)
    }

    /// The first answer to how much of a block being written readers may see. Datanodes that do not answer at once are asked
    /// again, patiently, when no other has answered.
    async fn ask_visible_length(&self, block: &LocatedBlock, id: v1::Block) -> Option<u64> {
        let config = &self.client.config;
        let (slow, fast) = self.slow_last(block.locations.iter());
        let candidates = fast.len() + slow.len();
        let mut again = Vec::new();
        for (index, location) in fast.into_iter().chain(slow).enumerate() {
            let hurried = index + 1 < candidates;
            match datanode::visible_length(location, id, config, patience(config, hurried)).await {
                Ok(length) => return Some(length),
                Err(fault) => {
                    self.no_visible_length(id, location, &fault);
                    if hurried && matches!(fault, TransferFault::Timeout) {
                        self.client.slow.note(datanode::uuid(location));
                        again.push(location);
                    }
                }
            }
        }
        for location in again {
            match datanode::visible_length(location, id, config, patience(config, false)).await {
                Ok(length) => return Some(length),
                Err(fault) => self.no_visible_length(id, location, &fault),
            }
        }
        None
    }

    fn no_visible_length(&self, id: v1::Block, location: &ReplicaLocation, fault: &TransferFault) {
        tracing::debug!(path = %self.path, block = %id, datanode = %datanode::name(location), %fault,
            "no visible length");
    }

    fn report_corrupt(&self, block: &LocatedBlock, location: &ReplicaLocation) {
        let client = Arc::clone(&self.client);
        let bad = LocatedBlock { locations: vec![location.clone()], ..block.clone() };
        let path = self.path.clone();
        tracing::warn!(path, datanode = %datanode::name(location), "corrupt replica, reported");
        tokio::spawn(async move {
            let context = client.namenode.context();
            let request = v1::ReportBadBlocksRequest { context, blocks: vec![bad] };
            let sent =
                client.namenode.call(&path, request, |mut s, r| async move { s.report_bad_blocks(r).await });
            if let Err(error) = sent.await {
                tracing::warn!(%error, "a corrupt replica could not be reported");
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn length(block: &LocatedBlock) -> u64 {
    block.block.as_ref().map_or(0, |b| b.length)
}
