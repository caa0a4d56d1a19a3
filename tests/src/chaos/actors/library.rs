//! A program that uses the client library.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use dfs_client::{CreateOptions, DfsClient, DfsError, FileWriter, MkdirOptions, RenameOptions, RetryPolicy};
use dfs_proto::ErrorKind;
use tokio::runtime::{Builder, Runtime};

use super::{Actor, Failure, Safe};
use crate::chaos::load::Abilities;
use crate::chaos::operation::Operation;
use crate::pattern::{ensure_same, pattern};
use crate::wait::wait_for;

/// How long a call is sent again before it fails: longer than most faults last, so that most operations outlive them.
const RETRY_FOR: Duration = Duration::from_secs(15);

/// How long a truncation inside a block may take; it waits for datanodes that may be away.
const CUT_WITHIN: Duration = Duration::from_secs(20);

/// How often the leases of open files are renewed: a client that is killed loses its files soon.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// The actor.
#[derive(Debug)]
pub struct Library {
    namenode: String,
    runtime: Runtime,
    /// Made anew after a failure: what the old one left open is nobody's.
    client: Option<DfsClient>,
}

type Performed = std::result::Result<(), Failure>;

impl Library {
    /// An actor for the cluster of `namenode`.
    pub fn new(namenode: String) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { namenode, runtime, client: None })
    }
}

impl Actor for Library {
    fn abilities(&self) -> Abilities {
        Abilities { overwrite: false, replication: true, replace: true }
    }

    fn perform(&mut self, operation: &Operation, known: &[u8], safe: &mut Safe<'_>) -> Result<Performed> {
        let mut outside = None;
        let mut told = |bytes| match safe(bytes) {
            Ok(()) => Ok(()),
            Err(error) => {
                outside = Some(error);
                Err(Failure::Unknown("the history".to_owned()))
            }
        };
        let (client, performed) = self.runtime.block_on(async {
            let client = match self.client.take() {
                Some(client) => client,
                None => match connect(&self.namenode).await {
                    Ok(client) => client,
                    Err(error) => return (None, Err(failure(&error))),
                },
            };
            let performed = carry_out(&client, operation, known, &mut told).await;
            (Some(client), performed)
        });
        self.client = client.filter(|_| performed.is_ok());
        match outside {
            Some(error) => Err(error),
            None => Ok(performed),
        }
    }
}

async fn connect(namenode: &str) -> Result<DfsClient, DfsError> {
    let retry = RetryPolicy { deadline: RETRY_FOR, ..RetryPolicy::default() };
    let builder = DfsClient::builder().namenode(namenode).retry(retry).lease_renewal(RENEW_EVERY);
    builder.connect_deadline(RETRY_FOR).connect().await
}

async fn carry_out(
    client: &DfsClient,
    operation: &Operation,
    known: &[u8],
    safe: &mut impl FnMut(u64) -> Performed,
) -> Performed {
    match operation {
        Operation::Mkdir { path } => {
            client.mkdir(path, MkdirOptions::default()).await.map(|_| ()).map_err(|e| failure(&e))
        }
        Operation::Write { path, replication, seed, len, piece } => {
            let options = CreateOptions { replication: Some(*replication), ..CreateOptions::default() };
            let mut writer = client.create(path, options).await.map_err(|e| failure(&e))?;
            safe(0)?;
            write(&mut writer, *seed, *len, *piece, safe).await
        }
        Operation::Append { path, seed, len, piece } => {
            let mut writer = client.append(path).await.map_err(|e| failure(&e))?;
            write(&mut writer, *seed, *len, *piece, safe).await
        }
        Operation::Overwrite { .. } => Err(Failure::Impossible("the library does not overwrite".to_owned())),
        Operation::Truncate { path, len } => cut(client, path, *len).await,
        Operation::Rename { from, to } => {
            client.rename(from, to, RenameOptions::default()).await.map_err(|e| failure(&e))
        }
        Operation::Replace { from, to } => {
            client.rename(from, to, RenameOptions { overwrite: true }).await.map_err(|e| failure(&e))
        }
        Operation::Delete { path } => match client.delete(path, true).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::Impossible(format!("{path} was not there"))),
            Err(error) => Err(failure(&error)),
        },
        Operation::SetReplication { path, replication } => {
            client.set_replication(path, *replication).await.map_err(|e| failure(&e))
        }
        Operation::Read { path } => {
            let mut bytes = Vec::new();
            let mut reader = client.open(path).await.map_err(|e| failure(&e))?;
            while let Some(chunk) = reader.chunk().await.map_err(|e| failure(&e))? {
                bytes.extend_from_slice(&chunk);
            }
            ensure_same(path, &bytes, known).map_err(|error| Failure::Impossible(format!("{error:#}")))
        }
    }
}

async fn write(
    writer: &mut FileWriter,
    seed: u64,
    len: u64,
    piece: u64,
    safe: &mut impl FnMut(u64) -> Performed,
) -> Performed {
    let piece = if piece == 0 { len.max(1) } else { piece };
    let mut at = 0;
    while at < len {
        let bytes = pattern(seed, at, piece.min(len - at) as usize);
        at += bytes.len() as u64;
        writer.write_bytes(Bytes::from(bytes)).await.map_err(|e| failure(&e))?;
        if at < len {
            // Every other piece waits for the disks.
            let flushed = if at / piece % 2 == 0 { writer.hsync().await } else { writer.hflush().await };
            flushed.map_err(|e| failure(&e))?;
            safe(at)?;
        }
    }
    writer.close().await.map(|_| ()).map_err(|e| failure(&e))
}

/// Truncates, and waits until a block that is cut in the middle is settled.
async fn cut(client: &DfsClient, path: &str, len: u64) -> Performed {
    if client.truncate(path, len).await.map_err(|e| failure(&e))? {
        return Ok(());
    }
    let settled = wait_for("the file is cut", CUT_WITHIN, async || {
        anyhow::ensure!(!client.stat(path).await?.under_construction, "not yet");
        Ok(())
    });
    settled.await.map_err(|error| Failure::Unknown(format!("{error:#}")))
}

/// What an error says about what was acknowledged before.
fn failure(error: &DfsError) -> Failure {
    let text = format!("{error}");
    if denies(error.kind()) { Failure::Impossible(text) } else { Failure::Unknown(text) }
}

/// Whether an error of this kind cannot come from what is away, stopped or full.
fn denies(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::DirectoryNotEmpty
        | ErrorKind::InvalidPath
        | ErrorKind::NameTooLong
        | ErrorKind::AccessDenied
        | ErrorKind::NotPermitted
        | ErrorKind::InvalidArgument
        | ErrorKind::QuotaExceeded
        | ErrorKind::Unsupported
        | ErrorKind::VersionMismatch
        | ErrorKind::WrongCluster
        | ErrorKind::NotRegistered
        | ErrorKind::TooLarge
        | ErrorKind::NoAttribute
        | ErrorKind::TooManyLinks
        | ErrorKind::Deadlock
        | ErrorKind::NoLocks
        | ErrorKind::Conflict => true,
        ErrorKind::LeaseHeldByOther
        | ErrorKind::ChangesLost
        | ErrorKind::LeaseExpired
        | ErrorKind::RecoveryInProgress
        | ErrorKind::StaleGenerationStamp
        | ErrorKind::NotYetReplicated
        | ErrorKind::SafeMode
        | ErrorKind::NoUsableDatanode
        | ErrorKind::NoSpace
        | ErrorKind::ChecksumMismatch
        | ErrorKind::BlockMissing
        | ErrorKind::NotLeader
        | ErrorKind::Unavailable
        | ErrorKind::Internal
        | ErrorKind::Unspecified => false,
    }
}
