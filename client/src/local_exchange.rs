//! The exchange with a datanode on this machine, over its UNIX socket: requests for the files or contents of replicas, and their answers.
//!
//! Answers come in the order of requests, so that several requests can be sent at once. Nothing is given out that its checksums do
//! not match.

use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use bytes::Bytes;
use dfs_proto::checksum::Checksum;
use dfs_proto::data_transfer::{
    MAX_MESSAGE_BYTES, Op, SHORT_CIRCUIT_VERSION, TransferError, decode_length, encode_op, local_socket_name,
};
use dfs_proto::transfer::{
    BaseHeaderProto, BlockOpResponseProto, ExtendedBlockProto, OpRequestShortCircuitAccessProto, Status,
};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use prost::Message;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::TransferFault;

/// Bytes received at once: an answer fits, most often with its content.
const RECEIVE_BYTES: usize = 8 << 10;

/// Largest replica whose content is asked for.
pub(crate) const MAX_CONTENT_BYTES: u64 = 64 << 10;

/// Descriptors in an answer.
const FILES: usize = 2;

/// An answer, as it came.
pub(crate) struct Answer {
    /// The message.
    pub(crate) response: BlockOpResponseProto,
    /// Bytes behind the message.
    pub(crate) rest: Bytes,
    /// Descriptors that came with them.
    pub(crate) files: Vec<OwnedFd>,
}

/// Connects without waiting: a datanode that is not here, or too busy to accept, is read over the network.
pub(crate) fn connect(uuid: &str) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // A name that starts with NUL is an abstract one.
    socket.connect(&SockAddr::unix(format!("\0{}", local_socket_name(uuid)))?)?;
    UnixStream::from_std(std::os::unix::net::UnixStream::from(OwnedFd::from(socket)))
}

/// A request for a replica, or its content if that has at most `content_up_to` bytes.
pub(crate) fn encode_request(named: ExtendedBlockProto, content_up_to: u64) -> Vec<u8> {
    let header = BaseHeaderProto { block: named, token: None };
    let content_up_to = u32::try_from(content_up_to).ok().filter(|bytes| *bytes > 0);
    let request =
        OpRequestShortCircuitAccessProto { header, max_version: SHORT_CIRCUIT_VERSION, content_up_to };
    encode_op(Op::RequestShortCircuitFds, &request)
}

/// Sends a request and receives its answer.
pub(crate) async fn exchange(
    mut stream: UnixStream,
    request: &[u8],
) -> Result<(UnixStream, Answer), TransferFault> {
    stream.write_all(request).await?;
    let (mut bytes, mut files) = (Vec::new(), Vec::new());
    loop {
        if let Some((response, behind)) = whole_answer(&bytes)? {
            if behind.end < bytes.len() {
                return Err(TransferFault::Unexpected { field: "bytes behind the answer" });
            }
            let rest = Bytes::from(bytes).slice(behind);
            return Ok((stream, Answer { response, rest, files }));
        }
        let fd = stream.as_raw_fd();
        stream.async_io(Interest::READABLE, || receive(fd, &mut bytes, &mut files)).await?;
    }
}

/// Sends requests for contents and receives the answers, which come in order.
pub(crate) async fn exchange_many(
    mut stream: UnixStream,
    blocks: &[ExtendedBlockProto],
    came: &mut (dyn FnMut(usize, Bytes) + Send),
) -> Result<UnixStream, TransferFault> {
    let requests: Vec<u8> =
        blocks.iter().flat_map(|block| encode_request(block.clone(), MAX_CONTENT_BYTES)).collect();
    // Some kilobytes: they fit into the socket's buffer, so that the datanode never waits for this side to read.
    stream.write_all(&requests).await?;
    let (mut bytes, mut files) = (Vec::new(), Vec::new());
    let mut index = 0;
    while index < blocks.len() {
        let mut done = 0;
        while let Some((response, behind)) = whole_answer(&bytes[done..])? {
            // Of a replica that is no longer small there are files, which are not wanted.
            files.clear();
            if response.status() == Status::Success
                && let (Some(length), Some(info)) = (response.content_length, &response.read_op_checksum_info)
            {
                let rest = &bytes[done + behind.start..done + behind.end];
                let (sums, data) = rest.split_at(rest.len() - length as usize);
                // One that does not verify is read over the network once it is opened.
                if Checksum::from_proto(&info.checksum)?.verify(data, sums).is_ok() {
                    // A copy of its own: others that came with it may be kept for shorter.
                    came(index, Bytes::copy_from_slice(data));
                }
            }
            done += behind.end;
            index += 1;
        }
        bytes.drain(..done);
        if index < blocks.len() {
            let fd = stream.as_raw_fd();
            stream.async_io(Interest::READABLE, || receive(fd, &mut bytes, &mut files)).await?;
        }
    }
    if !bytes.is_empty() {
        return Err(TransferFault::Unexpected { field: "bytes behind the answer" });
    }
    Ok(stream)
}

/// The answer that `bytes` begin with, and where the bytes behind it are; none if more of it is to come.
fn whole_answer(bytes: &[u8]) -> Result<Option<(BlockOpResponseProto, Range<usize>)>, TransferFault> {
    let end = decode_length(bytes)?.map(|(prefix, length)| (prefix, prefix + length));
    let Some((prefix, end)) = end.filter(|(_, end)| bytes.len() >= *end) else {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(TransferFault::Unexpected { field: "length" });
        }
        return Ok(None);
    };
    let response = BlockOpResponseProto::decode(&bytes[prefix..end]).map_err(TransferError::Decode)?;
    let until = end + behind(&response)?;
    Ok((bytes.len() >= until).then_some((response, end..until)))
}

/// Bytes that follow an answer: the content with its checksums, or the one that carries descriptors.
fn behind(response: &BlockOpResponseProto) -> Result<usize, TransferFault> {
    let Some(length) = response.content_length else {
        return Ok(usize::from(response.status() == Status::Success));
    };
    let info = response.read_op_checksum_info.ok_or(TransferFault::Unexpected { field: "response" })?;
    if u64::from(length) > MAX_CONTENT_BYTES {
        return Err(TransferFault::Unexpected { field: "content_length" });
    }
    let length = length as usize;
    Ok(Checksum::from_proto(&info.checksum)?.checksums_len(length) + length)
}

/// The content behind its checksums, if it matches them.
pub(crate) fn verified(checksum: Checksum, length: usize, rest: Bytes) -> Result<Bytes, TransferFault> {
    let data = rest.slice(rest.len() - length..);
    checksum.verify(&data, &rest[..rest.len() - length])?;
    Ok(data)
}

/// One receive: appends bytes and descriptors.
fn receive(fd: RawFd, bytes: &mut Vec<u8>, files: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut buffer = [0; RECEIVE_BYTES];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let mut control = nix::cmsg_space!([RawFd; FILES]);
    let received = recvmsg::<()>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let count = received.bytes;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
            files.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.extend_from_slice(&buffer[..count]);
    Ok(())
}
