//! `dfs cluster`: a cluster on this machine, of the real programs.
//!
//! [`layout`] says what it consists of, [`process`] handles single processes, [`start`] and [`stop`]
//! bring all of them up and down, [`processes`] tells other verbs about them. Every process listens on 127.0.0.1 only.

mod layout;
mod mounts;
pub mod process;
pub mod processes;
mod start;
mod stop;

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use crate::exit;
use crate::mount::State;
use crate::output::{Align, Out, Table};
use layout::{Choices, Layout};
use mounts::ClusterMount;
use process::Member;

/// `dfs cluster`.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// What to do.
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Start a cluster on this machine and wait until files can be written
    Start(StartArgs),
    /// Stop exactly the processes that `start` started
    Stop(StopArgs),
    /// Show the processes; exit code 1 unless all run
    Status(StatusArgs),
}

/// Which cluster.
#[derive(Debug, Args)]
struct Place {
    /// Directory of the cluster (default: $XDG_STATE_HOME/dfs or ~/.dfs, followed by -P with --port-base P)
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// First port: namenode gRPC P and HTTP P+1, datanode i (from 0) data P+10+10i, gRPC P+11+10i,
    /// HTTP P+12+10i (default: HDFS's numbers 9820, 9870, and 9866, 9867, 9864 plus 10i)
    #[arg(long, value_name = "P")]
    port_base: Option<u16>,
}

#[derive(Debug, Args)]
struct StartArgs {
    #[command(flatten)]
    place: Place,
    /// Datanodes (default: as before, else 3)
    #[arg(long, value_name = "N")]
    datanodes: Option<u16>,
    /// Default replication (default: as before, else 3 or the number of datanodes if that is less)
    #[arg(long, value_name = "R")]
    replication: Option<u16>,
    /// Mount the cluster there too
    #[arg(long, value_name = "MOUNTPOINT")]
    mount: Option<PathBuf>,
    /// Seconds to wait until files can be written
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

#[derive(Debug, Args)]
struct StopArgs {
    #[command(flatten)]
    place: Place,
    /// Seconds until processes that do not end are killed
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Does what the arguments say.
pub fn run(args: &ClusterArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        ClusterCommand::Start(args) => {
            let dir = layout::directory(args.place.dir.as_deref(), args.place.port_base)?;
            let choices = Choices {
                datanodes: args.datanodes,
                replication: args.replication,
                port_base: args.place.port_base,
            };
            let timeout = Duration::from_secs(args.timeout);
            let wanted = start::Wanted { choices, mount: args.mount.as_deref() };
            start::run(&dir, wanted, timeout, args.place.dir.is_some())
        }
        ClusterCommand::Stop(args) => {
            let dir = layout::directory(args.place.dir.as_deref(), args.place.port_base)?;
            stop::run(&dir, Duration::from_secs(args.timeout))
        }
        ClusterCommand::Status(args) => {
            let dir = layout::directory(args.place.dir.as_deref(), args.place.port_base)?;
            status(&dir, args.json)
        }
    }
}

/// The processes of a cluster: the namenode, then the datanodes. `programs` is the directory of the
/// program files.
fn members(dir: &Path, layout: &Layout, programs: &Path) -> Vec<Member> {
    let owned = |args: &[&str]| args.iter().map(|arg| (*arg).into()).collect::<Vec<std::ffi::OsString>>();
    let (rpc, http) = (layout.namenode_rpc_port(), layout.namenode_http_port());
    let mut args = owned(&["--bind", "127.0.0.1", "--rpc-port", &rpc.to_string()]);
    args.extend(owned(&["--http-port", &http.to_string()]));
    args.extend(owned(&["--replication", &layout.replication.to_string(), "--dir"]));
    args.push(dir.join("namenode").into());
    let mut members = vec![Member {
        name: "namenode".to_owned(),
        program: programs.join("dfs-namenode"),
        args,
        ports: format!("rpc {rpc}, http {http}"),
        dir: dir.to_owned(),
    }];
    for index in 0..layout.datanodes {
        let name = format!("datanode-{index}");
        let ports = layout.datanode_ports(index);
        let mut args = owned(&["--namenode", &layout.namenode(), "--bind", "127.0.0.1"]);
        args.extend(owned(&["--xfer-port", &ports.xfer.to_string()]));
        args.extend(owned(&["--ipc-port", &ports.ipc.to_string()]));
        args.extend(owned(&["--http-port", &ports.http.to_string(), "--volume"]));
        args.push(dir.join(&name).into());
        members.push(Member {
            name,
            program: programs.join("dfs-datanode"),
            args,
            ports: format!("data {}, rpc {}, http {}", ports.xfer, ports.ipc, ports.http),
            dir: dir.to_owned(),
        });
    }
    members
}

/// Directory of the running program: the servers lie beside it.
fn programs() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program lies")?;
    own.parent().map(Path::to_owned).context("this program lies in no directory")
}

/// Held while processes are started or stopped, so that two commands do not get in each other's way.
/// A second one waits.
fn lock(dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = dir.join("cluster.lock");
    let shown = path.display().to_string();
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| shown.clone())?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno)).context(shown)
}

#[derive(Debug, Serialize)]
struct StatusRow {
    name: String,
    pid: Option<i32>,
    running: bool,
    ports: String,
    log: PathBuf,
}

fn status(dir: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let Some(layout) = Layout::load(dir)? else {
        exit::message(format_args!("cluster: no cluster in {}", dir.display()));
        return Ok(ExitCode::from(exit::FAILED));
    };
    let mut rows: Vec<StatusRow> = members(dir, &layout, &programs()?)
        .into_iter()
        .map(|member| {
            let pid = member.running().map(|identity| identity.pid);
            let log = member.log();
            StatusRow { name: member.name, pid, running: pid.is_some(), ports: member.ports, log }
        })
        .collect();
    rows.extend(mount_row(dir)?);
    let all = rows.iter().all(|row| row.running);
    let mut out = Out::new();
    if json {
        out.json(&serde_json::json!({
            "dir": dir,
            "namenode": layout.namenode(),
            "replication": layout.replication,
            "running": all,
            "processes": rows,
        }))?;
    } else {
        let mut table = Table::new(&[Align::Left, Align::Right, Align::Left, Align::Left, Align::Left], 2);
        table.row(["NAME", "PID", "STATE", "PORTS", "LOG"].map(String::from).to_vec());
        for row in &rows {
            table.row(vec![
                row.name.clone(),
                row.pid.map_or("-".to_owned(), |pid| pid.to_string()),
                if row.running { "running" } else { "stopped" }.to_owned(),
                row.ports.clone(),
                row.log.display().to_string(),
            ]);
        }
        for line in table.lines() {
            out.line(format_args!("{line}"))?;
        }
    }
    out.finish()?;
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

/// The cluster's mount, if it has one; its mount point takes the place of ports.
fn mount_row(dir: &Path) -> anyhow::Result<Option<StatusRow>> {
    let mount = ClusterMount::new(dir);
    Ok(mount.state()?.map(|(path, state)| {
        let pid = match state {
            State::Alive { pid, .. } => Some(pid),
            State::Dead | State::Nothing => None,
        };
        let ports = format!("at {}", path.display());
        StatusRow {
            name: "mount".to_owned(),
            pid,
            running: pid.is_some(),
            ports,
            log: mount.log().to_owned(),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_process_gets_its_own_ports_and_directory() {
        let choices = Choices { datanodes: Some(2), replication: None, port_base: Some(21_000) };
        let layout = Layout::new(choices).unwrap();
        let members = members(Path::new("/c"), &layout, Path::new("/p"));
        let command = |member: &Member| {
            let args: Vec<&str> = member.args.iter().map(|arg| arg.to_str().unwrap()).collect();
            format!("{} {}", member.program.display(), args.join(" "))
        };
        let commands: Vec<String> = members.iter().map(command).collect();
        assert_eq!(
            commands,
            [
                "/p/dfs-namenode --bind 127.0.0.1 --rpc-port 21000 --http-port 21001 --replication 2 --dir /c/namenode",
                "/p/dfs-datanode --namenode 127.0.0.1:21000 --bind 127.0.0.1 --xfer-port 21010 --ipc-port 21011 --http-port 21012 --volume /c/datanode-0",
                "/p/dfs-datanode --namenode 127.0.0.1:21000 --bind 127.0.0.1 --xfer-port 21020 --ipc-port 21021 --http-port 21022 --volume /c/datanode-1",
            ]
        );
    }
}
