//! A disk that is only read, joined from several files: the root file system of an OCI image, for example, which is metadata and
//! the tars of the image's layers.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::RawFd;

use super::Raw;
use crate::virtio::buffers::Buffers;

/// Each file begins at a multiple of this on the disk, in bytes. What lies between the end of one and the start of the next
/// reads as zeroes.
pub const PAGE: u64 = 4096;

/// Files one behind the other.
pub struct Joined {
    /// In the order of their starts. The first one starts at 0.
    parts: Vec<Part>,
    /// In bytes.
    size: u64,
}

struct Part {
    /// Where it starts on the disk, in bytes.
    start: u64,
    /// How many bytes the file had when it was opened. What is added to it later is no part of the disk.
    length: u64,
    file: Raw,
}

/// Where a byte of the disk is.
enum Place<'d> {
    /// In this file, which has more bytes of the disk from `offset` on, `length` in all.
    In { file: &'d Raw, offset: u64, length: u64 },
    /// In none: this many zeroes follow.
    Zeroes(u64),
}

impl Joined {
    /// Joins open files, each with its length in bytes. None if the disk would be larger than the host's files can be.
    pub fn new(files: impl IntoIterator<Item = (File, u64)>) -> Option<Self> {
        let (mut parts, mut size) = (Vec::new(), 0_u64);
        for (file, length) in files {
            let start = size;
            size = start.checked_add(length.checked_next_multiple_of(PAGE)?)?;
            i64::try_from(size).ok()?;
            let file = Raw::new(file, None, false);
            parts.push(Part { start, length, file });
        }
        Some(Self { parts, size })
    }

    /// In bytes: a multiple of [`PAGE`].
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Of all files, in their order on the disk.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.parts.iter().map(|part| part.file.fd())
    }

    /// If one file has all bytes of `range`: its number, from 0, and where the range begins in it.
    #[inline]
    pub fn in_one_file(&self, range: Range<u64>) -> Option<(u32, u64)> {
        let index = self.index_at(range.start)?;
        let part = self.parts.get(index)?;
        (range.end <= part.start + part.length).then(|| (index as u32, range.start - part.start))
    }

    /// Fills `buffers` from `offset` on.
    pub fn read(&self, buffers: &mut Buffers, mut offset: u64) -> io::Result<()> {
        while buffers.length() > 0 {
            match self.at(offset)? {
                // Nearly every request lies in one file, for which this allocates no memory.
                Place::In { file, offset, length } if length >= buffers.length() => {
                    return file.read(buffers, offset);
                }
                Place::In {
                    file,
                    offset: start,
                    length,
                } => {
                    file.read(&mut buffers.split_to(length), start)?;
                    offset += length;
                }
                Place::Zeroes(length) => {
                    let zeroes = [0; PAGE as usize];
                    let copied = buffers.copy_from(&zeroes[..length as usize]) as u64;
                    buffers.advance(copied);
                    offset += copied;
                }
            }
        }
        Ok(())
    }

    fn at(&self, offset: u64) -> io::Result<Place<'_>> {
        let part = self.index_at(offset).and_then(|index| self.parts.get(index));
        let part = part.filter(|_| offset < self.size);
        let part = part.ok_or(io::ErrorKind::UnexpectedEof)?;
        let within = offset - part.start;
        Ok(match part.length.checked_sub(within) {
            Some(length @ 1..) => Place::In {
                file: &part.file,
                offset: within,
                length,
            },
            // The disk goes on to the end of the page.
            _ => Place::Zeroes(part.length.next_multiple_of(PAGE) - within),
        })
    }

    /// The number of the last file that starts at `offset` or before. An empty file has no bytes, so the one behind it, which
    /// starts at the same place, is taken.
    #[inline]
    fn index_at(&self, offset: u64) -> Option<usize> {
        let behind = self.parts.partition_point(|part| part.start <= offset);
        behind.checked_sub(1)
    }
}

#[cfg(test)]
#[path = "joined_test.rs"]
mod tests;
