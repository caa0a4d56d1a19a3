//! A run: rounds of load and faults, each followed by quiet and checks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dfs_client::MkdirOptions;
use tokio::runtime::{Builder, Runtime};

use super::actors::Kind;
use super::events::Events;
use super::faults::{Injector, Timetable};
use super::history::{HistoryWriter, Outcome, Record, SettledNode, read_history};
use super::observation::{Found, replicas};
use super::pauses::{Lasting, Pauses};
use super::plan::{MOUNT, NAMENODE, plan};
use super::quiet::{Quiet, all_alive, connect};
use super::servers::describe;
use super::setup::{Setup, process_of};
use super::worker::{Worker, monotonic};
use crate::mount::is_mounted;
use crate::wait::{PATIENCE, pause, wait_until_blocking};

/// Seconds of load and faults between two quiets.
const ROUND_SECONDS: u64 = 25;

/// Time between two looks at the timetable and at the processes.
const TICK: Duration = Duration::from_millis(50);

/// Ticks between two looks at the disks' generation stamps.
const TICKS_PER_LOOK: u32 = 10;

/// Time that operations which are under way get to end once everything is healed. A worker that is still waiting
/// after that hangs.
const LAST_OPERATION_WITHIN: Duration = Duration::from_secs(75);

/// Lines of each log that a failed run shows.
const LOG_LINES: usize = 25;

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct Order {
    /// Its seed.
    pub seed: u64,
    /// Seconds of load and faults, all rounds together.
    pub seconds: u64,
    /// A directory of its own.
    pub run_dir: PathBuf,
    /// Directory of the programs.
    pub programs: PathBuf,
    /// Whether volumes are copied into `run_dir` when it fails.
    pub keep: bool,
}

/// A check and its name.
pub type Check = (&'static str, fn(&Quiet<'_>) -> Result<()>);

/// Runs `order` in this process's own namespaces, and answers what there is to say in a line. When it fails, everything known about
/// it has been printed.
pub fn run(order: &Order, checks: &[Check]) -> Result<String> {
    let began = monotonic()?;
    let events = Events::new(began, &order.run_dir.join("events"))?;
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let setup = Setup::new(order.seed, &order.run_dir, &order.programs, began)?;
    let mut run = Run {
        setup,
        runtime,
        events: &events,
        stamps: BTreeMap::new(),
        damaged: BTreeSet::new(),
        lasted: Vec::new(),
    };
    let outcome = run.rounds(order, checks);
    if outcome.is_err() {
        eprintln!("seed {}, events:\n{}", order.seed, events.text());
        eprintln!("{}", run.setup.servers.logs(LOG_LINES));
        if order.keep {
            run.keep_volumes()?;
        }
    }
    outcome?;
    run.summary()
}

/// The state of a run.
struct Run<'e> {
    setup: Setup,
    runtime: Runtime,
    events: &'e Events,
    /// The highest generation stamp that was ever seen of each block.
    stamps: BTreeMap<u64, u64>,
    /// Blocks of which a replica was damaged.
    damaged: BTreeSet<u64>,
    /// The faults that were done.
    lasted: Vec<Lasting>,
}

impl Run<'_> {
    fn rounds(&mut self, order: &Order, checks: &[Check]) -> Result<()> {
        self.start()?;
        let mut left = order.seconds;
        for round in 0.. {
            let length = left.min(ROUND_SECONDS);
            self.round(order.seed, round, Duration::from_secs(length))?;
            self.check(round, checks).with_context(|| format!("after round {round}"))?;
            left -= length;
            if left == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Starts everything but the workers, whose directories are made.
    fn start(&mut self) -> Result<()> {
        self.setup.start(NAMENODE)?;
        for (name, _) in self.setup.volumes.clone() {
            self.setup.start(&name)?;
        }
        let setup = &self.setup;
        self.runtime.block_on(async {
            let client = connect(&setup.namenode).await?;
            all_alive(&client, setup.volumes.len()).await?;
            for worker in &setup.workers {
                let options = MkdirOptions { mode: 0o777, ..MkdirOptions::default() };
                client.mkdir(&worker.root(), options).await?;
                let node = Some(SettledNode::Directory);
                HistoryWriter::open(&worker.history())?
                    .write(&Record::Settled { path: worker.root(), node })?;
            }
            anyhow::Ok(())
        })?;
        self.setup.start(MOUNT)?;
        self.wait_for_mount()
    }

    fn wait_for_mount(&self) -> Result<()> {
        let mount = self.setup.run_dir.join("mnt");
        wait_until_blocking("the mount serves", PATIENCE, || {
            Ok(is_mounted(&mount)? && fs::metadata(&mount).is_ok())
        })
    }

    /// Load and faults for `length`, then none, and the load's end.
    fn round(&mut self, seed: u64, round: u64, length: Duration) -> Result<()> {
        let planned = plan(seed, round, length, &self.setup.targets);
        let mut timetable = Timetable::new(planned);
        match fs::remove_file(Worker::stop_file(&self.setup.run_dir)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let workers: Vec<String> = self.setup.workers.iter().map(process_of).collect();
        for worker in &workers {
            self.setup.start(worker)?;
        }
        let began = monotonic()?;
        self.events.note(format_args!("round {round} begins"));
        let mut ticks = 0;
        loop {
            let now = monotonic()?.saturating_sub(began);
            if now >= length {
                break;
            }
            timetable.go_to(now, &mut self.injector())?;
            self.look_after_processes(&timetable)?;
            if ticks % TICKS_PER_LOOK == 0 {
                self.note_stamps()?;
            }
            ticks += 1;
            pause(TICK);
        }
        timetable.heal(&mut self.injector())?;
        self.events.note("healed");
        fs::write(Worker::stop_file(&self.setup.run_dir), b"")?;
        let healed = monotonic()?;
        let mut waiting = workers;
        while !waiting.is_empty() {
            let waited = monotonic()?.saturating_sub(healed);
            ensure!(waited < LAST_OPERATION_WITHIN, "still waiting after {waited:?}: {waiting:?}");
            self.look_after_processes(&timetable)?;
            waiting.retain(|worker| self.setup.servers.runs(worker));
            pause(TICK);
        }
        self.events.note("the load has ended");
        self.wait_for_mount()
    }

    fn injector(&mut self) -> Injector<'_> {
        Injector {
            servers: &mut self.setup.servers,
            network: &self.setup.network,
            clocks: &self.setup.clocks,
            volumes: &self.setup.volumes,
            namenode_disk: &self.setup.namenode_disk,
            targets: &self.setup.targets,
            nodes: &self.setup.nodes,
            damaged: &mut self.damaged,
            events: self.events,
            lasted: &mut self.lasted,
        }
    }

    /// No server ends by itself, and no worker with an error; a mount that could not be made is tried again.
    fn look_after_processes(&mut self, timetable: &Timetable) -> Result<()> {
        for (name, status) in self.setup.servers.ended()? {
            self.events.note(format_args!("{name} ended: {}", describe(status)));
            let is_worker = self.setup.workers.iter().any(|worker| process_of(worker) == name);
            if is_worker {
                ensure!(status.success(), "{name}: {}", self.last_contradiction(&name)?);
            } else if name != MOUNT && !timetable.may_end(&name) {
                bail!("{name} ended by itself: {}", describe(status));
            }
        }
        // Those that could not be started in time because their predecessors were not gone yet.
        let load_ends = Worker::stop_file(&self.setup.run_dir).exists();
        for name in self.setup.servers.names() {
            let is_worker = self.setup.workers.iter().any(|worker| process_of(worker) == name);
            let wanted = !(timetable.keeps_down(&name) || is_worker && load_ends);
            if wanted && !self.setup.servers.runs(&name) {
                self.setup.start(&name)?;
            }
        }
        Ok(())
    }

    fn last_contradiction(&self, process: &str) -> Result<String> {
        let worker = self.setup.workers.iter().find(|worker| process_of(worker) == process);
        let records = read_history(&worker.context("a worker")?.history())?;
        let operation = records.iter().rev().find(|record| matches!(record, Record::Begin { .. }));
        let what = records.iter().rev().find(|record| matches!(record, Record::Contradiction { .. }));
        Ok(format!("{what:?} to {operation:?}"))
    }

    /// Takes note of the generation stamps on the disks.
    fn note_stamps(&mut self) -> Result<()> {
        for (name, volume) in &self.setup.volumes {
            for replica in replicas(name, &volume.data())? {
                let seen = self.stamps.entry(replica.block).or_default();
                *seen = replica.stamp.max(*seen);
            }
        }
        Ok(())
    }

    /// Waits for quiet and runs all checks. What they found right is what the next round begins with.
    fn check(&mut self, round: u64, checks: &[Check]) -> Result<()> {
        self.note_stamps()?;
        let quiet = Quiet::reach(&self.setup, &self.runtime, &self.stamps, &self.damaged, self.events)?;
        self.events.note("quiet");
        let mut failed = Vec::new();
        for (name, check) in checks {
            match check(&quiet) {
                Ok(()) => self.events.note(format_args!("check passed: {name}")),
                Err(error) => failed.push(format!("{name}: {error:#}")),
            }
        }
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        quiet.settle(&self.setup.workers, round)?;
        let blocks = quiet.namespace.values().flat_map(|found| match found {
            Found::File(file) => file.blocks.as_slice(),
            Found::Directory => &[],
        });
        let stamps: Vec<(u64, u64)> = blocks
            .filter_map(|located| located.block)
            .map(|block| (block.id, block.generation_stamp))
            .collect();
        for (block, stamp) in stamps {
            let seen = self.stamps.entry(block).or_default();
            *seen = stamp.max(*seen);
        }
        Ok(())
    }

    /// Copies what is on the volumes, which go away with this process.
    fn keep_volumes(&self) -> Result<()> {
        let copy = self.setup.run_dir.join("disks");
        fs::create_dir_all(&copy)?;
        let namenode = (NAMENODE.to_owned(), self.setup.namenode_disk.clone());
        for (name, volume) in self.setup.volumes.iter().chain([&namenode]) {
            let mut command = std::process::Command::new("cp");
            command.arg("-a").arg(volume.data()).arg(copy.join(name));
            ensure!(command.status()?.success(), "cp of {name}");
        }
        Ok(())
    }

    /// What was done. The last line says it in short.
    fn summary(&self) -> Result<String> {
        let (mut done, mut unknown, mut slowest) = (0, 0, (0, String::new()));
        let mut pauses = Pauses::default();
        for (load, worker) in self.setup.workers.iter().enumerate() {
            let mut begun = (0, String::new());
            let history = read_history(&worker.history())?;
            let process = process_of(worker);
            let own = if worker.kind == Kind::Mounted {
                vec![process.as_str(), MOUNT]
            } else {
                vec![process.as_str()]
            };
            pauses.add(load, &own, &history, &self.lasted);
            for record in history {
                match record {
                    Record::Begin { at_ms, operation, .. } => begun = (at_ms, format!("{operation:?}")),
                    Record::End { at_ms, outcome, .. } => {
                        match outcome {
                            Outcome::Done => done += 1,
                            Outcome::Unknown(_) => unknown += 1,
                        }
                        let took = at_ms.saturating_sub(begun.0);
                        if took > slowest.0 {
                            slowest = (took, std::mem::take(&mut begun.1));
                        }
                    }
                    _ => {}
                }
            }
        }
        let faults = self.lasted.len();
        Ok(format!(
            "{}{faults} faults, {done} operations acknowledged, {unknown} not; the slowest took {} ms: {}; longest operations in ms \
             by fault (library/commands/mount): {}",
            pauses.lines(),
            slowest.0,
            slowest.1,
            pauses.in_short()
        ))
    }
}
