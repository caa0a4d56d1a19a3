//! `dfs find`: names below a directory.

use clap::Args;

use crate::exit::UsageError;
use crate::glob::{self, Pattern};
use crate::json::NodeRow;
use crate::namespace::{self, Node, Walk};
use crate::output::Out;
use crate::path::RemoteArg;
use crate::session::Session;

/// `dfs find`. All conditions must hold.
#[derive(Debug, Args)]
pub struct FindArgs {
    /// Name matches the pattern
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    name: Vec<String>,
    /// Name matches the pattern in any case
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    iname: Vec<String>,
    /// Accepted as in HDFS: both conditions must hold, which is always so
    #[arg(short = 'a', long = "and")]
    _and: bool,
    /// Print one path a line (this is what happens anyway)
    #[arg(long)]
    print: bool,
    /// End each path with a NUL
    #[arg(long, conflicts_with = "print")]
    print0: bool,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    /// Where to start (default: home directory)
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), default_value = ".")]
    paths: Vec<RemoteArg>,
}

/// Conditions on a name.
struct Conditions {
    /// One of each inner list must match.
    exact: Vec<Vec<Pattern>>,
    /// The same for lower-case names.
    any_case: Vec<Vec<Pattern>>,
}

impl Conditions {
    fn of(args: &FindArgs) -> Result<Self, glob::GlobError> {
        let parsed = |texts: &[String]| {
            texts.iter().map(|text| glob::alternatives(text)).collect::<Result<Vec<_>, _>>()
        };
        let lower: Vec<String> = args.iname.iter().map(|text| text.to_lowercase()).collect();
        Ok(Self { exact: parsed(&args.name)?, any_case: parsed(&lower)? })
    }

    fn hold(&self, name: &str) -> bool {
        let one = |patterns: &Vec<Pattern>, name: &str| patterns.iter().any(|p| p.matches(name));
        self.exact.iter().all(|patterns| one(patterns, name))
            && (self.any_case.is_empty() || {
                let lower = name.to_lowercase();
                self.any_case.iter().all(|patterns| one(patterns, &lower))
            })
    }
}

/// Prints the nodes at and below the arguments for which all conditions hold.
pub async fn run(session: &Session, out: &mut Out, args: &FindArgs) -> anyhow::Result<()> {
    let conditions =
        Conditions::of(args).map_err(|error| UsageError { verb: "find", problem: error.to_string() })?;
    let mut rows = Vec::new();
    for root in namespace::nodes(session, &args.paths).await {
        print(out, args, &conditions, &mut rows, &root)?;
        if !root.status.is_dir() {
            continue;
        }
        let mut walk = Walk::below(&session.client, root.path);
        while let Some(step) = walk.next().await {
            match step {
                Ok(node) => print(out, args, &conditions, &mut rows, &node)?,
                Err(failed) => session.fail(&failed.path, &failed.error),
            }
        }
    }
    if args.json {
        out.json(&rows)?;
    }
    Ok(())
}

fn print(
    out: &mut Out,
    args: &FindArgs,
    conditions: &Conditions,
    rows: &mut Vec<NodeRow>,
    node: &Node,
) -> Result<(), crate::exit::OutputError> {
    if !conditions.hold(node.path.name()) {
        return Ok(());
    }
    if args.json {
        rows.push(NodeRow::new(&node.path.absolute, &node.status));
        Ok(())
    } else if args.print0 {
        out.bytes(node.path.shown.as_bytes())?;
        out.bytes(b"\0")
    } else {
        out.line(format_args!("{}", node.path.shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_conditions_must_hold() {
        let args = FindArgs {
            name: vec!["*.{rs,TXT}".into()],
            iname: vec!["A*".into()],
            _and: false,
            print: false,
            print0: false,
            json: false,
            paths: Vec::new(),
        };
        let conditions = Conditions::of(&args).unwrap();
        assert!(conditions.hold("a.rs"));
        assert!(conditions.hold("A.TXT"));
        assert!(!conditions.hold("a.txt"));
        assert!(!conditions.hold("b.rs"));
    }
}
