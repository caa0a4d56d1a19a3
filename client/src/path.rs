//! Paths of the namespace, as path clients write them.
//!
//! Absolute, '/'-separated, UTF-8. The rules are the namenode's; they are checked here too, so that a bad
//! path costs no round trip and its error carries the path as the caller wrote it.

use dfs_proto::v1::NodeRef;
use dfs_proto::{InodeId, MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_PATH_DEPTH};

use crate::DfsError;

/// Checks `path` and makes the reference that requests carry. `/` is the root.
pub(crate) fn node(path: &str) -> Result<NodeRef, DfsError> {
    let invalid = || DfsError::InvalidPath { path: path.to_owned() };
    let too_long = || DfsError::NameTooLong { path: path.to_owned() };
    let relative = path.strip_prefix('/').ok_or_else(invalid)?;
    if path.len() > MAX_PATH_BYTES {
        return Err(too_long());
    }
    if !relative.is_empty() {
        let mut depth = 0;
        for name in relative.split('/') {
            depth += 1;
            if name.is_empty() || name == "." || name == ".." || name.contains('\0') {
                return Err(invalid());
            }
            if name.len() > MAX_NAME_BYTES || depth > MAX_PATH_DEPTH {
                return Err(too_long());
            }
        }
    }
    Ok(NodeRef { base: InodeId::ROOT.get(), path: relative.to_owned().into() })
}

/// Path of the entry `name` of directory `parent`.
pub(crate) fn join(parent: &str, name: &str) -> String {
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
        assert_eq!(join("/", "a"), "/a");
        assert_eq!(join("/a", "b"), "/a/b");
    }

    #[test]
    fn bad_paths_are_named() {
        let long_name = format!("/{}", "n".repeat(256));
        let long_path = "/abcdefg".repeat(1001);
        let deep = "/a".repeat(1001);
        for (path, kind) in [
            ("", ErrorKind::InvalidPath),
            ("a", ErrorKind::InvalidPath),
            ("/a/", ErrorKind::InvalidPath),
            ("//a", ErrorKind::InvalidPath),
            ("/a/./b", ErrorKind::InvalidPath),
            ("/a/..", ErrorKind::InvalidPath),
            ("/a\0b", ErrorKind::InvalidPath),
            (long_name.as_str(), ErrorKind::NameTooLong),
            (long_path.as_str(), ErrorKind::NameTooLong),
            (deep.as_str(), ErrorKind::NameTooLong),
        ] {
            let error = node(path).expect_err(path);
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().starts_with(path));
        }
    }
}
