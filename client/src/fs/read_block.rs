//! Reads from the replicas of a file's blocks.
//!
//! Everything that reads block bytes goes through [`FileCore::read_block_range`]. A replica that fails is passed over for the
//! rest of the call; when all have failed, the locations are asked for again, until the outage has lasted too long.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::v1::{self, LocatedBlock, LocatedBlocks, ReplicaLocation};

use super::file_system::FsInner;
use super::open_file::FileCore;
use crate::block_reader::{BlockRange, BlockReader};
use crate::hedge::{Raced, race};
use crate::read_times::ReadKind;
use crate::replica_reads::patience;
use crate::{DfsError, ReplicaFault, TransferFault, datanode};

/// Blocks asked for in one call: the most that are answered.
const LOCATED_AT_ONCE: u64 = 1000;

/// Pause before the locations are asked for a second time; doubled each time.
const FIRST_REFRESH_DELAY: Duration = Duration::from_millis(50);

/// Longest pause: how late the return of a replica may be noticed.
const MAX_REFRESH_DELAY: Duration = Duration::from_secs(1);

/// Times that locations are asked for again when every replica there is has bad data.
const MAX_REFRESHES_CORRUPT: u32 = 3;

/// A replica to read.
struct Choice {
    location: ReplicaLocation,
    /// There is another one that was not slow lately.
    hurried: bool,
}

impl FsInner {
    /// Starts reading a range of a replica.
    pub(super) async fn open_reader(
        &self,
        row: &LocatedBlock,
        location: &ReplicaLocation,
        patience: Duration,
        range: Range<u64>,
    ) -> Result<BlockReader, TransferFault> {
        let client = &self.client;
        let connect_timeout = client.config.datanode_connect_timeout.min(patience);
        let address = datanode::address(location)?;
        let id = row.block.ok_or(TransferFault::Unexpected { field: "block" })?;
        let range = BlockRange { offset: range.start, len: range.end - range.start };
        let mut fresh = false;
        loop {
            let lease = client.peers.get(address, fresh, connect_timeout, patience).await?;
            let block = datanode::extended(&client.defaults.block_pool_id, id);
            match BlockReader::open(lease.connection, block, &client.holder, range).await {
                // The datanode closed an idle connection just when it was used again.
                Err(TransferFault::Io(_)) if lease.reused => fresh = true,
                result => return result,
            }
        }
    }
}

impl FileCore {
    /// Reads a range of block `index`, which the block had when the caller looked. What is not there any more reads as zeros.
    pub(super) async fn read_block_range(&self, index: u64, range: Range<u64>) -> Result<Bytes, DfsError> {
        let gives_up = Instant::now() + self.fs.wait;
        let mut failed: HashSet<String> = HashSet::new();
        let mut last: Option<ReplicaFault> = None;
        let (mut pause, mut refreshes) = (Duration::ZERO, 0);
        loop {
            let row = self.row(index).await?;
            let length = row.as_ref().map_or(0, |row| super::read_table::length(row));
            let Some(row) = row.filter(|_| length > range.start) else {
                return Ok(Bytes::from(vec![0; (range.end - range.start) as usize]));
            };
            if length < range.end {
                // Cut meanwhile.
                let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
                bytes.extend_from_slice(&Box::pin(self.read_block_range(index, range.start..length)).await?);
                bytes.resize((range.end - range.start) as usize, 0);
                return Ok(bytes.into());
            }
            let Some(choice) = self.choose(&row, &failed) else {
                let hopeless = self.all_corrupt(&row) && refreshes >= MAX_REFRESHES_CORRUPT;
                if hopeless || Instant::now() + pause >= gives_up {
                    return Err(DfsError::BlockMissing {
                        path: self.subject.clone(),
                        block: row.block.as_ref().map(ToString::to_string).unwrap_or_default(),
                        last: last.map(Box::new),
                    });
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).clamp(FIRST_REFRESH_DELAY, MAX_REFRESH_DELAY);
                refreshes += 1;
                failed.clear();
                self.relocate(index).await?;
                continue;
            };
            match self.read_hedged((index, &row), &choice, range.clone(), &failed).await {
                Ok(bytes) => return Ok(bytes),
                Err(fault) => {
                    self.note_fault(index, &row, &choice, &fault);
                    failed.insert(datanode::uuid(&choice.location).to_owned());
                    last = Some(ReplicaFault { datanode: datanode::name(&choice.location), fault });
                }
            }
        }
    }

    /// Reads from a replica, and when that is late from another one as well.
    async fn read_hedged(
        &self,
        (index, row): (u64, &LocatedBlock),
        choice: &Choice,
        range: Range<u64>,
        failed: &HashSet<String>,
    ) -> Result<Bytes, TransferFault> {
        let client = &self.fs.client;
        let uuid = datanode::uuid(&choice.location);
        let (kind, began) = (ReadKind::of((range.end - range.start) as usize), Instant::now());
        let patience = choice.hurried.then(|| client.times.patience(uuid, kind));
        let second = async {
            let location = self.choose_other(row, failed, uuid)?;
            let other = Choice { location, hurried: true };
            let outcome = self.read_replica(row, &other, range.clone()).await;
            outcome.map_err(|fault| self.note_fault(index, row, &other, &fault)).ok()
        };
        let first = self.read_replica(row, choice, range.clone());
        match race(first, patience, &client.times, second).await {
            Raced::First(outcome) => {
                if outcome.is_ok() {
                    client.note_read(uuid, kind, began.elapsed());
                }
                outcome
            }
            Raced::Second(bytes, Some(fault)) => {
                self.note_fault(index, row, choice, &fault);
                Ok(bytes)
            }
            Raced::Second(bytes, None) => {
                tracing::debug!(file = %self.subject, datanode = %datanode::name(&choice.location), "late, another one was asked");
                client.note_lost(uuid);
                Ok(bytes)
            }
        }
    }

    async fn read_replica(
        &self,
        row: &LocatedBlock,
        choice: &Choice,
        range: Range<u64>,
    ) -> Result<Bytes, TransferFault> {
        let client = &self.fs.client;
        let patience = patience(&client.config, choice.hurried);
        let mut reader = self.open_reader(row, &choice.location, patience, range.clone()).await?;
        let mut buffer = client.read_buffers.take((range.end - range.start) as usize);
        reader.fill(&mut buffer, &client.read_buffers).await?;
        match reader.finish().await {
            Ok(connection) => client.peers.put(connection),
            // All bytes came and were verified: only the connection is lost.
            Err(fault) => tracing::debug!(file = %self.subject, %fault, "read did not end cleanly"),
        }
        Ok(buffer.freeze())
    }

    /// Starts reading a range of a replica.
    pub(super) async fn open_reader(
        &self,
        row: &LocatedBlock,
        location: &ReplicaLocation,
        patience: Duration,
        range: Range<u64>,
    ) -> Result<BlockReader, TransferFault> {
        self.fs.open_reader(row, location, patience, range).await
    }

    /// The nearest replica that has not failed, slow datanodes last; of equally near ones the one in use. Tells whether
    /// another one could take its place at once.
    pub(super) fn choose_preferring(
        &self,
        row: &LocatedBlock,
        failed: &HashSet<String>,
        in_use: &str,
    ) -> Option<(ReplicaLocation, bool)> {
        let Choice { location, hurried } = self.choose(row, failed)?;
        let preferred = row
            .locations
            .iter()
            .find(|other| datanode::uuid(other) == in_use && datanode::is_as_near(other, &location));
        let usable = preferred.filter(|other| {
            let id = row.block.map_or(0, |block| block.id);
            !failed.contains(in_use)
                && !self.fs.client.slow.contains(in_use)
                && !self.state().table.is_corrupt(id, datanode::uuid(other))
        });
        Some((usable.cloned().unwrap_or(location), hurried))
    }

    /// The nearest replica that has not failed, slow datanodes last.
    fn choose(&self, row: &LocatedBlock, failed: &HashSet<String>) -> Option<Choice> {
        let id = row.block.map_or(0, |block| block.id);
        let state = self.state();
        let usable = row.locations.iter().filter(|location| {
            let uuid = datanode::uuid(location);
            !failed.contains(uuid) && !state.table.is_corrupt(id, uuid)
        });
        let slow = &self.fs.client.slow;
        let (slow, fast): (Vec<_>, Vec<_>) = usable.partition(|l| slow.contains(datanode::uuid(l)));
        let hurried = fast.len() > 1;
        let location = fast.into_iter().chain(slow).next()?.clone();
        Some(Choice { location, hurried })
    }

    /// The nearest replica of another datanode than `except` that has not failed and was not slow lately.
    pub(super) fn choose_other(
        &self,
        row: &LocatedBlock,
        failed: &HashSet<String>,
        except: &str,
    ) -> Option<ReplicaLocation> {
        let id = row.block.map_or(0, |block| block.id);
        let state = self.state();
        let usable = |location: &&ReplicaLocation| {
            let uuid = datanode::uuid(location);
            uuid != except
                && !failed.contains(uuid)
                && !state.table.is_corrupt(id, uuid)
                && !self.fs.client.slow.contains(uuid)
        };
        row.locations.iter().find(usable).cloned()
    }

    fn all_corrupt(&self, row: &LocatedBlock) -> bool {
        let id = row.block.map_or(0, |block| block.id);
        let state = self.state();
        !row.locations.is_empty()
            && row.locations.iter().all(|l| state.table.is_corrupt(id, datanode::uuid(l)))
    }

    /// Remembers what a replica did wrong; a corrupt one is reported.
    fn note_fault(&self, index: u64, row: &LocatedBlock, choice: &Choice, fault: &TransferFault) {
        let uuid = datanode::uuid(&choice.location);
        let id = row.block.map_or(0, |block| block.id);
        tracing::debug!(file = %self.subject, block = id, datanode = %datanode::name(&choice.location), %fault, "replica failed");
        if matches!(fault, TransferFault::Timeout) {
            self.fs.client.slow.note(uuid);
        }
        if !fault.is_corruption() {
            return;
        }
        {
            let mut state = self.state();
            if state.write.writers.contains_key(&index) {
                // It may have been read while it was being overwritten.
                return;
            }
            state.table.note_corrupt(id, uuid);
        }
        let bad = LocatedBlock { locations: vec![choice.location.clone()], ..row.clone() };
        tracing::warn!(file = %self.subject, datanode = %datanode::name(&choice.location), "corrupt replica, reported");
        let client = Arc::clone(&self.fs.client);
        self.fs.spawn(async move {
            let context = client.namenode.context();
            let request = v1::ReportBadBlocksRequest { context, blocks: vec![bad] };
            let sent =
                client.namenode.call("", request, |mut s, r| async move { s.report_bad_blocks(r).await });
            if let Err(error) = sent.await {
                tracing::warn!(%error, "a corrupt replica could not be reported");
            }
        });
    }

    // ---- where blocks are ----

    /// Block `index`, asked for if it is not known; none: a hole.
    pub(super) async fn row(&self, index: u64) -> Result<Option<Arc<LocatedBlock>>, DfsError> {
        {
            let state = self.state();
            if state.table.is_known(index) {
                return Ok(state.table.row(index).cloned());
            }
        }
        self.relocate(index).await?;
        Ok(self.state().table.row(index).cloned())
    }

    /// Asks where the blocks from `index` on are. What is being written here is known better.
    async fn relocate(&self, index: u64) -> Result<(), DfsError> {
        let until = index.saturating_add(LOCATED_AT_ONCE);
        let start = index.saturating_mul(self.block_size);
        let length = until.saturating_mul(self.block_size).saturating_sub(start);
        let answer: LocatedBlocks = self.fs.locate(self.inode, start, length).await?;
        let mut state = self.state();
        let state = &mut *state;
        // Blocks that were not known yet may be those of a later content.
        if answer.status.as_ref().is_some_and(|status| state.noticed(status)) {
            self.streams.clear();
        }
        if !state.knows_best() {
            state.table.shed();
        }
        let write = &state.write;
        let keep = |index| write.writers.contains_key(&index) || write.finished.contains_key(&index);
        state.table.learn(index, Some(until), answer, self.block_size, keep);
        Ok(())
    }

    /// Sees to it that all blocks of a range are known.
    pub(super) async fn locate_range(&self, range: Range<u64>) -> Result<(), DfsError> {
        let mut index = range.start / self.block_size;
        let end = range.end.div_ceil(self.block_size);
        while index < end {
            let known = self.state().table.known_until(index);
            if known > index {
                index = known;
            } else {
                self.relocate(index).await?;
                if self.state().table.known_until(index) <= index {
                    return Err(DfsError::incomplete(&self.subject, "blocks"));
                }
            }
        }
        Ok(())
    }
}
