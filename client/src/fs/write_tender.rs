//! Looks after files while something of them is on its way: writes back what lies idle, and all when memory is short.
//!
//! One background task a session. A file comes to it with its first write and stays until nothing of it is on its way any more, which
//! is looked at every [`TEND_INTERVAL`]: what waits here are the files written in that time, each once.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::file_system::FsInner;
use super::open_file::FileCore;

/// Time without a write after which everything is written back.
const IDLE_WRITE_BACK: Duration = Duration::from_secs(1);

/// How often that is looked at.
const TEND_INTERVAL: Duration = Duration::from_millis(250);

/// The same while the session's memory is used up.
const TEND_INTERVAL_PRESSED: Duration = Duration::from_millis(20);

/// The files.
#[derive(Default)]
pub(super) struct Tender {
    files: Mutex<Vec<Arc<FileCore>>>,
    first: Notify,
}

impl Tender {
    /// Looks after a file from now on.
    pub(super) fn add(&self, file: Arc<FileCore>) {
        let first = {
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            files.push(file);
            files.len() == 1
        };
        if first {
            self.first.notify_one();
        }
    }

    /// Lets all files go.
    pub(super) fn clear(&self) {
        drop(self.take());
    }

    fn take(&self) -> Vec<Arc<FileCore>> {
        std::mem::take(&mut *self.files.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put_back(&self, busy: Vec<Arc<FileCore>>) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).extend(busy);
    }

    fn is_empty(&self) -> bool {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// Looks after files until the session ends.
pub(super) async fn tend(fs: Weak<FsInner>, tender: Arc<Tender>) {
    loop {
        while tender.is_empty() {
            tender.first.notified().await;
        }
        // Files hold the session: it is there as long as one is looked after.
        let Some(fs) = fs.upgrade() else { return };
        let pressed = tokio::select! {
            () = sleep(TEND_INTERVAL) => false,
            () = fs.budget.wait_until_pressed() => true,
        };
        let mut files = tender.take();
        files.retain(|file| file.tend(pressed));
        tender.put_back(files);
        if pressed {
            sleep(TEND_INTERVAL_PRESSED).await;
        }
    }
}

impl FileCore {
    /// Writes back what lies idle. False if nothing is on its way any more.
    fn tend(self: &Arc<Self>, pressed: bool) -> bool {
        // While the size is being set, that has its turn first.
        let Ok(_shape) = self.shape.try_read() else { return true };
        let mut state = self.state();
        if !state.write.dirty.is_empty() && (pressed || state.quiet_for(IDLE_WRITE_BACK)) {
            self.write_back_all(&mut state, false);
        }
        state.tended = !state.write.is_idle();
        state.tended
    }
}
