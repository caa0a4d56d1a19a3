//! A cluster after its faults: healed, without a load, with all files closed. What checks look at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_client::{DfsClient, RetryPolicy};
use tokio::runtime::Runtime;

use super::actors::Kind;
use super::events::Events;
use super::expectation::{Expectation, Wanted};
use super::history::{HistoryWriter, Record, SettledNode, read_history};
use super::observation::{Found, Namespace, Replica, files, namespace, replicas};
use super::setup::Setup;
use super::volumes::Volume;
use super::worker::Worker;
use crate::wait::{wait_for, wait_until};

/// Time that the servers get to be together again, and abandoned files to be closed.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);

/// What `dfs put` calls a file until all of it is there.
pub const COPYING_SUFFIX: &str = "._COPYING_";

/// What checks look at.
#[derive(Debug)]
pub struct Quiet<'r> {
    /// What must and may be in the namespace.
    pub wanted: BTreeMap<String, Wanted>,
    /// What each worker knows and does not know.
    pub expectations: Vec<Expectation>,
    /// What is in the namespace.
    pub namespace: Namespace,
    /// The highest generation stamp that was ever seen of each block, on disks and in the namespace.
    pub stamps: &'r BTreeMap<u64, u64>,
    /// Blocks of which a replica was damaged on its disk.
    pub damaged: &'r BTreeSet<u64>,
    /// Datanodes and their volumes.
    pub volumes: &'r [(String, Volume)],
    /// Where to note what took how long.
    pub events: &'r Events,
    runtime: &'r Runtime,
    client: DfsClient,
}

impl<'r> Quiet<'r> {
    /// Waits until all servers of `setup` are together and every file is closed, and looks.
    pub fn reach(
        setup: &'r Setup,
        runtime: &'r Runtime,
        stamps: &'r BTreeMap<u64, u64>,
        damaged: &'r BTreeSet<u64>,
        events: &'r Events,
    ) -> Result<Self> {
        let mut wanted = BTreeMap::new();
        let mut expectations = Vec::new();
        for worker in &setup.workers {
            let known = Expectation::of(&read_history(&worker.history())?)?;
            let known = if worker.kind == Kind::Mounted { known.with_holes() } else { known };
            wanted.extend(known.wanted());
            expectations.push(known);
        }
        let (client, namespace) = runtime.block_on(async {
            let client = connect(&setup.namenode).await?;
            all_alive(&client, setup.volumes.len()).await?;
            close_files(&client, events).await?;
            // Right after a start the namenode may know no good replica of a block yet.
            let namespace =
                wait_for("everything can be read", SETTLED_WITHIN, async || namespace(&client).await).await?;
            anyhow::Ok((client, namespace))
        })?;
        let volumes = &setup.volumes;
        Ok(Self { wanted, expectations, namespace, stamps, damaged, volumes, events, runtime, client })
    }

    /// A client of the cluster.
    pub fn client(&self) -> &DfsClient {
        &self.client
    }

    /// Runs `future` to its end.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// The namespace as it is now.
    pub fn look_again(&self) -> Result<Namespace> {
        self.runtime.block_on(namespace(&self.client))
    }

    /// The replicas that lie on the disks now.
    pub fn replicas(&self) -> Result<Vec<Replica>> {
        let mut all = Vec::new();
        for (name, volume) in self.volumes {
            all.extend(replicas(name, &volume.data())?);
        }
        all.sort();
        Ok(all)
    }

    /// Writes to the histories what doubtful paths turned out to be, and removes what copies that were cut off left.
    pub fn settle(&self, workers: &[Worker], round: u64) -> Result<()> {
        for (path, _) in self.namespace.iter().filter(|(path, _)| path.ends_with(COPYING_SUFFIX)) {
            self.runtime.block_on(self.client.delete(path, true))?;
        }
        for (worker, known) in workers.iter().zip(&self.expectations) {
            let mut history = HistoryWriter::open(&worker.history())?;
            for (number, doubtful) in known.doubtful_paths().into_iter().enumerate() {
                history.write(&Record::Settled { path: doubtful.clone(), node: None })?;
                let below = self.namespace.iter().filter(|(path, _)| {
                    let rest = path.strip_prefix(&doubtful);
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                });
                for (index, (path, found)) in below.enumerate() {
                    let node = match found {
                        Found::Directory => SettledNode::Directory,
                        Found::File(file) => {
                            let copy = worker
                                .run_dir
                                .join(format!("settled-{}-{round}-{number}-{index}", worker.number));
                            std::fs::write(&copy, &file.content)?;
                            SettledNode::File { content: copy, replication: file.replication }
                        }
                    };
                    history.write(&Record::Settled { path: path.clone(), node: Some(node) })?;
                }
            }
            history.write(&Record::Quiet)?;
        }
        Ok(())
    }
}

/// A client for the checks, which has the patience of one.
pub async fn connect(namenode: &str) -> Result<DfsClient> {
    let retry = RetryPolicy { deadline: SETTLED_WITHIN, ..RetryPolicy::default() };
    let builder = DfsClient::builder().namenode(namenode).retry(retry).connect_deadline(SETTLED_WITHIN);
    builder.connect().await.context("the namenode")
}

/// Waits until all datanodes live and changes are taken.
pub async fn all_alive(client: &DfsClient, datanodes: usize) -> Result<()> {
    wait_until("all datanodes live and changes are taken", SETTLED_WITHIN, async || {
        let stats = client.stats().await?;
        let takes_changes = !stats.safe_mode && !stats.disk_full;
        Ok(takes_changes && stats.live_datanodes as usize == datanodes && stats.stale_datanodes == 0)
    })
    .await
}

/// Has the files of writers that are gone closed.
async fn close_files(client: &DfsClient, events: &Events) -> Result<()> {
    for status in files(client, "/").await? {
        if !status.under_construction {
            continue;
        }
        events.note(format_args!("recovering {}, which was open", status.path));
        let what = format!("{} is closed", status.path);
        wait_until(&what, SETTLED_WITHIN, async || Ok(client.recover_lease(&status.path).await?)).await?;
    }
    let open = files(client, "/").await?.into_iter().find(|status| status.under_construction);
    ensure!(open.is_none(), "still open: {open:?}");
    Ok(())
}
