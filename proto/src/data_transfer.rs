//! Framing of data transfer operations.
//!
//! Request: version (2 bytes, big-endian, 28), op code (1 byte), then the header message preceded by
//! its length as a varint. Responses and acks are messages preceded by a varint length. After a finished
//! operation the connection may carry the next one.

use std::io::{self, Read};

use bytes::Bytes;
use prost::Message;

use crate::transfer::{DatanodeIdProto, DatanodeInfoProto};
use crate::v1::DatanodeInfo;

/// Version of HDFS's data transfer protocol that we speak.
pub const DATA_TRANSFER_VERSION: u16 = 28;

/// Longest header, response or ack message accepted. A write header with a pipeline of 512 members
/// has about 100 KiB.
pub const MAX_MESSAGE_BYTES: usize = 256 << 10;

/// Version of the data and `.meta` file formats that short-circuit readers read by themselves (HDFS's
/// number).
pub const SHORT_CIRCUIT_VERSION: u32 = 1;

/// Bytes before the first checksum of a `.meta` file in that version.
pub const META_HEADER_BYTES: usize = 7;

/// Name of the UNIX socket (abstract, so of this machine or container only) at which a datanode hands out
/// descriptors of its replicas' files.
pub fn local_socket_name(datanode_uuid: &str) -> String {
    format!("dfs-datanode-{datanode_uuid}")
}

/// Version and op code.
pub const OP_PREFIX_BYTES: usize = 3;

/// Longest varint that encodes a `u32`.
const MAX_VARINT_BYTES: usize = 5;

/// Operations; numbers are HDFS's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// Set up a write pipeline.
    WriteBlock = 80,
    /// Read a range of a replica.
    ReadBlock = 81,
    /// Checksum of a replica.
    BlockChecksum = 85,
    /// Copy a replica to other datanodes.
    TransferBlock = 86,
    /// Descriptors of a replica's files, for a reader on the same machine.
    RequestShortCircuitFds = 87,
}

/// A request or message that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Not our protocol, or another version of it.
    #[error("data transfer version {0}, expected {DATA_TRANSFER_VERSION}")]
    Version(u16),
    /// Unknown or unsupported operation.
    #[error("unknown data transfer operation {0}")]
    UnknownOp(u8),
    /// Message longer than [`MAX_MESSAGE_BYTES`], or a length that is no varint.
    #[error("message length out of range")]
    Length,
    /// Message does not decode.
    #[error("message does not decode: {0}")]
    Decode(#[from] prost::DecodeError),
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl TryFrom<u8> for Op {
    type Error = TransferError;

    fn try_from(raw: u8) -> Result<Self, TransferError> {
        match raw {
            80 => Ok(Self::WriteBlock),
            81 => Ok(Self::ReadBlock),
            85 => Ok(Self::BlockChecksum),
            86 => Ok(Self::TransferBlock),
            87 => Ok(Self::RequestShortCircuitFds),
            other => Err(TransferError::UnknownOp(other)),
        }
    }
}

/// Encodes a whole request.
pub fn encode_op(op: Op, header: &impl Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(OP_PREFIX_BYTES + MAX_VARINT_BYTES + header.encoded_len());
    out.extend_from_slice(&DATA_TRANSFER_VERSION.to_be_bytes());
    out.push(op as u8);
    encode_delimited(header, &mut out);
    out
}

/// Appends a message with its length in front.
pub fn encode_delimited(message: &impl Message, out: &mut Vec<u8>) {
    prost::encode_length_delimiter(message.encoded_len(), out).expect("a Vec grows");
    message.encode_raw(out);
}

impl From<&DatanodeInfo> for DatanodeInfoProto {
    fn from(info: &DatanodeInfo) -> Self {
        Self {
            id: DatanodeIdProto {
                ip_addr: info.ip.clone(),
                host_name: info.hostname.clone(),
                datanode_uuid: info.uuid.clone(),
                xfer_port: info.xfer_port,
                info_port: info.http_port,
                ipc_port: info.ipc_port,
            },
            location: Some(info.rack.clone()),
        }
    }
}

/// Checks version and op code.
pub fn decode_op_prefix(raw: [u8; OP_PREFIX_BYTES]) -> Result<Op, TransferError> {
    let version = u16::from_be_bytes([raw[0], raw[1]]);
    if version != DATA_TRANSFER_VERSION {
        return Err(TransferError::Version(version));
    }
    Op::try_from(raw[2])
}

/// Looks for a length in front of a message. `None`: more bytes are needed. Otherwise the number of
/// bytes that the length itself takes, and the length of the message, at most [`MAX_MESSAGE_BYTES`].
pub fn decode_length(raw: &[u8]) -> Result<Option<(usize, usize)>, TransferError> {
    let mut length = 0usize;
    for (i, byte) in raw.iter().take(MAX_VARINT_BYTES).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return if length <= MAX_MESSAGE_BYTES {
                Ok(Some((i + 1, length)))
            } else {
                Err(TransferError::Length)
            };
        }
    }
    if raw.len() >= MAX_VARINT_BYTES { Err(TransferError::Length) } else { Ok(None) }
}

/// Reads one message with its length from a blocking stream; give it a buffered one.
pub fn read_delimited<M: Message + Default>(from: &mut impl Read) -> Result<M, TransferError> {
    let mut prefix = [0u8; MAX_VARINT_BYTES];
    let mut have = 0;
    let length = loop {
        from.read_exact(&mut prefix[have..have + 1])?;
        have += 1;
        if let Some((_, length)) = decode_length(&prefix[..have])? {
            break length;
        }
    };
    let mut raw = vec![0u8; length];
    from.read_exact(&mut raw)?;
    Ok(M::decode(Bytes::from(raw))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::{ClientReadStatusProto, PipelineAckProto, Status};
    use proptest::prelude::*;

    #[test]
    fn golden_bytes_of_an_ack() {
        let ack = PipelineAckProto {
            seqno: 2,
            reply: vec![Status::Success.into(), Status::ErrorChecksum.into()],
            downstream_ack_time_nanos: None,
            flag: Vec::new(),
        };
        let mut out = Vec::new();
        encode_delimited(&ack, &mut out);
        // Length 6; seqno zigzag 4; reply 0; reply 2.
        assert_eq!(out, [6, 0x08, 4, 0x10, 0, 0x10, 2]);
        assert_eq!(read_delimited::<PipelineAckProto>(&mut out.as_slice()).expect("decodes"), ack);
    }

    #[test]
    fn golden_bytes_of_a_request() {
        let status = ClientReadStatusProto { status: Status::ChecksumOk.into() };
        let out = encode_op(Op::ReadBlock, &status);
        assert_eq!(out, [0, 28, 81, 2, 0x08, 6]);
        assert_eq!(decode_op_prefix([0, 28, 81]).expect("an op"), Op::ReadBlock);
    }

    #[test]
    fn foreign_streams_are_refused() {
        // "GET" of HTTP, "PRI" of HTTP/2 (gRPC), and an op of ours that does not exist.
        for (raw, version) in [(*b"GET", Some(0x4745)), (*b"PRI", Some(0x5052)), ([0, 28, 1], None)] {
            match (decode_op_prefix(raw), version) {
                (Err(TransferError::Version(v)), Some(expected)) => assert_eq!(v, expected),
                (Err(TransferError::UnknownOp(1)), None) => {}
                (other, _) => panic!("{raw:?} gave {other:?}"),
            }
        }
    }

    #[test]
    fn long_messages_are_refused_before_they_are_read() {
        let mut raw = Vec::new();
        prost::encode_length_delimiter(MAX_MESSAGE_BYTES + 1, &mut raw).expect("a Vec grows");
        let refused = read_delimited::<PipelineAckProto>(&mut raw.as_slice());
        assert!(matches!(refused, Err(TransferError::Length)), "{refused:?}");
        let refused = read_delimited::<PipelineAckProto>(&mut [0xffu8; 16].as_slice());
        assert!(matches!(refused, Err(TransferError::Length)), "{refused:?}");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(ack) = read_delimited::<PipelineAckProto>(&mut raw.as_slice()) {
                prop_assert!(ack.reply.len() <= raw.len());
            }
        }
    }
}
