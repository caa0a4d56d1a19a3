//! Sessions of mounts: which are alive, what they have open, and what is wanted back from them.
//!
//! Pure: time comes as an argument, random numbers too. Soft state: after a restart of the namenode sessions
//! are expected again by their leases, and tell anew what they have open.
//!
//! Invariants:
//! * `openers` counts, for each inode, the sessions that have it open; an inode that nobody has open is not in it.
//! * `orphans` are unlinked inodes kept for their openers. One that has no opener is freed, except while sessions
//!   that a restart has interrupted may still come back for it.
//! * `going` are inodes whose last name may be going at this moment, unlinked when nobody had them open: an
//!   opener waits until that is decided.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::Notify;

/// Sessions at once: as many as connections.
const SESSIONS_MAX: usize = 10_000;

/// Open files of all sessions together: about 60 MB of tables.
const OPEN_FILES_MAX: usize = 1 << 20;

/// A table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionTableFull {
    /// [`SESSIONS_MAX`] is reached.
    #[error("{SESSIONS_MAX} sessions are served already")]
    Sessions,
    /// [`OPEN_FILES_MAX`] is reached.
    #[error("sessions have {OPEN_FILES_MAX} files open already")]
    OpenFiles,
}

/// What became of an attempt to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Registered now.
    New,
    /// The session had it open before.
    Known,
    /// Registered now, but its last name may be going: ask [`SessionTable::is_going`] before it is used.
    Going,
}

#[derive(Debug)]
struct Session {
    epoch: u64,
    seen_ms: u64,
    open: HashSet<u64>,
    /// Files whose lease is wanted, not told yet.
    recalled: BTreeSet<u64>,
    /// Woken by events.
    events: Arc<Notify>,
}

/// See the module.
#[derive(Debug)]
pub struct SessionTable {
    timeout_ms: u64,
    sessions: HashMap<Arc<str>, Session>,
    open_files: usize,
    openers: HashMap<u64, u32>,
    orphans: HashSet<u64>,
    /// Until when orphans from before a restart wait for their openers.
    orphans_wait_until_ms: Option<u64>,
    going: HashMap<u64, u32>,
    checked_ms: Option<u64>,
}

impl SessionTable {
    /// No sessions; one that is silent for `timeout_ms` ends.
    pub fn new(timeout_ms: u64) -> Self {
        Self {
            timeout_ms,
            sessions: HashMap::new(),
            open_files: 0,
            openers: HashMap::new(),
            orphans: HashSet::new(),
            orphans_wait_until_ms: None,
            going: HashMap::new(),
            checked_ms: None,
        }
    }

    /// Silence after which a session ends.
    pub const fn timeout_ms(&self) -> u64 {
        self.timeout_ms
    }

    /// A sign of life; starts the session if need be, with `epoch`. Answers the session's epoch.
    pub fn touch(&mut self, now_ms: u64, name: &str, epoch: u64) -> Result<u64, SessionTableFull> {
        if let Some(session) = self.sessions.get_mut(name) {
            session.seen_ms = now_ms;
            return Ok(session.epoch);
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(SessionTableFull::Sessions);
        }
        let session = Session {
            epoch,
            seen_ms: now_ms,
            open: HashSet::new(),
            recalled: BTreeSet::new(),
            events: Arc::new(Notify::new()),
        };
        self.sessions.insert(name.into(), session);
        Ok(epoch)
    }

    /// Epoch of a session that is alive.
    pub fn epoch(&self, name: &str) -> Option<u64> {
        self.sessions.get(name).map(|session| session.epoch)
    }

    /// Woken when something is wanted of the session.
    pub fn events(&self, name: &str) -> Option<Arc<Notify>> {
        self.sessions.get(name).map(|session| session.events.clone())
    }

    /// Takes what is wanted of the session.
    pub fn take_recalled(&mut self, name: &str) -> Vec<u64> {
        let recalled = self.sessions.get_mut(name).map(|session| std::mem::take(&mut session.recalled));
        recalled.into_iter().flatten().collect()
    }

    /// Wants the lease of a file back. False if there is no such session.
    pub fn recall(&mut self, name: &str, inode: u64) -> bool {
        let Some(session) = self.sessions.get_mut(name) else { return false };
        // At most one a file that somebody waits for, and those waits are bounded.
        session.recalled.insert(inode);
        session.events.notify_waiters();
        true
    }

    /// The session has a file open.
    pub fn open(&mut self, name: &str, inode: u64) -> Result<Opening, SessionTableFull> {
        let Some(session) = self.sessions.get_mut(name) else { return Err(SessionTableFull::Sessions) };
        if session.open.contains(&inode) {
            return Ok(Opening::Known);
        }
        if self.open_files >= OPEN_FILES_MAX {
            return Err(SessionTableFull::OpenFiles);
        }
        session.open.insert(inode);
        self.open_files += 1;
        *self.openers.entry(inode).or_default() += 1;
        Ok(if self.going.contains_key(&inode) { Opening::Going } else { Opening::New })
    }

    /// The session has these files open, and no others. Answers the orphans that nobody has open any longer.
    pub fn replace_open(&mut self, name: &str, inodes: &[u64]) -> Result<Vec<u64>, SessionTableFull> {
        let Some(session) = self.sessions.get(name) else { return Ok(Vec::new()) };
        let wanted: HashSet<u64> = inodes.iter().copied().take(OPEN_FILES_MAX).collect();
        let gone: Vec<u64> = session.open.difference(&wanted).copied().collect();
        for inode in wanted {
            self.open(name, inode)?;
        }
        Ok(self.close(name, &gone))
    }

    /// The session has these files open no longer. Answers the orphans that nobody has open any longer.
    pub fn close(&mut self, name: &str, inodes: &[u64]) -> Vec<u64> {
        let mut closed = Vec::new();
        if let Some(session) = self.sessions.get_mut(name) {
            closed.extend(inodes.iter().copied().filter(|inode| session.open.remove(inode)));
        }
        self.closed(closed)
    }

    /// The session ends. Answers the orphans that nobody has open any longer; nothing if there was no session.
    pub fn end(&mut self, name: &str) -> Option<Vec<u64>> {
        let session = self.sessions.remove(name)?;
        session.events.notify_waiters();
        Some(self.closed(session.open.into_iter().collect()))
    }

    fn closed(&mut self, inodes: Vec<u64>) -> Vec<u64> {
        self.open_files -= inodes.len();
        let mut free = Vec::new();
        for inode in inodes {
            if let Some(count) = self.openers.get_mut(&inode) {
                *count -= 1;
                if *count == 0 {
                    self.openers.remove(&inode);
                    if self.orphans.remove(&inode) {
                        free.push(inode);
                    }
                }
            }
        }
        free
    }

    /// A name of the inode is about to be removed. True if a session has it open, and it must be kept;
    /// otherwise [`Self::unlinked`] is to be called when that is done.
    pub fn unlinking(&mut self, inode: u64) -> bool {
        if self.openers.contains_key(&inode) {
            return true;
        }
        // Bounded by the calls that are served at once.
        *self.going.entry(inode).or_default() += 1;
        false
    }

    /// The removal of a name that [`Self::unlinking`] announced is decided.
    pub fn unlinked(&mut self, inode: u64) {
        if let Some(count) = self.going.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                self.going.remove(&inode);
            }
        }
    }

    /// Whether the last name of the inode may be going at this moment.
    pub fn is_going(&self, inode: u64) -> bool {
        self.going.contains_key(&inode)
    }

    /// The inode lost its last name and was kept. False if nobody has it open any more: it is to be freed.
    pub fn orphaned(&mut self, inode: u64) -> bool {
        let open = self.openers.contains_key(&inode);
        if open {
            self.orphans.insert(inode);
        }
        open
    }

    /// Sessions and orphans that the namespace knows from before a start: sessions are expected back, and orphans
    /// wait as long for their openers.
    pub fn expect(&mut self, now_ms: u64, sessions: &[String], orphans: &[u64], epoch: u64) {
        for name in sessions {
            // More than are served at once were served never.
            let _ = self.touch(now_ms, name, epoch);
        }
        self.orphans.extend(orphans);
        self.orphans_wait_until_ms = Some(now_ms.saturating_add(self.timeout_ms));
    }

    /// Orphans from before a restart whose openers had their time to come back and did not.
    pub fn unclaimed_orphans(&mut self, now_ms: u64) -> Vec<u64> {
        if self.orphans_wait_until_ms.is_none_or(|until| now_ms < until) {
            return Vec::new();
        }
        self.orphans_wait_until_ms = None;
        let openers = &self.openers;
        self.orphans.extract_if(|inode| !openers.contains_key(inode)).collect()
    }

    /// Sessions that were silent for too long; to be ended by the caller. To be called often: time in which it was
    /// not called (the process was stopped) does not count against the sessions.
    pub fn expired(&mut self, now_ms: u64) -> Vec<Arc<str>> {
        let gap = now_ms.saturating_sub(self.checked_ms.unwrap_or(now_ms));
        self.checked_ms = Some(now_ms);
        if gap > self.timeout_ms / 2 {
            for session in self.sessions.values_mut() {
                session.seen_ms = session.seen_ms.saturating_add(gap).min(now_ms);
            }
            self.orphans_wait_until_ms = self.orphans_wait_until_ms.map(|until| until.saturating_add(gap));
        }
        let silent = |session: &Session| now_ms.saturating_sub(session.seen_ms) >= self.timeout_ms;
        let expired = self.sessions.iter().filter(|(_, session)| silent(session));
        expired.map(|(name, _)| name.clone()).collect()
    }

    /// Sessions that are alive, and files that they have open.
    pub fn counts(&self) -> (usize, usize) {
        (self.sessions.len(), self.open_files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(sessions: &[&str]) -> SessionTable {
        let mut table = SessionTable::new(100);
        for name in sessions {
            assert_eq!(table.touch(0, name, 7), Ok(7));
        }
        table
    }

    #[test]
    fn an_orphan_is_freed_by_its_last_opener() {
        let mut table = table(&["a", "b"]);
        assert_eq!(table.open("a", 5), Ok(Opening::New));
        assert_eq!(table.open("a", 5), Ok(Opening::Known));
        assert_eq!(table.open("b", 5), Ok(Opening::New));
        assert!(table.unlinking(5));
        assert!(table.orphaned(5));
        assert_eq!(table.close("a", &[5, 6]), Vec::<u64>::new());
        assert_eq!(table.close("a", &[5]), Vec::<u64>::new(), "closed once only");
        assert_eq!(table.end("b"), Some(vec![5]));
        assert_eq!(table.end("b"), None);
        assert!(!table.orphaned(5), "nobody has it open");
        assert_eq!(table.counts(), (1, 0));
    }

    #[test]
    fn an_opener_hears_that_the_last_name_may_be_going() {
        let mut table = table(&["a"]);
        assert!(!table.unlinking(5));
        assert!(!table.unlinking(5));
        assert_eq!(table.open("a", 5), Ok(Opening::Going));
        table.unlinked(5);
        assert!(table.is_going(5));
        table.unlinked(5);
        assert!(!table.is_going(5));
        assert!(table.unlinking(5), "it is open now");
    }

    #[test]
    fn silent_sessions_expire_but_not_by_a_pause_of_the_namenode() {
        let mut table = table(&["a", "b"]);
        assert!(table.expired(50).is_empty());
        assert_eq!(table.touch(60, "a", 8), Ok(7), "the epoch stays");
        assert_eq!(table.expired(100), [Arc::from("b")]);
        assert_eq!(table.end("b"), Some(Vec::new()));
        assert!(table.expired(400).is_empty(), "nobody looked for 300 ms");
        assert!(table.expired(430).is_empty());
        assert_eq!(table.expired(460), [Arc::from("a")]);
        assert_eq!(table.touch(470, "b", 9), Ok(9), "a session that ended begins anew");
    }

    #[test]
    fn recalls_are_told_once_and_only_to_sessions() {
        let mut table = table(&["a"]);
        assert!(!table.recall("dfs_client_1", 5));
        assert!(table.recall("a", 6) && table.recall("a", 5) && table.recall("a", 5));
        assert_eq!(table.take_recalled("a"), [5, 6]);
        assert!(table.take_recalled("a").is_empty());
    }

    #[test]
    fn orphans_from_before_a_restart_wait_for_their_openers() {
        let mut table = SessionTable::new(100);
        table.expect(10, &["a".to_owned()], &[5, 6], 7);
        assert_eq!(table.touch(20, "a", 1), Ok(7));
        assert_eq!(table.replace_open("a", &[5, 8]), Ok(Vec::new()));
        assert!(table.unclaimed_orphans(109).is_empty());
        assert_eq!(table.unclaimed_orphans(110), [6]);
        assert!(table.unclaimed_orphans(120).is_empty());
        assert_eq!(table.replace_open("a", &[8]), Ok(vec![5]));
    }
}
