//! A set of clusters of a file. Its memory depends on how many clusters are in it, and not on the size of the file.

use std::collections::BTreeMap;
use std::ops::Range;

const WORD: u64 = u64::BITS as u64;

#[derive(Debug, Default)]
pub struct Clusters {
    /// Words with a bit for each of 64 clusters. The key is the number of the first of them, divided by 64. No word is zero.
    words: BTreeMap<u64, u64>,
}

impl Clusters {
    /// Adds a cluster. Returns whether it was not in the set before.
    pub fn insert(&mut self, cluster: u64) -> bool {
        let word = self.words.entry(cluster / WORD).or_default();
        let before = *word;
        *word |= 1 << (cluster % WORD);
        *word != before
    }

    /// Removes a cluster. Returns whether it was in the set.
    pub fn remove(&mut self, cluster: u64) -> bool {
        let Some(word) = self.words.get_mut(&(cluster / WORD)) else {
            return false;
        };
        let before = *word;
        *word &= !(1 << (cluster % WORD));
        let was_there = *word != before;
        if *word == 0 {
            self.words.remove(&(cluster / WORD));
        }
        was_there
    }

    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    pub fn clear(&mut self) {
        self.words.clear();
    }

    pub fn contains(&self, cluster: u64) -> bool {
        self.words
            .get(&(cluster / WORD))
            .is_some_and(|word| word >> (cluster % WORD) & 1 == 1)
    }

    pub fn has_any_of(&self, range: Range<u64>) -> bool {
        self.within(range).next().is_some()
    }

    /// The clusters of the set that are in `range`, in order.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = u64> {
        let words = match range.is_empty() {
            true => 0..0,
            false => range.start / WORD..(range.end - 1) / WORD + 1,
        };
        let bits = |(place, word): (&u64, &u64)| {
            let (first, word) = (place * WORD, *word);
            (0..WORD)
                .filter(move |bit| word >> bit & 1 == 1)
                .map(move |bit| first + bit)
        };
        self.words
            .range(words)
            .flat_map(bits)
            .filter(move |cluster| range.contains(cluster))
    }

    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.within(0..u64::MAX)
    }
}

#[cfg(test)]
#[path = "clusters_test.rs"]
mod tests;
