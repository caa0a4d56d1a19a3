//! Where a file has data and where it has holes.
//!
//! Blocks that are missing and what blocks do not cover are holes; within a block one of its datanodes is asked. If
//! none answers, the block counts as data, which is always true enough: a hole may be told as data.

use std::ops::Range;
use std::sync::Arc;

use dfs_proto::v1::LocatedBlock;

use super::open_file::FileCore;
use super::read_table::length;
use crate::replica_reads::patience;
use crate::{DfsError, datanode};

/// Ranges asked for in one call: most replicas have one.
const EXTENTS_AT_ONCE: u32 = 256;

/// Ranges with data in a block, ascending; what is before `end` has been told of.
struct Extents {
    ranges: Vec<Range<u64>>,
    end: u64,
}

impl FileCore {
    /// First offset from `offset` on that has data.
    pub(super) async fn seek_data(self: &Arc<Self>, offset: u64) -> Result<Option<u64>, DfsError> {
        let size = self.settle_all().await?;
        let mut at = offset;
        while at < size {
            let Some((index, row)) = self.next_block(at, size).await? else { return Ok(None) };
            let start = index * self.block_size;
            if let Some(found) = self.data_in_block(&row, at.saturating_sub(start)).await
                && start + found < size
            {
                return Ok(Some(start + found));
            }
            at = start + self.block_size;
        }
        Ok(None)
    }

    /// First offset from `offset` on that has no data.
    pub(super) async fn seek_hole(self: &Arc<Self>, offset: u64) -> Result<u64, DfsError> {
        let size = self.settle_all().await?;
        let mut at = offset;
        while at < size {
            let index = at / self.block_size;
            let start = index * self.block_size;
            let row = match self.next_block(at, size).await? {
                Some((found, row)) if found == index => row,
                Some(_) | None => return Ok(at),
            };
            let hole = self.hole_in_block(&row, at - start).await;
            if hole < self.block_size {
                return Ok((start + hole).min(size));
            }
            at = start + self.block_size;
        }
        Ok(size)
    }

    /// First byte with data in a block, from `at` on.
    async fn data_in_block(&self, row: &LocatedBlock, mut at: u64) -> Option<u64> {
        while at < length(row) {
            let extents = self.extents(row, at).await;
            let found = extents.ranges.iter().find(|range| range.end > at);
            if let Some(found) = found {
                return Some(at.max(found.start)).filter(|found| *found < length(row));
            }
            at = extents.end.max(at + 1);
        }
        None
    }

    /// First byte without data in a block, from `at` on: at the latest the one behind its end.
    async fn hole_in_block(&self, row: &LocatedBlock, mut at: u64) -> u64 {
        while at < length(row) {
            let asked_at = at;
            let extents = self.extents(row, at).await;
            for range in &extents.ranges {
                if range.start > at {
                    return at;
                }
                at = at.max(range.end);
            }
            // What was told of and has no data, or nothing at all was told.
            if at < extents.end.min(length(row)) || at == asked_at {
                return at;
            }
        }
        at.max(length(row)).min(self.block_size)
    }

    /// Some ranges with data of a block, from `at` on.
    async fn extents(&self, row: &LocatedBlock, at: u64) -> Extents {
        let all = Extents { ranges: std::iter::once(at..length(row)).collect(), end: length(row) };
        let Some(block) = row.block else { return all };
        let config = &self.fs.client.config;
        for (tried, location) in row.locations.iter().enumerate() {
            let patience = patience(config, tried + 1 < row.locations.len());
            match datanode::replica_extents(location, block, (at, EXTENTS_AT_ONCE), config, patience).await {
                Ok(answer) => {
                    let told = answer.extents.iter();
                    let ranges = told.map(|extent| extent.offset..extent.offset + extent.length).collect();
                    return Extents { ranges, end: answer.end };
                }
                Err(fault) => {
                    tracing::debug!(file = %self.subject, %block, datanode = %datanode::name(location), %fault,
                        "holes not told");
                }
            }
        }
        all
    }

    /// Writes everything back, so that only blocks count; tells the file's size.
    async fn settle_all(self: &Arc<Self>) -> Result<u64, DfsError> {
        let upto = {
            let _shape = self.shape.read().await;
            let mut state = self.state();
            self.write_back_all(&mut state, false);
            state.write.last_id
        };
        self.wait_for(|state| state.write.is_acknowledged(upto)).await?;
        Ok(self.state().size)
    }

    /// The first block that ends behind `at`.
    async fn next_block(&self, at: u64, size: u64) -> Result<Option<(u64, Arc<LocatedBlock>)>, DfsError> {
        self.locate_range(at..size).await?;
        let blocks = at / self.block_size..size.div_ceil(self.block_size);
        let state = self.state();
        Ok(state.table.rows(blocks).next().map(|(index, row)| (index, Arc::clone(row))))
    }
}
