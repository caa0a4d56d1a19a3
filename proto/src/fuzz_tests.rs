//! Fuzzing of what crosses wires: frames, headers and packets of the data transfer protocol.

use std::io::Cursor;

use prost::Message;
use tonic::Status;

use crate::data_transfer::{
    OP_PREFIX_BYTES, Op, decode_length, decode_op_prefix, encode_delimited, encode_op, read_delimited,
};
use crate::framing::{
    Answer, Request, decode_answer, decode_request, encode_abandon, encode_call, encode_message,
    encode_refusal, split_frame,
};
use crate::fuzzing::{fuzz, fuzz_from};
use crate::packet::{PACKET_LENGTHS_BYTES, PacketHeader, PacketLengths};
use crate::{ErrorKind, RpcError, transfer, v1};

#[test]
fn fuzzed_frames_of_clients() {
    let mut call = Vec::new();
    encode_call(&mut call, 7, "/dfs.v1.ClientProtocol/Open", [&[0, 0, 0, 0, 3][..], b"abc"])
        .expect("a frame");
    let mut abandoned = Vec::new();
    encode_abandon(&mut abandoned, 7);
    fuzz("frames of clients", &[call, abandoned], |input| match split_frame(input) {
        Ok(Ok(frame)) => match decode_request(frame) {
            Ok(Request::Call { id, path, message }) => {
                let mut again = Vec::new();
                encode_call(&mut again, id, path, [message]).expect("a frame that was decoded");
                assert_eq!(again[4..], *frame);
                true
            }
            Ok(Request::Abandon { .. }) => true,
            Err(_) => false,
        },
        Ok(Err(missing)) => {
            assert!(missing > 0);
            false
        }
        Err(_) => false,
    });
}

#[test]
fn fuzzed_frames_of_namenodes() {
    let mut good = Vec::new();
    let changed = Some(v1::LogPosition { term: 1, node_id: 2, index: 3 });
    encode_message(&mut good, 7, changed, [&[0, 0, 0, 0, 3][..], b"abc"]).expect("a frame");
    let mut bad = Vec::new();
    let status = RpcError::new(ErrorKind::NotFound, "/a", "it never was").to_status();
    encode_refusal(&mut bad, 9, 5, status.message(), status.details()).expect("a frame");
    fuzz("frames of namenodes", &[good, bad], |input| match split_frame(input) {
        Ok(Ok(frame)) => match decode_answer(frame) {
            Ok((_, Answer::Message { .. })) => true,
            Ok((_, Answer::Refused { code, text, details })) => {
                let details = bytes::Bytes::copy_from_slice(details);
                let status = Status::with_details(i32::from(code).into(), text, details);
                let error = RpcError::from_status(&status);
                assert!(!error.kind.text().is_empty());
                true
            }
            Err(_) => false,
        },
        Ok(Err(_)) | Err(_) => false,
    });
}

#[test]
fn fuzzed_packets() {
    let header = |offset_in_block, data_len, zero_len| {
        let header = PacketHeader {
            offset_in_block,
            seqno: 3,
            last_packet_in_block: false,
            data_len,
            sync_block: true,
            zero_len,
        };
        let mut out = Vec::new();
        header.encode(16, &mut out);
        out
    };
    fuzz("packets", &[header(0x1_0000, 512, 0), header(0, 0, 9), header(1 << 40, 1 << 20, 0)], |input| {
        let Some((lengths, rest)) = input.split_first_chunk::<PACKET_LENGTHS_BYTES>() else { return false };
        let Ok(lengths) = PacketLengths::decode(*lengths) else { return false };
        let Some(raw) = rest.get(..lengths.header_len) else { return false };
        let Ok((header, checksums)) = lengths.decode_header(raw) else { return false };
        assert_eq!(checksums + header.data_len as usize, lengths.payload_len);
        true
    });
}

/// Whether `M` reads `input` as an operation's header, as a server does it.
fn reads<M: Message + Default + PartialEq>(input: &[u8]) -> bool {
    if let Some((prefix, _)) = input.split_first_chunk::<OP_PREFIX_BYTES>()
        && decode_op_prefix(*prefix).is_err()
    {
        return false;
    }
    let rest = input.get(OP_PREFIX_BYTES..).unwrap_or_default();
    // Room is made for what a length announces, up to its limit, before that has come; no more than the limit, and the
    // rest of this test is about what has come.
    match decode_length(rest) {
        Ok(Some((prefix, length))) if rest.len() >= prefix + length => {}
        Ok(_) | Err(_) => return false,
    }
    let message = read_delimited::<M>(&mut Cursor::new(rest));
    message.is_ok_and(|message| comes_back(&message))
}

/// Whether what `message` is written as is read as the same.
pub(crate) fn comes_back<M: Message + Default + PartialEq>(message: &M) -> bool {
    let again = M::decode(message.encode_to_vec().as_slice());
    // A number that is not one equals nothing.
    assert!(again.is_ok_and(|again| again.encode_to_vec() == message.encode_to_vec()));
    true
}

fn block() -> transfer::BaseHeaderProto {
    let block = transfer::ExtendedBlockProto {
        pool_id: "BP-1".into(),
        block_id: 1_073_741_825,
        generation_stamp: 1_001,
        num_bytes: Some(77),
    };
    transfer::BaseHeaderProto { block, token: None }
}

fn client() -> transfer::ClientOperationHeaderProto {
    transfer::ClientOperationHeaderProto { base_header: block(), client_name: "c".into() }
}

fn datanode() -> v1::DatanodeInfo {
    v1::DatanodeInfo { uuid: "u".into(), ip: "10.0.0.1".into(), xfer_port: 9866, ..Default::default() }
}

#[test]
fn fuzzed_headers_of_reads() {
    let read = transfer::OpReadBlockProto {
        header: client(),
        offset: 5,
        len: 9,
        send_checksums: Some(true),
        ..Default::default()
    };
    fuzz("header of a read", &[encode_op(Op::ReadBlock, &read)], reads::<transfer::OpReadBlockProto>);
}

#[test]
fn fuzzed_headers_of_writes() {
    let write = transfer::OpWriteBlockProto {
        header: client(),
        targets: vec![(&datanode()).into(), (&datanode()).into()],
        source: Some((&datanode()).into()),
        stage: 6,
        pipeline_size: 3,
        target_storage_ids: vec!["DS-1".into(), "DS-2".into()],
        ..Default::default()
    };
    fuzz("header of a write", &[encode_op(Op::WriteBlock, &write)], reads::<transfer::OpWriteBlockProto>);
}

#[test]
fn fuzzed_headers_of_copies() {
    let copy = transfer::OpTransferBlockProto {
        header: client(),
        targets: vec![(&datanode()).into()],
        target_storage_ids: vec!["DS-1".into()],
    };
    fuzz("header of a copy", &[encode_op(Op::TransferBlock, &copy)], reads::<transfer::OpTransferBlockProto>);
}

#[test]
fn fuzzed_headers_of_checksums() {
    let checksum = transfer::OpBlockChecksumProto { header: block(), verify: None };
    let valid = [encode_op(Op::BlockChecksum, &checksum)];
    fuzz("header of a checksum", &valid, reads::<transfer::OpBlockChecksumProto>);
}

#[test]
fn fuzzed_headers_of_local_reads() {
    let local = transfer::OpRequestShortCircuitAccessProto {
        header: block(),
        max_version: 1,
        content_up_to: Some(65_536),
    };
    let valid = [encode_op(Op::RequestShortCircuitFds, &local)];
    fuzz("header of a local read", &valid, reads::<transfer::OpRequestShortCircuitAccessProto>);
}

#[test]
fn fuzzed_acknowledgements() {
    let ack = transfer::PipelineAckProto { seqno: 2, reply: vec![0, 2], ..Default::default() };
    let valid = [encode_op(Op::ReadBlock, &ack)];
    fuzz("acknowledgement", &valid, reads::<transfer::PipelineAckProto>);
}

/// The end of a read, where a header would be.
fn end_of_a_read() -> Vec<u8> {
    let mut out = encode_op(Op::ReadBlock, &transfer::BlockOpResponseProto::default());
    out.truncate(OP_PREFIX_BYTES);
    encode_delimited(&transfer::ClientReadStatusProto { status: 6 }, &mut out);
    out
}

#[test]
fn fuzzed_ends_of_reads() {
    fuzz("end of a read", &[end_of_a_read()], reads::<transfer::ClientReadStatusProto>);
}

#[test]
fn fuzzed_answers_to_operations() {
    fuzz_from("answer to an operation", &[end_of_a_read()], reads::<transfer::BlockOpResponseProto>);
}
