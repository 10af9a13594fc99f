//! Reads the reference counts of an image from its file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::header::Header;
use super::read::read_or_zeroes;

/// How many bytes of a refcount block are read at a time.
const PIECE: u64 = 4096;

pub struct Counts<'f> {
    file: &'f File,
    cluster_bits: u32,
    refcount_order: u32,
    /// The entries of the refcount table: the offset of each refcount block, or 0.
    blocks: Vec<u64>,
    /// The piece that was read last.
    piece: Vec<u8>,
    /// The offset of that piece in the file.
    piece_start: Option<u64>,
}

impl<'f> Counts<'f> {
    pub fn read(file: &'f File, header: &Header) -> io::Result<Self> {
        let table = &header.tables.refcounts;
        let mut bytes = vec![0; (table.end - table.start) as usize];
        file.read_exact_at(&mut bytes, table.start)?;
        let (entries, _) = bytes.as_chunks::<8>();
        Ok(Self {
            file,
            cluster_bits: header.cluster_bits,
            refcount_order: header.refcount_order,
            blocks: entries.iter().map(|entry| u64::from_be_bytes(*entry)).collect(),
            piece: vec![0; PIECE.min(1 << header.cluster_bits) as usize],
            piece_start: None,
        })
    }

    /// The offset of each refcount block; 0 if the block does not exist.
    pub fn blocks(&self) -> &[u64] {
        &self.blocks
    }

    /// The reference count of `cluster`. All refcount blocks must be inside of the file.
    pub fn of(&mut self, cluster: u64) -> io::Result<u64> {
        let bits = counts_in_block_bits(self.cluster_bits, self.refcount_order);
        let block = usize::try_from(cluster >> bits).unwrap_or(usize::MAX);
        let Some(&block @ 1..) = self.blocks.get(block) else {
            return Ok(0);
        };
        let index = cluster & ((1 << bits) - 1);
        let counts_in_piece = (self.piece.len() as u64 * 8) >> self.refcount_order;
        let start = block + index / counts_in_piece * self.piece.len() as u64;
        if self.piece_start != Some(start) {
            self.piece_start = None;
            self.piece.fill(0);
            read_or_zeroes(self.file, &mut self.piece, start)?;
            self.piece_start = Some(start);
        }
        Ok(count_in(
            &self.piece,
            index % counts_in_piece,
            self.refcount_order,
        ))
    }
}

/// The binary logarithm of the number of counts in a refcount block.
pub fn counts_in_block_bits(cluster_bits: u32, refcount_order: u32) -> u32 {
    cluster_bits + 3 - refcount_order
}

/// The count at `index` in `bytes`, where each count has 1 << refcount_order bits.
pub fn count_in(bytes: &[u8], index: u64, refcount_order: u32) -> u64 {
    let bits = 1_u64 << refcount_order;
    let start = (index * bits / 8) as usize;
    match bits {
        // Counts of less than a byte fill the byte from its low bits on.
        1..8 => u64::from(bytes[start]) >> (index * bits % 8) & ((1 << bits) - 1),
        _ => bytes[start..start + (bits / 8) as usize]
            .iter()
            .fold(0, |count, byte| count << 8 | u64::from(*byte)),
    }
}

#[cfg(test)]
#[path = "refcounts_test.rs"]
mod tests;
