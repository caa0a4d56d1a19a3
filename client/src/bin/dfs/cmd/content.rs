//! `dfs cat`, `head` and `tail`: contents on standard output.

use std::io::{self, Stdout};
use std::time::Duration;

use clap::Args;
use dfs_client::{DfsError, ErrorKind, FileReader};

use crate::exit::OutputError;
use crate::namespace;
use crate::output::Out;
use crate::path::{RemoteArg, RemotePath};
use crate::session::Session;
use crate::transfer::rescue;
use crate::transfer::sink::Sink;

/// Bytes that `head` and `tail` show unless told otherwise, as HDFS.
const DEFAULT_SHOWN_BYTES: u64 = 1024;

/// `dfs cat`.
#[derive(Debug, Args)]
pub struct CatArgs {
    /// Print damaged files, too: bytes as they are on the disks where no replica matches its checksums
    #[arg(long, visible_alias = "ignoreCrc")]
    ignore_crc: bool,
    /// Files
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), required = true)]
    paths: Vec<RemoteArg>,
}

/// Prints files.
pub async fn cat(session: &Session, out: &mut Out, args: &CatArgs) -> anyhow::Result<()> {
    if args.ignore_crc {
        print_rescued(session, out, &args.paths).await
    } else {
        print_all(session, out, &args.paths).await
    }
}

/// Prints what is left of the files that `paths` stand for.
pub async fn print_rescued(session: &Session, out: &mut Out, paths: &[RemoteArg]) -> anyhow::Result<()> {
    out.flush()?;
    let sink = Sink::start(io::stdout())?;
    for path in namespace::paths(session, paths).await {
        match rescue::write(session, &path, &sink).await {
            Ok(doubt) => rescue::tell(session, &path, &doubt),
            Err(error) => session.fail(&path, &error),
        }
    }
    sink.finish().await.map_err(OutputError::from)?;
    Ok(())
}

/// Prints the files that `paths` stand for, one after the other.
pub async fn print_all(session: &Session, out: &mut Out, paths: &[RemoteArg]) -> anyhow::Result<()> {
    out.flush()?;
    let mut sink = Sink::start(io::stdout())?;
    for path in namespace::paths(session, paths).await {
        match open(session, &path).await {
            Ok(reader) => sink = print_to(session, sink, &path, reader).await?,
            Err(error) => session.fail(&path, &error),
        }
    }
    sink.finish().await.map_err(OutputError::from)?;
    Ok(())
}

async fn open(session: &Session, path: &RemotePath) -> Result<FileReader, DfsError> {
    session.client.open(&path.absolute).await
}

/// Prints the rest of a file. Reading and writing overlap.
async fn print_to(
    session: &Session,
    sink: Sink<Stdout>,
    path: &RemotePath,
    mut reader: FileReader,
) -> Result<Sink<Stdout>, OutputError> {
    loop {
        match reader.chunk().await {
            Ok(Some(bytes)) => {
                if !sink.send(bytes).await {
                    return match sink.finish().await {
                        Ok(_) => Err(OutputError::Closed),
                        Err(error) => Err(error.into()),
                    };
                }
            }
            Ok(None) => return Ok(sink),
            Err(error) => {
                session.fail(path, &error);
                return Ok(sink);
            }
        }
    }
}

/// `dfs head`.
#[derive(Debug, Args)]
pub struct HeadArgs {
    /// Bytes to show
    #[arg(short = 'c', value_name = "BYTES", default_value_t = DEFAULT_SHOWN_BYTES)]
    bytes: u64,
    /// Files
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), required = true)]
    paths: Vec<RemoteArg>,
}

/// Prints the beginning of files.
pub async fn head(session: &Session, out: &mut Out, args: &HeadArgs) -> anyhow::Result<()> {
    for path in namespace::paths(session, &args.paths).await {
        let mut left = args.bytes;
        let mut reader = match open(session, &path).await {
            Ok(reader) => reader,
            Err(error) => {
                session.fail(&path, &error);
                continue;
            }
        };
        while left > 0 {
            match reader.chunk().await {
                Ok(Some(bytes)) => {
                    let shown = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    out.bytes(&bytes[..shown])?;
                    left -= shown as u64;
                }
                Ok(None) => break,
                Err(error) => {
                    session.fail(&path, &error);
                    break;
                }
            }
        }
    }
    Ok(())
}

/// `dfs tail`.
#[derive(Debug, Args)]
pub struct TailArgs {
    /// Go on as the file grows
    #[arg(short = 'f')]
    follow: bool,
    /// Milliseconds between looks with -f
    #[arg(short = 's', value_name = "MS", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    sleep_ms: u64,
    /// Bytes to show
    #[arg(short = 'c', value_name = "BYTES", default_value_t = DEFAULT_SHOWN_BYTES)]
    bytes: u64,
    /// File
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser())]
    path: RemoteArg,
}

/// Prints the end of a file, and with `-f` what is added to it until somebody interrupts.
pub async fn tail(session: &Session, out: &mut Out, args: &TailArgs) -> anyhow::Result<()> {
    let Some(path) = namespace::paths(session, std::slice::from_ref(&args.path)).await.into_iter().next()
    else {
        return Ok(());
    };
    let mut reader = match open(session, &path).await {
        Ok(reader) => reader,
        Err(error) => {
            session.fail(&path, &error);
            return Ok(());
        }
    };
    let mut position = reader.len().saturating_sub(args.bytes);
    loop {
        reader.seek_to(position);
        loop {
            match reader.chunk().await {
                Ok(Some(bytes)) => {
                    out.bytes(&bytes)?;
                    position += bytes.len() as u64;
                }
                Ok(None) => break,
                Err(error) => {
                    session.fail(&path, &error);
                    return Ok(());
                }
            }
        }
        out.flush()?;
        if !args.follow {
            return Ok(());
        }
        drop(reader);
        reader = match grown(session, args, &path, position).await {
            Ok(reader) => reader,
            Err(error) => {
                session.fail(&path, &error);
                return Ok(());
            }
        };
        if reader.len() < position {
            session.fail_about(&path.shown, "File was cut: going on at its new end");
            position = reader.len();
        }
    }
}

/// Waits until the file does not end at `position` any more. A file that is gone for a moment is being
/// replaced.
async fn grown(
    session: &Session,
    args: &TailArgs,
    path: &RemotePath,
    position: u64,
) -> Result<FileReader, DfsError> {
    loop {
        tokio::time::sleep(Duration::from_millis(args.sleep_ms)).await;
        match open(session, path).await {
            Ok(reader) if reader.len() != position => return Ok(reader),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}
