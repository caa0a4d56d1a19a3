//! States of one replica and the transitions between them. Pure: no files, no clock, no threads.
//!
//! | from                     | event                      | to        |
//! |--------------------------|----------------------------|-----------|
//! | -                        | `create`                   | Rbw       |
//! | -                        | `create_temporary`         | Temporary |
//! | -                        | `found_unfinished`         | Rwr       |
//! | Rbw, Temporary           | `finalize`                 | Finalized |
//! | Temporary                | `become_rbw`               | Rbw       |
//! | Finalized                | `append`                   | Rbw       |
//! | Finalized, Rbw, Rwr (1)  | `recover_append`           | Rbw       |
//! | Rbw, Rwr (1)             | `recover_rbw`              | Rbw       |
//! | Rbw, Rwr (1)             | `recover_random`           | Rbw       |
//! | Finalized, Rbw, Rwr (1)  | `recover_close`            | Finalized |
//! | Finalized, Rbw, Rwr (1)  | `recover_close_random`     | Finalized |
//! | Finalized, Rwr           | `close_found`              | Finalized |
//! | Finalized, Rbw, Rwr, Rur | `begin_recovery`           | Rur       |
//! | Rur                      | `finish_recovery`          | Finalized |
//!
//! (1) If it is intact, or its writer can resume it: the datanode stopped, the machine did not. HDFS takes such a replica back only if
//! the stop was announced. What was acknowledged is in the page cache, and the writer knows how long that is.
//!
//! Invariants: `acked <= length`; a stamp never goes down; a refused transition changes nothing.

mod state;
mod transition_error;

use std::fmt;

use dfs_proto::{BlockId, GenerationStamp, v1};

pub use self::state::ReplicaState;
pub use self::transition_error::TransitionError;

/// One incarnation of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockRef {
    /// Block.
    pub id: BlockId,
    /// Incarnation.
    pub stamp: GenerationStamp,
}

impl BlockRef {
    /// From raw numbers of a message.
    pub const fn new(id: u64, stamp: u64) -> Self {
        Self { id: BlockId(id), stamp: GenerationStamp(stamp) }
    }

    /// The message form.
    pub const fn to_proto(self, length: u64) -> v1::Block {
        v1::Block { id: self.id.get(), generation_stamp: self.stamp.get(), length }
    }
}

impl From<&v1::Block> for BlockRef {
    fn from(block: &v1::Block) -> Self {
        Self { id: block.block_id(), stamp: block.stamp() }
    }
}

impl fmt::Display for BlockRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.id, self.stamp)
    }
}

/// Recovery in progress on a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recovery {
    original: ReplicaState,
    id: GenerationStamp,
}

/// What is known of a replica found unfinished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remains {
    /// Acknowledged bytes may be missing or damaged.
    Doubtful,
    /// All that was acknowledged is there, unless its end is damaged: its writer, who knows the length, may go on with it. What was not
    /// acknowledged may be torn: beside better replicas it decides nothing.
    Resumable,
    /// All that was acknowledged is there, and nothing is torn.
    Intact,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    block: BlockRef,
    state: ReplicaState,
    length: u64,
    acked: u64,
    /// Of one found unfinished.
    remains: Remains,
    recovery: Option<Recovery>,
}

impl Replica {
    fn new(block: BlockRef, state: ReplicaState, length: u64) -> Self {
        Self { block, state, length, acked: length, remains: Remains::Doubtful, recovery: None }
    }

    /// A new replica that a client writes.
    pub fn create(block: BlockRef) -> Self {
        Self::new(block, ReplicaState::Rbw, 0)
    }

    /// A new replica that is copied in.
    pub fn create_temporary(block: BlockRef) -> Self {
        Self::new(block, ReplicaState::Temporary, 0)
    }

    /// A closed replica.
    pub fn finalized(block: BlockRef, length: u64) -> Self {
        Self::new(block, ReplicaState::Finalized, length)
    }

    /// A replica found unfinished at start; `length` bytes match their checksums.
    pub fn found_unfinished(block: BlockRef, length: u64) -> Self {
        Self::new(block, ReplicaState::Rwr, length)
    }

    /// The same, of a replica written at any offset, after the end of the datanode alone: the machine went on, so
    /// everything that was acknowledged is there and its writer may go on with it.
    pub fn found_intact(block: BlockRef, length: u64) -> Self {
        Self { remains: Remains::Intact, ..Self::found_unfinished(block, length) }
    }

    /// The same, of a replica with a torn chunk that was being written, or one that is written from start to end, whose end may have
    /// been cut off.
    pub fn found_resumable(block: BlockRef, length: u64) -> Self {
        Self { remains: Remains::Resumable, ..Self::found_unfinished(block, length) }
    }

    /// Id and stamp.
    pub const fn block(&self) -> BlockRef {
        self.block
    }

    /// State.
    pub const fn state(&self) -> ReplicaState {
        self.state
    }

    /// Bytes on disk that have checksums.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Bytes that readers may be told of: for a replica being written, those that this member and all after
    /// it acknowledged. A replica found unfinished at start shows all that it has; HDFS shows none until
    /// it is recovered, which makes flushed data unreadable for the time.
    pub const fn visible_length(&self) -> u64 {
        self.acked
    }

    /// The recovery that has begun, if one has.
    pub fn recovery_id(&self) -> Option<GenerationStamp> {
        self.recovery.map(|recovery| recovery.id)
    }

    /// State before a recovery began, or the state.
    pub fn original_state(&self) -> ReplicaState {
        self.recovery.map_or(self.state, |r| r.original)
    }

    /// Data up to `end` is on disk with its checksums.
    pub fn received(&mut self, end: u64) {
        self.length = self.length.max(end);
    }

    /// All members from here on have data up to `end`.
    pub fn acknowledged(&mut self, end: u64) {
        self.acked = self.acked.max(end.min(self.length));
    }

    /// Closes the replica.
    pub fn finalize(&mut self) -> Result<(), TransitionError> {
        match self.state {
            ReplicaState::Rbw | ReplicaState::Temporary => {
                self.state = ReplicaState::Finalized;
                self.acked = self.length;
                Ok(())
            }
            ReplicaState::Finalized | ReplicaState::Rwr | ReplicaState::Rur => Err(self.wrong_state()),
        }
    }

    /// A copied replica joins a pipeline: everything copied was acknowledged by the other members.
    pub fn become_rbw(&mut self) -> Result<(), TransitionError> {
        if self.state != ReplicaState::Temporary {
            return Err(self.wrong_state());
        }
        self.state = ReplicaState::Rbw;
        self.acked = self.length;
        Ok(())
    }

    /// Reopens a closed replica of at least `expected` bytes under a higher stamp. What is behind that many bytes was cut
    /// off in the namespace: the caller cuts the replica to the returned length.
    pub fn append(&mut self, stamp: GenerationStamp, expected: u64) -> Result<u64, TransitionError> {
        if self.state != ReplicaState::Finalized {
            return Err(self.wrong_state());
        }
        if stamp <= self.block.stamp {
            return Err(self.wrong_stamp(stamp));
        }
        self.check_length(expected, u64::MAX)?;
        self.state = ReplicaState::Rbw;
        self.cut(expected);
        self.block.stamp = stamp;
        Ok(expected)
    }

    /// Goes on with a replica written at any offset whose pipeline broke. Nothing is dropped: the writer sends all
    /// packets again that were not acknowledged, so what they left here does not matter.
    pub fn recover_random(
        &mut self,
        known: GenerationStamp,
        stamp: GenerationStamp,
        least: u64,
    ) -> Result<u64, TransitionError> {
        if !self.can_go_on() {
            return Err(self.wrong_state());
        }
        self.check_stamps(known, stamp)?;
        self.check_length(least, u64::MAX)?;
        self.go_on();
        self.block.stamp = stamp;
        Ok(self.length)
    }

    /// [`Self::append`] again after a failed attempt that may have reopened this replica already.
    /// The caller cuts the replica to the returned length.
    pub fn recover_append(
        &mut self,
        known: GenerationStamp,
        stamp: GenerationStamp,
        expected: u64,
    ) -> Result<u64, TransitionError> {
        if self.state != ReplicaState::Finalized && !self.can_go_on() {
            return Err(self.wrong_state());
        }
        self.check_stamps(known, stamp)?;
        self.check_length(expected, u64::MAX)?;
        self.go_on();
        self.cut(expected);
        self.block.stamp = stamp;
        Ok(expected)
    }

    /// Goes on with a replica whose pipeline broke. What was never acknowledged may be damaged and is
    /// dropped: the caller cuts the replica to the returned length; the writer sends it again.
    pub fn recover_rbw(
        &mut self,
        known: GenerationStamp,
        stamp: GenerationStamp,
        least: u64,
        most: u64,
    ) -> Result<u64, TransitionError> {
        if !self.can_go_on() {
            return Err(self.wrong_state());
        }
        self.check_stamps(known, stamp)?;
        if self.acked < least || self.acked > most {
            return Err(self.wrong_length(least, most));
        }
        self.go_on();
        self.cut(self.acked);
        self.block.stamp = stamp;
        Ok(self.acked)
    }

    /// Closes a replica of exactly `expected` bytes whose close failed elsewhere in the pipeline.
    pub fn recover_close(
        &mut self,
        known: GenerationStamp,
        stamp: GenerationStamp,
        expected: u64,
    ) -> Result<(), TransitionError> {
        if self.state != ReplicaState::Finalized && !self.can_go_on() {
            return Err(self.wrong_state());
        }
        self.check_stamps(known, stamp)?;
        self.check_length(expected, expected)?;
        self.go_on();
        self.state = ReplicaState::Finalized;
        self.acked = self.length;
        self.block.stamp = stamp;
        Ok(())
    }

    /// Closes a replica written at any offset whose close failed elsewhere in the pipeline. The caller cuts it to
    /// `expected` bytes.
    pub fn recover_close_random(
        &mut self,
        known: GenerationStamp,
        stamp: GenerationStamp,
        expected: u64,
    ) -> Result<(), TransitionError> {
        let mut cut = self.clone();
        cut.check_length(expected, u64::MAX)?;
        cut.cut(expected);
        cut.recover_close(known, stamp, expected)?;
        *self = cut;
        Ok(())
    }

    /// Closes a replica found unfinished at start that is what the namespace says of the complete block. A
    /// closed one that fits stays as it is.
    pub fn close_found(&mut self, stamp: GenerationStamp, expected: u64) -> Result<(), TransitionError> {
        if !matches!(self.state, ReplicaState::Finalized | ReplicaState::Rwr) {
            return Err(self.wrong_state());
        }
        self.check_stamps(stamp, stamp)?;
        self.check_length(expected, expected)?;
        self.state = ReplicaState::Finalized;
        self.remains = Remains::Doubtful;
        Ok(())
    }

    /// First step of block recovery: fences writers off. `known` is the stamp the namenode knows;
    /// `id` is the recovery's, and of two recoveries the higher wins. Repeating one is allowed.
    pub fn begin_recovery(
        &mut self,
        known: GenerationStamp,
        id: GenerationStamp,
    ) -> Result<(), TransitionError> {
        if self.state == ReplicaState::Temporary {
            return Err(self.wrong_state());
        }
        if self.block.stamp < known || self.block.stamp >= id {
            return Err(self.wrong_stamp(id));
        }
        if let Some(running) = self.recovery
            && running.id > id
        {
            return Err(TransitionError::RecoveryRuns { block: self.block, running: running.id });
        }
        // Its datanode stopped and nothing else did: it is as good as one that is being written, and better than one that lost
        // something or has torn chunks.
        let whole = self.state == ReplicaState::Rwr && self.remains == Remains::Intact;
        let original = if whole { ReplicaState::Rbw } else { self.original_state() };
        self.recovery = Some(Recovery { original, id });
        self.state = ReplicaState::Rur;
        self.remains = Remains::Doubtful;
        Ok(())
    }

    /// Second step of block recovery: `length` was agreed on. The caller cuts the replica to it.
    pub fn finish_recovery(&mut self, id: GenerationStamp, length: u64) -> Result<(), TransitionError> {
        let Some(recovery) = self.recovery else {
            return Err(self.wrong_state());
        };
        if recovery.id != id {
            return Err(TransitionError::RecoveryRuns { block: self.block, running: recovery.id });
        }
        if length > self.length {
            return Err(self.wrong_length(0, length));
        }
        self.cut(length);
        self.acked = length;
        self.block.stamp = id;
        self.state = ReplicaState::Finalized;
        self.recovery = None;
        Ok(())
    }

    /// Whether its writer may go on with it.
    fn can_go_on(&self) -> bool {
        self.state == ReplicaState::Rbw
            || (self.state == ReplicaState::Rwr && self.remains != Remains::Doubtful)
    }

    fn go_on(&mut self) {
        self.state = ReplicaState::Rbw;
        self.remains = Remains::Doubtful;
    }

    fn cut(&mut self, length: u64) {
        self.length = length;
        self.acked = self.acked.min(length);
    }

    fn check_stamps(&self, known: GenerationStamp, asked: GenerationStamp) -> Result<(), TransitionError> {
        if self.block.stamp < known || self.block.stamp > asked {
            return Err(self.wrong_stamp(asked));
        }
        Ok(())
    }

    fn check_length(&self, least: u64, most: u64) -> Result<(), TransitionError> {
        if self.length < least || self.length > most {
            return Err(self.wrong_length(least, most));
        }
        Ok(())
    }

    fn wrong_state(&self) -> TransitionError {
        TransitionError::State { block: self.block, state: self.state }
    }

    fn wrong_stamp(&self, asked: GenerationStamp) -> TransitionError {
        TransitionError::Stamp { block: self.block, asked }
    }

    fn wrong_length(&self, least: u64, most: u64) -> TransitionError {
        TransitionError::Length { block: self.block, length: self.length, acked: self.acked, least, most }
    }
}

#[cfg(test)]
mod tests;
