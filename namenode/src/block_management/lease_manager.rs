//! Lease holders and when they last renewed.
//!
//! Which files a holder writes is in the namespace; renewals are soft state, so that they cost no log
//! record. After a restart of the namenode every holder gets the full time again.
//!
//! One thread at a time; held by the service beside the block manager. The holders are bounded by the
//! files open for writing: a renewal of an unknown holder is not recorded.

use std::collections::BTreeMap;

/// Limits of leases, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    /// After this time without renewal another writer may take a holder's files. Default 60,000; at least 1.
    pub soft_limit_ms: u64,
    /// After this time without renewal the namenode closes a holder's files. Default 20 minutes; at least
    /// the soft limit.
    pub hard_limit_ms: u64,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self { soft_limit_ms: 60_000, hard_limit_ms: 20 * 60_000 }
    }
}

/// The holders.
#[derive(Debug, Default)]
pub struct LeaseManager {
    config: LeaseConfig,
    renewed: BTreeMap<String, u64>,
}

impl LeaseManager {
    /// Knows no holder.
    pub fn new(config: LeaseConfig) -> Self {
        Self { config, renewed: BTreeMap::new() }
    }

    /// The holder has (one more) file open for writing; that counts as a renewal.
    pub fn added(&mut self, now: u64, holder: &str) {
        match self.renewed.get_mut(holder) {
            Some(renewed) => *renewed = now,
            None => {
                self.renewed.insert(holder.to_owned(), now);
            }
        }
    }

    /// The holder has no file open for writing any more.
    pub fn removed(&mut self, holder: &str) {
        self.renewed.remove(holder);
    }

    /// The holder is alive. Answers false if it has no file open for writing.
    pub fn renew(&mut self, now: u64, holder: &str) -> bool {
        match self.renewed.get_mut(holder) {
            Some(renewed) => {
                *renewed = now;
                true
            }
            None => false,
        }
    }

    /// Another writer may take the holder's files. A holder that is not known protects nothing.
    pub fn soft_expired(&self, now: u64, holder: &str) -> bool {
        self.renewed
            .get(holder)
            .is_none_or(|renewed| now.saturating_sub(*renewed) >= self.config.soft_limit_ms)
    }

    /// Holders whose files the namenode shall close.
    pub fn hard_expired(&self, now: u64) -> Vec<String> {
        self.renewed
            .iter()
            .filter(|(_, renewed)| now.saturating_sub(**renewed) >= self.config.hard_limit_ms)
            .map(|(holder, _)| holder.clone())
            .collect()
    }

    /// Number of holders.
    pub fn len(&self) -> usize {
        self.renewed.len()
    }

    /// Nobody writes.
    pub fn is_empty(&self) -> bool {
        self.renewed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_expire_softly_then_hard_unless_renewed() {
        let mut leases = LeaseManager::new(LeaseConfig { soft_limit_ms: 60, hard_limit_ms: 200 });
        leases.added(0, "a");
        leases.added(0, "b");
        assert!(!leases.soft_expired(59, "a"));
        assert!(leases.soft_expired(60, "a"));
        assert!(leases.renew(100, "a"));
        assert!(!leases.soft_expired(159, "a"));
        assert_eq!(leases.hard_expired(199), Vec::<String>::new());
        assert_eq!(leases.hard_expired(200), ["b"]);
        leases.removed("b");
        assert_eq!(leases.hard_expired(250), Vec::<String>::new());
        assert_eq!(leases.len(), 1);
    }

    #[test]
    fn unknown_holders_are_not_recorded() {
        let mut leases = LeaseManager::default();
        assert!(!leases.renew(0, "stranger"));
        assert!(leases.soft_expired(0, "stranger"));
        assert!(leases.is_empty());
    }
}
