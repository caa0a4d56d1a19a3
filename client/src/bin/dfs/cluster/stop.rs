//! `dfs cluster stop`.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::layout::Layout;
use super::mounts::ClusterMount;
use super::process::{Identity, Member};
use super::{lock, members, programs};
use crate::exit;

/// Time between two looks at processes that are ending.
const POLL: Duration = Duration::from_millis(20);
/// How long a killed process may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Stops the cluster in `dir`: asks all processes to end, and kills those that have not after `grace`.
pub fn run(dir: &Path, grace: Duration) -> anyhow::Result<ExitCode> {
    let Some(layout) = Layout::load(dir)? else {
        exit::message(format_args!("cluster: no cluster in {}", dir.display()));
        return Ok(ExitCode::SUCCESS);
    };
    let _lock = lock(dir)?;
    let members = members(dir, &layout, &programs()?);
    if let Err(error) = ClusterMount::new(dir).unmount(grace) {
        exit::message(format_args!("cluster: {error:#}"));
        return Ok(ExitCode::from(exit::FAILED));
    }
    let running = members.iter().filter(|member| member.running().is_some()).count();
    let left = end(&members, grace);
    for name in &left {
        exit::message(format_args!("cluster: {name} could not be stopped"));
    }
    if !left.is_empty() {
        return Ok(ExitCode::from(exit::FAILED));
    }
    let text = if running == 0 {
        "The cluster was not running".to_owned()
    } else {
        format!("Stopped {running} process(es)")
    };
    exit::write_stdout(format!("{text}\n").as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Ends those of `members` that run; answers the names of those that still do.
pub fn end(members: &[Member], grace: Duration) -> Vec<String> {
    let running: Vec<(&Member, Identity)> =
        members.iter().filter_map(|member| Some((member, member.running()?))).collect();
    signal_all(&running, Signal::SIGTERM);
    if !wait_all(&running, grace) {
        signal_all(&running, Signal::SIGKILL);
        wait_all(&running, KILL_DEADLINE);
    }
    let (alive, ended): (Vec<_>, Vec<_>) = running.iter().partition(|(_, identity)| identity.is_alive());
    ended.iter().for_each(|(member, _)| member.forget());
    alive.iter().map(|(member, _)| member.name.clone()).collect()
}

fn signal_all(processes: &[(&Member, Identity)], signal: Signal) {
    for (member, identity) in processes {
        if let Err(error) = identity.signal(signal) {
            exit::message(format_args!("cluster: {} (pid {}): {error}", member.name, identity.pid));
        }
    }
}

fn wait_all(processes: &[(&Member, Identity)], timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    while processes.iter().any(|(_, identity)| identity.is_alive()) {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}
