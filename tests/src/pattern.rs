//! Generated file content: every byte follows from a seed and its offset, so that content of any size
//! can be written, read and compared without keeping it.

use anyhow::{Result, ensure};

use crate::rng::mix;

/// Bytes of one generated word.
const WORD: u64 = 8;

/// `len` bytes of the endless content number `seed`, from `offset`.
pub fn pattern(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    let first = offset / WORD;
    let skip = (offset % WORD) as usize;
    let words = (skip + len).div_ceil(WORD as usize) as u64;
    let mut out = Vec::with_capacity((words * WORD) as usize);
    for word in first..first + words {
        out.extend_from_slice(&mix(seed.wrapping_mul(0x1000_0000_01b3) ^ word).to_le_bytes());
    }
    out.drain(..skip);
    out.truncate(len);
    out
}

/// Part of a file's content: `len` bytes of `pattern(seed, start, ..)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    seed: u64,
    start: u64,
    len: u64,
}

/// The content of a file as a list of pieces of generated content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    extents: Vec<Extent>,
}

impl Content {
    /// `len` bytes of content number `seed`.
    pub fn new(seed: u64, len: u64) -> Self {
        let mut content = Self::default();
        content.append(seed, len);
        content
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.extents.iter().map(|extent| extent.len).sum()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds `len` bytes of content number `seed` at the end.
    pub fn append(&mut self, seed: u64, len: u64) {
        if len > 0 {
            self.extents.push(Extent { seed, start: 0, len });
        }
    }

    /// Cuts the content to `len` bytes; it has at least so many.
    pub fn truncate(&mut self, len: u64) {
        let mut left = len;
        self.extents.retain_mut(|extent| {
            extent.len = extent.len.min(left);
            left -= extent.len;
            extent.len > 0
        });
    }

    /// At most `len` bytes from `offset`; fewer where the content ends.
    pub fn slice(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let mut at = 0;
        for extent in &self.extents {
            let from = offset.max(at);
            let to = offset.saturating_add(len).min(at + extent.len);
            if from < to {
                out.extend(pattern(extent.seed, extent.start + from - at, (to - from) as usize));
            }
            at += extent.len;
        }
        out
    }

    /// All bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.slice(0, self.len())
    }
}

/// Compares two byte strings; a difference is reported by its place, not by megabytes of output.
pub fn ensure_same(what: &str, got: &[u8], want: &[u8]) -> Result<()> {
    let first = got.iter().zip(want).position(|(a, b)| a != b);
    ensure!(
        first.is_none(),
        "{what}: byte {} of {} is {:#04x}, wanted {:#04x}",
        first.unwrap_or_default(),
        want.len(),
        got[first.unwrap_or_default()],
        want[first.unwrap_or_default()],
    );
    ensure!(got.len() == want.len(), "{what}: {} bytes, wanted {}", got.len(), want.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_piece_of_a_pattern_equals_that_piece_of_the_whole() {
        let whole = pattern(3, 0, 100);
        for start in 0..40 {
            for len in 0..40 {
                assert_eq!(pattern(3, start, len as usize), whole[start as usize..][..len as usize]);
            }
        }
        assert_ne!(pattern(4, 0, 100), whole);
    }

    #[test]
    fn content_is_the_sum_of_what_was_appended_and_cut() {
        let mut content = Content::new(1, 10);
        content.append(2, 10);
        content.truncate(15);
        content.append(3, 1);
        let expected = [pattern(1, 0, 10), pattern(2, 0, 5), pattern(3, 0, 1)].concat();
        assert_eq!(content.bytes(), expected);
        assert_eq!(content.slice(8, 4), expected[8..12]);
        assert_eq!(content.slice(15, 100), expected[15..]);
        assert!(content.slice(16, 1).is_empty());
        content.truncate(0);
        assert!(content.is_empty());
    }
}
