//! Real mounts: a cluster of real processes, one or more `dfs mount`s of it, and what tests do to them.
//!
//! A test of a mount is blocking code, as the programs are that use one. [`with_cluster`] and [`with_mount`] run it on a thread
//! of its own. When a test does not end in time, its mounts are killed, which ends every system
//! call that hangs in them, so that a hang is a failure and not a stuck build.
//!
//! [`with_mount`] runs a test on a plain directory instead when [`DIRECTORY_VARIABLE`] names one: tests state what a
//! local disk does, and can be checked against one.
//!
//! Invariants: no test touches a mount that is not its own; nothing mounted outlives its test.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use dfs_client::DfsClient;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::programs::{Finished, Footprint, LocalCluster, finish};
use crate::wait::{PATIENCE, wait_until_blocking};

/// Names a directory that tests of a single mount use in place of a mount.
pub const DIRECTORY_VARIABLE: &str = "DFS_TEST_DIRECTORY";

/// Longest that a test of a mount may run unless it says otherwise.
pub const TEST_DEADLINE: Duration = Duration::from_secs(240);

/// How long a test gets to end after its mounts were killed.
const END_DEADLINE: Duration = Duration::from_secs(30);

/// Lines of each log that a failed test shows.
const LOG_LINES: usize = 60;

/// The program that serves a mount.
const MOUNT_PROGRAM: &str = "dfs-fuse";

thread_local! {
    /// Mount points of the test that runs on this thread.
    static MOUNT_POINTS: RefCell<Arc<Mutex<Vec<PathBuf>>>> = RefCell::default();
}

/// Whether this machine can mount. In CI it must; elsewhere the test says loudly that it did nothing.
fn can_mount() -> Result<bool> {
    let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let Err(error) = opened else { return Ok(true) };
    ensure!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "/dev/fuse is needed: {error}");
    eprintln!("\n**** SKIPPED: no mount was tested: /dev/fuse: {error} ****\n");
    Ok(false)
}

/// Runs `body` on a cluster started with `options` (of `dfs cluster start`).
pub fn with_cluster(
    options: &[&str],
    body: impl FnOnce(&Cluster) -> Result<()> + Send + 'static,
) -> Result<()> {
    with_cluster_within(TEST_DEADLINE, options, body)
}

/// Like [`with_cluster`], for a test with a time limit of its own.
pub fn with_cluster_within(
    deadline: Duration,
    options: &[&str],
    body: impl FnOnce(&Cluster) -> Result<()> + Send + 'static,
) -> Result<()> {
    if !can_mount()? {
        return Ok(());
    }
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    run_within(deadline, move || {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let cluster = Cluster::start(&options)?;
        let outcome = body(&cluster);
        if outcome.is_err() {
            eprintln!("{}", cluster.logs());
        }
        outcome
    })
}

/// Runs `body` on a mount with `options` (of `dfs mount`) of a cluster of three datanodes.
pub fn with_mount(options: &[&str], body: impl FnOnce(&Place) -> Result<()> + Send + 'static) -> Result<()> {
    with_mount_within(TEST_DEADLINE, options, body)
}

/// Like [`with_mount`], for a test with a time limit of its own.
pub fn with_mount_within(
    deadline: Duration,
    options: &[&str],
    body: impl FnOnce(&Place) -> Result<()> + Send + 'static,
) -> Result<()> {
    if let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE) {
        return run_within(deadline, move || {
            let root = tempfile::Builder::new().prefix("mount-").tempdir_in(directory)?;
            let scratch = tempfile::tempdir()?;
            body(&Place { root: root.path().to_owned(), scratch: scratch.path().to_owned() })
        });
    }
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    with_cluster_within(deadline, &[], move |cluster| {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let mount = cluster.mount(&options)?;
        let scratch = cluster.home().join("scratch");
        fs::create_dir(&scratch)?;
        body(&Place { root: mount.root().to_owned(), scratch })
    })
}

/// Runs `body` on a thread of its own; when it does not end, kills the mounts it made.
fn run_within(deadline: Duration, body: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let points = Arc::new(Mutex::new(Vec::new()));
    let (done, outcome) = channel();
    let of_thread = points.clone();
    let thread = std::thread::Builder::new().name("mount-test".to_owned()).spawn(move || {
        MOUNT_POINTS.set(of_thread);
        // Nobody listens when the deadline is over.
        let _ = done.send(body());
    })?;
    match outcome.recv_timeout(deadline) {
        Ok(result) => result,
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(()) => bail!("the test ended without an outcome"),
            Err(panic) => std::panic::resume_unwind(panic),
        },
        Err(RecvTimeoutError::Timeout) => {
            for point in lock(&points).iter() {
                force_off(point);
            }
            let late = outcome.recv_timeout(END_DEADLINE);
            bail!("the test did not end within {deadline:?}; after its mounts were killed: {late:?}")
        }
    }
}

fn lock(points: &Mutex<Vec<PathBuf>>) -> MutexGuard<'_, Vec<PathBuf>> {
    points.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, condition: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_until_blocking(what, PATIENCE, condition)
}

/// What a test of a single mount works on.
#[derive(Debug)]
pub struct Place {
    /// Root of the mount.
    pub root: PathBuf,
    /// A directory on the local disk.
    pub scratch: PathBuf,
}

/// A cluster of real processes that can be mounted.
#[derive(Debug)]
pub struct Cluster {
    local: LocalCluster,
    runtime: Runtime,
    starter: Mutex<Starter>,
    /// Where programs lie that any user may run; made on demand.
    public_programs: Mutex<Option<TempDir>>,
    /// Mounts made so far, to name their mount points.
    mounts: Mutex<u32>,
}

impl Cluster {
    fn start(options: &[&str]) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let local = runtime.block_on(LocalCluster::start(options))?;
        let starter = Mutex::new(Starter::new(&local)?);
        Ok(Self { local, runtime, starter, public_programs: Mutex::default(), mounts: Mutex::default() })
    }

    /// Runs `future` to its end.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// A directory of the test's own on the local disk.
    pub fn home(&self) -> &Path {
        self.local.home()
    }

    /// `host:port` of the namenode.
    pub fn namenode_address(&self) -> String {
        self.local.namenode_address()
    }

    /// A client of the library.
    pub fn client(&self) -> Result<DfsClient> {
        self.block_on(self.local.client())
    }

    /// Runs `dfs` with the cluster's address in its environment.
    pub fn dfs(&self, args: &[&str]) -> Result<Finished> {
        self.block_on(self.local.dfs(args))
    }

    /// `kill -9` of the servers that `which` chooses.
    pub fn kill_9(&self, which: impl Fn(&str) -> bool) -> Result<()> {
        self.block_on(self.local.kill_9(which))
    }

    /// Sends `signal`, which ends them, to the servers that `which` chooses, and waits until they are gone.
    pub fn end(&self, signal: Signal, which: impl Fn(&str) -> bool) -> Result<()> {
        self.block_on(self.local.end(signal, which))
    }

    /// Has a server stand still, or go on.
    pub fn stop(&self, name: &str, stopped: bool) -> Result<()> {
        let signal = if stopped { Signal::SIGSTOP } else { Signal::SIGCONT };
        Ok(kill(Pid::from_raw(self.local.pid(name)?), signal)?)
    }

    /// Starts the servers that do not run. The process that does it was made before the test had files open: a new one would
    /// close its copies of them, which waits for the very servers that it is to start.
    pub fn start_again(&self) -> Result<()> {
        let mut starter = self.starter.lock().unwrap_or_else(PoisonError::into_inner);
        starter.start()
    }

    /// Data directory of datanode number `index`.
    pub fn datanode_directory(&self, index: usize) -> PathBuf {
        self.local.dir().join(format!("datanode-{index}"))
    }

    /// Data directory of the namenode.
    pub fn namenode_directory(&self) -> PathBuf {
        self.local.dir().join("namenode")
    }

    /// Mounts at a new mount point with `options`.
    pub fn mount(&self, options: &[&str]) -> Result<Mount<'_>> {
        let number = {
            let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
            *mounts += 1;
            *mounts
        };
        let root = self.home().join(format!("mnt-{number}"));
        fs::create_dir(&root)?;
        let mount = self.adopt(root, options);
        mount.mount()?;
        Ok(mount)
    }

    /// A mount at `root` that the test makes itself; it is taken away at the end.
    pub fn adopt(&self, root: PathBuf, options: &[&str]) -> Mount<'_> {
        MOUNT_POINTS.with_borrow(|points| lock(points).push(root.clone()));
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Mount { cluster: self, root, options }
    }

    /// A copy of program `name` that every user can run: the build directory may be below a private home.
    pub fn public_program(&self, name: &str) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let mut made = self.public_programs.lock().unwrap_or_else(PoisonError::into_inner);
        if made.is_none() {
            let dir = tempfile::Builder::new().prefix("dfs-public-").tempdir()?;
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
            *made = Some(dir);
        }
        let dir = made.as_ref().context("the directory of public programs")?;
        let copy = dir.path().join(name);
        if !copy.exists() {
            fs::copy(crate::programs::program_dir()?.join(name), &copy)?;
        }
        Ok(copy)
    }

    /// The end of every log, of servers and of mounts.
    fn logs(&self) -> String {
        let mut text = String::new();
        let mut files: Vec<PathBuf> = Vec::new();
        for dir in [self.local.dir().join("logs"), self.home().to_owned()] {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            files.extend(entries.map(|e| e.path()).filter(|p| p.extension() == Some(OsStr::new("log"))));
        }
        files.sort();
        for file in files {
            let bytes = fs::read(&file).unwrap_or_default();
            let log = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = log.lines().collect();
            text.push_str(&format!("== {}, {} lines\n", file.display(), lines.len()));
            for line in lines.iter().skip(lines.len().saturating_sub(LOG_LINES)) {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

/// A shell that starts the cluster's servers each time it gets a line.
#[derive(Debug)]
struct Starter {
    shell: Child,
    lines: BufReader<ChildStdout>,
}

impl Starter {
    fn new(local: &LocalCluster) -> Result<Self> {
        let mut shell = Command::new("sh");
        let told = local.in_environment("sh");
        for (name, value) in told.as_std().get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.current_dir(local.home()).stdin(Stdio::piped()).stdout(Stdio::piped());
        shell.args(["-c", "while read -r line; do said=$(\"$@\" 2>&1); echo $? $said; done", "sh"]);
        shell.arg(crate::programs::program_dir()?.join("dfs")).args(local.start_arguments());
        shell.arg("--dir").arg(local.dir());
        let mut shell = shell.spawn()?;
        let lines = BufReader::new(shell.stdout.take().context("the shell's output")?);
        Ok(Self { shell, lines })
    }

    fn start(&mut self) -> Result<()> {
        self.shell.stdin.as_mut().context("the shell's input")?.write_all(b"start\n")?;
        let mut said = String::new();
        self.lines.read_line(&mut said)?;
        ensure!(said.starts_with("0 "), "dfs cluster start: {said}");
        Ok(())
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// A mount of a [`Cluster`]. Dropping it takes it away, by force if need be.
#[derive(Debug)]
pub struct Mount<'c> {
    cluster: &'c Cluster,
    root: PathBuf,
    options: Vec<String>,
}

impl Mount<'_> {
    /// The mount point.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `path` below the mount point.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// Runs `dfs mount` with the mount's options.
    pub fn mount(&self) -> Result<Finished> {
        let mut command = self.cluster.local.command("dfs")?;
        command.arg("mount").arg(&self.root).args(&self.options);
        command.arg("--log").arg(self.root.with_extension("log"));
        let finished = self.cluster.block_on(finish(command, b""))?.ok().context("dfs mount")?;
        ensure!(is_mounted(&self.root)?, "dfs mount succeeded and nothing is mounted");
        Ok(finished)
    }

    /// Runs `dfs umount`.
    pub fn unmount(&self) -> Result<Finished> {
        let mut command = self.cluster.local.command("dfs")?;
        command.arg("umount").arg(&self.root);
        let finished = self.cluster.block_on(finish(command, b""))?.ok().context("dfs umount")?;
        ensure!(!is_mounted(&self.root)?, "dfs umount succeeded and the mount is still there");
        Ok(finished)
    }

    /// Process id of the mount.
    pub fn pid(&self) -> Result<i32> {
        serving(&self.root).first().copied().with_context(|| format!("no {MOUNT_PROGRAM} runs"))
    }

    /// What the kernel says about the mount's process.
    pub fn footprint(&self) -> Result<Footprint> {
        Footprint::of(self.pid()?)
    }

    /// `kill -9` of the mount's process; returns when it is gone. The mount point is left as it then is.
    pub fn kill_9(&self) -> Result<()> {
        kill(Pid::from_raw(self.pid()?), Signal::SIGKILL)?;
        wait_until("the killed mount is gone", || Ok(serving(&self.root).is_empty()))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        // In order if that works; a test that has taken it away itself is as good.
        if umount2(&self.root, MntFlags::empty()).is_err() {
            force_off(&self.root);
        }
        let gone = wait_until("the mount's process has ended", || Ok(serving(&self.root).is_empty()));
        if let Err(error) = gone {
            eprintln!("{}: {error:#}", self.root.display());
            force_off(&self.root);
        }
    }
}

/// Whether something is mounted at `point`.
pub fn is_mounted(point: &Path) -> Result<bool> {
    Ok(fs::read("/proc/self/mounts")?.split(|byte| *byte == b'\n').any(|line| {
        line.split(|byte| *byte == b' ').nth(1).is_some_and(|field| field == point.as_os_str().as_bytes())
    }))
}

/// Process ids of the living processes that serve `point`.
pub fn serving(point: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|text| text.parse().ok()) else { continue };
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0);
        let program =
            arguments.next().map(|p| Path::new(OsStr::from_bytes(p)).file_name().map(OsStr::to_owned));
        if program.flatten().is_some_and(|name| name == MOUNT_PROGRAM)
            && arguments.any(|argument| argument == point.as_os_str().as_bytes())
        {
            found.push(pid);
        }
    }
    found
}

/// Ends whatever serves `point` and takes the mount away.
fn force_off(point: &Path) {
    for pid in serving(point) {
        // Gone already is as good.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    // Not mounted is as good.
    let _ = umount2(point, MntFlags::MNT_DETACH);
}

/// The errno of a failed call; an error if it succeeded.
pub fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Result<i32> {
    match result {
        Ok(value) => Err(anyhow!("succeeded with {value:?}")),
        Err(error) => error.raw_os_error().with_context(|| format!("no errno: {error}")),
    }
}
