//! Replicas that the namenode wants verified, because another replica of their block is bad.
//!
//! One thread, which ends with the datanode. A block is queued once however often it is asked for.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use dfs_proto::BlockId;

use crate::dataset::Dataset;
use crate::dataset::verify::Verifier;
use crate::error::DatanodeError;
use crate::replica::BlockRef;
use crate::sync::lock;

/// Replicas waiting at most; the namenode asks again for those that do not fit.
const WAITING_MAX: usize = 16_384;

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<BlockRef>,
    ids: BTreeSet<BlockId>,
    stopped: bool,
}

/// The queue and its thread.
#[derive(Debug)]
pub struct Verifications {
    queue: Arc<(Mutex<Queue>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Verifications {
    /// Starts the thread.
    pub fn start(dataset: &Arc<Dataset>) -> Result<Self, DatanodeError> {
        let queue = Arc::new((Mutex::new(Queue::default()), Condvar::new()));
        let (shared, dataset) = (Arc::clone(&queue), Arc::clone(dataset));
        let thread = thread::Builder::new()
            .name("verify".into())
            .spawn(move || run(&shared, &dataset))
            .map_err(DatanodeError::Thread)?;
        Ok(Self { queue, thread: Mutex::new(Some(thread)) })
    }

    /// Orders verifications. Answers how many did not fit.
    pub fn order(&self, blocks: impl Iterator<Item = BlockRef>) -> usize {
        let mut queue = lock(&self.queue.0);
        let mut dropped = 0;
        for block in blocks {
            if queue.waiting.len() >= WAITING_MAX {
                dropped += 1;
            } else if queue.ids.insert(block.id) {
                queue.waiting.push_back(block);
            }
        }
        self.queue.1.notify_one();
        dropped
    }

    /// Lets the thread end.
    pub fn close(&self) {
        lock(&self.queue.0).stopped = true;
        self.queue.1.notify_all();
    }

    /// Closes and waits for the thread.
    pub fn stop(&self) {
        self.close();
        let thread = lock(&self.thread).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("thread of verifications panicked");
        }
    }
}

fn run(shared: &(Mutex<Queue>, Condvar), dataset: &Dataset) {
    let mut verifier = Verifier::default();
    while let Some(block) = next(shared) {
        dataset.verify_for_namenode(&mut verifier, block, &mut |_| !lock(&shared.0).stopped);
    }
}

fn next((queue, changed): &(Mutex<Queue>, Condvar)) -> Option<BlockRef> {
    let mut queue = lock(queue);
    loop {
        if queue.stopped {
            return None;
        }
        if let Some(block) = queue.waiting.pop_front() {
            queue.ids.remove(&block.id);
            return Some(block);
        }
        queue = changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}
