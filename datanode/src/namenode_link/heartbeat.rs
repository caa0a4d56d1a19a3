//! Registration and heartbeats.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dfs_proto::v1::{HeartbeatRequest, NamespaceInfoRequest, RegisterRequest, StorageReport};
use dfs_proto::{DATANODE_PROTOCOL_VERSION, ErrorKind};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{BACKOFF_FIRST, NamenodeLink, Registration, longer};
use crate::dataset::Identity;
use crate::error::DatanodeError;

/// Bounds of the interval that the namenode asks for.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
/// See [`SHORTEST_INTERVAL`].
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);

/// Longest wait for the file systems' figures.
const STORAGE_TIMEOUT: Duration = Duration::from_secs(1);

/// What the namenode asks for.
#[derive(Clone, Copy, Debug)]
struct Intervals {
    heartbeat: Duration,
    full_report: Duration,
}

/// Registers and sends heartbeats until the namenode refuses this datanode for good.
pub async fn run(link: NamenodeLink) -> DatanodeError {
    let mut registrations = 0;
    loop {
        let intervals = match register(&link).await {
            Ok(intervals) => intervals,
            Err(error) => {
                link.registration.send_replace(Registration::Refused);
                return error;
            }
        };
        registrations += 1;
        link.copies.clear();
        link.shared.dataset.repeat_bad();
        link.changes.want_full_report();
        link.registration.send_replace(Registration::Done(registrations));
        beat(&link, intervals).await;
    }
}

/// Tries until it succeeds or makes no sense.
async fn register(link: &NamenodeLink) -> Result<Intervals, DatanodeError> {
    let mut pause = BACKOFF_FIRST;
    let mut complained = false;
    loop {
        match try_register(link).await {
            Ok(intervals) => return Ok(intervals),
            Err(error) if is_final(&error) => {
                tracing::error!(%error, "the namenode and this datanode do not belong together");
                return Err(error);
            }
            Err(error) => {
                if complained {
                    tracing::debug!(%error, "cannot register");
                } else {
                    tracing::warn!(%error, "cannot register with the namenode yet");
                    complained = true;
                }
            }
        }
        sleep(pause).await;
        pause = longer(pause);
    }
}

fn is_final(error: &DatanodeError) -> bool {
    matches!(error, DatanodeError::WrongCluster { .. } | DatanodeError::ProtocolVersion { .. })
        || matches!(error, DatanodeError::Rpc { error, .. }
            if matches!(error.kind, ErrorKind::WrongCluster | ErrorKind::VersionMismatch))
}

async fn try_register(link: &NamenodeLink) -> Result<Intervals, DatanodeError> {
    let mut client = link.client();
    let request = NamespaceInfoRequest { protocol_version: DATANODE_PROTOCOL_VERSION };
    let namespace = client.get_namespace_info(request).await.map_err(|s| link.failed(&s))?.into_inner();
    if namespace.protocol_version != DATANODE_PROTOCOL_VERSION {
        return Err(DatanodeError::ProtocolVersion {
            namenode: link.namenode.to_string(),
            theirs: namespace.protocol_version,
            ours: DATANODE_PROTOCOL_VERSION,
        });
    }
    let dataset = link.shared.dataset.clone();
    let known = dataset.identity().map(|i| i.cluster_id).unwrap_or_default();
    let identity =
        Identity { cluster_id: namespace.cluster_id.clone(), pool_id: namespace.block_pool_id.clone() };
    if identity.cluster_id.is_empty() || identity.pool_id.is_empty() {
        return Err(DatanodeError::Field("cluster_id"));
    }
    let adopting = dataset.clone();
    link.disk_workers.call(move || adopting.adopt_identity(&identity)).await?;
    let request = RegisterRequest {
        protocol_version: DATANODE_PROTOCOL_VERSION,
        cluster_id: if known.is_empty() { namespace.cluster_id.clone() } else { known },
        info: Some(link.info()),
        storages: storage_reports(link, Vec::new()).await,
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let answer = client.register(request).await.map_err(|s| link.failed(&s))?.into_inner();
    if let Some(info) = answer.info {
        link.info.send_replace(info);
    }
    tracing::info!(
        namenode = &*link.namenode,
        cluster_id = namespace.cluster_id,
        uuid = dataset.uuid(),
        "registered"
    );
    let heartbeat = Duration::from_millis(namespace.heartbeat_interval_ms.into());
    Ok(Intervals {
        heartbeat: heartbeat.clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL),
        full_report: Duration::from_millis(namespace.block_report_interval_ms),
    })
}

/// Sends heartbeats until the registration has to be repeated.
async fn beat(link: &NamenodeLink, intervals: Intervals) {
    let mut client = link.client();
    let mut registration = link.registration();
    let mut next = Instant::now();
    let mut next_report = Instant::now() + intervals.full_report;
    let mut failures = 0u64;
    let mut storages = Vec::new();
    let mut storages_due = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(next) => {}
            changed = registration.wait_for(|r| *r == Registration::Wanted) => {
                if changed.is_ok() {
                    return;
                }
            }
        }
        next = Instant::now() + intervals.heartbeat;
        if !intervals.full_report.is_zero() && Instant::now() >= next_report {
            next_report = Instant::now() + intervals.full_report;
            link.changes.want_full_report();
        }
        if Instant::now() >= storages_due {
            // Heartbeats that come early are for commands; disks need not be asked for each.
            storages_due = next;
            storages = storage_reports(link, storages).await;
        }
        match client.heartbeat(request(link, storages.clone())).await {
            Ok(answer) => {
                link.shared.metrics.heartbeats.increment(1);
                if failures > 0 {
                    tracing::info!(failures, "the namenode answers again");
                    failures = 0;
                }
                let answer = answer.into_inner();
                if answer.next_heartbeat_ms > 0 {
                    let soon = Duration::from_millis(answer.next_heartbeat_ms.into()).max(SHORTEST_INTERVAL);
                    next = next.min(Instant::now() + soon);
                }
                if let Some(bandwidth) = answer.balance_bandwidth {
                    link.shared.balance_pace.set_rate(bandwidth);
                }
                link.shared.repair_pace.set_limit(answer.repair_bandwidth);
                super::commands::execute_all(link, answer.commands);
            }
            Err(status) => {
                let DatanodeError::Rpc { error, .. } = link.failed(&status) else {
                    continue;
                };
                match error.kind {
                    ErrorKind::NotRegistered | ErrorKind::WrongCluster | ErrorKind::VersionMismatch => {
                        tracing::info!(%error, "registering again");
                        return;
                    }
                    _ if failures == 0 => tracing::warn!(%error, "the namenode does not answer"),
                    _ => tracing::debug!(%error, "the namenode does not answer"),
                }
                failures += 1;
            }
        }
    }
}

/// Volumes as they stand; as they stood if a disk takes too long to answer, so that one hanging disk does not
/// make the whole datanode look dead.
async fn storage_reports(link: &NamenodeLink, last: Vec<StorageReport>) -> Vec<StorageReport> {
    let dataset = Arc::clone(&link.shared.dataset);
    let reports = link.disk_workers.call(move || Ok(dataset.storage_reports()));
    match timeout(STORAGE_TIMEOUT, reports).await {
        Ok(Ok(reports)) => reports,
        Ok(Err(_)) | Err(_) => last,
    }
}

fn request(link: &NamenodeLink, storages: Vec<StorageReport>) -> HeartbeatRequest {
    let shared = &link.shared;
    let metrics = &shared.metrics;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let xceivers = count(shared.xceivers.load(Ordering::Relaxed));
    metrics.xceivers.set(f64::from(xceivers));
    metrics.replicas.set(shared.dataset.replica_count() as f64);
    metrics.used_bytes.set(storages.iter().map(|s| s.used).sum::<u64>() as f64);
    let volumes = shared.dataset.volumes();
    let scrubs: Vec<_> = volumes.iter().filter(|v| !v.is_failed()).map(|v| v.scrub().figures()).collect();
    metrics.set_scrubs(&scrubs);
    metrics.remaining_bytes.set(storages.iter().map(|s| s.remaining).sum::<u64>() as f64);
    HeartbeatRequest {
        uuid: shared.dataset.uuid().to_owned(),
        storages,
        xceivers,
        transfers_in_progress: count(shared.transfers.load(Ordering::Relaxed)),
    }
}
