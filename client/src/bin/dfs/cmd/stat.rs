//! `dfs stat` and `dfs test`: questions about single nodes.

use clap::Args;
use dfs_client::{ErrorKind, FileKind, FileStatus, escape_name};

use crate::exit::UsageError;
use crate::json::{NodeRow, device_number, kind_letter, kind_word};
use crate::namespace::{self, is_absent};
use crate::output::Out;
use crate::path::RemoteArg;
use crate::session::Session;
use crate::{mode, times};

/// `dfs stat`.
#[derive(Debug, Args)]
pub struct StatArgs {
    /// Format: %a %A mode, %b bytes, %F type, %g group, %h links, %i inode, %n name, %N name and a link's target,
    /// %o block size, %r replication, %t:%T device, %u owner, %x %X access time, %y %Y modification time (UTC, or
    /// milliseconds), %z %Z change time
    #[arg(short = 'c', long = "format", value_name = "FORMAT")]
    format: Option<String>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    /// Paths; a first one with a % is the format
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser(), required = true)]
    paths: Vec<RemoteArg>,
}

/// Format when none is given, as in HDFS.
const DEFAULT_FORMAT: &str = "%y";

/// Prints attributes.
pub async fn stat(session: &Session, out: &mut Out, args: &StatArgs) -> anyhow::Result<()> {
    let (format, paths) = match (&args.format, args.paths.split_first()) {
        (Some(format), _) => (format.as_str(), args.paths.as_slice()),
        (None, Some((first, rest))) if first.as_str().contains('%') => (first.as_str(), rest),
        (None, _) => (DEFAULT_FORMAT, args.paths.as_slice()),
    };
    if paths.is_empty() {
        return Err(UsageError { verb: "stat", problem: "no path given".to_owned() }.into());
    }
    let nodes = namespace::nodes(session, paths).await;
    if args.json {
        let rows: Vec<NodeRow> =
            nodes.iter().map(|node| NodeRow::new(&node.path.absolute, &node.status)).collect();
        out.json(&rows)?;
        return Ok(());
    }
    for node in &nodes {
        out.line(format_args!("{}", formatted(format, node.path.name(), &node.status)))?;
    }
    Ok(())
}

/// Replaces each `%` letter; unknown ones stay as they are.
fn formatted(format: &str, name: &str, status: &FileStatus) -> String {
    let mut text = String::with_capacity(format.len() + 16);
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match rest.next() {
            Some('a') => text.push_str(&format!("{:o}", status.mode)),
            Some('A') => {
                text.push(kind_letter(status.kind));
                text.push_str(&mode::symbolic(status.mode));
            }
            Some('b') => text.push_str(&status.size.to_string()),
            Some('F') if status.kind == FileKind::File => text.push_str("regular file"),
            Some('F') => text.push_str(kind_word(status.kind)),
            Some('g') => text.push_str(&status.group),
            Some('h') => text.push_str(&status.nlink.to_string()),
            Some('i') => text.push_str(&status.inode.to_string()),
            Some('n') => text.push_str(name),
            Some('N') => {
                text.push_str(name);
                if status.kind == FileKind::Symlink {
                    text.push_str(" -> ");
                    text.push_str(&escape_name(&status.symlink));
                }
            }
            Some('o') => text.push_str(&status.block_size.to_string()),
            Some('r') => text.push_str(&status.replication.to_string()),
            Some('t') => text.push_str(&device_number(status).map_or(0, |(major, _)| major).to_string()),
            Some('T') => text.push_str(&device_number(status).map_or(0, |(_, minor)| minor).to_string()),
            Some('u') => text.push_str(&status.owner),
            Some('x') => text.push_str(&times::utc_seconds(status.atime_ns)),
            Some('X') => text.push_str(&times::millis(status.atime_ns).to_string()),
            Some('y') => text.push_str(&times::utc_seconds(status.mtime_ns)),
            Some('Y') => text.push_str(&times::millis(status.mtime_ns).to_string()),
            Some('z') => text.push_str(&times::utc_seconds(status.ctime_ns)),
            Some('Z') => text.push_str(&times::millis(status.ctime_ns).to_string()),
            Some('%') => text.push('%'),
            Some(other) => text.extend(['%', other]),
            None => text.push('%'),
        }
    }
    text
}

/// `dfs test`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("question").required(true))]
pub struct TestArgs {
    /// It exists
    #[arg(short = 'e', group = "question")]
    exists: bool,
    /// It is a directory
    #[arg(short = 'd', group = "question")]
    directory: bool,
    /// It is a file
    #[arg(short = 'f', group = "question")]
    file: bool,
    /// It is not empty
    #[arg(short = 's', group = "question")]
    not_empty: bool,
    /// It is empty
    #[arg(short = 'z', group = "question")]
    empty: bool,
    /// It exists and may be read
    #[arg(short = 'r', group = "question")]
    readable: bool,
    /// It exists and may be written
    #[arg(short = 'w', group = "question")]
    writable: bool,
    /// What to ask about
    #[arg(value_name = "PATH", value_parser = RemoteArg::parser())]
    path: RemoteArg,
}

/// Answers by the exit code: 0 yes, 1 no.
pub async fn test(session: &Session, args: &TestArgs) -> anyhow::Result<()> {
    let path = session.resolve(&args.path);
    let answer = match session.client.stat(&path.absolute).await {
        Ok(status) => {
            if args.directory {
                status.is_dir()
            } else if args.file {
                status.is_file()
            } else if args.not_empty {
                status.size > 0
            } else if args.empty {
                status.size == 0
            } else if args.readable {
                may_read(session, &status).await
            } else if args.writable {
                may_write(session, &status).await
            } else {
                true
            }
        }
        Err(error) if is_absent(&error) => false,
        Err(error) => {
            session.fail(&path, &error);
            false
        }
    };
    if !answer {
        session.set_failed();
    }
    Ok(())
}

/// Asks the namenode by really opening the file or listing the directory.
async fn may_read(session: &Session, status: &FileStatus) -> bool {
    let refused = if status.is_dir() {
        session.client.list_page(&status.path, &[], 1).await.err()
    } else {
        session.client.open(&status.path).await.err()
    };
    match refused {
        None => true,
        Some(error) => {
            if error.kind() != ErrorKind::AccessDenied {
                session.fail_about(&status.path, &error.to_string());
            }
            false
        }
    }
}

/// Judges by the mode: there is no call that asks for write permission without writing. The owner of
/// the root directory is taken for the superuser; groups are those of this host.
async fn may_write(session: &Session, status: &FileStatus) -> bool {
    let user = session.client.user();
    let superuser = session.client.stat("/").await.is_ok_and(|root| root.owner == user);
    let shift = if status.owner == user {
        6
    } else if in_group(user, &status.group) {
        3
    } else {
        0
    };
    superuser || (status.mode >> shift) & 2 != 0
}

fn in_group(user: &str, group: &str) -> bool {
    let (Ok(Some(user)), Ok(Some(group))) =
        (nix::unistd::User::from_name(user), nix::unistd::Group::from_name(group))
    else {
        return false;
    };
    user.gid == group.gid || group.mem.contains(&user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_of_the_format_has_its_value() {
        let status = FileStatus {
            path: "/d/f".into(),
            raw_name: "f".into(),
            inode: 7,
            kind: FileKind::File,
            mode: 0o750,
            owner: "alice".into(),
            group: "users".into(),
            nlink: 1,
            rdev: 0,
            size: 42,
            atime_ns: 1_500_000_000,
            mtime_ns: 61_000_000_000,
            ctime_ns: 0,
            btime_ns: 0,
            block_size: 1024,
            replication: 2,
            change: 0,
            symlink: Default::default(),
            under_construction: false,
        };
        let text = formatted("%b %F %g %n %o %r %u %a %A %X %Y %% %q %", "f", &status);
        assert_eq!(text, "42 regular file users f 1024 2 alice 750 -rwxr-x--- 1500 61000 % %q %");
        assert_eq!(formatted("%x|%y", "f", &status), "1970-01-01 00:00:01|1970-01-01 00:01:01");
        assert_eq!(formatted("%h %i %t:%T", "f", &status), "1 7 0:0");
        let link =
            FileStatus { kind: FileKind::Symlink, symlink: "../\u{e4}".into(), nlink: 2, ..status.clone() };
        assert_eq!(formatted("%N %F %h", "l", &link), "l -> ../\u{e4} symlink 2");
        let disk = FileStatus { kind: FileKind::BlockDevice, rdev: 0x801, ..status };
        assert_eq!(formatted("%A %t:%T", "d", &disk), "brwxr-x--- 8:1");
    }
}
