//! Results: the rows of `--json` and of the tables.
//!
//! A value that cannot be known (processor time of a server on another machine, a limit that was not
//! measured) is `null` in JSON and `-` in a table.

use serde::{Serialize, Serializer};

use crate::output::{Align, Table};

/// Spaces between two columns.
const COLUMN_GAP: usize = 2;

/// What `--json` prints: one object with one list.
#[derive(Serialize)]
pub struct Rows<'a, R: Serialize> {
    /// In the order of measurement.
    pub rows: &'a [R],
}

/// Streaming: one direction, one replication, one number of streams.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IoRow {
    /// `read` or `write`.
    pub op: &'static str,
    /// Replicas of the file.
    pub replication: u16,
    /// Files read or written at the same time.
    pub streams: usize,
    /// All streams together, 10^6 bytes a second.
    #[serde(serialize_with = "three_digits")]
    pub mb_per_s: f64,
    /// What the least code that could do the work reaches, in the same unit.
    #[serde(serialize_with = "three_digits_if_known")]
    pub limit_mb_per_s: Option<f64>,
    /// Processor seconds of client, datanodes and namenode together for 2^30 bytes of file content.
    #[serde(serialize_with = "three_digits_if_known")]
    pub cpu_s_per_gib: Option<f64>,
    /// The same by process kind; shown to people only.
    #[serde(skip)]
    pub split: CpuSplit,
}

/// Processor seconds for 2^30 bytes, by who spent them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuSplit {
    /// This process.
    pub client: Option<f64>,
    /// All datanodes together.
    pub datanodes: Option<f64>,
    /// The namenode.
    pub namenode: Option<f64>,
    /// All of the limit's threads.
    pub limit: Option<f64>,
}

/// Calls: one operation with one number of concurrent callers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CallRow {
    /// Name of the operation.
    pub op: &'static str,
    /// Callers at the same time, each waiting for its answer before it goes on.
    pub callers: usize,
    /// All callers together.
    #[serde(serialize_with = "three_digits")]
    pub ops_per_s: f64,
    /// Median latency in microseconds.
    #[serde(serialize_with = "three_digits_if_known")]
    pub p50_us: Option<f64>,
    /// Latency that 99 of 100 calls stay within, in microseconds.
    #[serde(serialize_with = "three_digits_if_known")]
    pub p99_us: Option<f64>,
    /// Processor microseconds of the namenode for one operation.
    #[serde(serialize_with = "three_digits_if_known")]
    pub namenode_cpu_us: Option<f64>,
    /// Processor microseconds of this process for one operation; shown to people only.
    #[serde(skip)]
    pub client_cpu_us: Option<f64>,
    /// Processor microseconds of all datanodes for one operation; shown to people only.
    #[serde(skip)]
    pub datanodes_cpu_us: Option<f64>,
}

/// Table of [`IoRow`]s.
pub fn io_table(rows: &[IoRow]) -> Table {
    let mut table = table(&[
        "op",
        "replication",
        "streams",
        "MB/s",
        "limit MB/s",
        "of limit",
        "CPU s/GiB",
        "client",
        "datanodes",
        "namenode",
        "limit's CPU",
    ]);
    for row in rows {
        table.row(vec![
            row.op.to_owned(),
            row.replication.to_string(),
            row.streams.to_string(),
            number(Some(row.mb_per_s)),
            number(row.limit_mb_per_s),
            number(row.limit_mb_per_s.map(|limit| row.mb_per_s / limit)),
            number(row.cpu_s_per_gib),
            number(row.split.client),
            number(row.split.datanodes),
            number(row.split.namenode),
            number(row.split.limit),
        ]);
    }
    table
}

/// Table of [`CallRow`]s. `datanodes` adds the column of their processor time.
pub fn call_table(rows: &[CallRow], datanodes: bool) -> Table {
    let mut head = vec!["op", "callers", "ops/s", "p50 us", "p99 us", "namenode CPU us", "client CPU us"];
    if datanodes {
        head.push("datanodes CPU us");
    }
    let mut table = table(&head);
    for row in rows {
        let mut cells = vec![
            row.op.to_owned(),
            row.callers.to_string(),
            number(Some(row.ops_per_s)),
            number(row.p50_us),
            number(row.p99_us),
            number(row.namenode_cpu_us),
            number(row.client_cpu_us),
        ];
        if datanodes {
            cells.push(number(row.datanodes_cpu_us));
        }
        table.row(cells);
    }
    table
}

/// A table with these column heads. The first column, which names the row, is aligned left, numbers right.
fn table(head: &[&str]) -> Table {
    let columns: Vec<Align> =
        (0..head.len()).map(|column| if column == 0 { Align::Left } else { Align::Right }).collect();
    let mut table = Table::new(&columns, COLUMN_GAP);
    table.row(head.iter().map(|cell| (*cell).to_owned()).collect());
    table
}

/// A number as a cell: thousands without a fraction, small values with enough digits, unknown as `-`.
fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(v) if v.abs() >= 100.0 => format!("{v:.0}"),
        Some(v) if v.abs() >= 10.0 => format!("{v:.1}"),
        Some(v) => format!("{v:.2}"),
    }
}

/// JSON numbers carry three decimals: more would be noise.
fn three_digits<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64((value * 1e3).round() / 1e3)
}

fn three_digits_if_known<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => three_digits(value, to),
        None => to.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io_row() -> IoRow {
        IoRow {
            op: "read",
            replication: 1,
            streams: 4,
            mb_per_s: 1_500.123_456,
            limit_mb_per_s: Some(2000.0),
            cpu_s_per_gib: None,
            split: CpuSplit { client: Some(0.5), ..CpuSplit::default() },
        }
    }

    fn call_row() -> CallRow {
        CallRow {
            op: "stat",
            callers: 16,
            ops_per_s: 10_000.0,
            p50_us: Some(140.5),
            p99_us: Some(900.0),
            namenode_cpu_us: None,
            client_cpu_us: Some(30.0),
            datanodes_cpu_us: None,
        }
    }

    #[test]
    fn json_of_streams_has_exactly_these_keys() {
        let json = serde_json::to_string(&Rows { rows: &[io_row()] }).expect("serializes");
        assert_eq!(
            json,
            r#"{"rows":[{"op":"read","replication":1,"streams":4,"mb_per_s":1500.123,"limit_mb_per_s":2000.0,"cpu_s_per_gib":null}]}"#
        );
    }

    #[test]
    fn json_of_calls_has_exactly_these_keys() {
        let json = serde_json::to_string(&Rows { rows: &[call_row()] }).expect("serializes");
        assert_eq!(
            json,
            r#"{"rows":[{"op":"stat","callers":16,"ops_per_s":10000.0,"p50_us":140.5,"p99_us":900.0,"namenode_cpu_us":null}]}"#
        );
    }

    #[test]
    fn tables_show_what_json_leaves_out() {
        let io = io_table(&[io_row()]).lines();
        let cells: Vec<&str> = io.last().expect("a row").split_whitespace().collect();
        assert_eq!(cells, ["read", "1", "4", "1500", "2000", "0.75", "-", "0.50", "-", "-", "-"]);
        let calls = call_table(&[call_row()], false).lines();
        let cells: Vec<&str> = calls.last().expect("a row").split_whitespace().collect();
        assert_eq!(cells, ["stat", "16", "10000", "140", "900", "-", "30.0"]);
    }

    #[test]
    fn numbers_keep_three_digits_or_more() {
        let cells = [Some(0.125), Some(9.876), Some(12.34), Some(1234.5), None].map(number);
        assert_eq!(cells, ["0.12", "9.88", "12.3", "1234", "-"]);
    }
}
