//! `blk_<id>_<stamp>.meta`: checksums of a replica. HDFS's format, so that its files can be moved over.
//!
//! | offset    | size | field              | rule                                             |
//! |-----------|------|--------------------|--------------------------------------------------|
//! | 0         | 2    | version            | big-endian, 1                                    |
//! | 2         | 1    | checksum type      | 0 none, 1 CRC-32, 2 CRC-32C                      |
//! | 3         | 4    | bytes per checksum | big-endian, 1 to 1 MiB                           |
//! | 7 + 4 * i | 4    | checksum of chunk i| big-endian; the last chunk may be short          |
//!
//! Order of writes, so that a crash loses nothing that was acknowledged: a growing replica writes data
//! first, then checksums; a replica being cut writes checksums first, then cuts the data. Either way
//! the data is never shorter than what the last checksum covers, and [`good_length`] finds that
//! length again: all chunks that match, then the longest prefix of the next chunk that matches its
//! checksum. What a crash can tear is therefore only what no checksum covers yet.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use dfs_proto::checksum::{CHECKSUM_BYTES, Checksum, ChecksumKind};
use dfs_proto::transfer::ChecksumProto;

pub use dfs_proto::data_transfer::META_HEADER_BYTES;

/// Version of the format.
const META_VERSION: u16 = 1;

/// Data read at a time while a replica is verified.
const VERIFY_BYTES: usize = 1 << 20;

/// A `.meta` file that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// Shorter than its header.
    #[error("meta file of {0} bytes has no header")]
    Short(usize),
    /// Another format.
    #[error("meta file version {0}")]
    Version(u16),
    /// Checksum parameters out of range.
    #[error("meta file with checksum type {kind} over {bytes_per_checksum} bytes")]
    Parameters {
        /// Type.
        kind: u8,
        /// Chunk size.
        bytes_per_checksum: u32,
    },
    /// Fewer checksums than the data has chunks.
    #[error("meta file has no checksum for byte {0}")]
    Missing(u64),
}

/// The header for a checksum.
pub fn encode_header(checksum: Checksum) -> [u8; META_HEADER_BYTES] {
    let kind = match checksum.kind() {
        ChecksumKind::Null => 0,
        ChecksumKind::Crc32 => 1,
        ChecksumKind::Crc32c => 2,
    };
    let size = checksum.to_proto().bytes_per_checksum.to_be_bytes();
    let version = META_VERSION.to_be_bytes();
    [version[0], version[1], kind, size[0], size[1], size[2], size[3]]
}

/// Reads the header from the start of a file.
pub fn decode_header(raw: &[u8]) -> Result<Checksum, MetaError> {
    let Some(raw) = raw.first_chunk::<META_HEADER_BYTES>() else {
        return Err(MetaError::Short(raw.len()));
    };
    let version = u16::from_be_bytes([raw[0], raw[1]]);
    if version != META_VERSION {
        return Err(MetaError::Version(version));
    }
    let bytes_per_checksum = u32::from_be_bytes([raw[3], raw[4], raw[5], raw[6]]);
    Checksum::from_proto(&ChecksumProto { r#type: i32::from(raw[2]), bytes_per_checksum })
        .map_err(|_| MetaError::Parameters { kind: raw[2], bytes_per_checksum })
}

/// Where the checksum of the chunk that holds `data_offset` is.
pub fn checksum_offset(checksum: Checksum, data_offset: u64) -> u64 {
    let chunk = data_offset / checksum.bytes_per_checksum() as u64;
    META_HEADER_BYTES as u64 + chunk * checksum.checksum_size() as u64
}

/// Fills as much of `buf` as the file has from `offset` on.
pub fn read_up_to(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<usize> {
    let wanted = buf.len();
    while !buf.is_empty() {
        match file.read_at(buf, offset) {
            Ok(0) => break,
            Ok(n) => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(wanted - buf.len())
}

/// What [`good_length`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoodLength {
    /// Bytes that match their checksums.
    pub length: u64,
    /// Checksum of the last chunk if it is short, else 0.
    pub partial_sum: u32,
}

/// Length up to which `data` matches its checksums. `meta` has a valid header with `checksum`.
pub fn good_length(data: &File, meta: &File, checksum: Checksum) -> io::Result<GoodLength> {
    let chunk_len = checksum.bytes_per_checksum();
    let data_len = data.metadata()?.len();
    if checksum.kind() == ChecksumKind::Null {
        return Ok(GoodLength { length: data_len, partial_sum: 0 });
    }
    let sums_len = meta.metadata()?.len().saturating_sub(META_HEADER_BYTES as u64);
    let mut chunks_left = sums_len / CHECKSUM_BYTES as u64;
    let mut buf = vec![0u8; chunk_len * (VERIFY_BYTES / chunk_len).max(1)];
    let mut sums = vec![0u8; buf.len() / chunk_len * CHECKSUM_BYTES];
    let mut offset = 0;
    while chunks_left > 0 {
        let have = read_up_to(data, &mut buf, offset)?;
        let count = have.div_ceil(chunk_len).min(usize::try_from(chunks_left).unwrap_or(usize::MAX));
        if count == 0 {
            break;
        }
        let read = read_up_to(meta, &mut sums[..count * CHECKSUM_BYTES], checksum_offset(checksum, offset))?;
        let count = read / CHECKSUM_BYTES;
        for (chunk, sum) in
            buf[..have].chunks(chunk_len).zip(sums[..count * CHECKSUM_BYTES].chunks(CHECKSUM_BYTES))
        {
            let sum = u32::from_be_bytes([sum[0], sum[1], sum[2], sum[3]]);
            if chunk.len() == chunk_len && checksum.of(chunk) == sum {
                offset += chunk_len as u64;
                continue;
            }
            let prefix = longest_prefix(checksum, chunk, sum);
            let partial_sum = if prefix == 0 { 0 } else { sum };
            return Ok(GoodLength { length: offset + prefix as u64, partial_sum });
        }
        if count == 0 {
            break;
        }
        chunks_left -= count as u64;
    }
    Ok(GoodLength { length: offset.min(data_len), partial_sum: 0 })
}

/// Length of a replica that was written at any offset: what both files cover. Only the last chunk is looked at, since the
/// end is the only place where a step that was cut short shows (data first, then checksums): a longest prefix of it that
/// matches its checksum is what it had before. `meta` has a valid header with `checksum`.
pub fn covered_length(data: &File, meta: &File, checksum: Checksum) -> io::Result<GoodLength> {
    let chunk_len = checksum.bytes_per_checksum() as u64;
    let sums_len = meta.metadata()?.len().saturating_sub(META_HEADER_BYTES as u64);
    let covered = sums_len / CHECKSUM_BYTES as u64 * chunk_len;
    let length = data.metadata()?.len().min(covered);
    if length == 0 {
        return Ok(GoodLength { length: 0, partial_sum: 0 });
    }
    let start = (length - 1) - (length - 1) % chunk_len;
    let mut chunk = vec![0; (length - start) as usize];
    let have = read_up_to(data, &mut chunk, start)?;
    let mut sum = [0; CHECKSUM_BYTES];
    read_up_to(meta, &mut sum, checksum_offset(checksum, start))?;
    let sum = u32::from_be_bytes(sum);
    let prefix = longest_prefix(checksum, &chunk[..have], sum);
    // Nothing of it fits: damage, which stays to be found.
    let length = if prefix == 0 { length } else { start + prefix as u64 };
    Ok(GoodLength { length, partial_sum: 0 })
}

/// Length of the longest prefix of `chunk` whose checksum is `sum`; 0: none.
fn longest_prefix(checksum: Checksum, chunk: &[u8], sum: u32) -> usize {
    let mut running = 0;
    let mut longest = 0;
    for (i, byte) in chunk.iter().enumerate() {
        running = extend(checksum, running, std::slice::from_ref(byte));
        if running == sum {
            longest = i + 1;
        }
    }
    longest
}

/// Checksum of bytes with checksum `sum` followed by `more`.
pub fn extend(checksum: Checksum, sum: u32, more: &[u8]) -> u32 {
    match checksum.kind() {
        ChecksumKind::Null => 0,
        ChecksumKind::Crc32 => {
            let mut hasher = crc32fast::Hasher::new_with_initial(sum);
            hasher.update(more);
            hasher.finalize()
        }
        ChecksumKind::Crc32c => crc32c::crc32c_append(sum, more),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn checksum(kind: ChecksumKind) -> Checksum {
        Checksum::new(kind, 512).expect("valid")
    }

    fn files(data: &[u8], meta: &[u8]) -> (File, File) {
        let file = |content: &[u8]| {
            let mut file = tempfile::tempfile().expect("temporary file");
            file.write_all(content).expect("written");
            file
        };
        (file(data), file(meta))
    }

    fn meta_of(kind: ChecksumKind, data: &[u8]) -> Vec<u8> {
        let mut meta = encode_header(checksum(kind)).to_vec();
        checksum(kind).append_checksums(data, &mut meta);
        meta
    }

    #[test]
    fn golden_bytes() {
        #[rustfmt::skip]
        let expected = [
            0, 1,                    // version
            2,                       // CRC-32C
            0, 0, 2, 0,              // 512 bytes a checksum
            0xe3, 0x06, 0x92, 0x83,  // of "123456789"
        ];
        assert_eq!(meta_of(ChecksumKind::Crc32c, b"123456789"), expected);
        assert_eq!(decode_header(&expected), Ok(checksum(ChecksumKind::Crc32c)));
    }

    #[test]
    fn damaged_headers_are_refused() {
        let good = encode_header(checksum(ChecksumKind::Crc32));
        for cut in 0..good.len() {
            assert_eq!(decode_header(&good[..cut]), Err(MetaError::Short(cut)));
        }
        assert_eq!(decode_header(&[0, 2, 1, 0, 0, 2, 0]), Err(MetaError::Version(2)));
        for raw in [[0, 1, 3, 0, 0, 2, 0], [0, 1, 1, 0, 0, 0, 0], [0, 1, 1, 0xff, 0, 0, 0]] {
            assert!(matches!(decode_header(&raw), Err(MetaError::Parameters { .. })), "{raw:?}");
        }
    }

    #[test]
    fn the_good_length_survives_every_cut_of_data_and_checksums() {
        let content: Vec<u8> = (0..1300u32).map(|i| (i * 7 + i / 256) as u8).collect();
        for kind in [ChecksumKind::Crc32, ChecksumKind::Crc32c] {
            let meta = meta_of(kind, &content);
            for data_len in [0, 1, 511, 512, 513, 1024, 1299, 1300] {
                for meta_len in META_HEADER_BYTES..=meta.len() {
                    let (data, meta) = files(&content[..data_len], &meta[..meta_len]);
                    let found = good_length(&data, &meta, checksum(kind)).expect("readable").length;
                    let sums = (meta_len - META_HEADER_BYTES) / CHECKSUM_BYTES;
                    let whole = (data_len / 512).min(sums) * 512;
                    let expected = if sums == 3 && data_len == 1300 { 1300 } else { whole as u64 };
                    assert_eq!(found, expected, "{data_len} bytes, {sums} checksums");
                }
            }
        }
    }

    #[test]
    fn data_beyond_the_last_checksum_is_not_good_but_what_it_covers_is() {
        let content = vec![0x5au8; 1000];
        // Flushed at 700 bytes; more data came, its checksum did not.
        let meta = meta_of(ChecksumKind::Crc32, &content[..700]);
        let (data, meta) = files(&content, &meta);
        let found = good_length(&data, &meta, checksum(ChecksumKind::Crc32)).expect("readable");
        assert_eq!(found.length, 700);
        assert_eq!(found.partial_sum, crc32fast::hash(&content[512..700]));
    }

    #[test]
    fn a_flipped_bit_ends_the_good_part_at_its_chunk() {
        let mut content = vec![7u8; 2048];
        let meta = meta_of(ChecksumKind::Crc32c, &content);
        content[1030] ^= 4;
        let (data, meta) = files(&content, &meta);
        let found = good_length(&data, &meta, checksum(ChecksumKind::Crc32c)).expect("readable");
        assert_eq!(found, GoodLength { length: 1024, partial_sum: 0 });
    }

    #[test]
    fn extending_equals_hashing_at_once() {
        for kind in [ChecksumKind::Crc32, ChecksumKind::Crc32c] {
            let checksum = checksum(kind);
            let head = checksum.of(b"hello ");
            assert_eq!(extend(checksum, head, b"world"), checksum.of(b"hello world"));
            assert_eq!(extend(checksum, 0, b"hello "), head);
        }
    }
}
