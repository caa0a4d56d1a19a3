//! The threads that serve gRPC: each has a runtime of its own and serves the connections that it accepts, from the
//! first byte of a request to the last one of its answer.
//!
//! A runtime whose threads share their tasks wakes a second thread with nearly every request, to see whether there is
//! something to steal; a mount that waits for each of its calls pays for that with a third of their time. What takes
//! long runs on the runtimes' blocking threads, as ever.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use tokio::sync::{Semaphore, oneshot};
use tonic::service::Routes;

use crate::listener::{self, CONNECTIONS_MAX};

/// Threads at most: namespace changes are made by one thread at a time, and reads scale this far.
const THREADS_MAX: usize = 16;

/// Receivers that close when the threads have ended.
pub type Ended = Vec<oneshot::Receiver<()>>;

/// Serves `routes` on `listener` until `stop` ends.
pub fn spawn<S>(listener: &TcpListener, routes: &Routes, stop: impl Fn() -> S) -> io::Result<Ended>
where
    S: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let mut all = Vec::with_capacity(threads);
    for number in 0..threads {
        let (running, ended) = oneshot::channel::<()>();
        let (listener, routes, places, stop) =
            (listener.try_clone()?, routes.clone(), places.clone(), stop());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name(format!("rpc-{number}-blocking"))
            .build()?;
        thread::Builder::new().name(format!("rpc-{number}")).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, routes, places) => {}
                    () = stop => {}
                }
            });
            // What is still being served ends here, as by a crash; blocking work ends by itself.
            runtime.shutdown_background();
            drop(running);
        })?;
        all.push(ended);
    }
    Ok(all)
}

async fn serve(listener: TcpListener, routes: Routes, places: Arc<Semaphore>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "gRPC is not served");
            return;
        }
    };
    let router = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(listener::KEEPALIVE))
        .http2_keepalive_timeout(Some(listener::KEEPALIVE))
        .add_routes(routes);
    if let Err(error) = router.serve_with_incoming(listener::connections(listener, places)).await {
        tracing::error!(%error, "gRPC service ended");
    }
}
