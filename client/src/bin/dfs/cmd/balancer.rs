//! `dfs balancer`: moves blocks from full datanodes to empty ones. The namenode does it; this starts, watches and stops it.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use dfs_client::{BalanceAction, BalanceRequest, BalanceState, BalanceStatus};
use serde::Serialize;

use super::balancer_disks;
use crate::human;
use crate::output::Out;
use crate::session::Session;

/// Time between two looks.
const POLL: Duration = Duration::from_millis(500);

/// Time between two lines of one iteration.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// `dfs balancer`.
#[derive(Debug, Args)]
pub struct BalancerArgs {
    /// How far a datanode's used share may be from the cluster's, in percent [default: 10%]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    threshold: Option<u32>,
    /// Bytes a second that one datanode sends, and that one receives; changes a run that is on [default: 100M]
    #[arg(long, value_name = "RATE", value_parser = human::parse)]
    bandwidth: Option<u64>,
    /// Only tell how balancing stands
    #[arg(long, conflicts_with_all = ["stop", "threshold", "bandwidth", "background"])]
    status: bool,
    /// End the run that is on, wherever it was started
    #[arg(long, conflicts_with_all = ["threshold", "bandwidth", "background"])]
    stop: bool,
    /// Only set the bandwidth of balancing in the background, or switch it off, until the namenode starts again
    #[arg(long, value_name = "RATE|off", value_parser = rate_or_off, conflicts_with_all = ["threshold", "bandwidth"])]
    background: Option<u64>,
    /// Even out the volumes of this datanode instead: HOST:PORT as `dfs admin nodes` names it, host name or uuid
    #[arg(long, value_name = "NODE", conflicts_with_all = ["threshold", "background", "json"])]
    disks: Option<String>,
    /// With --status: print JSON
    #[arg(long, requires = "status")]
    json: bool,
}

/// A percentage, in hundredths of a percent.
fn percent(text: &str) -> Result<u32, String> {
    let wrong = || "not a percentage such as 10% or 0.5".to_owned();
    let value: f64 = text.trim_end_matches('%').parse().map_err(|_| wrong())?;
    let hundredths = (value * 100.0).round();
    if (1.0..=10_000.0).contains(&hundredths) { Ok(hundredths as u32) } else { Err(wrong()) }
}

fn rate_or_off(text: &str) -> Result<u64, String> {
    if text == "off" { Ok(0) } else { human::parse(text).map_err(|error| error.to_string()) }
}

/// Does what the arguments say.
pub async fn run(session: &Session, out: &mut Out, args: &BalancerArgs) -> anyhow::Result<()> {
    let ask = |action: BalanceAction| BalanceRequest { action: action.into(), ..BalanceRequest::default() };
    if let Some(node) = &args.disks {
        return balancer_disks::run(session, out, node, args.bandwidth, args.status, args.stop).await;
    }
    if args.status {
        let status = session.client.balance(ask(BalanceAction::Get)).await?;
        return show(out, &status, args.json);
    }
    if args.stop {
        let status = session.client.balance(ask(BalanceAction::Stop)).await?;
        return show(out, &status, false);
    }
    if args.background.is_some() {
        let request = BalanceRequest { background_bandwidth: args.background, ..ask(BalanceAction::Set) };
        let status = session.client.balance(request).await?;
        return show(out, &status, false);
    }
    let request =
        BalanceRequest { threshold: args.threshold, bandwidth: args.bandwidth, ..ask(BalanceAction::Start) };
    let watched = watch(session, out, &request);
    tokio::select! {
        outcome = watched => outcome,
        _ = tokio::signal::ctrl_c() => {
            let status = session.client.balance(ask(BalanceAction::Stop)).await?;
            bail!("stopped after {}; run it again to go on", human::size(status.bytes_moved));
        }
    }
}

/// Starts a run and follows it to its end.
async fn watch(session: &Session, out: &mut Out, start: &BalanceRequest) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut status = session.client.balance(start.clone()).await?;
    out.line(format_args!(
        "Threshold {}%, at most {}/s a datanode, cluster {}% full",
        hundredths(status.threshold),
        human::size(status.bandwidth),
        hundredths(status.average),
    ))?;
    out.line(format_args!(
        "Time        Iteration#  Bytes Already Moved  Bytes Left To Move  Bytes Being Moved"
    ))?;
    let mut shown: Option<(u32, Instant)> = None;
    loop {
        let due = shown
            .is_none_or(|(iteration, at)| iteration != status.iteration || at.elapsed() >= LINE_INTERVAL);
        let over = status.state() != BalanceState::Running;
        if due || over {
            out.line(format_args!(
                "{:>8.1} s  {:>10}  {:>19}  {:>18}  {:>17}",
                began.elapsed().as_secs_f64(),
                status.iteration,
                human::size(status.bytes_moved),
                human::size(status.bytes_left),
                human::size(status.bytes_being_moved),
            ))?;
            out.flush()?;
            shown = Some((status.iteration, Instant::now()));
        }
        match status.state() {
            BalanceState::Running => {}
            // The namenode was started anew and knows of no run.
            BalanceState::None => {
                status = session.client.balance(start.clone()).await?;
                continue;
            }
            BalanceState::Balanced => {
                out.line(format_args!(
                    "The cluster is balanced: {} in {} blocks moved.",
                    human::size(status.bytes_moved),
                    status.blocks_moved
                ))?;
                return Ok(());
            }
            BalanceState::NoMove => bail!("no block can be moved without lowering its safety"),
            BalanceState::Stopped => bail!("stopped by somebody else"),
            BalanceState::Forsaken => bail!("the namenode ended the run: it was not asked about it for long"),
        }
        tokio::time::sleep(POLL).await;
        let run_id = status.run_id;
        let look = BalanceRequest { action: BalanceAction::Get.into(), run_id, ..BalanceRequest::default() };
        status = session.client.balance(look).await?;
    }
}

/// Balancing, as `--status --json` tells it.
#[derive(Debug, Serialize)]
struct StatusRow {
    state: &'static str,
    run: u64,
    iteration: u32,
    bytes_moved: u64,
    blocks_moved: u64,
    moves_failed: u64,
    bytes_left: u64,
    bytes_being_moved: u64,
    threshold_percent: f64,
    bandwidth: u64,
    average_percent: f64,
    over_utilized: u32,
    under_utilized: u32,
    background_bandwidth: u64,
    background_bytes_moved: u64,
}

fn state_word(state: BalanceState) -> &'static str {
    match state {
        BalanceState::None => "none",
        BalanceState::Running => "running",
        BalanceState::Balanced => "balanced",
        BalanceState::NoMove => "no move possible",
        BalanceState::Stopped => "stopped",
        BalanceState::Forsaken => "forsaken",
    }
}

fn show(out: &mut Out, status: &BalanceStatus, json: bool) -> anyhow::Result<()> {
    if json {
        out.json(&StatusRow {
            state: state_word(status.state()),
            run: status.run_id,
            iteration: status.iteration,
            bytes_moved: status.bytes_moved,
            blocks_moved: status.blocks_moved,
            moves_failed: status.moves_failed,
            bytes_left: status.bytes_left,
            bytes_being_moved: status.bytes_being_moved,
            threshold_percent: f64::from(status.threshold) / 100.0,
            bandwidth: status.bandwidth,
            average_percent: f64::from(status.average) / 100.0,
            over_utilized: status.over_utilized,
            under_utilized: status.under_utilized,
            background_bandwidth: status.background_bandwidth,
            background_bytes_moved: status.background_bytes_moved,
        })?;
        return Ok(());
    }
    for line in status_lines(status) {
        out.line(format_args!("{line}"))?;
    }
    Ok(())
}

fn status_lines(status: &BalanceStatus) -> Vec<String> {
    let background = match status.background_bandwidth {
        0 => "off".to_owned(),
        rate => format!("{}/s a datanode", human::size(rate)),
    };
    vec![
        format!("Run: {}", state_word(status.state())),
        format!("Iteration: {}", status.iteration),
        format!("Moved: {} in {} blocks", human::size(status.bytes_moved), status.blocks_moved),
        format!("Copies that failed: {}", status.moves_failed),
        format!("Left to move: {}", human::size(status.bytes_left)),
        format!("Being moved: {}", human::size(status.bytes_being_moved)),
        format!("Threshold: {}%", hundredths(status.threshold)),
        format!("Bandwidth: {}/s a datanode", human::size(status.bandwidth)),
        format!("Cluster used: {}%", hundredths(status.average)),
        format!("Over-utilized datanodes: {}", status.over_utilized),
        format!("Under-utilized datanodes: {}", status.under_utilized),
        format!("In the background: {background}, {} moved", human::size(status.background_bytes_moved)),
    ]
}

fn hundredths(value: u32) -> String {
    format!("{}.{:02}", value / 100, value % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_and_rates_are_read() {
        for (text, expected) in [("10%", 1_000), ("10", 1_000), ("0.5%", 50), ("100", 10_000), ("0.01", 1)] {
            assert_eq!(percent(text), Ok(expected), "{text}");
        }
        for text in ["", "%", "0", "101", "-1", "x", "NaN", "inf"] {
            assert!(percent(text).is_err(), "{text}");
        }
        assert_eq!((rate_or_off("off"), rate_or_off("20M")), (Ok(0), Ok(20 << 20)));
        assert!(rate_or_off("fast").is_err());
    }

    #[test]
    fn a_status_reads_as_lines() {
        let status = BalanceStatus {
            state: BalanceState::Running.into(),
            threshold: 1_050,
            bytes_moved: 3 << 30,
            blocks_moved: 24,
            ..BalanceStatus::default()
        };
        let lines = status_lines(&status);
        for expected in ["Run: running", "Moved: 3 G in 24 blocks", "Threshold: 10.50%"] {
            assert!(lines.iter().any(|line| line == expected), "{expected} missing in {lines:#?}");
        }
        assert!(lines.last().is_some_and(|line| line == "In the background: off, 0 moved"));
    }
}
