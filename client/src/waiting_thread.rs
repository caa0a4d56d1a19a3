//! Threads that block for the answers of the calls that they make.
//!
//! A future must not block the thread that polls it, unless that thread has nothing else to do. Who polls on such a thread says so
//! here, and calls to a namenode then wait in the system call that brings the answer.

use std::cell::Cell;
use std::time::Instant;

thread_local! {
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Puts back what counted before.
struct Restored(Option<Instant>);

impl Drop for Restored {
    fn drop(&mut self) {
        UNTIL.set(self.0);
    }
}

/// Does `work`, in which calls to a namenode that begin before `until` may block this thread, each for 10 ms at most. To be
/// called on a thread that has entered a tokio runtime.
pub fn may_wait<T>(until: Instant, work: impl FnOnce() -> T) -> T {
    let _restored = Restored(UNTIL.replace(Some(until)));
    work()
}

/// Does `work`, in which nothing may block this thread.
pub fn must_not_wait<T>(work: impl FnOnce() -> T) -> T {
    let _restored = Restored(UNTIL.replace(None));
    work()
}

/// Whether the calling thread may be blocked now.
pub(crate) fn is_allowed() -> bool {
    UNTIL.get().is_some_and(|until| Instant::now() < until)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_who_says_so_is_blocked() {
        let later = Instant::now() + Duration::from_secs(600);
        assert!(!is_allowed());
        may_wait(later, || {
            assert!(is_allowed());
            must_not_wait(|| assert!(!is_allowed()));
            assert!(is_allowed());
            may_wait(Instant::now(), || assert!(!is_allowed()));
            assert!(std::thread::spawn(|| !is_allowed()).join().expect("no panic"));
        });
        assert!(std::panic::catch_unwind(|| may_wait(later, || panic!("on purpose"))).is_err());
        assert!(!is_allowed());
    }
}
