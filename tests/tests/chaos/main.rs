//! The chaos test: real processes on a network of their own under a mixed load, faults drawn from a seed, then checks.
//!
//! `DFS_CHAOS_SEED=n` runs one seed (`n..m` several), `DFS_CHAOS_SECONDS=n` says how many seconds of faults each has,
//! `DFS_CHAOS_JOBS=n` how many run at once, and `DFS_CHAOS_KEEP=dir` keeps all files of failed runs. The program runs itself again:
//! in namespaces for each seed, and there as the workers.

mod contents;
mod names;
mod orphans;
mod replicas;
mod stamps;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_tests::chaos::isolation::{isolated, refusal, thaw};
use dfs_tests::chaos::pauses::Pauses;
use dfs_tests::chaos::run::{Check, Order, run};
use dfs_tests::chaos::setup::DISKS;
use dfs_tests::chaos::worker::{WORKER_VARIABLE, Worker};
use dfs_tests::chaos::{KEEP_VARIABLE, SECONDS_VARIABLE, SEED_VARIABLE};
use dfs_tests::programs::program_dir;
use dfs_tests::wait::wait_until_blocking;

/// Seeds that every run of the test suite takes: between them they have most kinds of fault.
const SEEDS: [u64; 2] = [12, 39];

/// Seconds of faults of each of them: with start, quiet and checks, less than three minutes for all; half of that, two at a time.
const SECONDS: u64 = 35;

/// Runs at once, if nothing else is said: this many processors are taken for granted.
const JOBS: usize = 2;

/// Names how many runs there are at once.
const JOBS_VARIABLE: &str = "DFS_CHAOS_JOBS";

/// Tells a process that it is the first of its namespaces, and what it is to run.
const INSIDE_VARIABLE: &str = "DFS_CHAOS_INSIDE";

/// Time that a run may take in addition to three times the seconds of its faults.
const MORE_TIME: Duration = Duration::from_secs(400);

/// What is checked when a cluster is quiet. Contents come last but count most: the others say more about why.
const CHECKS: [Check; 5] = [
    ("the namespace is what was acknowledged", names::check),
    ("no acknowledged byte is lost or changed", contents::check),
    ("every block has the replicas that are wanted", replicas::check),
    ("no generation stamp went back", stamps::check),
    ("no disk has a replica that nobody knows", orphans::check),
];

fn main() -> ExitCode {
    let outcome = if let Ok(worker) = std::env::var(WORKER_VARIABLE) {
        Worker::of_description(&worker).and_then(|worker| worker.run())
    } else if let Ok(order) = std::env::var(INSIDE_VARIABLE) {
        inside(&order)
    } else {
        outside()
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what `order` says, as the first process of its namespaces.
fn inside(order: &str) -> Result<()> {
    let mut parts = order.split('\n');
    let mut next = || parts.next().context("a part of the order is missing");
    let order = Order {
        seed: next()?.parse()?,
        seconds: next()?.parse()?,
        run_dir: next()?.into(),
        programs: next()?.into(),
        keep: std::env::var_os(KEEP_VARIABLE).is_some(),
    };
    let said = run(&order, &CHECKS)?;
    println!("{said}");
    Ok(())
}

/// Runs all seeds in namespaces of their own, some at once.
fn outside() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    if arguments.iter().any(|argument| argument == "--list")
        || filter.is_some_and(|filter| !"chaos".contains(filter.as_str()))
    {
        return Ok(());
    }
    if let Some(reason) = refusal()? {
        eprintln!("\n**** SKIPPED: the chaos test did not run: {reason} ****\n");
        return Ok(());
    }
    let programs = program_dir()?;
    let seconds = number(SECONDS_VARIABLE)?.unwrap_or(SECONDS);
    let jobs = number(JOBS_VARIABLE)?.map_or(Ok(JOBS), usize::try_from)?;
    let seeds = Mutex::new(seeds()?.into_iter());
    let failed = Mutex::new(Vec::new());
    let pauses = Mutex::new(Pauses::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(seed) = seeds.lock().ok().and_then(|mut seeds| seeds.next()) {
                    let began = Instant::now();
                    let outcome = one(seed, seconds, programs);
                    let took = began.elapsed().as_secs();
                    match outcome {
                        Ok(said) => {
                            let closing = said.lines().last().unwrap_or_default();
                            println!("chaos, seed {seed}, {took} s: {closing}");
                            let mut pauses = pauses.lock().unwrap_or_else(|error| error.into_inner());
                            if let Err(error) = pauses.take(&said) {
                                println!("its figures make no sense: {error:#}");
                            }
                        }
                        Err(error) => {
                            println!("chaos, seed {seed}, {took} s: FAILED: {error:#}");
                            println!("again: {SEED_VARIABLE}={seed} {SECONDS_VARIABLE}={seconds}");
                            failed.lock().unwrap_or_else(|error| error.into_inner()).push(seed);
                        }
                    }
                }
            });
        }
    });
    println!("{}", pauses.into_inner().unwrap_or_else(|error| error.into_inner()).table());
    let failed = failed.into_inner().unwrap_or_else(|error| error.into_inner());
    ensure!(failed.is_empty(), "failed seeds: {failed:?}");
    Ok(())
}

fn number(variable: &str) -> Result<Option<u64>> {
    match std::env::var(variable) {
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("{variable}={text}"))?)),
        Err(_) => Ok(None),
    }
}

fn seeds() -> Result<Vec<u64>> {
    let Ok(text) = std::env::var(SEED_VARIABLE) else { return Ok(SEEDS.to_vec()) };
    let parse = |text: &str| text.parse().with_context(|| format!("{SEED_VARIABLE}={text}"));
    match text.split_once("..") {
        Some((from, to)) => Ok((parse(from)?..parse(to)?).collect()),
        None => Ok(vec![parse(&text)?]),
    }
}

/// Runs one seed to its end and answers what it said.
fn one(seed: u64, seconds: u64, programs: &Path) -> Result<String> {
    let kept = std::env::var_os(KEEP_VARIABLE).map(|dir| PathBuf::from(dir).join(format!("seed-{seed}")));
    let home = tempfile::Builder::new().prefix("dfs-chaos-").tempdir()?;
    let run_dir = kept.clone().unwrap_or_else(|| home.path().to_owned());
    std::fs::create_dir_all(&run_dir)?;
    let output = run_dir.join("output");
    let file = File::create(&output)?;
    let test = std::env::current_exe()?;
    let mut command = isolated(&test.to_string_lossy());
    let order = format!("{seed}\n{seconds}\n{}\n{}", run_dir.display(), programs.display());
    command.env(INSIDE_VARIABLE, order).env("HOME", home.path()).env("TMPDIR", &run_dir);
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut child = command.spawn().context("unshare")?;
    let deadline = MORE_TIME + Duration::from_secs(3 * seconds);
    let ended = wait_until_blocking("the run ends", deadline, || Ok(child.try_wait()?.is_some()));
    if ended.is_err() {
        thaw(child.id(), &run_dir.join(DISKS))?;
        child.kill()?;
    }
    let status = child.wait()?;
    let said = String::from_utf8_lossy(&std::fs::read(&output)?).into_owned();
    if let Err(error) = ended {
        return Err(error.context(said));
    }
    ensure!(status.success(), "{said}");
    if let Some(dir) = kept {
        std::fs::remove_dir_all(dir)?;
    }
    Ok(said)
}
