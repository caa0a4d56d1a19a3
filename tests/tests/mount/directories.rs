//! Names and directories: large ones, listings while they change, rename flags, odd names.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::{errno, wait_until, with_cluster, with_cluster_within, with_mount, with_mount_within};

use crate::commands::shell;
use crate::sys::rename;

/// Entries of a large directory; `DFS_TEST_ENTRIES=100000` is the size that is promised, and takes minutes in an
/// unoptimised build.
const ENTRIES: usize = 10_000;

/// Longest that a test with a large directory may take.
const LONG: Duration = Duration::from_secs(900);

fn entries() -> usize {
    std::env::var("DFS_TEST_ENTRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(ENTRIES)
}

/// An open directory stream with its positions.
struct Stream(*mut libc::DIR);

impl Stream {
    fn open(path: &Path) -> Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the name ends with NUL.
        let stream = unsafe { libc::opendir(name.as_ptr()) };
        ensure!(!stream.is_null(), "opendir: {}", std::io::Error::last_os_error());
        Ok(Self(stream))
    }

    /// The next name.
    fn next(&mut self) -> Option<Vec<u8>> {
        // SAFETY: the stream is open; the entry is valid until the next call on it and copied at once.
        unsafe {
            let entry = libc::readdir(self.0);
            if entry.is_null() {
                return None;
            }
            Some(std::ffi::CStr::from_ptr((*entry).d_name.as_ptr()).to_bytes().to_vec())
        }
    }

    fn position(&mut self) -> i64 {
        // SAFETY: the stream is open.
        unsafe { libc::telldir(self.0) }
    }

    fn seek(&mut self, position: i64) {
        // SAFETY: the stream is open, and the position came from it.
        unsafe { libc::seekdir(self.0, position) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the stream is open and not used again.
        unsafe { libc::closedir(self.0) };
    }
}

/// Names without `.` and `..`; none may come twice.
fn rest(stream: &mut Stream) -> Result<BTreeSet<Vec<u8>>> {
    let mut names = BTreeSet::new();
    while let Some(name) = stream.next() {
        ensure!(names.insert(name.clone()), "{} is listed twice", String::from_utf8_lossy(&name));
    }
    names.remove(b".".as_slice());
    names.remove(b"..".as_slice());
    Ok(names)
}

#[test]
fn a_large_directory_is_listed_once_each_also_while_it_changes() -> Result<()> {
    with_mount_within(LONG, &[], |place| {
        let count = entries();
        let directory = place.root.join("large");
        fs::create_dir(&directory)?;
        let name = |number: usize| format!("file-{number:07}");
        for number in 0..count {
            fs::File::create(directory.join(name(number)))?;
        }
        let all = rest(&mut Stream::open(&directory)?)?;
        ensure!(all.len() == count, "{} of {count} are listed", all.len());
        let types = fs::read_dir(&directory)?.filter(|entry| {
            entry.as_ref().is_ok_and(|entry| entry.file_type().is_ok_and(|file_type| file_type.is_file()))
        });
        ensure!(types.count() == count);

        // While a listing is half done, what it has shown is removed, and others are made and removed: what was
        // there all the time is still shown exactly once.
        let mut stream = Stream::open(&directory)?;
        let mut shown = BTreeSet::new();
        while shown.len() < count / 2 {
            let name = stream.next().context("the first half")?;
            if !name.starts_with(b".") {
                ensure!(shown.insert(name));
            }
        }
        for name in shown.iter().take(count / 20) {
            fs::remove_file(directory.join(OsStr::from_bytes(name)))?;
        }
        for number in 0..count / 20 {
            fs::File::create(directory.join(format!("a-new-{number}")))?;
            fs::File::create(directory.join(format!("z-new-{number}")))?;
        }
        let position = stream.position();
        let second = rest(&mut stream)?;
        ensure!(second.is_disjoint(&shown), "shown again: {:?}", second.intersection(&shown).next());
        let missing = all.iter().find(|name| !shown.contains(*name) && !second.contains(*name));
        ensure!(missing.is_none(), "never shown: {missing:?}");
        // A position that was told before holds, and so does the beginning.
        stream.seek(position);
        let again: BTreeSet<_> = rest(&mut stream)?.intersection(&all).cloned().collect();
        let before: BTreeSet<_> = second.intersection(&all).cloned().collect();
        ensure!(again == before, "{} and {} after seekdir", again.len(), before.len());

        shell(&place.root, "test $(ls -f large | sort -u | wc -l) -gt 1000; rm -r large; test ! -e large")
            .map(|_| ())
    })
}

/// Names in a directory, asked for in pieces of `bytes`, as another C library might.
fn names_in_pieces(directory: &Path, bytes: usize) -> Result<BTreeSet<Vec<u8>>> {
    /// Bytes of `linux_dirent64` before the name; its own length is at 16.
    const NAME: usize = 19;
    let opened = fs::File::open(directory)?;
    let mut names = BTreeSet::new();
    let mut buffer = vec![0u8; bytes];
    loop {
        // SAFETY: the descriptor is open, and the kernel writes at most so many bytes to the buffer.
        let filled = unsafe {
            libc::syscall(libc::SYS_getdents64, opened.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
        };
        let Ok(filled) = usize::try_from(filled) else { return Err(std::io::Error::last_os_error().into()) };
        if filled == 0 {
            return Ok(names);
        }
        let mut rest = &buffer[..filled];
        while !rest.is_empty() {
            let (entry, behind) = rest.split_at(usize::from(u16::from_ne_bytes([rest[16], rest[17]])));
            let name = entry[NAME..].split(|byte| *byte == 0).next().unwrap_or_default();
            if !name.starts_with(b".") {
                ensure!(names.insert(name.to_vec()), "{} is listed twice", String::from_utf8_lossy(name));
            }
            rest = behind;
        }
    }
}

#[test]
fn a_large_directory_of_another_mount_is_listed_in_pieces_of_any_size() -> Result<()> {
    with_cluster_within(LONG, &[], |cluster| {
        let here = cluster.mount(&[])?;
        fs::create_dir(here.path("d"))?;
        // More than two pages of names, of all lengths.
        let name = |number: usize| format!("{number:06}{}", "x".repeat(number % 250));
        let mut names: BTreeSet<Vec<u8>> = (0..entries().min(9_000)).map(|n| name(n).into_bytes()).collect();
        for name in &names {
            fs::File::create(here.path("d").join(OsStr::from_bytes(name)))?;
        }
        let (there, uncached) = (cluster.mount(&[])?, cluster.mount(&["-o", "cache-ttl=0"])?);
        for (mount, pieces) in [(&there, 4_096), (&there, 100_000), (&there, 2 << 20), (&uncached, 256 << 10)]
        {
            let listed = names_in_pieces(&mount.path("d"), pieces)?;
            ensure!(listed == names, "{} of {} in pieces of {pieces}", listed.len(), names.len());
        }
        // Once it changes, that is seen within the cache time.
        for (at, made) in [("000001x", false), ("999999", true)] {
            match made {
                true => drop(fs::File::create(here.path("d").join(at))?),
                false => fs::remove_file(here.path("d").join(at))?,
            }
            if made {
                names.insert(at.into())
            } else {
                names.remove(at.as_bytes())
            };
            ensure!(names_in_pieces(&uncached.path("d"), 64 << 10)? == names, "{at}, without a cache");
            wait_until("a change is listed", || Ok(names_in_pieces(&there.path("d"), 64 << 10)? == names))?;
        }
        Ok(())
    })
}

#[test]
fn rename_replaces_refuses_or_exchanges_as_asked() -> Result<()> {
    with_mount(&[], |place| {
        let at = |name: &str| place.root.join(name);
        fs::write(at("a"), "a")?;
        fs::write(at("b"), "b")?;
        fs::create_dir(at("d"))?;
        fs::write(at("d/in"), "in")?;
        fs::create_dir(at("e"))?;
        ensure!(errno(rename(&at("a"), &at("b"), libc::RENAME_NOREPLACE))? == libc::EEXIST);
        ensure!(errno(rename(&at("a"), &at("c"), libc::RENAME_EXCHANGE))? == libc::ENOENT);
        let (a, b) = (fs::metadata(at("a"))?.ino(), fs::metadata(at("b"))?.ino());
        rename(&at("a"), &at("b"), libc::RENAME_EXCHANGE)?;
        ensure!(fs::metadata(at("a"))?.ino() == b && fs::metadata(at("b"))?.ino() == a);
        ensure!(fs::read(at("a"))? == b"b" && fs::read(at("b"))? == b"a");
        // A file and a directory, across directories.
        rename(&at("a"), &at("d"), libc::RENAME_EXCHANGE)?;
        ensure!(fs::read(at("a/in"))? == b"in" && fs::read(at("d"))? == b"b");
        rename(&at("a/in"), &at("e"), libc::RENAME_EXCHANGE)?;
        ensure!(fs::metadata(at("a/in"))?.is_dir() && fs::read(at("e"))? == b"in");
        // A directory and what is below it.
        ensure!(errno(rename(&at("a"), &at("a/in"), libc::RENAME_EXCHANGE))? == libc::EINVAL);
        ensure!(errno(rename(&at("a"), &at("a/in/x"), 0))? == libc::EINVAL);
        ensure!(errno(rename(&at("b"), &at("a"), 0))? == libc::EISDIR);
        ensure!(errno(rename(&at("a"), &at("b"), 0))? == libc::ENOTDIR);
        fs::create_dir(at("empty"))?;
        ensure!(errno(rename(&at("empty"), &at("a"), 0))? == libc::ENOTEMPTY);
        rename(&at("a"), &at("empty"), 0)?;
        ensure!(fs::metadata(at("empty/in"))?.is_dir() && !at("a").exists());
        rename(&at("b"), &at("new"), libc::RENAME_NOREPLACE)?;
        ensure!(fs::read(at("new"))? == b"a");
        // Two names of one file: POSIX has rename do nothing.
        fs::hard_link(at("new"), at("same"))?;
        rename(&at("new"), &at("same"), 0)?;
        ensure!(at("new").exists() && at("same").exists());
        // Link counts of directories follow what moves in and out.
        let links = fs::metadata(&place.root)?.nlink();
        fs::create_dir(at("more"))?;
        ensure!(fs::metadata(&place.root)?.nlink() == links + 1);
        rename(&at("more"), &at("empty/more"), 0)?;
        ensure!(fs::metadata(&place.root)?.nlink() == links);
        Ok(())
    })
}

#[test]
fn names_are_any_bytes_of_up_to_255() -> Result<()> {
    with_mount(&[], |place| {
        let mut names: Vec<Vec<u8>> =
            (1..=255u8).filter(|byte| *byte != b'/').map(|byte| vec![b'n', byte]).collect();
        names.extend([vec![0xff, 0xfe], vec![b'x'; 255], "ä".repeat(127).into_bytes(), b"a\nb".to_vec()]);
        let directory = place.root.join("names");
        fs::create_dir(&directory)?;
        let mut expected = BTreeMap::new();
        for name in &names {
            let path = directory.join(OsStr::from_bytes(name));
            fs::write(&path, name)?;
            ensure!(fs::read(&path)? == *name, "{name:?}");
            expected.insert(name.clone(), fs::metadata(&path)?.ino());
        }
        let mut listed = BTreeMap::new();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            listed.insert(entry.file_name().as_bytes().to_vec(), entry.metadata()?.ino());
        }
        ensure!(listed == expected);
        let long = directory.join("x".repeat(256));
        ensure!(errno(fs::write(&long, ""))? == libc::ENAMETOOLONG);
        ensure!(errno(fs::create_dir(&long))? == libc::ENAMETOOLONG);
        for name in &names {
            fs::remove_file(directory.join(OsStr::from_bytes(name)))?;
        }
        fs::remove_dir(&directory)?;
        Ok(())
    })
}

#[test]
fn path_clients_have_a_path_for_every_name() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&[])?;
        fs::create_dir(mount.path("d"))?;
        let odd = mount.path("d").join(OsStr::from_bytes(b"b\xffd"));
        fs::write(&odd, "odd")?;
        fs::write(mount.path("d/good"), "good")?;
        let listed = cluster.dfs(&["ls", "/d"])?.ok()?.text();
        ensure!(listed.contains("/d/good") && listed.contains("/d/b\\xffd"), "{listed}");
        ensure!(cluster.dfs(&["cat", "/d/b\\xffd"])?.ok()?.stdout == b"odd");
        cluster.dfs(&["mv", "/d/b\\xffd", "/d/even"])?.ok()?;
        wait_until("the new name is seen", || Ok(mount.path("d/even").exists() && !odd.exists()))?;
        cluster.dfs(&["rm", "-r", "/d"])?.ok()?;
        wait_until("the removal is seen", || Ok(!mount.path("d").exists()))
    })
}
