//! Waiting that a signal can end.
//!
//! The kernel announces signals of a waiting process with FUSE_INTERRUPT, which fuser 0.18 answers itself with ENOSYS, so that the
//! file system does not hear of them. Instead, a call that waits for long looks at the asking thread in
//! `/proc` now and then: a signal that it would act upon is pending there until the call returns.

use std::time::Duration;

/// A call is not looked after until it has waited so long: nearly all are answered before.
const PATIENCE: Duration = Duration::from_millis(100);

/// Signals that do not end a call unless they are caught: they stop or continue the process, or do nothing.
const HARMLESS: u64 = bit(libc::SIGSTOP)
    | bit(libc::SIGTSTP)
    | bit(libc::SIGTTIN)
    | bit(libc::SIGTTOU)
    | bit(libc::SIGCONT)
    | bit(libc::SIGCHLD)
    | bit(libc::SIGURG)
    | bit(libc::SIGWINCH);

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The outcome of `call`, or `None` (and the call is dropped) once a signal waits for thread `pid`.
pub async fn unless_interrupted<T>(pid: u32, call: impl Future<Output = T>) -> Option<T> {
    let mut call = std::pin::pin!(call);
    loop {
        if let Ok(outcome) = tokio::time::timeout(PATIENCE, call.as_mut()).await {
            return Some(outcome);
        }
        if has_signal(pid) {
            return None;
        }
    }
}

/// Whether a signal waits for a thread that will interrupt it. A thread that is gone or out of sight has none: the kernel
/// itself asks with number 0.
fn has_signal(pid: u32) -> bool {
    pid != 0
        && std::fs::read_to_string(format!("/proc/{pid}/status"))
            .is_ok_and(|status| interrupting(&status) != 0)
}

/// Signals that interrupt, of a status file.
fn interrupting(status: &str) -> u64 {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    let pending = (mask("SigPnd") | mask("ShdPnd")) & !mask("SigBlk") & !mask("SigIgn");
    pending & !(HARMLESS & !mask("SigCgt"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pending: u64, shared: u64, blocked: u64, ignored: u64, caught: u64) -> String {
        format!(
            "Name:\tx\nSigQ:\t1/2\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\n\
             SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        )
    }

    #[test]
    fn signals_that_the_process_acts_upon_interrupt() {
        let (int, kill, stop) = (bit(libc::SIGINT), bit(libc::SIGKILL), bit(libc::SIGTSTP));
        assert_eq!(interrupting(&status(0, 0, 0, 0, 0)), 0);
        assert_eq!(interrupting(&status(0, int, 0, 0, 0)), int);
        assert_eq!(interrupting(&status(kill, 0, 0, 0, 0)), kill);
        assert_eq!(interrupting(&status(int, 0, int, 0, 0)), 0, "blocked");
        assert_eq!(interrupting(&status(int, 0, 0, int, 0)), 0, "ignored");
        assert_eq!(interrupting(&status(stop, 0, 0, 0, 0)), 0, "only stops");
        assert_eq!(interrupting(&status(stop, 0, 0, 0, stop)), stop, "caught");
        assert_eq!(interrupting("nonsense"), 0);
    }

    #[tokio::test]
    async fn calls_without_a_signal_are_waited_for() {
        let slow = tokio::time::sleep(PATIENCE * 3);
        assert_eq!(unless_interrupted(std::process::id(), slow).await, Some(()));
        assert_eq!(unless_interrupted(0, async { 7 }).await, Some(7));
    }

    #[tokio::test]
    async fn a_killed_process_is_not_waited_for() {
        // A stopped process keeps its pending signals.
        let mut child = std::process::Command::new("/bin/sleep").arg("300").spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED)).unwrap();
        assert!(!has_signal(child.id()));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let never = std::future::pending::<()>();
        let outcome = unless_interrupted(child.id(), never);
        let outcome = tokio::time::timeout(Duration::from_secs(20), outcome).await;
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(outcome.expect("noticed"), None);
    }
}
