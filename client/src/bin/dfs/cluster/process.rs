//! One server process of a local cluster: starting it detached, knowing it again, ending it.
//!
//! A pid alone does not identify a process: numbers are used again. `run/NAME.pid` therefore holds
//! `PID START EXE`: START is the start time in clock ticks since boot, EXE the program's path. A
//! process is ours only if the kernel tells the same start time and program for that pid, and this is
//! asked again right before every signal. A program file replaced by a newer build still counts (the
//! kernel then appends ` (deleted)`).

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A log larger than this is moved to `NAME.log.1` before a start, so that logs stay bounded.
const LOG_ROTATE_BYTES: u64 = 16 << 20;
/// Bytes looked at for the tail of a log.
const LOG_TAIL_BYTES: u64 = 16 << 10;
/// Lines quoted when a process dies.
const LOG_TAIL_LINES: usize = 15;

/// How long a killed process may take to be gone: the kernel ends its disk writes first.
const ENDING_PATIENCE: Duration = Duration::from_secs(5);
/// Time between two looks at it.
const ENDING_INTERVAL: Duration = Duration::from_millis(10);
/// SIGKILL in the masks of `/proc/PID/status`.
const SIGKILL_BIT: u64 = 1 << (Signal::SIGKILL as u64 - 1);
/// Kernel's flag of a process that is being taken down, in field 9 of `/proc/PID/stat`.
const PF_EXITING: u64 = 4;

/// Whether a process has been killed and only waits for the kernel to take it down.
fn is_ending(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let masks = status.lines().filter_map(|line| {
        let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    if masks.fold(0, |all, mask| all | mask) & SIGKILL_BIT != 0 {
        return true;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields from the third on follow the program's name in parentheses.
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & PF_EXITING != 0)
}

/// A server of the cluster, running or not.
#[derive(Clone, Debug)]
pub struct Member {
    /// `namenode` or `datanode-0`...
    pub name: String,
    /// Program file.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Ports in use, for people.
    pub ports: String,
    /// Directory of the cluster.
    pub dir: PathBuf,
}

/// What tells a process from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Process id.
    pub pid: i32,
    start_ticks: u64,
    program: PathBuf,
}

impl Member {
    /// Its log file.
    pub fn log(&self) -> PathBuf {
        self.dir.join("logs").join(format!("{}.log", self.name))
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("run").join(format!("{}.pid", self.name))
    }

    /// The running process, if there is one. One that was killed a moment ago is waited for until it is gone.
    pub fn running(&self) -> Option<Identity> {
        let bytes = std::fs::read(self.pid_file()).ok()?;
        let identity = Identity::decode(&bytes)?;
        let deadline = Instant::now() + ENDING_PATIENCE;
        while identity.is_alive() {
            if !is_ending(identity.pid) || Instant::now() >= deadline {
                return Some(identity);
            }
            std::thread::sleep(ENDING_INTERVAL);
        }
        None
    }

    /// Forgets a process that has ended.
    pub fn forget(&self) {
        // Nothing depends on it: a pid file without its process is ignored.
        let _ = std::fs::remove_file(self.pid_file());
    }

    /// Starts the program in a session of its own, with its output in the log. Answers the child and
    /// the length of the log before it.
    pub fn spawn(&self) -> io::Result<(Child, u64)> {
        std::fs::create_dir_all(self.dir.join("logs"))?;
        std::fs::create_dir_all(self.dir.join("run"))?;
        rotate(&self.log())?;
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        let log_start = log.metadata()?.len();
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .current_dir(&self.dir)
            // The log's last lines shall be why it ended; a backtrace of an error would hide that. Panics
            // still have theirs.
            .env("RUST_LIB_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // SAFETY: the closure runs in the forked child before exec and calls only setsid, which is
        // async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
        }
        let child = command.spawn()?;
        // The kernel tells the file behind symbolic links.
        let program = std::fs::canonicalize(&self.program)?;
        if let Some(identity) = Identity::of_child(&child, &program) {
            std::fs::write(self.pid_file(), identity.encode())?;
        }
        Ok((child, log_start))
    }

    /// The last lines of the log after offset `from`.
    pub fn log_tail(&self, from: u64) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(self.log())?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(from.max(end.saturating_sub(LOG_TAIL_BYTES))))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let lines: Vec<&str> = text.lines().collect();
                lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
            }
            Err(error) => format!("(cannot read the log: {error})"),
        }
    }
}

impl Identity {
    fn of_child(child: &Child, program: &Path) -> Option<Self> {
        let pid = i32::try_from(child.id()).ok()?;
        let (start_ticks, _) = stat_of(pid)?;
        Some(Self { pid, start_ticks, program: program.to_owned() })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} ", self.pid, self.start_ticks).into_bytes();
        bytes.extend_from_slice(self.program.as_os_str().as_bytes());
        bytes.push(b'\n');
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let line = bytes.strip_suffix(b"\n")?;
        let mut parts = line.splitn(3, |byte| *byte == b' ');
        let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
        let (pid, start_ticks) = (number()?, number()?);
        let program = PathBuf::from(OsString::from_vec(parts.next()?.to_vec()));
        let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0)?;
        Some(Self { pid, start_ticks, program })
    }

    /// Whether exactly this process still runs. A zombie has ended.
    pub fn is_alive(&self) -> bool {
        let Some((start_ticks, state)) = stat_of(self.pid) else { return false };
        if start_ticks != self.start_ticks || state == b'Z' || state == b'X' {
            return false;
        }
        let Ok(running) = std::fs::read_link(format!("/proc/{}/exe", self.pid)) else { return false };
        let running = running.as_os_str().as_bytes();
        let own = self.program.as_os_str().as_bytes();
        running == own || running.strip_suffix(b" (deleted)") == Some(own)
    }

    /// Sends `signal` if exactly this process still runs.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.is_alive() {
            kill(Pid::from_raw(self.pid), signal).or_else(|errno| match errno {
                nix::errno::Errno::ESRCH => Ok(()),
                other => Err(io::Error::from(other)),
            })?;
        }
        Ok(())
    }
}

/// Start time in ticks and state letter of a process, from `/proc/PID/stat`. The second field is the
/// program's name in parentheses and may itself hold spaces and parentheses.
pub fn stat_of(pid: i32) -> Option<(u64, u8)> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after_name = text.iter().rposition(|byte| *byte == b')')? + 1;
    let rest = std::str::from_utf8(&text[after_name..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.bytes().next()?;
    // Field 22 of the file; the state is field 3.
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some((start_ticks, state))
}

fn rotate(log: &Path) -> io::Result<()> {
    match std::fs::metadata(log) {
        Ok(found) if found.len() > LOG_ROTATE_BYTES => std::fs::rename(log, log.with_extension("log.1")),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path) -> Member {
        Member {
            name: "sleeper".into(),
            program: "/bin/sleep".into(),
            args: vec!["300".into()],
            ports: String::new(),
            dir: dir.to_owned(),
        }
    }

    #[test]
    fn a_process_is_known_again_and_ended() {
        let dir = tempfile::tempdir().unwrap();
        let member = sleeper(dir.path());
        assert_eq!(member.running(), None);
        let (mut child, _) = member.spawn().unwrap();
        let identity = member.running().expect("spawn returns after exec");
        assert_eq!(Identity::decode(&identity.encode()), Some(identity.clone()));

        let stranger = Identity { start_ticks: identity.start_ticks + 1, ..identity.clone() };
        assert!(!stranger.is_alive());
        stranger.signal(Signal::SIGKILL).unwrap();
        let other_program = Identity { program: "/bin/other".into(), ..identity.clone() };
        assert!(!other_program.is_alive());
        assert!(identity.is_alive(), "signals for others must not reach it");

        identity.signal(Signal::SIGTERM).unwrap();
        child.wait().unwrap();
        assert_eq!(member.running(), None);
    }

    #[test]
    fn damaged_pid_files_name_nobody() {
        for text in ["", "\n", "12\n", "12 34\n", "x 34 /bin/sleep\n", "0 1 /bin/sleep\n", "12 34 /b"] {
            assert_eq!(Identity::decode(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let member = sleeper(dir.path());
        std::fs::create_dir_all(dir.path().join("logs")).unwrap();
        let text: String = (0..100).map(|line| format!("line {line}\n")).collect();
        std::fs::write(member.log(), &text).unwrap();
        let tail = member.log_tail(0);
        assert_eq!(tail.lines().count(), LOG_TAIL_LINES);
        assert!(tail.ends_with("line 99"));
        assert_eq!(member.log_tail(text.len() as u64), "");
    }
}
