//! SIGINT and SIGTERM while files are being copied.
//!
//! The first signal asks everybody to stop and clean up; the second ends the process at once.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::exit;

/// After a signal, calls that make names are given this long to end, so that what they made can be
/// removed.
const GRACE: Duration = Duration::from_secs(2);

/// Tells whether a signal came.
#[derive(Clone, Debug)]
pub struct Interrupt {
    happened: watch::Receiver<bool>,
}

impl Interrupt {
    /// Begins to listen. Call it on a runtime.
    pub fn listen() -> io::Result<Self> {
        let mut int = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        let (sender, happened) = watch::channel(false);
        tokio::spawn(async move {
            either(&mut int, &mut term).await;
            exit::message(format_args!("Interrupted: removing what is not finished"));
            // Nobody listens any more when the copy has just ended.
            let _ = sender.send(true);
            either(&mut int, &mut term).await;
            std::process::exit(i32::from(exit::FAILED));
        });
        Ok(Self { happened })
    }

    /// Whether a signal came.
    pub fn happened(&self) -> bool {
        *self.happened.borrow()
    }

    /// Waits for a signal.
    pub async fn wait(&self) {
        let mut happened = self.happened.clone();
        if happened.wait_for(|happened| *happened).await.is_err() {
            // The listener ends only with the runtime.
            std::future::pending::<()>().await;
        }
    }

    /// Waits for a signal and [`GRACE`] more.
    pub async fn wait_with_grace(&self) {
        self.wait().await;
        tokio::time::sleep(GRACE).await;
    }
}

async fn either(int: &mut Signal, term: &mut Signal) {
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}
