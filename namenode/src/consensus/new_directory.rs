//! A namenode's directory that is made from a backup.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::BasicNode;

use super::dir_lock::DirLock;
use super::durable_file;
use super::error::ConsensusError;
use super::raft_types::{self, LogId, Membership, StoredMembership, Vote};
use super::segmented_log::SegmentedLog;
use super::state_store::{self, ReceivedStore, StateStore};
use super::vote_file::{self, VoteFile};
use crate::namesystem::{Store, Table, Tables};

/// Memory for the store's pages.
const CACHE_BYTES: usize = 64 << 20;

/// Memory for what is changed after the rows are there: a few records.
const LAYER_BYTES: usize = 1 << 20;

/// A restored namespace passes over so many terms: the namenode from which the backup is went on under some of them, and what it told
/// clients of its log must not seem to be in this one.
const RESTORED_TERMS: u64 = 1 << 20;

/// A directory that is being filled with rows.
pub struct NewDirectory {
    dir: PathBuf,
    node_id: u64,
    store: ReceivedStore,
    lock: DirLock,
}

/// A directory with all rows, but no log and no vote.
pub struct FilledDirectory {
    dir: PathBuf,
    node_id: u64,
    store: StateStore,
    last: LogId,
    _lock: DirLock,
}

impl NewDirectory {
    /// Begins in `dir`, which is empty or does not exist.
    pub fn begin(dir: &Path, node_id: u64) -> Result<Self, ConsensusError> {
        durable_file::make_dir(dir)?;
        if vote_file::read(dir).is_ok() {
            let name = std::ffi::OsString::from("vote");
            return Err(ConsensusError::ForeignDirectory { dir: dir.to_owned(), name });
        }
        vote_file::check_directory(dir)?;
        let lock = DirLock::take(dir)?;
        let store = ReceivedStore::create(dir.join(state_store::FILE_NAME))?;
        Ok(Self { dir: dir.to_owned(), node_id, store, lock })
    }

    /// Adds rows to a table.
    pub fn insert(&self, table: Table, rows: &[(&[u8], &[u8])]) -> Result<(), ConsensusError> {
        self.store.insert(table, rows)
    }

    /// All rows are there: makes the namespace one that was restored from a backup of `created_ns`, with this node as its
    /// only member.
    pub fn filled(self, created_ns: i64) -> Result<FilledDirectory, ConsensusError> {
        let Self { dir, node_id, store, lock } = self;
        store.finish()?;
        let (store, mut position) = StateStore::open(&dir, CACHE_BYTES, LAYER_BYTES)?;
        let path = store.path().to_owned();
        let Some(last) = position.last else { return Err(ConsensusError::NoDirectory { dir }) };
        let node = (node_id, BasicNode::new(""));
        let alone = Membership::new(vec![[node_id].into()], std::collections::BTreeMap::from([node]));
        position.membership = StoredMembership::new(Some(last), alone);
        {
            let failed = |source| ConsensusError::Rows { path: path.clone(), source };
            let rows = store.rows();
            let mut tables = Tables::open(&rows).map_err(failed)?;
            tables.mark_restored(created_ns).map_err(failed)?;
            position.store(&mut tables, true, false);
            tables.commit();
        }
        store.checkpoint()?;
        Ok(FilledDirectory { dir, node_id, store, last, _lock: lock })
    }
}

impl FilledDirectory {
    /// The namespace.
    pub fn rows(&self) -> Arc<Store> {
        self.store.rows()
    }

    /// Makes log and vote: now the directory is a namenode's.
    pub fn finish(self) -> Result<(), ConsensusError> {
        let last = raft_types::entry_id(&self.last);
        SegmentedLog::create(&self.dir.join("log"), last)?;
        let (votes, _) = VoteFile::open(&self.dir, self.node_id)?;
        votes.save(&Vote::new(last.term + RESTORED_TERMS, self.node_id))
    }
}
