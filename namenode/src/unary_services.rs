//! What clients call over frames: the services of the client library, which have unary methods only.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use dfs_proto::v1::client_protocol_server::ClientProtocolServer;
use dfs_proto::v1::file_system_protocol_server::FileSystemProtocolServer;
use http_body_util::Full;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;

use crate::service::{ClientService, FileSystemService};

/// A call's message, with gRPC's head, as the body of a request.
pub type OneMessage = Full<Bytes>;

/// The services. Cloning is cheap.
#[derive(Clone)]
pub struct UnaryServices {
    /// For path clients.
    pub clients: ClientProtocolServer<ClientService>,
    /// For mounts.
    pub mounts: FileSystemProtocolServer<FileSystemService>,
}

impl Service<http::Request<OneMessage>> for UnaryServices {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<OneMessage>) -> Self::Future {
        match service_of(request.uri().path()) {
            Some(<ClientProtocolServer<ClientService> as NamedService>::NAME) => self.clients.call(request),
            Some(<FileSystemProtocolServer<FileSystemService> as NamedService>::NAME) => {
                self.mounts.call(request)
            }
            _ => {
                let refused = Status::unimplemented(format!("{} is not served over frames", request.uri()));
                Box::pin(std::future::ready(Ok(refused.into_http())))
            }
        }
    }
}

/// `package.Service` of `/package.Service/Method`.
fn service_of(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.split_once('/').map(|(service, _)| service)
}
