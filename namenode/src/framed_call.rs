//! One call of a framed connection, from the request to the frame that answers it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use dfs_proto::framing::{self, FrameError};
use dfs_proto::v1::LogPosition;
use http_body::Body as _;
use smallvec::SmallVec;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, http};
use tonic::{Code, Status};

use crate::service::changed;

/// A call under way: a future of its [`Outcome`].
pub struct FramedCall {
    id: u64,
    changed: Option<LogPosition>,
    stage: Stage,
}

enum Stage {
    Called(BoxFuture<http::Response<Body>, Infallible>),
    Answering { message: Message, body: Body },
}

/// Pieces of a message; a unary answer comes in one.
type Message = SmallVec<[Bytes; 1]>;

/// How a call ended.
pub struct Outcome {
    /// Identity of the call.
    pub id: u64,
    changed: Option<LogPosition>,
    answer: Result<Message, Status>,
}

impl FramedCall {
    /// The call that `called` carries out.
    pub const fn new(id: u64, called: BoxFuture<http::Response<Body>, Infallible>) -> Self {
        Self { id, changed: None, stage: Stage::Called(called) }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Status>> {
        loop {
            match &mut self.stage {
                Stage::Called(called) => {
                    let polled = changed::noting(&mut self.changed, || called.as_mut().poll(cx));
                    let Ok(response) = ready!(polled);
                    let (parts, body) = response.into_parts();
                    if let Some(status) = refusal(&parts) {
                        return Poll::Ready(Err(status));
                    }
                    self.stage = Stage::Answering { message: Message::new(), body };
                }
                Stage::Answering { message, body } => {
                    let frame = match ready!(Pin::new(body).poll_frame(cx)).transpose()? {
                        Some(frame) => frame,
                        None => return Poll::Ready(Ok(std::mem::take(message))),
                    };
                    match frame.into_data() {
                        Ok(piece) => message.push(piece),
                        Err(frame) => {
                            let status =
                                frame.trailers_ref().and_then(Status::from_header_map).filter(is_refusal);
                            if let Some(status) = status {
                                return Poll::Ready(Err(status));
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Future for FramedCall {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let answer = ready!(self.poll_answer(cx));
        Poll::Ready(Outcome { id: self.id, changed: self.changed, answer })
    }
}

impl Outcome {
    /// Appends the frame that tells the client.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let encoded = match &self.answer {
            Ok(message) => {
                let pieces = message.iter().map(|piece| piece.as_ref());
                framing::encode_message(out, self.id, self.changed, pieces)
            }
            Err(status) => framing::encode_refusal(
                out,
                self.id,
                status.code() as i32 as u8,
                status.message(),
                status.details(),
            ),
        };
        encoded.or_else(|error| {
            // Too large, or no single message: a defect on this side that only this call has to know of.
            framing::encode_refusal(out, self.id, Code::Internal as i32 as u8, &error.to_string(), &[])
        })
    }
}

/// The status of an answer that consists of nothing else.
fn refusal(parts: &http::response::Parts) -> Option<Status> {
    let status = match parts.extensions.get::<Status>() {
        Some(status) => Some(status.clone()),
        None => Status::from_header_map(&parts.headers),
    };
    status.filter(is_refusal)
}

fn is_refusal(status: &Status) -> bool {
    status.code() != Code::Ok
}
