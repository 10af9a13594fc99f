//! How much memory and work of the host's an image may take, whatever its tables say.

use super::header::Header;

/// The tables of an image and of all that lie under it: bytes that stay in memory, or may come to stay there.
pub const TABLES: u64 = 512 << 20;
/// Tables of snapshots and bitmaps, in bytes: read once, when the image is opened for writing.
pub const OTHER_TABLES: u64 = 16 << 20;
/// Clusters that a discard, or a write of zeroes, takes at most: each may be a change of a table and a system call.
pub const CLUSTERS_IN_REQUEST: u64 = 4096;

/// The library's caches, in tables of a cluster each.
const CACHED_L2_TABLES: u64 = 128;
const CACHED_REFCOUNT_BLOCKS: u64 = 32;
/// What is known of a cluster of metadata: a word of 64 bits with its key, in nodes that may be half empty.
const KNOWN_CLUSTER: u64 = 40;

/// What is left for the tables of a chain of images.
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
    /// Takes what an image with this header needs. Says whether that much was left.
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

/// Its L1 table, and as many L2 tables as are cached.
fn to_read(header: &Header) -> u64 {
    let l1 = &header.tables.l1;
    let entries = (l1.end - l1.start) / 8;
    (l1.end - l1.start) + (entries.min(CACHED_L2_TABLES) << header.cluster_bits)
}

/// Its refcount table, as many blocks as are cached, and where its metadata lies.
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
