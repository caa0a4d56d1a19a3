//! Somebody at the command line.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use dfs_proto::ErrorKind;

use super::{Actor, Failure, Safe, Surroundings};
use crate::chaos::load::Abilities;
use crate::chaos::operation::Operation;
use crate::pattern::{ensure_same, pattern};

/// Kinds of errors that deny what was acknowledged before.
const DENIALS: [ErrorKind; 7] = [
    ErrorKind::NotFound,
    ErrorKind::AlreadyExists,
    ErrorKind::NotADirectory,
    ErrorKind::IsADirectory,
    ErrorKind::DirectoryNotEmpty,
    ErrorKind::AccessDenied,
    ErrorKind::InvalidArgument,
];

/// The actor.
#[derive(Debug)]
pub struct Commands {
    surroundings: Surroundings,
}

impl Commands {
    /// An actor for the cluster of `surroundings`.
    pub fn new(surroundings: Surroundings) -> Self {
        Self { surroundings }
    }

    /// Runs `dfs` with `input`; answers its output.
    fn dfs(&self, arguments: &[&str], input: &[u8]) -> Result<std::result::Result<Vec<u8>, Failure>> {
        let mut command = Command::new(self.surroundings.programs.join("dfs"));
        command.args(arguments).args(["--namenode", &self.surroundings.namenode]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("dfs")?;
        let mut stdin = child.stdin.take().context("standard input")?;
        let mut stderr = child.stderr.take().context("standard error")?;
        let (output, text) = std::thread::scope(|scope| {
            // A command that fails early does not read its input.
            scope.spawn(move || drop(stdin.write_all(input)));
            let text = scope.spawn(move || {
                let mut text = Vec::new();
                stderr.read_to_end(&mut text).map(|_| text)
            });
            (child.wait_with_output(), text.join())
        });
        let output = output?;
        let text = text.map_err(|_| anyhow::anyhow!("the reader of standard error panicked"))??;
        if output.status.success() {
            return Ok(Ok(output.stdout));
        }
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        let denied = DENIALS.iter().any(|kind| text.ends_with(kind.text()));
        let text = format!("{}: {text}", output.status);
        Ok(Err(if denied { Failure::Impossible(text) } else { Failure::Unknown(text) }))
    }
}

impl Actor for Commands {
    fn abilities(&self) -> Abilities {
        Abilities { overwrite: false, replication: true, replace: false }
    }

    fn perform(
        &mut self,
        operation: &Operation,
        known: &[u8],
        _safe: &mut Safe<'_>,
    ) -> Result<std::result::Result<(), Failure>> {
        let performed = match operation {
            Operation::Mkdir { path } => self.dfs(&["mkdir", path], b"")?,
            Operation::Write { path, replication, seed, len, piece } => {
                let replication = replication.to_string();
                let mut arguments = vec!["put", "--replication", &replication];
                if *piece > 0 {
                    arguments.push("-d");
                }
                arguments.extend(["-", path]);
                self.dfs(&arguments, &pattern(*seed, 0, *len as usize))?
            }
            Operation::Append { path, seed, len, .. } => {
                self.dfs(&["append", "-", path], &pattern(*seed, 0, *len as usize))?
            }
            Operation::Overwrite { .. } | Operation::Replace { .. } => {
                return Ok(Err(Failure::Impossible(format!("dfs has no {operation:?}"))));
            }
            Operation::Truncate { path, len } => {
                self.dfs(&["truncate", "-w", &len.to_string(), path], b"")?
            }
            Operation::Rename { from, to } => self.dfs(&["mv", from, to], b"")?,
            Operation::Delete { path } => self.dfs(&["rm", "-r", "--skipTrash", path], b"")?,
            Operation::SetReplication { path, replication } => {
                self.dfs(&["setrep", &replication.to_string(), path], b"")?
            }
            Operation::Read { path } => match self.dfs(&["cat", path], b"")? {
                Ok(bytes) => {
                    let same = ensure_same(path, &bytes, known);
                    same.map(|()| Vec::new()).map_err(|error| Failure::Impossible(format!("{error:#}")))
                }
                failed => failed,
            },
        };
        Ok(performed.map(|_| ()))
    }
}
