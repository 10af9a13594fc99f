//! Extended attributes on the disk (`erofs_xattr_entry`).

use super::format::XATTR_HEADER_SIZE;
use crate::tree::{Pair, Tree, XattrSet};

/// Names by their begin, which a number stands for, and what it is. The rest is not empty, but where all is the name.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// Attributes by which overlayfs marks what is in a layer of its own: directories that hide others, and names that lead elsewhere
/// (Linux, Documentation/filesystems/overlayfs.rst).
const OVERLAYFS: &[u8] = b"trusted.overlay.";

/// Units of four bytes in which the place of a shared attribute is counted.
const UNIT: u64 = 4;

/// Where the attributes are that several inodes have.
pub struct Shared<'a> {
    tree: &'a Tree,
    /// By the pair's number.
    places: Vec<Option<u32>>,
    /// Of them all, in bytes.
    pub size: u64,
}

impl<'a> Shared<'a> {
    pub fn of(tree: &'a Tree) -> Self {
        let xattrs = &tree.xattrs;
        let mut uses = vec![0u32; xattrs.pair_count()];
        for inode in tree.inodes() {
            for pair in xattrs.pairs_of(inode.xattrs) {
                uses[pair.index()] += 1;
            }
        }
        let mut size = 0;
        let mut places = Vec::with_capacity(uses.len());
        for (pair, uses) in xattrs.pairs().zip(uses) {
            let entry = entry_size(tree, pair).filter(|_| uses > 1);
            // All texts of a tree are fewer than 2^32 units.
            places.push(entry.map(|_| (size / UNIT) as u32));
            size += entry.unwrap_or(0);
        }
        Self { tree, places, size }
    }

    /// Bytes behind an inode with this set.
    pub fn size_of(&self, set: XattrSet) -> u64 {
        if set == XattrSet::EMPTY {
            return 0;
        }
        let sizes = self.tree.xattrs.pairs_of(set).iter().filter_map(|pair| {
            let size = entry_size(self.tree, *pair)?;
            Some(self.places[pair.index()].map_or(size, |_| UNIT))
        });
        match sizes.sum() {
            0 => 0,
            size => XATTR_HEADER_SIZE + size,
        }
    }

    /// What is behind an inode with this set.
    pub fn bytes_of(&self, set: XattrSet) -> Vec<u8> {
        if self.size_of(set) == 0 {
            return Vec::new();
        }
        let pairs = self.tree.xattrs.pairs_of(set);
        let shared: Vec<u32> = pairs
            .iter()
            .filter_map(|pair| self.places[pair.index()])
            .collect();
        let mut bytes = vec![0; XATTR_HEADER_SIZE as usize];
        // An inode has at most 255 attributes.
        bytes[4] = shared.len() as u8;
        bytes.extend(shared.iter().flat_map(|place| place.to_le_bytes()));
        for pair in pairs.iter().filter(|pair| self.places[pair.index()].is_none()) {
            add_entry(&mut bytes, self.tree, *pair);
        }
        bytes
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for pair in self
            .tree
            .xattrs
            .pairs()
            .filter(|pair| self.places[pair.index()].is_some())
        {
            add_entry(&mut bytes, self.tree, pair);
        }
        bytes
    }
}

/// The number of a name's begin, and its rest. None of what Linux has no place for in this file system, nor another one that images
/// are made on; engines leave such attributes out. None of overlayfs's own either: a guest has this file system below an overlayfs, which
/// would act on them.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    if name.starts_with(OVERLAYFS) {
        return None;
    }
    PREFIXES.into_iter().find_map(|(prefix, number)| {
        let rest = name.strip_prefix(prefix)?;
        (rest.is_empty() != prefix.ends_with(b".")).then_some((number, rest))
    })
}

fn entry_size(tree: &Tree, pair: Pair) -> Option<u64> {
    let (name, value) = tree.xattrs.get(pair);
    let (_, rest) = split(name)?;
    Some((UNIT + rest.len() as u64 + value.len() as u64).next_multiple_of(UNIT))
}

fn add_entry(bytes: &mut Vec<u8>, tree: &Tree, pair: Pair) {
    let (name, value) = tree.xattrs.get(pair);
    if let Some((number, rest)) = split(name) {
        // An index has no longer ones.
        bytes.extend([rest.len() as u8, number]);
        bytes.extend((value.len() as u16).to_le_bytes());
        bytes.extend(rest);
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(UNIT as usize), 0);
    }
}
