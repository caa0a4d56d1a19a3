//! One operation of the load.

use serde::{Deserialize, Serialize};

/// What a worker does to its directory. Paths are absolute; new names have never been used before, so that an operation whose
/// outcome is unknown cannot be mistaken for another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Make a directory.
    Mkdir {
        /// Its path.
        path: String,
    },
    /// Create a file, write it in pieces, making each safe before the next, and close it.
    Write {
        /// Its path.
        path: String,
        /// Replicas wanted.
        replication: u16,
        /// Number of the generated content.
        seed: u64,
        /// Its length.
        len: u64,
        /// Bytes between two calls that make safe what was written; 0: none but the close.
        piece: u64,
    },
    /// Write at the end of a file in the same way.
    Append {
        /// Its path.
        path: String,
        /// Number of the generated content.
        seed: u64,
        /// Its length.
        len: u64,
        /// As for `Write`.
        piece: u64,
    },
    /// Write in the middle of a file and make it safe; only a mount can.
    Overwrite {
        /// Its path.
        path: String,
        /// First byte.
        offset: u64,
        /// Number of the generated content.
        seed: u64,
        /// Bytes; the file does not get longer.
        len: u64,
    },
    /// Cut a file.
    Truncate {
        /// Its path.
        path: String,
        /// Bytes that stay.
        len: u64,
    },
    /// Move a file or a directory to a new name.
    Rename {
        /// Old path.
        from: String,
        /// New path.
        to: String,
    },
    /// Move a file to the name of another one, which it replaces.
    Replace {
        /// Old path.
        from: String,
        /// Path of the file that goes away.
        to: String,
    },
    /// Remove a file, or a directory with everything below it.
    Delete {
        /// Its path.
        path: String,
    },
    /// Set how many replicas a file has.
    SetReplication {
        /// Its path.
        path: String,
        /// Replicas wanted.
        replication: u16,
    },
    /// Read a file whose content is known.
    Read {
        /// Its path.
        path: String,
    },
}

impl Operation {
    /// Every path that the operation touches.
    pub fn paths(&self) -> Vec<&str> {
        match self {
            Self::Mkdir { path }
            | Self::Write { path, .. }
            | Self::Append { path, .. }
            | Self::Overwrite { path, .. }
            | Self::Truncate { path, .. }
            | Self::Delete { path }
            | Self::SetReplication { path, .. }
            | Self::Read { path } => vec![path],
            Self::Rename { from, to } | Self::Replace { from, to } => vec![from, to],
        }
    }
}
