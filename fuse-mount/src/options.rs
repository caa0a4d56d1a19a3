//! What is mounted where and how. How it is written is in `option_list`.

use std::path::PathBuf;
use std::time::Duration;

use fuser::MountOption;

pub use crate::kernel_features::Extra;

/// Address used when nothing names one.
pub const DEFAULT_NAMENODE: &str = "127.0.0.1:9820";
/// Type under which the mount is listed, `fuse.dfs`.
pub const SUBTYPE: &str = "dfs";

/// With 16 processes that make files on two cores: 190 us of the mount's CPU a file with one loop a core, 155 with two, 130 with four.
const LOOPS_A_CORE: usize = 4;
const DEFAULT_TTL: Duration = Duration::from_secs(1);
const DEFAULT_WAIT: Duration = Duration::from_secs(60);
const DEFAULT_MEMORY: u64 = 512 << 20;
/// What is mounted where and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Namenodes as `host:port`, separated by commas.
    pub namenode: String,
    /// Directory of the cluster that is mounted, absolute.
    pub subdir: String,
    /// Where.
    pub mountpoint: PathBuf,
    /// No changes.
    pub read_only: bool,
    /// Everybody may use the mount.
    pub allow_other: bool,
    /// Root may use the mount.
    pub allow_root: bool,
    /// All files are shown as owned by this user.
    pub uid: Option<u32>,
    /// All files are shown as owned by this group.
    pub gid: Option<u32>,
    /// How long names and attributes are believed.
    pub cache_ttl: Duration,
    /// Bound of buffers and caches in bytes.
    pub memory: u64,
    /// How long operations wait for servers that are away.
    pub wait: Duration,
    /// Log file.
    pub log: Option<PathBuf>,
    /// User in whose name the mount itself asks.
    pub user: Option<String>,
    /// Replication of new files.
    pub replication: Option<u16>,
    /// Block size of new files in bytes.
    pub block_size: Option<u64>,
    /// Threads that take requests from the kernel.
    pub threads: Option<usize>,
    /// Directories that are changed a lot are delegated to the mount.
    pub delegations: bool,
    /// What the kernel is asked for besides the usual.
    pub extra: Option<Extra>,
    /// Flags for the kernel, such as `nosuid`.
    pub flags: Vec<MountOption>,
    /// Only change the flags of what is mounted there.
    pub remount: bool,
}

/// An option that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Not known here.
    #[error("{option}: unknown mount option")]
    Unknown {
        /// As written.
        option: String,
    },
    /// Known, with a value that makes no sense.
    #[error("{option}: {expected} expected")]
    Value {
        /// As written.
        option: String,
        /// What would make sense.
        expected: &'static str,
    },
    /// Two that exclude each other.
    #[error("{option}: cannot be had together with {other}")]
    Conflict {
        /// One.
        option: &'static str,
        /// The other.
        other: &'static str,
    },
    /// The source is not `HOST:PORT[/PATH]`.
    #[error("{source_text}: not of the form HOST:PORT[/PATH]")]
    Source {
        /// As written.
        source_text: String,
    },
    /// A path that is not absolute or has '.', '..' or empty parts.
    #[error("{path}: not an absolute path in the cluster")]
    Subdir {
        /// As written.
        path: String,
    },
}

impl Options {
    /// Defaults for a mount at `mountpoint`.
    pub fn new(mountpoint: PathBuf) -> Self {
        Self {
            namenode: DEFAULT_NAMENODE.to_owned(),
            subdir: "/".to_owned(),
            mountpoint,
            read_only: false,
            allow_other: false,
            allow_root: false,
            uid: None,
            gid: None,
            cache_ttl: DEFAULT_TTL,
            memory: DEFAULT_MEMORY,
            wait: DEFAULT_WAIT,
            log: None,
            user: None,
            replication: None,
            block_size: None,
            threads: None,
            delegations: true,
            extra: None,
            flags: Vec::new(),
            remount: false,
        }
    }

    /// Takes over the source of a mount: `HOST:PORT`, `HOST:PORT/PATH`, or a word without meaning such as `dfs`.
    pub fn source(&mut self, source: &str) -> Result<(), OptionError> {
        let source = source.strip_prefix("dfs://").unwrap_or(source);
        let (address, path) = match source.find('/') {
            Some(at) => source.split_at(at),
            None => (source, ""),
        };
        if source.is_empty() || source == SUBTYPE || source == "none" {
            return Ok(());
        }
        let valid = |address: &str| {
            address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        let addresses = address.replace(';', ",");
        if !addresses.split(',').all(valid) {
            return Err(OptionError::Source { source_text: source.to_owned() });
        }
        self.namenode = addresses;
        if path.len() > 1 { self.subdir(path) } else { Ok(()) }
    }

    /// Mounts this directory of the cluster.
    pub fn subdir(&mut self, path: &str) -> Result<(), OptionError> {
        let trimmed = path.trim_end_matches('/');
        let bad = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains('\0');
        if !path.starts_with('/') || (!trimmed.is_empty() && trimmed[1..].split('/').any(bad)) {
            return Err(OptionError::Subdir { path: path.to_owned() });
        }
        self.subdir = if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() };
        Ok(())
    }

    /// What mount tables show as the source.
    pub fn source_text(&self) -> String {
        let path = if self.subdir == "/" { "" } else { &self.subdir };
        // Commas separate options where fusermount3 is told the name.
        format!("{}{path}", self.namenode.replace(',', ";")).replace(',', "\\,")
    }

    /// Options for the kernel, for a mount by root or by an ordinary user.
    pub fn kernel_options(&self, root: bool) -> Vec<MountOption> {
        let mut options = vec![
            MountOption::FSName(self.source_text()),
            MountOption::CUSTOM(format!("subtype={SUBTYPE}")),
            MountOption::DefaultPermissions,
            if self.read_only { MountOption::RO } else { MountOption::RW },
        ];
        options.extend(self.flags.iter().cloned());
        // As libfuse: what root mounts has devices and set-user-id programs unless they are excluded.
        for (flag, opposite) in
            [(MountOption::Dev, MountOption::NoDev), (MountOption::Suid, MountOption::NoSuid)]
        {
            if root && !options.contains(&flag) && !options.contains(&opposite) {
                options.push(flag);
            }
        }
        options
    }

    /// Event loop threads. Most of them wait for an answer at a time when many processes are at work; with fewer, more operations
    /// cost a change of threads. Each may have touched a buffer of 1 MiB.
    pub fn event_loops(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or((LOOPS_A_CORE * cores).clamp(4, 16))
    }

    /// The library's share of the memory: data not written back yet and data read ahead. The other half is for the caches of
    /// names and attributes, which need it in the largest directories only, and for requests under way.
    pub fn library_memory(&self) -> usize {
        usize::try_from(self.memory / 2).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        let source = |text: &str| {
            let mut options = Options::new("/mnt".into());
            options.source(text).map(|()| format!("{} {}", options.namenode, options.subdir))
        };
        assert_eq!(source("nn:1").unwrap(), "nn:1 /");
        assert_eq!(source("nn:1/").unwrap(), "nn:1 /");
        assert_eq!(source("dfs://nn:1/a/b").unwrap(), "nn:1 /a/b");
        assert_eq!(source("dfs").unwrap(), "127.0.0.1:9820 /");
        assert!(source("nn").is_err() && source(":1").is_err() && source("nn:x/a").is_err());
        assert!(source("nn:1//a").is_err());
    }

    #[test]
    fn root_gets_devices_unless_excluded() {
        let plain = Options::new("/mnt".into());
        assert!(plain.kernel_options(true).contains(&MountOption::Dev));
        assert!(!plain.kernel_options(false).contains(&MountOption::Dev));
        let mut careful = Options::new("/mnt".into());
        careful.list("nodev,nosuid").unwrap();
        let careful = careful.kernel_options(true);
        assert!(!careful.contains(&MountOption::Dev) && !careful.contains(&MountOption::Suid));
        assert!(careful.contains(&MountOption::DefaultPermissions));
    }

    #[test]
    fn the_memory_is_divided() {
        assert_eq!(Options::new("/mnt".into()).library_memory(), 256 << 20);
    }
}
