//! Whether a program reads the files of one directory after the other.
//!
//! Pure. Then a directory is asked for when it is listed: the grant tells what the listing would have, and its files are opened without
//! calls. A program that only lists is left alone.

use std::time::{Duration, Instant};

/// Time within which files of two directories were opened.
const WINDOW: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Directories whose files were opened last, and when: the latest first.
    opened: [Option<(u64, Instant)>; 2],
}

impl Walk {
    /// A file of `dir` is being opened.
    pub(super) fn opened(&mut self, dir: u64, at: Instant) {
        if self.opened[0].is_some_and(|(latest, _)| latest != dir) {
            self.opened[1] = self.opened[0];
        }
        self.opened[0] = Some((dir, at));
    }

    /// Whether files of a directory that is being listed will probably be read.
    pub(super) fn goes_on(&self, dir: u64, at: Instant) -> bool {
        let recent =
            |(other, since): (u64, Instant)| other != dir && at.saturating_duration_since(since) <= WINDOW;
        self.opened.iter().all(|opened| opened.is_some_and(recent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_directories_within_a_moment_make_a_walk() {
        let (mut walk, at) = (Walk::default(), Instant::now());
        walk.opened(1, at);
        walk.opened(1, at);
        assert!(!walk.goes_on(3, at));
        walk.opened(2, at);
        assert!(walk.goes_on(3, at) && !walk.goes_on(2, at) && !walk.goes_on(3, at + WINDOW * 2));
        walk.opened(2, at + WINDOW);
        assert!(walk.goes_on(3, at + WINDOW) && !walk.goes_on(1, at + WINDOW));
    }
}
