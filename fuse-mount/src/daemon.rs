//! A mount in the background.
//!
//! The program starts itself again with `--background`, its standard output a pipe and its standard error the log. The new
//! process says on the pipe that it serves, or why not, and the first one ends accordingly: when it returns success, the mount serves.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::unistd::{dup2_stderr, dup2_stdout, setsid};

use crate::error::MountError;
use crate::log_target;

/// Argument of the background process.
pub const BACKGROUND: &str = "--background";
/// What it says once it serves.
const SERVING: &str = "serving\n";
/// Longest reason read from it.
const MAX_REASON_BYTES: u64 = 4_096;

/// Starts this program again in the background, with [`BACKGROUND`] and `arguments`, and waits until it serves. Answers what should
/// be known of the mount.
pub fn start(
    arguments: &[std::ffi::OsString],
    log: Option<&Path>,
    mountpoint: &Path,
) -> Result<String, MountError> {
    let cannot = |source| MountError::Start { what: "the background process", source };
    let (log, shown) = log_target::open(log, mountpoint)?;
    let program = std::env::current_exe().map_err(cannot)?;
    let mut child = Command::new(program)
        .arg(BACKGROUND)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(cannot)?;
    let said = said(&mut child).map_err(cannot)?;
    if let Some(notes) = said.strip_prefix(SERVING) {
        return Ok(notes.trim_end().to_owned());
    }
    match said {
        said if said.is_empty() => {
            let status = child.wait().map_err(cannot)?;
            let reason = format!("{}: not mounted ({status}); see {shown}", mountpoint.display());
            Err(MountError::NotServing { reason })
        }
        said => {
            // It ends by itself.
            let _ = child.wait();
            Err(MountError::NotServing { reason: said.trim_end().to_owned() })
        }
    }
}

/// What a background process says before it closes its standard output.
fn said(child: &mut Child) -> io::Result<String> {
    let mut text = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(MAX_REASON_BYTES).read_to_end(&mut text)?;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// In the background process: belongs to no terminal and holds no directory from here on.
pub fn leave() -> Result<(), MountError> {
    let cannot = |source| MountError::Start { what: "a session", source };
    setsid().map_err(|errno| cannot(errno.into()))?;
    std::env::set_current_dir("/").map_err(cannot)
}

/// In the background process: it serves, and what should be known of that.
pub fn ready(note: Option<String>) {
    say(&format!("{SERVING}{}", note.unwrap_or_default()));
}

/// In the background process: why it does not serve. The log has it too.
pub fn failed(error: &MountError) {
    say(&format!("{error}\n"));
}

/// Says `text` to who waits for it and closes standard output. It may be that nobody is left to listen.
fn say(text: &str) {
    let mut output = io::stdout().lock();
    let _ = output.write_all(text.as_bytes());
    let _ = output.flush();
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = dup2_stdout(&null);
    }
}

/// In the foreground with a log file: what is logged goes there.
pub fn log_to(path: &Path) -> Result<(), MountError> {
    let (log, _) = log_target::open(Some(path), Path::new("/"))?;
    dup2_stderr(&log).map_err(|errno| MountError::Log { path: path.to_owned(), source: errno.into() })
}
