//! Contents of small files that were fetched because they will probably be opened soon.
//!
//! Who knows the order in which files are read (a mount, from its listings) names those that come next
//! ([`FileSystem::fetch_ahead`]); they are located in one call, and their bytes come in one exchange with each datanode.
//!
//! Invariants:
//! - A *guess* is used by the open that follows it, or not at all; and only if the answer to that open (the namenode's, or what is known under a delegation) names the same block,
//!   stamp, length and change counter as its answer before the bytes were asked for, and nobody writes the file. Nothing
//!   changes a block's bytes without a new stamp, so the bytes are what a read after the open would have got.
//! - At most [`MAX_GUESSES`] are kept, for [`KEPT_FOR`]; their bytes are taken from the session's memory, as far as that is free.
//! - At most [`MAX_FETCHES`] batches are under way; what does not fit is not fetched.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::InodeId;
use dfs_proto::v1::{Block, LocatedBlocks};
use tokio::sync::watch;

use super::write_limits::Budget;
use super::{Caller, FileSystem};
use crate::local_exchange::MAX_CONTENT_BYTES;

mod fetch;

/// Largest file that is fetched before it is opened.
pub const MAX_AHEAD_BYTES: u64 = MAX_CONTENT_BYTES;

/// Guesses kept: with [`MAX_AHEAD_BYTES`] each, 8 MiB.
pub const MAX_GUESSES: usize = 128;

/// Files of one fetch: the namenode locates no more in one call.
pub const MAX_FETCHED_AT_ONCE: usize = 64;

/// Age at which a guess that nobody used is given up.
const KEPT_FOR: Duration = Duration::from_secs(5);

/// Batches under way at a time: what some programs read at once in order.
const MAX_FETCHES: usize = 8;

/// Longest wait of a reader for bytes that were asked for before it came: then it asks by itself.
const PATIENCE: Duration = Duration::from_millis(500);

/// Guesses of a session.
#[derive(Default)]
pub(super) struct FilesAhead {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    guesses: HashMap<u64, Guess>,
    /// Oldest first; with numbers, since a guess may have been used and made again.
    order: VecDeque<(u64, u64)>,
    last: u64,
    fetches: usize,
    counts: AheadCounts,
}

struct Guess {
    number: u64,
    begun: Instant,
    progress: watch::Receiver<Progress>,
}

/// What became of files that were fetched before they were opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AheadCounts {
    /// Guesses made.
    pub guessed: u64,
    /// Guesses whose bytes were served.
    pub used: u64,
    /// Files that were opened and had changed meanwhile, or could not be fetched.
    pub refuted: u64,
    /// Guesses given up since nobody opened the file.
    pub unused: u64,
    /// Guesses kept now.
    pub kept: u64,
    /// Those of them whose bytes have come.
    pub here: u64,
}

/// How far a guess has come.
#[derive(Debug)]
enum Progress {
    Coming,
    /// It is known where.
    Located,
    Here(Content),
}

/// Bytes of a whole file.
#[derive(Debug)]
struct Content {
    identity: Identity,
    bytes: Bytes,
    /// Taken from the budget, given back with the content.
    budget: Arc<Budget>,
}

impl Drop for Content {
    fn drop(&mut self) {
        self.budget.give(self.bytes.len());
    }
}

/// What says that a small file's content is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    change: u64,
    block: Block,
}

impl Identity {
    /// Of a file that is one settled block; none of others.
    fn of(located: &LocatedBlocks) -> Option<Self> {
        let status = located.status.as_ref()?;
        let [row] = located.blocks.as_slice() else { return None };
        let block = row.block?;
        let settled = located.complete && !status.under_construction && !row.under_construction;
        let whole = row.offset == 0 && block.length == status.size && block.length > 0;
        (settled && whole && block.length <= MAX_AHEAD_BYTES).then_some(Self { change: status.change, block })
    }
}

/// The content of a file that is open, here or on its way.
#[derive(Clone)]
pub(super) struct Arrival {
    identity: Identity,
    progress: watch::Receiver<Progress>,
}

impl Arrival {
    /// Change counter of the file when it had this content.
    pub(super) fn change(&self) -> u64 {
        self.identity.change
    }

    /// Bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.identity.block.length
    }

    /// The content, if it is here.
    pub(super) fn now(&self) -> Option<Bytes> {
        match &*self.progress.borrow() {
            Progress::Here(content) if content.identity == self.identity => Some(content.bytes.clone()),
            Progress::Here(_) | Progress::Located | Progress::Coming => None,
        }
    }

    /// The content, once it is here; none if it does not come or is another one.
    pub(super) async fn content(&self) -> Option<Bytes> {
        let mut progress = self.progress.clone();
        let here = progress.wait_for(|progress| matches!(progress, Progress::Here(_)));
        // A sender that is gone has found nothing.
        drop(tokio::time::timeout(PATIENCE, here).await.ok()?.ok()?);
        self.now()
    }
}

/// A file that is to be fetched.
struct Wanted {
    inode: InodeId,
    progress: watch::Sender<Progress>,
}

impl FilesAhead {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes guesses of those files that are not guessed already. To be followed by [`Self::fetched`] unless there are none.
    fn begin(&self, inodes: &[InodeId]) -> Vec<Wanted> {
        let mut state = self.lock();
        let now = Instant::now();
        state.give_up(|guess| now.saturating_duration_since(guess.begun) > KEPT_FOR, 0);
        if state.fetches >= MAX_FETCHES {
            return Vec::new();
        }
        let mut wanted = Vec::new();
        for inode in inodes.iter().take(MAX_FETCHED_AT_ONCE) {
            if state.guesses.contains_key(&inode.get()) {
                continue;
            }
            let (sender, progress) = watch::channel(Progress::Coming);
            state.last += 1;
            let number = state.last;
            state.guesses.insert(inode.get(), Guess { number, begun: now, progress });
            state.order.push_back((inode.get(), number));
            state.counts.guessed += 1;
            wanted.push(Wanted { inode: *inode, progress: sender });
        }
        state.give_up(|_| true, MAX_GUESSES);
        state.fetches += usize::from(!wanted.is_empty());
        wanted
    }

    fn fetched(&self) {
        self.lock().fetches -= 1;
    }

    /// Whether a file is guessed.
    pub(super) fn is_guessed(&self, inode: InodeId) -> bool {
        self.lock().guesses.contains_key(&inode.get())
    }

    /// Returns when it is known where a guessed file is, or that this will not be known soon.
    pub(super) async fn located(&self, inode: InodeId) {
        let progress = self.lock().guesses.get(&inode.get()).map(|guess| guess.progress.clone());
        let Some(mut progress) = progress else { return };
        let located = progress.wait_for(|progress| !matches!(progress, Progress::Coming));
        // Too late, or nobody fetches it any longer: the next look tells.
        let _ = tokio::time::timeout(PATIENCE, located).await;
    }

    /// The content of a file that was opened with this answer, if it was guessed and has not changed.
    pub(super) fn take(&self, located: &LocatedBlocks) -> Option<Arrival> {
        let inode = located.status.as_ref()?.inode;
        let mut state = self.lock();
        let guess = state.guesses.remove(&inode)?;
        let same = Identity::of(located).filter(|identity| match &*guess.progress.borrow() {
            Progress::Here(content) => content.identity == *identity,
            // One that nobody fetches any longer is lost.
            Progress::Coming | Progress::Located => guess.progress.has_changed().is_ok(),
        });
        match same {
            Some(identity) => {
                state.counts.used += 1;
                Some(Arrival { identity, progress: guess.progress })
            }
            None => {
                state.counts.refuted += 1;
                None
            }
        }
    }

    fn counts(&self) -> AheadCounts {
        let state = self.lock();
        let came = |guess: &&Guess| matches!(&*guess.progress.borrow(), Progress::Here(_));
        let here = state.guesses.values().filter(came).count() as u64;
        AheadCounts { kept: state.guesses.len() as u64, here, ..state.counts }
    }
}

impl State {
    /// Gives the oldest guesses up as long as `old` holds and more than `keep` are left.
    fn give_up(&mut self, old: impl Fn(&Guess) -> bool, keep: usize) {
        while let Some((inode, number)) = self.order.front() {
            match self.guesses.get(inode) {
                Some(guess) if guess.number == *number => {
                    if self.guesses.len() <= keep || !old(guess) {
                        return;
                    }
                    self.guesses.remove(inode);
                    self.counts.unused += 1;
                }
                // It was used.
                Some(_) | None => {}
            }
            self.order.pop_front();
        }
    }
}

impl FileSystem {
    /// Fetches the contents of small files that will probably be opened for reading soon, in the background. Files that are not small, or
    /// that `caller` may not read, are passed over.
    pub fn fetch_ahead(&self, caller: &Caller, inodes: &[InodeId]) {
        let fs = self.inner();
        let wanted = fs.ahead.begin(inodes);
        if !wanted.is_empty() {
            fs.spawn(fetch::run(Arc::clone(fs), caller.clone(), wanted));
        }
    }

    /// What became of the files fetched ahead.
    pub fn ahead_counts(&self) -> AheadCounts {
        self.inner().ahead.counts()
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::v1::{FileStatus, LocatedBlock};

    use super::*;

    fn located(inode: u64, change: u64, stamp: u64) -> LocatedBlocks {
        let block = Block { id: inode, generation_stamp: stamp, length: 3 };
        LocatedBlocks {
            status: Some(FileStatus { inode, change, size: 3, ..FileStatus::default() }),
            blocks: vec![LocatedBlock { block: Some(block), ..LocatedBlock::default() }],
            complete: true,
        }
    }

    fn ahead() -> (FilesAhead, Arc<Budget>) {
        (FilesAhead::default(), Arc::new(Budget::new(1 << 20)))
    }

    fn put((ahead, budget): &(FilesAhead, Arc<Budget>), inode: u64, found: &LocatedBlocks) {
        for wanted in ahead.begin(&[InodeId(inode)]) {
            let identity = Identity::of(found).expect("small");
            assert!(budget.try_take(3));
            let content = Content { identity, bytes: Bytes::from_static(b"abc"), budget: Arc::clone(budget) };
            wanted.progress.send_replace(Progress::Here(content));
            ahead.fetched();
        }
    }

    #[test]
    fn a_guess_counts_only_for_the_same_block_stamp_length_and_change() {
        let found = located(7, 5, 2);
        let longer = |mut located: LocatedBlocks| {
            located.blocks[0].block = Some(Block { id: 7, generation_stamp: 2, length: 4 });
            located.status.as_mut().expect("set").size = 4;
            located
        };
        let written = |mut located: LocatedBlocks| {
            located.status.as_mut().expect("set").under_construction = true;
            located
        };
        let cases = [
            (found.clone(), true),
            (located(7, 6, 2), false),
            (located(7, 5, 3), false),
            (longer(found.clone()), false),
            (written(found.clone()), false),
            (LocatedBlocks { complete: false, ..found.clone() }, false),
            (LocatedBlocks { blocks: Vec::new(), ..found.clone() }, false),
        ];
        for (answer, same) in cases {
            let made = ahead();
            put(&made, 7, &found);
            let (ahead, _) = made;
            let taken = ahead.take(&answer).and_then(|arrival| arrival.now());
            assert_eq!(taken.is_some(), same, "{answer:?}");
            assert!(ahead.take(&found).is_none(), "used or given up: once only");
        }
    }

    #[tokio::test]
    async fn what_comes_later_must_be_the_same_too() {
        for (came, same) in [(located(7, 5, 2), true), (located(7, 6, 2), false)] {
            let (ahead, budget) = ahead();
            let wanted = ahead.begin(&[InodeId(7)]).pop().expect("new");
            let arrival = ahead.take(&located(7, 5, 2)).expect("coming");
            assert_eq!(arrival.now(), None);
            let identity = Identity::of(&came).expect("small");
            assert!(budget.try_take(3));
            let content = Content { identity, bytes: Bytes::from_static(b"abc"), budget };
            let (found, _) = tokio::join!(arrival.content(), async {
                wanted.progress.send_replace(Progress::Here(content))
            });
            assert_eq!(found.is_some(), same);
        }
        let (ahead, _) = ahead();
        let wanted = ahead.begin(&[InodeId(7)]);
        let arrival = ahead.take(&located(7, 5, 2)).expect("coming");
        drop(wanted);
        assert_eq!(arrival.content().await, None, "nobody fetches it any longer");
    }

    #[test]
    fn guesses_and_their_memory_are_bounded_and_given_back() {
        let made = ahead();
        for inode in 1..=1000 {
            put(&made, inode, &located(inode, 1, 1));
        }
        let (ahead, budget) = made;
        let counts = ahead.counts();
        assert_eq!((counts.kept, counts.guessed), (MAX_GUESSES as u64, 1000));
        assert_eq!(counts.unused, 1000 - MAX_GUESSES as u64);
        assert!(ahead.lock().order.len() <= MAX_GUESSES);
        assert!(budget.try_take((1 << 20) - 3 * MAX_GUESSES), "the others' bytes are free");
        assert!(!budget.try_take(1));
        assert!(ahead.take(&located(1, 1, 1)).is_none());
        assert!(ahead.take(&located(1000, 1, 1)).is_some());
        assert!(budget.try_take(3), "given back with the content");
    }

    #[test]
    fn batches_under_way_are_bounded() {
        let (ahead, _) = ahead();
        let batches: Vec<_> = (1..=20).map(|inode| ahead.begin(&[InodeId(inode)])).collect();
        assert_eq!(batches.iter().filter(|batch| !batch.is_empty()).count(), MAX_FETCHES);
        ahead.fetched();
        assert_eq!(ahead.begin(&[InodeId(50)]).len(), 1);
    }
}
