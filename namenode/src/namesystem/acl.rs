//! POSIX access control lists: who beside owner, group and others may do what.
//!
//! The value of the attributes [`ACCESS`] and [`DEFAULT`] in the namespace:
//!
//! | offset | size | field                                                                  |
//! |--------|------|------------------------------------------------------------------------|
//! | 0      | 1    | version, 1                                                             |
//! | 1      |      | entries, ascending by tag and name, each:                              |
//! |        | 1    | tag: 1 owner, 2 user, 3 group of the node, 4 group, 5 mask, 6 others   |
//! |        | 1    | permissions: 4 read, 2 write, 1 execute                                |
//! |        | 1    | bytes of the name, 0 unless the tag is 2 or 4                          |
//! |        |      | name                                                                   |
//!
//! Linux's own form has numbers where this has names (little-endian: version 2 in 4 bytes, then entries of tag
//! in 2, permissions in 2, number in 4 bytes). Mounts speak that one; it is translated at the namenode's
//! edge, since only a host's user database knows the numbers.
//!
//! A list has one entry each for owner, group and others, and a mask if it names anybody. The mode of a node
//! agrees with its list: bits of the owner and of others are those entries, the group's bits are the mask (or
//! the group's entry without one). A list that says no more than a mode is not kept.

use std::collections::BTreeMap;

use dfs_proto::InodeId;

use super::error::{RecordFault, StoreError};
use super::keys;
use super::tables::Table;
use crate::log::Caller;

/// Attribute with the list that guards a node.
pub const ACCESS: &[u8] = b"system.posix_acl_access";

/// Attribute with the list that new nodes of a directory get.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u8 = 1;

const LINUX_VERSION: u32 = 2;

/// Number of entries that have none.
const LINUX_NO_ID: u32 = u32::MAX;

/// Longest name of a user or group.
const NAME_BYTES_MAX: usize = 255;

/// Whom an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    Owner,
    User(String),
    OwningGroup,
    Group(String),
    Mask,
    Others,
}

impl Tag {
    fn of(number: u8, name: &str) -> Option<Self> {
        match (number, name) {
            (1, "") => Some(Self::Owner),
            (2, name) if !name.is_empty() => Some(Self::User(name.to_owned())),
            (3, "") => Some(Self::OwningGroup),
            (4, name) if !name.is_empty() => Some(Self::Group(name.to_owned())),
            (5, "") => Some(Self::Mask),
            (6, "") => Some(Self::Others),
            _ => None,
        }
    }

    const fn number(&self) -> u8 {
        match self {
            Self::Owner => 1,
            Self::User(_) => 2,
            Self::OwningGroup => 3,
            Self::Group(_) => 4,
            Self::Mask => 5,
            Self::Others => 6,
        }
    }

    /// Linux's bit for the tag with this number.
    const fn linux(&self) -> u16 {
        1 << (self.number() - 1)
    }

    fn name(&self) -> &str {
        match self {
            Self::User(name) | Self::Group(name) => name,
            Self::Owner | Self::OwningGroup | Self::Mask | Self::Others => "",
        }
    }
}

/// A valid list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    entries: BTreeMap<Tag, u16>,
}

impl Acl {
    /// Reads the namespace's form; `None` if it is not valid.
    pub fn decode(raw: &[u8]) -> Option<Self> {
        let [VERSION, rest @ ..] = raw else { return None };
        let mut rest = rest;
        let mut entries = BTreeMap::new();
        while let [tag, permissions, name_bytes, after @ ..] = rest {
            let (name, after) = after.split_at_checked(usize::from(*name_bytes))?;
            let tag = Tag::of(*tag, std::str::from_utf8(name).ok()?)?;
            if entries.last_key_value().is_some_and(|(last, _)| *last >= tag) {
                return None;
            }
            entries.insert(tag, u16::from(*permissions));
            rest = after;
        }
        if rest.is_empty() { Self::valid(entries) } else { None }
    }

    /// The namespace's form.
    ///
    /// # Panics
    /// Never: names were checked when the list was made.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for (tag, permissions) in &self.entries {
            let name = tag.name();
            let name_bytes = u8::try_from(name.len()).expect("names are at most 255 bytes");
            let bits = u8::try_from(*permissions).expect("three bits");
            out.extend_from_slice(&[tag.number(), bits, name_bytes]);
            out.extend_from_slice(name.as_bytes());
        }
        out
    }

    /// Reads Linux's form, with names for the numbers of users and groups; `None` if it is not valid.
    pub fn from_linux(
        raw: &[u8],
        user: impl Fn(u32) -> String,
        group: impl Fn(u32) -> String,
    ) -> Option<Self> {
        let (version, rest) = raw.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != LINUX_VERSION || rest.len() % 8 != 0 {
            return None;
        }
        let mut entries = BTreeMap::new();
        for entry in rest.chunks_exact(8) {
            let permissions = u16::from_le_bytes([entry[2], entry[3]]);
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            let tag = match u16::from_le_bytes([entry[0], entry[1]]) {
                0x01 => Tag::Owner,
                0x02 => Tag::User(user(id)),
                0x04 => Tag::OwningGroup,
                0x08 => Tag::Group(group(id)),
                0x10 => Tag::Mask,
                0x20 => Tag::Others,
                _ => return None,
            };
            if entries.insert(tag, permissions).is_some() {
                return None;
            }
        }
        Self::valid(entries)
    }

    /// Linux's form, with numbers for the names of users and groups.
    pub fn to_linux(&self, user: impl Fn(&str) -> u32, group: impl Fn(&str) -> u32) -> Vec<u8> {
        let mut out = LINUX_VERSION.to_le_bytes().to_vec();
        for (tag, permissions) in &self.entries {
            let id = match tag {
                Tag::User(name) => user(name),
                Tag::Group(name) => group(name),
                Tag::Owner | Tag::OwningGroup | Tag::Mask | Tag::Others => LINUX_NO_ID,
            };
            out.extend_from_slice(&tag.linux().to_le_bytes());
            out.extend_from_slice(&permissions.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out
    }

    fn valid(entries: BTreeMap<Tag, u16>) -> Option<Self> {
        let has = |tag| entries.contains_key(&tag);
        let complete = has(Tag::Owner) && has(Tag::OwningGroup) && has(Tag::Others);
        let names = entries.keys().map(Tag::name).filter(|name| !name.is_empty());
        let named = names.clone().next().is_some();
        let fits = names.clone().all(|name| name.len() <= NAME_BYTES_MAX)
            && entries.keys().all(|tag| !matches!(tag, Tag::User(n) | Tag::Group(n) if n.is_empty()))
            && entries.values().all(|permissions| *permissions <= 7);
        (complete && fits && (!named || has(Tag::Mask))).then_some(Self { entries })
    }

    fn permissions(&self, tag: &Tag) -> u16 {
        self.entries.get(tag).copied().unwrap_or_default()
    }

    /// The entry that stands in the mode's bits of the group.
    fn group_class(&self) -> Tag {
        if self.entries.contains_key(&Tag::Mask) { Tag::Mask } else { Tag::OwningGroup }
    }

    /// The nine permission bits that agree with the list.
    pub(super) fn mode_bits(&self) -> u16 {
        self.permissions(&Tag::Owner) << 6
            | self.permissions(&self.group_class()) << 3
            | self.permissions(&Tag::Others)
    }

    /// Makes the list agree with a mode that was set.
    pub(super) fn set_mode_bits(&mut self, mode: u16) {
        let group_class = self.group_class();
        for (tag, permissions) in [(Tag::Owner, mode >> 6), (group_class, mode >> 3), (Tag::Others, mode)] {
            self.entries.insert(tag, permissions & 7);
        }
    }

    /// The list says no more than a mode can say.
    pub(super) fn is_minimal(&self) -> bool {
        self.entries.len() == 3
    }

    /// The list of a new node that is made with `mode` where this is the default list, and the node's mode.
    pub(super) fn inherited(&self, mode: u16) -> (Self, u16) {
        let mut list = self.clone();
        list.set_mode_bits(mode & self.mode_bits());
        let bits = list.mode_bits();
        (list, mode & !0o777 | bits)
    }

    /// Whether the caller, who is neither superuser nor owner, has all of `bits`. The first class that he is in
    /// decides: named users, then all groups that he is in together, then others.
    fn permits(&self, caller: &Caller, group: &str, bits: u16) -> bool {
        let mask = self.entries.get(&Tag::Mask).copied().unwrap_or(7);
        if let Some(permissions) = self.entries.get(&Tag::User(caller.user.clone())) {
            return permissions & mask & bits == bits;
        }
        let mut is_member = false;
        for (tag, permissions) in &self.entries {
            let name = match tag {
                Tag::OwningGroup => group,
                Tag::Group(name) => name,
                Tag::Owner | Tag::User(_) | Tag::Mask | Tag::Others => continue,
            };
            if caller.groups.iter().any(|g| g == name) {
                is_member = true;
                if permissions & mask & bits == bits {
                    return true;
                }
            }
        }
        !is_member && self.permissions(&Tag::Others) & bits == bits
    }
}

/// What decides about access to a node.
#[derive(Clone, Copy)]
pub(super) struct Guard<'a> {
    pub(super) id: InodeId,
    pub(super) mode: u16,
    pub(super) owner: &'a str,
    pub(super) group: &'a str,
    /// Extended attributes as the inode's record holds them.
    pub(super) xattrs: &'a [u8],
}

impl Guard<'_> {
    /// Whether the caller has all of `bits` (4 read, 2 write, 1 execute). Without a list exactly one class of
    /// the mode counts, the first that fits.
    pub(super) fn permits(&self, caller: &Caller, bits: u16) -> Result<bool, StoreError> {
        if caller.superuser {
            return Ok(true);
        }
        if caller.user == self.owner {
            return Ok(self.mode >> 6 & bits == bits);
        }
        if let Some(list) = stored(self.id, self.xattrs, ACCESS)? {
            return Ok(list.permits(caller, self.group, bits));
        }
        let is_member = caller.groups.iter().any(|g| g == self.group);
        let granted = if is_member { self.mode >> 3 } else { self.mode };
        Ok(granted & bits == bits)
    }
}

/// A list in the extended attributes of inode `id`.
pub(super) fn stored(id: InodeId, xattrs: &[u8], name: &[u8]) -> Result<Option<Acl>, StoreError> {
    if xattrs.is_empty() {
        return Ok(None);
    }
    match super::xattrs::find(id, xattrs, name)? {
        Some(raw) => Acl::decode(raw).map(Some).ok_or_else(|| StoreError::Corrupt {
            table: Table::Inodes.name(),
            key: keys::inode(id).to_vec(),
            fault: RecordFault::Field("access control list"),
        }),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rustfmt::skip]
    const GOLDEN: [u8; 26] = [
        1,                              // version
        1, 7, 0,                        // owner
        2, 6, 3, b'a', b'n', b'n',      // user ann
        3, 5, 0,                        // group of the node
        4, 7, 4, b't', b'e', b'a', b'm', // group team
        5, 6, 0,                        // mask
        6, 0, 0,                        // others
    ];

    #[rustfmt::skip]
    const LINUX: [u8; 52] = [
        2, 0, 0, 0,
        1, 0, 7, 0, 255, 255, 255, 255,
        2, 0, 6, 0, 17, 0, 0, 0,
        4, 0, 5, 0, 255, 255, 255, 255,
        8, 0, 7, 0, 18, 0, 0, 0,
        16, 0, 6, 0, 255, 255, 255, 255,
        32, 0, 0, 0, 255, 255, 255, 255,
    ];

    fn sample() -> Acl {
        Acl::decode(&GOLDEN).expect("valid")
    }

    fn user(uid: u32) -> String {
        if uid == 17 { "ann".to_owned() } else { uid.to_string() }
    }

    fn group(gid: u32) -> String {
        if gid == 18 { "team".to_owned() } else { gid.to_string() }
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(sample().encode(), GOLDEN);
        assert_eq!(Acl::from_linux(&LINUX, user, group), Some(sample()));
        assert_eq!(sample().to_linux(|_| 17, |_| 18), LINUX);
    }

    #[test]
    fn what_is_not_valid_is_refused() {
        for length in 0..GOLDEN.len() {
            assert_eq!(Acl::decode(&GOLDEN[..length]), None, "{length} bytes");
        }
        for length in 0..LINUX.len() {
            assert_eq!(Acl::from_linux(&LINUX[..length], user, group), None, "{length} bytes");
        }
        // Version, tag, permissions, name that is missing or not text; entries that do not ascend.
        for (at, value) in [(0, 2), (1, 7), (1, 3), (2, 8), (3, 1), (6, 0), (7, 0xff), (20, 4)] {
            let mut bad = GOLDEN;
            bad[at] = value;
            assert_eq!(Acl::decode(&bad), None, "byte {at} = {value}");
        }
        // Version, tag, permissions, tag; the same user twice.
        for changes in [&[(0, 1)][..], &[(4, 3)], &[(6, 8)], &[(20, 2)], &[(28, 2), (32, 17)]] {
            let mut bad = LINUX;
            for (at, value) in changes {
                bad[*at] = *value;
            }
            assert_eq!(Acl::from_linux(&bad, user, group), None, "{changes:?}");
        }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let raw = super::super::xattrs::tests::only(ACCESS, &GOLDEN);
        let guard = Guard { id: InodeId(1), mode: 0o760, owner: "bob", group: "staff", xattrs: &raw };
        let cases: [(&str, &[&str], u16); 7] = [
            ("bob", &["staff"], 7),
            ("ann", &["team", "staff"], 6),
            ("eve", &["staff"], 4),
            ("eve", &["team"], 6),
            ("eve", &["staff", "team"], 6),
            ("eve", &["eve"], 0),
            ("root", &[], 7),
        ];
        for (user, groups, granted) in cases {
            let caller = Caller {
                user: user.to_owned(),
                groups: groups.iter().map(|g| (*g).to_owned()).collect(),
                superuser: user == "root",
            };
            for bits in [1, 2, 4, 5, 6] {
                let permitted = guard.permits(&caller, bits).expect("valid");
                assert_eq!(permitted, granted & bits == bits, "{user} {groups:?} {bits}");
            }
        }
    }

    #[test]
    fn modes_and_lists_agree() {
        let mut list = sample();
        assert_eq!(list.mode_bits(), 0o760);
        list.set_mode_bits(0o4640);
        assert_eq!(list.mode_bits(), 0o640);
        assert_eq!(list.permissions(&Tag::OwningGroup), 5, "behind the mask");
        assert!(!list.is_minimal());
        let minimal = Acl::decode(&[1, 1, 7, 0, 3, 5, 0, 6, 1, 0]).expect("valid");
        assert!(minimal.is_minimal());
        assert_eq!(minimal.mode_bits(), 0o751);
        let (inherited, mode) = sample().inherited(0o2646);
        assert_eq!((inherited.mode_bits(), mode), (0o640, 0o2640));
        let (inherited, mode) = minimal.inherited(0o777);
        assert_eq!((inherited, mode), (minimal, 0o751));
    }
}
