//! Commands of the operating system, and the test suites that are installed for these tests.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

/// Names the directory whose `bin` has the test suites; `.ci/run` installs them in `target/tools`.
const TOOLS_VARIABLE: &str = "DFS_TEST_TOOLS";

/// A command that works in `directory`, with messages in English and nobody's own settings.
pub fn command(program: impl AsRef<OsStr>, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory).stdin(Stdio::null());
    command.env("LC_ALL", "C.UTF-8").env("HOME", directory).env("GIT_CONFIG_NOSYSTEM", "1");
    command
}

/// Runs a command line of words; answers what it printed. It must succeed.
pub fn run(directory: &Path, line: &[&str]) -> Result<String> {
    let (program, arguments) = line.split_first().context("a program")?;
    let mut command = command(program, directory);
    command.args(arguments);
    Ok(String::from_utf8_lossy(&finish(&mut command)?.stdout).into_owned())
}

/// Runs a script of the shell, which ends at its first failure.
pub fn shell(directory: &Path, script: &str) -> Result<String> {
    run(directory, &["sh", "-euc", script])
}

/// Runs a command, which must succeed.
pub fn finish(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        tail(&output.stdout),
        tail(&output.stderr)
    );
    Ok(output)
}

/// The end of what a program has printed.
pub fn tail(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// Path of a test suite. In CI it must be there; elsewhere the test says loudly that it did nothing.
pub fn tool(name: &str) -> Result<Option<PathBuf>> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let given = std::env::var_os(TOOLS_VARIABLE).map(PathBuf::from);
    let directories = given.into_iter().chain([workspace.join("target/tools")]);
    let path_directories = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = directories
        .map(|tools| tools.join("bin"))
        .chain(std::env::split_paths(&path_directories))
        .map(|directory| directory.join(name));
    if let Some(found) = candidates.find(|candidate| candidate.is_file()) {
        return Ok(Some(found));
    }
    ensure!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{name} is needed; .ci/run installs it");
    eprintln!("\n**** SKIPPED: {name} is not installed (see .ci/run) ****\n");
    Ok(None)
}
