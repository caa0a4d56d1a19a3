//! Sizes and holes of an open file.
//!
//! What changes the file's shape has it for itself: nobody writes meanwhile, and nothing is handed to the writers.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use dfs_proto::ErrorKind;

use super::open_file::FileCore;
use super::open_file_state::FileState;
use crate::DfsError;

impl FileCore {
    /// Cuts the file, or lets it grow with a hole.
    pub(super) async fn set_len(self: &Arc<Self>, size: u64) -> Result<(), DfsError> {
        if size > self.max_bytes() {
            return Err(self.refused(ErrorKind::TooLarge));
        }
        loop {
            self.take_lease().await?;
            let _shape = self.shape.write().await;
            if !self.state().lease {
                continue;
            }
            self.drop_dirty(size..u64::MAX);
            // What is cut must not be written to meanwhile, and the namenode must know it as ended.
            let first = size / self.block_size;
            let ended = |state: &FileState| state.write.writers.range(first..).next().is_none();
            if size < self.state().size {
                {
                    let mut state = self.state();
                    let open: Vec<u64> =
                        state.write.writers.range(first..).map(|(index, _)| *index).collect();
                    for index in open {
                        self.finish(&mut state, index);
                    }
                }
                self.wait_for(ended).await?;
                self.commit(false).await?;
            }
            let _commit = self.commit_turn.lock().await;
            let status = self.fs.set_size(self.inode, size).await?;
            let mut state = self.state();
            state.resized(status, self.block_size);
            self.streams.clear();
            return Ok(());
        }
    }

    /// Makes a range zeros; the file grows unless `keep_size`.
    pub(super) async fn zero(
        self: &Arc<Self>,
        offset: u64,
        len: u64,
        keep_size: bool,
    ) -> Result<(), DfsError> {
        let end = self.checked_end(offset, len)?;
        loop {
            self.take_lease().await?;
            let _shape = self.shape.write().await;
            if !self.state().lease {
                continue;
            }
            let end = if keep_size { end.min(self.state().size) } else { end };
            if offset >= end {
                return Ok(());
            }
            self.drop_dirty(offset..end);
            self.locate_range(offset..end).await?;
            let mut state = self.state();
            for (index, range) in self.covered(&state, offset..end) {
                self.send_zeros(&mut state, index, range);
            }
            state.touched(end);
            self.streams.clear();
            return Ok(());
        }
    }

    /// Lets the file reach to the end of a range, unless `keep_size`. Room is not set aside: blocks are placed when they are
    /// written.
    pub(super) async fn allocate(
        self: &Arc<Self>,
        offset: u64,
        len: u64,
        keep_size: bool,
    ) -> Result<(), DfsError> {
        let end = self.checked_end(offset, len)?;
        if keep_size {
            return Ok(());
        }
        loop {
            self.take_lease().await?;
            let _shape = self.shape.read().await;
            let mut state = self.state();
            if state.lease {
                if end > state.size {
                    state.touched(end);
                }
                return Ok(());
            }
        }
    }

    fn checked_end(&self, offset: u64, len: u64) -> Result<u64, DfsError> {
        match offset.checked_add(len).filter(|end| *end <= self.max_bytes()) {
            Some(end) => Ok(end),
            None => Err(self.refused(ErrorKind::TooLarge)),
        }
    }

    fn drop_dirty(&self, range: Range<u64>) {
        let freed = {
            let mut state = self.state();
            let before = state.write.dirty.bytes();
            state.write.dirty.remove(range);
            before - state.write.dirty.bytes()
        };
        self.fs.budget.give(freed as usize);
    }

    /// The parts of a range that blocks cover, or will when all that was sent has arrived.
    fn covered(&self, state: &FileState, range: Range<u64>) -> Vec<(u64, Range<u64>)> {
        let (first, last) = (range.start / self.block_size, (range.end - 1) / self.block_size);
        let rows = state.table.rows(first..last + 1).map(|(index, _)| index);
        let written = state.write.writers.range(first..=last).map(|(index, _)| *index);
        let indexes: BTreeSet<u64> = rows.chain(written).collect();
        let part = |index: u64| {
            let start = index * self.block_size;
            let sent = state.write.writers.get(&index).map_or(0, |writer| writer.end);
            let end = start + state.table.length(index).max(sent);
            let (from, until) = (range.start.max(start), range.end.min(end));
            (from < until).then(|| (index, from - start..until - start))
        };
        indexes.into_iter().filter_map(part).collect()
    }
}
