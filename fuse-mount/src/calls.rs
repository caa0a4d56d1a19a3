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

impl Mount {
    /// Does `work` and answers with what it gives. A signal for the asking thread ends it if it takes long.
    pub fn answer<R: Fail, T: Send + 'static>(
        self: &Arc<Self>,
        who: Who,
        reply: R,
        work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
        give: impl FnOnce(R, T) + Send + 'static,
    ) {
        let mut work: Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send>> = Box::pin(work);
        let _runtime = self.runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        // A panic must not end the event loop, and with it the mount; dropped replies are answered with EIO.
        let first = std::panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut context)));
        match first {
            Ok(Poll::Ready(outcome)) => settle(reply, outcome, give),
            Ok(Poll::Pending) => {
                self.runtime.spawn(async move {
                    let outcome = unless_interrupted(who.pid, work).await;
                    settle(reply, outcome.unwrap_or(Err(Refusal::Interrupted)), give);
                });
            }
            Err(_) => tracing::error!("an operation panicked"),
        }
    }

    /// Answers with an error.
    pub fn refuse<R: Fail>(reply: R, refusal: &Refusal) {
        reply.fail(refusal.errno());
    }
}
