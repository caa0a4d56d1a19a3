//! Page-aligned memory: for data on its way between sockets and files, and for direct I/O.

const PAGE_BYTES: usize = 4096;

/// Page-aligned memory.
#[derive(Debug)]
pub struct Piece {
    raw: Vec<u8>,
    offset: usize,
    len: usize,
}

impl Piece {
    /// Allocates `len` bytes; the system hands out the pages when they are touched.
    pub fn new(len: usize) -> Self {
        let raw = vec![0u8; len + PAGE_BYTES];
        let offset = raw.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        Self { raw, offset, len }
    }

    /// Its size.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memory.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.raw[self.offset..self.offset + self.len]
    }
}
