//! What carries the calls of the generated stubs to a namenode: frames instead of HTTP/2.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use dfs_proto::framing;
use http_body_util::combinators::WithTrailers;
use http_body_util::{BodyExt, Full};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};

use crate::namenode_link::{Link, LinkError, Success};
use crate::own_links::OwnLinks;

/// Room of a new frame: most requests fit.
const FRAME_BYTES: usize = 256;

/// A namenode's address and the connection to it, which is made by the first call and anew after it broke. Dropping it
/// closes the connection.
pub(crate) struct Connections {
    address: String,
    current: Mutex<Option<Arc<Link>>>,
    /// For callers who block their thread.
    own: Arc<OwnLinks>,
    next_id: AtomicU64,
}

/// The message of an answer, with gRPC's head, as the body of a response.
type OneAnswer = WithTrailers<Full<Bytes>, std::future::Ready<Option<Result<http::HeaderMap, Infallible>>>>;

/// Carries calls to one namenode that have to be answered in time. Cheap to make and to clone.
#[derive(Clone)]
pub(crate) struct Transport {
    connections: Arc<Connections>,
    until: Instant,
}

impl Connections {
    /// Makes no connection yet.
    pub(crate) fn new(address: String) -> Self {
        let own = OwnLinks::new(address.clone());
        Self { address, current: Mutex::new(None), own, next_id: AtomicU64::new(1) }
    }

    /// Carries calls that fail if they have no answer by `until`.
    pub(crate) fn until(self: &Arc<Self>, until: Instant) -> Transport {
        Transport { connections: Arc::clone(self), until }
    }

    fn link(&self) -> Arc<Link> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(link) if !link.is_broken() => Arc::clone(link),
            _ => {
                self.own.clear();
                Arc::clone(current.insert(Link::start(&self.address)))
            }
        }
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        let current = self.current.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = current.take() {
            link.fail(LinkError::Dropped);
        }
    }
}

impl Service<http::Request<Body>> for Transport {
    type Response = http::Response<OneAnswer>;
    type Error = Status;
    type Future = BoxFuture<Self::Response, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(carry(self.clone(), request))
    }
}

async fn carry(
    Transport { connections, until }: Transport,
    request: http::Request<Body>,
) -> Result<http::Response<OneAnswer>, Status> {
    let (parts, mut body) = request.into_parts();
    let mut message = Vec::with_capacity(1);
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame?.into_data() {
            message.push(piece);
        }
    }
    let id = connections.next_id.fetch_add(1, Ordering::Relaxed);
    let mut frame = Vec::with_capacity(FRAME_BYTES);
    framing::encode_call(&mut frame, id, parts.uri.path(), message.iter().map(|piece| piece.as_ref()))
        .map_err(|error| Status::out_of_range(error.to_string()))?;
    drop(message);
    let Success { message, changed } = match connections.own.take(frame.len()) {
        Some(own) => connections.own.call(own, id, &frame, until).await?,
        None => {
            let link = connections.link();
            let _place = link.place().await?;
            link.call(id, frame, until).await?
        }
    };
    let mut trailers = http::HeaderMap::with_capacity(1);
    trailers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("0"));
    let body = Full::new(message).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = http::Response::new(body);
    if let Some(changed) = changed {
        response.extensions_mut().insert(changed);
    }
    Ok(response)
}

#[cfg(test)]
#[path = "transport_tests.rs"]
pub(crate) mod tests;
