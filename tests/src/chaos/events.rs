//! What happened in a run and when, kept for a failure's output.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::worker::monotonic;

/// The events of a run.
#[derive(Debug)]
pub struct Events {
    began: Duration,
    lines: Mutex<Vec<String>>,
}

impl Events {
    /// No events yet of a run that began at `began`.
    pub fn new(began: Duration) -> Self {
        Self { began, lines: Mutex::default() }
    }

    /// Notes that `what` happened now.
    pub fn note(&self, what: impl std::fmt::Display) {
        let at = monotonic().unwrap_or_default().saturating_sub(self.began);
        let line = format!("{:>9.3} s  {what}", at.as_secs_f64());
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// All lines.
    pub fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}
