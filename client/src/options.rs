//! Options of namespace calls.

/// How [`DfsClient::mkdir`](crate::DfsClient::mkdir) makes a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MkdirOptions {
    /// Permission bits, taken as they are (no umask). Default 0755.
    pub mode: u32,
    /// Make missing parents, and succeed if the directory exists. Default false.
    pub parents: bool,
}

impl Default for MkdirOptions {
    fn default() -> Self {
        Self { mode: 0o755, parents: false }
    }
}

/// How [`DfsClient::create`](crate::DfsClient::create) makes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// Replace an existing file. Default false: an existing file is an error.
    pub overwrite: bool,
    /// Make missing parents. Default false.
    pub create_parents: bool,
    /// Replicas wanted, 1 to 512. Default: the client's setting, else the cluster's.
    pub replication: Option<u16>,
    /// Block size in bytes, 1 MiB to 4 GiB. Default: the client's setting, else the cluster's.
    pub block_size: Option<u64>,
    /// Permission bits, taken as they are (no umask). Default 0644.
    pub mode: u32,
    /// Allocate the first block in the same call, which saves a call when something is written. Without it, the
    /// first write asks for the block; a file that stays empty then costs the namenode no block. Default true.
    pub allocate_block: bool,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            overwrite: false,
            create_parents: false,
            replication: None,
            block_size: None,
            mode: 0o644,
            allocate_block: true,
        }
    }
}

/// How [`DfsClient::rename`](crate::DfsClient::rename) treats an existing target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenameOptions {
    /// Replace an existing file or empty directory. Default false: an existing target is an error.
    pub overwrite: bool,
}
