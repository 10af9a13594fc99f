//! Sparse files: addresses of chunks, some of which are holes.

use std::io;

use super::format::{CHUNK_BITS_MAX, NULL_ADDR};
use crate::layer::{BLOCK, Piece};
use crate::tree::File;

/// So many addresses a file may have, however little data it has. Else a layer of many sparse files would fill the disk.
const COUNT_FREE: u64 = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunks {
    /// Blocks of each, as a power of two.
    pub bits: u32,
    pub count: u64,
    /// Blocks that are copied: all chunks with data, or none.
    pub copied: u64,
}

impl Chunks {
    /// For a file that is not empty.
    pub fn of(file: &File, pieces: &[Piece]) -> Self {
        let count = |bits: u32| file.size.div_ceil(BLOCK << bits);
        let stored: u64 = pieces.iter().map(|piece| piece.length).sum();
        let most = COUNT_FREE.max(stored / BLOCK);
        if let Some(bits) = in_place(file, pieces).filter(|bits| count(*bits) <= most) {
            return Self {
                bits,
                count: count(bits),
                copied: 0,
            };
        }
        // A file is so small that one chunk of the largest size has room for it.
        let bits = (0..CHUNK_BITS_MAX)
            .find(|bits| count(*bits) <= most)
            .unwrap_or(CHUNK_BITS_MAX);
        let mut chunks = Self {
            bits,
            count: count(bits),
            copied: 0,
        };
        let last = chunks.count - 1;
        let mut copied = 0;
        let mut end = 0;
        for piece in pieces {
            let (from, to) = chunks.range(piece);
            copied += to.saturating_sub(from.max(end)) << bits;
            end = to;
        }
        if end > last {
            // Nothing is behind the end of the file.
            copied -= (chunks.count << bits) - file.size.div_ceil(BLOCK);
        }
        chunks.copied = copied;
        chunks
    }

    pub fn is_copied(&self) -> bool {
        self.copied > 0
    }

    fn size(&self) -> u64 {
        BLOCK << self.bits
    }

    /// The first chunk with data of a piece, and that behind the last.
    fn range(&self, piece: &Piece) -> (u64, u64) {
        let end = piece.offset + piece.length;
        (piece.offset / self.size(), end.div_ceil(self.size()))
    }

    /// Gives the address of each chunk. The data begin at the block `first`: those in the tar, or the copied ones.
    pub fn addresses(
        &self,
        pieces: &[Piece],
        first: u64,
        mut put: impl FnMut(u32) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut next = 0;
        let mut at = first;
        for piece in pieces {
            let (from, to) = self.range(piece);
            for _ in next..from {
                put(NULL_ADDR)?;
            }
            let from = from.max(next);
            for chunk in 0..to.saturating_sub(from) {
                // The whole disk has fewer than 2^32 blocks.
                put((at + (chunk << self.bits)) as u32)?;
            }
            at += match self.is_copied() {
                true => to.saturating_sub(from) << self.bits,
                false => piece.length.div_ceil(BLOCK),
            };
            next = to.max(next);
        }
        for _ in next..self.count {
            put(NULL_ADDR)?;
        }
        Ok(())
    }

    /// Where each piece is among the copied chunks, in bytes.
    pub fn places(&self, pieces: &[Piece]) -> impl Iterator<Item = u64> {
        let mut chunks = 0;
        let mut end = 0;
        pieces.iter().map(move |piece| {
            let (from, to) = self.range(piece);
            // A piece may begin in the chunk in which the one before ends.
            let before = chunks - u64::from(from < end);
            chunks = before + (to - from);
            end = to;
            before * self.size() + piece.offset % self.size()
        })
    }
}

/// The size of chunks with which all data stay where they are in the tar, if there is one.
fn in_place(file: &File, pieces: &[Piece]) -> Option<u32> {
    let mut edges = 0;
    for (number, piece) in pieces.iter().enumerate() {
        edges |= piece.offset;
        let mut end = piece.offset + piece.length;
        if number + 1 == pieces.len() && file.has_clean_tail {
            end = end.next_multiple_of(BLOCK);
        } else if number + 1 == pieces.len() && piece.length % BLOCK > 0 {
            return None;
        }
        if end < file.size {
            edges |= end;
        }
    }
    let whole = file.size.next_power_of_two().max(BLOCK);
    let edges = edges | whole;
    edges
        .trailing_zeros()
        .checked_sub(BLOCK.trailing_zeros())
        .map(|bits| bits.min(CHUNK_BITS_MAX))
}
