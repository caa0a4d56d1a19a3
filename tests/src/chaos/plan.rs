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

/// Share of rounds in percent in which one fault has ended before the next begins: they tell what each costs by itself.
const CALM_PERCENT: u64 = 25;

/// Time between two faults of such a round, beside the usual gap.
const CALM: Duration = Duration::from_millis(500);

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
    /// A server's disk has no room left, or only so many bytes.
    Fill(String, u64),
    /// A datanode's disk hangs.
    Hang(String),
    /// A datanode's file system turns read-only; at the end it is repaired, and the datanode started anew.
    TurnReadOnly(String),
    /// What the namenode writes does not arrive on its disk; at the end it is started anew with what has arrived.
    LoseWrites,
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
    /// Datanodes whose disks can hang and turn read-only.
    pub with_ext4: Vec<String>,
}

/// The namenode, a process and a node.
pub const NAMENODE: &str = "namenode";

/// The process that serves the mount.
pub const MOUNT: &str = "mount";

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
            | Self::Hang(name)
            | Self::TurnReadOnly(name)
            | Self::StepClock(name, _) => vec![name.clone()],
            Self::LoseWrites => vec![NAMENODE.to_owned()],
            Self::CutOneWay(one, other) | Self::CutBoth(one, other) => vec![one.clone(), other.clone()],
            Self::Flip(_) => Vec::new(),
            Self::KillAll => targets.datanodes.iter().cloned().chain([NAMENODE.to_owned()]).collect(),
        }
    }
}

impl Fault {
    /// What it is called when it is told how long things took.
    pub fn kind(&self, targets: &Targets) -> &'static str {
        let one_of = |name: &String, of: [&'static str; 3]| {
            let at = if name == NAMENODE { 0 } else { 1 + usize::from(!targets.datanodes.contains(name)) };
            of[at]
        };
        match self {
            Self::Kill(name) => one_of(name, ["namenode killed", "datanode killed", "client killed"]),
            Self::Stop(name) => one_of(name, ["namenode stopped", "datanode stopped", "client stopped"]),
            Self::CutOneWay(..) => "link cut one way",
            Self::CutBoth(..) => "link cut",
            Self::Mute(_) => "datanode cut off one way",
            Self::Isolate(_) => "datanode cut off",
            Self::Slow(name, _) => {
                one_of(name, ["namenode's link slow", "datanode's link slow", "client's link slow"])
            }
            Self::Fill(name, _) => {
                one_of(name, ["namenode's disk full", "datanode's disk full", "client's disk full"])
            }
            Self::Hang(_) => "datanode's disk hangs",
            Self::TurnReadOnly(_) => "datanode's disk read-only",
            Self::LoseWrites => "namenode's disk loses writes",
            Self::Flip(_) => "byte flipped",
            Self::StepClock(..) => "clock stepped",
            Self::KillAll => "all servers killed",
        }
    }

    /// The process of a client that it happens to.
    pub fn client(&self, targets: &Targets) -> Option<String> {
        match self {
            Self::Kill(name) | Self::Stop(name) => targets.clients.contains(name).then(|| name.clone()),
            Self::CutOneWay(..)
            | Self::CutBoth(..)
            | Self::Mute(_)
            | Self::Isolate(_)
            | Self::Slow(..)
            | Self::Fill(..)
            | Self::Hang(_)
            | Self::TurnReadOnly(_)
            | Self::LoseWrites
            | Self::Flip(_)
            | Self::StepClock(..)
            | Self::KillAll => None,
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
    let calm = rng.chance(CALM_PERCENT);
    let mut planned: Vec<Planned> = Vec::new();
    let mut at = LEAD;
    while at < length {
        for _ in 0..ATTEMPTS {
            let fault = draw(&mut rng, takes_back_changes(seed), targets);
            let lasts = Duration::from_millis(SHORTEST_MS + rng.below(LONGEST_MS - SHORTEST_MS));
            let latest = lose_all.filter(|all| at < *all).unwrap_or(length);
            let candidate = Planned { start: at, end: (at + lasts).min(latest), fault };
            if fits(&candidate, &planned, most_datanodes, targets) {
                if calm {
                    at = candidate.end + CALM;
                }
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

/// Whether things go wrong that take back changes of a mount which were answered and not synced: the namenode's disk loses what was
/// written, as when its machine loses power, and the mount itself is killed, which has not told the namenode yet what it changed in a
/// directory that is delegated to it. In these runs the load of the mount syncs every change before it relies on it. In the others it
/// does not, and nothing may be lost all the same.
pub fn takes_back_changes(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

fn draw(rng: &mut Rng, takes_back: bool, targets: &Targets) -> Fault {
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
        0..=14 => Fault::Kill(datanode),
        15..=19 => Fault::Kill(namenode()),
        20..=25 if takes_back || client != MOUNT => Fault::Kill(client),
        26..=33 => Fault::Stop(datanode),
        34..=36 => Fault::Stop(namenode()),
        20..=25 | 37..=40 => Fault::Stop(client),
        41..=45 => Fault::CutOneWay(datanode, node),
        46..=50 => Fault::CutOneWay(node, datanode),
        51..=57 => Fault::CutBoth(datanode, node),
        58..=60 => Fault::Mute(datanode),
        61..=63 => Fault::Isolate(datanode),
        64..=69 => Fault::Slow(node, *rng.pick(&RATES)),
        70..=74 => Fault::Fill(datanode, rng.below(2) * rng.below(2_000_000)),
        77..=79 if takes_back => Fault::LoseWrites,
        75..=79 => Fault::Fill(namenode(), rng.below(2) * rng.below(2_000_000)),
        80..=84 => Fault::Hang(rng.pick(&targets.with_ext4).clone()),
        85..=87 => Fault::TurnReadOnly(rng.pick(&targets.with_ext4).clone()),
        88..=94 => Fault::Flip(rng.next_u64()),
        95..=96 => Fault::StepClock(namenode(), *rng.pick(&STEPS)),
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
            with_ext4: names(&["datanode-2", "datanode-3"]),
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
        assert_eq!(kinds.len(), 14, "{kinds:?}");
    }
}
