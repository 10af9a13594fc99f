//! Extended attributes of all files. Many files have the same, so each pair and each set of them stands once.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;

use hashbrown::HashTable;

use super::texts::{Text, Texts};
use crate::layer::{Xattr, refused};

/// Attributes of all sets together.
const MEMBERS_MAX: usize = 16 << 20;

/// The attributes of a file, by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct XattrSet(u32);

impl XattrSet {
    pub const EMPTY: Self = Self(0);
}

/// A name with a value, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pair(u32);

impl Pair {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

pub(crate) struct Xattrs {
    texts: Texts,
    pairs: Vec<(Text, Text)>,
    pair_table: HashTable<u32>,
    members: Vec<Pair>,
    sets: Vec<Range<u32>>,
    set_table: HashTable<u32>,
    hasher: RandomState,
}

impl Default for Xattrs {
    fn default() -> Self {
        Self {
            texts: Texts::default(),
            pairs: Vec::new(),
            pair_table: HashTable::new(),
            members: Vec::new(),
            // That without attributes.
            sets: std::iter::once(0..0).collect(),
            set_table: HashTable::new(),
            hasher: RandomState::new(),
        }
    }
}

impl Xattrs {
    /// The set of these attributes, whose names are all different.
    pub fn set(&mut self, xattrs: &[Xattr]) -> io::Result<XattrSet> {
        if xattrs.is_empty() {
            return Ok(XattrSet::EMPTY);
        }
        let mut pairs = xattrs
            .iter()
            .map(|xattr| self.pair(xattr))
            .collect::<io::Result<Vec<_>>>()?;
        pairs.sort_unstable();
        let hash = self.hasher.hash_one(&pairs);
        if let Some(found) = self
            .set_table
            .find(hash, |set| self.pairs_of(XattrSet(*set)) == pairs)
        {
            return Ok(XattrSet(*found));
        }
        if self.members.len() + pairs.len() > MEMBERS_MAX {
            return Err(refused(format!(
                "the files of an image have at most {MEMBERS_MAX} extended attributes"
            )));
        }
        // There are fewer than 2^32 of both.
        let (start, set) = (self.members.len() as u32, self.sets.len() as u32);
        self.members.extend(&pairs);
        self.sets.push(start..self.members.len() as u32);
        let (hasher, sets, members) = (&self.hasher, &self.sets, &self.members);
        self.set_table.insert_unique(hash, set, |set| {
            let Range { start, end } = sets[*set as usize];
            hasher.hash_one(&members[start as usize..end as usize])
        });
        Ok(XattrSet(set))
    }

    /// In the order in which they first came.
    pub fn pairs_of(&self, set: XattrSet) -> &[Pair] {
        let Range { start, end } = self.sets[set.0 as usize];
        &self.members[start as usize..end as usize]
    }

    pub fn pair_count(&self) -> usize {
        self.pairs.len()
    }

    pub fn pairs(&self) -> impl Iterator<Item = Pair> {
        (0..self.pairs.len() as u32).map(Pair)
    }

    /// Name and value.
    pub fn get(&self, pair: Pair) -> (&[u8], &[u8]) {
        let (name, value) = self.pairs[pair.index()];
        (self.texts.get(name), self.texts.get(value))
    }

    fn pair(&mut self, Xattr { name, value }: &Xattr) -> io::Result<Pair> {
        let hash = self.hasher.hash_one((name, value));
        let is_it = |pair: &u32| self.get(Pair(*pair)) == (name, value);
        if let Some(found) = self.pair_table.find(hash, is_it) {
            return Ok(Pair(*found));
        }
        let texts = (self.texts.add(name)?, self.texts.add(value)?);
        // Each has a name of one byte or more, and there are fewer than 2^32 bytes.
        let pair = self.pairs.len() as u32;
        self.pairs.push(texts);
        let (hasher, pairs, texts) = (&self.hasher, &self.pairs, &self.texts);
        self.pair_table.insert_unique(hash, pair, |pair| {
            let (name, value) = pairs[*pair as usize];
            hasher.hash_one((texts.get(name), texts.get(value)))
        });
        Ok(Pair(pair))
    }
}
