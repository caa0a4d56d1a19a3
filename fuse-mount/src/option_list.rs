//! Options of a mount as mount(8) and fstab write them, behind `-o`.
//!
//! | `-o`                         | meaning                                                                  | default           |
//! |------------------------------|--------------------------------------------------------------------------|-------------------|
//! | `ro`, `rw`                   | read only or not                                                         | `rw`              |
//! | `allow_other`, `allow_root`  | who besides the user who mounts may use the mount                        | nobody            |
//! | `uid=N`, `gid=N`             | show all files as owned by this user or group                            | as they are       |
//! | `namenode=HOST:PORT`         | namenode; several are separated by `;`                                   | 127.0.0.1:9820    |
//! | `subdir=PATH`                | directory of the cluster that is mounted                                 | `/`               |
//! | `cache-ttl=SECONDS`          | how long names and attributes are believed; fractions allowed            | 1                 |
//! | `memory=BYTES`               | bound of buffers and caches; `k`, `m`, `g` may follow                    | 512m              |
//! | `wait=SECONDS`               | how long operations wait for servers that are away                       | 60                |
//! | `log=FILE`                   | log file                                                                 | journal, or a file |
//! | `user=NAME`                  | user in whose name the mount itself asks                                 | the caller        |
//! | `replication=N`, `block-size=BYTES` | for new files                                                     | the cluster's     |
//! | `threads=N`                  | threads that take requests from the kernel                               | four a core, 4 to 16|
//! | `writeback-cache`            | the kernel gathers what is written; other mounts' changes of sizes are not seen | off |
//! | `passthrough`                | the kernel reads files by itself whose only block is on this machine      | off               |
//! | `delegations`, `nodelegations` | whether directories that are changed a lot are delegated to the mount  | delegated         |
//! | `remount`                    | only change the flags of what is mounted there                           |                   |
//! | `dev`, `suid`, `exec`, `atime`, `sync`, `dirsync`, opposites | as for any mount                          | root: dev, suid   |
//!
//! Options that concern mount(8) alone (`defaults`, `noauto`, `user`, `_netdev`, `x-...`) are accepted, and what the mount
//! table shows of a mount, which mount(8) passes on when it remounts.

use std::time::Duration;

use fuser::MountOption;

use crate::kernel_features::Extra;
use crate::options::{OptionError, Options};

/// Least memory: buffers for a few files and caches for some directories.
const MIN_MEMORY: u64 = 32 << 20;
/// Longest time to live that makes sense: others' changes would never be seen.
const MAX_TTL_SECONDS: f64 = 86_400.0;
const MAX_THREADS: usize = 64;
/// Block sizes that can be meant.
const BLOCK_SIZES: std::ops::RangeInclusive<u64> = 4 << 10..=4 << 30;

/// Options that mean something to mount(8) or systemd only.
const FOR_OTHERS: [&str; 19] = [
    "defaults",
    "auto",
    "noauto",
    "user",
    "users",
    "nouser",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "relatime",
    "norelatime",
    "strictatime",
    "diratime",
    "nodiratime",
    "default_permissions",
    "nonempty",
    "iversion",
    "noiversion",
];

impl Options {
    /// Takes over a list as it follows `-o`. A comma in a value is written `\,`.
    pub fn list(&mut self, list: &str) -> Result<(), OptionError> {
        split(list).iter().try_for_each(|option| self.option(option))
    }

    fn option(&mut self, option: &str) -> Result<(), OptionError> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let expected = |expected| OptionError::Value { option: option.to_owned(), expected };
        match (name.replace('-', "_").as_str(), value) {
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            ("remount", None) => self.remount = true,
            ("delegations", None) => self.delegations = true,
            ("nodelegations", None) => self.delegations = false,
            ("allow_other", None) => self.allow_other = true,
            ("allow_root", None) => self.allow_root = true,
            ("uid", Some(id)) => self.uid = Some(id.parse().map_err(|_| expected("a user number"))?),
            ("gid", Some(id)) => self.gid = Some(id.parse().map_err(|_| expected("a group number"))?),
            ("namenode", Some(address)) => {
                let path = std::mem::take(&mut self.subdir);
                let result = self.source(address);
                self.subdir = path;
                result?;
            }
            ("subdir", Some(path)) => self.subdir(path)?,
            ("cache_ttl", Some(text)) => {
                self.cache_ttl = seconds(text).ok_or_else(|| expected("seconds"))?;
            }
            ("wait", Some(text)) => self.wait = seconds(text).ok_or_else(|| expected("seconds"))?,
            ("memory", Some(text)) => {
                self.memory = bytes(text)
                    .filter(|bytes| *bytes >= MIN_MEMORY)
                    .ok_or_else(|| expected("at least 32m"))?;
            }
            ("log", Some(path)) => self.log = Some(path.into()),
            ("user", Some(name)) if !name.is_empty() => self.user = Some(name.to_owned()),
            ("replication", Some(text)) => {
                let valid = text.parse().ok().filter(|count| (1..=512).contains(count));
                self.replication = Some(valid.ok_or_else(|| expected("1 to 512"))?);
            }
            ("block_size", Some(text)) => {
                // The cluster's own limits are narrower, and a setting of it.
                let valid = bytes(text).filter(|size| BLOCK_SIZES.contains(size));
                self.block_size = Some(valid.ok_or_else(|| expected("4k to 4g"))?);
            }
            ("threads", Some(text)) => {
                let valid = text.parse().ok().filter(|count| (1..=MAX_THREADS).contains(count));
                self.threads = Some(valid.ok_or_else(|| expected("1 to 64"))?);
            }
            ("writeback_cache", None) => self.extra(Extra::WritebackCache)?,
            ("passthrough", None) => self.extra(Extra::Passthrough)?,
            ("fsname" | "subtype" | "comment" | "context" | "max_read" | "blksize", Some(_)) => {}
            ("user_id" | "group_id" | "rootmode" | "fd", Some(_)) => {}
            (_, None) if FOR_OTHERS.contains(&name) => {}
            _ if name.starts_with("x-") || name.starts_with("X-") => {}
            (_, None) => match flag(name) {
                Some(flag) => self.flag(flag),
                None => return Err(OptionError::Unknown { option: option.to_owned() }),
            },
            (_, Some(_)) => return Err(OptionError::Unknown { option: option.to_owned() }),
        }
        Ok(())
    }

    fn extra(&mut self, extra: Extra) -> Result<(), OptionError> {
        match self.extra.replace(extra).filter(|other| *other != extra) {
            Some(other) => Err(OptionError::Conflict { option: extra.name(), other: other.name() }),
            None => Ok(()),
        }
    }

    /// Adds a flag; of opposites, the last one counts, as in mount(8).
    fn flag(&mut self, flag: MountOption) {
        let opposite = opposite(&flag);
        self.flags.retain(|other| *other != flag && Some(other) != opposite.as_ref());
        self.flags.push(flag);
    }
}

fn flag(name: &str) -> Option<MountOption> {
    Some(match name {
        "dev" => MountOption::Dev,
        "nodev" => MountOption::NoDev,
        "suid" => MountOption::Suid,
        "nosuid" => MountOption::NoSuid,
        "exec" => MountOption::Exec,
        "noexec" => MountOption::NoExec,
        "atime" => MountOption::Atime,
        "noatime" => MountOption::NoAtime,
        "sync" => MountOption::Sync,
        "async" => MountOption::Async,
        "dirsync" => MountOption::DirSync,
        _ => return None,
    })
}

fn opposite(flag: &MountOption) -> Option<MountOption> {
    Some(match flag {
        MountOption::Dev => MountOption::NoDev,
        MountOption::NoDev => MountOption::Dev,
        MountOption::Suid => MountOption::NoSuid,
        MountOption::NoSuid => MountOption::Suid,
        MountOption::Exec => MountOption::NoExec,
        MountOption::NoExec => MountOption::Exec,
        MountOption::Atime => MountOption::NoAtime,
        MountOption::NoAtime => MountOption::Atime,
        MountOption::Sync => MountOption::Async,
        MountOption::Async => MountOption::Sync,
        _ => return None,
    })
}

/// Splits at commas that are not escaped.
fn split(list: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let mut chars = list.chars();
    while let Some(c) = chars.next() {
        let last = options.len() - 1;
        match c {
            ',' => options.push(String::new()),
            '\\' => options[last].extend(chars.next()),
            c => options[last].push(c),
        }
    }
    options.retain(|option| !option.is_empty());
    options
}

/// Seconds with a fraction.
pub fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.strip_suffix('s').unwrap_or(text).parse().ok()?;
    (0.0..=MAX_TTL_SECONDS).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// Bytes with a unit.
pub fn bytes(text: &str) -> Option<u64> {
    let (digits, unit) = match text.bytes().last()?.to_ascii_lowercase() {
        b'k' => (&text[..text.len() - 1], 1 << 10),
        b'm' => (&text[..text.len() - 1], 1 << 20),
        b'g' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(list: &str) -> Result<Options, OptionError> {
        let mut options = Options::new("/mnt".into());
        options.list(list).map(|()| options)
    }

    #[test]
    fn an_fstab_line() {
        let mut options = parsed(
            "rw,allow_other,uid=7,gid=8,cache-ttl=2.5,memory=64m,wait=5,nosuid,nodev,noauto,_netdev,x-systemd.automount,user,dev",
        )
        .unwrap();
        options.source("nn1:9820;nn2:9820/data/").unwrap();
        assert_eq!((options.namenode.as_str(), options.subdir.as_str()), ("nn1:9820,nn2:9820", "/data"));
        assert_eq!((options.uid, options.gid, options.allow_other), (Some(7), Some(8), true));
        assert_eq!((options.cache_ttl, options.memory), (Duration::from_millis(2500), 64 << 20));
        assert_eq!(options.flags, [MountOption::NoSuid, MountOption::Dev], "of opposites the last");
        assert_eq!(options.source_text(), "nn1:9820;nn2:9820/data");
    }

    #[test]
    fn either_spelling_and_escaped_commas() {
        assert_eq!(parsed("cache_ttl=0").unwrap().cache_ttl, Duration::ZERO);
        let options = parsed(r"log=/var/log/a\,b.log,ro,namenode=h:1,subdir=/x/y").unwrap();
        assert_eq!(options.log, Some("/var/log/a,b.log".into()));
        assert_eq!((options.read_only, options.namenode.as_str()), (true, "h:1"));
        assert_eq!(options.subdir, "/x/y");
        assert!(!parsed("nodelegations").unwrap().delegations);
        assert_eq!(parsed("nodelegations,delegations").unwrap(), Options::new("/mnt".into()));
        assert_eq!(parsed("").unwrap(), Options::new("/mnt".into()));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (list, named) in [
            ("bongos", "bongos"),
            ("uid=ann", "uid=ann"),
            ("uid", "uid"),
            ("memory=1m", "memory=1m"),
            ("cache-ttl=-1", "cache-ttl=-1"),
            ("cache-ttl=nan", "cache-ttl=nan"),
            ("replication=0", "replication=0"),
            ("block-size=5", "block-size=5"),
            ("threads=0", "threads=0"),
            ("subdir=a", "a"),
            ("subdir=/a/../b", "/a/../b"),
            ("namenode=h", "h"),
            ("ro=1", "ro=1"),
            ("passthrough=1", "passthrough=1"),
            ("nodelegations=1", "nodelegations=1"),
            ("passthrough,writeback-cache", "writeback-cache"),
        ] {
            let error = parsed(list).expect_err(list).to_string();
            assert!(error.starts_with(&format!("{named}: ")), "{error}");
        }
    }
}
