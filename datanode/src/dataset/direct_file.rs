//! A file read from start to end past the page cache: what is verified is what the disk has, and nothing that others
//! read often is pushed out of memory.
//!
//! A file system without direct I/O (tmpfs before Linux 6.6) is read through the page cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::libc::{O_DIRECT, O_NOFOLLOW, O_NONBLOCK};

use crate::piece::Piece;

/// What direct reads are aligned to: no disk has larger sectors.
const ALIGNMENT: u64 = 4096;

/// The file.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    length: u64,
}

/// Memory for parts of a file, used for one file after another.
#[derive(Debug)]
pub struct Window {
    memory: Piece,
    start: u64,
    filled: usize,
}

impl DirectFile {
    /// Opens a regular file; `None`: it is something else.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        // Whatever has taken the file's place must not make the datanode wait or go elsewhere.
        let open = |flags| {
            let flags = flags | O_NOFOLLOW | O_NONBLOCK;
            File::options().read(true).custom_flags(flags).open(path)
        };
        let file = match open(O_DIRECT) {
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => open(0)?,
            other => other?,
        };
        let metadata = file.metadata()?;
        Ok(metadata.is_file().then(|| Self { file, length: metadata.len() }))
    }

    /// Its length when it was opened.
    pub const fn length(&self) -> u64 {
        self.length
    }
}

impl Window {
    /// Memory for parts of up to `len` bytes that begin anywhere.
    pub fn new(len: usize) -> Self {
        let aligned = (len + ALIGNMENT as usize).next_multiple_of(ALIGNMENT as usize);
        Self { memory: Piece::new(aligned), start: 0, filled: 0 }
    }

    /// Forgets what it holds: another file comes next.
    pub const fn clear(&mut self) {
        self.filled = 0;
    }

    /// The bytes of `file` from `offset` on, `len` or as many as there are up to its end; at most what the window was made
    /// for.
    pub fn read(&mut self, file: &DirectFile, offset: u64, len: usize) -> io::Result<&[u8]> {
        let held = self.start..=self.start + self.filled as u64;
        let whole = held.contains(&offset) && offset + len as u64 <= *held.end();
        if self.filled == 0 || !whole {
            self.start = offset - offset % ALIGNMENT;
            self.filled = 0;
            let at_end = file.length.saturating_sub(self.start);
            self.fill(file, at_end)?;
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX).min(self.filled);
        let to = from.saturating_add(len).min(self.filled);
        Ok(&self.memory.bytes()[from..to])
    }

    fn fill(&mut self, file: &DirectFile, up_to: u64) -> io::Result<()> {
        let memory = self.memory.bytes();
        let wanted = usize::try_from(up_to).unwrap_or(usize::MAX).min(memory.len());
        while self.filled < wanted {
            match file.file.read_at(&mut memory[self.filled..], self.start + self.filled as u64) {
                Ok(0) => break,
                Ok(n) => {
                    self.filled += n;
                    if !(n as u64).is_multiple_of(ALIGNMENT) {
                        // The end of the file: a direct read cannot go on from here.
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_files_are_read_wherever_they_begin() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..50_001u32).map(|i| (i / 7) as u8).collect();
        std::fs::write(&path, &content).expect("written");
        let file = DirectFile::open(&path).expect("opens").expect("a file");
        assert_eq!(file.length(), 50_001);
        let mut window = Window::new(10_000);
        for (offset, len) in
            [(0, 10_000), (7, 10_000), (4_096, 1), (9_000, 9_999), (45_000, 10_000), (50_001, 5)]
        {
            let end = (offset + len).min(content.len());
            assert_eq!(
                window.read(&file, offset as u64, len).expect("reads"),
                &content[offset..end],
                "{offset}"
            );
        }
        assert!(DirectFile::open(dir.path()).expect("opens").is_none(), "a directory is no file");
        assert!(DirectFile::open(&dir.path().join("none")).is_err());
    }
}
