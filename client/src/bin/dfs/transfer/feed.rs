//! Local bytes on their way into the cluster: a thread reads ahead while the writer sends.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use bytes::Bytes;
use dfs_client::FileReader;
use tokio::sync::mpsc;

use super::CopyError;

/// Bytes of one read: the size of the client's packets, so that a buffer becomes a packet unsplit.
const BUFFER_BYTES: usize = 1 << 20;
/// Buffers read ahead: one being sent, one waiting, one being filled.
const BUFFERS_AHEAD: usize = 2;

/// Where the bytes of a new file come from.
pub enum Feed {
    /// All of a small file.
    Whole(Option<Bytes>),
    /// Buffers of a thread that reads.
    Thread(mpsc::Receiver<io::Result<Bytes>>),
    /// A file of the namespace.
    Remote(Box<FileReader>),
}

impl Feed {
    /// Bytes of a local file of `size` bytes as far as known. A pipe, which has no size, is opened where waiting for
    /// its writer keeps nobody from being interrupted.
    pub async fn local(path: PathBuf, size: u64) -> io::Result<Self> {
        if size > BUFFER_BYTES as u64 {
            return Self::thread(File::open(path)?);
        }
        let read = tokio::task::spawn_blocking(move || {
            let mut file = File::open(path)?;
            let first = read_buffer(&mut file)?;
            Ok::<_, io::Error>((first, file))
        });
        let (first, file) = read.await.map_err(io::Error::other)??;
        if first.len() < BUFFER_BYTES {
            return Ok(Self::Whole(Some(first).filter(|bytes| !bytes.is_empty())));
        }
        // It grew since its size was looked up.
        Self::thread(io::Cursor::new(first).chain(file))
    }

    /// Bytes of standard input.
    pub fn stdin() -> io::Result<Self> {
        Self::thread(io::stdin())
    }

    fn thread(mut from: impl Read + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(BUFFERS_AHEAD);
        std::thread::Builder::new().name("dfs-read".to_owned()).spawn(move || {
            loop {
                let buffer = match read_buffer(&mut from) {
                    Ok(bytes) if bytes.is_empty() => break,
                    other => other,
                };
                let failed = buffer.is_err();
                // A closed channel means that the copy was given up.
                if sender.blocking_send(buffer).is_err() || failed {
                    break;
                }
            }
        })?;
        Ok(Self::Thread(receiver))
    }

    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CopyError> {
        match self {
            Self::Whole(bytes) => Ok(bytes.take()),
            Self::Thread(receiver) => Ok(receiver.recv().await.transpose()?),
            Self::Remote(reader) => Ok(reader.chunk().await?),
        }
    }
}

/// Fills one buffer; shorter only at the end of the file.
fn read_buffer(from: &mut impl Read) -> io::Result<Bytes> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    from.take(BUFFER_BYTES as u64).read_to_end(&mut buffer)?;
    Ok(buffer.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    async fn all_of(mut feed: Feed) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = feed.next().await.unwrap() {
            all.extend_from_slice(&bytes);
        }
        all
    }

    #[tokio::test]
    async fn files_arrive_whole_whatever_size_was_announced() {
        for (length, announced) in
            [(0, 0), (10, 10), (10, 99), (3 << 20, 3 << 20), ((3 << 20) + 1, 5), (1 << 20, 1 << 20)]
        {
            let content: Vec<u8> = (0..length).map(|at: usize| (at % 251) as u8).collect();
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&content).unwrap();
            let feed = Feed::local(file.path().to_owned(), announced).await.unwrap();
            assert!(all_of(feed).await == content, "{length} bytes announced as {announced}");
        }
    }
}
