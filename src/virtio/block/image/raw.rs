//! A raw image: a file or a block device of the host that has the disk's bytes and nothing else.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;

use super::geometry::Direct;
use super::lock::Locked;
use crate::virtio::buffers::Buffers;

/// How many bytes are copied at a time where the guest's buffers are not aligned as direct I/O demands.
const PIECE: usize = 256 << 10;

/// An open raw image.
pub struct Raw {
    file: Locked,
    /// What direct I/O demands, if the file is open for it.
    direct: Option<Direct>,
    is_block_device: bool,
}

impl Raw {
    pub fn new(file: impl Into<Locked>, direct: Option<Direct>, is_block_device: bool) -> Self {
        Self {
            file: file.into(),
            direct,
            is_block_device,
        }
    }

    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Whether reads and writes bypass the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Whether the host's kernel accepts `buffers` as they are aligned.
    #[inline]
    pub fn takes(&self, buffers: &Buffers) -> bool {
        self.direct
            .is_none_or(|direct| buffers.are_aligned(direct.memory_alignment))
    }

    /// Fills `buffers` from `offset` on.
    #[inline]
    pub fn read(&self, buffers: &mut Buffers, offset: u64) -> io::Result<()> {
        if self.takes(buffers) {
            return self.read_straight(buffers, offset);
        }
        let mut piece = self.piece();
        self.in_pieces(buffers, offset, |buffers, length, offset| {
            let bytes = piece.first(length);
            self.read_straight(&mut Buffers::of(bytes), offset)?;
            buffers.copy_from(bytes);
            Ok(())
        })
    }

    /// Writes all of `buffers` from `offset` on. With `durable`, the data is durable when this returns.
    pub fn write(&self, buffers: &mut Buffers, offset: u64, durable: bool) -> io::Result<()> {
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        if self.takes(buffers) {
            return self.write_straight(buffers, offset, flags);
        }
        let mut piece = self.piece();
        self.in_pieces(buffers, offset, |buffers, length, offset| {
            let bytes = piece.first(length);
            buffers.copy_to(bytes);
            self.write_straight(&mut Buffers::of(bytes), offset, flags)
        })
    }

    /// Makes all completed writes durable.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Frees the host's space behind the range. A file system that cannot do that keeps it, which is no error.
    pub fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let result = match self.is_block_device {
            true => self.discard_blocks(offset, length),
            false => self.fallocate(PUNCH_HOLE, offset, length),
        };
        match result {
            Err(error) if is_unsupported(&error) => Ok(()),
            result => result,
        }
    }

    /// Makes a range of a file a hole, which reads as zeroes. The answer is whether the file system can do that.
    pub fn punch_hole(&self, offset: u64, length: u64) -> io::Result<bool> {
        match self.fallocate(PUNCH_HOLE, offset, length) {
            Err(error) if is_unsupported(&error) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// How many bytes the file takes up on the host.
    pub fn space(&self) -> io::Result<u64> {
        // stat(2) counts in units of 512 bytes, whatever the file system's block size is.
        self.file
            .metadata()
            .map(|metadata| metadata.blocks().saturating_mul(512))
    }

    /// Whether no byte of `range` is in a hole of the file.
    pub fn has_no_hole(&self, range: &Range<u64>) -> bool {
        let Ok(start) = signed(range.start) else {
            return false;
        };
        // SAFETY: no memory is passed on. Nothing reads or writes at the file's own position.
        let hole = unsafe { libc::lseek(self.fd(), start, libc::SEEK_HOLE) };
        u64::try_from(hole).is_ok_and(|hole| hole >= range.end)
    }

    /// Makes the range read as zeroes.
    pub fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> io::Result<()> {
        match self.fallocate(zeroing_mode(may_unmap), offset, length) {
            Err(error) if is_unsupported(&error) => self.write_zero_bytes(offset, length),
            result => result,
        }
    }

    /// Writes zeroes, for hosts that have no call for it.
    pub fn write_zero_bytes(&self, mut offset: u64, mut length: u64) -> io::Result<()> {
        let mut piece = self.piece();
        piece.first(PIECE).fill(0);
        while length > 0 {
            let bytes = piece.first(length.min(PIECE as u64) as usize);
            let count = bytes.len() as u64;
            self.write_straight(&mut Buffers::of(bytes), offset, 0)?;
            offset += count;
            length -= count;
        }
        Ok(())
    }

    /// Whether [`Raw::discard`] and [`Raw::write_zeroes`] begin with a call of fallocate(2), so that an engine can make
    /// that call in its own way.
    pub fn takes_fallocate(&self) -> bool {
        !self.is_block_device
    }

    #[inline]
    fn read_straight(&self, buffers: &mut Buffers, offset: u64) -> io::Result<()> {
        transfer(buffers, offset, io::ErrorKind::UnexpectedEof, |iovecs, offset| {
            // SAFETY: `transfer` passes iovecs of live memory, which any writer may change at any time.
            unsafe {
                match iovecs {
                    // For a single buffer this call is cheaper.
                    [one] => libc::pread(self.fd(), one.iov_base, one.iov_len, offset),
                    more => libc::preadv(self.fd(), more.as_ptr(), more.len() as i32, offset),
                }
            }
        })
    }

    fn write_straight(&self, buffers: &mut Buffers, offset: u64, flags: i32) -> io::Result<()> {
        transfer(buffers, offset, io::ErrorKind::WriteZero, |iovecs, offset| {
            // SAFETY: `transfer` passes iovecs of live memory, which the kernel only reads.
            unsafe {
                match iovecs {
                    [one] if flags == 0 => libc::pwrite(self.fd(), one.iov_base, one.iov_len, offset),
                    more => libc::pwritev2(self.fd(), more.as_ptr(), more.len() as i32, offset, flags),
                }
            }
        })
    }

    fn fallocate(&self, mode: i32, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let (offset, length) = (signed(offset)?, signed(length)?);
        // SAFETY: no memory is passed on.
        check(unsafe { libc::fallocate(self.fd(), mode, offset, length) })
    }

    fn discard_blocks(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let range = [offset, length];
        // SAFETY: BLKDISCARD reads two u64, which live beyond the call.
        check(unsafe { libc::ioctl(self.fd(), BLKDISCARD, range.as_ptr()) })
    }

    fn piece(&self) -> Piece {
        Piece::new(self.direct.map_or(1, |direct| direct.memory_alignment))
    }

    /// Calls `each` for one piece of `buffers` after the other, in order.
    fn in_pieces(
        &self,
        buffers: &mut Buffers,
        mut offset: u64,
        mut each: impl FnMut(&mut Buffers, usize, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        while buffers.length() > 0 {
            let length = buffers.length().min(PIECE as u64);
            each(buffers, length as usize, offset)?;
            buffers.advance(length);
            offset += length;
        }
        Ok(())
    }
}

/// linux/fs.h: `_IO(0x12, 119)`.
const BLKDISCARD: libc::c_ulong = 0x1277;
pub const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// The mode with which fallocate(2) makes a range read as zeroes.
pub fn zeroing_mode(may_unmap: bool) -> i32 {
    match may_unmap {
        true => PUNCH_HOLE,
        false => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
    }
}

/// Whether the error means that the host has no such operation for this file.
pub fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::ENODEV)
    )
}

fn check(result: i32) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn signed(number: u64) -> io::Result<i64> {
    i64::try_from(number).map_err(io::Error::other)
}

/// Memory of Coracle's own that is aligned as direct I/O demands.
struct Piece {
    memory: Vec<u8>,
    start: usize,
}

impl Piece {
    fn new(alignment: usize) -> Self {
        let memory = vec![0; PIECE + alignment];
        let start = memory.as_ptr().align_offset(alignment);
        Self { memory, start }
    }

    fn first(&mut self, length: usize) -> &mut [u8] {
        &mut self.memory[self.start..self.start + length]
    }
}

/// Transfers all of `buffers` with a vectored system call, which is repeated until nothing is left.
#[inline]
fn transfer(
    buffers: &mut Buffers,
    offset: u64,
    at_end: io::ErrorKind,
    call: impl Fn(&[libc::iovec], i64) -> isize,
) -> io::Result<()> {
    let mut offset = signed(offset)?;
    while buffers.length() > 0 {
        let iovecs = buffers.iovecs();
        let batch = iovecs.len().min(libc::UIO_MAXIOV as usize);
        match call(&iovecs[..batch], offset) {
            0 => return Err(at_end.into()),
            moved if moved > 0 => {
                offset += moved as i64;
                buffers.advance(moved as u64);
            }
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "raw_test.rs"]
mod tests;
