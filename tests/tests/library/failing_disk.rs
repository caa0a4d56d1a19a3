//! A namenode's disk whose syncs fail.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_client::fs::{Caller, FileSystem, FileSystemConfig, FileType, InodeId, NewNode};
use dfs_client::{DfsClient, ErrorKind, MkdirOptions, RetryPolicy};
use dfs_namenode::{Namenode, NamenodeConfig};
use dfs_tests::cluster::{MiniCluster, SUPERUSER};
use dfs_tests::harness::run;
use dfs_tests::small_disk::FailingDisk;

use super::ensure_error;

/// Time in which a namenode notices that a sync fails; it syncs four times a second.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);

/// Directories that are made on a failing disk at most: more than a namenode makes between two syncs.
const MANY: usize = 100_000;

/// A namenode without datanodes on a disk of its own.
struct OnFailingDisk {
    cluster: MiniCluster,
    disk: FailingDisk,
}

impl OnFailingDisk {
    /// None, loudly, where there are no such disks.
    async fn prepare() -> Result<Option<Self>> {
        let mut cluster = MiniCluster::builder().datanodes(0).start().await?;
        cluster.kill_namenode().await;
        Ok(FailingDisk::mount()?.map(|disk| Self { cluster, disk }))
    }

    fn dir(&self) -> PathBuf {
        self.disk.path().join("namenode")
    }

    /// Starts the namenode, at the port of its predecessor if there is one.
    async fn start(&self, rpc_port: u16) -> Result<Namenode> {
        let config = NamenodeConfig { dir: self.dir(), rpc_port, ..self.cluster.namenode_config() };
        Ok(Namenode::start(config).await?)
    }

    /// Starts the namenode on the disk that is good again. A write that failed when its predecessor was already ending is told to the first
    /// who syncs the file, which is a start, and refuses it.
    async fn start_again(&self, rpc_port: u16) -> Result<Namenode> {
        match self.start(rpc_port).await {
            Err(refused) if format!("{refused:#}").contains("cannot sync") => self.start(rpc_port).await,
            started => started,
        }
    }

    /// Has a namenode answer changes that its disk loses, without having promised otherwise. Answers their names.
    async fn lose_changes(&self, namenode: &Namenode, one: &FileSystem) -> Result<Vec<String>> {
        self.disk.fail()?;
        let mut answered = Vec::new();
        while answered.len() < MANY {
            // Names that fill some pages of the log.
            let name = format!("{:0>200}", answered.len());
            if make(one, &name).await.is_err() {
                break;
            }
            answered.push(name);
        }
        self.fails(namenode).await?;
        Ok(answered)
    }

    /// Waits until a namenode has failed because of its disk, and answers why.
    async fn fails(&self, namenode: &Namenode) -> Result<String> {
        let failure = tokio::time::timeout(NOTICED_WITHIN, namenode.failed());
        let failure = failure.await.context("the namenode notices")?.to_string();
        ensure!(failure.contains(&self.dir().display().to_string()), "{failure}");
        ensure!(
            ["sync", "write", "reserve", "create", "rename"].iter().any(|what| failure.contains(what)),
            "{failure}"
        );
        Ok(failure)
    }
}

async fn client(namenode: &Namenode) -> Result<DfsClient> {
    let retry = RetryPolicy { deadline: Duration::from_millis(500), ..RetryPolicy::default() };
    let builder = DfsClient::builder().namenode(namenode.rpc_addr().to_string());
    Ok(builder.user(SUPERUSER).retry(retry).connect().await?)
}

/// A session that sends each change by itself and does not wait long for a namenode.
async fn session(namenode: &Namenode) -> Result<FileSystem> {
    let config = FileSystemConfig {
        user: Some(SUPERUSER.to_owned()),
        delegations: false,
        wait: Duration::from_millis(500),
        ..FileSystemConfig::of_namenodes(&namenode.rpc_addr().to_string())
    };
    Ok(FileSystem::connect(config).await?)
}

/// Makes a directory in the root; it is answered when it is in the page cache.
async fn make(one: &FileSystem, name: &str) -> Result<()> {
    let new = NewNode::new(FileType::Directory, 0o755, "staff");
    one.make_node(&Caller::named(SUPERUSER), InodeId::ROOT, name.as_bytes(), new).await?;
    Ok(())
}

async fn names(namenode: &Namenode) -> Result<BTreeSet<String>> {
    let listed = client(namenode).await?.list("/").await?;
    Ok(listed.into_iter().map(|status| status.path.trim_start_matches('/').to_owned()).collect())
}

#[test]
fn a_failed_sync_stops_the_namenode_and_names_the_file() -> Result<()> {
    run(async {
        let Some(on) = OnFailingDisk::prepare().await? else { return Ok(()) };
        let namenode = on.start(0).await?;
        let client = client(&namenode).await?;
        client.mkdir("/before", MkdirOptions::default()).await?;
        on.disk.fail()?;
        let mut acknowledged = 0;
        let refused = loop {
            match client.mkdir(&format!("/d{acknowledged}"), MkdirOptions::default()).await {
                Ok(_) => acknowledged += 1,
                Err(error) => break error,
            }
            ensure!(acknowledged < MANY, "nothing fails");
        };
        let failure = on.fails(&namenode).await?;
        println!("{acknowledged} were acknowledged; a client is told: {refused}; the namenode: {failure}");
        // Nothing is acknowledged any more.
        ensure!(client.mkdir("/after", MkdirOptions::default()).await.is_err());
        Ok(())
    })
}

#[test]
fn a_start_after_a_failed_sync_serves_what_is_on_the_disk_and_keeps_what_it_acknowledges() -> Result<()> {
    run(async {
        let Some(on) = OnFailingDisk::prepare().await? else { return Ok(()) };
        let first = on.start(0).await?;
        let port = first.rpc_addr().port();
        let one = session(&first).await?;
        make(&one, "kept").await?;
        one.sync().await?;
        let answered = on.lose_changes(&first, &one).await?;
        drop(first);
        on.disk.heal()?;

        // The same kernel, which still has all that was answered.
        let second = on.start_again(port).await?;
        client(&second).await?.mkdir("/after", MkdirOptions::default()).await?;
        let served = names(&second).await?;
        let synced = one.sync().await;
        drop(second);

        // What a power failure leaves.
        on.disk.remount()?;
        let third = on.start(port).await.context("a start after a power failure")?;
        let left = names(&third).await?;
        ensure!(left == served, "{} names were served, {} are left", served.len(), left.len());
        ensure!(left.contains("kept") && left.contains("after"), "what was acknowledged is lost");
        let there = answered.iter().filter(|name| left.contains(*name)).count();
        println!("{} were answered, {there} of them reached the disk", answered.len());
        ensure!(there < answered.len() && answered[..there].iter().all(|name| left.contains(name)));
        ensure_error(synced, ErrorKind::ChangesLost, "")?;
        drop(third);
        Ok(())
    })
}

/// A program that has mapped a file and looked at all of it. Dropping it ends it.
struct Mapper(Child);

impl Mapper {
    fn map(path: &Path) -> Result<Self> {
        let script = "import mmap, sys\n\
            with open(sys.argv[1], 'rb') as file: mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n\
            sum(mapped[::4096])\n\
            print('mapped', flush=True)\n\
            sys.stdin.read()";
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut mapper = Self(command.spawn().context("python3")?);
        let mut said = String::new();
        BufReader::new(mapper.0.stdout.take().context("output")?).read_line(&mut said)?;
        ensure!(said == "mapped\n", "{said:?}");
        Ok(mapper)
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        // It ends with its input in any case.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[test]
fn a_start_is_refused_while_another_program_keeps_what_is_not_on_the_disk() -> Result<()> {
    run(async {
        let Some(on) = OnFailingDisk::prepare().await? else { return Ok(()) };
        let first = on.start(0).await?;
        let one = session(&first).await?;
        make(&one, "kept").await?;
        one.sync().await?;
        let answered = on.lose_changes(&first, &one).await?;
        let segments: Result<Vec<PathBuf>, _> =
            std::fs::read_dir(on.dir().join("log"))?.map(|item| item.map(|item| item.path())).collect();
        let segment = segments?.into_iter().max().context("a segment")?;
        let mapper = Mapper::map(&segment)?;
        drop(first);
        on.disk.heal()?;

        let refused = on.start_again(0).await.err().context("a start from pages that are not on the disk")?;
        let text = format!("{refused:#}");
        ensure!(
            text.contains(&segment.display().to_string()) && text.contains("not what is on the disk"),
            "{text}"
        );
        drop(mapper);
        let second = on.start_again(0).await?;
        let served = names(&second).await?;
        ensure!(
            served.contains("kept") && served.len() <= answered.len(),
            "{} of {}",
            served.len(),
            answered.len()
        );
        drop(second);
        Ok(())
    })
}
