//! The replicated state on disk: a redb store, and in it how far the log was applied.
//!
//! Everything, the namespace and the position in the log, changes in one transaction, so the store always holds the
//! state after exactly the entries it says. Transactions end in memory and reach redb many at a time
//! ([`crate::namesystem::Store`]); a durable transaction of redb (a checkpoint) is made now and then, and after a
//! crash the log is applied again from there. Each page is verified when it is read (`checked_file`).
//!
//! Three records in the `meta` table belong to consensus, each beginning with a version byte:
//!
//! | key               | value                                                                        |
//! |-------------------|------------------------------------------------------------------------------|
//! | `raft.applied`    | 1 (1), term (8), node id (8), index (8) of the last applied entry, sequence (8) |
//! | `raft.membership` | 1 (1), `RaftStoredMembership`                                                |
//! | `raft.terms`      | [`super::terms`]                                                             |
//!
//! Integers are little-endian. The sequence counts commands: it numbers each one uniquely, which the
//! index does not, since an entry holds many. The records are absent before the first entry.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use prost::Message;
use redb::{Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, WriteTransaction};

use super::checked_file::{CheckedFile, sums_path};
use super::durable_file;
use super::error::{ConsensusError, Damage};
use super::raft_types::{self, LogId, StoredMembership};
use super::record::u64_at;
use super::room::WaitForRoom;
use super::segment::EntryId;
use super::terms::Terms;
use crate::log;
use crate::namesystem::{Store, StoreError, Table, Tables};

/// Name of the store's file.
pub const FILE_NAME: &str = "state.redb";
const RECEIVED_FILE_NAME: &str = "received.redb";
const APPLIED_KEY: &str = "raft.applied";
const MEMBERSHIP_KEY: &str = "raft.membership";
const TERMS_KEY: &str = "raft.terms";
const VERSION: u8 = 1;
const APPLIED_BYTES: usize = 33;

/// The files of the store in `dir`, and of one that is about to take its place; not all of them are there.
pub fn files(dir: &Path) -> [PathBuf; 4] {
    let (store, received) = (dir.join(FILE_NAME), dir.join(RECEIVED_FILE_NAME));
    let (sums, received_sums) = (sums_path(&store), sums_path(&received));
    [store, sums, received, received_sums]
}

/// How far the log was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Last applied entry.
    pub last: Option<LogId>,
    /// Commands applied.
    pub sequence: u64,
    /// Membership at that entry.
    pub membership: StoredMembership,
    /// Who made the entries up to that one.
    pub terms: Terms,
}

impl Position {
    /// Term, leader and index of the last applied entry; zeros before the first one.
    pub fn last_entry(&self) -> (u64, u64, u64) {
        let id = self.last.map(|last| raft_types::entry_id(&last));
        id.map_or((0, 0, 0), |id| (id.term, id.node_id, id.index))
    }

    /// First entry that was not applied.
    pub fn next_index(&self) -> u64 {
        self.last.map_or(0, |id| id.index + 1)
    }

    /// Writes the position to a transaction. `membership` and `terms` say whether they changed.
    pub fn store(&self, tables: &mut Tables<'_>, membership: bool, terms: bool) {
        if let Some(last) = &self.last {
            tables.meta_put(APPLIED_KEY, &encode_applied(last, self.sequence));
        }
        if membership {
            let mut value = vec![VERSION];
            let message = raft_types::stored_membership_to_proto(&self.membership);
            value.extend_from_slice(&message.encode_to_vec());
            tables.meta_put(MEMBERSHIP_KEY, &value);
        }
        if terms {
            tables.meta_put(TERMS_KEY, &self.terms.encode());
        }
    }
}

fn encode_applied(last: &LogId, sequence: u64) -> [u8; APPLIED_BYTES] {
    let id = raft_types::entry_id(last);
    let mut value = [VERSION; APPLIED_BYTES];
    value[1..9].copy_from_slice(&id.term.to_le_bytes());
    value[9..17].copy_from_slice(&id.node_id.to_le_bytes());
    value[17..25].copy_from_slice(&id.index.to_le_bytes());
    value[25..33].copy_from_slice(&sequence.to_le_bytes());
    value
}

pub(super) fn decode_applied(value: &[u8]) -> Result<(LogId, u64), Damage> {
    match value {
        [VERSION, fields @ ..] if value.len() == APPLIED_BYTES => {
            let id =
                EntryId { term: u64_at(fields, 0), node_id: u64_at(fields, 8), index: u64_at(fields, 16) };
            Ok((raft_types::log_id(id), u64_at(fields, 24)))
        }
        [VERSION, ..] => Err(Damage::Short),
        [other, ..] => Err(Damage::Layout(u32::from(*other))),
        [] => Err(Damage::Short),
    }
}

pub(super) fn decode_membership(value: &[u8]) -> Result<StoredMembership, Damage> {
    match value {
        [VERSION, message @ ..] => {
            let message = log::RaftStoredMembership::decode(message).map_err(|_| Damage::Payload)?;
            Ok(raft_types::stored_membership_from_proto(message))
        }
        [other, ..] => Err(Damage::Layout(u32::from(*other))),
        [] => Err(Damage::Short),
    }
}

/// The store of a namenode. Clones share it.
#[derive(Clone)]
pub struct StateStore {
    path: PathBuf,
    cache_bytes: usize,
    layer_bytes: usize,
    room: WaitForRoom,
    /// Replaced when a snapshot is installed. Locked for moments only.
    rows: Arc<RwLock<Arc<Store>>>,
}

impl StateStore {
    /// Opens or creates the store in `dir`.
    pub fn open(
        dir: &Path,
        cache_bytes: usize,
        layer_bytes: usize,
    ) -> Result<(Self, Position), ConsensusError> {
        let path = dir.join(FILE_NAME);
        tidy(&path, &dir.join(RECEIVED_FILE_NAME))?;
        let is_new = !path.exists();
        let room = WaitForRoom::default();
        let database = open_released(&path, cache_bytes, &room)?;
        if is_new {
            // From here on the file holds what redb needs to open it quickly after a crash.
            let failed = |error: redb::Error| ConsensusError::store(&path, error);
            commit_durably(database.begin_write().map_err(|error| failed(error.into()))?).map_err(failed)?;
            durable_file::sync_parent(&path)?;
        }
        let (rows, position) = open_rows(&path, database, layer_bytes)?;
        Ok((Self { path, cache_bytes, layer_bytes, room, rows: Arc::new(RwLock::new(rows)) }, position))
    }

    /// What a full disk means to those who write the store. They fail at first.
    pub const fn room(&self) -> &WaitForRoom {
        &self.room
    }

    /// The rows. They are others when a snapshot was installed, so hold them for one request only.
    pub fn rows(&self) -> Arc<Store> {
        Arc::clone(&self.rows.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn failed(&self, source: StoreError) -> ConsensusError {
        ConsensusError::Rows { path: self.path.clone(), source }
    }

    /// Brings what was applied into redb, not durably.
    pub fn flush(&self) -> Result<(), ConsensusError> {
        self.rows().flush().map_err(|source| self.failed(source))
    }

    /// A consistent view of the state.
    pub fn begin_read(&self) -> Result<ReadTransaction, ConsensusError> {
        self.rows().begin_read().map_err(|source| self.failed(source))
    }

    /// A consistent view of the state, and how far the log is applied in it.
    pub fn begin_backup(&self) -> Result<(ReadTransaction, Position), ConsensusError> {
        let txn = self.begin_read()?;
        let position = read_position(&self.path, &txn)?;
        Ok((txn, position))
    }

    /// The store's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has redb verify all of the store in `dir`; it mends nothing that the next start would not.
    pub fn verify(dir: &Path, cache_bytes: usize) -> Result<(), ConsensusError> {
        let path = dir.join(FILE_NAME);
        if !path.exists() {
            return Ok(());
        }
        let mut database = open_released(&path, cache_bytes, &WaitForRoom::default())?;
        match database.check_integrity() {
            Ok(true) => Ok(()),
            Ok(false) => Err(ConsensusError::Unsound { path }),
            Err(error) => Err(ConsensusError::store(path, error)),
        }
    }

    /// Makes everything that was applied durable.
    pub fn checkpoint(&self) -> Result<(), ConsensusError> {
        self.rows().checkpoint().map_err(|source| self.failed(source))
    }

    /// Where a snapshot is received.
    pub fn received_path(&self) -> PathBuf {
        self.path.with_file_name(RECEIVED_FILE_NAME)
    }

    /// Replaces the state by a received one; durable on return. Readers keep what they hold.
    pub fn install(&self, received: &Path) -> Result<Position, ConsensusError> {
        take_place(received, &self.path)?;
        let database = open_database(&self.path, self.cache_bytes, &self.room)?;
        let (rows, position) = open_rows(&self.path, database, self.layer_bytes)?;
        let old = {
            let mut current = self.rows.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, rows)
        };
        drop(old);
        Ok(position)
    }
}

/// Gives a complete store another one's name, together with its sums. See [`tidy`] for a crash in between.
fn take_place(store: &Path, path: &Path) -> Result<(), ConsensusError> {
    let rename = |from: &Path, to: &Path| {
        std::fs::rename(from, to).map_err(|error| ConsensusError::io(to, "rename", error))?;
        durable_file::sync_parent(to)
    };
    rename(store, path)?;
    rename(&sums_path(store), &sums_path(path))
}

/// Ends what a crash interrupted: a store that has taken the place of another one gets its sums; one that was not
/// complete is removed.
fn tidy(path: &Path, received: &Path) -> Result<(), ConsensusError> {
    let sums = sums_path(received);
    if sums.exists() && !received.exists() {
        std::fs::rename(&sums, sums_path(path))
            .map_err(|error| ConsensusError::io(sums_path(path), "rename", error))?;
        return durable_file::sync_parent(path);
    }
    // The sums go first: without the store, they would be taken for those of its successor.
    durable_file::remove(&sums)?;
    durable_file::remove(received)
}

/// The rows of a database, and how far the log is applied in them.
fn open_rows(
    path: &Path,
    database: Database,
    layer_bytes: usize,
) -> Result<(Arc<Store>, Position), ConsensusError> {
    let txn = database.begin_read().map_err(|error| ConsensusError::store(path, error))?;
    let position = read_position(path, &txn)?;
    drop(txn);
    let rows = Store::new(database, layer_bytes)
        .map_err(|source| ConsensusError::Rows { path: path.to_owned(), source })?;
    Ok((Arc::new(rows), position))
}

/// A store file that is filled from a snapshot.
pub struct ReceivedStore {
    path: PathBuf,
    database: Database,
}

/// Memory for the cache of a store that is being received: it is written in key order and not read.
const RECEIVED_CACHE_BYTES: usize = 16 << 20;

impl ReceivedStore {
    /// Begins an empty store at `path`.
    pub fn create(path: PathBuf) -> Result<Self, ConsensusError> {
        durable_file::remove(&sums_path(&path))?;
        durable_file::remove(&path)?;
        let database = open_database(&path, RECEIVED_CACHE_BYTES, &WaitForRoom::default())?;
        Ok(Self { path, database })
    }

    /// Adds rows to a table.
    pub fn insert(&self, table: Table, rows: &[(&[u8], &[u8])]) -> Result<(), ConsensusError> {
        let failed = |error: redb::Error| ConsensusError::store(&self.path, error);
        let mut txn = self.database.begin_write().map_err(|error| failed(error.into()))?;
        txn.set_durability(Durability::None).map_err(|error| failed(error.into()))?;
        {
            let mut open = txn.open_table(table.definition()).map_err(|error| failed(error.into()))?;
            for (key, value) in rows {
                open.insert(*key, *value).map_err(|error| failed(error.into()))?;
            }
        }
        txn.commit().map_err(|error| failed(error.into()))
    }

    /// Completes the store; durable on return. Answers the position it holds.
    pub fn finish(self) -> Result<Position, ConsensusError> {
        let failed = |error: redb::Error| ConsensusError::store(&self.path, error);
        let txn = self.database.begin_write().map_err(|error| failed(error.into()))?;
        commit_durably(txn).map_err(failed)?;
        let txn = self.database.begin_read().map_err(|error| failed(error.into()))?;
        let position = read_position(&self.path, &txn)?;
        txn.close().map_err(|error| failed(error.into()))?;
        drop(self.database);
        Ok(position)
    }
}

fn open_database(path: &Path, cache_bytes: usize, room: &WaitForRoom) -> Result<Database, ConsensusError> {
    Database::builder()
        .set_cache_size(cache_bytes)
        .create_with_backend(CheckedFile::open(path, room)?)
        .map_err(|error| ConsensusError::store(path, error))
}

/// How long [`open_released`] waits. Requests of a namenode that has shut down end in this time.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);

/// How often it looks.
const RELEASE_PAUSE: Duration = Duration::from_millis(5);

/// Opens a store that nobody else may use, since the caller holds the directory's lock; but requests
/// that a namenode of this process was serving when it shut down may still read it for a moment.
fn open_released(path: &Path, cache_bytes: usize, room: &WaitForRoom) -> Result<Database, ConsensusError> {
    let deadline = Instant::now() + RELEASE_PATIENCE;
    loop {
        let file = CheckedFile::open(path, room)?;
        match Database::builder().set_cache_size(cache_bytes).create_with_backend(file) {
            Err(DatabaseError::DatabaseAlreadyOpen) if Instant::now() < deadline => {
                thread::sleep(RELEASE_PAUSE);
            }
            Err(error) => return Err(ConsensusError::store(path, error)),
            Ok(database) => return Ok(database),
        }
    }
}

/// Commits durably, together with what redb needs to open the file without walking all of it.
fn commit_durably(mut txn: WriteTransaction) -> Result<(), redb::Error> {
    txn.set_quick_repair(true);
    Ok(txn.commit()?)
}

fn read_position(path: &Path, txn: &ReadTransaction) -> Result<Position, ConsensusError> {
    let failed = |error: redb::Error| ConsensusError::store(path, error);
    let meta = match txn.open_table(Table::Meta.definition()) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Position::default()),
        Err(error) => return Err(failed(error.into())),
    };
    let get = |key: &str| meta.get(key.as_bytes()).map_err(|error| failed(error.into()));
    let damaged = |key| move |reason| ConsensusError::DamagedState { path: path.to_owned(), key, reason };
    let mut position = Position::default();
    if let Some(value) = get(APPLIED_KEY)? {
        let (last, sequence) = decode_applied(value.value()).map_err(damaged(APPLIED_KEY))?;
        position.last = Some(last);
        position.sequence = sequence;
    }
    if let Some(value) = get(MEMBERSHIP_KEY)? {
        position.membership = decode_membership(value.value()).map_err(damaged(MEMBERSHIP_KEY))?;
    }
    if let Some(value) = get(TERMS_KEY)? {
        position.terms = Terms::decode(value.value()).map_err(damaged(TERMS_KEY))?;
    }
    Ok(position)
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    #[test]
    fn golden_bytes() {
        let last = LogId::new(CommittedLeaderId::new(2, 3), 4);
        let value = encode_applied(&last, 5);
        let mut expected = vec![1]; // version
        expected.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]); // term
        expected.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]); // node id
        expected.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0]); // index
        expected.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0]); // sequence
        assert_eq!(value.as_slice(), expected);
        assert_eq!(decode_applied(&value), Ok((last, 5)));
        for end in 0..value.len() {
            assert_eq!(decode_applied(&value[..end]), Err(Damage::Short), "cut at {end}");
        }
        expected[0] = 2;
        assert_eq!(decode_applied(&expected), Err(Damage::Layout(2)));
        assert_eq!(decode_membership(&[2]), Err(Damage::Layout(2)));
    }
}
