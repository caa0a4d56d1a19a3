//! Exit codes, and what a closed standard output means.
//!
//! | code | meaning                                                        |
//! |------|----------------------------------------------------------------|
//! | 0    | all done (also: the reader of our output went away)            |
//! | 1    | something failed, or `test` says no, or `fsck` found damage    |
//! | 2    | bad usage; nothing was done                                    |
//! | 3    | `admin health`: data is safe, but something is to be repaired  |

use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use dfs_proto::error::one_line;

/// The operation failed.
pub const FAILED: u8 = 1;
/// All data is there, but not as it should be.
pub const DEGRADED: u8 = 3;
/// The command line makes no sense.
pub const BAD_USAGE: u8 = 2;

/// Why standard output could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The reader went away: not worth a message (`dfs cat /f | head`).
    #[error("standard output is closed")]
    Closed,
    /// The disk behind it is full, or the like.
    #[error("cannot write standard output: {0}")]
    Write(#[source] io::Error),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Write(error),
        }
    }
}

/// A command line that parsed but makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{verb}: {problem}")]
pub struct UsageError {
    /// Verb of the command line.
    pub verb: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// Writes all of `bytes` to standard output.
pub fn write_stdout(bytes: &[u8]) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Prints a message line on standard error. A closed standard error is nobody's problem.
pub fn message(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints why a command line does not parse, or the help that it asks for. A value that cannot be used is told in one
/// line; where the form is wrong, the usage helps.
pub fn bad_usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidUtf8) {
        let text = error.render().to_string();
        let line = text.lines().next().unwrap_or_default();
        message(format_args!("dfs: {}", line.strip_prefix("error: ").unwrap_or(line)));
        return ExitCode::from(BAD_USAGE);
    }
    // Nobody is left to be told that nobody listens.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(BAD_USAGE) } else { ExitCode::SUCCESS }
}

/// Turns the outcome of a verb into the exit code, printing its error if there is one.
pub fn finish(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    let error = match outcome {
        Ok(code) => return code,
        Err(error) => error,
    };
    if let Some(OutputError::Closed) = error.downcast_ref() {
        return ExitCode::SUCCESS;
    }
    if error.is::<UsageError>() {
        message(format_args!("{error} (see 'dfs --help')"));
        return ExitCode::from(BAD_USAGE);
    }
    message(format_args!("{}", one_line(error.as_ref())));
    ExitCode::from(FAILED)
}
