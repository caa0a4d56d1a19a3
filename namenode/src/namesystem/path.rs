//! Paths of requests.
//!
//! A path is names separated by `/`, resolved from a base inode; a leading `/` is allowed and means
//! nothing; the empty path and `/` are the base itself. A name is 1 to 255 bytes without `/` and NUL and
//! is not `.` or `..`. A path has at most 8,000 bytes and 1,000 names.

use dfs_proto::{InodeId, MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_PATH_DEPTH, v1::NodeRef};
use smallvec::SmallVec;

use super::error::{InvalidReason, NamesystemError};

/// Bytes of an overlong path that its error repeats.
const SUBJECT_BYTES_MAX: usize = 300;

/// A checked path.
#[derive(Clone, Debug)]
pub(super) struct Path<'a> {
    base: InodeId,
    names: SmallVec<[&'a [u8]; 16]>,
    raw: &'a [u8],
}

impl<'a> Path<'a> {
    /// Checks the rules of the module head.
    pub(super) fn parse(node: Option<&'a NodeRef>) -> Result<Self, NamesystemError> {
        let Some(node) = node else {
            return Err(NamesystemError::InvalidArgument {
                subject: String::new(),
                reason: InvalidReason::Incomplete,
            });
        };
        let base = if node.base == 0 { InodeId::ROOT } else { InodeId(node.base) };
        let mut path = Self { base, names: SmallVec::new(), raw: &node.path };
        if node.path.len() > MAX_PATH_BYTES {
            return Err(NamesystemError::NameTooLong { path: path.subject() });
        }
        let relative = node.path.strip_prefix(b"/").unwrap_or(&node.path);
        if relative.is_empty() {
            return Ok(path);
        }
        for name in relative.split(|b| *b == b'/') {
            if name.is_empty() || name == b"." || name == b".." || name.contains(&0) {
                return Err(NamesystemError::InvalidPath { path: path.subject() });
            }
            if name.len() > MAX_NAME_BYTES || path.names.len() == MAX_PATH_DEPTH {
                return Err(NamesystemError::NameTooLong { path: path.subject() });
            }
            path.names.push(name);
        }
        Ok(path)
    }

    /// Inode at which resolution starts.
    pub(super) const fn base(&self) -> InodeId {
        self.base
    }

    /// Names below the base.
    pub(super) fn names(&self) -> &[&'a [u8]] {
        &self.names
    }

    /// The path of the node after the first `count` names, for error messages.
    pub(super) fn subject_after(&self, count: usize) -> String {
        let mut text = if self.base == InodeId::ROOT { String::new() } else { self.base.to_string() };
        for name in self.names.iter().take(count) {
            text.push('/');
            text.push_str(&String::from_utf8_lossy(name));
        }
        if text.is_empty() { "/".to_owned() } else { text }
    }

    /// The path for error messages: as written, with a `/` in front; below another base than the root,
    /// with that in front.
    pub(super) fn subject(&self) -> String {
        let shown = if self.raw.len() > MAX_PATH_BYTES { SUBJECT_BYTES_MAX } else { self.raw.len() };
        let text = String::from_utf8_lossy(&self.raw[..shown]);
        let text = text.strip_prefix('/').unwrap_or(&text);
        match (self.base == InodeId::ROOT, text.is_empty()) {
            (true, _) => format!("/{text}"),
            (false, true) => self.base.to_string(),
            (false, false) => format!("{}/{text}", self.base),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ErrorKind;

    fn node(base: u64, path: &[u8]) -> NodeRef {
        NodeRef { base, path: bytes::Bytes::copy_from_slice(path) }
    }

    #[test]
    fn good_paths_split_into_names() {
        let cases: [(&[u8], &[&[u8]]); 6] = [
            (b"", &[]),
            (b"/", &[]),
            (b"/a", &[b"a"]),
            (b"a/b", &[b"a", b"b"]),
            (b"/.a/..b/...", &[b".a", b"..b", b"..."]),
            (b"/\xff\xfe", &[b"\xff\xfe"]),
        ];
        for (raw, names) in cases {
            let node = node(0, raw);
            let path = Path::parse(Some(&node)).expect("valid");
            assert_eq!(path.names(), names);
            assert_eq!(path.base(), InodeId::ROOT);
        }
    }

    #[test]
    fn bad_paths_are_refused_by_kind() {
        let long_name = vec![b'n'; MAX_NAME_BYTES + 1];
        let deep = b"/n".repeat(MAX_PATH_DEPTH + 1);
        let long_path = b"/nnnnnnn".repeat(MAX_PATH_BYTES / 8 + 1);
        let cases: [(&[u8], ErrorKind); 9] = [
            (b"//", ErrorKind::InvalidPath),
            (b"/a/", ErrorKind::InvalidPath),
            (b"/a//b", ErrorKind::InvalidPath),
            (b"/a/./b", ErrorKind::InvalidPath),
            (b"..", ErrorKind::InvalidPath),
            (b"/a\0b", ErrorKind::InvalidPath),
            (&long_name, ErrorKind::NameTooLong),
            (&deep, ErrorKind::NameTooLong),
            (&long_path, ErrorKind::NameTooLong),
        ];
        for (raw, kind) in cases {
            let node = node(0, raw);
            let refused = Path::parse(Some(&node)).expect_err("invalid");
            assert_eq!(refused.kind(), kind, "{refused}");
        }
        assert_eq!(Path::parse(None).expect_err("absent").kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn limits_are_inclusive() {
        let name = vec![b'n'; MAX_NAME_BYTES];
        assert!(Path::parse(Some(&node(0, &name))).is_ok());
        let deep = b"/n".repeat(MAX_PATH_DEPTH);
        assert!(Path::parse(Some(&node(0, &deep))).is_ok());
    }

    #[test]
    fn subjects_read_as_the_caller_wrote_them() {
        let cases: [(u64, &[u8], &str); 5] = [
            (0, b"", "/"),
            (1, b"a/b", "/a/b"),
            (1, b"/a/b", "/a/b"),
            (17, b"", "inode 17"),
            (17, b"a", "inode 17/a"),
        ];
        for (base, raw, subject) in cases {
            let node = node(base, raw);
            assert_eq!(Path::parse(Some(&node)).expect("valid").subject(), subject);
        }
    }

    #[test]
    fn directories_on_the_way_have_subjects_too() {
        let absolute = node(1, b"/a/b/c");
        let path = Path::parse(Some(&absolute)).expect("valid");
        let subjects: Vec<String> = (0..=3).map(|count| path.subject_after(count)).collect();
        assert_eq!(subjects, ["/", "/a", "/a/b", "/a/b/c"]);
        let below = node(17, b"a");
        let path = Path::parse(Some(&below)).expect("valid");
        assert_eq!([path.subject_after(0), path.subject_after(1)], ["inode 17", "inode 17/a"]);
    }
}
