//! Finds the local processes of the cluster, so that their processor time can be counted.
//!
//! Of a cluster started by `dfs cluster start` the recorded processes are taken. Otherwise a server's
//! process is the one that listens on its address, if that address belongs to this machine: a remote
//! server must not be taken for a local process that happens to listen on the same port.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;

use dfs_proto::v1;
use nix::unistd::Pid;

use super::cpu::CpuClocks;
use super::listeners::pids_listening_on;
use crate::cluster::processes::{self, LocalCluster};

/// The local cluster whose namenode is `namenode` (HOST:PORT): the one in `dir`, which it must be then,
/// or the one that `dfs cluster start` makes by default.
pub fn local_cluster(namenode: &str, dir: Option<&Path>) -> anyhow::Result<Option<LocalCluster>> {
    let Some(dir) = dir else { return processes::by_default(namenode) };
    let Some(found) = processes::in_directory(dir)? else {
        anyhow::bail!("{}: no cluster there", dir.display());
    };
    let wanted = found.namenode == namenode;
    anyhow::ensure!(wanted, "{}: its namenode is {}, not {namenode}", dir.display(), found.namenode);
    Ok(Some(found))
}

/// The clocks of the namenode at `namenode` and of the datanodes that are not dead.
pub async fn clocks(
    namenode: &str,
    datanodes: &[v1::DatanodeReport],
    local: Option<&LocalCluster>,
) -> CpuClocks {
    if let Some(local) = local
        && local.namenode_pid.is_some()
    {
        let datanodes = local.datanode_pids.iter().copied().map(Pid::from_raw).collect();
        return CpuClocks::new(local.namenode_pid.map(Pid::from_raw), Some(datanodes));
    }
    let namenode = tokio::net::lookup_host(namenode).await.ok().and_then(|mut addrs| addrs.next());
    let datanodes: Vec<Option<SocketAddr>> = datanodes
        .iter()
        .filter_map(|report| report.info.as_ref())
        .filter(|info| info.state() != v1::DatanodeState::Dead)
        .map(transfer_address)
        .collect();
    by_address(namenode, &datanodes)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_cluster_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = local_cluster("127.0.0.1:9820", Some(dir.path())).expect_err("none").to_string();
        assert!(error.starts_with(&dir.path().display().to_string()), "{error}");
    }

    #[test]
    fn the_cluster_of_another_namenode_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let record = "version = 1\ndatanodes = 1\nreplication = 1\nport_base = 30000\n";
        std::fs::write(dir.path().join("cluster.toml"), record).expect("writes");
        assert!(local_cluster("127.0.0.1:30000", Some(dir.path())).expect("its own").is_some());
        let error = local_cluster("127.0.0.1:9820", Some(dir.path())).expect_err("another").to_string();
        assert!(error.ends_with("its namenode is 127.0.0.1:30000, not 127.0.0.1:9820"), "{error}");
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
