//! Bytes of one file that were written and not handed to a pipeline yet.
//!
//! Pure: no locks, no tasks. Invariants: pieces do not overlap and are not empty; what was written later has replaced what
//! was written before; `bytes` is the sum of their lengths. Small neighbours are gathered in one piece that ends with its
//! [`UNIT_BYTES`] of the file at the latest, so that a piece written in sequence is a packet without another copy.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// Bytes of a full packet, and what has to be there in one run before it is written back while the application goes on:
/// with less, packet headers and system calls begin to count.
pub(crate) const UNIT_BYTES: u64 = 1 << 20;

/// Writes of at least this many bytes are kept as they are, smaller ones are copied next to their neighbours: a copy of
/// less than this costs less than a packet of its own.
const KEEP_BYTES: usize = 256 << 10;

/// The pieces, by offset in the file.
#[derive(Debug, Default)]
pub(crate) struct DirtyBuffer {
    pieces: BTreeMap<u64, Piece>,
    bytes: u64,
}

#[derive(Debug)]
enum Piece {
    /// Gathered from small writes; may grow.
    Growing(BytesMut),
    /// As it was written.
    Fixed(Bytes),
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::Growing(data) => data.len() as u64,
            Self::Fixed(data) => data.len() as u64,
        }
    }

    /// Keeps the bytes before `at` and returns those from there on.
    fn split_off(&mut self, at: u64) -> Self {
        let at = at as usize;
        match self {
            Self::Growing(data) => Self::Growing(data.split_off(at)),
            Self::Fixed(data) => Self::Fixed(data.split_off(at)),
        }
    }

    fn slice(&self, range: Range<u64>) -> Bytes {
        let range = range.start as usize..range.end as usize;
        match self {
            Self::Growing(data) => Bytes::copy_from_slice(&data[range]),
            Self::Fixed(data) => data.slice(range),
        }
    }

    fn freeze(self) -> Bytes {
        match self {
            Self::Growing(data) => data.freeze(),
            Self::Fixed(data) => data,
        }
    }
}

impl DirtyBuffer {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// From the first byte held to the last.
    pub(crate) fn range(&self) -> Option<Range<u64>> {
        let (first, _) = self.pieces.first_key_value()?;
        let (last, piece) = self.pieces.last_key_value()?;
        Some(*first..last + piece.len())
    }

    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Takes a write over what was there.
    pub(crate) fn insert(&mut self, mut offset: u64, mut data: Bytes) {
        if data.len() >= KEEP_BYTES {
            self.remove(offset..offset + data.len() as u64);
            self.bytes += data.len() as u64;
            self.pieces.insert(offset, Piece::Fixed(data));
            return;
        }
        while !data.is_empty() {
            let in_unit = (UNIT_BYTES - offset % UNIT_BYTES).min(data.len() as u64);
            let part = data.split_to(in_unit as usize);
            self.gather(offset, &part);
            offset += in_unit;
        }
    }

    /// Puts a small write, which lies in one unit, into the piece it touches, or begins one.
    fn gather(&mut self, offset: u64, part: &[u8]) {
        let end = offset + part.len() as u64;
        let unit = offset - offset % UNIT_BYTES;
        let before = self.pieces.range(..=offset).next_back().map(|(at, piece)| (*at, *at + piece.len()));
        let touched = before.filter(|(at, until)| *at >= unit && *until >= offset);
        if let Some((at, until)) = touched
            && matches!(self.pieces.get(&at), Some(Piece::Growing(_)))
        {
            if end > until {
                self.remove(until..end);
            }
            if let Some(Piece::Growing(data)) = self.pieces.get_mut(&at) {
                let into = (offset - at) as usize;
                let over = (until.min(end) - offset) as usize;
                data[into..into + over].copy_from_slice(&part[..over]);
                data.extend_from_slice(&part[over..]);
                self.bytes += (part.len() - over) as u64;
            }
            return;
        }
        // What follows a neighbour is likely to be a sequence: room for all of it at once.
        let sequence = before.is_some_and(|(_, until)| until == offset);
        let room = if sequence { (unit + UNIT_BYTES - offset) as usize } else { part.len() };
        let mut data = BytesMut::with_capacity(room);
        data.extend_from_slice(part);
        self.remove(offset..end);
        self.bytes += part.len() as u64;
        self.pieces.insert(offset, Piece::Growing(data));
    }

    /// Forgets a range.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        drop(self.take(range));
    }

    /// Takes a range out: its pieces in order.
    pub(crate) fn take(&mut self, range: Range<u64>) -> Vec<(u64, Bytes)> {
        let mut taken = Vec::new();
        if range.is_empty() {
            return taken;
        }
        self.split_at(range.start);
        self.split_at(range.end);
        while let Some((&at, _)) = self.pieces.range(range.clone()).next() {
            if let Some(piece) = self.pieces.remove(&at) {
                self.bytes -= piece.len();
                taken.push((at, piece.freeze()));
            }
        }
        taken
    }

    /// Takes everything out.
    pub(crate) fn take_all(&mut self) -> Vec<(u64, Bytes)> {
        self.bytes = 0;
        std::mem::take(&mut self.pieces).into_iter().map(|(at, piece)| (at, piece.freeze())).collect()
    }

    /// Makes an edge between two pieces at `offset`.
    fn split_at(&mut self, offset: u64) {
        let Some((&at, piece)) = self.pieces.range_mut(..offset).next_back() else { return };
        if at + piece.len() > offset {
            let right = piece.split_off(offset - at);
            self.pieces.insert(offset, right);
        }
    }

    /// Whole units in the run of bytes without a gap around `offset`; empty if there are none.
    pub(crate) fn whole_units(&self, offset: u64) -> Range<u64> {
        let Some((&at, piece)) = self.pieces.range(..=offset).next_back() else { return 0..0 };
        let (mut start, mut end) = (at, at + piece.len());
        if offset >= end {
            return 0..0;
        }
        // One unit back is far enough: what lies before was looked at when it was written.
        let far_enough = offset.saturating_sub(UNIT_BYTES);
        for (&at, piece) in self.pieces.range(..start).rev() {
            if at + piece.len() != start || start <= far_enough {
                break;
            }
            start = at;
        }
        for (&at, piece) in self.pieces.range(end..) {
            if at != end || end - offset > UNIT_BYTES {
                break;
            }
            end += piece.len();
        }
        let (first, last) = (start.next_multiple_of(UNIT_BYTES), end - end % UNIT_BYTES);
        if first < last { first..last } else { 0..0 }
    }

    /// Copies of (or shares in) what overlaps a range, in order.
    pub(crate) fn overlay(&self, range: Range<u64>) -> Vec<(u64, Bytes)> {
        let before = self.pieces.range(..range.start).next_back();
        let reaching = before.filter(|(at, piece)| **at + piece.len() > range.start);
        let inside = self.pieces.range(range.clone());
        let cut = |(at, piece): (&u64, &Piece)| {
            let (from, until) = ((*at).max(range.start), (*at + piece.len()).min(range.end));
            (from, piece.slice(from - at..until - at))
        };
        reaching.into_iter().chain(inside).map(cut).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes of the model.
    const SPAN: u64 = 3 * UNIT_BYTES;

    #[derive(Clone, Debug)]
    enum Step {
        Write { offset: u64, len: u64, with: u8 },
        Take { from: u64, to: u64 },
        Units { at: u64 },
        Look { from: u64, to: u64 },
    }

    fn places() -> impl Strategy<Value = (u64, u64)> {
        let near_edges = (0u64..=3, -5000i64..5000)
            .prop_map(|(unit, by)| (unit * UNIT_BYTES).saturating_add_signed(by).min(SPAN - 1));
        let lengths = prop_oneof![1u64..9000, 200_000u64..300_000, Just(UNIT_BYTES), Just(2 * UNIT_BYTES)];
        (prop_oneof![near_edges, 0..SPAN], lengths)
            .prop_map(|(offset, len)| (offset, (offset + len).min(SPAN)))
    }

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (places(), any::<u8>())
                .prop_map(|((from, to), with)| Step::Write { offset: from, len: to - from, with }),
            2 => places().prop_map(|(from, to)| Step::Take { from, to }),
            1 => (0..SPAN).prop_map(|at| Step::Units { at }),
            2 => places().prop_map(|(from, to)| Step::Look { from, to }),
        ]
    }

    fn check(pieces: &[(u64, Bytes)], model: &[Option<u8>], range: Range<u64>) {
        let mut expected: Vec<Option<u8>> = vec![None; model.len()];
        expected[range.start as usize..range.end as usize]
            .copy_from_slice(&model[range.start as usize..range.end as usize]);
        for (at, data) in pieces {
            for (index, byte) in data.iter().enumerate() {
                let slot = &mut expected[*at as usize + index];
                assert_eq!(slot.take(), Some(*byte), "at {}", *at as usize + index);
            }
        }
        assert!(expected.iter().all(Option::is_none), "bytes are missing");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn behaves_like_an_array_of_bytes(steps in proptest::collection::vec(steps(), 1..16)) {
            let mut buffer = DirtyBuffer::default();
            let mut model: Vec<Option<u8>> = vec![None; SPAN as usize];
            for step in steps {
                match step {
                    Step::Write { offset, len, with } => {
                        buffer.insert(offset, vec![with; len as usize].into());
                        model[offset as usize..(offset + len) as usize].fill(Some(with));
                    }
                    Step::Take { from, to } => {
                        check(&buffer.take(from..to), &model, from..to);
                        model[from as usize..to as usize].fill(None);
                    }
                    Step::Units { at } => {
                        let units = buffer.whole_units(at);
                        prop_assert!(units.start % UNIT_BYTES == 0 && units.end % UNIT_BYTES == 0);
                        prop_assert!(model[units.start as usize..units.end as usize].iter().all(Option::is_some));
                    }
                    Step::Look { from, to } => check(&buffer.overlay(from..to), &model, from..to),
                }
            }
            let held = model.iter().filter(|byte| byte.is_some()).count() as u64;
            prop_assert_eq!(buffer.bytes(), held);
            prop_assert_eq!(buffer.is_empty(), held == 0);
            check(&buffer.take_all(), &model, 0..SPAN);
            prop_assert!(buffer.is_empty() && buffer.bytes() == 0);
        }
    }

    #[test]
    fn small_writes_in_sequence_become_one_piece_a_unit() {
        let mut buffer = DirtyBuffer::default();
        let step = 100_000u64;
        for index in 0..30u64 {
            buffer.insert(index * step, vec![index as u8; step as usize].into());
            assert_eq!(buffer.whole_units(index * step).is_empty(), index < 10, "{index}");
        }
        assert_eq!(buffer.whole_units(29 * step), UNIT_BYTES..2 * UNIT_BYTES);
        assert_eq!(buffer.take(0..2 * UNIT_BYTES).len(), 2);
    }

    #[test]
    fn a_page_written_again_and_again_stays_one_piece() {
        let mut buffer = DirtyBuffer::default();
        for with in 0..100u8 {
            buffer.insert(8192, vec![with; 4096].into());
        }
        assert_eq!(buffer.bytes(), 4096);
        assert_eq!(buffer.overlay(0..u64::MAX), [(8192, Bytes::from(vec![99; 4096]))]);
    }
}
