//! What a port must survive: other protocols, random bytes, and messages of our own that are cut off
//! or lie about their length. Each salvo is one connection: bytes are written, what comes back is read
//! until the server closes or a short time is over, then the connection is cut.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use dfs_proto::data_transfer::{DATA_TRANSFER_VERSION, MAX_MESSAGE_BYTES, Op, encode_op};
use dfs_proto::packet::{MAX_PACKET_PAYLOAD_BYTES, PacketHeader};
use dfs_proto::transfer::{
    BaseHeaderProto, ChecksumProto, ChecksumTypeProto, ClientOperationHeaderProto, ExtendedBlockProto,
    OpReadBlockProto, OpWriteBlockProto,
};

use crate::rng::Rng;

/// How long a salvo listens for an answer. Servers may keep a connection open that sent half a message.
const LISTEN: Duration = Duration::from_millis(60);

/// Longest answer that is read; a server that says more to nonsense is cut off.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Random salvoes of each volley.
const RANDOM_SALVOES: usize = 12;

/// One connection's worth of bytes, with a name for messages.
#[derive(Clone, Debug)]
pub struct Salvo {
    /// What it is.
    pub name: String,
    /// What is sent.
    pub bytes: Vec<u8>,
}

impl Salvo {
    fn new(name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.to_owned(), bytes: bytes.into() }
    }
}

/// Sends one salvo and answers what came back.
pub fn fire(address: SocketAddr, salvo: &Salvo) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LISTEN))?;
    stream.set_write_timeout(Some(LISTEN))?;
    // The server may close before it has read everything: that is an answer, not a failure.
    let _ = stream.write_all(&salvo.bytes);
    let mut answer = Vec::new();
    let mut buffer = [0u8; 4096];
    while answer.len() < MAX_ANSWER_BYTES {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
    Ok(answer)
}

/// Sends all `salvoes` to every one of `ports`, all ports at once.
pub async fn bombard(ports: Vec<(String, SocketAddr)>, salvoes: &[Salvo]) -> Result<()> {
    let attacks = ports.into_iter().map(|(name, address)| {
        let salvoes = salvoes.to_vec();
        tokio::task::spawn_blocking(move || -> Result<()> {
            for salvo in &salvoes {
                fire(address, salvo).with_context(|| format!("{} at {name}", salvo.name))?;
            }
            Ok(())
        })
    });
    for attack in futures::future::join_all(attacks).await {
        attack??;
    }
    Ok(())
}

/// Everything that any port gets: foreign protocols, nonsense, and our own protocols in the wrong place.
pub fn volley(seed: u64) -> Vec<Salvo> {
    let mut salvoes = vec![
        Salvo::new("nothing", []),
        Salvo::new("one byte", [0u8]),
        Salvo::new("HTTP GET", "GET / HTTP/1.1\r\nHost: dfs\r\n\r\n"),
        Salvo::new(
            "HTTP with an endless header",
            [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 300_000]].concat(),
        ),
        Salvo::new("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        Salvo::new("HTTP/2 preface and a huge frame", http2_frame(0xff_ffff, 0, 1)),
        Salvo::new("HTTP/2 preface and a cut frame", http2_frame(100, 1, 1)),
        Salvo::new("TLS hello", [0x16, 3, 1, 0x02, 0, 1, 0, 1, 0xfc, 3, 3]),
        Salvo::new("zeros", vec![0u8; 100_000]),
        Salvo::new("ones", vec![0xffu8; 100_000]),
    ];
    salvoes.extend(data_transfer_lies());
    let mut rng = Rng::new(seed);
    for number in 0..RANDOM_SALVOES {
        let len = 1 + rng.index(40_000);
        salvoes.push(Salvo { name: format!("random bytes {number}"), bytes: rng.bytes(len) });
    }
    salvoes
}

/// The preface, then a frame header that announces `len` bytes of frame type `kind` on `stream`.
fn http2_frame(len: u32, kind: u8, stream: u32) -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    out.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&len.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, 4]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&[0x55; 40]);
    out
}

/// Data transfer operations that are cut off, too long, of another version, or about nothing.
fn data_transfer_lies() -> Vec<Salvo> {
    let version = DATA_TRANSFER_VERSION.to_be_bytes();
    let prefix = |op: u8| [version[0], version[1], op];
    let read = encode_op(Op::ReadBlock, &read_of(u64::MAX, u64::MAX, u64::MAX));
    let write = encode_op(Op::WriteBlock, &write_of(u64::MAX));
    let mut oversized = prefix(80).to_vec();
    prost::encode_length_delimiter(MAX_MESSAGE_BYTES + 1, &mut oversized).expect("a Vec grows");
    let mut lying = prefix(81).to_vec();
    prost::encode_length_delimiter(MAX_MESSAGE_BYTES, &mut lying).expect("a Vec grows");
    lying.extend_from_slice(&[7; 100]);
    let mut other_version = read.clone();
    other_version[1] = 29;
    vec![
        Salvo::new("op prefix only", prefix(80)),
        Salvo::new("unknown op", prefix(1)),
        Salvo::new("header length without end", [prefix(80).as_slice(), &[0xff; 20]].concat()),
        Salvo::new("oversized header", oversized),
        Salvo::new("header shorter than announced", lying),
        Salvo::new("other protocol version", other_version),
        Salvo::new("cut read header", read[..read.len() / 2].to_vec()),
        Salvo::new("read of a block that is not there", read),
        Salvo::new("cut write header", write[..write.len() / 2].to_vec()),
        Salvo::new(
            "write and a packet of impossible length",
            [write.as_slice(), &[0xff; 6], &[0; 64]].concat(),
        ),
        Salvo::new("write and a cut packet", [write.as_slice(), &cut_packet()].concat()),
        Salvo::new("write and nothing", write),
        Salvo::new("header that does not decode", [prefix(80).as_slice(), &[8], &[0xff; 8]].concat()),
    ]
}

/// The start of the largest packet allowed, without the rest.
fn cut_packet() -> Vec<u8> {
    let header = PacketHeader {
        offset_in_block: 0,
        seqno: 0,
        last_packet_in_block: false,
        data_len: (MAX_PACKET_PAYLOAD_BYTES - 4) as u32,
        sync_block: false,
        zero_len: 0,
    };
    let mut out = Vec::new();
    header.encode(4, &mut out);
    out.extend_from_slice(&[9; 1000]);
    out
}

fn client_header(block_id: u64, stamp: u64) -> ClientOperationHeaderProto {
    let block = ExtendedBlockProto {
        pool_id: "no-such-pool".to_owned(),
        block_id,
        generation_stamp: stamp,
        num_bytes: None,
    };
    ClientOperationHeaderProto {
        base_header: BaseHeaderProto { block, token: None },
        client_name: "hostile".to_owned(),
    }
}

/// A read of `len` bytes at `offset` of a block that no cluster has.
fn read_of(block_id: u64, offset: u64, len: u64) -> OpReadBlockProto {
    OpReadBlockProto {
        header: client_header(block_id, 1),
        offset,
        len,
        send_checksums: Some(true),
        ..OpReadBlockProto::default()
    }
}

/// A write of a block that no namenode allocated.
fn write_of(block_id: u64) -> OpWriteBlockProto {
    OpWriteBlockProto {
        header: client_header(block_id, 1),
        requested_checksum: ChecksumProto {
            r#type: ChecksumTypeProto::ChecksumCrc32.into(),
            bytes_per_checksum: u32::MAX,
        },
        ..OpWriteBlockProto::default()
    }
}
