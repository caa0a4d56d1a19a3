//! The real programs: building and finding them, a local cluster of their own ports and directory, and
//! what the kernel knows about their processes.
//!
//! Cargo hands the path of a program (`CARGO_BIN_EXE_..`) to integration tests of the same package only,
//! and `cargo test` does not even build the programs of packages without integration tests. The
//! tests therefore ask cargo, once a test process, to build the workspace's programs into the target directory that the test
//! itself runs from (same profile; `--tests` keeps the dependencies' features as they are, so nothing is
//! compiled twice). This takes a moment when they are fresh, and never tests a stale program.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dfs_client::DfsClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::harness::{self, TEST_DEADLINE};
use crate::wait::{PATIENCE, wait_until};

/// Longest that one command may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(120);

/// Ports a cluster of up to nine datanodes uses from its base on.
const PORTS_PER_CLUSTER: u16 = 100;

/// Port bases lie here: above the well-known ports, below the kernel's ephemeral ones.
const PORT_BASES: std::ops::Range<u16> = 12_000..32_000;

/// Names a directory with programs to test as they are, instead of those that would be built.
const PROGRAMS_VARIABLE: &str = "DFS_TEST_PROGRAMS";

/// Directory of the programs, built once.
pub fn program_dir() -> Result<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = || match std::env::var_os(PROGRAMS_VARIABLE) {
        Some(dir) => Ok(PathBuf::from(dir)),
        None => build().map_err(|error| format!("{error:#}")),
    };
    match BUILT.get_or_init(found) {
        Ok(dir) => Ok(dir),
        Err(error) => bail!("the programs could not be built: {error}"),
    }
}

/// Runs a test of the programs to its end or its deadline, which begins when they are built.
pub fn run(test: impl Future<Output = Result<()>>) -> Result<()> {
    run_within(TEST_DEADLINE, test)
}

/// Like [`run`], for a test that has a time limit of its own.
pub fn run_within(deadline: Duration, test: impl Future<Output = Result<()>>) -> Result<()> {
    program_dir()?;
    harness::run_within(deadline, test)
}

fn build() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    // The test is target/<profile>/deps/<name>-<hash>.
    let dir = test.parent().and_then(Path::parent).context("the test's target directory")?;
    let target = dir.parent().context("the target directory")?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = StdCommand::new(cargo);
    command.current_dir(workspace).args(["build", "--quiet", "--workspace", "--bins", "--tests"]);
    command.arg("--target-dir").arg(target);
    if dir.file_name() == Some(OsStr::new("release")) {
        command.arg("--release");
    }
    let output = command.stdin(Stdio::null()).output().context("cargo build")?;
    ensure!(output.status.success(), "cargo build: {}", String::from_utf8_lossy(&output.stderr));
    for program in ["dfs", "dfs-namenode", "dfs-datanode"] {
        ensure!(dir.join(program).is_file(), "{} is missing", dir.join(program).display());
    }
    Ok(dir.to_owned())
}

/// A command that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// This command, if it succeeded.
    pub fn ok(self) -> Result<Self> {
        ensure!(self.code == Some(0), "exit code {:?}: {}{}", self.code, self.text(), self.stderr);
        Ok(self)
    }
}

/// Runs `command` with `input` on its standard input.
pub async fn finish(mut command: Command, input: &[u8]) -> Result<Finished> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A command that does not want its input closes it: its exit code tells whether that was right.
            let _ = stdin.write_all(input).await;
        }
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(COMMAND_DEADLINE, both)
        .await
        .with_context(|| format!("{command:?} did not end within {COMMAND_DEADLINE:?}"))??;
    Ok(Finished {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// What the kernel says about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Resident memory in KiB.
    pub resident_kib: u64,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
}

impl Footprint {
    /// The footprint of process `pid`.
    pub fn of(pid: i32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident_kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok())
            .with_context(|| format!("VmRSS of {pid}"))?;
        Ok(Self {
            resident_kib,
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            threads: std::fs::read_dir(format!("/proc/{pid}/task"))?.count(),
        })
    }
}

/// A cluster of real processes, made by `dfs cluster start` in a directory of its own. Dropping it ends
/// its processes with SIGKILL and removes the directory.
#[derive(Debug)]
pub struct LocalCluster {
    home: TempDir,
    port_base: u16,
    options: Vec<String>,
}

impl LocalCluster {
    /// Starts a cluster; `options` are further options of `dfs cluster start`.
    pub async fn start(options: &[&str]) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("dfs-programs-").tempdir()?;
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let cluster = Self { home, port_base: free_port_base()?, options };
        cluster.start_again().await?;
        Ok(cluster)
    }

    /// Runs `dfs cluster start` and answers what it said.
    pub async fn start_again(&self) -> Result<Finished> {
        let arguments = self.start_arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.in_dir(&arguments).await?.ok().context("dfs cluster start")
    }

    /// Arguments of `dfs` that start the cluster, but for `--dir`.
    pub fn start_arguments(&self) -> Vec<String> {
        let start = ["cluster", "start", "--port-base"].map(str::to_owned);
        start.into_iter().chain([self.port_base.to_string()]).chain(self.options.iter().cloned()).collect()
    }

    /// Runs `dfs cluster VERB ..` with the cluster's `--dir`.
    pub async fn in_dir(&self, args: &[&str]) -> Result<Finished> {
        let mut command = self.command("dfs")?;
        command.args(args).arg("--dir").arg(self.dir());
        finish(command, b"").await
    }

    /// Runs `dfs` with the cluster's address in its environment.
    pub async fn dfs(&self, args: &[&str]) -> Result<Finished> {
        self.dfs_with_input(args, b"").await
    }

    /// The same with standard input.
    pub async fn dfs_with_input(&self, args: &[&str], input: &[u8]) -> Result<Finished> {
        let mut command = self.command("dfs")?;
        command.args(args);
        finish(command, input).await
    }

    /// A command of one of our programs, in the cluster's environment.
    pub fn command(&self, program: &str) -> Result<Command> {
        Ok(self.in_environment(program_dir()?.join(program)))
    }

    /// A command that works in the cluster's home directory, knows the cluster's address and nothing of the user's
    /// own settings.
    pub fn in_environment(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.home.path()).env("HOME", self.home.path());
        for variable in ["XDG_STATE_HOME", "XDG_CONFIG_HOME", "DFS_USER", "RUST_LOG"] {
            command.env_remove(variable);
        }
        command.env("DFS_NAMENODE", self.namenode_address());
        // Files of little data may have several blocks.
        command.env("DFS_MIN_BLOCK_SIZE", "4096");
        command
    }

    /// `host:port` of the namenode.
    pub fn namenode_address(&self) -> String {
        format!("127.0.0.1:{}", self.port_base)
    }

    /// First port.
    pub fn port_base(&self) -> u16 {
        self.port_base
    }

    /// The cluster's directory.
    pub fn dir(&self) -> PathBuf {
        self.home.path().join("cluster")
    }

    /// A directory for the test's own files; commands run in it.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A client of the cluster, in the name of who runs the test.
    pub async fn client(&self) -> Result<DfsClient> {
        Ok(DfsClient::connect(self.namenode_address()).await?)
    }

    /// Names and process ids of the servers that run.
    pub fn processes(&self) -> Result<BTreeMap<String, i32>> {
        let mut found = BTreeMap::new();
        let Ok(entries) = std::fs::read_dir(self.dir().join("run")) else { return Ok(found) };
        for entry in entries {
            let path = entry?.path();
            let (Some(name), Some("pid")) = (path.file_stem(), path.extension().and_then(OsStr::to_str))
            else {
                continue;
            };
            let text = std::fs::read_to_string(&path)?;
            let pid: i32 = text.split_ascii_whitespace().next().context("pid")?.parse()?;
            if self.is_ours(pid) {
                found.insert(name.to_string_lossy().into_owned(), pid);
            }
        }
        Ok(found)
    }

    /// Process id of one server.
    pub fn pid(&self, name: &str) -> Result<i32> {
        self.processes()?.get(name).copied().with_context(|| format!("{name} does not run"))
    }

    /// `kill -9` of the servers that `which` chooses, all at once; returns when they are gone.
    pub async fn kill_9(&self, which: impl Fn(&str) -> bool) -> Result<()> {
        self.end(Signal::SIGKILL, which).await
    }

    /// Sends `signal`, which ends them, to the servers that `which` chooses, all at once; returns when they are gone.
    pub async fn end(&self, signal: Signal, which: impl Fn(&str) -> bool) -> Result<()> {
        let victims: Vec<i32> =
            self.processes()?.into_iter().filter(|(name, _)| which(name)).map(|(_, pid)| pid).collect();
        ensure!(!victims.is_empty(), "nothing to kill");
        for pid in &victims {
            kill(Pid::from_raw(*pid), signal)?;
        }
        wait_until("the processes are gone", PATIENCE, async || {
            Ok(!victims.iter().any(|pid| self.is_ours(*pid)))
        })
        .await
    }

    /// Whether `pid` is a living server of this cluster, which works in the cluster's directory: numbers are used
    /// again by others, and a process that nobody has waited for yet is dead all the same.
    fn is_ours(&self, pid: i32) -> bool {
        let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/{name}"));
        let (Ok(exe), Ok(cwd)) = (link("exe"), link("cwd")) else { return false };
        cwd == self.dir() && exe.file_name().is_some_and(|name| name.to_string_lossy().starts_with("dfs-"))
    }

    /// Every port of every server, with a name for messages.
    pub fn ports(&self) -> Result<Vec<(String, SocketAddr)>> {
        let at = |offset: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, self.port_base + offset));
        let mut ports = vec![("namenode rpc".to_owned(), at(0)), ("namenode http".to_owned(), at(1))];
        let datanodes = self.processes()?.keys().filter(|name| name.starts_with("datanode")).count();
        for index in 0..u16::try_from(datanodes)? {
            for (offset, service) in [(10, "xfer"), (11, "ipc"), (12, "http")] {
                ports.push((format!("datanode-{index} {service}"), at(offset + 10 * index)));
            }
        }
        Ok(ports)
    }

    /// Everything the servers have logged, for a failed test's output.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.dir().join("logs")).into_iter().flatten().flatten() {
            text.push_str(&format!("== {}\n", entry.file_name().to_string_lossy()));
            text.push_str(&std::fs::read_to_string(entry.path()).unwrap_or_default());
        }
        text
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for pid in self.processes().unwrap_or_default().into_values() {
            // Gone already is as good.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A port base with free ports behind it. Test processes start at different places, the clusters of one
/// process take their turn.
fn free_port_base() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let slots = (PORT_BASES.end - PORT_BASES.start) / PORTS_PER_CLUSTER;
    let first = (std::process::id() % u32::from(slots)) as u16;
    for _ in 0..slots {
        let slot = (first + NEXT.fetch_add(1, Ordering::Relaxed)) % slots;
        let base = PORT_BASES.start + slot * PORTS_PER_CLUSTER;
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if (base..base + PORTS_PER_CLUSTER).all(free) {
            return Ok(base);
        }
    }
    bail!("no free ports between {} and {}", PORT_BASES.start, PORT_BASES.end)
}
