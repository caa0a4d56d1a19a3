//! Waiting for a condition. This is the only place where tests let time pass.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, MissedTickBehavior};

/// Pause between two looks at a condition.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Time that a condition gets to come true on a loaded machine with two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Does nothing for `time`: only for what follows a timetable, such as a load of so many operations a second or faults of
/// a chosen length, and never in the hope that something has happened by then.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Looks at `condition` until it holds; an error of the condition itself ends the wait.
pub async fn wait_until(
    what: &str,
    deadline: Duration,
    mut condition: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + deadline;
    let mut ticks = tokio::time::interval(POLL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !condition().await? {
        if Instant::now() >= end {
            bail!("gave up after {deadline:?} waiting until {what}");
        }
        ticks.tick().await;
    }
    Ok(())
}

/// The same for code that blocks, on a thread that no runtime drives.
pub fn wait_until_blocking(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + deadline;
    while !condition()? {
        if Instant::now() >= end {
            bail!("gave up after {deadline:?} waiting until {what}");
        }
        std::thread::park_timeout(POLL_EVERY);
    }
    Ok(())
}

/// Looks until `attempt` succeeds and answers what it gave. The last error tells why it never did.
pub async fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut ticks = tokio::time::interval(POLL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= end => {
                return Err(error.context(format!("gave up after {deadline:?} waiting for {what}")));
            }
            Err(_) => {
                ticks.tick().await;
            }
        }
    }
}
