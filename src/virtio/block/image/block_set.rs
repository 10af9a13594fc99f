//! A set of blocks of a disk that several threads ask and add to at the same time.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::{MmapRegion, VolatileMemory};

const WORD: usize = size_of::<u64>();
const WORD_BITS: u64 = u64::BITS as u64;

/// The set, as a bit for each block. Parts of it without blocks take up no memory.
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

    /// Whether all of `blocks` are in the set. If so, this thread sees whatever another thread did before it added
    /// them.
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

/// The words that hold the bits of `blocks`, each with a mask of those bits.
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
