//! Evens out how full the volumes of a datanode are: a thread that looks now and then, and at once when it is told to.
//!
//! Full and empty are judged as between datanodes: by the used share of the capacity. When two volumes differ by more than the
//! threshold, replicas move from the fullest to the emptiest until they differ by less than half of it, one at a
//! time, at a limited rate. Volumes on one device share its space, and nothing moves between them.
//!
//! Nothing is durable: a datanode that starts looks anew.

use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dfs_proto::BlockId;

use crate::dataset::Dataset;
use crate::dataset::replica_map::Entry;
use crate::dataset::volume::Volume;
use crate::error::DatanodeError;
use crate::sync::lock;
use crate::throttle::Throttle;

/// Time between two looks at the volumes.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Difference, in hundredths of a percent, above which an order levels volumes.
const ORDERED_THRESHOLD: u32 = 200;

/// Replicas looked at in one step of the search.
const SLICE: usize = 1_024;

/// Replicas smaller than this are moved only when no larger ones are left.
const SMALL_BYTES: u64 = 1 << 20;

/// Moves in a row that fail, after which the balancer waits for its next look.
const FAILURES_MAX: u32 = 16;

/// How levelling stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Replicas are being moved.
    pub running: bool,
    /// Replicas moved since the datanode started.
    pub replicas_moved: u64,
    /// Their bytes.
    pub bytes_moved: u64,
    /// Attempts that failed, without those on replicas that somebody opened.
    pub failures: u64,
    /// Difference between the fullest and the emptiest volume, in hundredths of a percent.
    pub difference: u32,
}

#[derive(Debug, Default)]
struct State {
    /// Level now, and more thoroughly than in the background.
    ordered: bool,
    stop: bool,
    closed: bool,
    progress: Progress,
}

#[derive(Debug)]
struct Inner {
    dataset: Arc<Dataset>,
    pace: Throttle,
    /// Difference that is left alone in the background, in hundredths of a percent; 0: all.
    threshold: u32,
    state: Mutex<State>,
    changed: Condvar,
}

/// The thread and its orders.
#[derive(Debug)]
pub struct DiskBalancer {
    inner: Arc<Inner>,
    bandwidth: u64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl DiskBalancer {
    /// Starts it. `threshold` is a difference in hundredths of a percent; 0: nothing moves in the background.
    pub fn start(dataset: Arc<Dataset>, threshold: u32, bandwidth: u64) -> Result<Self, DatanodeError> {
        let inner = Arc::new(Inner {
            dataset,
            pace: Throttle::new(bandwidth),
            threshold,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let shared = Arc::clone(&inner);
        let thread = thread::Builder::new()
            .name("disk-balancer".into())
            .spawn(move || shared.run())
            .map_err(DatanodeError::Thread)?;
        Ok(Self { inner, bandwidth, thread: Mutex::new(Some(thread)) })
    }

    /// Levels the volumes now, with another bandwidth if one is given.
    pub fn order(&self, bandwidth: Option<u64>) {
        self.inner.pace.set_rate(bandwidth.unwrap_or(self.bandwidth));
        let mut state = lock(&self.inner.state);
        (state.ordered, state.stop) = (true, false);
        state.progress.running = true;
        self.inner.changed.notify_all();
    }

    /// Ends what was ordered, or goes on in the background, after the replica in hand.
    pub fn cancel(&self) {
        lock(&self.inner.state).stop = true;
        self.inner.pace.set_rate(self.bandwidth);
    }

    /// How it stands.
    pub fn progress(&self) -> Progress {
        let difference = self.inner.fillings().and_then(|all| extremes(&all).map(difference_of));
        Progress { difference: difference.unwrap_or(0), ..lock(&self.inner.state).progress }
    }

    /// Tells the thread to end after the piece in hand.
    pub fn close(&self) {
        self.inner.pace.close();
        lock(&self.inner.state).closed = true;
        self.inner.changed.notify_all();
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.close();
        if lock(&self.thread).take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("disk balancer panicked");
        }
    }
}

/// How full one volume is.
#[derive(Clone, Debug)]
struct Filling {
    volume: Arc<Volume>,
    device: u64,
    capacity: u64,
    used: u64,
    remaining: u64,
}

impl Filling {
    /// Used share in hundredths of a percent.
    fn share(&self) -> u32 {
        let share = u128::from(self.used) * 10_000 / u128::from(self.capacity.max(1));
        u32::try_from(share).unwrap_or(u32::MAX)
    }
}

/// The fullest volume and the emptiest one that is not on the same device.
fn extremes(all: &[Filling]) -> Option<(&Filling, &Filling)> {
    let fullest = all.iter().max_by_key(|volume| volume.share())?;
    let others = all.iter().filter(|volume| volume.device != fullest.device);
    Some((fullest, others.min_by_key(|volume| volume.share())?))
}

fn difference_of((full, empty): (&Filling, &Filling)) -> u32 {
    full.share().saturating_sub(empty.share())
}

/// Largest replica that leaves the fuller volume no emptier than the other one.
fn largest_move((full, empty): (&Filling, &Filling)) -> u64 {
    let (used, free) = (u128::from(full.used), u128::from(empty.used));
    let (one, other) = (u128::from(full.capacity), u128::from(empty.capacity));
    let level = (used * other).saturating_sub(free * one) / (one + other).max(1);
    u64::try_from(level).unwrap_or(u64::MAX).min(empty.remaining / 2)
}

impl Inner {
    fn run(&self) {
        loop {
            let ordered = {
                let mut state = lock(&self.state);
                if !state.closed && !state.ordered {
                    let waited = self.changed.wait_timeout(state, LOOK_INTERVAL);
                    (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
                }
                if state.closed {
                    return;
                }
                state.stop = false;
                std::mem::take(&mut state.ordered)
            };
            let threshold = if ordered { ORDERED_THRESHOLD } else { self.threshold };
            if threshold > 0 {
                self.level(threshold);
            }
            lock(&self.state).progress.running = false;
        }
    }

    fn fillings(&self) -> Option<Vec<Filling>> {
        let mut all = Vec::new();
        for volume in self.dataset.volumes().iter().filter(|volume| !volume.is_failed()) {
            let (Ok(space), Ok(entry)) = (volume.space(), std::fs::metadata(volume.dir())) else { continue };
            all.push(Filling {
                volume: Arc::clone(volume),
                device: entry.dev(),
                capacity: space.capacity,
                used: space.used,
                remaining: space.remaining,
            });
        }
        (all.len() > 1).then_some(all)
    }

    /// Moves replicas until the volumes differ by less than half of the threshold.
    fn level(&self, threshold: u32) {
        let Some(all) = self.fillings() else { return };
        if extremes(&all).is_none_or(|pair| difference_of(pair) <= threshold) {
            return;
        }
        lock(&self.state).progress.running = true;
        let mut search = Search::default();
        let mut failures = 0;
        while failures < FAILURES_MAX {
            let Some(all) = self.fillings() else { return };
            let Some(pair) = extremes(&all).filter(|pair| difference_of(*pair) > threshold / 2) else {
                return;
            };
            {
                let state = lock(&self.state);
                if state.stop || state.closed {
                    return;
                }
            }
            let Some(id) = search.next(&self.dataset, pair.0.volume.index(), largest_move(pair)) else {
                return;
            };
            let moved = self.dataset.move_to_volume(id, &pair.1.volume, &self.pace);
            let mut state = lock(&self.state);
            match moved {
                Ok(bytes) => {
                    failures = 0;
                    state.progress.replicas_moved += 1;
                    state.progress.bytes_moved += bytes;
                }
                Err(DatanodeError::Stopping) => return,
                // Opened by a client, deleted, or a full report is under way.
                Err(DatanodeError::Transition(_) | DatanodeError::ReplicaNotFound { .. }) => {
                    let (_state, _) = self
                        .changed
                        .wait_timeout(state, Duration::from_millis(10))
                        .unwrap_or_else(PoisonError::into_inner);
                }
                Err(error) => {
                    failures += 1;
                    state.progress.failures += 1;
                    tracing::warn!(block = %id, %error, "replica cannot be moved to another volume");
                }
            }
        }
    }
}

/// A walk over the replicas that finds one after the other.
#[derive(Debug, Default)]
struct Search {
    after: Option<BlockId>,
    small: bool,
}

impl Search {
    /// The next closed replica on `volume` with at most `bytes_max` bytes; `None`: there is none. Large ones come first.
    fn next(&mut self, dataset: &Dataset, volume: u16, bytes_max: u64) -> Option<BlockId> {
        loop {
            let slice = dataset.entries(self.after, SLICE);
            let least = if self.small { 1 } else { SMALL_BYTES };
            for (id, entry) in &slice {
                self.after = Some(*id);
                if let Entry::Closed(closed) = entry
                    && closed.volume == volume
                    && (least..=bytes_max).contains(&closed.length)
                {
                    return Some(*id);
                }
            }
            if slice.len() < SLICE {
                self.after = None;
                if std::mem::replace(&mut self.small, true) {
                    return None;
                }
            }
        }
    }
}
