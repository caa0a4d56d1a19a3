//! Configuration of consensus.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::error::ConsensusError;

/// How a namenode takes part in consensus. [`ConsensusConfig::new`] sets the defaults.
#[derive(Clone, Debug)]
pub struct ConsensusConfig {
    /// Directory of log, vote and state; made if it does not exist.
    pub dir: PathBuf,
    /// This node.
    pub node_id: u64,
    /// All voters with "host:port" of their gRPC servers, this node among them; empty: this node alone.
    /// Used when the directory is new; afterwards the log knows the members.
    pub peers: BTreeMap<u64, String>,
    /// Memory for caching the state, in bytes; about half of it holds changes since the last
    /// checkpoint. Default 96 MiB, at least 4 MiB.
    pub cache_bytes: usize,
    /// Changes that are kept in memory before they are brought into redb together, in bytes; up to five times as much
    /// while that is under way. Default 8 MiB: some ten thousand changes. At least 4 KiB.
    pub layer_bytes: usize,
    /// Size at which a log segment is closed, in bytes. Default 16 MiB, at least 4 KiB.
    pub segment_bytes: u64,
    /// A checkpoint is made after so many commands: bounds the replay after a crash to about a second.
    /// Default 100,000, at least 1.
    pub checkpoint_commands: u64,
    /// A checkpoint is made after so many bytes of log. Default 64 MiB, at least 4 KiB.
    pub checkpoint_bytes: u64,
    /// A checkpoint is made when changes are older than this. Default 30 s, at least 10 ms.
    pub checkpoint_interval: Duration,
    /// Checkpoints wait while the disk has less room than this, in bytes: the store might fail in the middle, and the log
    /// has everything. Default 16 MiB: two layers.
    pub checkpoint_room_bytes: u64,
    /// Entries kept in the log behind a checkpoint, so that a follower that was away for a moment needs
    /// no snapshot. Default 10,000; unused when there are no other nodes.
    pub keep_entries: u64,
    /// Time between heartbeats of a leader. Default 250 ms, at least 10 ms.
    pub heartbeat: Duration,
    /// A follower stands for election when it has not heard from a leader for this long, up to twice as
    /// long. Default 1 s, at least twice the heartbeat.
    pub election: Duration,
}

impl ConsensusConfig {
    /// The defaults for a node alone.
    pub fn new(dir: impl Into<PathBuf>, node_id: u64) -> Self {
        Self {
            dir: dir.into(),
            node_id,
            peers: BTreeMap::new(),
            cache_bytes: 96 << 20,
            layer_bytes: 8 << 20,
            segment_bytes: 16 << 20,
            checkpoint_commands: 100_000,
            checkpoint_bytes: 64 << 20,
            checkpoint_interval: Duration::from_secs(30),
            checkpoint_room_bytes: 16 << 20,
            keep_entries: 10_000,
            heartbeat: Duration::from_millis(250),
            election: Duration::from_secs(1),
        }
    }

    /// Checks bounds.
    pub fn validate(&self) -> Result<(), ConsensusError> {
        let bounded = |field, value: u64, min| {
            if value < min {
                return Err(ConsensusError::Config { field, value, min });
            }
            Ok(())
        };
        bounded("cache_bytes", self.cache_bytes as u64, 4 << 20)?;
        bounded("layer_bytes", self.layer_bytes as u64, 4 << 10)?;
        bounded("segment_bytes", self.segment_bytes, 4 << 10)?;
        bounded("checkpoint_commands", self.checkpoint_commands, 1)?;
        bounded("checkpoint_bytes", self.checkpoint_bytes, 4 << 10)?;
        bounded("checkpoint_interval_ms", millis(self.checkpoint_interval), 10)?;
        bounded("heartbeat_ms", millis(self.heartbeat), 10)?;
        bounded("election_ms", millis(self.election), 2 * millis(self.heartbeat))?;
        if !self.peers.is_empty() && !self.peers.contains_key(&self.node_id) {
            return Err(ConsensusError::NotAPeer { node_id: self.node_id });
        }
        Ok(())
    }
}

/// Whole milliseconds of a duration.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_bounds_are_checked() {
        let config = ConsensusConfig::new("/nowhere", 1);
        config.validate().expect("valid");
        let small = ConsensusConfig { cache_bytes: 1, ..config.clone() };
        assert!(matches!(small.validate(), Err(ConsensusError::Config { field: "cache_bytes", .. })));
        let stranger = ConsensusConfig { peers: BTreeMap::from([(2, "host:1".to_owned())]), ..config };
        assert!(matches!(stranger.validate(), Err(ConsensusError::NotAPeer { node_id: 1 })));
    }
}
