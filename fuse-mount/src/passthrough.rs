//! Files that the kernel reads by itself: passthrough.
//!
//! A file that is whole in one replica on this machine is opened such that the kernel reads the replica's file without asking.
//! The kernel has rules for that, and a breach of them is an EIO for the program:
//!
//! - An inode is open either through the mount or to one file of this machine, never both ways at a time.
//! - So who wants to write to a file that is read this way, or to read it after it has moved, waits until its readers have closed
//!   it ([`PATIENCE`]), and is then told that it is busy.
//!
//! Invariants: an inode counts as open here at least as long as the kernel has it open, since the kernel lets go of the way before it
//! tells of the close; the descriptor behind a way is kept until the last handle is gone.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_client::fs::{InodeId, LocalFile};
use fuser::{BackingId, FileHandle, FopenFlags, ReplyOpen};
use tokio::sync::Notify;

use crate::errno::Refusal;

/// Largest file opened this way: all of it is verified first. As long as a block of the default size, some 100 ms of reading.
pub const MAX_VERIFIED_BYTES: u64 = 128 << 20;
/// How long an open waits for handles of the other kind to be closed: as long as one waits for another mount's writer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bit of `CAP_SYS_ADMIN`, which the kernel wants of who names it a file.
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Whether this process may name the kernel files to read.
pub fn is_permitted() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective_capabilities(&status) & CAP_SYS_ADMIN != 0
}

fn effective_capabilities(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// How the inodes of a mount are open.
#[derive(Debug, Default)]
pub struct Passthrough {
    open: Mutex<HashMap<InodeId, Open>>,
    /// A handle is gone, or a file was handed to the kernel.
    changed: Notify,
}

#[derive(Debug)]
struct Open {
    handles: usize,
    /// `None`: through the mount.
    file: Option<Handed>,
}

/// A file of this machine that is, or is about to be, in the kernel's hands.
#[derive(Debug)]
struct Handed {
    identity: (u64, u64),
    backing: Option<Arc<BackingId>>,
}

/// A handle's part in the way that its inode is open.
#[derive(Debug)]
pub struct Place {
    passthrough: Arc<Passthrough>,
    inode: InodeId,
    way: Way,
}

/// How a handle is to be opened.
#[derive(Clone, Debug)]
enum Way {
    /// Through the mount.
    Mount,
    /// To a file that the kernel has.
    Shared(Arc<BackingId>),
    /// To a file that is yet to be handed over.
    New(LocalFile),
}

impl Passthrough {
    /// Takes a place for a handle of `inode`: to `file` if that is possible, through the mount if there is none. Waits for handles of
    /// the other kind.
    pub async fn enter(self: &Arc<Self>, inode: InodeId, file: Option<&LocalFile>) -> Result<Place, Refusal> {
        let entered = tokio::time::timeout(PATIENCE, async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some(way) = self.try_enter(inode, file) {
                    return Place { passthrough: Arc::clone(self), inode, way };
                }
                changed.await;
            }
        });
        entered.await.map_err(|_| Refusal::Busy)
    }

    /// Waits until no handle of `inode` is open to a file of this machine.
    pub async fn left(self: &Arc<Self>, inode: InodeId) -> Result<(), Refusal> {
        self.enter(inode, None).await.map(drop)
    }

    /// The file of this machine to which `inode` is open.
    pub fn file_of(&self, inode: InodeId) -> Option<(u64, u64)> {
        self.lock().get(&inode)?.file.as_ref().map(|handed| handed.identity)
    }

    fn try_enter(&self, inode: InodeId, file: Option<&LocalFile>) -> Option<Way> {
        let mut open = self.lock();
        let Some(entry) = open.get_mut(&inode) else {
            let handed = file.map(|file| Handed { identity: file.identity(), backing: None });
            open.insert(inode, Open { handles: 1, file: handed });
            return Some(file.map_or(Way::Mount, |file| Way::New(file.clone())));
        };
        let way = match (&entry.file, file) {
            (None, _) => Way::Mount,
            (Some(handed), Some(file)) if handed.identity == file.identity() => {
                Way::Shared(Arc::clone(handed.backing.as_ref()?))
            }
            (Some(_), _) => return None,
        };
        entry.handles += 1;
        Some(way)
    }

    /// The file was handed over as `backing`, or could not be: then the inode is open through the mount.
    fn handed(&self, inode: InodeId, backing: Option<Arc<BackingId>>) {
        if let Some(entry) = self.lock().get_mut(&inode) {
            entry.file = entry.file.take().and_then(|handed| {
                backing.map(|backing| Handed { identity: handed.identity, backing: Some(backing) })
            });
        }
        self.changed.notify_waiters();
    }

    fn left_by_one(&self, inode: InodeId) {
        let mut open = self.lock();
        let Some(entry) = open.get_mut(&inode) else { return };
        entry.handles -= 1;
        let last = if entry.handles == 0 { open.remove(&inode) } else { None };
        drop(open);
        // With the last handle the kernel is told that the file is not needed.
        drop(last);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InodeId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Answers the open of `handle`, which holds this place.
    pub fn answer(&self, reply: ReplyOpen, handle: FileHandle, flags: FopenFlags) {
        // The kernel takes no other flags with a file.
        let with_file = flags & FopenFlags::FOPEN_NOFLUSH;
        match &self.way {
            Way::Mount => reply.opened(handle, flags),
            Way::Shared(backing) => reply.opened_passthrough(handle, with_file, backing),
            Way::New(file) => match reply.open_backing(file.as_fd()) {
                Ok(backing) => {
                    let backing = Arc::new(backing);
                    self.passthrough.handed(self.inode, Some(Arc::clone(&backing)));
                    reply.opened_passthrough(handle, with_file, &backing);
                }
                Err(error) => {
                    tracing::warn!(inode = self.inode.get(), %error, "the kernel does not take a replica's file");
                    self.passthrough.handed(self.inode, None);
                    reply.opened(handle, flags);
                }
            },
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.passthrough.left_by_one(self.inode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: InodeId = InodeId(7);

    #[test]
    fn the_capabilities_are_found() {
        let status = "Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n";
        assert_ne!(effective_capabilities(status) & CAP_SYS_ADMIN, 0);
        assert_eq!(effective_capabilities(&status.replace("1ffffffffff", "00000000000")), 0);
        assert_eq!(effective_capabilities("nonsense"), 0);
    }

    #[tokio::test]
    async fn handles_through_the_mount_share_an_inode() {
        let passthrough = Arc::new(Passthrough::default());
        let first = passthrough.enter(FILE, None).await.expect("nobody has it open");
        let second = passthrough.enter(FILE, None).await.expect("the same way");
        drop(first);
        assert_eq!(passthrough.lock()[&FILE].handles, 1);
        drop(second);
        assert!(passthrough.lock().is_empty());
        passthrough.left(FILE).await.expect("not open");
        assert!(passthrough.lock().is_empty());
    }

    #[tokio::test]
    async fn a_writer_waits_for_readers_of_the_file_itself() {
        let passthrough = Arc::new(Passthrough::default());
        // As a reader has it whose file is not handed over yet.
        let handed = Handed { identity: (1, 2), backing: None };
        passthrough.lock().insert(FILE, Open { handles: 1, file: Some(handed) });
        let mut writer = Box::pin(passthrough.enter(FILE, None));
        assert!(futures_pending(&mut writer));
        passthrough.left_by_one(FILE);
        let entered = tokio::time::timeout(Duration::from_secs(20), writer).await.expect("woken");
        assert!(matches!(entered.expect("it is free").way, Way::Mount));
    }

    #[tokio::test]
    async fn a_file_that_the_kernel_does_not_take_is_read_through_the_mount() {
        let passthrough = Arc::new(Passthrough::default());
        let handed = Handed { identity: (1, 2), backing: None };
        passthrough.lock().insert(FILE, Open { handles: 1, file: Some(handed) });
        passthrough.handed(FILE, None);
        let second = passthrough.enter(FILE, None).await.expect("the same way now");
        assert_eq!(passthrough.lock()[&FILE].handles, 2);
        drop(second);
    }

    fn futures_pending<F: Future + Unpin>(future: &mut F) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::Pin::new(future).poll(&mut context).is_pending()
    }
}
