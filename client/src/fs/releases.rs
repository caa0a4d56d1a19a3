//! Reports of files that the session has open no longer.
//!
//! A background task of the session. Released files matter to the namenode only when they are unlinked, so reports are
//! gathered for a while.

use std::sync::Weak;
use std::time::Duration;

use dfs_proto::v1;

use super::file_system::FsInner;

/// Longest time that a released file is not reported: how much later the space of an unlinked file is freed.
const REPORT_DELAY: Duration = Duration::from_millis(500);

/// Reports until the session ends.
pub(super) async fn report_releases(fs: Weak<FsInner>) {
    loop {
        // The session must be able to end while this waits.
        let Some(waiting) = fs.upgrade().map(|fs| fs.released_soon()) else { return };
        waiting.await;
        let Some(fs) = fs.upgrade() else { return };
        fs.report_released().await;
    }
}

impl FsInner {
    /// Waits until there are files to report and some time has passed, or enough files have come together.
    fn released_soon(&self) -> impl Future<Output = ()> + use<> {
        let files = std::sync::Arc::clone(&self.files);
        async move {
            files.released.notified().await;
            tokio::select! {
                () = tokio::time::sleep(REPORT_DELAY) => {}
                () = files.batch_full.notified() => {}
            }
        }
    }

    /// Reports everything that is released.
    async fn report_released(&self) {
        // A file that was made and released is to be heard of in this order.
        if self.all_settled().await.is_err() {
            return;
        }
        while let Some(report) = self.files.take_released() {
            // The namenode drops what was not unlocked.
            self.locks.lock().drop_files(&report.inodes);
            let request = v1::ReleaseFilesRequest {
                context: self.own_context(),
                session: self.session().to_owned(),
                inodes: report.inodes.clone(),
            };
            let send = self
                .client
                .namenode
                .call_files("", request, |mut s, r| async move { s.release_files(r).await });
            if let Err(error) = send.await {
                // They are freed when the session ends, or when it registers again what it has open.
                tracing::warn!(files = report.inodes.len(), %error, "released files could not be reported");
            }
        }
    }
}
