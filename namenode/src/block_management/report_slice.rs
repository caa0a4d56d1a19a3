//! Replicas as a full report names them, checked.

use dfs_proto::v1::{self, ReplicaState};
use dfs_proto::{BlockId, GenerationStamp};

/// One replica of a full report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedReplica {
    /// Block.
    pub id: BlockId,
    /// Generation stamp of the replica.
    pub stamp: GenerationStamp,
    /// Length in bytes.
    pub length: u64,
    /// State on the datanode.
    pub state: ReplicaState,
}

/// What is wrong with a slice of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportSliceError {
    /// The columns have different numbers of rows.
    #[error("block report: {ids} ids, {stamps} stamps, {lengths} lengths, {states} states")]
    Columns {
        /// Block ids.
        ids: usize,
        /// Stamps.
        stamps: usize,
        /// Lengths.
        lengths: usize,
        /// States.
        states: usize,
    },
    /// Block ids do not ascend.
    #[error("block report: block {id} follows block {previous}")]
    Order {
        /// The block before.
        previous: BlockId,
        /// The block that does not follow it.
        id: BlockId,
    },
    /// A state is unknown.
    #[error("block report: block {id} has unknown replica state {state}")]
    State {
        /// Block.
        id: BlockId,
        /// Number of the state.
        state: i32,
    },
}

impl ReportedReplica {
    /// Rows of a slice that follows a slice ending with block `previous`.
    pub fn rows(
        slice: &v1::BlockReportSlice,
        previous: Option<BlockId>,
    ) -> Result<Vec<Self>, ReportSliceError> {
        let (ids, stamps) = (slice.block_ids.len(), slice.generation_stamps.len());
        let (lengths, states) = (slice.lengths.len(), slice.states.len());
        if stamps != ids || lengths != ids || states != ids {
            return Err(ReportSliceError::Columns { ids, stamps, lengths, states });
        }
        let mut last = previous;
        let mut rows = Vec::with_capacity(ids);
        let columns =
            slice.block_ids.iter().zip(&slice.generation_stamps).zip(&slice.lengths).zip(&slice.states);
        for (((id, stamp), length), state) in columns {
            let id = BlockId(*id);
            if let Some(previous) = last.filter(|previous| *previous >= id) {
                return Err(ReportSliceError::Order { previous, id });
            }
            let state =
                ReplicaState::try_from(*state).map_err(|_| ReportSliceError::State { id, state: *state })?;
            rows.push(Self { id, stamp: GenerationStamp(*stamp), length: *length, state });
            last = Some(id);
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_slices_are_refused() {
        let good = v1::BlockReportSlice {
            block_ids: vec![3, 5],
            generation_stamps: vec![7, 8],
            lengths: vec![10, 20],
            states: vec![0, 1],
            ..Default::default()
        };
        let rows = ReportedReplica::rows(&good, Some(BlockId(2))).expect("a good slice");
        assert_eq!(rows[1].state, ReplicaState::Rbw);
        assert_eq!((rows[0].id, rows[0].stamp, rows[0].length), (BlockId(3), GenerationStamp(7), 10));
        assert_eq!(
            ReportedReplica::rows(&good, Some(BlockId(3))),
            Err(ReportSliceError::Order { previous: BlockId(3), id: BlockId(3) })
        );
        let short = v1::BlockReportSlice { lengths: vec![1], ..good.clone() };
        assert_eq!(
            ReportedReplica::rows(&short, None),
            Err(ReportSliceError::Columns { ids: 2, stamps: 2, lengths: 1, states: 2 })
        );
        let odd = v1::BlockReportSlice { states: vec![0, 9], ..good };
        assert_eq!(
            ReportedReplica::rows(&odd, None),
            Err(ReportSliceError::State { id: BlockId(5), state: 9 })
        );
    }
}
