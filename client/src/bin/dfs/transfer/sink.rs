//! Bytes on their way out of the cluster: a thread writes while the reader receives.

use std::io::{self, Write};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// Buffers received but not written: enough that neither side waits for the other's next step.
const BUFFERS_AHEAD: usize = 4;

/// The sending end; [`Sink::finish`] tells whether everything was written.
pub struct Sink<W> {
    sender: mpsc::Sender<Bytes>,
    outcome: oneshot::Receiver<io::Result<W>>,
}

impl<W: Write + Send + 'static> Sink<W> {
    /// Starts the thread that writes to `to`.
    pub fn start(mut to: W) -> io::Result<Self> {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(BUFFERS_AHEAD);
        let (tell, outcome) = oneshot::channel();
        std::thread::Builder::new().name("dfs-write".to_owned()).spawn(move || {
            let mut write = || {
                while let Some(bytes) = receiver.blocking_recv() {
                    to.write_all(&bytes)?;
                }
                to.flush()
            };
            let written = write();
            // Before the outcome, so that the sender fails rather than waits.
            drop(receiver);
            // The other end is gone when the copy was given up.
            let _ = tell.send(written.map(|()| to));
        })?;
        Ok(Self { sender, outcome })
    }

    /// Hands over bytes. False: writing failed and [`Sink::finish`] tells why.
    pub async fn send(&self, bytes: Bytes) -> bool {
        self.sender.send(bytes).await.is_ok()
    }

    /// Waits until everything is written.
    pub async fn finish(self) -> io::Result<W> {
        drop(self.sender);
        self.outcome.await.unwrap_or_else(|_| Err(io::Error::other("the writing thread ended")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn everything_arrives_in_order() {
        let sink = Sink::start(Vec::new()).unwrap();
        for byte in 0..100_u8 {
            assert!(sink.send(vec![byte; 10].into()).await);
        }
        let written = sink.finish().await.unwrap();
        assert!(written.chunks(10).enumerate().all(|(at, chunk)| chunk == [at as u8; 10]));
        assert_eq!(written.len(), 1000);
    }

    #[tokio::test]
    async fn a_failed_write_is_told() {
        let sink = Sink::start(Full).unwrap();
        while sink.send("x".into()).await {}
        assert_eq!(sink.finish().await.map(drop).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
