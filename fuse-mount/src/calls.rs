//! How requests are answered.
//!
//! An operation is done on the thread that took the request, if it ends there soon ([`EventLoops`]): an answer of the cluster
//! then wakes one thread, which answers the kernel. What takes long, or comes when too many wait already, goes on as a task of
//! the runtime, where a signal for the asking process ends it.

use std::sync::Arc;

use fuser::Errno;

use crate::caller::Who;
use crate::errno::Refusal;
use crate::event_loops::{EventLoops, Outcome, Work};
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
        let work: Work<Result<T, Refusal>> = Box::pin(work);
        let _runtime = self.runtime.enter();
        match self.event_loops.run(work) {
            Outcome::Done(outcome) => settle(reply, outcome, give),
            Outcome::Waits(work) => {
                self.runtime.spawn(async move {
                    let outcome = unless_interrupted(who.pid, work).await;
                    settle(reply, outcome.unwrap_or(Err(Refusal::Interrupted)), give);
                });
            }
            // The reply is dropped, which answers EIO.
            Outcome::Panicked => {}
        }
    }

    /// Does work that nobody waits for; a clean unmount does.
    pub fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let running = self.background.begin();
        let work: Work<()> = Box::pin(async move {
            work.await;
            drop(running);
        });
        let _runtime = self.runtime.enter();
        if let Outcome::Waits(work) = EventLoops::begin(work) {
            self.runtime.spawn(work);
        }
    }

    /// Answers with an error.
    pub fn refuse<R: Fail>(reply: R, refusal: &Refusal) {
        reply.fail(refusal.errno());
    }
}
