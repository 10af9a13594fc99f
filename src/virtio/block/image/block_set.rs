//! A set of a disk's blocks, which several threads read and add to.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::{MmapRegion, VolatileMemory};

const WORD: usize = size_of::<u64>();
const WORD_BITS: u64 = u64::BITS as u64;

/// A bit for each block. It takes memory only where blocks are in it.
pub struct BlockSet(MmapRegion);

impl BlockSet {
    /// An empty set for `blocks` blocks.
    pub fn new(blocks: u64) -> io::Result<Self> {
        let size = usize::try_from(blocks.div_ceil(WORD_BITS)).unwrap_or(usize::MAX);
        let size = size.saturating_mul(WORD).max(WORD);
        MmapRegion::new(size).map(Self).map_err(io::Error::other)
    }

    pub fn contains(&self, block: u64) -> bool {
        self.contains_all(block..block + 1)
    }

    /// Whether all of `blocks` are in it. What was done before they were added is seen after this.
    pub fn contains_all(&self, blocks: Range<u64>) -> bool {
        words(blocks).all(|(word, bits)| match self.word(word) {
            Some(word) => word.load(Ordering::Acquire) & bits == bits,
            None => false,
        })
    }

    pub fn add(&self, blocks: Range<u64>) {
        for (word, bits) in words(blocks) {
            if let Some(word) = self.word(word) {
                word.fetch_or(bits, Ordering::Release);
            }
        }
    }

    fn word(&self, index: u64) -> Option<&AtomicU64> {
        self.0.get_atomic_ref(index as usize * WORD).ok()
    }
}

/// The words that have `blocks`, and their bits in each.
fn words(blocks: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    let words = match blocks.is_empty() {
        true => 0..0,
        false => blocks.start / WORD_BITS..blocks.end.div_ceil(WORD_BITS),
    };
    words.map(move |word| {
        let first = word * WORD_BITS;
        let start = blocks.start.saturating_sub(first);
        let end = (blocks.end - first).min(WORD_BITS);
        (word, u64::MAX >> (WORD_BITS - (end - start)) << start)
    })
}

#[cfg(test)]
#[path = "block_set_test.rs"]
mod tests;
