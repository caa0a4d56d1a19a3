//! What administrators are told of one replica.

use std::fs::File;

use dfs_proto::v1::ReplicaDescription;
use dfs_proto::{BlockId, GenerationStamp};

use super::open_replica::{data_path, meta_path};
use super::replica_map::Entry;
use super::verify::{Verdict, Verifier};
use super::{Dataset, meta_file};
use crate::error::{DatanodeError, disk};
use crate::replica::{BlockRef, ReplicaState};

impl Dataset {
    /// Bytes of a replica's data file as they are, zeros where it has none.
    pub fn read_raw(&self, id: BlockId, offset: u64, len: usize) -> Result<Vec<u8>, DatanodeError> {
        let block = BlockRef { id, stamp: GenerationStamp(0) };
        let path = match self.map.get(id) {
            None => return Err(DatanodeError::ReplicaNotFound { block }),
            Some(Entry::Closed(closed)) => {
                let volume = self.volume(closed.volume).ok_or(DatanodeError::ReplicaNotFound { block })?;
                data_path(&volume, closed.home(), BlockRef { id, stamp: closed.stamp })
            }
            Some(Entry::Open(open)) => open.lock().data_path(&open.volume),
        };
        let mut bytes = vec![0; len];
        let file = File::open(&path).map_err(disk(&path))?;
        meta_file::read_up_to(&file, &mut bytes, offset).map_err(disk(&path))?;
        Ok(bytes)
    }

    /// Describes the replica of a block; rereads and verifies it first if `verify` says so.
    pub fn describe(&self, id: BlockId, verify: bool) -> ReplicaDescription {
        let verdict = verify.then(|| Verifier::default().verify(self, id, &mut |_| true));
        let (volume, home, block, length, state) = match self.map.get(id) {
            None => return ReplicaDescription::default(),
            Some(Entry::Closed(closed)) => {
                let Some(volume) = self.volume(closed.volume) else { return ReplicaDescription::default() };
                let block = BlockRef { id, stamp: closed.stamp };
                (volume, closed.home(), block, closed.length, ReplicaState::Finalized)
            }
            Some(Entry::Open(open)) => {
                let state = open.lock();
                let replica = &state.replica;
                (open.volume.clone(), state.home, replica.block(), replica.length(), replica.state())
            }
        };
        let (data, meta) = (data_path(&volume, home, block), meta_path(&volume, home, block));
        let known = self.damaged.reason(block).unwrap_or_default();
        let (verified, damage) = match verdict {
            None | Some(Verdict::Absent | Verdict::Open | Verdict::Stopped) => (false, known),
            Some(Verdict::Good { .. }) => (true, String::new()),
            Some(Verdict::Bad { error, .. }) => (true, error.to_string()),
            Some(Verdict::Failed(error)) => (false, error.to_string()),
        };
        ReplicaDescription {
            exists: true,
            block: Some(block.to_proto(length)),
            state: state.to_proto().into(),
            storage_id: volume.storage_id().to_owned(),
            volume: volume.dir().display().to_string(),
            data_length: std::fs::metadata(&data).ok().map(|m| m.len()),
            data_path: data.display().to_string(),
            meta_length: std::fs::metadata(&meta).ok().map(|m| m.len()),
            meta_path: meta.display().to_string(),
            verified,
            damage,
        }
    }
}
