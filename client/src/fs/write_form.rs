//! Whether the packets of a block go along a chain of its members or to all of them at once.
//!
//! A chain carries each byte once over the writer's network; a star takes half the time for a small packet that is synced. What is
//! written decides: each small synced packet speaks for the star, and so does the first one; bytes that nobody waits for
//! speak for the chain. A pipeline that stands is set up anew in the other form, under a new generation stamp, which costs two
//! calls of the namenode: so the second and every later change to the star needs twice the signs that the one before needed.

use super::write_block::BlockWriter;
use crate::{DfsError, TransferFault};

/// Largest packet that is small.
const SMALL_BYTES: usize = 64 << 10;

/// Bytes since the last small synced packet that make a star a chain.
const BULK_BYTES: usize = 512 << 10;

/// Small synced packets in a row that make a chain a star the first time.
const FIRST_STREAK: u32 = 4;

/// They are doubled this often at most.
const MAX_DOUBLINGS: u32 = 8;

/// The form that suits what was written.
#[derive(Debug, Default)]
pub(super) struct WriteForm {
    star: bool,
    /// Something was written.
    used: bool,
    /// Small synced packets in a row.
    streak: u32,
    /// Bytes since the last of them.
    bulk: usize,
    /// Changes to the star.
    changes: u32,
}

impl WriteForm {
    /// A packet was queued.
    pub(super) fn queued(&mut self, data_len: usize, sync: bool) {
        let first = !std::mem::replace(&mut self.used, true);
        if sync && data_len <= SMALL_BYTES && self.bulk < BULK_BYTES {
            self.streak = self.streak.saturating_add(1);
            self.bulk = 0;
            if !self.star && (first || self.streak >= FIRST_STREAK << self.changes.min(MAX_DOUBLINGS)) {
                self.star = true;
                self.changes += 1;
            }
            return;
        }
        self.bulk = if sync { 0 } else { self.bulk.saturating_add(data_len) };
        if data_len > SMALL_BYTES {
            self.streak = 0;
        }
        if self.bulk >= BULK_BYTES || (sync && data_len > BULK_BYTES) {
            self.star = false;
        }
    }

    /// All members are to be written to directly.
    pub(super) fn is_star(&self) -> bool {
        self.star
    }
}

impl BlockWriter {
    /// The pipeline has the wrong form for what is to be sent: nothing more is, and when all is acknowledged it is set up anew.
    pub(super) fn is_to_reform(&self) -> bool {
        let Some(block) = &self.block else { return false };
        // A new block of which nothing was acknowledged, or one that is ending, stays as it is.
        let settled = block.is_reopened() || block.block.length > 0;
        let wrong = block.direct != self.form.is_star() && block.members.len() > 1;
        wrong && settled && self.finishing.is_none() && !self.unsent.is_empty()
    }

    /// Sets the pipeline up anew in the other form.
    pub(super) async fn reform(&mut self) -> Result<(), DfsError> {
        let star = self.form.is_star();
        let Some(block) = &mut self.block else { return Ok(()) };
        block.direct = star;
        block.pipeline = None;
        tracing::debug!(file = %self.target.path, block = %block.block, star, "pipeline formed anew");
        self.rebuild(Vec::new(), TransferFault::Timeout).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn small_synced_packets_go_to_all_and_bulk_goes_along_the_chain() {
        let mut form = WriteForm::default();
        form.queued(4096, true);
        assert!(form.is_star(), "the first packet is small and synced");
        form.queued(4096, false);
        assert!(form.is_star());
        form.queued(MIB, false);
        assert!(!form.is_star(), "bulk");
        let until_star = |form: &mut WriteForm| {
            let mut count = 0;
            while !form.is_star() {
                form.queued(4096, true);
                count += 1;
            }
            count
        };
        let first = until_star(&mut form);
        form.queued(MIB, true);
        assert!(!form.is_star());
        let second = until_star(&mut form);
        assert!(first > FIRST_STREAK && second > first, "{first} {second}");
        let mut form = WriteForm::default();
        form.queued(MIB, false);
        form.queued(0, true);
        assert!(!form.is_star(), "one sync at the end of many bytes");
    }
}
