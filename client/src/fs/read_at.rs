//! Puts together what a reader sees: replicas and holes below, packets on their way over them, dirty bytes on top.
//!
//! What is not acknowledged is taken before the replicas are asked, so that it cannot slip away between the two.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::try_join_all;

use super::open_file::FileCore;
use super::write_state::Layer;
use crate::DfsError;

impl FileCore {
    /// Up to `len` bytes from `offset`; fewer only at the end of the file.
    pub(super) async fn read(self: &Arc<Self>, offset: u64, len: usize) -> Result<Bytes, DfsError> {
        let (range, layers) = {
            let state = self.state();
            let end = offset.saturating_add(len as u64).min(state.size);
            if offset >= end {
                return Ok(Bytes::new());
            }
            (offset..end, state.write.overlay(offset..end))
        };
        if let [Layer { range: covered, data: Some(data) }] = layers.as_slice()
            && *covered == range
        {
            return Ok(data.clone());
        }
        if layers.is_empty()
            && let Some(bytes) = self.read_from_whole(&range).await
        {
            return Ok(bytes);
        }
        if layers.is_empty()
            && let Some(bytes) = self.read_local(&range).await
        {
            return Ok(bytes);
        }
        if layers.is_empty()
            && let Some(bytes) = self.read_from_stream(&range).await
        {
            return Ok(bytes);
        }
        let mut parts = Vec::new();
        for gap in uncovered(&range, &layers) {
            self.add_parts(gap, &mut parts).await?;
        }
        if layers.is_empty()
            && let [(part, index)] = parts.as_slice()
            && *part == range
        {
            return self.read_part(part, *index).await;
        }
        let mut bytes = BytesMut::zeroed((range.end - range.start) as usize);
        let mut put = |from: u64, data: &[u8]| {
            let at = (from - range.start) as usize;
            bytes[at..at + data.len()].copy_from_slice(data);
        };
        let read = parts.iter().map(|(part, index)| self.read_part(part, *index));
        for ((part, _), data) in parts.iter().zip(try_join_all(read).await?) {
            put(part.start, &data);
        }
        for layer in layers {
            match layer.data {
                Some(data) => put(layer.range.start, &data),
                None => put(layer.range.start, &vec![0; (layer.range.end - layer.range.start) as usize]),
            }
        }
        Ok(bytes.freeze())
    }

    async fn read_part(&self, part: &Range<u64>, index: u64) -> Result<Bytes, DfsError> {
        let start = index * self.block_size;
        self.read_block_range(index, part.start - start..part.end - start).await
    }

    /// The parts of a range that blocks have, each with its block's index. The rest is a hole.
    async fn add_parts(&self, range: Range<u64>, parts: &mut Vec<(Range<u64>, u64)>) -> Result<(), DfsError> {
        let mut at = range.start;
        while at < range.end {
            let index = at / self.block_size;
            let start = index * self.block_size;
            let block_end = start.saturating_add(self.block_size).min(range.end);
            if let Some(row) = self.row(index).await? {
                let end = (start + super::read_table::length(&row)).min(block_end);
                if at < end {
                    parts.push((at..end, index));
                }
            }
            at = block_end;
        }
        Ok(())
    }
}

/// What of `range` no layer covers.
fn uncovered(range: &Range<u64>, layers: &[Layer]) -> Vec<Range<u64>> {
    let mut covered: Vec<&Range<u64>> = layers.iter().map(|layer| &layer.range).collect();
    covered.sort_by_key(|range| range.start);
    let mut gaps = Vec::new();
    let mut at = range.start;
    for layer in covered {
        if layer.start > at {
            gaps.push(at..layer.start);
        }
        at = at.max(layer.end);
    }
    if at < range.end {
        gaps.push(at..range.end);
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_no_layer_covers() {
        type Pairs = &'static [(u64, u64)];
        let cases: [(Pairs, Pairs); 4] = [
            (&[], &[(10, 20)]),
            (&[(15, 17), (12, 16)], &[(10, 12), (17, 20)]),
            (&[(10, 11), (11, 20)], &[]),
            (&[(12, 20), (13, 14)], &[(10, 12)]),
        ];
        for (covered, gaps) in cases {
            let layers: Vec<Layer> =
                covered.iter().map(|(from, to)| Layer { range: *from..*to, data: None }).collect();
            let found: Vec<(u64, u64)> =
                uncovered(&(10..20), &layers).iter().map(|gap| (gap.start, gap.end)).collect();
            assert_eq!(found, gaps, "{covered:?}");
        }
    }
}
