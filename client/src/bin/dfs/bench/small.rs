//! `dfs bench small`: create + write + close, then open + read, of small files.
//!
//! Every file has content of its own, and every read is compared with it: that costs less than a
//! thousandth of the call. Directories have about 1,000 entries.

use std::sync::Arc;

use anyhow::ensure;
use dfs_client::{CreateOptions, DfsClient};

use super::args::SmallArgs;
use super::load::{self, LoadResults, LoadRun};
use super::pattern::Pattern;
use super::rows::CallRow;
use super::session::Session;

/// Files in a directory.
const DIRECTORY_ENTRIES: u64 = 1000;

/// Callers of the warm-up.
const WARM_CALLERS: usize = 16;

/// A single caller makes one of so many files that several make.
const SINGLE_CALLER_PART: u64 = 4;

/// Measures everything below `base`.
pub async fn measure(session: &Session, base: &str, args: &SmallArgs) -> anyhow::Result<Vec<CallRow>> {
    let pattern = Pattern::new();
    let run = async |name: String, callers: usize| {
        let files = if callers == 1 { (args.files / SINGLE_CALLER_PART).max(1) } else { args.files };
        let create = CreateOptions { replication: args.replication, ..CreateOptions::default() };
        let dir = format!("{base}/{name}").into();
        let set = FileSet {
            client: session.client.clone(),
            dir,
            pattern: pattern.clone(),
            size: args.size,
            create,
        };
        set.round(session, callers, files).await
    };
    session.step("warm-up".to_owned());
    run("warm".to_owned(), WARM_CALLERS).await?;
    let mut results = LoadResults::new();
    for number in 1..=args.rounds.rounds {
        for callers in args.callers.iter().copied() {
            session.step(format!("{callers} callers, round {number} of {}", args.rounds.rounds));
            let (write, read) = run(format!("{number}-{callers}"), callers).await?;
            results.add("write", callers, write);
            results.add("read", callers, read);
        }
    }
    results.rows()
}

/// Files of one size below one directory.
#[derive(Clone)]
pub struct FileSet {
    /// Shared by all callers.
    pub client: DfsClient,
    /// Directory; its subdirectories are made before.
    pub dir: Arc<str>,
    /// Content.
    pub pattern: Pattern,
    /// Bytes of a file.
    pub size: usize,
    /// How files are created.
    pub create: CreateOptions,
}

impl FileSet {
    /// Makes the directories, writes and reads all files, and deletes everything.
    async fn round(
        &self,
        session: &Session,
        callers: usize,
        files: u64,
    ) -> anyhow::Result<(LoadRun, LoadRun)> {
        let before = session.occupancy(0).await?;
        session.mkdir(&self.dir).await?;
        for part in 0..files.div_ceil(DIRECTORY_ENTRIES) {
            session.mkdir(&format!("{}/{part}", self.dir)).await?;
        }
        let write = self.load(session, callers, files, |set, number| async move {
            set.write(&set.path(number), number).await
        });
        let write = write.await?;
        let read =
            self.load(session, callers, files, |set, number| async move { set.read(number).await }).await?;
        self.client.delete(&self.dir, true).await?;
        session.settle(before).await?;
        Ok((write, read))
    }

    async fn load<F, R>(
        &self,
        session: &Session,
        callers: usize,
        files: u64,
        call: F,
    ) -> anyhow::Result<LoadRun>
    where
        F: Fn(Self, u64) -> R + Clone + Send + 'static,
        R: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let set = self.clone();
        load::run(callers, files, &session.clocks, move |number| call(set.clone(), number)).await
    }

    fn path(&self, number: u64) -> String {
        format!("{}/{}/{number}", self.dir, number / DIRECTORY_ENTRIES)
    }

    /// Creates the file at `path` with the content of file `number`, and closes it.
    pub async fn write(&self, path: &str, number: u64) -> anyhow::Result<()> {
        let options = CreateOptions { allocate_block: self.size > 0, ..self.create };
        let mut file = self.client.create(path, options).await?;
        if self.size > 0 {
            file.write_bytes(self.pattern.piece(number, 0, self.size)).await?;
        }
        file.close().await?;
        Ok(())
    }

    /// Opens a file, reads it to its end and compares it with its content.
    async fn read(&self, number: u64) -> anyhow::Result<()> {
        let path = self.path(number);
        let mut file = self.client.open(&path).await?;
        let mut offset = 0;
        while let Some(chunk) = file.chunk().await? {
            ensure!(
                self.pattern.matches(number, offset, &chunk),
                "{path}: content differs from what was written"
            );
            offset += chunk.len() as u64;
        }
        ensure!(offset == self.size as u64, "{path}: {offset} bytes, not {}", self.size);
        Ok(())
    }
}
