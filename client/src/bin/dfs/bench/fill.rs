//! `dfs bench fill`: makes many files and keeps them, so that a namenode of that size can be looked at.

use std::sync::Arc;

use dfs_client::{CreateOptions, DfsError, ErrorKind, MkdirOptions};
use indicatif::{ProgressBar, ProgressStyle};

use super::args::FillArgs;
use super::load::{self, LoadResult};
use super::pattern::Pattern;
use super::rows::CallRow;
use super::session::Session;
use super::small::FileSet;

/// Makes the files; one round, since it cannot be repeated.
pub async fn measure(session: &Session, args: &FillArgs) -> anyhow::Result<CallRow> {
    let directories = args.files.div_ceil(args.per_directory);
    if !args.path.is_empty() {
        session.client.mkdir(&args.path, MkdirOptions { parents: true, ..MkdirOptions::default() }).await?;
    }
    let set = FileSet {
        client: session.client.clone(),
        dir: Arc::from(args.path.as_str()),
        pattern: Pattern::new(),
        size: args.size,
        create: CreateOptions { replication: args.replication, ..CreateOptions::default() },
    };
    let mkdir = {
        let set = set.clone();
        move |number| {
            let set = set.clone();
            async move {
                set.client.mkdir(&directory(&set.dir, number), MkdirOptions::default()).await?;
                Ok(())
            }
        }
    };
    load::run(args.callers, directories, &session.clocks, mkdir).await.map_err(explain)?;

    let progress = ProgressBar::new(args.files);
    let style = "{wide_bar} {human_pos}/{human_len} files, {per_sec}, {eta} left";
    progress.set_style(ProgressStyle::with_template(style)?);
    let per_directory = args.per_directory;
    let create = {
        let progress = progress.clone();
        move |number| {
            let (set, progress) = (set.clone(), progress.clone());
            async move {
                let path = format!("{}/f{number:09}", directory(&set.dir, number / per_directory));
                set.write(&path, number).await?;
                progress.inc(1);
                Ok(())
            }
        }
    };
    let run = load::run(args.callers, args.files, &session.clocks, create).await;
    progress.finish_and_clear();
    let mut result = LoadResult::new("fill", args.callers);
    result.add(run?);
    result.row()
}

/// Says what to do when the directory was filled before.
fn explain(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<DfsError>().map(DfsError::kind) {
        Some(ErrorKind::AlreadyExists) => error.context("filled before; choose another --path"),
        Some(_) | None => error,
    }
}

/// Path of a directory of files.
fn directory(base: &str, number: u64) -> String {
    format!("{base}/d{number:06}")
}
