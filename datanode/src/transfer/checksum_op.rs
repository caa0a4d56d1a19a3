//! Op 85, checksum of a replica: the CRC of all its data, composed of the stored chunk CRCs without reading
//! the data. It does not depend on the chunk size, so files written with different ones compare.
//!
//! Composing: a CRC is a remainder modulo a polynomial P over GF(2), so crc(A B) =
//! crc(A) * x^(8 * len(B)) mod P, plus crc(B); pre- and post-inversion cancel out. The factor is the same for all whole
//! chunks. Polynomials are held reflected: the highest bit is the coefficient of x^0.

use dfs_proto::checksum::{CHECKSUM_BYTES, ChecksumKind};
use dfs_proto::data_transfer::{Op, encode_op};
use dfs_proto::transfer::{
    BlockOpResponseProto, DatanodeInfoProto, OpBlockChecksumProto, OpBlockChecksumResponseProto, Status,
};

use super::net::Connection;
use super::peers::{address_of, at, of_peer};
use super::{Shared, failure};
use crate::error::DatanodeError;
use crate::replica::BlockRef;

/// CRC-32's polynomial, reflected.
const CRC32_POLYNOMIAL: u32 = 0xedb8_8320;
/// CRC-32C's polynomial, reflected.
const CRC32C_POLYNOMIAL: u32 = 0x82f6_3b78;

/// Serves the operation; the connection can go on.
pub fn block_checksum(
    shared: &Shared,
    client: &mut Connection,
    op: &OpBlockChecksumProto,
) -> Result<(), DatanodeError> {
    let answer = match compute(shared, op) {
        Ok(checksum) => BlockOpResponseProto {
            status: Status::Success.into(),
            checksum_response: Some(checksum),
            ..Default::default()
        },
        Err(error) => {
            tracing::info!(%error, "checksum refused");
            failure(&error, String::new())
        }
    };
    client.send_message(&answer)?;
    Ok(())
}

/// Checksum of the first `length` bytes of a replica, here or at another datanode.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContentSum {
    kind: i32,
    sum: Vec<u8>,
}

/// Asks a datanode for the checksum of the first `length` bytes, at least one, of a replica of its. With `verify` it reads them, too,
/// and refuses if they do not fit their checksums.
pub fn content_sum(
    shared: &Shared,
    datanode: &DatanodeInfoProto,
    block: BlockRef,
    length: u64,
    verify: bool,
) -> Result<ContentSum, DatanodeError> {
    let op = OpBlockChecksumProto { header: shared.header_for(block, length), verify: Some(verify) };
    let addr = address_of(datanode)?;
    let answer = if datanode.id.datanode_uuid == shared.dataset.uuid() {
        compute(shared, &op)?
    } else {
        let wait = shared.config.peer_timeout;
        let mut connection = shared.peers.connect(addr)?;
        connection.set_timeout(wait).map_err(at(addr))?;
        connection.send(&encode_op(Op::BlockChecksum, &op)).map_err(at(addr))?;
        let answer: BlockOpResponseProto = connection.read_message(wait).map_err(of_peer(addr))?;
        let (status, message) = (answer.status(), answer.message.unwrap_or_default());
        let sum = answer.checksum_response.filter(|_| status == Status::Success);
        sum.ok_or(DatanodeError::PeerStatus { peer: addr, status, message })?
    };
    Ok(ContentSum { kind: answer.crc_type().into(), sum: answer.block_checksum.to_vec() })
}

fn compute(
    shared: &Shared,
    op: &OpBlockChecksumProto,
) -> Result<OpBlockChecksumResponseProto, DatanodeError> {
    let block = shared.block_of(&op.header)?;
    // A length in the request asks for a prefix; zero stands for all.
    let asked = op.header.block.num_bytes.filter(|length| *length > 0);
    if op.verify() {
        shared.dataset.verify_prefix(block, asked)?;
    }
    let (checksum, sums, length) = shared.dataset.prefix_checksums(block, asked)?;
    let crc = compose(checksum.kind(), &sums, length, checksum.bytes_per_checksum() as u64);
    let proto = checksum.to_proto();
    Ok(OpBlockChecksumResponseProto {
        bytes_per_crc: proto.bytes_per_checksum,
        crc_per_block: (sums.len() / CHECKSUM_BYTES) as u64,
        block_checksum: crc.to_be_bytes().to_vec().into(),
        crc_type: Some(proto.r#type),
    })
}

/// CRC of `length` bytes whose chunks of `chunk` bytes have the CRCs in `sums`.
fn compose(kind: ChecksumKind, sums: &[u8], length: u64, chunk: u64) -> u32 {
    let polynomial = match kind {
        ChecksumKind::Null => return 0,
        ChecksumKind::Crc32 => CRC32_POLYNOMIAL,
        ChecksumKind::Crc32c => CRC32C_POLYNOMIAL,
    };
    let whole = shift(polynomial, chunk.min(length));
    let last = shift(polynomial, if length.is_multiple_of(chunk) { chunk } else { length % chunk });
    let mut parts = sums.chunks_exact(CHECKSUM_BYTES).peekable();
    let mut crc = 0;
    while let Some(part) = parts.next() {
        let part = u32::from_be_bytes([part[0], part[1], part[2], part[3]]);
        let factor = if parts.peek().is_some() { whole } else { last };
        crc = multiply(polynomial, factor, crc) ^ part;
    }
    crc
}

/// x^(8 * bytes) mod P.
fn shift(polynomial: u32, bytes: u64) -> u32 {
    const ONE: u32 = 1 << 31;
    let mut square = ONE >> 8;
    let mut result = ONE;
    let mut left = bytes;
    while left > 0 {
        if left & 1 == 1 {
            result = multiply(polynomial, square, result);
        }
        square = multiply(polynomial, square, square);
        left >>= 1;
    }
    result
}

/// a * b mod P.
fn multiply(polynomial: u32, a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    for bit in (0..32).rev() {
        if a >> bit & 1 == 1 {
            product ^= b;
        }
        // b * x: the coefficient of x^31 moves out and is reduced.
        b = if b & 1 == 1 { (b >> 1) ^ polynomial } else { b >> 1 };
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::checksum::Checksum;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn composed_equals_computed(data in proptest::collection::vec(any::<u8>(), 0..3000), chunk in 1u32..700) {
            for kind in [ChecksumKind::Crc32, ChecksumKind::Crc32c] {
                let checksum = Checksum::new(kind, chunk).expect("valid");
                let mut sums = Vec::new();
                checksum.append_checksums(&data, &mut sums);
                let composed = compose(kind, &sums, data.len() as u64, u64::from(chunk));
                prop_assert_eq!(composed, checksum.of(&data));
            }
        }
    }
}
