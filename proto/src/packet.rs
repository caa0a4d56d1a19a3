//! Packets of the data transfer protocol.
//!
//! | offset    | size      | field     | rule                                                        |
//! |-----------|-----------|-----------|-------------------------------------------------------------|
//! | 0         | 4         | PLEN      | big-endian; 4 + bytes of checksums + bytes of data          |
//! | 4         | 2         | HLEN      | big-endian; bytes of the header                             |
//! | 6         | HLEN      | header    | `PacketHeaderProto`                                         |
//! | 6 + HLEN  | C         | checksums | 4 bytes a chunk, big-endian; C = PLEN - 4 - header.data_len |
//! | 6+HLEN+C  | data_len  | data      | starts on a chunk boundary, except in an append's first     |
//!
//! In a pipeline with random access, data may start and end anywhere in the block; there is one checksum for each chunk
//! that it touches, over those bytes of the chunk that the packet carries. A packet without data and with `zero_len`
//! set makes a range of the block zeros.
//!
//! PLEN counts itself but neither HLEN nor the header: HDFS's rule. The block ends with a packet
//! that has no data and `last_packet_in_block` set. Writers that continue a block in the middle of a chunk
//! send the rest of that chunk alone in the first packet, with a checksum over the whole chunk's content
//! recomputed by the receiver (see the datanode's receiver).

use prost::Message;

use crate::transfer::PacketHeaderProto;

/// PLEN and HLEN.
pub const PACKET_LENGTHS_BYTES: usize = 6;

/// Size of PLEN itself, counted in PLEN.
const PLEN_BYTES: usize = 4;

/// Longest header accepted. Ours has 25 to 37 bytes, and unknown fields of later versions fit too.
pub const MAX_PACKET_HEADER_BYTES: usize = 256;

/// Longest checksums plus data accepted in one packet, HDFS's limit.
pub const MAX_PACKET_PAYLOAD_BYTES: usize = 16 << 20;

/// Sequence number of a heartbeat packet.
pub const HEARTBEAT_SEQNO: i64 = -1;

/// Head of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketHeader {
    /// Offset of the data in the block.
    pub offset_in_block: u64,
    /// Sequence number in the pipeline.
    pub seqno: i64,
    /// Ends the block.
    pub last_packet_in_block: bool,
    /// Bytes of data.
    pub data_len: u32,
    /// Sync to disk before acknowledging.
    pub sync_block: bool,
    /// Bytes from the offset that become zeros; only in a packet without data, and only with random access.
    pub zero_len: u64,
}

/// The two lengths at the start of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketLengths {
    /// Bytes of checksums and data together.
    pub payload_len: usize,
    /// Bytes of the header.
    pub header_len: usize,
}

/// A packet that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// PLEN below its own size or over the limit.
    #[error("packet length {0} out of range")]
    Length(u32),
    /// HLEN over the limit.
    #[error("packet header of {0} bytes is too long")]
    HeaderLength(u16),
    /// Header does not decode.
    #[error("packet header does not decode: {0}")]
    Header(String),
    /// Negative or impossible field.
    #[error("packet header field {0} out of range")]
    Field(&'static str),
    /// The header announces more data than the packet holds.
    #[error("packet announces {data_len} data bytes in a payload of {payload_len}")]
    DataLength {
        /// Announced.
        data_len: u32,
        /// Present.
        payload_len: usize,
    },
}

impl PacketLengths {
    /// Reads PLEN and HLEN and checks their limits, before anything is allocated.
    pub fn decode(raw: [u8; PACKET_LENGTHS_BYTES]) -> Result<Self, PacketError> {
        let plen = u32::from_be_bytes([raw[0], raw[1], raw[2], raw[3]]);
        let hlen = u16::from_be_bytes([raw[4], raw[5]]);
        let payload_len = (plen as usize).checked_sub(PLEN_BYTES).ok_or(PacketError::Length(plen))?;
        if payload_len > MAX_PACKET_PAYLOAD_BYTES {
            return Err(PacketError::Length(plen));
        }
        if usize::from(hlen) > MAX_PACKET_HEADER_BYTES {
            return Err(PacketError::HeaderLength(hlen));
        }
        Ok(Self { payload_len, header_len: usize::from(hlen) })
    }

    /// Decodes the header and returns it with the number of checksum bytes that follow it.
    pub fn decode_header(&self, raw: &[u8]) -> Result<(PacketHeader, usize), PacketError> {
        let proto = PacketHeaderProto::decode(raw).map_err(|e| PacketError::Header(e.to_string()))?;
        let header = PacketHeader {
            offset_in_block: u64::try_from(proto.offset_in_block)
                .map_err(|_| PacketError::Field("offset_in_block"))?,
            seqno: proto.seqno,
            last_packet_in_block: proto.last_packet_in_block,
            data_len: u32::try_from(proto.data_len).map_err(|_| PacketError::Field("data_len"))?,
            sync_block: proto.sync_block.unwrap_or(false),
            zero_len: u64::try_from(proto.zero_len.unwrap_or(0))
                .map_err(|_| PacketError::Field("zero_len"))?,
        };
        let checksums_len = self
            .payload_len
            .checked_sub(header.data_len as usize)
            .ok_or(PacketError::DataLength { data_len: header.data_len, payload_len: self.payload_len })?;
        Ok((header, checksums_len))
    }
}

impl PacketHeader {
    /// Appends PLEN, HLEN and the header; `checksums_len` bytes of checksums and `data_len` bytes of
    /// data follow on the wire.
    ///
    /// # Panics
    /// If the payload is over [`MAX_PACKET_PAYLOAD_BYTES`]; senders cut packets far below it.
    pub fn encode(&self, checksums_len: usize, out: &mut Vec<u8>) {
        let payload = checksums_len + self.data_len as usize;
        assert!(payload <= MAX_PACKET_PAYLOAD_BYTES, "packet payload of {payload} bytes");
        let proto = PacketHeaderProto {
            offset_in_block: self.offset_in_block as i64,
            seqno: self.seqno,
            last_packet_in_block: self.last_packet_in_block,
            data_len: self.data_len as i32,
            sync_block: self.sync_block.then_some(true),
            zero_len: (self.zero_len > 0).then_some(self.zero_len as i64),
        };
        out.extend_from_slice(&((PLEN_BYTES + payload) as u32).to_be_bytes());
        out.extend_from_slice(&(proto.encoded_len() as u16).to_be_bytes());
        proto.encode_raw(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let header = PacketHeader {
            offset_in_block: 0x1_0000,
            seqno: 3,
            last_packet_in_block: false,
            data_len: 512,
            sync_block: true,
            zero_len: 0,
        };
        let mut out = Vec::new();
        header.encode(4, &mut out);
        #[rustfmt::skip]
        let expected = [
            0, 0, 0x02, 0x08,                      // PLEN = 4 + 4 + 512
            0, 27,                                 // HLEN
            0x09, 0, 0, 1, 0, 0, 0, 0, 0,          // offset_in_block, sfixed64
            0x11, 3, 0, 0, 0, 0, 0, 0, 0,          // seqno, sfixed64
            0x18, 0,                               // last_packet_in_block
            0x25, 0, 2, 0, 0,                      // data_len, sfixed32
            0x28, 1,                               // sync_block
        ];
        assert_eq!(out, expected);
        let lengths = PacketLengths::decode(out[..6].try_into().expect("six bytes")).expect("valid");
        assert_eq!(lengths, PacketLengths { payload_len: 516, header_len: 27 });
        assert_eq!(lengths.decode_header(&out[6..]), Ok((header, 4)));
    }

    #[test]
    fn golden_bytes_of_a_zero_packet() {
        let header = PacketHeader {
            offset_in_block: 0x1000,
            seqno: 4,
            last_packet_in_block: false,
            data_len: 0,
            sync_block: false,
            zero_len: 0x2000,
        };
        let mut out = Vec::new();
        header.encode(0, &mut out);
        #[rustfmt::skip]
        let expected = [
            0, 0, 0, 4,                            // PLEN: nothing but itself
            0, 35,                                 // HLEN
            0x09, 0, 0x10, 0, 0, 0, 0, 0, 0,       // offset_in_block, sfixed64
            0x11, 4, 0, 0, 0, 0, 0, 0, 0,          // seqno, sfixed64
            0x18, 0,                               // last_packet_in_block
            0x25, 0, 0, 0, 0,                      // data_len, sfixed32
            0xc1, 0x3e, 0, 0x20, 0, 0, 0, 0, 0, 0, // zero_len, sfixed64
        ];
        assert_eq!(out, expected);
        let lengths = PacketLengths::decode(out[..6].try_into().expect("six bytes")).expect("valid");
        assert_eq!(lengths.decode_header(&out[6..]), Ok((header, 0)));
    }

    #[test]
    fn impossible_lengths_are_refused() {
        assert_eq!(PacketLengths::decode([0, 0, 0, 3, 0, 0]), Err(PacketError::Length(3)));
        assert_eq!(PacketLengths::decode([0xff; 6]), Err(PacketError::Length(u32::MAX)));
        assert_eq!(PacketLengths::decode([0, 0, 0, 4, 0xff, 0xff]), Err(PacketError::HeaderLength(0xffff)));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(raw: [u8; 6], header in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(lengths) = PacketLengths::decode(raw)
                && let Ok((decoded, checksums_len)) = lengths.decode_header(&header)
            {
                prop_assert_eq!(checksums_len + decoded.data_len as usize, lengths.payload_len);
            }
        }
    }
}
