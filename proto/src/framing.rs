//! Frames of calls between the client library and a namenode.
//!
//! They carry what a unary gRPC call carries, without HTTP/2 around it, on the same port: a namenode tells the two
//! apart by a connection's first bytes. Both sides begin with a preface, the client first:
//!
//! | offset | size | field   | rule                                                                           |
//! |--------|------|---------|--------------------------------------------------------------------------------|
//! | 0      | 3    | magic   | `dfs`                                                                          |
//! | 3      | 1    | version | [`FRAMING_VERSION`]; with another one the connection ends after both prefaces  |
//! | 4      | 4    | end     | CR LF CR LF, so that an HTTP/1 server takes it for a request and refuses       |
//!
//! Frames follow in both directions, in any order. Integers are big-endian.
//!
//! | offset | size | field   | rule                                                                           |
//! |--------|------|---------|--------------------------------------------------------------------------------|
//! | 0      | 4    | length  | bytes after this field; 8 to [`FRAME_BYTES_MAX`]                               |
//! | 4      | 8    | call id | chosen by the client, unique among the connection's unanswered calls           |
//! | 12     | -    | rest    | by direction                                                                   |
//!
//! The rest of a client's frame; without it, the client gives that call up and wants no answer:
//!
//! | size | field       | rule                                                                                   |
//! |------|-------------|----------------------------------------------------------------------------------------|
//! | 1    | path length | p, not 0                                                                               |
//! | p    | path        | `/package.Service/Method`                                                              |
//! | 5+n  | message     | as gRPC frames it: a byte 0, n as four bytes, n bytes of protobuf                      |
//!
//! The rest of a namenode's frame:
//!
//! | size | field       | rule                                                                                   |
//! |------|-------------|----------------------------------------------------------------------------------------|
//! | 1    | code        | gRPC's, or 255: OK, and a position follows                                             |
//! | 24   | position    | if the code is 255: term, node id and index of the log entry with what a relaxed call changed |
//! | 5+n  | message     | if the code is 0 (OK) or 255: as above                                                 |
//! | 2    | text length | else: t, at most [`TEXT_BYTES_MAX`]                                                    |
//! | t    | text        | UTF-8                                                                                  |
//! | -    | details     | to the frame's end, at most [`MAX_RPC_BYTES`]                                          |

use crate::MAX_RPC_BYTES;
use crate::v1::LogPosition;

/// Version of this format; client and namenode must agree.
pub const FRAMING_VERSION: u8 = 2;

/// Size of a preface.
pub const PREFACE_BYTES: usize = 8;

/// Size of a frame's length field.
pub const LENGTH_BYTES: usize = 4;

/// Longest frame, without its length field: the largest message or details, and room for what stands before them.
pub const FRAME_BYTES_MAX: usize = MAX_RPC_BYTES + TEXT_BYTES_MAX + 1024;

/// Longest text of a refusal; it names paths, which have up to 8,000 bytes. What is longer is cut off.
pub const TEXT_BYTES_MAX: usize = 32 << 10;

/// Unanswered calls of one connection. A mount has a hundred or so under way at most; clients wait and
/// namenodes read no further when there are more.
pub const CALLS_MAX: usize = 1024;

const MAGIC: [u8; 3] = *b"dfs";
const PREFACE_END: [u8; 4] = *b"\r\n\r\n";
const ID_BYTES: usize = 8;

/// Code of an answer that succeeded and tells a position: far from gRPC's own.
const OK_AT: u8 = 255;
const POSITION_BYTES: usize = 24;

/// Flag and length in front of a message.
const MESSAGE_HEAD_BYTES: usize = 5;

/// Bytes that are not what this format says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No preface of any version.
    #[error("another protocol is spoken")]
    Preface,
    /// The preface of another version.
    #[error("framing version {theirs}, ours is {FRAMING_VERSION}")]
    Version {
        /// The other side's.
        theirs: u8,
    },
    /// A length out of its range.
    #[error("{field} of {length} bytes out of range")]
    Length {
        /// What has that length.
        field: &'static str,
        /// The length.
        length: usize,
    },
    /// The frame ends within a field.
    #[error("frame ends within its {field}")]
    Truncated {
        /// The field.
        field: &'static str,
    },
    /// Not UTF-8.
    #[error("{field} is not UTF-8")]
    Text {
        /// The field.
        field: &'static str,
    },
    /// A message is compressed, or announces another length than it has.
    #[error("message head does not fit the frame")]
    MessageHead,
}

/// A client's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Makes a call.
    Call {
        /// Identity of the call.
        id: u64,
        /// Which method.
        path: &'a str,
        /// The message, with gRPC's head.
        message: &'a [u8],
    },
    /// Gives a call up.
    Abandon {
        /// Identity of the call.
        id: u64,
    },
}

/// What a namenode's frame says about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It succeeded.
    Message {
        /// The message, gRPC's head included.
        message: &'a [u8],
        /// Where in the log the change is, if it was answered before that was on disk.
        changed: Option<LogPosition>,
    },
    /// It failed.
    Refused {
        /// gRPC's code, not 0.
        code: u8,
        /// For people.
        text: &'a str,
        /// Details of the status.
        details: &'a [u8],
    },
}

/// What either side sends first.
pub const fn preface() -> [u8; PREFACE_BYTES] {
    let [m0, m1, m2] = MAGIC;
    let [e0, e1, e2, e3] = PREFACE_END;
    [m0, m1, m2, FRAMING_VERSION, e0, e1, e2, e3]
}

/// Whether a connection that begins with these bytes may be one of ours, of any version.
pub fn may_be_preface(begin: &[u8]) -> bool {
    let ours = preface();
    begin.iter().zip(ours).enumerate().all(|(at, (byte, ours))| *byte == ours || at == MAGIC.len())
}

/// Checks the other side's preface.
pub fn check_preface(raw: [u8; PREFACE_BYTES]) -> Result<(), FrameError> {
    let theirs = raw[MAGIC.len()];
    if !may_be_preface(&raw) {
        Err(FrameError::Preface)
    } else if theirs != FRAMING_VERSION {
        Err(FrameError::Version { theirs })
    } else {
        Ok(())
    }
}

/// Splits the first frame off `input`, without its length field; `Ok(Err(missing))` while more bytes have to come.
///
/// The length is checked as soon as it is there, before anybody makes room for the rest.
pub fn split_frame(input: &[u8]) -> Result<Result<&[u8], usize>, FrameError> {
    let Some((length, rest)) = input.split_first_chunk::<LENGTH_BYTES>() else {
        return Ok(Err(LENGTH_BYTES - input.len()));
    };
    let length = u32::from_be_bytes(*length) as usize;
    if !(ID_BYTES..=FRAME_BYTES_MAX).contains(&length) {
        return Err(FrameError::Length { field: "frame", length });
    }
    Ok(rest.get(..length).ok_or_else(|| length - rest.len()))
}

/// Reads a client's frame.
pub fn decode_request(frame: &[u8]) -> Result<Request<'_>, FrameError> {
    let (id, rest) = split_id(frame)?;
    let Some((length, rest)) = rest.split_first() else { return Ok(Request::Abandon { id }) };
    if *length == 0 {
        return Err(FrameError::Length { field: "path", length: 0 });
    }
    let (path, message) =
        rest.split_at_checked(usize::from(*length)).ok_or(FrameError::Truncated { field: "path" })?;
    let path = std::str::from_utf8(path).map_err(|_| FrameError::Text { field: "path" })?;
    Ok(Request::Call { id, path, message: checked_message(message)? })
}

/// Reads a namenode's frame: which call it answers, and how.
pub fn decode_answer(frame: &[u8]) -> Result<(u64, Answer<'_>), FrameError> {
    let (id, rest) = split_id(frame)?;
    let (code, rest) = rest.split_first().ok_or(FrameError::Truncated { field: "code" })?;
    if *code == 0 {
        return Ok((id, Answer::Message { message: checked_message(rest)?, changed: None }));
    }
    if *code == OK_AT {
        let (position, rest) =
            rest.split_first_chunk::<POSITION_BYTES>().ok_or(FrameError::Truncated { field: "position" })?;
        let message = checked_message(rest)?;
        return Ok((id, Answer::Message { message, changed: Some(decode_position(*position)) }));
    }
    let (length, rest) =
        rest.split_first_chunk::<2>().ok_or(FrameError::Truncated { field: "text length" })?;
    let length = usize::from(u16::from_be_bytes(*length));
    if length > TEXT_BYTES_MAX {
        return Err(FrameError::Length { field: "text", length });
    }
    let (text, details) = rest.split_at_checked(length).ok_or(FrameError::Truncated { field: "text" })?;
    let text = std::str::from_utf8(text).map_err(|_| FrameError::Text { field: "text" })?;
    check_details(details)?;
    Ok((id, Answer::Refused { code: *code, text, details }))
}

/// Appends a client's frame that makes a call. `message` comes in pieces and begins with gRPC's head. After an error `out`
/// is as before.
pub fn encode_call<'a>(
    out: &mut Vec<u8>,
    id: u64,
    path: &str,
    message: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(), FrameError> {
    let length = u8::try_from(path.len()).ok().filter(|length| *length != 0);
    let length = length.ok_or(FrameError::Length { field: "path", length: path.len() })?;
    frame(out, id, |out| {
        out.push(length);
        out.extend_from_slice(path.as_bytes());
        let begin = out.len();
        for piece in message {
            out.extend_from_slice(piece);
        }
        checked_message(&out[begin..]).map(drop)
    })
}

/// Appends a client's frame that gives a call up.
pub fn encode_abandon(out: &mut Vec<u8>, id: u64) {
    out.extend_from_slice(&(ID_BYTES as u32).to_be_bytes());
    out.extend_from_slice(&id.to_be_bytes());
}

/// Appends a namenode's frame with the message of a call that succeeded, which comes in pieces and begins with gRPC's head, and where
/// in the log its change is, if it was a relaxed one. After an error `out` is as before.
pub fn encode_message<'a>(
    out: &mut Vec<u8>,
    id: u64,
    changed: Option<LogPosition>,
    message: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(), FrameError> {
    frame(out, id, |out| {
        match changed {
            None => out.push(0),
            Some(LogPosition { term, node_id, index }) => {
                out.push(OK_AT);
                [term, node_id, index].iter().for_each(|field| out.extend_from_slice(&field.to_be_bytes()));
            }
        }
        let begin = out.len();
        for piece in message {
            out.extend_from_slice(piece);
        }
        checked_message(&out[begin..]).map(drop)
    })
}

/// Appends a namenode's frame that refuses a call. After an error `out` is as before.
pub fn encode_refusal(
    out: &mut Vec<u8>,
    id: u64,
    code: u8,
    text: &str,
    details: &[u8],
) -> Result<(), FrameError> {
    if code == 0 || code == OK_AT {
        return Err(FrameError::Length { field: "code", length: usize::from(code) });
    }
    check_details(details)?;
    let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    frame(out, id, |out| {
        out.push(code);
        out.extend_from_slice(&(text.len() as u16).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(details);
        Ok(())
    })
}

fn frame(
    out: &mut Vec<u8>,
    id: u64,
    rest: impl FnOnce(&mut Vec<u8>) -> Result<(), FrameError>,
) -> Result<(), FrameError> {
    let begin = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    out.extend_from_slice(&id.to_be_bytes());
    let written = rest(out).and_then(|()| {
        let length = out.len() - begin - LENGTH_BYTES;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::Length { field: "frame", length });
        }
        out[begin..begin + LENGTH_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
        Ok(())
    });
    if written.is_err() {
        out.truncate(begin);
    }
    written
}

fn split_id(frame: &[u8]) -> Result<(u64, &[u8]), FrameError> {
    let (id, rest) =
        frame.split_first_chunk::<ID_BYTES>().ok_or(FrameError::Truncated { field: "call id" })?;
    Ok((u64::from_be_bytes(*id), rest))
}

fn decode_position(raw: [u8; POSITION_BYTES]) -> LogPosition {
    let mut fields =
        raw.chunks_exact(8).map(|field| field.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)));
    let mut next = || fields.next().unwrap_or(0);
    LogPosition { term: next(), node_id: next(), index: next() }
}

/// Checks that a message is not compressed and as long as its head says.
fn checked_message(message: &[u8]) -> Result<&[u8], FrameError> {
    match message.split_first_chunk::<MESSAGE_HEAD_BYTES>() {
        Some(([0, n0, n1, n2, n3], rest))
            if u32::from_be_bytes([*n0, *n1, *n2, *n3]) as usize == rest.len() =>
        {
            Ok(message)
        }
        _ => Err(FrameError::MessageHead),
    }
}

fn check_details(details: &[u8]) -> Result<(), FrameError> {
    if details.len() > MAX_RPC_BYTES {
        return Err(FrameError::Length { field: "details", length: details.len() });
    }
    Ok(())
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
