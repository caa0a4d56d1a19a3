//! Settings of block management.

/// Settings of the block manager. All times are milliseconds of the caller's monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockManagementConfig {
    /// A datanode without a heartbeat for this long is stale: read from it last, do not write to it.
    /// Default 5,000; at least 1, below `dead_after_ms`.
    pub stale_after_ms: u64,
    /// A datanode without a heartbeat for this long is dead: its replicas are replaced. Default 30,000.
    pub dead_after_ms: u64,
    /// After a start with known datanodes, repair waits until all of them have reported, at most this
    /// long; otherwise a restart of the namenode would copy every block. Default 30,000.
    pub startup_grace_ms: u64,
    /// Replica copies that one datanode sends, and that one receives, at a time. Default 512: what a datanode does with
    /// small blocks between two of the heartbeats that come while it copies; large blocks are limited by bytes. 1 to 10,000.
    pub node_transfers_max: u32,
    /// Bytes of the copies that one datanode sends, and that one receives, at a time; one copy is always
    /// allowed. Default 512 MiB.
    pub node_transfer_bytes_max: u64,
    /// A copy that has not arrived after this time, plus the time its bytes take at a slow pace, is given
    /// up and planned again. Default 30,000; at least 1.
    pub pending_timeout_ms: u64,
    /// Replicas that one heartbeat asks a datanode to delete. Default 1,000 (HDFS's); 1 to 100,000.
    pub invalidate_limit: usize,
    /// Deletion of a deleted file's replica is ordered after this time, unless the datanode is short of room. Default 5,000; 0 to an
    /// hour.
    pub invalidate_delay_ms: u64,
    /// A deletion that is not confirmed after this time is ordered again. Default 60,000; at least 1.
    pub invalidate_retry_ms: u64,
    /// A datanode that was asked to verify a replica, because another one of the block is bad, is asked again
    /// after this time without an answer. Default 30,000: reading a large replica takes seconds; at least 1.
    pub verify_retry_ms: u64,
    /// A recovery that has not finished after this time must be started anew. Default 15,000; at least 1.
    pub recovery_timeout_ms: u64,
    /// A storage without a full report this long after registration is asked for one. Default 60,000.
    pub report_wait_ms: u64,
    /// How far a datanode's used share of its capacity may be from the cluster's before blocks are moved, in
    /// hundredths of a percent. Default 1,000 (HDFS's 10 %); 1 to 10,000.
    pub balance_threshold: u32,
    /// Bytes a second that a datanode sends, and that one receives, for balancing in the background. Default
    /// 10 MiB: a fifth of what one old disk does, and some 850 GB a day. 0: none.
    pub background_balance_bandwidth: u64,
    /// Seed of the random choices made inside (sources and targets of repair).
    pub seed: u64,
}

impl Default for BlockManagementConfig {
    fn default() -> Self {
        Self {
            stale_after_ms: 5_000,
            dead_after_ms: 30_000,
            startup_grace_ms: 30_000,
            node_transfers_max: 512,
            node_transfer_bytes_max: 512 << 20,
            pending_timeout_ms: 30_000,
            invalidate_limit: 1_000,
            invalidate_delay_ms: 5_000,
            invalidate_retry_ms: 60_000,
            verify_retry_ms: 30_000,
            recovery_timeout_ms: 15_000,
            report_wait_ms: 60_000,
            balance_threshold: 1_000,
            background_balance_bandwidth: 10 << 20,
            seed: 0,
        }
    }
}

/// A setting is out of its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block management: {setting} = {value} is not within {least} to {most}")]
pub struct ConfigError {
    /// Name of the setting.
    pub setting: &'static str,
    /// Its value.
    pub value: u64,
    /// Least value allowed.
    pub least: u64,
    /// Greatest value allowed.
    pub most: u64,
}

impl BlockManagementConfig {
    /// Checks every bound; to be called before any socket opens.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const DAY_MS: u64 = 24 * 3600 * 1000;
        let within = |setting, value, least, most| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError { setting, value, least, most })
            }
        };
        within("stale_after_ms", self.stale_after_ms, 1, DAY_MS)?;
        within("dead_after_ms", self.dead_after_ms, self.stale_after_ms + 1, DAY_MS)?;
        within("startup_grace_ms", self.startup_grace_ms, 0, DAY_MS)?;
        within("node_transfers_max", u64::from(self.node_transfers_max), 1, 10_000)?;
        within("node_transfer_bytes_max", self.node_transfer_bytes_max, 1, u64::MAX)?;
        within("pending_timeout_ms", self.pending_timeout_ms, 1, DAY_MS)?;
        within("invalidate_limit", self.invalidate_limit as u64, 1, 100_000)?;
        within("invalidate_delay_ms", self.invalidate_delay_ms, 0, DAY_MS / 24)?;
        within("invalidate_retry_ms", self.invalidate_retry_ms, 1, DAY_MS)?;
        within("verify_retry_ms", self.verify_retry_ms, 1, DAY_MS)?;
        within("recovery_timeout_ms", self.recovery_timeout_ms, 1, DAY_MS)?;
        within("report_wait_ms", self.report_wait_ms, 1, DAY_MS)?;
        within("balance_threshold", u64::from(self.balance_threshold), 1, 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_bounds_are_checked() {
        assert_eq!(BlockManagementConfig::default().validate(), Ok(()));
        let config = BlockManagementConfig { dead_after_ms: 4_000, ..Default::default() };
        assert_eq!(
            config.validate().map_err(|e| (e.setting, e.value, e.least)),
            Err(("dead_after_ms", 4_000, 5_001))
        );
        let config = BlockManagementConfig { node_transfers_max: 0, ..Default::default() };
        assert_eq!(config.validate().map_err(|e| e.setting), Err("node_transfers_max"));
    }
}
