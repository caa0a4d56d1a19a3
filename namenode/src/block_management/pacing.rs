//! How soon the next heartbeats and ticks shall come.
//!
//! Commands travel in the answers to heartbeats. At one a second a cluster of small blocks would wait for heartbeats
//! instead of disks, and a death would be noticed up to a second late; so the interval is shortened while copies are
//! under way or a datanode is silent, and is the configured one otherwise.

use super::block_manager::BlockManager;
use super::datanode_manager::Liveness;

/// Interval of heartbeats while copies are under way: the time in which some hundred small blocks are copied.
const BUSY_HEARTBEAT_MS: u32 = 50;

/// Interval of heartbeats while a datanode is silent, so that the others hear soon after its death what to copy.
const WATCHFUL_HEARTBEAT_MS: u32 = 250;

/// Live datanodes that the namenode hears in a millisecond at most: 4,000 heartbeats a second cost it a fraction of a core.
const HEARTBEATS_PER_MS: usize = 4;

/// Interval of ticks while copies are under way: two heartbeats.
const BUSY_TICK_MS: u64 = 2 * BUSY_HEARTBEAT_MS as u64;

/// Shortest interval of ticks: a death is noticed this late at most.
const SHORTEST_TICK_MS: u64 = 10;

impl BlockManager {
    /// Milliseconds to the next heartbeat of any datanode; 0: the configured interval.
    pub fn next_heartbeat_ms(&self) -> u32 {
        let wanted = if self.pending.targets() > 0 {
            BUSY_HEARTBEAT_MS
        } else if self.datanodes.nodes().iter().any(|node| node.liveness == Liveness::Stale) {
            WATCHFUL_HEARTBEAT_MS
        } else {
            return 0;
        };
        let affordable = u32::try_from(self.datanodes.nodes().len() / HEARTBEATS_PER_MS).unwrap_or(u32::MAX);
        wanted.max(affordable)
    }

    /// Milliseconds to the next tick, if that is to be before the configured interval has passed.
    pub fn next_tick_ms(&self, now: u64) -> Option<u64> {
        let busy = (self.pending.targets() > 0).then_some(BUSY_TICK_MS);
        let deaths = self.datanodes.nodes().iter().filter(|node| node.liveness == Liveness::Stale);
        let next_death = deaths
            .map(|node| node.last_heartbeat.saturating_add(self.config.dead_after_ms).saturating_sub(now))
            .min();
        busy.into_iter().chain(next_death).min().map(|wait| wait.max(SHORTEST_TICK_MS))
    }
}
