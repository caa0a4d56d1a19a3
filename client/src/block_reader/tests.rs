use super::*;

use std::time::Duration;

use dfs_proto::data_transfer::decode_op_prefix;
use dfs_proto::transfer::ReadOpChecksumInfoProto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(20);

/// Data of one packet: several pieces, and not a whole number of them.
const PACKET: usize = 4 * READ_PIECE_BYTES + 8192;

fn data() -> Vec<u8> {
    (0..3 * PACKET + 100).map(|i| (i ^ (i >> 8) ^ (i >> 16).wrapping_mul(31)) as u8).collect()
}

/// What a datanode sends for the whole of `data`; with `flip`, that byte is damaged.
fn response(flip: Option<usize>) -> Vec<u8> {
    let checksum = Checksum::default();
    let info = ReadOpChecksumInfoProto { checksum: checksum.to_proto(), chunk_offset: 0 };
    let ready = BlockOpResponseProto {
        status: Status::Success.into(),
        read_op_checksum_info: Some(info),
        ..Default::default()
    };
    let mut out = Vec::new();
    encode_delimited(&ready, &mut out);
    let (data, mut offset) = (data(), 0);
    for (seqno, piece) in data.chunks(PACKET).chain([&[][..]]).enumerate() {
        let header = PacketHeader {
            offset_in_block: offset as u64,
            seqno: seqno as i64,
            last_packet_in_block: piece.is_empty(),
            data_len: piece.len() as u32,
            sync_block: false,
            zero_len: 0,
        };
        header.encode(checksum.checksums_len(piece.len()), &mut out);
        checksum.append_checksums(piece, &mut out);
        out.extend_from_slice(piece);
        if let Some(at) = flip.and_then(|at| at.checked_sub(offset)).filter(|at| *at < piece.len()) {
            let start = out.len() - piece.len();
            out[start + at] ^= 1;
        }
        offset += piece.len();
    }
    out
}

/// A reader of `range`, and a server that answers it with `response` whatever it asks.
async fn reader(range: BlockRange, response: Vec<u8>) -> BlockReader {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("accepts");
        let mut prefix = [0; 3];
        socket.read_exact(&mut prefix).await.expect("asked");
        assert!(matches!(decode_op_prefix(prefix), Ok(Op::ReadBlock)));
        // A reader that found damage hangs up.
        let _ = socket.write_all(&response).await;
        // Open until the reader hangs up.
        let _ = socket.read_to_end(&mut Vec::new()).await;
    });
    let connection = DataConnection::connect(address, PATIENCE, PATIENCE).await.expect("connects");
    let block =
        ExtendedBlockProto { pool_id: "BP".into(), block_id: 1, generation_stamp: 1, num_bytes: None };
    BlockReader::open(connection, block, "test", range).await.expect("opens")
}

#[tokio::test]
async fn a_sequential_read_goes_through_one_small_buffer() {
    let (data, pool) = (data(), BufferPool::new(READ_PIECE_BYTES));
    let (offset, len) = (1000, data.len() - 1000);
    let mut reader = reader(BlockRange { offset: 1000, len: len as u64 }, response(None)).await;
    let mut content = Vec::new();
    let mut places = Vec::new();
    while let Some(bytes) = reader.next_bytes(&pool).await.expect("reads") {
        assert!(bytes.len() <= READ_PIECE_BYTES, "{}", bytes.len());
        // The first piece begins in mid-chunk.
        places.push(bytes.as_ptr() as usize - if content.is_empty() { offset } else { 0 });
        content.extend_from_slice(&bytes);
    }
    assert!(content == data[offset..]);
    assert_eq!(places.len(), 3 * 5 + 1);
    assert!(places.iter().all(|place| *place == places[0]), "always the same memory");
    reader.finish().await.expect("the connection can be used again");
}

#[tokio::test]
async fn ranges_of_large_packets_are_filled_in() {
    let (data, pool) = (data(), BufferPool::new(READ_PIECE_BYTES));
    let mut reader = reader(BlockRange { offset: 1, len: data.len() as u64 - 1 }, response(None)).await;
    let mut into = vec![0; data.len() - 1];
    reader.fill(&mut into, &pool).await.expect("reads");
    assert!(into == data[1..]);
    reader.finish().await.expect("the connection can be used again");
}

#[tokio::test]
async fn nothing_of_a_damaged_piece_is_handed_out() {
    let (data, pool) = (data(), BufferPool::new(READ_PIECE_BYTES));
    let flip = PACKET + 2 * READ_PIECE_BYTES + 10_000;
    let mut reader = reader(BlockRange { offset: 0, len: data.len() as u64 }, response(Some(flip))).await;
    let mut content = Vec::new();
    let fault = loop {
        match reader.next_bytes(&pool).await {
            Ok(bytes) => content.extend_from_slice(&bytes.expect("not at the end")),
            Err(fault) => break fault,
        }
    };
    assert!(fault.is_corruption(), "{fault}");
    assert!(content == data[..PACKET + 2 * READ_PIECE_BYTES], "all pieces before it");
    assert_eq!(reader.position(), content.len() as u64);
}
