//! The buffers of a request. The guest may change them at any time, so no Rust reference to them is ever made.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::VolatileSlice;

/// How many buffers one system call gets.
const BATCH: usize = 64;

/// The rest of a request's buffers.
pub struct Cursor<'a> {
    buffers: &'a [libc::iovec],
    /// How many bytes of the first buffer are used up.
    done: usize,
}

impl<'a> Cursor<'a> {
    /// # Safety
    /// Every buffer is memory that stays mapped as long as the cursor lives, readable, and writable if it is read into.
    /// Others may change its contents meanwhile.
    pub unsafe fn new(buffers: &'a [libc::iovec]) -> Self {
        Self { buffers, done: 0 }
    }

    pub fn left(&self) -> u64 {
        let whole: u64 = self.buffers.iter().map(|buffer| buffer.iov_len as u64).sum();
        whole - self.done as u64
    }

    pub fn advance(&mut self, mut length: u64) {
        while let Some(first) = self.buffers.first() {
            let left = (first.iov_len - self.done) as u64;
            if length < left {
                self.done += length as usize;
                return;
            }
            length -= left;
            self.done = 0;
            self.buffers = &self.buffers[1..];
        }
    }

    /// Reads up to `limit` bytes at `offset`, without advancing.
    pub fn preadv(&self, file: &File, limit: u64, offset: u64) -> io::Result<u64> {
        self.call(limit, offset, |iovecs, count, offset| {
            // SAFETY: the iovecs are parts of live, writable buffers (`new`). Other writers do no harm to the kernel.
            unsafe { libc::preadv(file.as_raw_fd(), iovecs, count, offset) }
        })
    }

    /// Writes up to `limit` bytes at `offset`, without advancing.
    pub fn pwritev(&self, file: &File, limit: u64, offset: u64) -> io::Result<u64> {
        self.call(limit, offset, |iovecs, count, offset| {
            // SAFETY: the iovecs are parts of live buffers (`new`), and the kernel only reads them.
            unsafe { libc::pwritev2(file.as_raw_fd(), iovecs, count, offset, 0) }
        })
    }

    fn call(
        &self,
        limit: u64,
        offset: u64,
        call: impl Fn(*const libc::iovec, i32, i64) -> isize,
    ) -> io::Result<u64> {
        let offset = i64::try_from(offset).map_err(io::Error::other)?;
        let mut batch = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; BATCH];
        let mut count = 0;
        for (slot, piece) in batch.iter_mut().zip(self.pieces(limit)) {
            *slot = piece;
            count += 1;
        }
        loop {
            match call(batch.as_ptr(), count, offset) {
                moved if moved >= 0 => return Ok(moved as u64),
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
    }

    /// Zeroes the next `length` bytes and advances past them.
    pub fn fill_with_zeroes(&mut self, length: u64) {
        static ZEROES: [u8; 4096] = [0; 4096];
        for slice in self.volatile(length) {
            for offset in (0..slice.len()).step_by(ZEROES.len()) {
                let rest = slice.len() - offset;
                let part = slice.subslice(offset, rest.min(ZEROES.len()));
                if let Ok(part) = part {
                    part.copy_from(&ZEROES[..]);
                }
            }
        }
        self.advance(length);
    }

    /// Copies `data` into the buffers and advances past it.
    pub fn put(&mut self, data: &[u8]) {
        let mut rest = data;
        for slice in self.volatile(data.len() as u64) {
            let (part, after) = rest.split_at(slice.len());
            slice.copy_from(part);
            rest = after;
        }
        self.advance(data.len() as u64);
    }

    fn volatile(&self, length: u64) -> impl Iterator<Item = VolatileSlice<'a>> {
        self.pieces(length).map(|piece| {
            // SAFETY: a part of a live, writable buffer (`new`).
            unsafe { VolatileSlice::new(piece.iov_base.cast(), piece.iov_len) }
        })
    }

    /// The next `length` bytes, as parts of the buffers.
    fn pieces(&self, length: u64) -> impl Iterator<Item = libc::iovec> + use<'a> {
        let (mut done, mut left) = (self.done, length);
        self.buffers.iter().map_while(move |buffer| {
            let offset = std::mem::take(&mut done);
            let piece = libc::iovec {
                iov_base: buffer.iov_base.wrapping_byte_add(offset),
                iov_len: (buffer.iov_len - offset).min(usize::try_from(left).unwrap_or(usize::MAX)),
            };
            if left == 0 {
                return None;
            }
            left -= piece.iov_len as u64;
            Some(piece)
        })
    }
}
