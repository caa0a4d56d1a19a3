//! A replica that is not simply closed: being written, waiting for recovery, under recovery, or on its way
//! out. Its lock orders writers, readers and recovery, and may be held during disk work on this replica.
//!
//! Invariants: at most one writer; `gone` is final, and who finds it looks the block up again; `length`
//! and `partial_sum` of the state describe the same moment, so that a reader who copies both can hand out
//! the last short chunk with a checksum that fits while the writer goes on.

use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dfs_proto::BlockId;
use dfs_proto::checksum::Checksum;

use super::layout;
use super::replica_map::Closed;
use super::volume::Volume;
use crate::error::DatanodeError;
use crate::replica::{BlockRef, Replica};
use crate::sync::lock;

/// How long a new writer or a recovery waits for the old writer to stop. It has been cut off from its
/// sockets, so what remains is the disk call it is in.
const STOP_WRITER_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a replica's files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// `finalized/subdirX/subdirY`.
    Finalized,
    /// `small`: closed as well.
    Small,
    /// `rbw`.
    Rbw,
    /// `random`.
    Random,
    /// `tmp`.
    Tmp,
}

impl Home {
    /// Whether closed replicas are there, which the scan at start takes as they are.
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::Finalized | Self::Small)
    }
}

/// How a writer is told to stop.
#[derive(Debug, Default)]
pub struct WriterToken {
    stopped: AtomicBool,
    received: AtomicU64,
    stored: AtomicU64,
    sockets: Mutex<Vec<Arc<TcpStream>>>,
}

impl WriterToken {
    /// A socket that the writer may be waiting on.
    pub fn add_socket(&self, socket: &Arc<TcpStream>) {
        lock(&self.sockets).push(Arc::clone(socket));
        if self.is_stopped() {
            self.stop();
        }
    }

    /// The writer's connection goes on to other work: stopping must not reach it any more.
    pub fn forget_sockets(&self) {
        lock(&self.sockets).clear();
    }

    /// Stops the writer at its next step and wakes it from its sockets.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        for socket in lock(&self.sockets).iter() {
            // A socket that is closed already is as good as shut down.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Units of packets (bytes of data, and one for each packet) were received.
    pub fn note_received(&self, units: u64) {
        self.received.fetch_add(units, Ordering::Relaxed);
    }

    /// All that was received is passed on and written.
    pub fn note_stored(&self) {
        self.stored.store(self.received.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Units received and units written: what an outsider finds out who of a pipeline holds it up by.
    pub fn progress(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.stored.load(Ordering::Relaxed))
    }

    /// Whether the writer has been told to stop.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// What the lock guards.
#[derive(Debug)]
pub struct OpenState {
    /// The replica.
    pub replica: Replica,
    /// Where its files are.
    pub home: Home,
    /// How it is checksummed; `None` until the `.meta` file has been looked at.
    pub checksum: Option<Checksum>,
    /// Checksum of the last chunk if it is short.
    pub partial_sum: u32,
    /// Who writes it.
    pub writer: Option<Arc<WriterToken>>,
    /// It has been overwritten since the datanode started.
    pub rewritten: bool,
    /// Found with chunks torn in the middle of an overwrite: nobody knows which content is the right one, and only block
    /// recovery, which compares replicas, or the writer, who sends again what was not acknowledged, may go on with it.
    pub torn: bool,
    /// Found with a chunk that does not match its checksum where nobody was writing: no stop of a process leaves that. One that is
    /// written from start to end was cut there.
    pub damaged: bool,
    /// No longer in the map.
    pub gone: bool,
    /// Threads that wait for a change: usually none, and waking none costs nothing.
    waiting: u32,
}

/// An open replica.
#[derive(Debug)]
pub struct OpenReplica {
    /// Its volume.
    pub volume: Arc<Volume>,
    state: Mutex<OpenState>,
    changed: Condvar,
}

impl OpenReplica {
    /// A replica without a writer.
    pub fn new(volume: Arc<Volume>, replica: Replica, home: Home, checksum: Option<Checksum>) -> Self {
        let state = OpenState {
            replica,
            home,
            checksum,
            partial_sum: 0,
            writer: None,
            rewritten: false,
            torn: false,
            damaged: false,
            gone: false,
            waiting: 0,
        };
        Self { volume, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// A closed replica about to be opened.
    pub fn of_closed(volume: Arc<Volume>, id: BlockId, closed: Closed) -> Self {
        let replica = Replica::finalized(BlockRef { id, stamp: closed.stamp }, closed.length);
        let mut open = Self::new(volume, replica, closed.home(), None);
        let state = open.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.rewritten = closed.rewritten;
        open
    }

    /// Locks its state.
    pub fn lock(&self) -> MutexGuard<'_, OpenState> {
        lock(&self.state)
    }

    /// Wakes those who wait for a change of the state, which is locked.
    pub fn notify(&self, state: &OpenState) {
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits for a change until `deadline`; `None`: it has passed.
    pub fn wait_until<'a>(
        &'a self,
        mut state: MutexGuard<'a, OpenState>,
        deadline: Instant,
    ) -> Option<MutexGuard<'a, OpenState>> {
        let left = deadline.checked_duration_since(Instant::now())?;
        state.waiting += 1;
        let (mut state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        Some(state)
    }

    /// Stops the writer if there is one and waits until it has left.
    pub fn stop_writer<'a>(
        &'a self,
        mut state: MutexGuard<'a, OpenState>,
    ) -> Result<MutexGuard<'a, OpenState>, DatanodeError> {
        let deadline = Instant::now() + STOP_WRITER_TIMEOUT;
        while let Some(writer) = &state.writer {
            writer.stop();
            let block = state.replica.block();
            state = self.wait_until(state, deadline).ok_or(DatanodeError::WriterBusy { block })?;
        }
        Ok(state)
    }
}

impl OpenState {
    /// What the map keeps of it once it is closed.
    pub fn to_closed(&self, volume: &Volume) -> Closed {
        Closed {
            stamp: self.replica.block().stamp,
            length: self.replica.length(),
            volume: volume.index(),
            rewritten: self.rewritten,
            small: self.home == Home::Small,
        }
    }

    /// Checksum of the last chunk if it is short, where it is known better than from the `.meta` file. With random access
    /// the file is always right.
    pub fn known_sum(&self) -> Option<u32> {
        self.checksum.filter(|_| self.home != Home::Random).map(|_| self.partial_sum)
    }

    /// Whether the replica is written at any offset under a later stamp than a reader asks for: what the reader knows of
    /// its length is out of date.
    pub fn is_newer(&self, asked: BlockRef) -> bool {
        self.home == Home::Random && self.replica.block().stamp > asked.stamp
    }

    /// Path of the data file.
    pub fn data_path(&self, volume: &Volume) -> PathBuf {
        data_path(volume, self.home, self.replica.block())
    }

    /// Path of the checksum file.
    pub fn meta_path(&self, volume: &Volume) -> PathBuf {
        meta_path(volume, self.home, self.replica.block())
    }
}

/// Path of a data file.
pub fn data_path(volume: &Volume, home: Home, block: BlockRef) -> PathBuf {
    in_home(volume, home, block, &layout::data_name(block.id))
}

/// Path of a checksum file.
pub fn meta_path(volume: &Volume, home: Home, block: BlockRef) -> PathBuf {
    in_home(volume, home, block, &layout::meta_name(block))
}

fn in_home(volume: &Volume, home: Home, block: BlockRef, name: &str) -> PathBuf {
    match home {
        Home::Finalized => layout::finalized_dir(volume.dir(), block.id).join(name),
        Home::Small => layout::small_dir(volume.dir(), block.id).join(name),
        Home::Rbw => layout::rbw_dir(volume.dir(), block.id).join(name),
        Home::Random => layout::random_dir(volume.dir(), block.id).join(name),
        Home::Tmp => volume.path(layout::TMP, name),
    }
}
