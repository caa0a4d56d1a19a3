//! Moving data between local files and the namespace, several files at once.
//!
//! Invariants:
//!
//! * A destination appears under its final name only when it is whole: a file is written as
//!   `NAME._COPYING_` and renamed; a directory that does not exist yet is filled as a whole under
//!   such a name (its files then need no renaming of their own).
//! * What was begun and not finished is removed again, after an error and on SIGINT or SIGTERM.
//! * Memory is bounded: a fixed number of files at once, each with a few buffers on their way, and a
//!   bounded queue of files found but not begun.

pub mod feed;
pub mod fetch;
pub mod interrupt;
pub mod pool;
pub mod preserve;
pub mod progress;
pub mod rescue;
pub mod sink;
pub mod store;
pub mod store_plan;

use std::sync::Arc;

use dfs_client::DfsError;

use crate::path::RemotePath;
use crate::session::Session;
use interrupt::Interrupt;
use progress::Progress;

/// Files copied at once unless chosen: enough to hide the round trips of small files, few enough for
/// three datanodes.
pub const DEFAULT_THREADS: u16 = 8;
/// Most files copied at once: each has buffers of several MiB on their way.
pub const MAX_THREADS: u16 = 64;

/// Choices that all copying verbs have.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Replace existing files.
    pub force: bool,
    /// Keep mode, times and (as superuser) owner and group.
    pub preserve: bool,
    /// Write under the final name at once.
    pub direct: bool,
    /// Files copied at once.
    pub threads: u16,
    /// Take what is left of damaged files.
    pub ignore_crc: bool,
    /// Replicas of new files; the cluster's default if absent.
    pub replication: Option<u16>,
    /// Block size of new files; the cluster's default if absent.
    pub block_size: Option<u64>,
}

/// What all parts of one copying verb share.
#[derive(Debug)]
pub struct Transfer {
    /// Connection and error reporting.
    pub session: Arc<Session>,
    /// Choices of the command line.
    pub options: Options,
    /// What the user sees.
    pub progress: Progress,
    /// Whether the user has had enough.
    pub interrupt: Interrupt,
}

/// Why a copy did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The cluster refused or failed.
    #[error(transparent)]
    Remote(#[from] DfsError),
    /// The local file system refused or failed.
    #[error("{}", io_text(.0))]
    Local(#[from] std::io::Error),
    /// Something took the final name meanwhile.
    #[error("{}", dfs_client::ErrorKind::AlreadyExists.text())]
    TargetExists,
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

impl Transfer {
    /// Begins to listen for signals and shows the progress bar.
    pub fn new(session: &Arc<Session>, options: Options) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            session: Arc::clone(session),
            options,
            progress: Progress::new(),
            interrupt: Interrupt::listen()?,
        }))
    }

    /// Reports an error about a path of the namespace, above the progress bar. An interruption was
    /// reported when it came.
    pub fn fail(&self, path: &RemotePath, error: &CopyError) {
        match error {
            CopyError::Interrupted => self.session.set_failed(),
            CopyError::Remote(error) => self.progress.suspend(|| self.session.fail(path, error)),
            CopyError::Local(_) | CopyError::TargetExists => self.fail_about(&path.shown, &error.to_string()),
        }
    }

    /// Reports an error of a copy within the namespace, see [`Session::fail_either`].
    pub fn fail_either(&self, first: &RemotePath, second: &RemotePath, error: &DfsError) {
        self.progress.suspend(|| self.session.fail_either(first, second, error));
    }

    /// Remembers that not everything was done if a signal came, and removes the bar.
    pub fn finish(&self) {
        if self.interrupt.happened() {
            self.session.set_failed();
        }
        self.progress.finish();
    }

    /// Reports an error about a local file or anything else.
    pub fn fail_about(&self, subject: &str, cause: &str) {
        self.progress.suspend(|| self.session.fail_about(subject, cause));
    }
}

/// Text of an I/O error without the number that the standard library appends.
pub fn io_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((cause, _)) => cause.to_owned(),
        None => text,
    }
}
