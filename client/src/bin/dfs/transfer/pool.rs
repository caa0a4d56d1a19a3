//! Runs jobs that arrive over a bounded queue, a fixed number at once.

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

/// Jobs found but not begun: enough to keep all workers busy while a directory is being read.
pub const QUEUE_JOBS: usize = 256;

/// Calls `work` for every job until the queue is closed and empty; `limit` run at once.
pub async fn run<J, F, W>(mut jobs: mpsc::Receiver<J>, limit: usize, work: W)
where
    W: Fn(J) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut running = JoinSet::new();
    while let Some(job) = jobs.recv().await {
        if running.len() >= limit
            && let Some(ended) = running.join_next().await
        {
            pass_on_panic(ended);
        }
        running.spawn(work(job));
    }
    while let Some(ended) = running.join_next().await {
        pass_on_panic(ended);
    }
}

fn pass_on_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn every_job_runs_and_never_too_many_at_once() {
        let (sender, receiver) = mpsc::channel(2);
        tokio::spawn(async move {
            for job in 0..100 {
                if sender.send(job).await.is_err() {
                    break;
                }
            }
        });
        let running = Arc::new(AtomicUsize::new(0));
        let done = Arc::new(AtomicUsize::new(0));
        run(receiver, 4, |_: i32| {
            let (running, done) = (Arc::clone(&running), Arc::clone(&done));
            async move {
                assert!(running.fetch_add(1, Ordering::SeqCst) < 4);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
            }
        })
        .await;
        assert_eq!(done.load(Ordering::SeqCst), 100);
    }
}
