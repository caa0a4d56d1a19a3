//! Paths of the namespace on the command line.
//!
//! An argument that does not start with `/` is relative to `/user/NAME`, as in HDFS. What is shown
//! back to the user is spelled as he wrote it, and names that are no UTF-8 with `\xNN` for each odd byte
//! (`dfs_client::escape_name`). Trailing slashes are dropped; everything else (`..`,
//! empty names) is left for the namenode to refuse.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use clap::builder::{OsStringValueParser, TypedValueParser};

/// Suffix of a destination that is still being copied.
pub const COPYING_SUFFIX: &str = "._COPYING_";

/// A path argument that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// An empty argument names nothing.
    #[error("path is empty")]
    Empty,
}

/// A path of the namespace as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteArg(String);

impl RemoteArg {
    /// Checks what clap handed over as a local path.
    pub fn from_os(arg: &OsStr) -> Result<Self, PathError> {
        if arg.is_empty() { Err(PathError::Empty) } else { Ok(Self(text_of(arg))) }
    }

    /// Parser for clap.
    pub fn parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(|arg| Self::from_os(&arg))
    }

    /// The home directory.
    pub fn home() -> Self {
        Self(".".to_owned())
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A node of the namespace: what to ask for, and how to call it in messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemotePath {
    /// Absolute path.
    pub absolute: String,
    /// Spelling for people.
    pub shown: String,
}

impl RemotePath {
    /// Resolves what the user wrote; `user` owns the home directory.
    pub fn resolve(user: &str, written: &str) -> Self {
        let trimmed = written.trim_end_matches('/');
        let shown = if trimmed.is_empty() { "/" } else { trimmed };
        let absolute = if shown.starts_with('/') {
            shown.to_owned()
        } else if shown == "." {
            home(user)
        } else {
            format!("{}/{}", home(user), shown.strip_prefix("./").unwrap_or(shown))
        };
        Self { absolute, shown: shown.to_owned() }
    }

    /// The entry `name` of this directory.
    pub fn child(&self, name: &str) -> Self {
        let shown = if self.shown == "." { name.to_owned() } else { join(&self.shown, name) };
        Self { absolute: join(&self.absolute, name), shown }
    }

    /// This path with `suffix` after its last name.
    pub fn with_suffix(&self, suffix: &str) -> Self {
        Self { absolute: format!("{}{suffix}", self.absolute), shown: format!("{}{suffix}", self.shown) }
    }

    /// Last name; empty for the root.
    pub fn name(&self) -> &str {
        base_name(&self.absolute)
    }
}

/// An argument as text: bytes that are no UTF-8 are escaped, escapes that the user wrote stay.
fn text_of(arg: &OsStr) -> String {
    let mut text = String::with_capacity(arg.len());
    for chunk in arg.as_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        text.push_str(&dfs_client::escape_name(chunk.invalid()));
    }
    text
}

/// Home directory of `user`.
pub fn home(user: &str) -> String {
    format!("/user/{user}")
}

/// `directory/name` without doubling the slash of the root.
pub fn join(directory: &str, name: &str) -> String {
    if directory.ends_with('/') { format!("{directory}{name}") } else { format!("{directory}/{name}") }
}

/// What follows the last slash.
pub fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_start_at_home() {
        for (written, absolute, shown) in [
            ("/", "/", "/"),
            ("//", "/", "/"),
            ("/a/b/", "/a/b", "/a/b"),
            ("/a//b", "/a//b", "/a//b"),
            ("x", "/user/u/x", "x"),
            ("./x", "/user/u/x", "./x"),
            (".", "/user/u", "."),
        ] {
            let path = RemotePath::resolve("u", written);
            assert_eq!((path.absolute.as_str(), path.shown.as_str()), (absolute, shown));
        }
    }

    #[test]
    fn children_keep_the_spelling() {
        let child = RemotePath::resolve("u", "x").child("y");
        assert_eq!(child, RemotePath { absolute: "/user/u/x/y".into(), shown: "x/y".into() });
        assert_eq!(RemotePath::resolve("u", "/").child("y").shown, "/y");
        assert_eq!(child.name(), "y");
        assert_eq!(RemotePath::resolve("u", ".").child("y").shown, "y");
        assert_eq!(RemotePath::resolve("u", "/").name(), "");
    }

    #[test]
    fn odd_bytes_are_escaped_and_escapes_stay() {
        let odd = RemoteArg::from_os(OsStr::from_bytes(b"/a\xff\\xe9")).expect("not empty");
        assert_eq!(odd.as_str(), "/a\\xff\\xe9");
        assert_eq!(RemoteArg::from_os(OsStr::new("")), Err(PathError::Empty));
    }
}
