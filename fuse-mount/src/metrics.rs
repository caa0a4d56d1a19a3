//! What a mount counts, as text that Prometheus reads.
//!
//! A mount listens on no port. The text is the value of [`METRICS`], an extended attribute of its root that is not listed:
//! `getfattr --only-values -n user.dfs.metrics /mnt`.

use dfs_client::HedgeCounts;
use dfs_client::fs::{DelegationCounts, LockDelegationCounts};

/// Name of the attribute.
pub const METRICS: &[u8] = b"user.dfs.metrics";

/// By how much the text may grow between the question how long it is and the one for it: all numbers gain some digits.
pub const GROWTH_BYTES: usize = 256;

/// The text: for each metric what it is, its type, and its value.
pub fn text(hedges: HedgeCounts, delegations: DelegationCounts, locks: LockDelegationCounts) -> String {
    let counters = [
        ("hedged_reads", "late reads of which another datanode was asked too", hedges.asked),
        ("hedged_reads_won", "of these, those that the other datanode answered first", hedges.won),
        ("hedged_reads_refused", "late reads for which there was no second question left", hedges.refused),
        ("delegations_granted", "directories that were delegated to the mount", delegations.granted),
        ("delegations_recalled", "delegated directories that others wanted", delegations.recalled),
        ("files_opened", "files opened without asking the namenode", delegations.opened),
        ("changes_answered", "changes answered before the namenode knew of them", delegations.answered),
        ("change_batches", "batches in which they were sent", delegations.batches),
        ("changes_corrected", "of these changes, those carried out otherwise", delegations.corrected),
        ("changes_refused", "of these changes, those that the namenode refused", delegations.refused),
        ("lock_delegations_granted", "files whose locks were delegated to the mount", locks.granted),
        ("lock_delegations_recalled", "delegated locks that others wanted", locks.recalled),
        ("lock_calls_answered", "calls about locks answered without asking the namenode", locks.answered),
    ];
    let gauges = [
        ("delegated_directories", "directories that the mount has delegated", delegations.directories),
        ("shared_directories", "of these, those that others may have for reading, too", delegations.shared),
        ("changes_queued", "answered changes that the namenode has not carried out yet", delegations.queued),
        ("delegated_lock_files", "files whose locks the mount has delegated", locks.files),
    ];
    let mut text = String::new();
    let mut line = |name: String, help: &str, kind: &str, value: u64| {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"));
    };
    for (name, help, value) in counters {
        line(format!("dfs_mount_{name}_total"), help, "counter", value);
    }
    for (name, help, value) in gauges {
        line(format!("dfs_mount_{name}"), help, "gauge", value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_has_its_help_type_and_value() {
        let delegations = DelegationCounts { directories: 3, refused: 7, ..DelegationCounts::default() };
        let locks = LockDelegationCounts { files: 2, answered: 9, ..LockDelegationCounts::default() };
        let text = text(HedgeCounts { asked: 5, won: 4, refused: 0 }, delegations, locks);
        for line in [
            "dfs_mount_hedged_reads_total 5",
            "dfs_mount_hedged_reads_won_total 4",
            "dfs_mount_changes_refused_total 7",
            "# TYPE dfs_mount_delegated_directories gauge",
            "dfs_mount_delegated_directories 3",
            "dfs_mount_lock_calls_answered_total 9",
            "dfs_mount_delegated_lock_files 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} missing in {text}");
        }
        let values = text.lines().filter(|line| !line.starts_with('#'));
        assert!(values.clone().all(|line| line.split(' ').count() == 2));
        assert_eq!(text.lines().count(), 3 * values.count());
    }
}
