//! What happened in a run and when, kept for a failure's output, and written to a file for a run that does not end by itself.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::worker::monotonic;

/// The events of a run.
#[derive(Debug)]
pub struct Events {
    began: Duration,
    file: File,
    lines: Mutex<Vec<String>>,
}

impl Events {
    /// No events yet of a run that began at `began`; they go to the file at `path`, too.
    pub fn new(began: Duration, path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        Ok(Self { began, file, lines: Mutex::default() })
    }

    /// Notes that `what` happened now.
    pub fn note(&self, what: impl std::fmt::Display) {
        let at = monotonic().unwrap_or_default().saturating_sub(self.began);
        let line = format!("{:>9.3} s  {what}", at.as_secs_f64());
        // Only for whoever looks into a run later.
        let _ = writeln!(&self.file, "{line}");
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// Milliseconds since the run began.
    pub fn now_ms(&self) -> u64 {
        let now = monotonic().unwrap_or_default().saturating_sub(self.began);
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }

    /// All lines.
    pub fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}
