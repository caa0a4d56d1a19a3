//! The progress bar: bytes, rate and time left. Drawn on standard error, and only on a terminal.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// Layout of the bar.
const TEMPLATE: &str = "{bytes}/{total_bytes} [{bar:30}] {percent}% {bytes_per_sec} ETA {eta} {msg}";

/// What the user sees of a copy.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar for a terminal, nothing elsewhere.
    pub fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar }
    }

    /// A file of `bytes` was found.
    pub fn found(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    /// `bytes` were moved.
    pub fn moved(&self, bytes: usize) {
        self.bar.inc(bytes as u64);
    }

    /// Work on `name` begins.
    pub fn begin(&self, name: &str) {
        if !self.bar.is_hidden() {
            self.bar.set_message(name.to_owned());
        }
    }

    /// Runs `print` with the bar out of the way.
    pub fn suspend(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
