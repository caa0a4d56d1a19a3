//! Settings of a namenode: each with its default, unit and bounds.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use dfs_proto::checksum::DEFAULT_BYTES_PER_CHECKSUM;
use dfs_proto::ports;

use crate::block_management::BANDWIDTH_MIN;
use crate::error::NamenodeError;

/// Smallest block size that can be configured as the least allowed one: one checksum chunk.
const MIN_BLOCK_SIZE_FLOOR: u64 = DEFAULT_BYTES_PER_CHECKSUM as u64;

/// Largest replication of a file (as HDFS).
pub const MAX_REPLICATION: u16 = 512;

/// Settings of a namenode.
#[derive(Clone, Debug)]
pub struct NamenodeConfig {
    /// Directory of the log and the store; made and formatted if it is empty or missing.
    pub dir: PathBuf,
    /// Address to listen on. Default: all.
    pub bind: IpAddr,
    /// gRPC port. Default 9820; 0 takes any free one.
    pub rpc_port: u16,
    /// HTTP port. Default 9870; 0 takes any free one.
    pub http_port: u16,
    /// User whose permissions are never checked. Default: who starts the namenode.
    pub superuser: Option<String>,
    /// Group whose members are superusers too. Default "supergroup" (as HDFS).
    pub supergroup: String,
    /// Groups of users in addition to the operating system's, as (user, group).
    pub static_groups: Vec<(String, String)>,
    /// Replication of files that ask for none, 1 to 512. Default 3.
    pub default_replication: u16,
    /// Block size in bytes of files that ask for none. Default 128 MiB.
    pub default_block_size: u64,
    /// Least block size in bytes that a file may ask for, a multiple of 4 KiB. Default 1 MiB.
    pub min_block_size: u64,
    /// Greatest block size in bytes that a file may ask for. Default 4 GiB.
    pub max_block_size: u64,
    /// Interval between heartbeats in ms, told to the datanodes. Default 1,000; 10 to 60,000.
    pub heartbeat_interval_ms: u32,
    /// Interval between full block reports in ms, told to the datanodes. Default 6 h; at least 1,000.
    pub block_report_interval_ms: u64,
    /// Silence in ms after which a datanode is stale. Default 5,000; at least two heartbeats.
    pub stale_after_ms: u64,
    /// Silence in ms after which a datanode is dead. Default 30,000; more than `stale_after_ms`.
    pub dead_after_ms: u64,
    /// Age in ms of a lease after which another writer may take the file. Default 60,000.
    pub soft_lease_ms: u64,
    /// Age in ms of a lease after which the namenode closes the file. Default 20 min.
    pub hard_lease_ms: u64,
    /// Silence in ms after which a mount's session ends: its leases are recovered, its locks dropped. Default 30,000.
    pub session_timeout_ms: u64,
    /// Bytes that stay free on the disk of `dir`: below, clients' changes are refused until there is room
    /// again, so that the log is never cut off in the middle. Default 100 MiB (as HDFS).
    pub reserved_bytes: u64,
    /// How long checkpoints of users' trash are kept, in ms. Default 24 h; 0: what is removed is gone at once.
    pub trash_keep_ms: u64,
    /// Time between checkpoints of users' trash, in ms. Default 1 h; at least 100.
    pub trash_checkpoint_ms: u64,
    /// How far the used share of a datanode's capacity may be from the cluster's before blocks are moved, in
    /// hundredths of a percent. Default 1,000 (10 %); 1 to 10,000.
    pub balance_threshold: u32,
    /// Bytes a second that a datanode sends, and that one receives, while blocks are moved in the background. Default
    /// 10 MiB; at least 256 KiB, or 0: none are.
    pub background_balance_bandwidth: u64,
    /// Bytes of memory for the store's pages. Default 96 MiB; at least 8 MiB.
    pub cache_bytes: usize,
}

impl NamenodeConfig {
    /// The defaults, with everything below `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            bind: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            rpc_port: ports::NAMENODE_RPC,
            http_port: ports::NAMENODE_HTTP,
            superuser: None,
            supergroup: "supergroup".to_owned(),
            static_groups: Vec::new(),
            default_replication: 3,
            default_block_size: 128 << 20,
            min_block_size: 1 << 20,
            max_block_size: 4 << 30,
            heartbeat_interval_ms: 1_000,
            block_report_interval_ms: 6 * 3600 * 1000,
            stale_after_ms: 5_000,
            dead_after_ms: 30_000,
            soft_lease_ms: 60_000,
            hard_lease_ms: 20 * 60 * 1000,
            session_timeout_ms: 30_000,
            reserved_bytes: 100 << 20,
            trash_keep_ms: 24 * 3600 * 1000,
            trash_checkpoint_ms: 3600 * 1000,
            balance_threshold: 1_000,
            background_balance_bandwidth: 10 << 20,
            cache_bytes: 96 << 20,
        }
    }

    /// Checks every bound; called before anything is opened.
    pub fn validate(&self) -> Result<(), NamenodeError> {
        let check = |ok: bool, setting: &'static str, rule: &'static str| {
            if ok { Ok(()) } else { Err(NamenodeError::Setting { setting, rule }) }
        };
        check((1..=MAX_REPLICATION).contains(&self.default_replication), "default replication", "1 to 512")?;
        check(
            self.min_block_size >= MIN_BLOCK_SIZE_FLOOR
                && self.min_block_size.is_multiple_of(MIN_BLOCK_SIZE_FLOOR),
            "min block size",
            "a multiple of 4096",
        )?;
        check(self.max_block_size <= 4 << 30, "max block size", "at most 4 GiB")?;
        check(
            (self.min_block_size..=self.max_block_size).contains(&self.default_block_size),
            "default block size",
            "between the least and the greatest block size",
        )?;
        check((10..=60_000).contains(&self.heartbeat_interval_ms), "heartbeat interval", "10 to 60,000 ms")?;
        check(self.block_report_interval_ms >= 1_000, "block report interval", "at least 1,000 ms")?;
        check(
            self.stale_after_ms >= 2 * u64::from(self.heartbeat_interval_ms),
            "stale after",
            "at least two heartbeat intervals",
        )?;
        check(self.dead_after_ms > self.stale_after_ms, "dead after", "more than stale after")?;
        check(self.soft_lease_ms > 0, "soft lease limit", "more than 0")?;
        check(self.hard_lease_ms >= self.soft_lease_ms, "hard lease limit", "at least the soft limit")?;
        check(self.session_timeout_ms >= 100, "session timeout", "at least 100 ms")?;
        check(self.trash_checkpoint_ms >= 100, "trash checkpoint interval", "at least 100 ms")?;
        check((1..=10_000).contains(&self.balance_threshold), "balance threshold", "0.01 to 100 %")?;
        check(
            self.background_balance_bandwidth == 0 || self.background_balance_bandwidth >= BANDWIDTH_MIN,
            "background balance bandwidth",
            "0 or at least 262,144 bytes a second",
        )?;
        check(self.cache_bytes >= 8 << 20, "cache", "at least 8 MiB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_nonsense_is_not() {
        let good = NamenodeConfig::new("/x");
        assert!(good.validate().is_ok());
        for bad in [
            NamenodeConfig { default_replication: 0, ..good.clone() },
            NamenodeConfig { default_replication: 513, ..good.clone() },
            NamenodeConfig { min_block_size: 5000, ..good.clone() },
            NamenodeConfig { default_block_size: 1 << 40, ..good.clone() },
            NamenodeConfig { stale_after_ms: 1_500, ..good.clone() },
            NamenodeConfig { dead_after_ms: 5_000, ..good.clone() },
            NamenodeConfig { hard_lease_ms: 1, ..good.clone() },
            NamenodeConfig { session_timeout_ms: 0, ..good.clone() },
            NamenodeConfig { trash_checkpoint_ms: 99, ..good.clone() },
        ] {
            assert!(matches!(bad.validate(), Err(NamenodeError::Setting { .. })), "{bad:?}");
        }
    }
}
