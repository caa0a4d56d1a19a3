//! Finds the local processes of the cluster, so that their processor time can be counted.
//!
//! With a cluster directory, its pid files are believed. Otherwise a server's process is the one that
//! listens on its address, if that address belongs to this machine: a remote server must not be taken
//! for a local process that happens to listen on the same port.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::Context;
use dfs_proto::v1;
use nix::unistd::Pid;

use super::cpu::CpuClocks;
use super::listeners::pids_listening_on;

/// Where a cluster directory has its pid files.
const PID_DIRECTORY: &str = "run";

/// How their names end.
const PID_SUFFIX: &str = ".pid";

/// The clocks of the namenode at `namenode` (HOST:PORT) and of the live datanodes.
pub async fn find(
    namenode: &str,
    datanodes: &[v1::DatanodeReport],
    cluster_dir: Option<&Path>,
) -> anyhow::Result<CpuClocks> {
    if let Some(dir) = cluster_dir {
        let found = PidFiles::read(dir)?;
        return Ok(CpuClocks::new(found.namenode, Some(found.datanodes)));
    }
    let namenode = tokio::net::lookup_host(namenode).await.ok().and_then(|mut addrs| addrs.next());
    let datanodes: Vec<Option<SocketAddr>> = datanodes
        .iter()
        .filter_map(|report| report.info.as_ref())
        .filter(|info| info.state() != v1::DatanodeState::Dead)
        .map(transfer_address)
        .collect();
    Ok(by_address(namenode, &datanodes))
}

/// Where a datanode serves block data.
fn transfer_address(info: &v1::DatanodeInfo) -> Option<SocketAddr> {
    let ip: IpAddr = info.ip.parse().ok()?;
    Some(SocketAddr::new(ip, u16::try_from(info.xfer_port).ok()?))
}

fn by_address(namenode: Option<SocketAddr>, datanodes: &[Option<SocketAddr>]) -> CpuClocks {
    let local = |addr: Option<SocketAddr>| addr.filter(|addr| is_local(addr.ip()));
    let wanted: Vec<Option<SocketAddr>> =
        std::iter::once(namenode).chain(datanodes.iter().copied()).map(local).collect();
    let known: Vec<SocketAddr> = wanted.iter().copied().flatten().collect();
    let mut found = pids_listening_on(&known).into_iter();
    let mut pids = wanted.into_iter().map(|addr| addr.and_then(|_| found.next().flatten()));
    let namenode = pids.next().flatten();
    CpuClocks::new(namenode, pids.collect())
}

/// Whether an address is one of this machine's: only those can be bound.
fn is_local(ip: IpAddr) -> bool {
    TcpListener::bind((ip, 0)).is_ok()
}

/// Process ids of a local cluster.
#[derive(Debug, Default, PartialEq, Eq)]
struct PidFiles {
    namenode: Option<Pid>,
    datanodes: Vec<Pid>,
}

impl PidFiles {
    /// Reads `run/namenode.pid` and `run/datanode-*.pid` of a cluster directory.
    fn read(dir: &Path) -> anyhow::Result<Self> {
        let run = dir.join(PID_DIRECTORY);
        let mut found = Self::default();
        for entry in fs::read_dir(&run).with_context(|| run.display().to_string())? {
            let path = entry?.path();
            let name =
                path.file_name().and_then(|name| name.to_str()).and_then(|n| n.strip_suffix(PID_SUFFIX));
            let Some(name) = name else { continue };
            let Some(pid) = fs::read_to_string(&path).ok().and_then(|text| parse_pid(&text)) else {
                continue;
            };
            if name == "namenode" {
                found.namenode = Some(pid);
            } else if name.starts_with("datanode-") {
                found.datanodes.push(pid);
            }
        }
        let complete = found.namenode.is_some() && !found.datanodes.is_empty();
        anyhow::ensure!(complete, "{}: no pid files of a namenode and datanodes", run.display());
        Ok(found)
    }
}

/// The first word of a pid file; more words tell the process from a later one of the same number.
fn parse_pid(text: &str) -> Option<Pid> {
    let pid = text.split_ascii_whitespace().next()?.parse().ok().filter(|pid| *pid > 0)?;
    Some(Pid::from_raw(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_files_of_a_cluster_directory_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("run")).expect("makes");
        for (name, text) in [
            ("namenode.pid", "11 4711 /bin/dfs-namenode"),
            ("datanode-0.pid", "12 4712 /bin/dfs-datanode"),
            ("datanode-1.pid", "13\n"),
            ("datanode-2.pid", "not a number"),
            ("datanode-3.log", "15"),
            ("other.pid", "16"),
        ] {
            fs::write(dir.path().join("run").join(name), text).expect("writes");
        }
        let mut found = PidFiles::read(dir.path()).expect("reads");
        found.datanodes.sort_unstable();
        let pid = Pid::from_raw;
        assert_eq!(found, PidFiles { namenode: Some(pid(11)), datanodes: vec![pid(12), pid(13)] });
    }

    #[test]
    fn a_directory_without_a_cluster_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = PidFiles::read(dir.path()).expect_err("nothing there").to_string();
        assert!(error.starts_with(&dir.path().display().to_string()), "{error}");
        assert!(PidFiles::read(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn pids_are_positive_numbers() {
        assert_eq!(parse_pid(" 42 \nmore\n"), Some(Pid::from_raw(42)));
        for text in ["", "0", "-1", "x", "99999999999"] {
            assert_eq!(parse_pid(text), None, "{text:?}");
        }
    }

    #[test]
    fn servers_in_this_process_are_found_and_remote_ones_are_not() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let here = listener.local_addr().expect("an address");
        assert!(by_address(Some(here), &[Some(here)]).complete());
        // 192.0.2.0/24 belongs to documentation, never to a machine.
        let elsewhere = SocketAddr::new([192, 0, 2, 1].into(), here.port());
        let clocks = by_address(Some(here), &[Some(here), Some(elsewhere)]).read();
        assert!(clocks.namenode.is_some());
        assert_eq!(clocks.datanodes, None, "one datanode of two is unknown");
        assert_eq!(by_address(None, &[]).read().namenode, None);
    }
}
