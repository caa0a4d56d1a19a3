//! Which faults come when: a pure function of the seed.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::rng::{Rng, mix};

/// Time without faults at the beginning of a round.
const LEAD: Duration = Duration::from_millis(500);

/// Longest time between the beginnings of two faults.
const LONGEST_GAP_MS: u64 = 1_600;

/// Shortest time that a fault lasts.
const SHORTEST_MS: u64 = 200;

/// Longest time that a fault lasts: datanodes count as dead before that, so that repair begins and is
/// overtaken by their return.
const LONGEST_MS: u64 = 6_000;

/// Choices after which the planner gives up finding a fault that can be had beside those that last.
const ATTEMPTS: u32 = 20;

/// Share of rounds in percent that lose all servers at once.
const LOSE_ALL_PERCENT: u64 = 30;

/// Rates in kbit/s to which a node is slowed: from hardly alive to tiresome.
const RATES: [u32; 4] = [64, 400, 2_000, 10_000];

/// Steps of a clock in seconds.
const STEPS: [i64; 6] = [-86_400, -3_600, -30, 30, 3_600, 86_400 * 400];

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`, and a new start at the end.
    Kill(String),
    /// `SIGSTOP`, and `SIGCONT` at the end.
    Stop(String),
    /// What the first node sends to the second is lost.
    CutOneWay(String, String),
    /// What two nodes send to each other is lost.
    CutBoth(String, String),
    /// What a node sends to all others is lost.
    Mute(String),
    /// What a node sends to all others, and they to it, is lost.
    Isolate(String),
    /// A node sends and gets only so many kbit a second.
    Slow(String, u32),
    /// A datanode's volume has no room left, or only so many bytes.
    Fill(String, u64),
    /// One byte of one replica changes on its disk; the number says which.
    Flip(u64),
    /// A server's wall clock is so many seconds ahead.
    StepClock(String, i64),
    /// `kill -9` of all servers at once.
    KillAll,
}

/// A fault and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When it begins, from the beginning of the round.
    pub start: Duration,
    /// When it ends.
    pub end: Duration,
    /// What it is.
    pub fault: Fault,
}

/// What faults can happen to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Datanodes; each is a process and a node.
    pub datanodes: Vec<String>,
    /// Processes of clients.
    pub clients: Vec<String>,
    /// Nodes of clients.
    pub client_nodes: Vec<String>,
}

/// The namenode, a process and a node.
pub const NAMENODE: &str = "namenode";

impl Fault {
    /// The servers and nodes that suffer; no two faults that last at the same time share one.
    fn victims(&self, targets: &Targets) -> Vec<String> {
        match self {
            Self::Kill(name)
            | Self::Stop(name)
            | Self::Mute(name)
            | Self::Isolate(name)
            | Self::Slow(name, _)
            | Self::Fill(name, _)
            | Self::StepClock(name, _) => vec![name.clone()],
            Self::CutOneWay(one, other) | Self::CutBoth(one, other) => vec![one.clone(), other.clone()],
            Self::Flip(_) => Vec::new(),
            Self::KillAll => targets.datanodes.iter().cloned().chain([NAMENODE.to_owned()]).collect(),
        }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} from {:?} to {:?}", self.fault, self.start, self.end)
    }
}

/// The faults of round number `round`, by their start. All have ended after `length`.
pub fn plan(seed: u64, round: u64, length: Duration, targets: &Targets) -> Vec<Planned> {
    let mut rng = Rng::new(mix(seed) ^ mix(round.wrapping_add(1)));
    // Some rounds are hard on few datanodes, others on nearly all at once.
    let most_datanodes = 1 + rng.index(targets.datanodes.len().max(2) - 1);
    let lose_all = rng.chance(LOSE_ALL_PERCENT).then(|| length.mul_f64(0.3 + rng.below(40) as f64 / 100.0));
    let mut planned: Vec<Planned> = Vec::new();
    let mut at = LEAD;
    while at < length {
        for _ in 0..ATTEMPTS {
            let fault = draw(&mut rng, targets);
            let lasts = Duration::from_millis(SHORTEST_MS + rng.below(LONGEST_MS - SHORTEST_MS));
            let latest = lose_all.filter(|all| at < *all).unwrap_or(length);
            let candidate = Planned { start: at, end: (at + lasts).min(latest), fault };
            if fits(&candidate, &planned, most_datanodes, targets) {
                planned.push(candidate);
                break;
            }
        }
        at += Duration::from_millis(1 + rng.below(LONGEST_GAP_MS));
    }
    if let Some(start) = lose_all {
        let end = (start + Duration::from_millis(SHORTEST_MS + rng.below(2_000))).min(length);
        planned.retain(|other| other.end <= start || other.start >= end);
        planned.push(Planned { start, end, fault: Fault::KillAll });
        planned.sort_by_key(|planned| planned.start);
    }
    planned
}

fn draw(rng: &mut Rng, targets: &Targets) -> Fault {
    let datanode = rng.pick(&targets.datanodes).clone();
    let other = rng.pick(&targets.datanodes).clone();
    let client = rng.pick(&targets.clients).clone();
    let namenode = || NAMENODE.to_owned();
    let node = match rng.below(10) {
        0 => namenode(),
        1..=2 => rng.pick(&targets.client_nodes).clone(),
        _ => other,
    };
    match rng.below(100) {
        0..=16 => Fault::Kill(datanode),
        17..=22 => Fault::Kill(namenode()),
        23..=29 => Fault::Kill(client),
        30..=39 => Fault::Stop(datanode),
        40..=42 => Fault::Stop(namenode()),
        43..=46 => Fault::Stop(client),
        47..=51 => Fault::CutOneWay(datanode, node),
        52..=56 => Fault::CutOneWay(node, datanode),
        57..=63 => Fault::CutBoth(datanode, node),
        64..=66 => Fault::Mute(datanode),
        67..=70 => Fault::Isolate(datanode),
        71..=78 => Fault::Slow(node, *rng.pick(&RATES)),
        79..=84 => Fault::Fill(datanode, rng.below(2) * rng.below(2_000_000)),
        85..=93 => Fault::Flip(rng.next_u64()),
        94..=96 => Fault::StepClock(namenode(), *rng.pick(&STEPS)),
        _ => Fault::StepClock(datanode, *rng.pick(&STEPS)),
    }
}

fn fits(candidate: &Planned, planned: &[Planned], most_datanodes: usize, targets: &Targets) -> bool {
    let victims = candidate.fault.victims(targets);
    let distinct: BTreeSet<&String> = victims.iter().collect();
    if distinct.len() < victims.len() {
        return false;
    }
    let lasting: Vec<String> = planned
        .iter()
        .filter(|other| other.start < candidate.end && candidate.start < other.end)
        .flat_map(|other| other.fault.victims(targets))
        .collect();
    let suffering: BTreeSet<&String> =
        lasting.iter().chain(&victims).filter(|name| targets.datanodes.contains(name)).collect();
    suffering.len() <= most_datanodes && !victims.iter().any(|victim| lasting.contains(victim))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> Targets {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Targets {
            datanodes: names(&["datanode-0", "datanode-1", "datanode-2", "datanode-3"]),
            clients: names(&["library-0", "mount"]),
            client_nodes: names(&["library", "mount"]),
        }
    }

    #[test]
    fn a_seed_is_a_plan_and_no_two_faults_share_a_victim() {
        let length = Duration::from_secs(30);
        assert_eq!(plan(5, 0, length, &targets()), plan(5, 0, length, &targets()));
        assert_ne!(plan(5, 0, length, &targets()), plan(5, 1, length, &targets()));
        let mut kinds = BTreeSet::new();
        for seed in 0..60 {
            let planned = plan(seed, 0, length, &targets());
            assert!(planned.len() > 5, "{planned:?}");
            for (index, one) in planned.iter().enumerate() {
                assert!(one.start < one.end && one.end <= length, "{one}");
                kinds.insert(format!("{:?}", one.fault).split('(').next().unwrap_or_default().to_owned());
                for other in &planned[..index] {
                    let apart = one.end <= other.start || other.end <= one.start;
                    let victims = other.fault.victims(&targets());
                    let shared = one.fault.victims(&targets()).iter().any(|victim| victims.contains(victim));
                    assert!(apart || !shared, "{one}; {other}");
                }
            }
        }
        assert_eq!(kinds.len(), 11, "{kinds:?}");
    }
}
