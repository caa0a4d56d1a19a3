//! Looks after the volumes: a thread a directory tries its volume, lets go of a failed one, and takes back what has taken
//! its place.
//!
//! A disk that does not answer hangs the thread that tries it, and nothing else; how long a trial has been going on is told
//! to the others, which take the volume out of service.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::dataset::Dataset;
use crate::dataset::volume::Volume;
use crate::error::DatanodeError;
use crate::scrub::Scrubber;
use crate::sync::lock;

/// Time between two looks at a volume's directory, which ask the kernel and no disk.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two trials by writing; after an error the next look is one.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// A disk that has not answered for this long fails: the kernel gives a command up after 30 s by default and tries it again.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Looks between two complaints about a directory that cannot be taken back.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(300);

/// What the threads share.
#[derive(Debug)]
struct Shared {
    dataset: Arc<Dataset>,
    scrubber: Arc<Scrubber>,
    dirs: Vec<PathBuf>,
    /// When the trial of each directory that goes on began, in milliseconds since `started`; 0: none does.
    trials: Vec<AtomicU64>,
    started: Instant,
    stopped: Mutex<bool>,
    changed: Condvar,
}

/// The threads.
#[derive(Debug)]
pub struct VolumeKeeper {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl VolumeKeeper {
    /// Starts a thread for each directory.
    pub fn start(
        dataset: &Arc<Dataset>,
        scrubber: &Arc<Scrubber>,
        dirs: &[PathBuf],
    ) -> Result<Self, DatanodeError> {
        let shared = Arc::new(Shared {
            dataset: Arc::clone(dataset),
            scrubber: Arc::clone(scrubber),
            dirs: dirs.to_vec(),
            trials: dirs.iter().map(|_| AtomicU64::new(0)).collect(),
            started: Instant::now(),
            stopped: Mutex::new(false),
            changed: Condvar::new(),
        });
        let threads = (0..dirs.len())
            .map(|at| {
                let shared = Arc::clone(&shared);
                thread::Builder::new().name(format!("volume-{at}")).spawn(move || shared.keep(at))
            })
            .collect::<Result<_, _>>()
            .map_err(DatanodeError::Thread)?;
        Ok(Self { shared, threads: Mutex::new(threads) })
    }

    /// Lets the threads end.
    pub fn close(&self) {
        *lock(&self.shared.stopped) = true;
        self.shared.changed.notify_all();
    }

    /// Closes and waits for the threads.
    pub fn stop(&self) {
        self.close();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            if thread.join().is_err() {
                tracing::error!("volume thread panicked");
            }
        }
    }
}

/// How things stand in one directory.
#[derive(Debug, Default)]
struct Standing {
    /// The failed volume has been let go.
    retired: bool,
    /// The directory was seen gone or replaced since the failure.
    away: bool,
    probed: Option<Instant>,
    complained: Option<Instant>,
}

impl Shared {
    /// Looks after one directory until the datanode stops.
    fn keep(&self, at: usize) {
        let Some(dir) = self.dirs.get(at) else { return };
        let mut standing = Standing::default();
        while self.wait() {
            self.look_for_stuck();
            let Some(volume) = self.dataset.volumes().into_iter().find(|v| v.dir() == dir) else { return };
            if volume.is_failed() {
                self.replace(dir, &volume, &mut standing);
            } else {
                standing = Standing { probed: standing.probed, ..Standing::default() };
                self.check(at, &volume, &mut standing);
            }
        }
    }

    /// Waits for the next look. `false`: no more.
    fn wait(&self) -> bool {
        let stopped = lock(&self.stopped);
        let waited = self.changed.wait_timeout_while(stopped, LOOK_INTERVAL, |stopped| !*stopped);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn check(&self, at: usize, volume: &Volume, standing: &mut Standing) {
        let last = *standing.probed.get_or_insert_with(Instant::now);
        let probe = volume.take_check() || last.elapsed() >= PROBE_INTERVAL;
        if probe {
            let began = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.trials[at].store(began.max(1), Ordering::Relaxed);
        }
        self.dataset.check_volume(volume, probe);
        if probe {
            self.trials[at].store(0, Ordering::Relaxed);
            standing.probed = Some(Instant::now());
        }
    }

    /// Disks that have not answered for long.
    fn look_for_stuck(&self) {
        let now = self.started.elapsed();
        for (dir, trial) in self.dirs.iter().zip(&self.trials) {
            let began = trial.load(Ordering::Relaxed);
            if began > 0
                && now.saturating_sub(Duration::from_millis(began)) > STUCK_AFTER
                && let Some(volume) = self.dataset.volumes().into_iter().find(|v| v.dir() == dir)
            {
                self.dataset.fail_volume(&volume, "the disk does not answer");
            }
        }
    }

    /// Lets go of a failed volume, then waits for something to take its place.
    fn replace(&self, dir: &Path, failed: &Volume, standing: &mut Standing) {
        if !standing.retired {
            self.dataset.retire_volume(failed);
            standing.retired = true;
        }
        standing.away |= failed.check(false).is_err_and(|fault| fault.means_away());
        if !self.dataset.may_come_back(failed, standing.away) {
            return;
        }
        match self.dataset.take_back(dir) {
            Ok(volume) => {
                *standing = Standing::default();
                if let Err(error) = self.scrubber.watch(&volume) {
                    tracing::error!(%error, "volume is not scrubbed");
                }
            }
            Err(error) => {
                if standing.complained.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
                    standing.complained = Some(Instant::now());
                    tracing::warn!(path = %dir.display(), %error, "failed volume cannot be taken back yet");
                }
            }
        }
    }
}
