//! Standard output: buffered, and every failure to write it is an [`OutputError`].

use std::fmt;
use std::io::{self, BufWriter, Stdout, Write};

use serde::Serialize;

use crate::exit::OutputError;

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 64 << 10;

/// Buffered standard output. What is left in the buffer is written by [`Out::finish`]; call it.
pub struct Out {
    to: BufWriter<Stdout>,
}

impl Out {
    /// Standard output of this process.
    pub fn new() -> Self {
        Self { to: BufWriter::with_capacity(BUFFER_BYTES, io::stdout()) }
    }

    /// Writes one line.
    pub fn line(&mut self, line: fmt::Arguments<'_>) -> Result<(), OutputError> {
        self.to.write_fmt(line)?;
        Ok(self.to.write_all(b"\n")?)
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        Ok(self.to.write_all(bytes)?)
    }

    /// Writes `value` as one line of JSON.
    pub fn json<T: Serialize>(&mut self, value: &T) -> Result<(), OutputError> {
        serde_json::to_writer(&mut self.to, value).map_err(io::Error::from)?;
        Ok(self.to.write_all(b"\n")?)
    }

    /// Hands over what is buffered, so that a reader sees it now.
    pub fn flush(&mut self) -> Result<(), OutputError> {
        Ok(self.to.flush()?)
    }

    /// Hands over the rest.
    pub fn finish(mut self) -> Result<(), OutputError> {
        self.flush()
    }
}

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// At the left edge.
    Left,
    /// At the right edge.
    Right,
}

/// Rows of text whose columns are made as wide as their widest cell.
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
    gap: usize,
}

impl Table {
    /// A table with these columns, `gap` spaces apart.
    pub fn new(columns: &[Align], gap: usize) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new(), gap }
    }

    /// Adds a row; it has one cell a column.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The lines, without spaces at their ends.
    pub fn lines(&self) -> Vec<String> {
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| width(column).unwrap_or(0)).collect();
        self.rows.iter().map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (index, ((cell, align), width)) in row.iter().zip(&self.columns).zip(widths).enumerate() {
            if index > 0 {
                line.extend(std::iter::repeat_n(' ', self.gap));
            }
            match align {
                Align::Left => line.push_str(&format!("{cell:<width$}")),
                Align::Right => line.push_str(&format!("{cell:>width$}")),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[Align::Left, Align::Right, Align::Left], 2);
        table.row(vec!["name".into(), "size".into(), "x".into()]);
        table.row(vec!["a".into(), "12345".into(), String::new()]);
        assert_eq!(table.lines(), ["name   size  x", "a     12345"]);
    }
}
