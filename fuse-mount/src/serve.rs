//! A mount from its beginning to its end.
//!
//! ```text
//! connect - find the directory - clean up the mount point - mount - [ready] - serve ... unmounted - write everything back
//! ```
//!
//! SIGTERM and SIGINT unmount; a second one does not wait for processes that still use the mount.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, io};

use dfs_client::fs::{Caller, FileSystem, FileSystemConfig, FileType};
use fuser::{Config, Session, SessionACL};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::MountError;
use crate::executed::Whereabouts;
use crate::filesystem::DfsFilesystem;
use crate::mount::Mount;
use crate::options::{Extra, Options};
use crate::passthrough;
use crate::takeover::{self, Mounted, Place};

/// Shortest time between two looks for cached entries that no longer count.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// The kernel reads ahead so much of a file that is read in order; its 128 KiB would be one small read after the other.
const READ_AHEAD_KIB: u32 = 1_024;

/// Mounts and serves until the mount is gone, calling `ready` once it serves, with what should be known of it. With `ready` the kernel already takes requests, which are answered
/// a moment later.
pub fn serve(options: &Options, ready: impl FnOnce(Option<String>)) -> Result<(), MountError> {
    let mountpoint = usable(&options.mountpoint)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("dfs-fuse")
        .build()
        .map_err(|source| MountError::Start { what: "threads", source })?;
    let mount = runtime.block_on(connect(options, &runtime))?;
    if takeover::look(&mountpoint).map_err(|source| at(&mountpoint, source))? == Place::Dead {
        tracing::info!(mountpoint = %mountpoint.display(), "cleaning up the mount point of a process that is gone");
        takeover::detach(&mountpoint).map_err(|source| at(&mountpoint, source))?;
    }
    let extra = options.extra.filter(|extra| *extra != Extra::Passthrough || passthrough::is_permitted());
    let session = Session::new(DfsFilesystem::new(mount.clone(), extra), &mountpoint, &config(options))
        .map_err(|source| MountError::Mount { path: mountpoint.clone(), source })?;
    // Set here only.
    let _ = mount.notifier.set(session.notifier());
    match takeover::mounted_at(&mountpoint) {
        Ok(Some(mounted)) => {
            if let Some(device) = mounted.device_number() {
                // Set here only.
                let _ = mount.place.set(Whereabouts { mountpoint: mountpoint.clone(), device });
            }
            if let Err(error) = read_ahead(&mounted) {
                tracing::info!(%error, "the kernel's read-ahead stays as it is");
            }
        }
        Ok(None) | Err(_) => tracing::warn!("the mount table does not show the mount"),
    }
    let ended = Arc::new(tokio::sync::Notify::new());
    runtime.spawn(sweep(mount.clone()));
    runtime.spawn(end_on_signals(mountpoint.clone(), mount.clone(), ended.clone()));
    tracing::info!(mountpoint = %mountpoint.display(), source = options.source_text(), "mounted");
    let lacking = lacking(options.extra, extra, &mount);
    if let Some(lacking) = &lacking {
        tracing::warn!("{lacking}");
    }
    ready(lacking);
    let served = serve_session(session, &runtime, &ended);
    tracing::info!(mountpoint = %mountpoint.display(), "unmounted");
    let closed = runtime.block_on(async {
        // Releases of files that were closed just before.
        let _ = tokio::time::timeout(options.wait, mount.background.finished()).await;
        mount.fs.clone().close().await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    served.map_err(|source| MountError::Session { path: mountpoint, source })?;
    Ok(closed?)
}

/// What was wanted, and the mount does without.
fn lacking(wanted: Option<Extra>, asked: Option<Extra>, mount: &Mount) -> Option<String> {
    let extra = wanted.filter(|extra| !extra.is_on(mount))?;
    let name = extra.name();
    Some(match asked {
        Some(_) => format!("this kernel has no {name}: mounted without"),
        None => format!("{name} needs CAP_SYS_ADMIN: mounted without"),
    })
}

/// Runs the session on a thread of its own and returns when it ends, or when the process is told to end at once.
fn serve_session(
    session: Session<DfsFilesystem>,
    runtime: &Runtime,
    at_once: &tokio::sync::Notify,
) -> io::Result<()> {
    let (done, ended) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("fuse-session".into()).spawn(move || {
        // Nobody listens when the process ends at once.
        let _ = done.send(session.run());
    })?;
    runtime.block_on(async {
        tokio::select! {
            outcome = ended => outcome.unwrap_or(Ok(())),
            () = at_once.notified() => Ok(()),
        }
    })
}

fn at(mountpoint: &Path, source: io::Error) -> MountError {
    MountError::Mountpoint { path: mountpoint.to_owned(), source }
}

/// The absolute mount point, which must be a directory unless something dead is there.
fn usable(mountpoint: &Path) -> Result<std::path::PathBuf, MountError> {
    let path = takeover::absolute(mountpoint).map_err(|source| at(mountpoint, source))?;
    match fs::metadata(&path) {
        Ok(found) if !found.is_dir() => Err(at(&path, io::ErrorKind::NotADirectory.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(at(&path, error)),
        Ok(_) | Err(_) => Ok(path),
    }
}

async fn connect(options: &Options, runtime: &Runtime) -> Result<Arc<Mount>, MountError> {
    let config = FileSystemConfig {
        user: options.user.clone(),
        memory_bytes: options.library_memory(),
        replication: options.replication,
        block_size: options.block_size,
        wait: options.wait,
        delegations: options.delegations,
        ..FileSystemConfig::of_namenodes(&options.namenode)
    };
    let fs = FileSystem::connect(config).await?;
    let caller = Caller::named(&options.user.clone().unwrap_or_else(own_name));
    let root = fs.resolve(&caller, &options.subdir).await?;
    if root.r#type() != FileType::Directory {
        return Err(MountError::NotADirectory { path: options.subdir.clone() });
    }
    Ok(Arc::new(Mount::new(fs, &root, options, identity(options), runtime.handle().clone())))
}

/// Name of the user who mounts.
fn own_name() -> String {
    let uid = nix::unistd::geteuid();
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => uid.to_string(),
    }
}

fn identity(options: &Options) -> String {
    let pid = std::process::id();
    let start = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| start_ticks(&stat)).unwrap_or(0);
    format!("{pid} {start} {}", options.source_text())
}

/// Start time of a process, which with its number names it for good: field 22, and the name before may hold anything.
fn start_ticks(stat: &str) -> Option<u64> {
    stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(19)?.parse().ok()
}

fn config(options: &Options) -> Config {
    let mut config = Config::default();
    config.mount_options = options.kernel_options(nix::unistd::geteuid().is_root());
    config.acl = if options.allow_other {
        SessionACL::All
    } else if options.allow_root {
        SessionACL::RootAndOwner
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(options.event_loops());
    config.clone_fd = true;
    config
}

/// Raises the kernel's read-ahead of the mount, which root may.
fn read_ahead(mounted: &Mounted) -> io::Result<()> {
    fs::write(format!("/sys/class/bdi/{}/read_ahead_kb", mounted.device), READ_AHEAD_KIB.to_string())
}

async fn sweep(mount: Arc<Mount>) {
    let mut interval = tokio::time::interval(mount.ttl().max(SWEEP_INTERVAL));
    loop {
        interval.tick().await;
        let now = Instant::now();
        mount.attrs.sweep(now);
        mount.directories.sweep(now);
    }
}

async fn end_on_signals(
    mountpoint: std::path::PathBuf,
    mount: Arc<Mount>,
    at_once: Arc<tokio::sync::Notify>,
) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    for again in [false, true] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if again {
            at_once.notify_one();
            return;
        }
        tracing::info!("asked to end: unmounting");
        let place = mountpoint.clone();
        let detached = tokio::task::spawn_blocking(move || takeover::detach(&place)).await;
        if let Ok(Err(error)) = detached {
            tracing::warn!(%error, "cannot unmount");
        }
        // What processes that keep files open have written so far is safe from here on.
        if let Err(error) = mount.fs.sync().await {
            tracing::warn!(%error, "cannot sync");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_behind_a_name_with_anything_in_it() {
        let fields: Vec<String> = (3..=24).map(|field| field.to_string()).collect();
        assert_eq!(start_ticks(&format!("1 (a) b) {}", fields.join(" "))), Some(22));
        assert_eq!(start_ticks("nonsense"), None);
    }

    #[test]
    fn a_mount_point_must_be_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(usable(dir.path()).is_ok());
        let error = usable(&dir.path().join("no")).unwrap_err().to_string();
        assert!(error.ends_with("/no: No such file or directory (os error 2)"), "{error}");
        fs::write(dir.path().join("file"), b"").unwrap();
        assert!(usable(&dir.path().join("file")).is_err());
    }

    #[test]
    fn who_may_use_the_mount() {
        let mut options = Options::new("/mnt".into());
        assert_eq!(config(&options).acl, SessionACL::Owner);
        options.allow_other = true;
        assert_eq!(config(&options).acl, SessionACL::All);
        assert!(config(&options).n_threads.is_some_and(|threads| threads >= 2));
    }
}
