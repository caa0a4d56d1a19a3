//! Incremental and full block reports, one call at a time.
//!
//! The order matters: a change that is made while a full report is under way is sent after it, so the last
//! word about a replica is always the newest.

use std::time::Duration;

use dfs_proto::ErrorKind;
use dfs_proto::v1::{BlockReceivedAndDeletedRequest, BlockReportSlice, ReportBadReplicasRequest};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;

use super::{BACKOFF_FIRST, NamenodeLink, Registration, longer};
use crate::dataset::{ReportedReplica, report_state};
use crate::error::DatanodeError;

/// Replicas in one slice of a full report: about 250 KiB.
const SLICE_REPLICAS: usize = 10_000;

/// Slices that wait for the network.
const SLICES_IN_FLIGHT: usize = 2;

/// Changes in one call: about 1 MiB.
const MAX_CHANGES_A_CALL: usize = 10_000;

/// Longest time for one storage's full report; millions of replicas take seconds.
const FULL_REPORT_TIMEOUT: Duration = Duration::from_secs(300);

/// Time between two looks whether a replica is still being moved: it takes two syncs.
const MOVE_POLL: Duration = Duration::from_millis(1);

/// Sends reports for as long as it is polled.
pub async fn run(link: NamenodeLink) {
    let mut registration = link.registration();
    let mut pause = BACKOFF_FIRST;
    loop {
        if registration.wait_for(|r| matches!(r, Registration::Done(_))).await.is_err() {
            return;
        }
        match link.changes.due() {
            None => {
                link.changes.woken().await;
                continue;
            }
            Some(due) if due > std::time::Instant::now() => {
                tokio::select! {
                    () = sleep_until(Instant::from_std(due)) => {}
                    () = link.changes.woken() => {}
                }
                continue;
            }
            Some(_) => {}
        }
        if link.changes.take_registration() {
            link.want_registration();
            continue;
        }
        match send_due(&link).await {
            Ok(()) => pause = BACKOFF_FIRST,
            Err(DatanodeError::Rpc { error, .. }) if error.kind == ErrorKind::NotRegistered => {
                link.want_registration();
            }
            Err(error) => {
                tracing::debug!(%error, "report failed");
                sleep(pause).await;
                pause = longer(pause);
            }
        }
    }
}

async fn send_due(link: &NamenodeLink) -> Result<(), DatanodeError> {
    send_bad(link).await?;
    send_changes(link).await?;
    if link.changes.take_full_report()
        && let Err(error) = send_full_at_rest(link).await
    {
        link.changes.want_full_report();
        return Err(error);
    }
    Ok(())
}

/// A full report while no replica moves between volumes, and after the namenode has heard of all that did.
async fn send_full_at_rest(link: &NamenodeLink) -> Result<(), DatanodeError> {
    let gate = link.shared.dataset.move_gate();
    let _pause = gate.pause();
    while !gate.is_still() {
        sleep(MOVE_POLL).await;
    }
    send_changes(link).await?;
    send_full(link).await
}

async fn send_changes(link: &NamenodeLink) -> Result<(), DatanodeError> {
    loop {
        let changes = link.changes.take(MAX_CHANGES_A_CALL);
        if changes.is_empty() {
            return Ok(());
        }
        let request = BlockReceivedAndDeletedRequest { uuid: link.shared.dataset.uuid().to_owned(), changes };
        // The request is needed again if the call fails; it is bounded, and failures are rare.
        if let Err(status) = link.client().block_received_and_deleted(request.clone()).await {
            link.changes.put_back(request.changes);
            return Err(link.failed(&status));
        }
    }
}

async fn send_bad(link: &NamenodeLink) -> Result<(), DatanodeError> {
    let (replicas, verified) = link.changes.take_bad();
    if replicas.is_empty() && verified.is_empty() {
        return Ok(());
    }
    let uuid = link.shared.dataset.uuid().to_owned();
    let request = ReportBadReplicasRequest { uuid, replicas, verified };
    // What was verified and cannot be told is asked for again.
    if let Err(status) = link.client().report_bad_replicas(request.clone()).await {
        link.changes.put_back_bad(request.replicas);
        return Err(link.failed(&status));
    }
    Ok(())
}

async fn send_full(link: &NamenodeLink) -> Result<(), DatanodeError> {
    let report_id = u64::from_ne_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().unwrap_or(&[0; 8]));
    let dataset = &link.shared.dataset;
    let volumes: Vec<_> = dataset.volumes().iter().filter(|v| !v.is_failed()).cloned().collect();
    for volume in volumes {
        let (slices, stream) = mpsc::channel(SLICES_IN_FLIGHT);
        let producer = async {
            let mut after = None;
            loop {
                let (found, last) = dataset.report_slice(after, SLICE_REPLICAS);
                let here: Vec<_> = found.iter().filter(|r| r.volume == volume.index()).collect();
                let slice = BlockReportSlice {
                    uuid: dataset.uuid().to_owned(),
                    storage_id: volume.storage_id().to_owned(),
                    report_id,
                    last: last.is_none(),
                    ..columns(&here)
                };
                let is_last = slice.last;
                after = last;
                // A slice of another volume's replicas only says nothing. A closed stream has its
                // reason in the call's outcome.
                if (is_last || !slice.block_ids.is_empty()) && slices.send(slice).await.is_err() {
                    return;
                }
                if is_last {
                    drop(slices);
                    return;
                }
            }
        };
        let mut client = link.client();
        let mut request = tonic::Request::new(ReceiverStream::new(stream));
        request.set_timeout(FULL_REPORT_TIMEOUT);
        let (answer, ()) = tokio::join!(client.block_report(request), producer);
        answer.map_err(|s| link.failed(&s))?;
    }
    tracing::debug!(report_id, replicas = dataset.replica_count(), "full block report sent");
    Ok(())
}

fn columns(replicas: &[&ReportedReplica]) -> BlockReportSlice {
    BlockReportSlice {
        block_ids: replicas.iter().map(|r| r.block.id.get()).collect(),
        generation_stamps: replicas.iter().map(|r| r.block.stamp.get()).collect(),
        lengths: replicas.iter().map(|r| r.length).collect(),
        states: replicas.iter().map(|r| report_state(r).into()).collect(),
        ..Default::default()
    }
}
