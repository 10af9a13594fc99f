//! An image each byte of which has its own place in a file of the host, so that a ring can work on it.

use std::io;
use std::ops::Range;
use std::os::fd::RawFd;

use super::{Joined, Raw};
use crate::virtio::buffers::Buffers;

#[derive(Clone, Copy)]
pub enum Files<'d> {
    Raw(&'d Raw),
    /// It is never written.
    Joined(&'d Joined),
}

impl Files<'_> {
    /// Of all its files. [`Files::place`] numbers them in this order, from 0.
    pub fn descriptors(&self) -> Vec<RawFd> {
        match self {
            Self::Raw(raw) => vec![raw.fd()],
            Self::Joined(joined) => joined.descriptors().collect(),
        }
    }

    /// If one file has all bytes of `range` of the disk: its number, and where the range begins in it.
    #[inline]
    pub fn place(&self, range: Range<u64>) -> Option<(u32, u64)> {
        match self {
            Self::Raw(_) => Some((0, range.start)),
            Self::Joined(joined) => joined.in_one_file(range),
        }
    }

    /// Whether reads and writes bypass the page cache.
    #[inline]
    pub fn is_direct(&self) -> bool {
        match self {
            Self::Raw(raw) => raw.is_direct(),
            Self::Joined(_) => false,
        }
    }

    /// Whether the host's kernel accepts `buffers` as they are aligned.
    #[inline]
    pub fn takes(&self, buffers: &Buffers) -> bool {
        match self {
            Self::Raw(raw) => raw.takes(buffers),
            Self::Joined(_) => true,
        }
    }

    /// Whether there may be something to flush.
    pub fn is_written(&self) -> bool {
        matches!(self, Self::Raw(_))
    }

    /// Whether discarding and zeroing begin with a call of fallocate(2).
    pub fn takes_fallocate(&self) -> bool {
        match self {
            Self::Raw(raw) => raw.takes_fallocate(),
            Self::Joined(_) => false,
        }
    }

    /// Writes zeroes, for hosts that have no call for it.
    pub fn write_zero_bytes(&self, offset: u64, length: u64) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.write_zero_bytes(offset, length),
            Self::Joined(_) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }
}
