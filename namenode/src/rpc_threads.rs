//! The threads that serve calls: each has a runtime of its own and serves the connections that it accepts, from the
//! first byte of a request to the last one of its answer.
//!
//! A runtime whose threads share their tasks wakes a second thread with nearly every request, to see whether there is
//! something to steal; a mount that waits for each of its calls pays for that with a third of their time. What takes
//! long runs on the runtimes' blocking threads, as ever.
//!
//! One port speaks two protocols: the client library's frames (`framed_connection`), and gRPC over HTTP/2.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;

use crate::framed_connection::FramedConnection;
use crate::listener::{self, CONNECTIONS_MAX, Connection, Spoken};
use crate::unary_services::UnaryServices;

/// Threads at most: namespace changes are made by one thread at a time, and reads scale this far.
const THREADS_MAX: usize = 16;

/// HTTP/2 connections of a thread that were recognised and not taken over yet; the next ones wait to be recognised.
const RECOGNISED_MAX: usize = 16;

/// Receivers that close when the threads have ended.
pub type Ended = Vec<oneshot::Receiver<()>>;

/// What is served.
#[derive(Clone)]
pub struct Served {
    /// Over HTTP/2.
    pub routes: Routes,
    /// Over frames.
    pub unary: UnaryServices,
}

/// Serves on `listener` until `stop` ends.
pub fn spawn<S>(listener: &TcpListener, served: &Served, stop: impl Fn() -> S) -> io::Result<Ended>
where
    S: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let mut all = Vec::with_capacity(threads);
    for number in 0..threads {
        let (running, ended) = oneshot::channel::<()>();
        let (listener, served, places, stop) =
            (listener.try_clone()?, served.clone(), places.clone(), stop());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name(format!("rpc-{number}-blocking"))
            .build()?;
        thread::Builder::new().name(format!("rpc-{number}")).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, served, places) => {}
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

async fn serve(listener: TcpListener, served: Served, places: Arc<Semaphore>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "calls are not served");
            return;
        }
    };
    let (http2, recognised) = mpsc::channel(RECOGNISED_MAX);
    let router = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(listener::KEEPALIVE))
        .http2_keepalive_timeout(Some(listener::KEEPALIVE))
        .add_routes(served.routes);
    tokio::select! {
        ended = router.serve_with_incoming(ReceiverStream::new(recognised)) => {
            if let Err(error) = ended {
                tracing::error!(%error, "gRPC service ended");
            }
        }
        () = accept_all(&listener, &places, &served.unary, &http2) => {}
    }
}

/// Accepts for ever; each connection is served by a task of this thread.
async fn accept_all(
    listener: &tokio::net::TcpListener,
    places: &Arc<Semaphore>,
    unary: &UnaryServices,
    http2: &mpsc::Sender<io::Result<Connection>>,
) {
    loop {
        match listener::accept(listener, places).await {
            Ok(connection) => {
                tokio::spawn(serve_connection(connection, unary.clone(), http2.clone()));
            }
            Err(error) => tracing::debug!(%error, "no connection was accepted"),
        }
    }
}

async fn serve_connection(
    mut connection: Connection,
    unary: UnaryServices,
    http2: mpsc::Sender<io::Result<Connection>>,
) {
    let peer = connection.peer();
    match connection.spoken().await {
        Ok(Spoken::Frames(preface)) => {
            if let Err(error) = FramedConnection::new(connection, unary, preface).serve().await {
                tracing::debug!(%peer, %error, "connection ended");
            }
        }
        Ok(Spoken::Http2) => {
            // An error means that the thread ends.
            let _ = http2.send(Ok(connection)).await;
        }
        Err(error) => tracing::debug!(%peer, %error, "connection without a word"),
    }
}
