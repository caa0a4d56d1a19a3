//! How long the loads waited for an answer while something was wrong: the longest operation of each load during faults of each kind,
//! and the longest of those during which nothing else was wrong.
//!
//! An operation is some calls (a file is made, written in pieces and closed), so this is more than any one call waited. Nothing is
//! asserted here; it is what is told about a run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::history::Record;

/// Kinds of loads, in the order of `actors::Kind::ALL`.
const LOADS: usize = 3;

/// What nothing wrong is called.
const NOTHING: &str = "nothing wrong";

/// What tells a line of figures from others.
const MARK: &str = "longest\t";

/// A fault and when it lasted, in milliseconds since the run began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// What it is called.
    pub kind: &'static str,
    /// The process that it happened to, if that is a load's own.
    pub client: Option<String>,
    /// Its beginning.
    pub begin_ms: u64,
    /// Its end, when it has ended.
    pub end_ms: Option<u64>,
}

/// Milliseconds of the longest operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Longest {
    /// While nothing else was wrong.
    alone: u64,
    /// Whatever else was wrong.
    any: u64,
}

/// The longest operations by the kind of fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses(BTreeMap<String, [Longest; LOADS]>);

impl Pauses {
    /// Takes the operations of a load's history: the load in the place `load` of all kinds, which goes on with the processes `own`.
    pub fn add(&mut self, load: usize, own: &[&str], history: &[Record], faults: &[Lasting]) {
        let mut begun = None;
        for record in history {
            match record {
                Record::Begin { at_ms, .. } => begun = Some(*at_ms),
                Record::End { at_ms, .. } => {
                    if let Some(begin) = begun.take() {
                        self.note(load, (begin, *at_ms), own, faults);
                    }
                }
                Record::Started { .. }
                | Record::Safe { .. }
                | Record::Contradiction { .. }
                | Record::Settled { .. }
                | Record::Quiet => {}
            }
        }
    }

    fn note(&mut self, load: usize, (begin, end): (u64, u64), own: &[&str], faults: &[Lasting]) {
        let at_the_time = faults.iter().filter(|fault| {
            let is_ours = fault.client.as_ref().is_none_or(|client| own.contains(&client.as_str()));
            is_ours && fault.begin_ms <= end && fault.end_ms.is_none_or(|over| over >= begin)
        });
        let kinds: BTreeSet<&str> = at_the_time.map(|fault| fault.kind).collect();
        let alone = kinds.len() <= 1;
        let kinds = if kinds.is_empty() { BTreeSet::from([NOTHING]) } else { kinds };
        for kind in kinds {
            let longest = &mut self.0.entry(kind.to_owned()).or_default()[load.min(LOADS - 1)];
            let took = end.saturating_sub(begin);
            longest.any = longest.any.max(took);
            if alone {
                longest.alone = longest.alone.max(took);
            }
        }
    }

    /// One line a kind of fault, for [`Self::take`].
    pub fn lines(&self) -> String {
        let mut text = String::new();
        for (kind, loads) in &self.0 {
            let figures: Vec<String> =
                loads.iter().map(|load| format!("{}\t{}", load.alone, load.any)).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{MARK}{kind}\t{}", figures.join("\t"));
        }
        text
    }

    /// Takes the lines of another run, between others, and keeps the longest of both.
    pub fn take(&mut self, text: &str) -> Result<()> {
        for line in text.lines().filter_map(|line| line.strip_prefix(MARK)) {
            let mut parts = line.split('\t');
            let kind = parts.next().context("a kind")?;
            let known = self.0.entry(kind.to_owned()).or_default();
            for load in known {
                let mut next = || -> Result<u64> { Ok(parts.next().context("a figure")?.parse()?) };
                *load = Longest { alone: load.alone.max(next()?), any: load.any.max(next()?) };
            }
        }
        Ok(())
    }

    /// Everything in half a line.
    pub fn in_short(&self) -> String {
        let one = |(kind, loads): (&String, &[Longest; LOADS])| {
            let any: Vec<String> = loads.iter().map(|load| load.any.to_string()).collect();
            format!("{kind} {}", any.join("/"))
        };
        self.0.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// A table of seconds.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<30} {:>24}   {:>24}\n{:<30} {:>8}{:>8}{:>8}   {:>8}{:>8}{:>8}\n",
            "longest operation, s",
            "nothing else was wrong",
            "whatever else was",
            "while this was wrong",
            "library",
            "command",
            "mount",
            "library",
            "command",
            "mount"
        );
        let seconds = |ms: u64| match ms {
            0 => "-".to_owned(),
            ms => format!("{:.1}", ms as f64 / 1000.0),
        };
        for (kind, loads) in &self.0 {
            let alone: String = loads.iter().map(|load| format!("{:>8}", seconds(load.alone))).collect();
            let any: String = loads.iter().map(|load| format!("{:>8}", seconds(load.any))).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{kind:<30} {alone}   {any}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::Outcome;
    use super::super::operation::Operation;
    use super::*;

    fn operation(begin: u64, end: u64) -> [Record; 2] {
        let operation = Operation::Read { path: "/a".to_owned() };
        [
            Record::Begin { id: 1, at_ms: begin, operation },
            Record::End { id: 1, at_ms: end, outcome: Outcome::Done },
        ]
    }

    #[test]
    fn the_longest_operation_is_told_of_each_fault_and_load() -> Result<()> {
        let fault = |kind, client: Option<&str>, begin_ms, end_ms| Lasting {
            kind,
            client: client.map(str::to_owned),
            begin_ms,
            end_ms,
        };
        let faults = [
            fault("datanode killed", None, 100, Some(200)),
            fault("link cut", None, 190, None),
            fault("client stopped", Some("commands-1"), 0, Some(1000)),
        ];
        let history: Vec<Record> =
            [(10, 50), (120, 180), (150, 450), (500, 510)].map(|(b, e)| operation(b, e)).concat();
        let mut pauses = Pauses::default();
        pauses.add(0, &["library-0"], &history, &faults);
        assert_eq!(
            pauses.in_short(),
            "datanode killed 300/0/0, link cut 300/0/0, nothing wrong 40/0/0",
            "{pauses:?}"
        );
        assert_eq!(pauses.0["datanode killed"][0].alone, 60);
        let mut both = Pauses::default();
        both.add(1, &["commands-1"], &history, &faults);
        assert_eq!(both.0["client stopped"][1], Longest { alone: 40, any: 300 });
        both.take(&format!("something else\n{}", pauses.lines()))?;
        assert_eq!(
            both.0["link cut"],
            [Longest { alone: 10, any: 300 }, Longest { alone: 0, any: 300 }, Longest::default()]
        );
        assert_eq!(both.table().lines().count(), 2 + both.0.len());
        Ok(())
    }
}
