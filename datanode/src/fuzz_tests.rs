//! Fuzzing of what lies on a volume: checksum files, `VERSION`, names of files, the redo journal, and the scrubber's record.

use dfs_proto::checksum::{Checksum, ChecksumKind};
use dfs_proto::{BlockId, GenerationStamp};

use crate::dataset::layout::{self, BlockFile};
use crate::dataset::meta_file;
use crate::dataset::version_file::VersionFile;
use crate::fuzzing::{fuzz, fuzz_repaired};
use crate::journal::record::{BLOCK_BYTES, Change, Record, SegmentHeader, records};
use crate::replica::BlockRef;
use crate::scrub::record::ScrubRecord;

/// Bytes that a record's checksum takes.
const CRC_BYTES: usize = 4;

fn checksum() -> Checksum {
    Checksum::new(ChecksumKind::Crc32, 4096).expect("a valid checksum")
}

#[test]
fn fuzzed_checksum_files() {
    let valid = meta_file::encode_header(checksum()).to_vec();
    fuzz("header of checksums", &[valid], |input| match meta_file::decode_header(input) {
        Ok(checksum) => {
            assert_eq!(meta_file::encode_header(checksum)[..], input[..meta_file::META_HEADER_BYTES]);
            // Sizes that follow from what is believed.
            let _ = meta_file::checksum_offset(checksum, 1 << 32);
            let _ = checksum.checksums_len(4 << 20);
            true
        }
        Err(_) => false,
    });
}

#[test]
fn fuzzed_version_files() {
    let file = VersionFile {
        cluster_id: "CID-1".into(),
        pool_id: "BP-1".into(),
        datanode_uuid: "u".into(),
        storage_id: "DS-1".into(),
    };
    fuzz("VERSION", &[file.encode().into_bytes()], |input| {
        std::str::from_utf8(input).is_ok_and(|text| VersionFile::decode(text).is_ok())
    });
}

#[test]
fn fuzzed_names_of_files() {
    let block = BlockRef { id: BlockId(1_073_741_825), stamp: GenerationStamp(1_001) };
    let valid = [layout::meta_name(block).into_bytes(), layout::data_name(block.id).into_bytes()];
    fuzz("names of block files", &valid, |input| {
        let Ok(name) = std::str::from_utf8(input) else { return false };
        match layout::parse(name) {
            Some(BlockFile::Data(id)) => {
                assert_eq!(layout::data_name(id), name);
                true
            }
            Some(BlockFile::Meta(block)) => {
                assert_eq!(layout::meta_name(block), name);
                true
            }
            None => false,
        }
    });
}

/// A header block and three records.
fn segment() -> Vec<u8> {
    let block = BlockRef { id: BlockId(1_073_741_825), stamp: GenerationStamp(1_001) };
    let data = [7; 5000];
    let sums = vec![9; checksum().checksums_len(data.len())];
    let changes = [
        Change::Intent { offset: 4096, len: 5000 },
        Change::Write { checksum: checksum(), offset: 4096, sums: &sums, data: &data },
        Change::Settled { up_to: 2 },
    ];
    let mut raw = SegmentHeader { first: 1, boot: "boot".into() }.encode().to_vec();
    for (change, number) in changes.into_iter().zip(1..) {
        let record = Record { number, block, change };
        let mut encoded = vec![0; record.encoded_len()];
        record.encode(&mut encoded);
        raw.extend_from_slice(&encoded);
    }
    raw
}

/// Makes the checksum of the record at the start of `raw` right again.
fn repair_record(raw: &mut [u8]) {
    let Some(length) = raw.get(4..8).and_then(|raw| raw.first_chunk().copied()) else { return };
    let end = (u32::from_be_bytes(length) as usize).min(raw.len());
    if let Some(body) = end.checked_sub(CRC_BYTES) {
        let crc = crc32c::crc32c(&raw[..body]);
        raw[body..end].copy_from_slice(&crc.to_be_bytes());
    }
}

#[test]
fn fuzzed_records_of_the_journal() {
    let segment = segment();
    let mut valid = Vec::new();
    let mut at = BLOCK_BYTES;
    while let Some((_, length)) = Record::decode(&segment[at..]) {
        valid.push(segment[at..at + length].to_vec());
        at += length;
    }
    assert_eq!(valid.len(), 3);
    fuzz_repaired(
        "records of the journal",
        &valid,
        |raw| repair_record(raw),
        |input| match Record::decode(input) {
            Some((record, length)) => {
                let mut again = vec![0; record.encoded_len()];
                assert_eq!(record.encode(&mut again), length);
                assert_eq!(Record::decode(&again), Some((record, length)));
                true
            }
            None => false,
        },
    );
}

#[test]
fn fuzzed_segments_of_the_journal() {
    let repair = |raw: &mut Vec<u8>| {
        if let Some(body) = raw.get(BLOCK_BYTES..) {
            let mut first = body.to_vec();
            repair_record(&mut first);
            raw[BLOCK_BYTES..].copy_from_slice(&first);
        }
        if raw.len() >= 84 {
            let crc = crc32c::crc32c(&raw[..80]);
            raw[80..84].copy_from_slice(&crc.to_be_bytes());
        }
    };
    fuzz_repaired("segments of the journal", &[segment()], repair, |input| {
        let first = SegmentHeader::decode(input).map(|header| header.first);
        let found = records(input, first.unwrap_or(1)).count();
        assert!(found <= input.len());
        first.is_some()
    });
}

#[test]
fn fuzzed_records_of_the_scrubber() {
    let bad = vec![(BlockRef::new(7, 8), 9), (BlockRef::new(10, 11), 12)];
    let record = ScrubRecord { began_s: 1, ended_s: 2, cursor: Some(BlockId(3)), work: 4, bad };
    let valid = [record.encode(), ScrubRecord::default().encode()];
    let repair = |raw: &mut Vec<u8>| {
        if let Some(end) = raw.len().checked_sub(CRC_BYTES) {
            let crc = crc32c::crc32c(&raw[..end]);
            raw[end..].copy_from_slice(&crc.to_be_bytes());
        }
    };
    fuzz_repaired("record of the scrubber", &valid, repair, |input| match ScrubRecord::decode(input) {
        Ok(record) => {
            assert_eq!(record.encode(), input);
            true
        }
        Err(_) => false,
    });
}
