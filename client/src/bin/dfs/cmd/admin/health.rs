//! `dfs admin health`: is all well? For scripts: the exit code says it.

use clap::Args;
use dfs_client::ClusterStats;
use serde::Serialize;

use crate::output::Out;
use crate::session::Session;

/// `dfs admin health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Nothing to do.
    Healthy,
    /// All data can be read; something is being repaired or wants to be looked at.
    Degraded,
    /// Data cannot be read, or the cluster takes no changes.
    Unhealthy,
}

/// How a cluster is, and why.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// The worst of the reasons.
    pub health: Health,
    /// What is not as it should be.
    pub reasons: Vec<String>,
}

impl Diagnosis {
    /// Judges a cluster.
    pub fn of(stats: &ClusterStats) -> Self {
        let mut found: Vec<(Health, String)> = Vec::new();
        let mut note = |health, count: u64, what: &str| {
            if count > 0 {
                found.push((health, format!("{count} {what}")));
            }
        };
        let dead = u64::from(stats.dead_datanodes.saturating_sub(stats.expected_dead_datanodes));
        let recent = if stats.starting { Health::Degraded } else { Health::Unhealthy };
        note(recent, stats.missing_blocks, "blocks without any replica that can be read");
        note(Health::Unhealthy, stats.corrupt_blocks, "blocks whose replicas are all corrupt");
        note(Health::Degraded, stats.last_replica_blocks, "blocks with one replica left");
        note(Health::Degraded, stats.under_replicated_blocks, "blocks with fewer replicas than wanted");
        note(Health::Degraded, stats.misplaced_blocks, "blocks on too few racks or data centres");
        note(Health::Degraded, dead, "dead datanodes");
        note(Health::Degraded, stats.stale_datanodes.into(), "datanodes that are silent");
        note(Health::Degraded, stats.failed_volumes.into(), "failed volumes");
        if stats.live_datanodes == 0 {
            found.push((Health::Unhealthy, "no datanode is live".to_owned()));
        }
        if stats.safe_mode {
            found.push((Health::Unhealthy, "safe mode is on: nothing can be changed".to_owned()));
        }
        if stats.restored {
            let kept = format!("restored from a backup: {} unknown blocks are kept", stats.kept_blocks);
            found.push((Health::Degraded, kept));
        }
        if stats.disk_full {
            found.push((Health::Unhealthy, "the namenode's disk is full: nothing can be changed".to_owned()));
        }
        if stats.starting {
            found.push((
                Health::Degraded,
                "the namenode has started, and datanodes are still reporting".to_owned(),
            ));
        }
        let health = found.iter().map(|(health, _)| *health).max().unwrap_or(Health::Healthy);
        Self { health, reasons: found.into_iter().map(|(_, reason)| reason).collect() }
    }
}

/// Tells, and sets the exit code.
pub async fn run(session: &Session, out: &mut Out, args: &HealthArgs) -> anyhow::Result<()> {
    let diagnosis = Diagnosis::of(&session.client.stats().await?);
    match diagnosis.health {
        Health::Healthy => {}
        Health::Degraded => session.set_degraded(),
        Health::Unhealthy => session.set_failed(),
    }
    if args.json {
        out.json(&diagnosis)?;
        return Ok(());
    }
    let word = match diagnosis.health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy => "UNHEALTHY",
    };
    out.line(format_args!("{word}"))?;
    for reason in &diagnosis.reasons {
        out.line(format_args!("  {reason}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_reason_counts() {
        let well = ClusterStats { live_datanodes: 3, ..ClusterStats::default() };
        assert_eq!(Diagnosis::of(&well), Diagnosis { health: Health::Healthy, reasons: vec![] });
        let expected = ClusterStats { dead_datanodes: 1, expected_dead_datanodes: 1, ..well };
        assert_eq!(Diagnosis::of(&expected).health, Health::Healthy, "in maintenance, say");
        let dead = ClusterStats { dead_datanodes: 1, under_replicated_blocks: 7, ..well };
        assert_eq!(Diagnosis::of(&dead).health, Health::Degraded);
        assert_eq!(Diagnosis::of(&dead).reasons.len(), 2);
        for bad in [
            ClusterStats { missing_blocks: 1, ..dead },
            ClusterStats { corrupt_blocks: 1, ..well },
            ClusterStats { safe_mode: true, ..well },
            ClusterStats { disk_full: true, ..well },
            ClusterStats::default(),
        ] {
            assert_eq!(Diagnosis::of(&bad).health, Health::Unhealthy, "{bad:?}");
        }
        let starting = ClusterStats { missing_blocks: 1, starting: true, ..well };
        assert_eq!(Diagnosis::of(&starting).health, Health::Degraded);
    }
}
