//! Paths of the namespace, as path clients write them.
//!
//! Absolute, '/'-separated text; see [`crate::escape_name`] for names that are no UTF-8. The rules are the namenode's; they
//! are checked here too, so that a bad path costs no round trip and its error carries the path as the caller wrote it.

use dfs_proto::v1::NodeRef;
use dfs_proto::{InodeId, MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_PATH_DEPTH};

use crate::name_text::unescape_name;
use crate::{DfsError, escape_name};

/// Checks `path` and makes the reference that requests carry. `/` is the root.
pub(crate) fn node(path: &str) -> Result<NodeRef, DfsError> {
    let invalid = |rule| DfsError::InvalidPath { path: path.to_owned(), rule };
    let too_long = || DfsError::NameTooLong { path: path.to_owned() };
    let relative = path.strip_prefix('/').ok_or_else(|| invalid("it does not begin with '/'"))?;
    let mut bytes = Vec::with_capacity(relative.len());
    if !relative.is_empty() {
        for (depth, name) in relative.split('/').enumerate() {
            let name = unescape_name(name);
            if let Some(rule) = broken_rule(&name) {
                return Err(invalid(rule));
            }
            if name.len() > MAX_NAME_BYTES || depth >= MAX_PATH_DEPTH {
                return Err(too_long());
            }
            if depth > 0 {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(&name);
        }
    }
    // The leading slash counts.
    if bytes.len() >= MAX_PATH_BYTES {
        return Err(too_long());
    }
    Ok(NodeRef { base: InodeId::ROOT.get(), path: bytes.into() })
}

/// Why `name` cannot be the name of an entry.
fn broken_rule(name: &[u8]) -> Option<&'static str> {
    match name {
        b"" => Some("a name in it is empty"),
        b"." => Some("'.' is no name"),
        b".." => Some("'..' is no name"),
        _ if name.contains(&0) => Some("a name in it has a NUL byte"),
        _ if name.contains(&b'/') => Some("a name in it has an escaped '/'"),
        _ => None,
    }
}

/// Path of the entry `name` of directory `parent`.
pub(crate) fn join(parent: &str, name: &[u8]) -> String {
    let name = escape_name(name);
    if parent.ends_with('/') { format!("{parent}{name}") } else { format!("{parent}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ErrorKind;

    #[test]
    fn good_paths_become_references_from_the_root() {
        for (path, relative) in [("/", ""), ("/a", "a"), ("/a/b c/\u{e4}", "a/b c/\u{e4}")] {
            let node = node(path).expect("valid");
            assert_eq!((node.base, node.path.as_ref()), (1, relative.as_bytes()));
        }
        assert_eq!(join("/", b"a"), "/a");
        assert_eq!(join("/a", b"b"), "/a/b");
    }

    #[test]
    fn names_of_any_bytes_have_a_path() {
        let path = join("/a", b"\xff\\x2f");
        assert_eq!(path, "/a/\\xff\\x5cx2f");
        assert_eq!(node(&path).expect("valid").path.as_ref(), b"a/\xff\\x2f");
        let longest = format!("/{}", "\\xff".repeat(MAX_NAME_BYTES));
        assert_eq!(node(&longest).expect("255 bytes").path.as_ref(), [0xff; MAX_NAME_BYTES]);
    }

    #[test]
    fn bad_paths_are_named() {
        let long_name = format!("/{}", "n".repeat(256));
        let long_path = "/abcdefg".repeat(1001);
        let deep = "/a".repeat(1001);
        for (path, rule) in [
            ("", "it does not begin with '/'"),
            ("a", "it does not begin with '/'"),
            ("/a/", "a name in it is empty"),
            ("//a", "a name in it is empty"),
            ("/a/./b", "'.' is no name"),
            ("/a/..", "'..' is no name"),
            ("/a\0b", "a name in it has a NUL byte"),
            ("/a\\x00b", "a name in it has a NUL byte"),
            ("/a\\x2fb", "a name in it has an escaped '/'"),
            ("/\\x2e.", "'..' is no name"),
        ] {
            let error = node(path).expect_err(path);
            assert_eq!(error.kind(), ErrorKind::InvalidPath);
            assert_eq!(error.to_string(), format!("{path}: Invalid path: {rule}"));
        }
        for path in [long_name, long_path, deep] {
            let error = node(&path).expect_err(&path);
            assert_eq!(error.kind(), ErrorKind::NameTooLong);
            assert!(error.to_string().starts_with(&path));
        }
    }
}
