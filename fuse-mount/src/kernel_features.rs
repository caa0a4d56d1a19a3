//! What the mount and the kernel agree on at the start.

use std::sync::Arc;

use fuser::{InitFlags, KernelConfig};

use crate::mount::Mount;

/// Largest write, and read at once: the kernel's limit without a raised `fs.fuse.max_pages_limit`.
const MAX_IO_BYTES: u32 = 1 << 20;
/// Requests without a waiting process (reading ahead, direct I/O) under way at a time: 16 MiB of reading ahead at 1 MiB each for
/// some streams. The kernel's 12 would hold back parallel direct reads.
const MAX_BACKGROUND: u16 = 64;

/// What the mount wants of the kernel, each if the kernel has it:
///
/// - look-ups and listings in one directory at the same time; attributes with listings, where they are wanted;
/// - `O_TRUNC` in the open itself; locks that other mounts see; targets of symbolic links kept;
/// - large and parallel requests, also for direct I/O;
/// - set-user-id bits cleared here, which spares a question for `security.capability` before every write;
/// - ACLs, which also means that the umask is applied here;
/// - file handles that survive (NFS).
///
/// Not wanted: throwing away a file's pages when its modification time changes (our own writes change it; opening decides).
const WANTED: [InitFlags; 15] = [
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_EXPORT_SUPPORT,
];

/// How deep file systems may lie upon each other with this one on top: replicas may lie on an overlay. The kernel's limit.
const STACK_DEPTH: u32 = 2;

/// What is wanted on demand only, one of the two at most: the kernel has them exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// The kernel gathers what is written. From then on it believes its own sizes and modification times of files, so that other mounts'
    /// changes of sizes are not seen.
    WritebackCache,
    /// The kernel reads replicas' files on this machine by itself.
    Passthrough,
}

impl Extra {
    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WritebackCache => "writeback-cache",
            Self::Passthrough => "passthrough",
        }
    }

    /// Whether the mount has it.
    pub fn is_on(self, mount: &Mount) -> bool {
        match self {
            Self::WritebackCache => mount.writeback.get().is_some(),
            Self::Passthrough => mount.passthrough.get().is_some(),
        }
    }
}

/// Asks for what is wanted, and tells `mount` whether it has `extra`.
pub fn negotiate(mount: &Mount, extra: Option<Extra>, config: &mut KernelConfig) {
    for wanted in WANTED {
        if let Err(missing) = config.add_capabilities(wanted) {
            tracing::info!(?missing, "the kernel cannot do this");
        }
    }
    // Refused values come with the nearest possible one, which is then taken.
    if let Err(nearest) = config.set_max_write(MAX_IO_BYTES) {
        let _ = config.set_max_write(nearest);
    }
    if let Err(nearest) = config.set_max_readahead(MAX_IO_BYTES) {
        let _ = config.set_max_readahead(nearest);
    }
    if let Err(nearest) = config.set_max_background(MAX_BACKGROUND) {
        let _ = config.set_max_background(nearest);
    }
    let mut can = |wanted| config.add_capabilities(wanted).is_ok();
    // Set here only, once.
    match extra {
        Some(Extra::WritebackCache) if can(InitFlags::FUSE_WRITEBACK_CACHE) => {
            let _ = mount.writeback.set(());
        }
        Some(Extra::Passthrough) if can(InitFlags::FUSE_PASSTHROUGH) => {
            if config.set_max_stack_depth(STACK_DEPTH).is_ok() {
                let _ = mount.passthrough.set(Arc::default());
            }
        }
        Some(_) | None => {}
    }
}
