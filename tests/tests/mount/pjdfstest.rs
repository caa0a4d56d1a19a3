//! pjdfstest: what POSIX says about every call that changes a file tree, and about its errors.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::{DIRECTORY_VARIABLE, Place, with_mount_within};

use crate::commands::{command, tail, tool};

/// Cases of the suite's version that CI installs.
const CASES: usize = 398;

/// Of them those that remount the file system to see EROFS. They run apart: other cases leave files open for writing, and
/// then no file system can be made read-only.
const REMOUNT_CASES: usize = 13;

/// One more that is skipped: the C library knows the most links of a file for its own list of file systems only.
const UNKNOWABLE_CASES: usize = 1;

/// Longest run of the suite: naps and a few thousand changes, in an unoptimised build.
const DEADLINE: Duration = Duration::from_secs(400);

/// Two users that Debian has, with their groups.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.01
allow_remount = REMOUNT

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// How many cases failed, were skipped, passed.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    failed: usize,
    skipped: usize,
    passed: usize,
}

fn counts(output: &str) -> Result<Counts> {
    let summary = output.lines().rev().find(|line| line.starts_with("Summary:")).context("no summary")?;
    let count = |word: &str| {
        let words: Vec<&str> = summary.split_ascii_whitespace().collect();
        let pair = words.windows(2).find(|pair| pair[1].trim_end_matches(',') == word);
        pair.and_then(|pair| pair[0].parse().ok()).with_context(|| format!("{word} in {summary}"))
    };
    Ok(Counts { failed: count("failed")?, skipped: count("skipped")?, passed: count("passed")? })
}

fn run_suite(suite: &Path, place: &Place, remount: bool) -> Result<Counts> {
    let configuration = place.scratch.join("pjdfstest.toml");
    fs::write(&configuration, CONFIGURATION.replace("REMOUNT", &remount.to_string()))?;
    // A second file system; the local disk is one unless the tests run on it themselves.
    let disk = if on_a_directory() { Path::new("/dev/shm") } else { &place.scratch };
    let other = tempfile::tempdir_in(disk)?;
    let mut command = command(suite, &place.scratch);
    command.arg("-c").arg(&configuration).arg("-p").arg(&place.root).arg("-s").arg(other.path());
    if remount {
        // The suite calls mount(8), which would ask a helper program in /sbin to remount.
        let programs = place.scratch.join("bin");
        fs::create_dir(&programs)?;
        let direct = programs.join("mount");
        fs::write(&direct, "#!/bin/sh\nexec /bin/mount -i \"$@\"\n")?;
        fs::set_permissions(&direct, fs::Permissions::from_mode(0o755))?;
        let path = std::env::var("PATH").unwrap_or_default();
        command.arg("erofs").env("PATH", format!("{}:{path}", programs.display()));
    }
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let counts = counts(&text).with_context(|| tail(&output.stderr))?;
    println!("pjdfstest (with remounts: {remount}): {counts:?}");
    if counts.failed > 0 {
        println!("{}", failures(&text));
    }
    Ok(counts)
}

/// Whether the tests run on a directory, which is no mount of ours.
fn on_a_directory() -> bool {
    std::env::var_os(DIRECTORY_VARIABLE).is_some()
}

/// The lines about failures.
fn failures(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim_end().ends_with("FAILED") {
            out.push_str(&format!("{line}\n{}\n", lines.next().unwrap_or_default()));
        }
    }
    out
}

#[test]
fn every_case_of_pjdfstest_passes() -> Result<()> {
    let Some(suite) = tool("pjdfstest")? else { return Ok(()) };
    with_mount_within(DEADLINE, &["-o", "allow_other"], move |place| {
        let counts = run_suite(&suite, place, false)?;
        ensure!(counts.failed == 0, "{counts:?}");
        let most = if on_a_directory() { REMOUNT_CASES } else { REMOUNT_CASES + UNKNOWABLE_CASES };
        ensure!(counts.skipped == most && counts.passed == CASES - most, "{counts:?}");
        Ok(())
    })
}

#[test]
fn a_mount_that_is_made_read_only_passes_pjdfstest() -> Result<()> {
    let Some(suite) = tool("pjdfstest")? else { return Ok(()) };
    with_mount_within(DEADLINE, &["-o", "allow_other"], move |place| {
        if on_a_directory() {
            // A directory is no file system of its own that could be made read-only.
            return Ok(());
        }
        let counts = run_suite(&suite, place, true)?;
        ensure!(counts == Counts { failed: 0, skipped: 0, passed: REMOUNT_CASES }, "{counts:?}");
        Ok(())
    })
}
