//! A connection for one verb: whom to ask, how errors read, and what the exit code will be.
//!
//! An error about one path is printed and the verb goes on with the next, as in HDFS; the exit code
//! remembers it.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dfs_client::{DfsClient, DfsError};

use crate::exit::{self, OutputError, UsageError};
use crate::globals::Globals;
use crate::output::Out;
use crate::path::{COPYING_SUFFIX, RemoteArg, RemotePath};

/// What a verb works with.
#[derive(Debug)]
pub struct Session {
    /// The cluster.
    pub client: DfsClient,
    verb: &'static str,
    failed: AtomicBool,
    degraded: AtomicBool,
}

impl Session {
    /// Connects for `verb`.
    pub async fn connect(globals: &Globals, verb: &'static str) -> anyhow::Result<Self> {
        let client = globals.connect().await.map_err(|error| match error {
            DfsError::InvalidAddress { .. } => UsageError { verb, problem: error.to_string() }.into(),
            error => anyhow::anyhow!("{verb}: {error}"),
        })?;
        Ok(Self { client, verb, failed: AtomicBool::new(false), degraded: AtomicBool::new(false) })
    }

    /// Resolves an argument against the user's home directory.
    pub fn resolve(&self, arg: &RemoteArg) -> RemotePath {
        RemotePath::resolve(self.client.user(), arg.as_str())
    }

    /// Prints an error about `path`: ``ls: `/x': No such file or directory``.
    pub fn fail(&self, path: &RemotePath, error: &dyn std::error::Error) {
        let text = error.to_string();
        self.fail_about(&path.shown, cause(&text, path).unwrap_or(&text));
    }

    /// Prints an error of an operation on two paths, about the one that the error names: `second`, or else
    /// `first`.
    pub fn fail_either(&self, first: &RemotePath, second: &RemotePath, error: &dyn std::error::Error) {
        let named = cause(&error.to_string(), second).is_some();
        self.fail(if named { second } else { first }, error);
    }

    /// Prints an error about anything that has a name. The user need not know the names of what is being copied.
    pub fn fail_about(&self, subject: &str, cause: &str) {
        self.failed.store(true, Ordering::Relaxed);
        let subject = subject.replace(COPYING_SUFFIX, "");
        exit::message(format_args!("{}: `{subject}': {cause}", self.verb));
    }

    /// Prints something to know about anything that has a name, which is no failure.
    pub fn warn_about(&self, subject: &str, what: &str) {
        exit::message(format_args!("{}: `{subject}': {what}", self.verb));
    }

    /// Remembers a failure that needs no message.
    pub fn set_failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Remembers that something is not as it should be, though no data is in danger.
    pub fn set_degraded(&self) {
        self.degraded.store(true, Ordering::Relaxed);
    }

    /// 0 if nothing failed.
    pub fn exit_code(&self) -> ExitCode {
        if self.failed.load(Ordering::Relaxed) {
            ExitCode::from(exit::FAILED)
        } else if self.degraded.load(Ordering::Relaxed) {
            ExitCode::from(exit::DEGRADED)
        } else {
            ExitCode::SUCCESS
        }
    }
}

/// What follows the path in the text of an error about it.
fn cause<'t>(text: &'t str, path: &RemotePath) -> Option<&'t str> {
    let rest = text.strip_prefix(&path.absolute)?;
    rest.strip_prefix(COPYING_SUFFIX).unwrap_or(rest).strip_prefix(": ")
}

/// How many threads a verb's runtime gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The calling one: starts quickest.
    One,
    /// One a core: for verbs that move much data.
    PerCore,
}

/// Runs verbs.
#[derive(Debug)]
pub struct Runner<'g> {
    globals: &'g Globals,
}

impl<'g> Runner<'g> {
    /// For these settings.
    pub fn new(globals: &'g Globals) -> Self {
        Self { globals }
    }

    /// Connects, runs `body`, writes the rest of the output, and tells the exit code.
    pub fn verb<F>(&self, name: &'static str, threads: Threads, body: F) -> anyhow::Result<ExitCode>
    where
        F: AsyncFnOnce(&Arc<Session>, &mut Out) -> anyhow::Result<()>,
    {
        block_on(threads, async {
            let session = Arc::new(Session::connect(self.globals, name).await?);
            let mut out = Out::new();
            let outcome = body(&session, &mut out).await;
            out.finish()?;
            match outcome {
                Ok(()) => Ok(session.exit_code()),
                Err(error) if error.is::<UsageError>() || error.is::<OutputError>() => Err(error),
                Err(error) => Err(anyhow::anyhow!("{name}: {error:#}")),
            }
        })
    }
}

/// Runs a future to its end without waiting for what it leaves behind: a thread that reads standard
/// input cannot be woken.
pub fn block_on<T>(threads: Threads, future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut builder = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread(),
        Threads::PerCore => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.enable_all().thread_name("dfs-cli").build()?;
    let outcome = runtime.block_on(future);
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_follows_the_path_that_the_error_names() {
        let path = RemotePath::resolve("ann", "/a");
        assert_eq!(cause("/a: File exists", &path), Some("File exists"));
        assert_eq!(cause("/a._COPYING_: File exists", &path), Some("File exists"));
        assert_eq!(cause("/a/b: File exists", &path), None);
        assert_eq!(cause("/ab: File exists", &path), None);
    }
}
