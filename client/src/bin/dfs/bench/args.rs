//! The command line of `dfs bench`. Everything that needs no server is checked here.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Largest number of streams or callers: each is a task with buffers or sockets of its own.
const CONCURRENCY_MAX: u64 = 4096;

/// `dfs bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure
    #[command(subcommand)]
    pub command: BenchCommand,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    pub json: bool,
    /// Directory of the local cluster, whose processes' time is counted (default: as `dfs cluster`; if the
    /// namenode is of no such cluster, the local processes that listen on the servers' ports)
    #[arg(long, global = true, value_name = "DIR")]
    pub cluster_dir: Option<PathBuf>,
}

/// One variant a benchmark.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Write and read large files, beside what this machine allows
    Io(IoArgs),
    /// Metadata calls: mkdir, create, stat, list, rename, delete
    Meta(MetaArgs),
    /// Write and read small files
    Small(SmallArgs),
    /// Make many files and keep them
    Fill(FillArgs),
}

/// How measurements are repeated, and where.
#[derive(Clone, Debug, Args)]
pub struct RoundArgs {
    /// Rounds measured after a warm-up; medians are printed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Directory of the file system below which the benchmark makes, and at the end removes, its own
    #[arg(long, value_name = "PATH", default_value = "/", value_parser = dfs_path)]
    pub path: String,
}

/// `dfs bench io`.
#[derive(Debug, Args)]
pub struct IoArgs {
    /// Bytes of the file; files written in several streams have this size together
    #[arg(long, default_value = "1G", value_parser = size)]
    pub size: u64,
    /// Replications to measure (default: 1 and 3, as far as there are datanodes)
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=512))]
    pub replication: Vec<u16>,
    /// Numbers of concurrent streams to measure
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,4", value_parser = concurrency)]
    pub streams: Vec<usize>,
    /// Directory on the datanodes' disk, for measuring the limits (default: the directory of the local
    /// cluster, else that for temporary files)
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Do not measure the limits
    #[arg(long)]
    pub no_limits: bool,
    /// Rounds and place.
    #[command(flatten)]
    pub rounds: RoundArgs,
}

/// `dfs bench meta`.
#[derive(Debug, Args)]
pub struct MetaArgs {
    /// Numbers of concurrent callers to measure
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,16,64", value_parser = concurrency)]
    pub callers: Vec<usize>,
    /// Calls of each kind in a round; a single caller makes a quarter of them, and a tenth are listings
    #[arg(long, value_name = "N", default_value_t = 8000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub operations: u64,
    /// Rounds and place.
    #[command(flatten)]
    pub rounds: RoundArgs,
}

/// `dfs bench small`.
#[derive(Debug, Args)]
pub struct SmallArgs {
    /// Numbers of concurrent callers to measure
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,16", value_parser = concurrency)]
    pub callers: Vec<usize>,
    /// Files in a round; a single caller makes a quarter of them
    #[arg(long, value_name = "N", default_value_t = 4000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub files: u64,
    /// Bytes of a file, at most 1M
    #[arg(long, default_value = "4K", value_parser = small_size)]
    pub size: usize,
    /// Replicas of a file (default: the cluster's)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub replication: Option<u16>,
    /// Rounds and place.
    #[command(flatten)]
    pub rounds: RoundArgs,
}

/// `dfs bench fill`.
#[derive(Debug, Args)]
pub struct FillArgs {
    /// Files to make
    #[arg(value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000_000))]
    pub files: u64,
    /// Directory to make them in; it is kept
    #[arg(long, value_name = "PATH", default_value = "/bench-fill", value_parser = dfs_path)]
    pub path: String,
    /// Files in a directory
    #[arg(long, value_name = "N", default_value_t = 4000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub per_directory: u64,
    /// Concurrent callers
    #[arg(long, value_name = "N", default_value = "64", value_parser = concurrency)]
    pub callers: usize,
    /// Bytes of a file, at most 1M
    #[arg(long, default_value = "0", value_parser = small_size_or_none)]
    pub size: usize,
    /// Replicas of a file (default: the cluster's)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub replication: Option<u16>,
}

/// Parses `4096`, `4K`, `64MiB`, `1g`: powers of 1,024.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("unknown unit {unit:?}; use K, M, G or T")),
    };
    let number: u64 = number.parse().map_err(|_| "a size is a number and a unit, such as 64M".to_owned())?;
    match number.checked_mul(1 << shift) {
        Some(0) => Err("must be more than 0".to_owned()),
        Some(bytes) => Ok(bytes),
        None => Err("too large".to_owned()),
    }
}

/// A size of at most one piece of content.
fn small_size(text: &str) -> Result<usize, String> {
    match usize::try_from(size(text)?) {
        Ok(bytes) if bytes <= super::pattern::PIECE_BYTES => Ok(bytes),
        Ok(_) | Err(_) => Err("more than 1M".to_owned()),
    }
}

/// The same, or nothing.
fn small_size_or_none(text: &str) -> Result<usize, String> {
    if text == "0" { Ok(0) } else { small_size(text) }
}

/// A number of streams or callers.
fn concurrency(text: &str) -> Result<usize, String> {
    match text.parse::<u64>() {
        Ok(n @ 1..=CONCURRENCY_MAX) => usize::try_from(n).map_err(|e| e.to_string()),
        Ok(_) | Err(_) => Err(format!("must be a number from 1 to {CONCURRENCY_MAX}")),
    }
}

/// An absolute path, without its trailing slashes; the root is empty then, so that names can be added.
fn dfs_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err("must be an absolute path".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(line: &str) -> Result<BenchCommand, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.bench.command)
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("1", 1), ("4k", 4096), ("64MiB", 64 << 20), ("1G", 1 << 30), ("2TB", 2 << 40), ("7b", 7)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "K", "-1", "1.5G", "1X", "99999999999T", "1 G"] {
            assert!(size(text).is_err(), "{text:?}");
        }
        assert_eq!(small_size("1M"), Ok(1 << 20));
        assert!(small_size("1025K").is_err());
        assert_eq!(small_size_or_none("0"), Ok(0));
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let Ok(BenchCommand::Io(io)) = parse("bench io") else { panic!("io") };
        assert_eq!((io.size, io.replication, io.streams), (1 << 30, vec![], vec![1, 4]));
        let Ok(BenchCommand::Meta(meta)) = parse("bench meta --path /a/b//") else { panic!("meta") };
        assert_eq!((meta.callers, meta.rounds.path), (vec![1, 16, 64], "/a/b".to_owned()));
        let Ok(BenchCommand::Small(small)) = parse("bench small") else { panic!("small") };
        assert_eq!((small.callers, small.size, small.rounds.path), (vec![1, 16], 4096, String::new()));
        let Ok(BenchCommand::Fill(fill)) = parse("bench fill 1000000") else { panic!("fill") };
        assert_eq!((fill.files, fill.path), (1_000_000, "/bench-fill".to_owned()));
    }

    #[test]
    fn senseless_lines_are_refused() {
        for line in [
            "bench",
            "bench io --size 0",
            "bench io --replication 0",
            "bench io --streams 1,0",
            "bench io --rounds 0",
            "bench meta --callers 5000",
            "bench meta --path relative",
            "bench small --size 2M",
            "bench fill",
            "bench fill 0",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
