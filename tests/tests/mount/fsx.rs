//! fsx: random reads, writes, mappings, truncations, holes and copies within a file, checked against what they
//! must give. Its file is small, so that block edges are met only with small blocks; every second seed has them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::{Cluster, Mount, wait_until, with_cluster_within};

use crate::commands::{command, tail, tool};

/// Operations of a seed.
const OPERATIONS: usize = 20_000;

/// Operations of a seed when a datanode is killed in the middle; fewer, because an unoptimised build needs minutes for each
/// run of all seeds. `DFS_TEST_FSX_OPERATIONS=20000` runs as many as without.
const OPERATIONS_WITH_KILL: usize = 5_000;

/// Seeds; they run at the same time, on files of their own.
const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];

/// Longest run of all seeds in an unoptimised build.
const DEADLINE: Duration = Duration::from_secs(600);

/// Everything that fsx can do on Linux.
const EVERYTHING: &str = r#"
flen = 1048576

[opsize]
max = 131072

[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 5
fsync = 1
fdatasync = 1
posix_fallocate = 3
punch_hole = 3
sendfile = 3
posix_fadvise = 2
copy_file_range = 3
"#;

/// One seed that runs.
struct Run {
    seed: u64,
    child: Child,
    log: PathBuf,
    operations: usize,
}

impl Run {
    fn start(
        fsx: &Path,
        mount: &Mount<'_>,
        scratch: &Path,
        seed: u64,
        configuration: Option<&str>,
        operations: usize,
    ) -> Result<Self> {
        let log = scratch.join(format!("fsx-{seed}.out"));
        let mut command = command(fsx, scratch);
        // At this level it prints a line an operation, which tells how far it is.
        command.args(["-v", "-v", "-N", &operations.to_string(), "-S", &seed.to_string()]);
        command.arg("-P").arg(scratch);
        if let Some(configuration) = configuration {
            let path = scratch.join("fsx.toml");
            fs::write(&path, configuration)?;
            command.arg("-f").arg(path);
        }
        command.arg(mount.path(format!("fsx-{seed}")));
        let output = File::create(&log)?;
        command.stdout(Stdio::from(output.try_clone()?)).stderr(Stdio::from(output));
        Ok(Self { seed, child: command.spawn().context("fsx")?, log, operations })
    }

    /// Operations done so far, about: a line each.
    fn progress(&self) -> Result<usize> {
        Ok(fs::read(&self.log)?.iter().filter(|byte| **byte == b'\n').count())
    }

    fn finish(mut self) -> Result<()> {
        let status = self.child.wait()?;
        ensure!(status.success(), "seed {}: {status}\n{}", self.seed, tail(&fs::read(&self.log)?));
        println!("fsx: seed {}: {} operations done", self.seed, self.operations);
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs all seeds at once; `midway` is done when each is half done.
fn run_seeds(
    cluster: &Cluster,
    fsx: &Path,
    configuration: Option<&str>,
    operations: usize,
    midway: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (large, small) = (cluster.mount(&[])?, cluster.mount(&["-o", "block-size=65536"])?);
    let mut runs = Vec::new();
    for seed in SEEDS {
        let mount = if seed % 2 == 0 { &small } else { &large };
        runs.push(Run::start(fsx, mount, cluster.home(), seed, configuration, operations)?);
    }
    for run in &mut runs {
        loop {
            let half = wait_until("half of the operations are done", || {
                Ok(run.progress()? >= operations / 2 || run.child.try_wait()?.is_some())
            });
            // Slow machines get more than one wait's patience, as long as it goes on.
            match half {
                Ok(()) => break,
                Err(error) => println!("seed {}: {error:#}; {} are done", run.seed, run.progress()?),
            }
        }
    }
    midway()?;
    runs.into_iter().try_for_each(Run::finish)
}

fn operations_with_kill() -> usize {
    let asked = std::env::var("DFS_TEST_FSX_OPERATIONS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(OPERATIONS_WITH_KILL)
}

#[test]
fn default_operations_give_what_they_must() -> Result<()> {
    let Some(fsx) = tool("fsx")? else { return Ok(()) };
    with_cluster_within(DEADLINE, &[], move |cluster| run_seeds(cluster, &fsx, None, OPERATIONS, || Ok(())))
}

#[test]
fn all_operations_give_what_they_must() -> Result<()> {
    let Some(fsx) = tool("fsx")? else { return Ok(()) };
    with_cluster_within(DEADLINE, &[], move |cluster| {
        run_seeds(cluster, &fsx, Some(EVERYTHING), OPERATIONS, || Ok(()))
    })
}

#[test]
fn default_operations_do_not_notice_a_killed_datanode() -> Result<()> {
    let Some(fsx) = tool("fsx")? else { return Ok(()) };
    with_cluster_within(DEADLINE, &[], move |cluster| {
        run_seeds(cluster, &fsx, None, operations_with_kill(), || cluster.kill_9(|name| name == "datanode-1"))
    })
}

#[test]
fn all_operations_do_not_notice_a_killed_datanode() -> Result<()> {
    let Some(fsx) = tool("fsx")? else { return Ok(()) };
    with_cluster_within(DEADLINE, &[], move |cluster| {
        run_seeds(cluster, &fsx, Some(EVERYTHING), operations_with_kill(), || {
            cluster.kill_9(|name| name == "datanode-1")
        })
    })
}
