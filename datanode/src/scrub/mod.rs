//! The scrubber: rereads and verifies all closed replicas, over and over.
//!
//! A thread a volume (`volume_scrub`), paced (`pace`) so that a pass over the volume takes a given period, in the order
//! of block ids: so the replica that was verified longest ago is always the next. Where a pass stands is recorded on
//! the volume now and then ([`record`]). Replicas are read past the page cache ([`crate::dataset::verify`]) with the
//! lowest priority, and not while the volume serves readers and writers, unless the period would not be kept.
//! Now and then what is in the directories is compared with the replica map ([`crate::dataset::directory_check`]).
//!
//! [`verifications`] are single replicas that the namenode wants to know about at once.

pub mod pace;
mod priority;
pub mod record;
pub mod verifications;
mod volume_scrub;

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dfs_proto::v1::ScrubProgress;
use tokio::sync::mpsc;

use self::pace::Pace;
use self::volume_scrub::VolumeScrub;
use crate::dataset::Dataset;
use crate::dataset::volume::Volume;
use crate::error::DatanodeError;
use crate::sync::lock;

/// Scrubs of one volume that may wait to be carried out.
const REQUESTS_MAX: usize = 4;

/// Settings.
#[derive(Clone, Copy, Debug)]
pub struct ScrubSettings {
    /// How fast.
    pub pace: Pace,
    /// Time between the start and the first reading.
    pub delay: Duration,
    /// Time between two looks at the directories.
    pub directory_period: Duration,
}

/// A scrub that somebody waits for.
#[derive(Debug)]
struct Request {
    storage_id: String,
    progress: mpsc::Sender<ScrubProgress>,
}

#[derive(Debug, Default)]
struct State {
    requests: Vec<Request>,
    stopped: bool,
}

/// What all threads share.
#[derive(Debug)]
struct Shared {
    dataset: Arc<Dataset>,
    settings: ScrubSettings,
    state: Mutex<State>,
    changed: Condvar,
}

/// The scrubber.
#[derive(Debug)]
pub struct Scrubber {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Scrubber {
    /// Starts a thread for each volume.
    pub fn start(dataset: &Arc<Dataset>, settings: ScrubSettings) -> Result<Self, DatanodeError> {
        let shared = Arc::new(Shared {
            dataset: Arc::clone(dataset),
            settings,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let scrubber = Self { shared, threads: Mutex::default() };
        for volume in dataset.volumes().iter().filter(|volume| !volume.is_failed()) {
            scrubber.watch(volume)?;
        }
        Ok(scrubber)
    }

    /// Scrubs a volume until it fails.
    pub fn watch(&self, volume: &Arc<Volume>) -> Result<(), DatanodeError> {
        let scrub = VolumeScrub::new(&self.shared, volume);
        let thread = thread::Builder::new()
            .name(format!("scrub-{}", volume.index()))
            .spawn(move || scrub.run())
            .map_err(DatanodeError::Thread)?;
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Verifies everything now. Progress of each volume goes to `progress`; when its receiver goes away the scrub ends.
    /// Answers how many volumes there are, each of which sends a message with `done` set.
    pub fn scrub_now(&self, progress: &mpsc::Sender<ScrubProgress>) -> usize {
        let volumes = self.shared.dataset.volumes();
        let mut state = lock(&self.shared.state);
        let mut count = 0;
        for volume in volumes {
            let storage_id = volume.storage_id().to_owned();
            let waiting = state.requests.iter().filter(|r| r.storage_id == storage_id).count();
            let refused = if volume.is_failed() {
                volume.failure()
            } else if waiting >= REQUESTS_MAX {
                "too many scrubs are waiting".to_owned()
            } else {
                state.requests.push(Request { storage_id, progress: progress.clone() });
                count += 1;
                continue;
            };
            let path = volume.dir().display().to_string();
            let message =
                ScrubProgress { storage_id, path, failure: refused, done: true, ..Default::default() };
            // There is room for a message a volume.
            count += usize::from(progress.try_send(message).is_ok());
        }
        self.shared.changed.notify_all();
        count
    }

    /// Lets the threads end.
    pub fn close(&self) {
        lock(&self.shared.state).stopped = true;
        self.shared.changed.notify_all();
    }

    /// Closes and waits for the threads.
    pub fn stop(&self) {
        self.close();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            if thread.join().is_err() {
                tracing::error!("scrub thread panicked");
            }
        }
    }
}

impl Shared {
    /// Waits until `until`. `false`: something else is to be done first, for the volume or because the datanode stops.
    fn wait(&self, until: Instant, storage_id: &str) -> bool {
        let mut state = lock(&self.state);
        loop {
            if state.stopped || state.requests.iter().any(|request| request.storage_id == storage_id) {
                return false;
            }
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) else {
                return true;
            };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn is_stopped(&self) -> bool {
        lock(&self.state).stopped
    }

    /// The next scrub that somebody waits for.
    fn take_request(&self, storage_id: &str) -> Option<Request> {
        let mut state = lock(&self.state);
        let at = state.requests.iter().position(|request| request.storage_id == storage_id)?;
        Some(state.requests.remove(at))
    }
}
