//! Tables for people: a head, then one line a row, columns as wide as they need, numbers to the right.

use std::fmt;

/// What a terminal shows.
pub struct Table {
    lines: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub fn new(head: &[&str]) -> Self {
        Self { lines: vec![head.iter().map(|h| (*h).to_owned()).collect()] }
    }

    /// Adds a row; cells beyond the head's columns are dropped, missing ones stay empty.
    pub fn row(&mut self, mut cells: Vec<String>) {
        cells.resize(self.lines[0].len(), String::new());
        self.lines.push(cells);
    }
}

/// A number as a cell: thousands without a fraction, small values with enough digits, unknown as `-`.
pub fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(v) if v.abs() >= 100.0 => format!("{v:.0}"),
        Some(v) if v.abs() >= 10.0 => format!("{v:.1}"),
        Some(v) => format!("{v:.2}"),
    }
}

impl fmt::Display for Table {
    /// The first column, which names the row, is aligned left; all others right.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.lines[0].len();
        let widths: Vec<usize> = (0..columns)
            .map(|i| self.lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0))
            .collect();
        for line in &self.lines {
            for (i, (cell, width)) in line.iter().zip(&widths).enumerate() {
                match i {
                    0 => write!(f, "{cell:<width$}")?,
                    _ => write!(f, "  {cell:>width$}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["op", "MB/s"]);
        table.row(vec!["read".into(), number(Some(1834.4))]);
        table.row(vec!["write".into(), number(None)]);
        table.row(vec!["x".into()]);
        assert_eq!(table.to_string(), "op     MB/s\nread   1834\nwrite     -\nx          \n");
    }

    #[test]
    fn numbers_keep_three_digits_or_more() {
        let cells: Vec<String> = [0.125, 9.876, 12.34, 1234.5].into_iter().map(|v| number(Some(v))).collect();
        assert_eq!(cells, ["0.12", "9.88", "12.3", "1234"]);
    }
}
