//! Whether an image's refcount table can be trusted as far as the library trusts it.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::header::{Header, HeaderError};
use super::order::is_counted;

const TABLE: &str = "refcount table";

/// Checks, for an image that is to be written, that each refcount block is inside of the file and is named once, and
/// that the clusters of header, tables and blocks are counted as used.
///
/// The library would go round in blocks that are named twice, and could take uncounted metadata for free space.
pub fn check(file: &File, header: &Header, length: u64) -> Result<(), HeaderError> {
    let damaged = |what| Err(HeaderError::Table { table: TABLE, what });
    let cluster = 1_u64 << header.cluster_bits;
    let tables = &header.tables;
    let mut table = vec![0; (tables.refcounts.end - tables.refcounts.start) as usize];
    file.read_exact_at(&mut table, tables.refcounts.start)?;
    let (entries, _) = table.as_chunks::<8>();
    let blocks: Vec<u64> = entries.iter().map(|entry| u64::from_be_bytes(*entry)).collect();

    let mut named = HashSet::new();
    for &block in blocks.iter().filter(|block| **block != 0) {
        if !block.is_multiple_of(cluster) || block >= length {
            return damaged("it names a block that is not in the file");
        }
        if !named.insert(block) {
            return damaged("it names a block twice");
        }
    }

    let counts_in_block_bits = header.cluster_bits + 3 - header.refcount_order;
    let tables = [&tables.l1, &tables.refcounts]
        .into_iter()
        .flat_map(|table| table.clone().step_by(cluster as usize));
    for offset in [0].into_iter().chain(tables).chain(named) {
        let used = offset >> header.cluster_bits;
        let block = usize::try_from(used >> counts_in_block_bits)
            .ok()
            .and_then(|index| blocks.get(index))
            .copied()
            .unwrap_or(0);
        let index = used & ((1 << counts_in_block_bits) - 1);
        if block == 0 || !is_counted(file, block, index, header.refcount_order)? {
            return damaged("it counts metadata as free space");
        }
    }
    Ok(())
}
