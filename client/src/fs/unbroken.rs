//! Calls whose answer must be heard.
//!
//! Some calls take something for the session (a lease, a lock) that only their answer tells of. When the caller of such
//! a call gives it up, the call itself goes on in the background, and what it took is given back. Cancelling it and
//! undoing it with a second call would not do: the second may overtake the first at the namenode.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use super::file_system::FsInner;

/// Makes `call`. If this future is dropped before the answer, `undo` gets it later.
pub(super) async fn unbroken<T, U>(
    fs: &Arc<FsInner>,
    call: impl Future<Output = T> + Send + 'static,
    undo: impl FnOnce(T) -> U + Send + 'static,
) -> T
where
    T: Send + 'static,
    U: Future<Output = ()> + Send + 'static,
{
    let mut pending = Pending { fs: Arc::clone(fs), call: Some((Box::pin(call), undo)) };
    let answer = poll_fn(|context| match &mut pending.call {
        Some((call, _)) => call.as_mut().poll(context),
        None => Poll::Pending,
    })
    .await;
    pending.call = None;
    answer
}

/// A call under way and what undoes it.
struct Pending<T, F, U>
where
    T: Send + 'static,
    F: FnOnce(T) -> U + Send + 'static,
    U: Future<Output = ()> + Send + 'static,
{
    fs: Arc<FsInner>,
    call: Option<(Call<T>, F)>,
}

type Call<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<T, F, U> Drop for Pending<T, F, U>
where
    T: Send + 'static,
    F: FnOnce(T) -> U + Send + 'static,
    U: Future<Output = ()> + Send + 'static,
{
    fn drop(&mut self) {
        if let Some((call, undo)) = self.call.take() {
            self.fs.spawn(async move { undo(call.await).await });
        }
    }
}
