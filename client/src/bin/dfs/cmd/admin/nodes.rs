//! `dfs admin nodes`: one line a datanode.

use super::node_row::{admin_words, node_rows, seconds};
use crate::human;
use crate::output::{Align, Out, Table};
use crate::session::Session;

/// Prints the table.
pub async fn run(session: &Session, out: &mut Out, json: bool) -> anyhow::Result<()> {
    let rows = node_rows(session).await?;
    if json {
        out.json(&rows)?;
        return Ok(());
    }
    let (left, right) = (Align::Left, Align::Right);
    let mut table = Table::new(&[left, left, left, left, right, right, right, right, right, left], 2);
    let heading =
        ["NAME", "HOST", "RACK", "STATE", "CAPACITY", "USED", "FREE", "BLOCKS", "LAST CONTACT", "ADMIN"];
    table.row(heading.map(String::from).to_vec());
    for row in rows {
        table.row(vec![
            row.name,
            row.hostname,
            row.rack,
            row.state.to_owned(),
            human::size(row.capacity),
            human::size(row.used),
            human::size(row.remaining),
            row.blocks.to_string(),
            seconds(row.last_heartbeat_ms),
            admin_words(&row.progress),
        ]);
    }
    for line in table.lines() {
        out.line(format_args!("{line}"))?;
    }
    Ok(())
}
