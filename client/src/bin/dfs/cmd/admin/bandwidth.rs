//! `dfs admin bandwidth`: what each datanode may spend on repair.

use clap::Args;

use crate::human;
use crate::output::Out;
use crate::session::Session;

/// Word for what datanodes decide by themselves.
const AUTO: &str = "auto";

/// `dfs admin bandwidth`.
#[derive(Debug, Args)]
pub struct BandwidthArgs {
    /// Bytes a second of each datanode, such as 50M; "auto": as fast as it can while clients leave it time
    #[arg(value_name = "VALUE", value_parser = value)]
    value: Option<Bandwidth>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bandwidth(Option<u64>);

/// A bandwidth that is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither \"auto\" nor bytes a second such as 50M")]
pub struct BandwidthError;

fn value(text: &str) -> Result<Bandwidth, BandwidthError> {
    if text == AUTO {
        return Ok(Bandwidth(None));
    }
    match human::parse(text) {
        Ok(bytes) if bytes > 0 => Ok(Bandwidth(Some(bytes))),
        Ok(_) | Err(_) => Err(BandwidthError),
    }
}

/// Tells or sets it.
pub async fn run(session: &Session, out: &mut Out, args: &BandwidthArgs) -> anyhow::Result<()> {
    if let Some(Bandwidth(bytes)) = args.value {
        session.client.set_repair_bandwidth(bytes).await?;
    }
    let bytes = session.client.repair_bandwidth().await?;
    if args.json {
        out.json(&serde_json::json!({ "repair_bandwidth": bytes }))?;
    } else {
        out.line(format_args!("Repair bandwidth of each datanode: {}", words(bytes)))?;
    }
    Ok(())
}

/// A bandwidth in words.
pub fn words(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| AUTO.to_owned(), |bytes| format!("{}/s", human::size(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bandwidth_is_a_size_or_auto() {
        assert_eq!(value("auto"), Ok(Bandwidth(None)));
        assert_eq!(value("50M"), Ok(Bandwidth(Some(50 << 20))));
        for text in ["0", "", "fast", "-1"] {
            assert_eq!(value(text), Err(BandwidthError), "{text}");
        }
        assert_eq!((words(None), words(Some(50 << 20))), ("auto".to_owned(), "50 M/s".to_owned()));
    }
}
