//! A stream of bytes in guest memory, as a list of pieces for the host's vectored system calls.

use std::marker::PhantomData;

use vm_memory::{GuestMemoryMmap, VolatileSlice};

/// A stream of bytes in guest memory. None of its pieces is empty. When it is emptied and filled again, it uses the memory that
/// it has already allocated.
#[derive(Default)]
pub struct Buffers<'m> {
    /// Each piece is in memory that lives for 'm and to which no Rust reference exists: guest memory, which the guest may write
    /// at any time, or bytes that [`Buffers::of`] has borrowed for 'm exclusively.
    iovecs: Vec<libc::iovec>,
    /// The first piece that is not used up.
    first: usize,
    /// How many bytes the stream still has.
    length: u64,
    memory: PhantomData<(&'m GuestMemoryMmap, &'m mut [u8])>,
}

impl<'m> Buffers<'m> {
    #[inline]
    pub fn clear(&mut self) {
        self.iovecs.clear();
        self.first = 0;
        self.length = 0;
    }

    #[inline]
    pub fn push(&mut self, slice: VolatileSlice<'m>) {
        if slice.is_empty() {
            return;
        }
        self.length += slice.len() as u64;
        let start: *mut libc::c_void = slice.ptr_guard_mut().as_ptr().cast();
        // Pages that follow each other in guest memory become one piece. Both are in the same region: two regions are never
        // adjacent in the host's memory, because machine/memory.rs leaves a gap behind each.
        if let Some(last) = self.iovecs.last_mut()
            && last.iov_base.wrapping_byte_add(last.iov_len) == start
        {
            last.iov_len += slice.len();
            return;
        }
        self.iovecs.push(libc::iovec {
            iov_base: start,
            iov_len: slice.len(),
        });
    }

    /// In bytes.
    #[inline]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The bytes that the stream still has. The guest may read and write them at any time.
    #[inline]
    pub fn iovecs(&self) -> &[libc::iovec] {
        self.iovecs.get(self.first..).unwrap_or_default()
    }

    /// Drops the first `count` bytes, or all if there are fewer.
    #[inline]
    pub fn advance(&mut self, count: u64) {
        let mut left = count.min(self.length);
        self.length -= left;
        while left > 0 {
            let iovec = &mut self.iovecs[self.first];
            let taken = left.min(iovec.iov_len as u64) as usize;
            iovec.iov_base = iovec.iov_base.wrapping_byte_add(taken);
            iovec.iov_len -= taken;
            left -= taken as u64;
            if iovec.iov_len == 0 {
                self.first += 1;
            }
        }
    }

    /// Leaves the first `length` bytes, or all if there are fewer.
    #[inline]
    pub fn truncate(&mut self, length: u64) {
        while self.length > length
            && let Some(last) = self.iovecs.last_mut()
        {
            let surplus = (self.length - length).min(last.iov_len as u64);
            last.iov_len -= surplus as usize;
            self.length -= surplus;
            if last.iov_len == 0 {
                self.iovecs.pop();
            }
        }
    }

    /// Moves the first `count` bytes into a stream of their own.
    pub fn split_to(&mut self, count: u64) -> Self {
        let (mut first, mut left) = (Self::default(), count);
        for slice in self.slices() {
            if left == 0 {
                break;
            }
            let taken = left.min(slice.len() as u64) as usize;
            let Ok(part) = slice.subslice(0, taken) else { break };
            first.push(part);
            left -= taken as u64;
        }
        self.advance(count);
        first
    }

    /// Takes the first `N` bytes; none if there are fewer.
    #[inline]
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.length < N as u64 {
            return None;
        }
        let mut taken = [0; N];
        self.copy_to(&mut taken);
        self.advance(N as u64);
        Some(taken)
    }

    /// Takes the last byte, as a place that can be written.
    #[inline]
    pub fn take_last(&mut self) -> Option<VolatileSlice<'m>> {
        let last = self.iovecs.last_mut().filter(|_| self.length > 0)?;
        last.iov_len -= 1;
        let place = last.iov_base.wrapping_byte_add(last.iov_len);
        if last.iov_len == 0 {
            self.iovecs.pop();
        }
        self.length -= 1;
        // SAFETY: the byte was the last of a piece, which by the field's promise lives for 'm without references to it.
        Some(unsafe { VolatileSlice::new(place.cast(), 1) })
    }

    /// Copies as many bytes as fit into `bytes`, and returns how many these are.
    #[inline]
    pub fn copy_to(&self, bytes: &mut [u8]) -> usize {
        let mut copied = 0;
        for slice in self.slices() {
            if copied == bytes.len() {
                break;
            }
            copied += slice.copy_to(&mut bytes[copied..]);
        }
        copied
    }

    /// Copies as much of `bytes` as fits into the stream, and returns how many bytes these are.
    pub fn copy_from(&self, bytes: &[u8]) -> usize {
        let mut copied = 0;
        for slice in self.slices() {
            let count = slice.len().min(bytes.len() - copied);
            slice.copy_from(&bytes[copied..copied + count]);
            copied += count;
        }
        copied
    }

    /// Whether addresses and lengths of all pieces are multiples of `alignment`, a power of two.
    pub fn are_aligned(&self, alignment: usize) -> bool {
        let bits = self
            .iovecs()
            .iter()
            .fold(0, |bits, iovec| bits | iovec.iov_base as usize | iovec.iov_len);
        bits & (alignment - 1) == 0
    }

    #[inline]
    fn slices(&self) -> impl Iterator<Item = VolatileSlice<'m>> + use<'_, 'm> {
        self.iovecs().iter().map(|iovec| {
            // SAFETY: by the field's promise the piece lives for 'm, and nothing has a reference to it.
            unsafe { VolatileSlice::new(iovec.iov_base.cast(), iovec.iov_len) }
        })
    }

    /// A stream of bytes in this process's own memory, for pieces that had to be copied, and for tests. The bytes are borrowed
    /// until the last use of the result.
    pub fn of(bytes: &'m mut [u8]) -> Self {
        let mut buffers = Self::default();
        buffers.push(VolatileSlice::from(bytes));
        buffers
    }
}

#[cfg(test)]
#[path = "buffers_test.rs"]
mod tests;
