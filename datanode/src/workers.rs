//! Named threads for blocking work that async code or another thread orders: deletions, copies, disk work
//! of gRPC calls. A full queue refuses; it never blocks the caller.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

use crate::error::DatanodeError;
use crate::sync::lock;

type Job = Box<dyn FnOnce() + Send>;

/// A few threads and their queue.
#[derive(Debug)]
pub struct Workers {
    queue: Mutex<Option<SyncSender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    closed: Arc<AtomicBool>,
}

impl Workers {
    /// Starts `count` threads, named `name`-0 and so on, with room for `depth` jobs.
    pub fn start(name: &str, count: usize, depth: usize) -> Result<Self, DatanodeError> {
        let (queue, jobs) = sync_channel(depth);
        let jobs = Arc::new(Mutex::new(jobs));
        let closed = Arc::new(AtomicBool::new(false));
        let threads = (0..count)
            .map(|i| {
                let (jobs, closed) = (Arc::clone(&jobs), Arc::clone(&closed));
                thread::Builder::new().name(format!("{name}-{i}")).spawn(move || run(&jobs, &closed))
            })
            .collect::<Result<_, _>>()
            .map_err(DatanodeError::Thread)?;
        Ok(Self { queue: Mutex::new(Some(queue)), threads: Mutex::new(threads), closed })
    }

    /// Orders a job. Returns whether it was taken.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> bool {
        lock(&self.queue).as_ref().is_some_and(|q| q.try_send(Box::new(job)).is_ok())
    }

    /// Runs a job and waits for its result.
    pub async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, DatanodeError> + Send + 'static,
    ) -> Result<T, DatanodeError> {
        let (reply, answer) = oneshot::channel();
        let taken = self.submit(move || {
            // A caller that went away does not want the result.
            let _ = reply.send(job());
        });
        if !taken {
            return Err(DatanodeError::Stopping);
        }
        answer.await.unwrap_or(Err(DatanodeError::Stopping))
    }

    /// Takes no more jobs and lets the threads end after the job they are at. Jobs that wait are dropped: a datanode that
    /// stops shall not first copy or delete for minutes, and who ordered them orders them again.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        lock(&self.queue).take();
    }

    /// Closes and waits for the threads.
    pub fn stop(&self) {
        self.close();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            if thread.join().is_err() {
                tracing::error!("worker thread panicked");
            }
        }
    }
}

fn run(jobs: &Mutex<Receiver<Job>>, closed: &AtomicBool) {
    loop {
        let next = lock(jobs).recv();
        match next {
            Ok(job) if !closed.load(Ordering::Relaxed) => job(),
            Ok(dropped) => drop(dropped),
            Err(_) => return,
        }
    }
}
