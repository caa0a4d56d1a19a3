//! `dfs admin scrub NODE`: has a datanode reread and verify all its replicas now. What is bad is reported to the namenode by the
//! datanode, which repairs it. Exit code 1 when something bad was found, or a volume could not be verified.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use clap::Args;
use dfs_client::ScrubProgress;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::node_arg;
use crate::human;
use crate::output::Out;
use crate::session::Session;

/// Layout of the progress bar.
const TEMPLATE: &str = "{bytes}/{total_bytes} [{bar:30}] {percent}% {bytes_per_sec} ETA {eta} {msg}";

/// `dfs admin scrub`.
#[derive(Debug, Args)]
pub struct ScrubArgs {
    /// Datanode
    #[arg(value_name = node_arg::FORMS)]
    node: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One volume.
#[derive(Debug, Default, Serialize)]
struct VolumeRow {
    path: String,
    storage_id: String,
    replicas: u64,
    bytes: u64,
    bad: u64,
    /// One line each; of very many only the first.
    found: Vec<String>,
    /// Why it could not be verified to its end.
    failure: String,
    #[serde(skip)]
    bytes_total: u64,
}

impl VolumeRow {
    fn take(&mut self, news: ScrubProgress) {
        let ScrubProgress { storage_id, path, replicas, bytes, bytes_total, found, bad, done: _, failure } =
            news;
        self.found.extend(found);
        (self.path, self.storage_id, self.failure) = (path, storage_id, failure);
        (self.replicas, self.bytes, self.bytes_total, self.bad) = (replicas, bytes, bytes_total, bad);
    }

    fn line(&self) -> String {
        let sum =
            format!("{} replicas, {} verified, {} bad", self.replicas, human::size(self.bytes), self.bad);
        if self.failure.is_empty() {
            format!("Volume {}: {sum}", self.path)
        } else {
            format!("Volume {}: {sum}; not finished: {}", self.path, self.failure)
        }
    }
}

/// Scrubs and tells.
pub async fn run(session: &Session, out: &mut Out, args: &ScrubArgs) -> anyhow::Result<()> {
    let node = node_arg::find(session, &args.node).await?;
    let mut scrub = session.client.scrub(&node).await?;
    let bar = bar();
    let mut volumes: BTreeMap<String, VolumeRow> = BTreeMap::new();
    while let Some(news) = scrub.progress().await? {
        let row = volumes.entry(news.storage_id.clone()).or_default();
        let told = row.found.len();
        row.take(news);
        if !args.json {
            let mut print = || row.found[told..].iter().try_for_each(|line| out.line(format_args!("{line}")));
            bar.suspend(&mut print)?;
            bar.suspend(|| out.flush())?;
        }
        bar.set_length(volumes.values().map(|row| row.bytes_total.max(row.bytes)).sum());
        bar.set_position(volumes.values().map(|row| row.bytes).sum());
    }
    bar.finish_and_clear();
    let rows: Vec<VolumeRow> = volumes.into_values().collect();
    if rows.is_empty() || rows.iter().any(|row| row.bad > 0 || !row.failure.is_empty()) {
        session.set_failed();
    }
    if args.json {
        out.json(&rows)?;
    } else {
        rows.iter().try_for_each(|row| out.line(format_args!("{}", row.line())))?;
    }
    Ok(())
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
