//! How requests are answered.
//!
//! Event loop threads never wait. An operation is started on the thread that took the request and runs there as far as it gets
//! without waiting, which saves a change of threads when caches or buffers can answer, and sends a question to the cluster
//! without one. What has to wait goes on as a task of the runtime, which answers the kernel.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use fuser::Errno;

use crate::caller::Who;
use crate::errno::Refusal;
use crate::mount::Mount;
use crate::wait::unless_interrupted;

/// A reply that can say what went wrong.
pub trait Fail: Send + 'static {
    /// Answers with an error.
    fn fail(self, errno: Errno);
}

macro_rules! replies {
    ($($reply:ident),*) => {
        $(impl Fail for fuser::$reply {
            fn fail(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

replies!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLock,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

/// Answers with the outcome of an operation.
fn settle<R: Fail, T>(reply: R, outcome: Result<T, Refusal>, give: impl FnOnce(R, T)) {
    match outcome {
        Ok(value) => give(reply, value),
        Err(refusal) => {
            if refusal.is_noteworthy() {
                tracing::warn!(error = %refusal, "an operation failed");
            }
            reply.fail(refusal.errno());
        }
    }
}

/// An operation.
type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How far an operation came on the thread that began it.
enum Begun<T> {
    /// To its end.
    Done(T),
    /// It waits, and is to go on elsewhere.
    Waits(Work<T>),
    /// It panicked, and is gone.
    Panicked,
}

/// Begins `work` on the calling thread, which must have entered the runtime. A panic must not end the event loop, and with it
/// the mount.
fn begin<T>(mut work: Work<T>) -> Begun<T> {
    let mut context = Context::from_waker(Waker::noop());
    match std::panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut context))) {
        Ok(Poll::Ready(value)) => Begun::Done(value),
        Ok(Poll::Pending) => Begun::Waits(work),
        Err(_) => {
            tracing::error!("an operation panicked");
            Begun::Panicked
        }
    }
}

impl Mount {
    /// Does `work` and answers with what it gives. A signal for the asking thread ends it if it takes long.
    pub fn answer<R: Fail, T: Send + 'static>(
        self: &Arc<Self>,
        who: Who,
        reply: R,
        work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
        give: impl FnOnce(R, T) + Send + 'static,
    ) {
        let _runtime = self.runtime.enter();
        match begin(Box::pin(work)) {
            Begun::Done(outcome) => settle(reply, outcome, give),
            Begun::Waits(work) => {
                self.runtime.spawn(async move {
                    let outcome = unless_interrupted(who.pid, work).await;
                    settle(reply, outcome.unwrap_or(Err(Refusal::Interrupted)), give);
                });
            }
            // The reply is dropped, which answers EIO.
            Begun::Panicked => {}
        }
    }

    /// Does work that nobody waits for but a clean unmount.
    pub fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let running = self.background.begin();
        let work: Work<()> = Box::pin(async move {
            work.await;
            drop(running);
        });
        let _runtime = self.runtime.enter();
        if let Begun::Waits(work) = begin(work) {
            self.runtime.spawn(work);
        }
    }

    /// Answers with an error.
    pub fn refuse<R: Fail>(reply: R, refusal: &Refusal) {
        reply.fail(refusal.errno());
    }
}
