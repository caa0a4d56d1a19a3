//! Waiting on the threads that take the kernel's requests.
//!
//! An operation that waits for the cluster is waited for on the thread that took its request: nothing but the answer has to wake
//! a thread then, while a task of the runtime costs a hand-over there, a wake-up of a worker, and often the theft
//! of the task by another. A thread that waits takes no requests, so that this is allowed for a short time, and only while others do.
//!
//! Invariant: [`LEAST_READING`] threads never wait. Operations that need the mount to be served (the kernel asks for something before it
//! answers) are therefore done in the end.

use std::cell::LazyCell;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use dfs_client::fs::{may_wait, must_not_wait};

/// Longest time that a thread waits for one operation: some times what a call to the namenode or a small file's way through the
/// pipeline takes on a busy machine. Whatever takes longer does not feel the change of threads.
const PATIENCE: Duration = Duration::from_millis(10);
/// Threads that do not wait.
const LEAST_READING: usize = 1;

/// The threads that take requests.
#[derive(Debug)]
pub struct EventLoops {
    /// Those that do not wait.
    free: AtomicUsize,
}

/// How far an operation came on the thread that began it.
pub enum Outcome<T> {
    /// To its end.
    Done(T),
    /// It waits for something, and is to go on elsewhere.
    Waits(Work<T>),
    /// It panicked, and is gone.
    Panicked,
}

/// An operation.
pub type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl EventLoops {
    /// `threads` of them.
    pub fn new(threads: usize) -> Self {
        Self { free: AtomicUsize::new(threads) }
    }

    /// Does `work` on the calling thread, which is one of the loops', as far as it may wait. The thread must have entered the runtime.
    pub fn run<T>(&self, mut work: Work<T>) -> Outcome<T> {
        let waking = WAKING.with(|waking| Arc::clone(waking));
        let waker = Waker::from(Arc::clone(&waking));
        let mut context = Context::from_waker(&waker);
        waking.woken.store(false, Ordering::Relaxed);
        let Some(_staying) = self.stay() else {
            return poll(&mut work, &mut context).unwrap_or(Outcome::Waits(work));
        };
        let until = Instant::now() + PATIENCE;
        // A call to the namenode is best waited for where its answer arrives.
        let mut poll = || may_wait(until, || poll(&mut work, &mut context));
        if let Some(outcome) = poll() {
            return outcome;
        }
        loop {
            if waking.woken.swap(false, Ordering::Acquire) {
                if let Some(outcome) = poll() {
                    return outcome;
                }
            } else {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Outcome::Waits(work);
                }
                std::thread::park_timeout(left);
            }
        }
    }

    /// Begins `work` on the calling thread, which does not wait for it.
    pub fn begin<T>(mut work: Work<T>) -> Outcome<T> {
        let ended = must_not_wait(|| poll(&mut work, &mut Context::from_waker(Waker::noop())));
        ended.unwrap_or(Outcome::Waits(work))
    }

    /// Leave for the calling thread to wait.
    fn stay(&self) -> Option<Staying<'_>> {
        let others = |free: usize| free.checked_sub(1).filter(|left| *left >= LEAST_READING);
        self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, others).ok()?;
        Some(Staying(self))
    }
}

/// Polls once; `None` if the work goes on. A panic must not end the event loop, and with it the mount.
fn poll<T>(work: &mut Work<T>, context: &mut Context<'_>) -> Option<Outcome<T>> {
    match std::panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(Poll::Ready(value)) => Some(Outcome::Done(value)),
        Ok(Poll::Pending) => None,
        Err(_) => {
            tracing::error!("an operation panicked");
            Some(Outcome::Panicked)
        }
    }
}

/// A thread that waits.
struct Staying<'l>(&'l EventLoops);

impl Drop for Staying<'_> {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::AcqRel);
    }
}

/// Wakes a thread that waits for an operation.
struct Waking {
    thread: Thread,
    /// Since the operation was last polled. What an earlier operation of the thread left behind costs a poll.
    woken: AtomicBool,
}

impl Wake for Waking {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}

thread_local! {
    static WAKING: LazyCell<Arc<Waking>> =
        LazyCell::new(|| Arc::new(Waking { thread: std::thread::current(), woken: AtomicBool::new(false) }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done<T>(outcome: Outcome<T>) -> Option<T> {
        match outcome {
            Outcome::Done(value) => Some(value),
            Outcome::Waits(_) | Outcome::Panicked => None,
        }
    }

    /// Ready once another thread has said so.
    fn told_by_another_thread() -> Work<u8> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let mut tell = Some(tell);
        let mut told = Box::pin(told);
        Box::pin(std::future::poll_fn(move |context| {
            let polled = told.as_mut().poll(context).map(|told| told.expect("told"));
            if let Some(tell) = tell.take() {
                std::thread::spawn(move || tell.send(7));
            }
            polled
        }))
    }

    #[test]
    fn short_waits_end_on_the_same_thread() {
        let loops = EventLoops::new(2);
        // A busy machine may take longer than a thread waits.
        let waited = (0..1_000).find_map(|_| done(loops.run(told_by_another_thread())));
        assert_eq!(waited, Some(7));
        assert_eq!(loops.free.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn long_waits_go_on_elsewhere() {
        let loops = EventLoops::new(2);
        let work: Work<()> = Box::pin(std::future::pending());
        let began = Instant::now();
        assert!(matches!(loops.run(work), Outcome::Waits(_)));
        assert!(began.elapsed() >= PATIENCE);
        assert_eq!(loops.free.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_last_free_thread_does_not_wait() {
        let loops = EventLoops::new(2);
        let waits = loops.stay().expect("another is free");
        assert!(loops.stay().is_none());
        let (began, never): (_, Work<()>) = (Instant::now(), Box::pin(std::future::pending()));
        assert!(matches!(loops.run(never), Outcome::Waits(_)));
        assert!(began.elapsed() < Duration::from_secs(5), "only begun");
        assert_eq!(done(loops.run(Box::pin(async { 3 }))), Some(3), "what does not wait is done");
        drop(waits);
        assert!(loops.stay().is_some());
    }

    #[test]
    fn a_panic_ends_the_operation_only() {
        let loops = EventLoops::new(2);
        let work: Work<()> = Box::pin(async { panic!("on purpose") });
        assert!(matches!(loops.run(work), Outcome::Panicked));
        let later: Work<()> = Box::pin(async {
            tokio::task::yield_now().await;
            panic!("on purpose")
        });
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let _entered = runtime.enter();
        assert!(!matches!(loops.run(later), Outcome::Done(())));
        assert_eq!(loops.free.load(Ordering::Relaxed), 2);
    }
}
