//! The cluster of a run: which processes there are, at which nodes, and how they are started.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::actors::{Kind, Surroundings};
use super::clock::Clocks;
use super::network::Network;
use super::plan::{MOUNT, NAMENODE, Targets};
use super::servers::{Servers, Spec};
use super::volumes::Volume;
use super::worker::{WORKER_VARIABLE, Worker};

/// Datanodes: one more than replicas that files usually want.
const DATANODES: usize = 4;

/// Those of them whose disks are memory; the others have an ext4, which can hang and fail.
const DATANODES_IN_MEMORY: usize = 2;

/// Directory of a run below which its disks are mounted.
pub const DISKS: &str = "volumes";

/// Port of the namenode.
const PORT: u16 = 9820;

/// Settings of the namenode. Times are short, so that all that follows from them happens in a run: a datanode is suspect, dead,
/// and repaired while a fault lasts; blocks are small, so that small files have several.
const NAMENODE_SETTINGS: [&str; 20] = [
    "--reserved-bytes",
    "16777216",
    "--block-size",
    "262144",
    "--min-block-size",
    "4096",
    "--heartbeat-ms",
    "300",
    "--stale-ms",
    "1500",
    "--dead-ms",
    "4000",
    "--block-report-ms",
    "10000",
    "--session-timeout-ms",
    "8000",
    "--soft-lease-ms",
    "20000",
    "--hard-lease-ms",
    "30000",
];

/// Everything that a run has made.
#[derive(Debug)]
pub struct Setup {
    /// Directory of the run.
    pub run_dir: PathBuf,
    /// The network.
    pub network: Network,
    /// All nodes.
    pub nodes: Vec<String>,
    /// The servers' clocks.
    pub clocks: Clocks,
    /// The datanodes' volumes, by name.
    pub volumes: Vec<(String, Volume)>,
    /// The namenode's disk.
    pub namenode_disk: Volume,
    /// The processes.
    pub servers: Servers,
    /// The workers.
    pub workers: Vec<Worker>,
    /// What faults can happen to.
    pub targets: Targets,
    /// `host:port` of the namenode.
    pub namenode: String,
}

impl Setup {
    /// Makes network, volumes and descriptions of processes; nothing runs yet.
    pub fn new(seed: u64, run_dir: &Path, programs: &Path, began: Duration) -> Result<Self> {
        let datanodes: Vec<String> = (0..DATANODES).map(|index| format!("datanode-{index}")).collect();
        let client_nodes: Vec<String> =
            [Kind::Library.name(), Kind::Commands.name(), MOUNT].map(str::to_owned).to_vec();
        let mut nodes = vec![NAMENODE.to_owned()];
        nodes.extend(datanodes.iter().chain(&client_nodes).cloned());
        let network = Network::new(&nodes)?;
        let clocks = Clocks::new(run_dir.join("clocks"))?;
        let namenode = format!("{}:{PORT}", network.address(NAMENODE)?);
        let surroundings = Surroundings {
            namenode: namenode.clone(),
            programs: programs.to_owned(),
            mount: run_dir.join("mnt"),
        };
        let workers: Vec<Worker> = Kind::ALL
            .into_iter()
            .zip(0..)
            .map(|(kind, number)| Worker {
                number,
                kind,
                seed,
                run_dir: run_dir.to_owned(),
                began,
                surroundings: surroundings.clone(),
            })
            .collect();
        let disks = run_dir.join(DISKS);
        let with_ext4 = datanodes[DATANODES_IN_MEMORY..].to_vec();
        let volumes = datanodes
            .iter()
            .map(|name| {
                let root = disks.join(name);
                let volume =
                    if with_ext4.contains(name) { Volume::ext4(root) } else { Volume::in_memory(root) };
                Ok((name.clone(), volume?))
            })
            .collect::<Result<Vec<_>>>()?;
        let namenode_disk = Volume::of_namenode(disks.join(NAMENODE))?;
        let mut clients: Vec<String> = workers.iter().map(process_of).collect();
        clients.push(MOUNT.to_owned());
        let targets = Targets { datanodes, clients, client_nodes, with_ext4 };
        let servers = Servers::new(run_dir.join("logs"))?;
        let run_dir = run_dir.to_owned();
        let mut setup = Self {
            run_dir,
            network,
            nodes,
            clocks,
            volumes,
            namenode_disk,
            servers,
            workers,
            targets,
            namenode,
        };
        setup.describe(&surroundings)?;
        Ok(setup)
    }

    /// Tells how each process is started.
    fn describe(&mut self, with: &Surroundings) -> Result<()> {
        let dir = self.namenode_disk.data().display().to_string();
        let mut arguments = vec!["--dir", &dir];
        arguments.extend(NAMENODE_SETTINGS);
        let spec = Spec::new(NAMENODE, with.programs.join("dfs-namenode"), &arguments);
        self.servers.add(NAMENODE, Spec { own_clock: true, ..spec });
        for (name, volume) in &self.volumes {
            let data = volume.data().display().to_string();
            let arguments = [
                "--namenode",
                &self.namenode,
                "--volume",
                &data,
                "--hostname",
                name,
                "--reserved-bytes",
                "0",
            ];
            let spec = Spec::new(name, with.programs.join("dfs-datanode"), &arguments);
            self.servers.add(name, Spec { own_clock: true, ..spec });
        }
        std::fs::create_dir_all(&with.mount)?;
        let mount = with.mount.display().to_string();
        let arguments =
            ["--foreground", "--namenode", &self.namenode, "--wait", "15", "--block-size", "262144", &mount];
        self.servers.add(MOUNT, Spec::new(MOUNT, with.programs.join("dfs-fuse"), &arguments));
        let test = std::env::current_exe().context("this program")?;
        for worker in &self.workers {
            let node = if worker.kind == Kind::Mounted { MOUNT } else { worker.kind.name() };
            let mut spec = Spec::new(node, test.clone(), &[]);
            spec.environment.push((WORKER_VARIABLE.to_owned(), worker.describe()));
            self.servers.add(&process_of(worker), spec);
        }
        Ok(())
    }

    /// Starts the process called `name`.
    pub fn start(&mut self, name: &str) -> Result<()> {
        self.servers.start(name, &self.network, &self.clocks)
    }
}

/// Name of a worker's process.
pub fn process_of(worker: &Worker) -> String {
    format!("{}-{}", worker.kind.name(), worker.number)
}
