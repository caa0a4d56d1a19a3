//! The rows of the namespace: redb, and in memory before it what changed lately.
//!
//! ```text
//! Tables (a transaction) -- publish --> active layer -- freeze --> frozen layer -- flush --> redb
//!                                            |                         |                      |
//!                                            +---- Snapshot and Tables read, newest first ----+
//! ```
//!
//! redb copies a path of pages in each table that a transaction touches, and again with the next one: for one small
//! change after the other that costs many times what the rows themselves do. So transactions end in memory, and redb
//! gets the newest version of each row of thousands of them at once. Nothing is lost by that: what is in
//! redb is durable only with a checkpoint anyway, and after a crash the log is applied again from there.
//!
//! Invariants:
//!
//! * A row is what its newest change says: own changes of the transaction, active layer, frozen layer, redb.
//! * redb changes only by flushes of whole layers, so it holds the state after some transaction.
//! * A snapshot sees all transactions published before it and none after, whatever is frozen or flushed meanwhile.
//! * One transaction at a time (its owner is the applier of the log); everything else may be called by any thread.
//!
//! Locking: `flushing` before `shared` before a layer's own lock; `hints` is held for moments, with nothing inside.

use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{Database, Durability, ReadTransaction, ReadableDatabase};

use super::base::Base;
use super::error::StoreError;
use super::hints::Hints;
use super::layer::{Changes, Cursor, Layer};
use super::row_range::{self, RowRange, Source, Value};
use super::tables::Table;

/// When the active layer has so many times the size at which it is to be flushed, its owner has to wait for the flush
/// of the frozen one.
const OVERFULL: usize = 4;

/// See the module head.
pub struct Store {
    // Dropped before the database, so that this is closed when nobody reads it any more.
    shared: RwLock<Shared>,
    /// Of the transactions so far; the one that is under way has them.
    hints: Mutex<Hints>,
    /// Held by whoever flushes.
    flushing: Mutex<()>,
    layer_bytes: usize,
    db: Database,
}

struct Shared {
    active: Arc<Layer>,
    /// About how many bytes it takes.
    active_bytes: usize,
    frozen: Option<Arc<Layer>>,
    base: Arc<Base>,
}

/// What has to be done about the size of the active layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Nothing.
    Room,
    /// [`Store::flush`], soon.
    Full,
    /// [`Store::flush`], before the next transaction.
    Overfull,
}

impl Store {
    /// The rows in `db`, which is not changed by anybody else. A layer of about `layer_bytes` is to be flushed.
    pub fn new(db: Database, layer_bytes: usize) -> Result<Self, StoreError> {
        let base = Arc::new(Base::open(&db)?);
        let shared = Shared { active: Arc::default(), active_bytes: 0, frozen: None, base };
        let (hints, flushing) = (Mutex::default(), Mutex::default());
        Ok(Self { shared: RwLock::new(shared), hints, flushing, layer_bytes, db })
    }

    /// Everything published so far, for the writer.
    pub(super) fn newest(&self) -> View {
        let shared = self.read();
        View {
            active: (Arc::clone(&shared.active), u64::MAX),
            frozen: shared.frozen.clone(),
            base: Arc::clone(&shared.base),
        }
    }

    /// What earlier transactions know.
    pub(super) fn take_hints(&self) -> Hints {
        std::mem::take(&mut *self.hints.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything published so far, and nothing that is published later.
    pub(super) fn view(&self) -> View {
        let shared = self.read();
        View {
            active: (Arc::clone(&shared.active), shared.active.open_snapshot()),
            frozen: shared.frozen.clone(),
            base: Arc::clone(&shared.base),
        }
    }

    /// Ends a transaction: others see its changes.
    pub(super) fn publish(&self, changes: Changes, hints: Hints) {
        *self.hints.lock().unwrap_or_else(PoisonError::into_inner) = hints;
        // Under the lock, so that the layer is not frozen meanwhile.
        let mut shared = self.write();
        shared.active_bytes = shared.active.publish(changes);
    }

    /// How full the active layer is.
    pub fn fill(&self) -> Fill {
        match self.read().active_bytes / self.layer_bytes {
            0 => Fill::Room,
            1..OVERFULL => Fill::Full,
            _ => Fill::Overfull,
        }
    }

    /// Brings what was published before the call into redb. Not durable.
    pub fn flush(&self) -> Result<(), StoreError> {
        let _flushing = self.flushing();
        self.flush_frozen()?;
        self.freeze();
        self.flush_frozen()
    }

    /// Brings what was published before the call into redb; durable on return, together with what redb needs to open
    /// the file without walking all of it.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let _flushing = self.flushing();
        self.flush_frozen()?;
        self.freeze();
        let mut txn = self.db.begin_write()?;
        txn.set_quick_repair(true);
        self.commit(txn)
    }

    /// Everything published so far, as redb's own transaction.
    pub fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        let _flushing = self.flushing();
        self.flush_frozen()?;
        self.freeze();
        self.flush_frozen()?;
        Ok(self.db.begin_read()?)
    }

    /// Makes the active layer the frozen one; there must be none.
    fn freeze(&self) {
        let mut shared = self.write();
        if !shared.active.is_empty() {
            shared.frozen = Some(std::mem::take(&mut shared.active));
            shared.active_bytes = 0;
        }
    }

    /// What [`Store::flush`] does first.
    #[cfg(test)]
    pub(super) fn freeze_for_test(&self) {
        let _flushing = self.flushing();
        self.flush_frozen().expect("flushes");
        self.freeze();
    }

    fn flush_frozen(&self) -> Result<(), StoreError> {
        if self.read().frozen.is_none() {
            return Ok(());
        }
        let mut txn = self.db.begin_write()?;
        txn.set_durability(Durability::None).map_err(redb::Error::from)?;
        self.commit(txn)
    }

    /// Commits the frozen layer, if there is one, and has redb's new rows read in its place.
    fn commit(&self, txn: redb::WriteTransaction) -> Result<(), StoreError> {
        let frozen = self.read().frozen.clone();
        for table in Table::ALL {
            let Some(layer) = frozen.as_ref().filter(|layer| !layer.is_table_empty(table)) else { continue };
            let mut open = txn.open_table(table.definition())?;
            layer.newest(table, |key, value| {
                match value {
                    Some(value) => open.insert(key, value)?,
                    None => open.remove(key)?,
                };
                Ok::<_, StoreError>(())
            })?;
        }
        txn.commit()?;
        let base = Arc::new(Base::open(&self.db)?);
        let mut shared = self.write();
        shared.base = base;
        shared.frozen = None;
        Ok(())
    }

    fn flushing(&self) -> MutexGuard<'_, ()> {
        self.flushing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Shared> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Shared> {
        self.shared.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store as it was at one moment.
pub(super) struct View {
    /// And the sequence up to which it is seen.
    active: (Arc<Layer>, u64),
    frozen: Option<Arc<Layer>>,
    base: Arc<Base>,
}

impl View {
    /// Value of a key.
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value>, StoreError> {
        let (active, sequence) = &self.active;
        let in_frozen = || self.frozen.as_ref().and_then(|frozen| frozen.get(u64::MAX, table, key));
        if let Some(change) = active.get(*sequence, table, key).or_else(in_frozen) {
            return Ok(change.map(Value::Recent));
        }
        Ok(self.base.get(table, key)?.map(Value::Stored))
    }

    /// Rows between two keys, with `own` changes before all others.
    pub(super) fn range<'a>(
        &self,
        own: Option<&'a Changes>,
        table: Table,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
        backward: bool,
    ) -> Result<RowRange<'a>, StoreError> {
        let (from, to) = bounds;
        if row_range::is_empty(from, to) {
            return Ok(RowRange::new(std::iter::empty(), backward));
        }
        let own = own.map(|own| Source::Own(own[table as usize].range::<[u8], _>(bounds)));
        let (active, sequence) = &self.active;
        let layers = [Some((active, *sequence)), self.frozen.as_ref().map(|frozen| (frozen, u64::MAX))];
        let layers = layers
            .into_iter()
            .flatten()
            .filter(|(layer, _)| !layer.is_table_empty(table))
            .map(|layer| Source::Layer(Cursor::new(layer, table, bounds, backward)));
        let base = self.base.range(table, from, to)?.map(Source::Base);
        Ok(RowRange::new(own.into_iter().chain(layers).chain(base), backward))
    }
}
