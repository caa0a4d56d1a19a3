//! Puts the calling thread behind all others, for the disk and for the processor.

use nix::libc::{PRIO_PROCESS, SYS_ioprio_set, setpriority, syscall};

/// `IOPRIO_WHO_PROCESS`: a thread; with the number 0, the calling one.
const WHO_THREAD: i32 = 1;

/// `IOPRIO_CLASS_IDLE << 13`: disk time that nobody else wants.
const IDLE: i32 = 3 << 13;

/// `IOPRIO_CLASS_BE << 13 | 7`: last among those who share the disk.
const LAST: i32 = 2 << 13 | 7;

/// Lowest priority of the processor.
const NICEST: i32 = 19;

/// How far behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Only what nobody wants.
    Idle,
    /// Last in line.
    Last,
}

/// Sets the priorities. Schedulers that know none of them serve the thread like any other; so this is never an error.
pub fn step_back(behind: Behind) {
    let class = match behind {
        Behind::Idle => IDLE,
        Behind::Last => LAST,
    };
    // SAFETY: both calls take integers only and change nothing but the calling thread's priorities.
    unsafe {
        syscall(SYS_ioprio_set, WHO_THREAD, 0, class);
        setpriority(PRIO_PROCESS, 0, NICEST);
    }
}
