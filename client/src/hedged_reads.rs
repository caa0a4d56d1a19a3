//! Reads of path clients, with a second question to another datanode when the first one is late.

use std::time::Instant;

use bytes::Bytes;

use crate::block_map::BlockMap;
use crate::hedge::{Raced, race};
use crate::read_times::ReadKind;
use crate::replica_reads::{Broken, Choice, OpenReplica, ReplicaReader};

/// Bytes of a long read that are waited for at once: what is asked for a second time is at most so much.
const MAX_STEP_BYTES: usize = 1 << 20;

/// What is to be read next.
pub(crate) struct Part {
    /// Offset in the file.
    pub at: u64,
    /// Bytes wanted from there on; the block may end before.
    pub wanted: u64,
    pub choice: Choice,
    /// A read that has come to `at`.
    pub reader: Option<ReplicaReader>,
}

/// Bytes that were read, and the read if it goes on, or what broke it.
pub(crate) struct PartRead {
    pub bytes: usize,
    pub outcome: Result<Option<OpenReplica>, (Choice, Broken)>,
}

impl BlockMap {
    /// Fills the beginning of `into`, as far as the block goes and it is worth waiting for at once.
    pub(crate) async fn read_part(&self, part: Part, into: &mut [u8]) -> PartRead {
        let Part { at, wanted, choice, reader } = part;
        let range = choice.range(at, wanted);
        let step = usize::try_from(range.len).unwrap_or(usize::MAX).min(into.len()).min(MAX_STEP_BYTES);
        let (into, began) = (&mut into[..step], Instant::now());
        let kind = match ReadKind::of(step) {
            ReadKind::Small => ReadKind::Small,
            _ if reader.is_none() => ReadKind::Opening,
            kind => kind,
        };
        let pool = &self.client().read_buffers;
        let first = async {
            let mut reader = match reader {
                Some(reader) => reader,
                None => self.open_at(&choice, range).await?,
            };
            match reader.fill(into, pool).await {
                Ok(()) => Ok(reader),
                Err(fault) => Err(Broken { fault, reader: Some(reader) }),
            }
        };
        let second = async {
            let mut open = self.open_other(&choice, at, wanted).await?;
            let mut bytes = vec![0; step];
            match open.reader.fill(&mut bytes, pool).await {
                Ok(()) => Some((open, bytes)),
                Err(fault) => {
                    self.note_broken(&open.choice, &Broken { fault, reader: Some(open.reader) });
                    None
                }
            }
        };
        let times = &self.client().times;
        let raced = race(first, self.patience(&choice, kind), times, second).await;
        let open = match raced {
            Raced::First(Ok(reader)) => {
                self.note_read(&choice, kind, began.elapsed());
                OpenReplica { reader, choice }
            }
            Raced::First(Err(broken)) => {
                // What came before the fault was verified: it need not be read again.
                let good = broken.reader.as_ref().map_or(0, |reader| reader.position() - range.offset);
                let bytes = usize::try_from(good).unwrap_or(step).min(step);
                return PartRead { bytes, outcome: Err((choice, broken)) };
            }
            Raced::Second((open, bytes), failed) => {
                self.note_second(&choice, failed.as_ref());
                into[..step].copy_from_slice(&bytes);
                open
            }
        };
        let rest = if open.reader.is_done() {
            self.finish(open).await;
            None
        } else {
            Some(open)
        };
        PartRead { bytes: step, outcome: Ok(rest) }
    }

    /// A second question was needed: the first one failed, or was later.
    fn note_second(&self, choice: &Choice, failed: Option<&Broken>) {
        match failed {
            Some(broken) => self.note_broken(choice, broken),
            None => self.note_lost(choice),
        }
    }

    /// The next piece, and the read that goes on behind it. No bytes: the range has ended.
    pub(crate) async fn read_piece(
        &self,
        part: Part,
    ) -> Result<(OpenReplica, Option<Bytes>), (Choice, Broken)> {
        let Part { at, wanted, choice, reader } = part;
        let kind = if reader.is_none() { ReadKind::Opening } else { ReadKind::Piece };
        let (pool, began) = (&self.client().read_buffers, Instant::now());
        let first = async {
            let mut reader = match reader {
                Some(reader) => reader,
                None => self.open_at(&choice, choice.range(at, wanted)).await?,
            };
            match reader.next_bytes(pool).await {
                Ok(bytes) => Ok((reader, bytes)),
                Err(fault) => Err(Broken { fault, reader: Some(reader) }),
            }
        };
        let second = async {
            let mut open = self.open_other(&choice, at, wanted).await?;
            match open.reader.next_bytes(pool).await {
                Ok(bytes) => bytes.map(|bytes| (open, bytes)),
                Err(fault) => {
                    self.note_broken(&open.choice, &Broken { fault, reader: Some(open.reader) });
                    None
                }
            }
        };
        let times = &self.client().times;
        match race(first, self.patience(&choice, kind), times, second).await {
            Raced::First(Ok((reader, bytes))) => {
                self.note_read(&choice, kind, began.elapsed());
                Ok((OpenReplica { reader, choice }, bytes))
            }
            Raced::First(Err(broken)) => Err((choice, broken)),
            Raced::Second((open, bytes), failed) => {
                self.note_second(&choice, failed.as_ref());
                Ok((open, Some(bytes)))
            }
        }
    }
}
