//! Buffers that are used again and again.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::ByteBudget;

/// Bytes read at once while few are reading. Measured: half as much costs half as much processor time again,
/// twice as much gains nothing.
const LARGE_PIECE_BYTES: usize = 256 << 10;

/// Bytes read at once while many are reading, so that all of them fit into the budget.
const SMALL_PIECE_BYTES: usize = 64 << 10;

/// Pieces of one stream in memory: one that is being sent, one that waits for it, one that is being read.
pub(crate) const WINDOW_PIECES: u64 = 3;

/// Free buffers that are kept. More are in use at times; those are given back to the allocator.
const KEPT_BUFFERS: usize = 48;

/// Buffers for pieces of both sizes.
#[derive(Clone, Debug)]
pub(crate) struct Buffers {
    large: BufferPool,
    small: BufferPool,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        let (large, small) =
            (BufferPool::new(LARGE_PIECE_BYTES), BufferPool::new(SMALL_PIECE_BYTES));
        Self { large, small }
    }

    /// Large pieces while they leave half of the budget free.
    pub(crate) fn for_stream(&self, budget: &ByteBudget) -> &BufferPool {
        let window_bytes = WINDOW_PIECES * self.large.buffer_bytes() as u64;
        let is_roomy = budget.free_bytes() >= budget.total_bytes() / 2 + window_bytes;
        if is_roomy { &self.large } else { &self.small }
    }
}

/// Buffers of one size. Using them again saves the kernel clearing fresh pages for every read, and keeps
/// the memory of the process where the readers' budget says it is. Cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct BufferPool {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    buffer_bytes: usize,
}

impl BufferPool {
    pub(crate) fn new(buffer_bytes: usize) -> Self {
        Self { free: Arc::default(), buffer_bytes }
    }

    /// Length of a buffer.
    pub(crate) const fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// Has `fill` write up to `length` bytes, at most a buffer's size, and hands them out without a copy.
    pub(crate) fn filled<E>(
        &self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Bytes, E> {
        let kept = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = kept.unwrap_or_else(|| vec![0; self.buffer_bytes]);
        let mut buffer =
            Buffer { bytes, length: length.min(self.buffer_bytes), pool: self.clone() };
        fill(&mut buffer.bytes[..buffer.length])?;
        Ok(Bytes::from_owner(buffer))
    }
}

/// A buffer on loan.
struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    pool: BufferPool,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT_BUFFERS {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_is_given_back_is_lent_again() {
        let pool = BufferPool::new(8);
        let fill = |value: u8| {
            move |bytes: &mut [u8]| {
                bytes.fill(value);
                Ok::<_, std::convert::Infallible>(())
            }
        };
        let first = pool.filled(5, fill(1)).unwrap();
        let address = first.as_ptr();
        let rest = first.slice(2..);
        drop(first);
        let second = pool.filled(8, fill(2)).unwrap();
        assert_ne!(second.as_ptr(), address, "a slice still uses the first buffer");
        assert_eq!(rest, [1; 3].as_slice());
        drop((rest, second));
        let third = pool.filled(3, fill(3)).unwrap();
        assert_eq!(third, [3; 3].as_slice());
        assert_eq!(pool.free.lock().unwrap().len(), 1);
    }
}
