//! The history of one worker: a file of one JSON record a line.
//!
//! A record is written with one system call before the worker goes on, so that what is in it survives the worker's end by
//! `kill -9`. A line that was cut off by that is the last one of an incarnation, and says nothing.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::operation::Operation;

/// How an operation ended for who asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was acknowledged.
    Done,
    /// It failed: it may have been carried out, or may still be.
    Unknown(String),
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A worker process began to work.
    Started {
        /// Milliseconds since the run began.
        at_ms: u64,
    },
    /// An operation is about to be asked for.
    Begin {
        /// Number of the operation.
        id: u64,
        /// Milliseconds since the run began.
        at_ms: u64,
        /// What is asked for.
        operation: Operation,
    },
    /// So many bytes of the operation's content are safe.
    Safe {
        /// Number of the operation.
        id: u64,
        /// Bytes from the start of its content.
        bytes: u64,
    },
    /// The operation has ended.
    End {
        /// Number of the operation.
        id: u64,
        /// Milliseconds since the run began.
        at_ms: u64,
        /// How.
        outcome: Outcome,
    },
    /// An answer that cannot be, whatever has failed.
    Contradiction {
        /// Number of the operation.
        id: u64,
        /// What was answered.
        what: String,
    },
    /// The run was quiet and the checks passed: this is what a doubtful path turned out to be.
    Settled {
        /// The path.
        path: String,
        /// What is there; nothing if `None`.
        node: Option<SettledNode>,
    },
    /// All doubts before this are settled.
    Quiet,
}

/// What was found at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SettledNode {
    /// A directory.
    Directory,
    /// A file.
    File {
        /// Local file with a copy of the content.
        content: PathBuf,
        /// Replicas wanted.
        replication: u16,
    },
}

/// Appends records to a history.
#[derive(Debug)]
pub struct HistoryWriter {
    file: File,
}

impl HistoryWriter {
    /// Opens or makes the history at `path`. What a killed writer left of a line is ended.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        if std::fs::read(path)?.last().is_some_and(|byte| *byte != b'\n') {
            file.write_all(b"\n")?;
        }
        Ok(Self { file })
    }

    /// Appends `record`.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.write_all(&line).context("the history")
    }
}

/// All records of the history at `path`; none if there is no such file.
pub fn read_history(path: &Path) -> Result<Vec<Record>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cut_off_by_a_kill_is_passed_over() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("history");
        let begin = Record::Begin { id: 1, at_ms: 2, operation: Operation::Read { path: "/a".to_owned() } };
        HistoryWriter::open(&path)?.write(&begin)?;
        OpenOptions::new().append(true).open(&path)?.write_all(b"{\"End\":{\"id\":1,")?;
        HistoryWriter::open(&path)?.write(&Record::Quiet)?;
        assert_eq!(read_history(&path)?, [begin, Record::Quiet]);
        assert!(read_history(&dir.path().join("none"))?.is_empty());
        Ok(())
    }
}
