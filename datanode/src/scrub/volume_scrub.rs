//! Scrubs one volume: its own passes, and scrubs that somebody waits for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dfs_proto::BlockId;
use dfs_proto::v1::ScrubProgress;

use super::pace::Pace;
use super::priority::{Behind, step_back};
use super::record::ScrubRecord;
use super::{Request, Shared};
use crate::dataset::damaged::Damaged;
use crate::dataset::verify::{Verdict, Verifier};
use crate::dataset::volume::Volume;

/// What opening a replica's files counts for: a disk finds them in about the time in which it reads this many bytes.
const REPLICA_WORK: u64 = 256 << 10;

/// Replicas looked up at a time.
const BATCH: usize = 1024;

/// The record is written at most this often: what is verified again after a crash is cheap.
const RECORD_INTERVAL: Duration = Duration::from_secs(600);

/// A volume counts as in use for this long after a reader or writer touched it.
const BUSY_WINDOW: Duration = Duration::from_millis(100);

/// How long a scrub that somebody waits for waits for users of the volume before each read.
const POLITE_PAUSE: Duration = Duration::from_millis(20);

/// Time between two messages about progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Bad replicas named in one message.
const NAMED_MAX: usize = 1_000;

/// Pause after a failure that is not a replica's (no descriptors, no memory).
const FAILURE_PAUSE: Duration = Duration::from_secs(10);

/// One volume's scrub.
#[derive(Debug)]
pub(super) struct VolumeScrub {
    shared: Arc<Shared>,
    volume: Arc<Volume>,
    record: ScrubRecord,
    verifier: Verifier,
    recorded: Instant,
    /// When the next byte may be read.
    due: Instant,
    directory_due: Instant,
    /// It has been told that this pass is late.
    told_late: bool,
}

/// What comes after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The next step.
    GoOn,
    /// The pass is over.
    PassEnded,
    /// A request, or the end.
    Interrupted,
}

impl VolumeScrub {
    pub(super) fn new(shared: &Arc<Shared>, volume: &Arc<Volume>) -> Self {
        let due = Instant::now() + shared.settings.delay;
        Self {
            shared: Arc::clone(shared),
            volume: Arc::clone(volume),
            record: ScrubRecord::default(),
            verifier: Verifier::default(),
            recorded: Instant::now(),
            due,
            directory_due: due,
            told_late: false,
        }
    }

    /// Goes on until the datanode stops or the volume fails.
    pub(super) fn run(mut self) {
        step_back(Behind::Idle);
        self.take_up_record();
        while !self.shared.is_stopped() && !self.volume.is_failed() {
            if let Some(request) = self.shared.take_request(self.volume.storage_id()) {
                step_back(Behind::Last);
                self.scrub_now(&request);
                step_back(Behind::Idle);
                continue;
            }
            if Instant::now() >= self.directory_due && Instant::now() >= self.due {
                let (shared, volume) = (&self.shared, &self.volume);
                let wanted = &mut || !shared.is_stopped() && !volume.is_failed();
                shared.dataset.check_directories(volume, &mut self.verifier, wanted);
                self.directory_due = Instant::now() + self.shared.settings.directory_period;
            }
            match self.step() {
                Next::GoOn | Next::Interrupted => {}
                Next::PassEnded => self.end_pass(),
            }
            if self.recorded.elapsed() >= RECORD_INTERVAL {
                self.write_record();
            }
        }
        if !self.volume.is_failed() {
            self.write_record();
        }
        while let Some(request) = self.shared.take_request(self.volume.storage_id()) {
            let message = ScrubProgress { failure: self.why_not(), done: true, ..self.progress() };
            // Whoever waited may be gone.
            let _ = request.progress.blocking_send(message);
        }
    }

    fn take_up_record(&mut self) {
        self.record = ScrubRecord::read(self.volume.dir());
        let now = now_s();
        if self.record.began_s == 0 || self.record.began_s > now {
            // New, or the clock was wrong.
            self.record.began_s = now;
        }
        self.volume.scrub().set_ended(self.record.ended_s);
        let storage_id = self.volume.storage_id().to_owned();
        for (block, length) in std::mem::take(&mut self.record.bad) {
            let reason = "found bad before the datanode started".to_owned();
            self.shared.dataset.remember_bad(Damaged {
                block,
                length,
                storage_id: storage_id.clone(),
                reason,
            });
        }
    }

    /// Verifies the next replica when its time has come.
    fn step(&mut self) -> Next {
        let storage_id = self.volume.storage_id().to_owned();
        if self.record.cursor.is_none() && self.record.work == 0 && self.record.ended_s >= self.record.began_s
        {
            // Between two passes.
            let left = self.shared.settings.pace.next_pass_in(self.elapsed()).max(Duration::from_millis(10));
            let until = (Instant::now() + left).min(self.directory_due).max(self.due);
            if self.shared.wait(until, &storage_id)
                && self.shared.settings.pace.next_pass_in(self.elapsed()).is_zero()
            {
                self.begin_pass();
            }
            return Next::GoOn;
        }
        if !self.shared.wait(self.due, &storage_id) {
            return Next::Interrupted;
        }
        let (ids, last) = self.shared.dataset.closed_on(&self.volume, self.record.cursor, BATCH);
        for id in ids {
            if Instant::now() >= self.directory_due {
                return Next::GoOn;
            }
            match self.verify_paced(id) {
                Verdict::Good { .. } | Verdict::Bad { .. } | Verdict::Absent | Verdict::Open => {}
                Verdict::Stopped => return Next::Interrupted,
                Verdict::Failed(error) => {
                    tracing::warn!(block = %id, %error, "replica cannot be verified");
                    self.due = Instant::now() + FAILURE_PAUSE;
                    return Next::GoOn;
                }
            }
            self.record.cursor = Some(id);
            if self.volume.is_failed() {
                return Next::Interrupted;
            }
        }
        match last {
            Some(last) => {
                self.record.cursor = Some(last);
                Next::GoOn
            }
            None => Next::PassEnded,
        }
    }

    fn verify_paced(&mut self, id: BlockId) -> Verdict {
        let (pace, elapsed) = (self.shared.settings.pace, self.elapsed());
        let left = self.work().saturating_sub(self.record.work);
        let rate = pace.rate(left, elapsed);
        let patient = pace.may_wait(left, elapsed);
        if !self.told_late && pace.is_late(left, elapsed) {
            self.told_late = true;
            tracing::warn!(
                storage_id = self.volume.storage_id(),
                bytes_left = left,
                rate,
                "replicas cannot all be verified within the period"
            );
        }
        let (shared, volume, due) = (&self.shared, &self.volume, &mut self.due);
        let mut read = REPLICA_WORK;
        let verdict = self.verifier.verify(&shared.dataset, id, &mut |bytes| {
            while patient && volume.used_within(BUSY_WINDOW) {
                if !shared.wait(Instant::now() + BUSY_WINDOW, volume.storage_id()) {
                    return false;
                }
            }
            // What was waited for is not made up for in a burst: the rate rises instead.
            *due = (*due).max(Instant::now());
            let go_on = shared.wait(*due, volume.storage_id()) && !volume.is_failed();
            *due += Pace::time_for(bytes as u64, rate);
            read += bytes as u64;
            volume.scrub().add_bytes(bytes as u64);
            go_on
        });
        if !matches!(verdict, Verdict::Stopped) {
            self.due += Pace::time_for(REPLICA_WORK, rate);
            self.record.work += read;
            self.note(&verdict);
            self.volume.scrub().set_progress(self.record.work, self.work());
        }
        verdict
    }

    /// Counts a verification.
    fn note(&self, verdict: &Verdict) {
        if matches!(verdict, Verdict::Good { .. } | Verdict::Bad { .. }) {
            self.volume.scrub().add_replica(matches!(verdict, Verdict::Bad { .. }));
        }
    }

    /// All the work of a pass.
    fn work(&self) -> u64 {
        let dataset = &self.shared.dataset;
        // Replicas are not counted by volume; that they are spread evenly is near enough.
        let replicas = dataset.replica_count() / dataset.volumes().len().max(1);
        self.volume.used() + replicas as u64 * REPLICA_WORK
    }

    fn begin_pass(&mut self) {
        self.record.began_s = now_s();
        (self.record.cursor, self.record.work, self.told_late) = (None, 0, false);
        self.record.ended_s = self.record.ended_s.min(self.record.began_s.saturating_sub(1));
    }

    fn end_pass(&mut self) {
        self.record.ended_s = now_s().max(self.record.began_s);
        tracing::info!(
            storage_id = self.volume.storage_id(),
            work = self.record.work,
            seconds = self.record.ended_s - self.record.began_s,
            "all replicas of the volume verified"
        );
        (self.record.cursor, self.record.work) = (None, 0);
        self.volume.scrub().set_ended(self.record.ended_s);
        self.write_record();
    }

    /// Time since the pass began, by the wall clock: it goes on while the datanode does not run.
    fn elapsed(&self) -> Duration {
        Duration::from_secs(now_s().saturating_sub(self.record.began_s))
    }

    fn write_record(&mut self) {
        self.recorded = Instant::now();
        let known = self.shared.dataset.damaged_replicas();
        let here = known.into_iter().filter(|d| d.storage_id == self.volume.storage_id());
        self.record.bad = here.map(|d| (d.block, d.length)).collect();
        if let Err(error) = self.record.write(self.volume.dir()) {
            tracing::warn!(%error, "scrub record cannot be written");
            self.shared.dataset.note_read_error(&self.volume, &error);
        }
        self.record.bad.clear();
    }

    fn progress(&self) -> ScrubProgress {
        ScrubProgress {
            storage_id: self.volume.storage_id().to_owned(),
            path: self.volume.dir().display().to_string(),
            bytes_total: self.volume.used(),
            ..Default::default()
        }
    }

    fn why_not(&self) -> String {
        if self.volume.is_failed() { self.volume.failure() } else { "the datanode stops".to_owned() }
    }

    /// Verifies everything at once, as fast as users of the volume let it.
    fn scrub_now(&mut self, request: &Request) {
        let mut progress = self.progress();
        let mut told = Instant::now();
        let dataset = Arc::clone(&self.shared.dataset);
        let (shared, volume) = (Arc::clone(&self.shared), Arc::clone(&self.volume));
        let wanted = || !shared.is_stopped() && !volume.is_failed() && !request.progress.is_closed();
        let mut named = BTreeSet::new();
        for (id, line) in dataset.check_directories(&volume, &mut self.verifier, &mut || wanted()) {
            named.insert(id);
            progress.found.push(line);
        }
        progress.found.truncate(NAMED_MAX);
        progress.bad = named.len() as u64;
        let began_s = now_s();
        let mut after = None;
        'pass: loop {
            let (ids, last) = dataset.closed_on(&volume, after, BATCH);
            for id in ids {
                let verdict = self.verifier.verify(&dataset, id, &mut |bytes| {
                    if volume.used_within(BUSY_WINDOW) {
                        std::thread::sleep(POLITE_PAUSE);
                    }
                    progress.bytes += bytes as u64;
                    volume.scrub().add_bytes(bytes as u64);
                    wanted()
                });
                self.note(&verdict);
                match verdict {
                    Verdict::Good { .. } => progress.replicas += 1,
                    Verdict::Absent | Verdict::Open => {}
                    Verdict::Bad { block, error } => {
                        progress.replicas += 1;
                        if named.insert(id) && progress.found.len() < NAMED_MAX {
                            progress.found.push(format!("{block}: {error}"));
                        }
                        progress.bad = named.len() as u64;
                    }
                    Verdict::Failed(error) => progress.failure = error.to_string(),
                    Verdict::Stopped => break 'pass,
                }
                if told.elapsed() >= PROGRESS_INTERVAL {
                    told = Instant::now();
                    let message =
                        ScrubProgress { found: std::mem::take(&mut progress.found), ..progress.clone() };
                    if request.progress.blocking_send(message).is_err() {
                        return;
                    }
                }
            }
            match last {
                Some(last) if wanted() => after = Some(last),
                Some(_) => break,
                None => {
                    self.record.began_s = began_s;
                    self.end_pass();
                    progress.done = true;
                    break;
                }
            }
        }
        if !progress.done {
            progress.failure = self.why_not();
        }
        progress.done = true;
        // Whoever waited may be gone.
        let _ = request.progress.blocking_send(progress);
    }
}

/// Seconds since the epoch.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
