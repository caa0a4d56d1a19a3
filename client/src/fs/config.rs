//! Settings of a file system session.

use std::time::Duration;

use uuid::Uuid;

use crate::DfsError;
use crate::config::ClientConfig;
use crate::retry::RetryPolicy;

/// Longest session name that the namenode takes, in bytes.
const MAX_SESSION_BYTES: usize = 255;

/// Smallest [`FileSystemConfig::memory_bytes`]: some packets of each of a few files.
const MIN_MEMORY_BYTES: usize = 8 << 20;

/// Longest pause between two attempts while the namenode is away: how late its return may be noticed.
const MAX_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Settings of a [`FileSystem`](super::FileSystem).
#[derive(Clone, Debug)]
pub struct FileSystemConfig {
    /// Namenodes as `host:port`; several if they are replicas of each other. Empty: 127.0.0.1:9820.
    pub namenodes: Vec<String>,
    /// User who mounts: in whose name background calls are made. Default: the user who runs the process.
    pub user: Option<String>,
    /// Name of the session, unique in the cluster. Default: `mount-` and random digits.
    pub session: Option<String>,
    /// Bytes for data not written back yet and data read ahead, at least 8 MiB. Default 256 MiB.
    pub memory_bytes: usize,
    /// Replication of new files, 1 to 512. Default: the cluster's.
    pub replication: Option<u16>,
    /// Block size of new files in bytes. Default: the cluster's.
    pub block_size: Option<u64>,
    /// How long an operation waits for a namenode, or for the replicas of a block, that is away. Default 60 s.
    pub wait: Duration,
    /// Changes are answered before the namenode has them on disk; [`FileSystem::sync`](super::FileSystem::sync) and
    /// [`OpenFile::sync`](super::OpenFile::sync) wait for the disk. Default true.
    pub relaxed: bool,
    /// Have directories delegated that are changed a lot, and answer changes of them before the namenode knows of them. Default true;
    /// nothing is delegated unless `relaxed`.
    pub delegations: bool,
}

impl Default for FileSystemConfig {
    fn default() -> Self {
        Self {
            namenodes: Vec::new(),
            user: None,
            session: None,
            memory_bytes: 256 << 20,
            replication: None,
            block_size: None,
            wait: Duration::from_secs(60),
            relaxed: true,
            delegations: true,
        }
    }
}

impl FileSystemConfig {
    /// Default settings for the namenodes at `addresses`, separated by commas.
    pub fn of_namenodes(addresses: &str) -> Self {
        let namenodes = addresses.split(',').map(|part| part.trim().to_owned()).collect();
        Self { namenodes, ..Self::default() }
    }

    /// The session's name, chosen if it is not set.
    pub(super) fn session_name(&self) -> Result<String, DfsError> {
        let name = match &self.session {
            Some(name) => name.clone(),
            None => format!("mount-{}", Uuid::new_v4().simple()),
        };
        if name.is_empty() || name.len() > MAX_SESSION_BYTES {
            return Err(DfsError::InvalidSetting { setting: "session", value: name.len() as u64 });
        }
        Ok(name)
    }

    /// Settings of the client below, with `session` as its lease holder.
    pub(super) fn client(&self, session: &str) -> Result<ClientConfig, DfsError> {
        if self.memory_bytes < MIN_MEMORY_BYTES {
            let value = self.memory_bytes as u64;
            return Err(DfsError::InvalidSetting { setting: "memory_bytes", value });
        }
        let mut config = ClientConfig {
            namenodes: self.namenodes.clone(),
            user: self.user.clone(),
            holder: Some(session.to_owned()),
            replication: self.replication,
            block_size: self.block_size,
            retry: RetryPolicy { deadline: self.wait, max_delay: MAX_RETRY_DELAY, ..RetryPolicy::default() },
            ..ClientConfig::default()
        };
        config.default_namenode();
        config.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_refused() {
        let long = FileSystemConfig { session: Some("s".repeat(256)), ..Default::default() };
        assert!(long.session_name().is_err());
        let small = FileSystemConfig { memory_bytes: 1, ..Default::default() };
        assert!(small.client("s").is_err());
        let none = FileSystemConfig { replication: Some(0), ..Default::default() };
        assert!(none.client("s").is_err());
        let defaults = FileSystemConfig::of_namenodes("a:1, b:2");
        assert_eq!(defaults.client("s").expect("valid").namenodes, ["a:1", "b:2"]);
    }
}
