//! Limits how much memory and work of the host an image can take, whatever its tables say.

use super::header::{Header, OTHER_TABLES};

/// How many bytes the tables of an image and of all its backing files may have in memory.
pub const TABLES: u64 = 512 << 20;
/// How many clusters a discard or a write of zeroes may have. Each may need a change of a table and a system call.
pub const CLUSTERS_IN_REQUEST: u64 = 4096;

/// How many tables the library's caches hold. Each table is one cluster.
const CACHED_L2_TABLES: u64 = 128;
const CACHED_REFCOUNT_BLOCKS: u64 = 32;
/// The memory for one known cluster of metadata, in bytes: a word of 64 bits and its key, in nodes that may be half empty.
const KNOWN_CLUSTER: u64 = 40;

/// The memory that is left for the tables of a chain of images.
#[derive(Debug)]
pub struct Budget {
    left: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: TABLES }
    }
}

impl Budget {
    /// Takes the memory that an image with this header needs. Returns whether that much was left.
    pub fn take(&mut self, header: &Header, is_written: bool) -> bool {
        let needed = match is_written {
            true => to_read(header).saturating_add(to_write(header)),
            false => to_read(header),
        };
        let left = self.left.checked_sub(needed);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

/// The memory for reading an image: its L1 table, and as many L2 tables as are cached.
fn to_read(header: &Header) -> u64 {
    let l1 = &header.tables.l1;
    let entries = (l1.end - l1.start) / 8;
    (l1.end - l1.start) + (entries.min(CACHED_L2_TABLES) << header.cluster_bits)
}

/// The additional memory for writing it: its refcount table, as many refcount blocks as are cached, and the set of its
/// clusters of metadata.
fn to_write(header: &Header) -> u64 {
    let (l1, refcounts) = (&header.tables.l1, &header.tables.refcounts);
    let table = refcounts.end - refcounts.start;
    let others = match header.snapshots.count | header.bitmaps.count {
        0 => 0,
        _ => OTHER_TABLES,
    };
    let entries = (l1.end - l1.start + table + others) / 8;
    table + (CACHED_REFCOUNT_BLOCKS << header.cluster_bits) + entries * KNOWN_CLUSTER
}

#[cfg(test)]
#[path = "budget_test.rs"]
mod tests;
