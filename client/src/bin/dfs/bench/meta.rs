//! `dfs bench meta`: metadata calls.
//!
//! Directories have about 1,000 entries, as those of a real tree may have. `create` makes an empty file
//! and closes it. `list` reads a directory of exactly 1,000 entries. After each round's calls, what they
//! should have left behind is checked.

use std::sync::Arc;

use anyhow::ensure;
use dfs_client::{CreateOptions, DfsClient, MkdirOptions, RenameOptions};

use super::args::MetaArgs;
use super::load::{self, LoadResults, LoadRun};
use super::rows::CallRow;
use super::session::Session;

/// Entries of a directory.
const DIRECTORY_ENTRIES: u64 = 1000;

/// Callers of the warm-up and of preparations.
const WARM_CALLERS: usize = 16;

/// A single caller makes one of so many operations that several make.
const SINGLE_CALLER_PART: u64 = 4;

/// One of so many operations is made as a listing, which is a thousand times as large.
const LIST_PART: u64 = 10;

/// Listings at least.
const LISTS_MIN: u64 = 50;

/// Measures everything below `base`.
pub async fn measure(session: &Session, base: &str, args: &MetaArgs) -> anyhow::Result<Vec<CallRow>> {
    session.step("preparing".to_owned());
    let list = format!("{base}/list");
    session.mkdir(&list).await?;
    let entry = operation(&session.client, &list, |client, base, number| async move {
        create(&client, &format!("{base}/file-{number}")).await
    });
    load::run(WARM_CALLERS, DIRECTORY_ENTRIES, &session.clocks, entry).await?;

    session.step("warm-up".to_owned());
    let warm_up = Round { session, list: &list, base: format!("{base}/warm"), callers: WARM_CALLERS };
    warm_up.run(operations_of(1, args.operations), &mut |_, _| ()).await?;
    let mut results = LoadResults::new();
    for number in 1..=args.rounds.rounds {
        for callers in args.callers.iter().copied() {
            session.step(format!("{callers} callers, round {number} of {}", args.rounds.rounds));
            let round = Round { session, list: &list, base: format!("{base}/{number}-{callers}"), callers };
            let operations = operations_of(callers, args.operations);
            round.run(operations, &mut |op, run| results.add(op, callers, run)).await?;
        }
    }
    results.rows()
}

/// A single caller is slower, and needs fewer operations for a figure as good.
fn operations_of(callers: usize, operations: u64) -> u64 {
    if callers == 1 { (operations / SINGLE_CALLER_PART).max(1) } else { operations }
}

/// Makes an empty file.
async fn create(client: &DfsClient, path: &str) -> anyhow::Result<()> {
    let empty = CreateOptions { allocate_block: false, ..CreateOptions::default() };
    let mut file = client.create(path, empty).await?;
    file.close().await?;
    Ok(())
}

/// Binds an operation to client and directory, in a form that [`load::run`] takes.
fn operation<F, R>(client: &DfsClient, base: &str, call: F) -> impl Fn(u64) -> R + Clone + Send + 'static
where
    F: Fn(DfsClient, Arc<str>, u64) -> R + Clone + Send + 'static,
    R: Future<Output = anyhow::Result<()>> + Send,
{
    let (client, base): (DfsClient, Arc<str>) = (client.clone(), base.into());
    move |number| call(client.clone(), base.clone(), number)
}

/// One pass through all operations with one number of callers.
struct Round<'a> {
    session: &'a Session,
    list: &'a str,
    base: String,
    callers: usize,
}

impl Round<'_> {
    async fn run(
        &self,
        operations: u64,
        report: &mut impl FnMut(&'static str, LoadRun),
    ) -> anyhow::Result<()> {
        let before = self.session.namespace_occupancy().await?;
        self.make_directories(operations).await?;
        let options = MkdirOptions::default();
        let mkdir = self.load(operations, move |client, base, number| async move {
            client.mkdir(&format!("{base}/d/{}/{number}", number / DIRECTORY_ENTRIES), options).await?;
            Ok(())
        });
        report("mkdir", mkdir.await?);
        let created = self.load(operations, |client, base, number| async move {
            create(&client, &file(&base, 'f', number)).await
        });
        report("create", created.await?);
        let stat = self.load(operations, |client, base, number| async move {
            let path = file(&base, 'f', number);
            ensure!(client.stat(&path).await?.is_file(), "{path}: not a file");
            Ok(())
        });
        report("stat", stat.await?);
        let list = operation(&self.session.client, self.list, |client, list, _| async move {
            let entries = client.list(&list).await?.len() as u64;
            ensure!(entries == DIRECTORY_ENTRIES, "{list}: {entries} entries, not {DIRECTORY_ENTRIES}");
            Ok(())
        });
        let lists = (operations / LIST_PART).max(LISTS_MIN);
        report("list", load::run(self.callers, lists, &self.session.clocks, list).await?);
        self.expect_entries('f', operations).await?;
        let rename = self.load(operations, |client, base, number| async move {
            client
                .rename(&file(&base, 'f', number), &file(&base, 'r', number), RenameOptions::default())
                .await?;
            Ok(())
        });
        report("rename", rename.await?);
        self.expect_entries('f', 0).await?;
        self.expect_entries('r', operations).await?;
        let delete = self.load(operations, |client, base, number| async move {
            let path = file(&base, 'r', number);
            ensure!(client.delete(&path, false).await?, "{path}: was not there");
            Ok(())
        });
        report("delete", delete.await?);
        self.expect_entries('r', 0).await?;
        self.session.client.delete(&self.base, true).await?;
        self.session.settle(before).await
    }

    /// Runs one operation below this round's directory.
    async fn load<F, R>(&self, operations: u64, call: F) -> anyhow::Result<LoadRun>
    where
        F: Fn(DfsClient, Arc<str>, u64) -> R + Clone + Send + 'static,
        R: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let operation = operation(&self.session.client, &self.base, call);
        load::run(self.callers, operations, &self.session.clocks, operation).await
    }

    async fn make_directories(&self, operations: u64) -> anyhow::Result<()> {
        self.session.mkdir(&self.base).await?;
        for kind in ['d', 'f', 'r'] {
            self.session.mkdir(&format!("{}/{kind}", self.base)).await?;
            for part in 0..operations.div_ceil(DIRECTORY_ENTRIES) {
                self.session.mkdir(&format!("{}/{kind}/{part}", self.base)).await?;
            }
        }
        Ok(())
    }

    /// Checks that the directories of one kind hold so many entries together.
    async fn expect_entries(&self, kind: char, expected: u64) -> anyhow::Result<()> {
        let path = format!("{}/{kind}", self.base);
        let found = self.session.client.content_summary(&path).await?.file_count;
        ensure!(found == expected, "{path}: {found} files, not {expected}");
        Ok(())
    }
}

/// Path of a file.
fn file(base: &str, kind: char, number: u64) -> String {
    format!("{base}/{kind}/{}/{number}", number / DIRECTORY_ENTRIES)
}
