//! `dfs bench`: measures a cluster, beside what the machine allows.
//!
//! * `io`: large files in streams, beside the [`limits`] measured in the same rounds.
//! * `meta`: metadata calls by concurrent callers. `small`: small files, likewise.
//! * `fill`: makes many files and keeps them.
//!
//! What is promised of a figure: it is the median of several rounds after a warm-up; rounds go through
//! all cases one after the other, so that a machine that changes its speed changes all of them; one
//! client is shared by all callers; content is neither constant nor compressible and is verified, large
//! files in an untimed pass and small ones always; deleted files are gone before the next measurement.
//! A benchmark works in a directory of its own, which is removed also after an error or a signal.

mod args;
mod cpu;
mod fill;
mod io;
mod limits;
mod listeners;
mod load;
mod meta;
mod pattern;
mod rows;
mod servers;
mod session;
mod small;
mod stats;

use std::process::ExitCode;

use anyhow::Context;

pub use args::BenchArgs;
use args::{BenchCommand, RoundArgs};
use rows::{CallRow, IoRow, Rows, call_table, io_table};
use servers::local_cluster;
use session::{OwnDirectory, Session, interrupted};

use crate::globals::Globals;
use crate::output::Out;

/// Results of one benchmark.
enum Report {
    /// Streams.
    Io(Vec<IoRow>),
    /// Calls; `datanodes` tells whether they took part.
    Calls { rows: Vec<CallRow>, datanodes: bool },
}

/// Runs the benchmark that `args` name and prints its results.
pub fn run(args: BenchArgs, globals: &Globals) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("bench")
        .enable_all()
        .build()
        .context("cannot start the threads of the benchmark")?;
    let json = args.json;
    let measured = runtime.block_on(measure(args, globals));
    let report = measured.map_err(|error| anyhow::anyhow!("bench: {error:#}"))?;
    let mut out = Out::new();
    let table = match (&report, json) {
        (Report::Io(rows), true) => return json_to(out, rows),
        (Report::Calls { rows, .. }, true) => return json_to(out, rows),
        (Report::Io(rows), false) => io_table(rows),
        (Report::Calls { rows, datanodes }, false) => call_table(rows, *datanodes),
    };
    for line in table.lines() {
        out.line(format_args!("{line}"))?;
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn json_to<R: serde::Serialize>(mut out: Out, rows: &[R]) -> anyhow::Result<ExitCode> {
    out.json(&Rows { rows })?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(args: BenchArgs, globals: &Globals) -> anyhow::Result<Report> {
    let local = local_cluster(&globals.namenode, args.cluster_dir.as_deref())?;
    let session = Session::open(globals, local.as_ref()).await?;
    let report = match args.command {
        BenchCommand::Io(io) => {
            let limits_parent =
                io.dir.clone().or(local.map(|local| local.dir)).unwrap_or_else(std::env::temp_dir);
            let rounds = io.rounds.clone();
            let work = async |path: &str| io::measure(&session, path, &io, &limits_parent).await;
            Report::Io(in_own_directory(&session, &rounds, work).await?)
        }
        BenchCommand::Meta(meta) => {
            let rounds = meta.rounds.clone();
            let work = async |path: &str| meta::measure(&session, path, &meta).await;
            Report::Calls { rows: in_own_directory(&session, &rounds, work).await?, datanodes: false }
        }
        BenchCommand::Small(small) => {
            let rounds = small.rounds.clone();
            let work = async |path: &str| small::measure(&session, path, &small).await;
            Report::Calls { rows: in_own_directory(&session, &rounds, work).await?, datanodes: true }
        }
        BenchCommand::Fill(fill) => {
            let row = unless_interrupted(fill::measure(&session, &fill)).await?;
            Report::Calls { rows: vec![row], datanodes: fill.size > 0 }
        }
    };
    session.progress.finish_and_clear();
    Ok(report)
}

/// Runs `work` in a directory of its own, and removes that whatever happens.
async fn in_own_directory<T>(
    session: &Session,
    rounds: &RoundArgs,
    work: impl AsyncFnOnce(&str) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let directory = OwnDirectory::create(session, &rounds.path).await?;
    let outcome = unless_interrupted(work(directory.path())).await;
    session.step("removing the benchmark's files".to_owned());
    directory.remove(session).await;
    outcome
}

/// Ends `work` early when this process is asked to end.
async fn unless_interrupted<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        outcome = work => outcome,
        watched = interrupted() => {
            watched?;
            anyhow::bail!("interrupted")
        }
    }
}
