//! What this machine allows a block file system: the least code that could do the work, with blocking
//! threads, large buffers, no protocol and no metadata. A figure above these is a cached or an
//! unfinished one.
//!
//! * Read, N streams: each sends the file with `sendfile` out of the page cache over its own loopback
//!   connection, and the receiver checks a CRC-32C of every 512 bytes.
//! * Write, chain of R stores, N chains: the client computes CRCs and sends; each store passes the bytes
//!   on, computes their CRCs and writes them to its file (page cache, no sync); the last one acknowledges
//!   through the chain.
//!
//! Everything here blocks: call it from a thread of its own. Files are below a directory that is
//! removed when the [`Limits`] is dropped.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::cpu::own_time;
use super::pattern::{PIECE_BYTES, Pattern};

/// Bytes of one system call.
const BUFFER_BYTES: usize = 1 << 20;

/// Bytes under one CRC.
const CHUNK_BYTES: usize = 512;

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub struct LimitRun {
    /// From the first byte to the last acknowledgement.
    pub elapsed: Duration,
    /// Processor time of this process meanwhile.
    pub cpu: Option<Duration>,
    /// Bytes that all streams moved together.
    pub bytes: u64,
}

/// The files that the limits are measured with.
pub struct Limits {
    dir: PathBuf,
    file: PathBuf,
    file_bytes: u64,
    data: Bytes,
}

impl Limits {
    /// Makes a directory below `parent` with a file of `file_bytes`, rounded up to whole buffers.
    pub fn prepare(parent: &Path, file_bytes: u64, pattern: &Pattern) -> io::Result<Self> {
        let dir = parent.join(format!("dfs-bench-limits-{}", std::process::id()));
        fs::create_dir(&dir).map_err(|e| about(&dir, e))?;
        let limits = Self {
            file: dir.join("file"),
            dir,
            file_bytes: file_bytes.next_multiple_of(BUFFER_BYTES as u64),
            data: pattern.piece(0, 0, PIECE_BYTES),
        };
        let mut file = File::create(&limits.file).map_err(|e| about(&limits.file, e))?;
        for _ in 0..limits.file_bytes / BUFFER_BYTES as u64 {
            file.write_all(&limits.data).map_err(|e| about(&limits.file, e))?;
        }
        file.sync_data().map_err(|e| about(&limits.file, e))?;
        Ok(limits)
    }

    /// Reads the file in `streams` streams at once.
    pub fn read(&self, streams: usize) -> io::Result<LimitRun> {
        let mut pairs = Vec::with_capacity(streams);
        for _ in 0..streams {
            let (sender, receiver) = connection()?;
            pairs.push((File::open(&self.file)?, sender, receiver));
        }
        let bytes = self.file_bytes;
        measure(bytes * streams as u64, || {
            thread::scope(|scope| {
                let mut threads = Vec::with_capacity(2 * streams);
                for (file, sender, receiver) in pairs {
                    threads.push(scope.spawn(move || send_file(&file, &sender, bytes)));
                    threads.push(scope.spawn(move || receive(receiver, bytes)));
                }
                join(threads)
            })
        })
    }

    /// Writes `chains` files at once, each through a chain of `stores` stores, `bytes` in all.
    pub fn write(&self, stores: usize, chains: usize, bytes: u64) -> io::Result<LimitRun> {
        let each = (bytes / chains as u64).next_multiple_of(BUFFER_BYTES as u64);
        let mut clients = Vec::with_capacity(chains);
        let mut members = Vec::with_capacity(chains * stores);
        let mut files = Vec::with_capacity(chains * stores);
        for chain in 0..chains {
            let (client, mut from) = connection()?;
            clients.push(client);
            for store in 0..stores {
                let (to, next) = if store + 1 < stores {
                    let (to, next) = connection()?;
                    (Some(to), Some(next))
                } else {
                    (None, None)
                };
                let path = self.dir.join(format!("store-{chain}-{store}"));
                members.push((from, to, File::create(&path).map_err(|e| about(&path, e))?));
                files.push(path);
                match next {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
        let run = measure(each * chains as u64, || {
            thread::scope(|scope| {
                let mut threads = Vec::with_capacity(members.len() + clients.len());
                for (from, to, file) in members {
                    threads.push(scope.spawn(move || store_and_pass_on(from, to, &file, each)));
                }
                for client in clients {
                    threads.push(scope.spawn(move || send(client, &self.data, each)));
                }
                join(threads)
            })
        });
        for path in files {
            fs::remove_file(&path).map_err(|e| about(&path, e))?;
        }
        run
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            crate::exit::message(format_args!("bench: cannot remove {}: {error}", self.dir.display()));
        }
    }
}

/// Names the file in an error of the operating system.
fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn measure(bytes: u64, work: impl FnOnce() -> io::Result<u32>) -> io::Result<LimitRun> {
    let (cpu, start) = (own_time(), Instant::now());
    let checksum = work()?;
    let elapsed = start.elapsed();
    let cpu = own_time().zip(cpu).map(|(now, then)| now.saturating_sub(then));
    // The checksums are the work: they must not be left out because nobody looks at them.
    std::hint::black_box(checksum);
    Ok(LimitRun { elapsed, cpu, bytes })
}

/// Both ends of a loopback connection.
fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    // Somebody else may connect to the port in between: only our own connection counts.
    loop {
        let (server, peer) = listener.accept()?;
        if peer == client.local_addr()? {
            return Ok((client, server));
        }
    }
}

/// Waits for all threads; the first failure counts.
fn join(threads: Vec<thread::ScopedJoinHandle<'_, io::Result<u32>>>) -> io::Result<u32> {
    let mut sum = Ok(0);
    for thread in threads {
        let one = thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the limits panicked")));
        sum = sum.and_then(|sum| Ok(sum ^ one?));
    }
    sum
}

/// CRC-32C of every chunk, folded into one value.
fn checksums(data: &[u8]) -> u32 {
    data.chunks(CHUNK_BYTES).fold(0, |sum, chunk| sum.rotate_left(1) ^ crc32c::crc32c(chunk))
}

fn send_file(file: &File, to: &TcpStream, bytes: u64) -> io::Result<u32> {
    let mut offset: nix::libc::off_t = 0;
    loop {
        let left = bytes.saturating_sub(u64::try_from(offset).unwrap_or(u64::MAX));
        if left == 0 {
            return Ok(0);
        }
        let count = left.min(BUFFER_BYTES as u64) as usize;
        if nix::sys::sendfile::sendfile(to, file, Some(&mut offset), count)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn receive(mut from: TcpStream, bytes: u64) -> io::Result<u32> {
    let (mut buffer, mut sum, mut left) = (vec![0; BUFFER_BYTES], 0, bytes);
    while left > 0 {
        let part = &mut buffer[..left.min(BUFFER_BYTES as u64) as usize];
        from.read_exact(part)?;
        sum ^= checksums(part);
        left -= part.len() as u64;
    }
    Ok(sum)
}

fn send(mut to: TcpStream, data: &[u8], bytes: u64) -> io::Result<u32> {
    let mut sum = 0;
    for _ in 0..bytes / data.len() as u64 {
        sum ^= checksums(data);
        to.write_all(data)?;
    }
    to.read_exact(&mut [0])?;
    Ok(sum)
}

fn store_and_pass_on(
    mut from: TcpStream,
    mut to: Option<TcpStream>,
    mut file: &File,
    bytes: u64,
) -> io::Result<u32> {
    let (mut buffer, mut sum, mut left) = (vec![0; BUFFER_BYTES], 0, bytes);
    while left > 0 {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let part = &buffer[..count];
        if let Some(to) = &mut to {
            to.write_all(part)?;
        }
        sum ^= checksums(part);
        file.write_all(part)?;
        left = left.saturating_sub(count as u64);
    }
    if let Some(to) = &mut to {
        to.read_exact(&mut [0])?;
    }
    from.write_all(&[1])?;
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE_BYTES: u64 = 3 << 20;

    #[test]
    fn every_byte_is_moved_and_nothing_stays_behind() {
        let parent = tempfile::tempdir().expect("a directory");
        let limits = Limits::prepare(parent.path(), FILE_BYTES - 5, &Pattern::new()).expect("prepares");
        assert_eq!(fs::metadata(&limits.file).expect("the file").len(), FILE_BYTES);
        for streams in [1, 4] {
            let run = limits.read(streams).expect("reads");
            assert_eq!(run.bytes, FILE_BYTES * streams as u64);
            assert!(run.elapsed > Duration::ZERO);
        }
        for (stores, chains) in [(1, 1), (3, 1), (3, 2)] {
            let run = limits.write(stores, chains, 4 << 20).expect("writes");
            assert_eq!(run.bytes, 4 << 20);
        }
        assert_eq!(fs::read_dir(&limits.dir).expect("the directory").count(), 1, "stores are removed");
        drop(limits);
        assert_eq!(fs::read_dir(parent.path()).expect("the directory").count(), 0);
    }

    #[test]
    fn stores_hold_what_was_sent() {
        let parent = tempfile::tempdir().expect("a directory");
        let path = parent.path().join("store");
        let (client, from) = connection().expect("connects");
        let data = Pattern::new().piece(0, 0, PIECE_BYTES);
        let file = File::create(&path).expect("creates");
        thread::scope(|scope| {
            let store = scope.spawn(|| store_and_pass_on(from, None, &file, 2 << 20));
            send(client, &data, 2 << 20).expect("acknowledged");
            store.join().expect("no panic").expect("stored");
        });
        let stored = fs::read(&path).expect("reads");
        assert!(stored.chunks(data.len()).all(|part| part == data) && stored.len() == 2 << 20);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = Limits::prepare(Path::new("/nonexistent/dir"), 1, &Pattern::new()).err().expect("fails");
        assert!(error.to_string().starts_with("/nonexistent/dir/"), "{error}");
    }
}
