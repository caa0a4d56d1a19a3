//! Serves calls that come in frames, in the simplest way: a thread a connection and one call at a time.

use std::convert::Infallible;
use std::io::{self, Read, Write};

use bytes::Bytes;
use dfs_proto::framing::{self, Request};
use http_body_util::{BodyExt, Full};
use tokio::net::TcpListener;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};

/// Serves `service` for ever.
pub async fn serve<S>(service: S, listener: TcpListener)
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let runtime = tokio::runtime::Handle::current();
    loop {
        let (socket, _) = listener.accept().await.expect("accepts");
        let (mut socket, mut service) = (socket.into_std().expect("a socket"), service.clone());
        let runtime = runtime.clone();
        std::thread::spawn(move || {
            socket.set_nonblocking(false).expect("a socket");
            let mut preface = [0; framing::PREFACE_BYTES];
            if socket.read_exact(&mut preface).is_err() || framing::check_preface(preface).is_err() {
                return;
            }
            let mut served = socket.write_all(&framing::preface());
            while served.is_ok() {
                served = serve_call(&mut socket, &mut service, &runtime);
            }
        });
    }
}

fn serve_call<S>(
    socket: &mut std::net::TcpStream,
    service: &mut S,
    runtime: &tokio::runtime::Handle,
) -> io::Result<()>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    let mut length = [0; framing::LENGTH_BYTES];
    socket.read_exact(&mut length)?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    socket.read_exact(&mut frame)?;
    let Request::Call { id, path, message } = framing::decode_request(&frame).expect("a frame") else {
        return Ok(());
    };
    let request = http::Request::post(path)
        .body(Body::new(Full::new(Bytes::copy_from_slice(message))))
        .expect("a path");
    let (status, answer) = runtime.block_on(async {
        let Ok(response) = service.call(request).await;
        let mut status = Status::from_header_map(response.headers());
        let (mut body, mut answer) = (response.into_body(), Vec::new());
        while let Some(frame) = body.frame().await {
            match frame.expect("a frame").into_data() {
                Ok(piece) => answer.extend_from_slice(&piece),
                Err(frame) => status = frame.trailers_ref().and_then(Status::from_header_map),
            }
        }
        (status.expect("a status"), answer)
    });
    let mut out = Vec::new();
    match status.code() {
        tonic::Code::Ok => framing::encode_message(&mut out, id, None, [answer.as_slice()]),
        code => framing::encode_refusal(&mut out, id, code as i32 as u8, status.message(), status.details()),
    }
    .expect("fits");
    socket.write_all(&out)
}
