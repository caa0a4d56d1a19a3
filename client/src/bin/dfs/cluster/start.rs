//! `dfs cluster start`.
//!
//! Starts what does not run yet and returns when a write would succeed: the namenode answers, is not
//! in safe mode, and all datanodes are live. If a process dies on the way, those started by this call
//! are ended again and the end of the dead one's log is shown.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dfs_client::{DfsClient, DfsError};

use super::layout::{Choices, Layout, record_path};
use super::mounts::ClusterMount;
use super::process::Member;
use super::{lock, members, programs, stop};
use crate::exit;
use crate::output::Out;
use crate::session::{Threads, block_on};

/// Time between two looks at a cluster that is starting.
const POLL: Duration = Duration::from_millis(50);
/// Longest time of one question to the namenode: it may accept connections before it serves.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long processes of a failed start get to end before they are killed.
const CLEAN_UP_DEADLINE: Duration = Duration::from_secs(5);

/// A process started by this call.
struct Started {
    member: Member,
    child: Child,
    log_start: u64,
}

/// What a cluster is to be.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its layout.
    pub choices: Choices,
    /// Where it is to be mounted.
    pub mount: Option<&'a Path>,
}

/// Starts the cluster in `dir`; `dir_given` says whether the user named the directory.
pub fn run(dir: &Path, wanted: Wanted<'_>, timeout: Duration, dir_given: bool) -> anyhow::Result<ExitCode> {
    let Wanted { choices, mount } = wanted;
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let _lock = lock(dir)?;
    let programs = programs()?;
    let layout = layout_for(dir, choices, &programs)?;
    let members = members(dir, &layout, &programs);
    for member in &members {
        if !member.program.is_file() {
            bail!("cluster: {}: program not found; build it first", member.program.display());
        }
    }
    let mut started = Vec::new();
    for member in members.iter().filter(|member| member.running().is_none()) {
        match member.spawn() {
            Ok((child, log_start)) => started.push(Started { member: member.clone(), child, log_start }),
            Err(error) => {
                end(&started);
                bail!("cluster: cannot start {}: {error}", member.program.display());
            }
        }
    }
    let fresh = !started.is_empty();
    let ready = block_on(Threads::One, wait_until_ready(&layout, &members, &mut started, timeout));
    if let Err(error) = ready {
        end(&started);
        return Err(error);
    }
    if let Some(mountpoint) = mount {
        ClusterMount::new(dir).mount(&layout.namenode(), mountpoint)?;
    }
    print(dir, &layout, fresh, dir_given)?;
    Ok(ExitCode::SUCCESS)
}

/// The recorded layout with the choices of this call. What already runs cannot be changed.
fn layout_for(dir: &Path, choices: Choices, programs: &Path) -> anyhow::Result<Layout> {
    let layout = match Layout::load(dir)? {
        None => Layout::new(choices)?,
        Some(recorded) => {
            let wanted = recorded.changed(choices, &record_path(dir))?;
            let moved = wanted.port_base != recorded.port_base;
            let restart = wanted.replication != recorded.replication;
            let running = members(dir, &recorded, programs).iter().any(|member| member.running().is_some());
            if running && (moved || restart) {
                bail!(
                    "cluster: the cluster in {} runs with {} replicas at {}: stop it first",
                    dir.display(),
                    recorded.replication,
                    recorded.namenode()
                );
            }
            wanted
        }
    };
    layout.save(dir)?;
    Ok(layout)
}

fn end(started: &[Started]) {
    let members: Vec<Member> = started.iter().map(|one| one.member.clone()).collect();
    for name in stop::end(&members, CLEAN_UP_DEADLINE) {
        exit::message(format_args!("cluster: {name} could not be stopped"));
    }
}

async fn wait_until_ready(
    layout: &Layout,
    members: &[Member],
    started: &mut [Started],
    timeout: Duration,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + timeout;
    let mut client = None;
    loop {
        let probe = tokio::time::timeout(PROBE_TIMEOUT, probe(layout, &mut client));
        let missing = match probe.await {
            Ok(Ok(missing)) => missing,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the namenode does not answer".to_owned()),
        };
        // Looked at after the answer: another program may sit on the namenode's port while ours died.
        fail_if_dead(members, started)?;
        let Some(missing) = missing else { return Ok(()) };
        if Instant::now() >= deadline {
            let mut text = format!("cluster: not ready after {} s: {missing}", timeout.as_secs());
            for one in started.iter() {
                let tail = one.member.log_tail(one.log_start);
                // Writing to a String cannot fail.
                let _ = write!(text, "\nlast lines of {}:\n{tail}", one.member.log().display());
            }
            bail!(text);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What is missing before a write would succeed.
async fn probe(layout: &Layout, client: &mut Option<DfsClient>) -> Result<Option<String>, DfsError> {
    let connected = match client {
        Some(connected) => connected,
        None => {
            let builder = DfsClient::builder().namenode(layout.namenode());
            client.insert(builder.connect_deadline(POLL).connect().await?)
        }
    };
    let stats = connected.stats().await?;
    Ok(if stats.live_datanodes < u32::from(layout.datanodes) {
        Some(format!("{} of {} datanodes are live", stats.live_datanodes, layout.datanodes))
    } else if stats.safe_mode {
        Some("the namenode is in safe mode".to_owned())
    } else {
        None
    })
}

/// Ends the start when a process has died, quoting what it said last.
fn fail_if_dead(members: &[Member], started: &mut [Started]) -> anyhow::Result<()> {
    for one in started.iter_mut() {
        if let Ok(Some(status)) = one.child.try_wait() {
            one.member.forget();
            let tail = one.member.log_tail(one.log_start);
            bail!(
                "cluster: {} ended ({status}); last lines of {}:\n{tail}",
                one.member.name,
                one.member.log().display()
            );
        }
    }
    for member in members {
        let ours = started.iter().any(|one| one.member.name == member.name);
        if !ours && member.running().is_none() {
            bail!(
                "cluster: {} ended; last lines of {}:\n{}",
                member.name,
                member.log().display(),
                member.log_tail(0)
            );
        }
    }
    Ok(())
}

fn print(dir: &Path, layout: &Layout, fresh: bool, dir_given: bool) -> anyhow::Result<()> {
    let mut out = Out::new();
    for line in usage_lines(dir, layout, fresh, dir_given, &program()) {
        out.line(format_args!("{line}"))?;
    }
    out.finish()?;
    Ok(())
}

/// How the user called this program: found through PATH or by its path.
fn program() -> String {
    std::env::args_os().next().map_or("dfs".to_owned(), |word| word.to_string_lossy().into_owned())
}

fn usage_lines(dir: &Path, layout: &Layout, fresh: bool, dir_given: bool, dfs: &str) -> Vec<String> {
    let word = if fresh { "is up" } else { "is already up" };
    let namenode = match layout.port_base {
        None => String::new(),
        Some(_) => format!(" --namenode {}", layout.namenode()),
    };
    let place = match (dir_given, layout.port_base) {
        (true, _) => format!(" --dir {}", quoted(&dir.display().to_string())),
        (false, Some(base)) => format!(" --port-base {base}"),
        (false, None) => String::new(),
    };
    let dfs = quoted(dfs);
    vec![
        format!(
            "The cluster {word}: namenode {}, {} datanode(s), replication {}",
            layout.namenode(),
            layout.datanodes,
            layout.replication
        ),
        format!("Data and logs:  {}", dir.display()),
        format!("Copy a file in: {dfs}{namenode} put FILE /"),
        format!("List files:     {dfs}{namenode} ls /"),
        format!("Its health:     {dfs}{namenode} admin report"),
        format!("Stop it:        {dfs} cluster stop{place}"),
    ]
}

/// `text` so that a shell takes it as one word.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_shown_name_what_is_not_the_default() {
        let default = Layout::new(Choices::default()).unwrap();
        let lines = usage_lines(Path::new("/h/.dfs"), &default, true, false, "dfs");
        assert!(lines.contains(&"List files:     dfs ls /".to_owned()));
        assert!(lines.contains(&"Stop it:        dfs cluster stop".to_owned()));

        let moved = Layout::new(Choices { port_base: Some(21_000), ..Choices::default() }).unwrap();
        let lines = usage_lines(Path::new("/a b"), &moved, false, true, "target/debug/dfs");
        assert!(lines[0].starts_with("The cluster is already up: namenode 127.0.0.1:21000"));
        assert!(
            lines.contains(&"List files:     target/debug/dfs --namenode 127.0.0.1:21000 ls /".to_owned())
        );
        assert!(lines.contains(&"Stop it:        target/debug/dfs cluster stop --dir '/a b'".to_owned()));
        let lines = usage_lines(Path::new("/h/.dfs-21000"), &moved, true, false, "dfs");
        assert!(lines.contains(&"Stop it:        dfs cluster stop --port-base 21000".to_owned()));
    }
}
