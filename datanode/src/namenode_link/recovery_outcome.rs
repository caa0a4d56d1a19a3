//! Tells the namenode how a block recovery ended. Who closes, cuts or takes over the file waits for that.

use std::time::{Duration, Instant};

use dfs_proto::ErrorKind;
use dfs_proto::v1::{CommitBlockSynchronizationRequest, RecoverBlockCommand};

use super::NamenodeLink;
use crate::error::DatanodeError;

/// How long an outcome is told again to a namenode that is away: it takes some seconds to restart, and later it has the recovery
/// begun anew anyway.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// Tells how it ended.
pub(super) async fn tell(
    link: &NamenodeLink,
    outcome: CommitBlockSynchronizationRequest,
) -> Result<(), DatanodeError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = link.client().commit_block_synchronization(outcome.clone()).await;
        let Err(error) = answer.map_err(|status| link.failed(&status)) else { return Ok(()) };
        // A connection that breaks off is an internal error.
        let away = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Internal);
        if !away || Instant::now() >= deadline {
            return Err(error);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tells that it could not be made, so that it is begun anew before it is overdue.
pub(super) async fn tell_failed(link: &NamenodeLink, order: &RecoverBlockCommand) {
    let outcome = CommitBlockSynchronizationRequest {
        block: order.block,
        new_generation_stamp: order.new_generation_stamp,
        failed: true,
        ..Default::default()
    };
    if let Err(error) = tell(link, outcome).await {
        tracing::info!(%error, "the namenode does not know that a block recovery failed");
    }
}
