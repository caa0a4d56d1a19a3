//! A process in namespaces of its own: mounts, network and process ids.
//!
//! The first process of a pid namespace takes all others with it when it ends, and mounts, networks and
//! bridges go with the last process that uses them. So nothing is left behind, whether the run ends well, fails, is killed, or
//! is left alone by a test that is killed itself.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

/// Where `ip netns` keeps its names. Each run mounts an empty file system of its own there.
pub const NAMES_OF_NETWORKS: &str = "/run/netns";

/// What a run needs, tried in namespaces that end at once.
const PROBE: &str = "mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && ip link add probe0 type bridge \
    && ip netns add probe && nsenter --net=/run/netns/probe tc qdisc add dev lo root tbf rate 1mbit burst 16kb latency 1s \
    && test -w /dev/fuse && command -v cc && test -w /sys/fs/ext4 && cd /run/netns && mkdir disk && truncate -s 4m image \
    && mkfs.ext4 -q -F image && mount -o loop image disk && fsfreeze -f disk && fsfreeze -u disk && command -v e2fsck";

/// Why no namespaces can be made here, if they cannot. In CI they must.
pub fn refusal() -> Result<Option<String>> {
    let mut probe = isolated("sh");
    let reason = match probe.args(["-c", PROBE]).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => return Ok(None),
        Ok(output) => format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => error.to_string(),
    };
    ensure!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "root, namespaces, bridges, tc, /dev/fuse, ext4 on loop devices and a C compiler are needed: {reason}"
    );
    Ok(Some(reason))
}

/// Thaws what is frozen of the disks below `dir` in the namespaces of process `pid`, which is about to be killed. What waits for a
/// frozen disk does not end, and neither would the namespaces.
pub fn thaw(pid: u32, dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let mut command = Command::new("nsenter");
        command.args(["--mount", &format!("--target={pid}"), "--", "fsfreeze", "-u"]).arg(entry?.path());
        // Most are not frozen, and some cannot be.
        command.stdin(Stdio::null()).stderr(Stdio::null()).status()?;
    }
    Ok(())
}

/// A command that runs `program` as the first process of new namespaces, and ends with the thread that starts it.
pub fn isolated(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork"]);
    command.args(["--kill-child=KILL", "--mount-proc", "--", program]);
    command
}
