//! Reused buffers of packets and of pieces read. The one returned last is used first: it is the warmest.
//!
//! Invariants: a buffer is either idle in the pool or owned by exactly one [`PooledBuffer`]; at most [`MAX_IDLE_BUFFERS`] are idle.
//! A buffer keeps its length and old content, so that neither zeroing nor page faults are paid again.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Idle buffers kept: what one writer with default settings uses at once, and what several readers do. More would
/// only hold memory after a burst.
const MAX_IDLE_BUFFERS: usize = 16;

/// Buffers of one size.
pub(crate) struct BufferPool {
    buffer_bytes: usize,
    idle: Mutex<Vec<Box<[u8]>>>,
}

/// A buffer on loan. Its content is unspecified at first.
pub(crate) struct PooledBuffer {
    data: Box<[u8]>,
    len: usize,
    pool: Arc<BufferPool>,
}

impl BufferPool {
    pub(crate) fn new(buffer_bytes: usize) -> Arc<Self> {
        Arc::new(Self { buffer_bytes, idle: Mutex::default() })
    }

    /// A buffer of `len` bytes. Lengths over the pool's size are allocated and freed each time.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> PooledBuffer {
        let idle = if len <= self.buffer_bytes { self.lock().pop() } else { None };
        let data = idle.unwrap_or_else(|| vec![0; len.max(self.buffer_bytes)].into_boxed_slice());
        PooledBuffer { data, len, pool: Arc::clone(self) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Box<[u8]>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PooledBuffer {
    /// Cuts the buffer to `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Shares the content; the buffer returns to its pool when the last part of it is dropped.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data[..self.len]
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.data[..self.len]
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if self.data.len() == self.pool.buffer_bytes {
            let mut idle = self.pool.lock();
            if idle.len() < MAX_IDLE_BUFFERS {
                idle.push(std::mem::take(&mut self.data));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_when_the_last_share_is_dropped() {
        let pool = BufferPool::new(64);
        let mut buffer = pool.take(10);
        buffer.copy_from_slice(b"0123456789");
        buffer.truncate(8);
        let bytes = buffer.freeze();
        let part = bytes.slice(2..4);
        drop(bytes);
        assert_eq!((part.as_ref(), pool.lock().len()), (&b"23"[..], 0));
        drop(part);
        assert_eq!(pool.lock().len(), 1);
        drop(pool.take(64));
        drop(pool.take(65));
        assert_eq!(pool.lock().len(), 1, "reused once, and odd sizes are not kept");
    }

    #[test]
    fn idle_buffers_are_bounded() {
        let pool = BufferPool::new(8);
        let loans: Vec<_> = (0..MAX_IDLE_BUFFERS + 5).map(|_| pool.take(8)).collect();
        drop(loans);
        assert_eq!(pool.lock().len(), MAX_IDLE_BUFFERS);
    }
}
