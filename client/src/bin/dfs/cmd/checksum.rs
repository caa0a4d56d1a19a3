//! `dfs checksum`: checksums of whole files.

use clap::Args;
use serde::Serialize;

use crate::namespace;
use crate::output::Out;
use crate::path::RemoteArg;
use crate::session::Session;

/// `dfs checksum`.
#[derive(Debug, Args)]
pub struct ChecksumArgs {
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    /// Files
    #[arg(value_name = "FILE", value_parser = RemoteArg::parser(), required = true)]
    paths: Vec<RemoteArg>,
}

#[derive(Debug, Serialize)]
struct ChecksumRow {
    path: String,
    algorithm: &'static str,
    checksum: String,
    length: u64,
}

/// Prints path, algorithm and checksum of each file.
pub async fn run(session: &Session, out: &mut Out, args: &ChecksumArgs) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for path in namespace::paths(session, &args.paths).await {
        let checksum = match session.client.checksum(&path.absolute).await {
            Ok(checksum) => checksum,
            Err(error) => {
                session.fail(&path, &error);
                continue;
            }
        };
        if args.json {
            rows.push(ChecksumRow {
                path: path.absolute,
                algorithm: checksum.algorithm(),
                checksum: checksum.to_string(),
                length: checksum.length,
            });
        } else {
            out.line(format_args!("{}\t{}\t{checksum}", path.shown, checksum.algorithm()))?;
        }
    }
    if args.json {
        out.json(&rows)?;
    }
    Ok(())
}
