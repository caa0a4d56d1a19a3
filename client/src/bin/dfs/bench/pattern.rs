//! The bytes that benchmarks write and check.
//!
//! Content is a pseudo-random buffer repeated with a period that is no multiple of any block, packet
//! or chunk size, starting at a place that depends on the file. So bytes that come back from the wrong
//! offset, block or file do not match, and nothing compresses or is all zeros. Pieces are slices of one
//! shared buffer: making them costs no copy and no random numbers while the clock runs.

use bytes::Bytes;

/// Longest piece handed out at once.
pub const PIECE_BYTES: usize = 1 << 20;

/// Bytes after which the content repeats; odd and prime to every power of two.
const PERIOD_BYTES: usize = PIECE_BYTES + 4093;

/// How far apart two neighbouring files start in the period.
const FILE_STRIDE_BYTES: u64 = 65_521;

/// Seed of the generator; any odd number serves.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Source of content.
#[derive(Clone)]
pub struct Pattern {
    /// One period and, after it, the start of the next, so that every piece is one slice.
    buffer: Bytes,
}

impl Pattern {
    /// Fills the buffer.
    pub fn new() -> Self {
        let mut state = SEED;
        let mut next = || {
            // Weyl sequence with a 64-bit finalizer: every word differs and no bit is constant.
            state = state.wrapping_add(SEED);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed ^ (mixed >> 27)).to_le_bytes()
        };
        let mut buffer = Vec::with_capacity(PERIOD_BYTES + PIECE_BYTES);
        while buffer.len() < PERIOD_BYTES {
            buffer.extend_from_slice(&next());
        }
        buffer.truncate(PERIOD_BYTES);
        buffer.extend_from_within(..PIECE_BYTES);
        Self { buffer: Bytes::from(buffer) }
    }

    /// The content of file number `file` at `offset`: `len` bytes, at most [`PIECE_BYTES`].
    pub fn piece(&self, file: u64, offset: u64, len: usize) -> Bytes {
        let start = Self::place(file, offset);
        self.buffer.slice(start..start + len.min(PIECE_BYTES))
    }

    /// Whether `data` is the content of file number `file` at `offset`.
    pub fn matches(&self, file: u64, offset: u64, data: &[u8]) -> bool {
        let mut at = offset;
        data.chunks(PIECE_BYTES).all(|part| {
            let start = Self::place(file, at);
            at += part.len() as u64;
            self.buffer[start..start + part.len()] == *part
        })
    }

    fn place(file: u64, offset: u64) -> usize {
        let place = file.wrapping_mul(FILE_STRIDE_BYTES).wrapping_add(offset) % PERIOD_BYTES as u64;
        place as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_parts_of_one_content() {
        let pattern = Pattern::new();
        let (a, b) = (pattern.piece(3, 5_000_000, 70_000), pattern.piece(3, 5_060_000, 10_000));
        assert_eq!(a[60_000..], b[..]);
        assert!(pattern.matches(3, 5_000_000, &a));
        let long: Vec<u8> = (0..3).flat_map(|i| pattern.piece(1, i << 20, PIECE_BYTES)).collect();
        assert!(pattern.matches(1, 0, &long));
    }

    #[test]
    fn bytes_from_elsewhere_do_not_match() {
        let pattern = Pattern::new();
        let piece = pattern.piece(0, 0, 4096);
        assert!(!pattern.matches(1, 0, &piece), "another file");
        for shift in [1, 4096, 65_536, 1 << 20, 128 << 20, 1 << 30] {
            assert!(!pattern.matches(0, shift, &piece), "offset {shift}");
        }
        let mut flipped = piece.to_vec();
        flipped[4095] ^= 1;
        assert!(!pattern.matches(0, 0, &flipped));
        assert!(!pattern.matches(0, 0, &[0; 4096]));
    }
}
