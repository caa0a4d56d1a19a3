//! `dfs append` and `truncate`: changing the end of files.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use dfs_client::{CreateOptions, ErrorKind, FileWriter};

use crate::exit::UsageError;
use crate::namespace;
use crate::output::Out;
use crate::path::{RemoteArg, RemotePath};
use crate::session::Session;
use crate::transfer::feed::Feed;
use crate::transfer::io_text;

/// How long `truncate -w` waits between looks.
const TRUNCATE_POLL: Duration = Duration::from_millis(200);

/// `dfs append`.
#[derive(Debug, Args)]
pub struct AppendArgs {
    /// Local files (- is standard input), then the file to append to
    #[arg(value_name = "PATH", num_args = 2.., required = true)]
    paths: Vec<OsString>,
}

/// Appends local content to a file, which is created if it does not exist.
pub async fn append(session: &Session, args: &AppendArgs) -> anyhow::Result<()> {
    let usage = |problem: String| UsageError { verb: "append", problem };
    let Some((target, sources)) = args.paths.split_last() else {
        return Err(usage("no path given".to_owned()).into());
    };
    let target = RemoteArg::from_os(target).map_err(|error| usage(error.to_string()))?;
    let target = session.resolve(&target);
    // All sources are opened before the target is touched.
    let mut feeds = Vec::with_capacity(sources.len());
    for source in sources {
        match open(source).await {
            Ok(feed) => feeds.push((source, feed)),
            Err(error) => {
                session.fail_about(&Path::new(source).display().to_string(), &io_text(&error));
                return Ok(());
            }
        }
    }
    let appended = async {
        let mut writer = open_target(session, &target).await?;
        for (_, feed) in &mut feeds {
            while let Some(bytes) = feed.next().await? {
                writer.write_bytes(bytes).await?;
            }
        }
        writer.close().await?;
        Ok::<(), crate::transfer::CopyError>(())
    };
    match appended.await {
        Ok(()) => {}
        Err(crate::transfer::CopyError::Remote(error)) => session.fail(&target, &error),
        Err(error) => session.fail_about(&target.shown, &error.to_string()),
    }
    Ok(())
}

async fn open(source: &OsString) -> std::io::Result<Feed> {
    if source == "-" {
        return Feed::stdin();
    }
    let metadata = std::fs::metadata(source)?;
    if metadata.is_dir() {
        return Err(std::io::Error::from_raw_os_error(libc::EISDIR));
    }
    Feed::local(source.into(), metadata.len()).await
}

async fn open_target(session: &Session, target: &RemotePath) -> Result<FileWriter, dfs_client::DfsError> {
    match session.client.append(&target.absolute).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            session.client.create(&target.absolute, CreateOptions::default()).await
        }
        outcome => outcome,
    }
}

/// `dfs truncate`.
#[derive(Debug, Args)]
pub struct TruncateArgs {
    /// Wait until the last block is cut
    #[arg(short = 'w')]
    wait: bool,
    /// New length in bytes
    length: u64,
    /// Files
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), required = true)]
    paths: Vec<RemoteArg>,
}

/// Cuts files.
pub async fn truncate(session: &Session, out: &mut Out, args: &TruncateArgs) -> anyhow::Result<()> {
    for path in namespace::paths(session, &args.paths).await {
        let length = args.length;
        match session.client.truncate(&path.absolute, length).await {
            Ok(true) => out.line(format_args!("Truncated {} to length: {length}", path.shown))?,
            Ok(false) if args.wait => {
                out.bytes(format!("Waiting for {} ...", path.shown).as_bytes())?;
                out.flush()?;
                wait_until_closed(session, &path).await;
                out.line(format_args!(" done"))?;
            }
            Ok(false) => out.line(format_args!(
                "Truncating {} to length: {length}. Wait for block recovery to complete before further updating this file.",
                path.shown
            ))?,
            Err(error) => session.fail(&path, &error),
        }
    }
    Ok(())
}

async fn wait_until_closed(session: &Session, path: &RemotePath) {
    loop {
        match session.client.stat(&path.absolute).await {
            Ok(status) if status.under_construction => tokio::time::sleep(TRUNCATE_POLL).await,
            Ok(_) => return,
            Err(error) => return session.fail(path, &error),
        }
    }
}
