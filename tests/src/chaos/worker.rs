//! A worker process: chooses operations, has its actor carry them out, and records what was promised.
//!
//! It ends when the file [`Worker::stop_file`] is there, between two operations, or by `kill -9` at any moment; then
//! another process goes on from the history.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};

use super::actors::{Actor, Failure, Kind, Surroundings};
use super::expectation::{Expectation, Node};
use super::history::{HistoryWriter, Outcome, Record, read_history};
use super::load::choose;
use super::operation::Operation;
use super::plan::takes_back_changes;
use crate::wait::pause;

/// Names the description of the worker that a process is to be.
pub const WORKER_VARIABLE: &str = "DFS_CHAOS_WORKER";

/// Time between the beginnings of two operations, unless the first takes longer: several workers and servers share two cores.
const OPERATION_EVERY: Duration = Duration::from_millis(40);

/// How long a worker does nothing when an operation has failed, so that an outage does not fill the namespace with doubts.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// Doubtful paths of a worker at which it only reads until the next quiet.
const MANY_DOUBTS: usize = 24;

/// A worker.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Number of the worker.
    pub number: u64,
    /// What carries its operations out.
    pub kind: Kind,
    /// The seed of the run.
    pub seed: u64,
    /// Directory of the run.
    pub run_dir: PathBuf,
    /// When the run began, on the monotonic clock.
    pub began: Duration,
    /// What the actor works with.
    pub surroundings: Surroundings,
}

/// The monotonic clock, which all processes of the machine share.
pub fn monotonic() -> Result<Duration> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(Duration::new(u64::try_from(now.tv_sec())?, u32::try_from(now.tv_nsec())?))
}

impl Worker {
    /// Its directory in the namespace.
    pub fn root(&self) -> String {
        format!("/{}-{}", self.kind.name(), self.number)
    }

    /// Its history.
    pub fn history(&self) -> PathBuf {
        self.run_dir.join(format!("{}-{}.history", self.kind.name(), self.number))
    }

    /// The file that ends all workers of the run in `run_dir`.
    pub fn stop_file(run_dir: &Path) -> PathBuf {
        run_dir.join("stop")
    }

    /// The worker in one line, for the environment of its process.
    pub fn describe(&self) -> String {
        let parts = [
            self.number.to_string(),
            self.kind.name().to_owned(),
            self.seed.to_string(),
            self.run_dir.display().to_string(),
            self.began.as_nanos().to_string(),
            self.surroundings.namenode.clone(),
            self.surroundings.programs.display().to_string(),
            self.surroundings.mount.display().to_string(),
        ];
        parts.join("\n")
    }

    /// The worker that `text` describes.
    pub fn of_description(text: &str) -> Result<Self> {
        let mut parts = text.split('\n');
        let mut next = || parts.next().context("a part of the description is missing");
        Ok(Self {
            number: next()?.parse()?,
            kind: Kind::of_name(next()?).context("kind")?,
            seed: next()?.parse()?,
            run_dir: next()?.into(),
            began: Duration::from_nanos(next()?.parse()?),
            surroundings: Surroundings {
                namenode: next()?.to_owned(),
                programs: next()?.into(),
                mount: next()?.into(),
            },
        })
    }

    /// Works until told to stop, or until an answer cannot be.
    pub fn run(&self) -> Result<()> {
        let mut actor = self.kind.actor(self.surroundings.clone(), takes_back_changes(self.seed))?;
        let mut known = Expectation::of(&read_history(&self.history())?)?;
        let mut history = HistoryWriter::open(&self.history())?;
        let started = Record::Started { at_ms: self.now_ms()? };
        history.write(&started)?;
        known.add(&started)?;
        while !Self::stop_file(&self.run_dir).exists() {
            let next = monotonic()? + OPERATION_EVERY;
            let id = known.last_id() + 1;
            let can = actor.abilities();
            let mut operation = choose(self.seed, self.number, id, &self.root(), can, &known);
            if known.doubtful_paths().len() > MANY_DOUBTS {
                operation = Operation::Read { path: self.some_file(&known) };
            }
            let outcome = self.perform(actor.as_mut(), id, &operation, &mut history, &mut known)?;
            match outcome {
                Outcome::Done => pause(next.saturating_sub(monotonic()?)),
                Outcome::Unknown(_) => pause(AFTER_FAILURE),
            }
        }
        Ok(())
    }

    fn some_file(&self, known: &Expectation) -> String {
        let files = known.certain().into_iter().find(|(_, node)| matches!(node, Node::File { .. }));
        files.map_or_else(|| self.root(), |(path, _)| path.to_owned())
    }

    /// Does one operation between its two records.
    fn perform(
        &self,
        actor: &mut dyn Actor,
        id: u64,
        operation: &Operation,
        history: &mut HistoryWriter,
        known: &mut Expectation,
    ) -> Result<Outcome> {
        let content = match (operation, operation.paths().first().and_then(|path| known.node(path))) {
            (Operation::Read { .. }, Some(Node::File { content, .. })) => content.clone(),
            (Operation::Read { .. }, _) => return Ok(Outcome::Unknown("nothing to read".to_owned())),
            _ => Vec::new(),
        };
        let mut note = |record: Record| -> Result<()> {
            history.write(&record)?;
            known.add(&record)
        };
        note(Record::Begin { id, at_ms: self.now_ms()?, operation: operation.clone() })?;
        let performed = actor.perform(operation, &content, &mut |bytes| note(Record::Safe { id, bytes }))?;
        let outcome = match performed {
            Ok(()) => Outcome::Done,
            Err(Failure::Unknown(text)) => Outcome::Unknown(text),
            Err(Failure::Impossible(what)) => {
                note(Record::Contradiction { id, what: what.clone() })?;
                anyhow::bail!("operation {id}, {operation:?}: {what}");
            }
        };
        note(Record::End { id, at_ms: self.now_ms()?, outcome: outcome.clone() })?;
        Ok(outcome)
    }

    fn now_ms(&self) -> Result<u64> {
        Ok(u64::try_from(monotonic()?.saturating_sub(self.began).as_millis())?)
    }
}
