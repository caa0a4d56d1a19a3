//! `--ignore-crc`: contents of damaged files, with a word on what cannot be trusted.

use std::io::Write;

use dfs_client::{DfsError, Trust};

use super::sink::Sink;
use crate::human;
use crate::path::RemotePath;
use crate::session::Session;

/// Bytes of a file that are not what was written, as far as is known.
#[derive(Debug, Default)]
pub struct Doubt {
    unverified: u64,
    lost: u64,
    /// First byte of either kind.
    first: Option<u64>,
}

impl Doubt {
    /// What a person must know; `None`: everything was verified.
    pub fn text(&self) -> Option<String> {
        let first = self.first?;
        let size = |bytes: u64| {
            if bytes == 0 { "none".to_owned() } else { format!("{bytes} ({})", human::size(bytes)) }
        };
        Some(format!(
            "rescued; bytes that match no checksum: {}; bytes that no datanode can give, zeros stand for them: {}; the first at {first}",
            size(self.unverified),
            size(self.lost),
        ))
    }

    /// Whether bytes are missing.
    pub const fn is_loss(&self) -> bool {
        self.lost > 0
    }
}

/// Writes what is left of a file. Ends early when writing fails, which the sink then tells.
pub async fn write<W: Write + Send + 'static>(
    session: &Session,
    path: &RemotePath,
    sink: &Sink<W>,
) -> Result<Doubt, DfsError> {
    let mut reader = session.client.rescue(&path.absolute).await?;
    let mut doubt = Doubt::default();
    while let Some(part) = reader.next().await {
        let bytes = part.bytes.len() as u64;
        match part.trust {
            Trust::Verified => {}
            Trust::Unverified => doubt.unverified += bytes,
            Trust::Lost => doubt.lost += bytes,
        }
        if part.trust != Trust::Verified {
            doubt.first.get_or_insert(part.offset);
        }
        if !sink.send(part.bytes).await {
            break;
        }
    }
    Ok(doubt)
}

/// Tells what cannot be trusted. Bytes that are lost make the verb fail.
pub fn tell(session: &Session, path: &RemotePath, doubt: &Doubt) {
    if let Some(text) = doubt.text() {
        if doubt.is_loss() {
            session.fail_about(&path.shown, &text);
        } else {
            session.warn_about(&path.shown, &text);
        }
    }
}
