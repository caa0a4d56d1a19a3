//! The processes of a run: servers, the mount, and workers. Each has a name, a node of the network and a log.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::clock::Clocks;
use super::network::Network;
use crate::wait::wait_until_blocking;

/// Time that a killed process gets to be gone before others are looked after again. One that waits for a mount which is
/// stopped itself is not gone before that goes on.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// How to start a process.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Node of the network at which it runs.
    pub node: String,
    /// Program with its path.
    pub program: PathBuf,
    /// Arguments.
    pub arguments: Vec<String>,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
    /// It goes by a wall clock of its own.
    pub own_clock: bool,
}

impl Spec {
    /// `program` at `node`.
    pub fn new(node: &str, program: PathBuf, arguments: &[&str]) -> Self {
        Self {
            node: node.to_owned(),
            program,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment: Vec::new(),
            own_clock: false,
        }
    }
}

/// The processes.
#[derive(Debug)]
pub struct Servers {
    logs: PathBuf,
    specs: BTreeMap<String, Spec>,
    children: BTreeMap<String, Child>,
    /// Killed, and not gone yet.
    dying: Vec<(String, Child)>,
}

impl Servers {
    /// None yet; logs go to the directory `logs`.
    pub fn new(logs: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&logs)?;
        Ok(Self { logs, specs: BTreeMap::new(), children: BTreeMap::new(), dying: Vec::new() })
    }

    /// Adds a process that does not run yet.
    pub fn add(&mut self, name: &str, spec: Spec) {
        self.specs.insert(name.to_owned(), spec);
    }

    /// Names of all processes.
    pub fn names(&self) -> Vec<String> {
        self.specs.keys().cloned().collect()
    }

    /// Starts the process called `name`, if it does not run and its predecessor is gone.
    pub fn start(&mut self, name: &str, network: &Network, clocks: &Clocks) -> Result<()> {
        self.bury()?;
        if self.children.contains_key(name) || self.dying.iter().any(|(dying, _)| dying == name) {
            return Ok(());
        }
        let spec = self.specs.get(name).with_context(|| format!("no process {name}"))?;
        let log = self.log(name)?;
        let mut command = network.command(&spec.node, &spec.program.to_string_lossy())?;
        command.args(&spec.arguments).envs(spec.environment.iter().map(|(name, value)| (name, value)));
        if spec.own_clock {
            clocks.set(name, &mut command)?;
        }
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.children.insert(name.to_owned(), command.spawn().with_context(|| format!("{command:?}"))?);
        Ok(())
    }

    /// `kill -9` of the process and of the programs that it runs; returns when it is gone, or when that takes long.
    pub fn kill_9(&mut self, name: &str) -> Result<()> {
        self.begin_kill_9(name)?;
        self.end_kill_9(name)
    }

    /// Sends the signal of [`Self::kill_9`].
    pub fn begin_kill_9(&mut self, name: &str) -> Result<()> {
        let Some(child) = self.children.get(name) else { return Ok(()) };
        match killpg(pid(child)?, Signal::SIGKILL) {
            // Ended by itself meanwhile.
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the end that [`Self::begin_kill_9`] began.
    pub fn end_kill_9(&mut self, name: &str) -> Result<()> {
        let Some(mut child) = self.children.remove(name) else { return Ok(()) };
        let gone = wait_until_blocking("a process is gone", GONE_WITHIN, || Ok(child.try_wait()?.is_some()));
        if gone.is_err() {
            self.dying.push((name.to_owned(), child));
        }
        Ok(())
    }

    /// Forgets those of the killed that are gone.
    fn bury(&mut self) -> Result<()> {
        let mut dying = Vec::new();
        for (name, mut child) in self.dying.drain(..) {
            if child.try_wait()?.is_none() {
                dying.push((name, child));
            }
        }
        self.dying = dying;
        Ok(())
    }

    /// `SIGSTOP` or `SIGCONT`.
    pub fn set_stopped(&self, name: &str, stopped: bool) -> Result<()> {
        let Some(child) = self.children.get(name) else { return Ok(()) };
        let signal = if stopped { Signal::SIGSTOP } else { Signal::SIGCONT };
        match kill(pid(child)?, signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the process runs.
    pub fn runs(&self, name: &str) -> bool {
        self.children.contains_key(name)
    }

    /// Processes that have ended without being killed by us, and how. They do not run any more.
    pub fn ended(&mut self) -> Result<Vec<(String, ExitStatus)>> {
        let mut ended = Vec::new();
        for (name, child) in &mut self.children {
            if let Some(status) = child.try_wait()? {
                ended.push((name.clone(), status));
            }
        }
        for (name, _) in &ended {
            self.children.remove(name);
        }
        Ok(ended)
    }

    /// The end of each log.
    pub fn logs(&self, lines: usize) -> String {
        let mut text = String::new();
        for name in self.specs.keys() {
            let bytes = std::fs::read(self.logs.join(name).with_extension("log")).unwrap_or_default();
            let log = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = log.lines().collect();
            text.push_str(&format!("== {name}, {} lines\n", all.len()));
            for line in all.iter().skip(all.len().saturating_sub(lines)) {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }

    fn log(&self, name: &str) -> Result<File> {
        let path = self.logs.join(name).with_extension("log");
        OpenOptions::new().create(true).append(true).open(&path).with_context(|| path.display().to_string())
    }
}

/// What an exit says in one word or two.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("signal {signal:?}"),
    }
}

fn pid(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}

/// Ends all processes.
impl Drop for Servers {
    fn drop(&mut self) {
        for child in self.children.values() {
            if let Ok(pid) = pid(child) {
                // Gone already is as good.
                let _ = killpg(pid, Signal::SIGKILL);
            }
        }
        for child in self.children.values_mut().chain(self.dying.iter_mut().map(|(_, child)| child)) {
            let _ = child.wait();
        }
    }
}
