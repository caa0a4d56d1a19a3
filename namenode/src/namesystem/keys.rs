//! Keys of the tables. Big-endian integers, so that bytewise order is numeric order.

use dfs_proto::{BlockId, InodeId};
use smallvec::SmallVec;

use super::error::{RecordFault, StoreError};
use super::tables::Table;

/// Most names are short; longer ones go to the heap.
pub(super) type EntryKey = SmallVec<[u8; 72]>;

/// Bytes of a retry cache key: client id and call id.
pub(super) const RETRY_KEY_BYTES: usize = 24;

pub(super) const fn inode(id: InodeId) -> [u8; 8] {
    id.get().to_be_bytes()
}

pub(super) const fn block(id: BlockId) -> [u8; 8] {
    id.get().to_be_bytes()
}

pub(super) fn entry(parent: InodeId, name: &[u8]) -> EntryKey {
    let mut key = EntryKey::new();
    key.extend_from_slice(&inode(parent));
    key.extend_from_slice(name);
    key
}

pub(super) fn file_block(inode_id: InodeId, index: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&inode(inode_id));
    key[8..].copy_from_slice(&index.to_be_bytes());
    key
}

/// Holders hold no NUL, so no holder's keys mix with those of another that starts with it.
pub(super) fn lease(holder: &str, inode_id: InodeId) -> Vec<u8> {
    let mut key = Vec::with_capacity(holder.len() + 9);
    key.extend_from_slice(holder.as_bytes());
    key.push(0);
    key.extend_from_slice(&inode(inode_id));
    key
}

/// Numbers that a session has reserved, by the first of a range. Laid out as keys of leases.
pub(super) fn reservation(session: &str, first: u64) -> Vec<u8> {
    lease(session, InodeId(first))
}

pub(super) fn retry(client_id: &[u8; 16], call_id: u64) -> [u8; RETRY_KEY_BYTES] {
    let mut key = [0; RETRY_KEY_BYTES];
    key[..16].copy_from_slice(client_id);
    key[16..].copy_from_slice(&call_id.to_be_bytes());
    key
}

/// The integer in the last eight bytes of a key.
pub(super) fn trailing_u64(table: Table, key: &[u8]) -> Result<u64, StoreError> {
    key.last_chunk::<8>().map(|raw| u64::from_be_bytes(*raw)).ok_or_else(|| StoreError::Corrupt {
        table: table.name(),
        key: key.to_vec(),
        fault: RecordFault::Length(key.len()),
    })
}

/// The integer in the first eight bytes of a key.
pub(super) fn leading_u64(table: Table, key: &[u8]) -> Result<u64, StoreError> {
    key.first_chunk::<8>().map(|raw| u64::from_be_bytes(*raw)).ok_or_else(|| StoreError::Corrupt {
        table: table.name(),
        key: key.to_vec(),
        fault: RecordFault::Length(key.len()),
    })
}

/// Splits a lease key.
pub(super) fn parse_lease(key: &[u8]) -> Result<(String, InodeId), StoreError> {
    parse_holder(Table::Leases, key)
}

/// Splits a key of a holder and a number.
pub(super) fn parse_holder(table: Table, key: &[u8]) -> Result<(String, InodeId), StoreError> {
    let corrupt = |fault| StoreError::Corrupt { table: table.name(), key: key.to_vec(), fault };
    let inode = InodeId(trailing_u64(table, key)?);
    let holder = key.get(..key.len().saturating_sub(9)).unwrap_or_default();
    let holder = std::str::from_utf8(holder).map_err(|_| corrupt(RecordFault::Field("holder")))?;
    Ok((holder.to_owned(), inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_parts_do() {
        assert!(entry(InodeId(1), b"zz") < entry(InodeId(2), b"a"));
        assert!(entry(InodeId(2), b"a") < entry(InodeId(2), b"aa"));
        assert!(file_block(InodeId(1), 255) < file_block(InodeId(1), 256));
        assert!(lease("a", InodeId(u64::MAX)) < lease("ab", InodeId(0)));
        assert_eq!(retry(&[7; 16], 1)[15..], [7, 0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn lease_keys_are_read_back() {
        let key = lease("client-1", InodeId(0x0100));
        assert_eq!(parse_lease(&key).expect("a key"), ("client-1".to_owned(), InodeId(0x0100)));
        assert!(parse_lease(b"short").is_err());
    }
}
