//! The datanode's side of the data transfer protocol.

use std::io;

use dfs_proto::data_transfer::encode_delimited;
use dfs_proto::packet::{PACKET_LENGTHS_BYTES, PacketHeader, PacketLengths};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

pub type Socket = BufReader<TcpStream>;

fn invalid<E: std::error::Error + Send + Sync + 'static>(error: E) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

pub async fn read_message<M: Message + Default>(socket: &mut Socket) -> io::Result<M> {
    let mut length = 0usize;
    for shift in 0.. {
        let byte = socket.read_u8().await?;
        length |= usize::from(byte & 0x7f) << (7 * shift);
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut raw = vec![0; length];
    socket.read_exact(&mut raw).await?;
    M::decode(raw.as_slice()).map_err(invalid)
}

pub async fn send_message(socket: &mut Socket, message: &impl Message) -> io::Result<()> {
    let mut out = Vec::new();
    encode_delimited(message, &mut out);
    socket.write_all(&out).await
}

pub async fn read_packet(socket: &mut Socket) -> io::Result<(PacketHeader, Vec<u8>, Vec<u8>)> {
    let mut raw = [0; PACKET_LENGTHS_BYTES];
    socket.read_exact(&mut raw).await?;
    let lengths = PacketLengths::decode(raw).map_err(invalid)?;
    let mut header = vec![0; lengths.header_len];
    socket.read_exact(&mut header).await?;
    let (header, sums_len) = lengths.decode_header(&header).map_err(invalid)?;
    let mut sums = vec![0; sums_len];
    socket.read_exact(&mut sums).await?;
    let mut data = vec![0; header.data_len as usize];
    socket.read_exact(&mut data).await?;
    Ok((header, sums, data))
}

pub async fn send_packet(
    socket: &mut Socket,
    offset: u64,
    seqno: i64,
    sums: &[u8],
    data: &[u8],
    last: bool,
) -> io::Result<()> {
    let header = PacketHeader {
        offset_in_block: offset,
        seqno,
        last_packet_in_block: last,
        data_len: data.len() as u32,
        sync_block: false,
        zero_len: 0,
    };
    let mut out = Vec::new();
    header.encode(sums.len(), &mut out);
    out.extend_from_slice(sums);
    out.extend_from_slice(data);
    socket.write_all(&out).await
}
