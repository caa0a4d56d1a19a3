//! Extended attributes of an inode, as its record holds them.
//!
//! | offset | size | field                                            |
//! |--------|------|--------------------------------------------------|
//! | 0      | 1    | version, 1                                       |
//! | 1      |      | attributes, ascending by name, each:             |
//! |        | 1    | bytes of the name                                |
//! |        | 4    | bytes of the value, little-endian                |
//! |        |      | name with its namespace, value                   |
//!
//! An inode without attributes has no bytes at all. All of it has at most 65,536 bytes, so that a record
//! stays something that is read and written at once.

use std::collections::BTreeMap;

use dfs_proto::InodeId;

use super::error::{RecordFault, StoreError};
use super::keys;
use super::tables::Table;

const VERSION: u8 = 1;

/// Bytes of all attributes of an inode, as stored.
pub(super) const XATTRS_BYTES_MAX: usize = 65_536;

/// Longest name in bytes, Linux's limit.
pub(super) const XATTR_NAME_BYTES_MAX: usize = 255;

/// Longest value in bytes, Linux's limit.
pub(super) const XATTR_VALUE_BYTES_MAX: usize = 65_536;

/// Attributes by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Xattrs {
    by_name: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Xattrs {
    /// Reads what the record of inode `id` holds.
    pub(super) fn decode(id: InodeId, raw: &[u8]) -> Result<Self, StoreError> {
        let mut xattrs = Self::default();
        for attribute in stored(id, raw)? {
            let (name, value) = attribute?;
            if xattrs.by_name.last_key_value().is_some_and(|(last, _)| last.as_slice() >= name) {
                return Err(corrupt(id, RecordFault::Field("extended attributes")));
            }
            xattrs.by_name.insert(name.to_vec(), value.to_vec());
        }
        Ok(xattrs)
    }

    /// The bytes for the record.
    ///
    /// # Panics
    /// If a name or value is longer than its limit: operations refuse such before.
    pub(super) fn encode(&self) -> Vec<u8> {
        if self.by_name.is_empty() {
            return Vec::new();
        }
        let mut out = Vec::with_capacity(self.encoded_bytes());
        out.push(VERSION);
        for (name, value) in &self.by_name {
            out.push(u8::try_from(name.len()).expect("names are at most 255 bytes"));
            let value_bytes = u32::try_from(value.len()).expect("values are at most 64 KiB");
            out.extend_from_slice(&value_bytes.to_le_bytes());
            out.extend_from_slice(name);
            out.extend_from_slice(value);
        }
        out
    }

    /// Bytes that [`Self::encode`] makes.
    pub(super) fn encoded_bytes(&self) -> usize {
        match self.by_name.len() {
            0 => 0,
            count => 1 + 5 * count + self.by_name.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>(),
        }
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.by_name.get(name).map(Vec::as_slice)
    }

    pub(super) fn set(&mut self, name: &[u8], value: &[u8]) {
        self.by_name.insert(name.to_vec(), value.to_vec());
    }

    /// Answers whether it was there.
    pub(super) fn remove(&mut self, name: &[u8]) -> bool {
        self.by_name.remove(name).is_some()
    }

    /// Names, ascending.
    pub(super) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.by_name.keys().map(Vec::as_slice)
    }
}

/// Value of an attribute in what the record of inode `id` holds, without reading the others.
pub(super) fn find<'a>(id: InodeId, raw: &'a [u8], wanted: &[u8]) -> Result<Option<&'a [u8]>, StoreError> {
    for attribute in stored(id, raw)? {
        let (name, value) = attribute?;
        if name == wanted {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Name and value of an attribute.
type Stored<'a> = (&'a [u8], &'a [u8]);

/// Names and values in what the record of inode `id` holds.
fn stored(
    id: InodeId,
    raw: &[u8],
) -> Result<impl Iterator<Item = Result<Stored<'_>, StoreError>>, StoreError> {
    let mut rest = match raw {
        [] => raw,
        [VERSION, rest @ ..] => rest,
        [version, ..] => return Err(corrupt(id, RecordFault::Version(*version))),
    };
    Ok(std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let attribute = split_first(rest);
        rest = attribute.map_or(&[], |(_, _, after)| after);
        let fault = RecordFault::Field("extended attributes");
        Some(attribute.map(|(name, value, _)| (name, value)).ok_or_else(|| corrupt(id, fault)))
    }))
}

/// Name and value of the first attribute, and what follows.
fn split_first(raw: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let [name_bytes, a, b, c, d, after @ ..] = raw else { return None };
    let (name, after) = after.split_at_checked(usize::from(*name_bytes))?;
    let (value, after) = after.split_at_checked(u32::from_le_bytes([*a, *b, *c, *d]) as usize)?;
    Some((name, value, after))
}

fn corrupt(id: InodeId, fault: RecordFault) -> StoreError {
    StoreError::Corrupt { table: Table::Inodes.name(), key: keys::inode(id).to_vec(), fault }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a record holds that has one attribute.
    pub(in crate::namesystem) fn only(name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut xattrs = Xattrs::default();
        xattrs.set(name, value);
        xattrs.encode()
    }

    #[rustfmt::skip]
    const GOLDEN: [u8; 29] = [
        1,                                                       // version
        6, 2, 0, 0, 0, b'u', b's', b'e', b'r', b'.', b'a', 7, 8, // user.a
        10, 0, 0, 0, 0, b't', b'r', b'u', b's', b't', b'e', b'd', b'.', b'x', b'y',
    ];

    fn sample() -> Xattrs {
        let mut xattrs = Xattrs::default();
        xattrs.set(b"user.a", &[7, 8]);
        xattrs.set(b"trusted.xy", &[]);
        xattrs
    }

    #[test]
    fn golden_bytes() {
        // Names ascend.
        let mut golden = vec![1];
        golden.extend_from_slice(&GOLDEN[14..]);
        golden.extend_from_slice(&GOLDEN[1..14]);
        assert_eq!(sample().encode(), golden);
        assert_eq!(sample().encoded_bytes(), golden.len());
        assert_eq!(Xattrs::decode(InodeId(1), &golden).expect("decodes"), sample());
        assert!(Xattrs::default().encode().is_empty());
        assert_eq!(Xattrs::decode(InodeId(1), &[]).expect("decodes"), Xattrs::default());
        for length in 2..golden.len() {
            // Where an attribute ends is a valid end.
            assert_eq!(Xattrs::decode(InodeId(1), &golden[..length]).is_ok(), length == 16, "{length} bytes");
        }
        assert!(Xattrs::decode(InodeId(1), &GOLDEN).is_err(), "names descend");
        assert_eq!(find(InodeId(1), &golden, b"user.a").expect("decodes"), Some(&[7, 8][..]));
        assert_eq!(find(InodeId(1), &golden, b"user.").expect("decodes"), None);
        golden[0] = 2;
        assert!(Xattrs::decode(InodeId(1), &golden).is_err());
    }
}
