//! Reads all tables of an image to find out which clusters hold metadata, and whether the reference counts say that these
//! clusters are in use.
//!
//! A cluster of metadata that counts as free would be given to a guest's data. So an image that has such a cluster, or that has
//! two tables in one place, is refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::clusters::Clusters;
use super::header::{Header, HeaderError, OTHER_TABLES, Records, be32, be64};
use super::order::L2_OFFSET;
use super::refcounts::{Counts, counts_in_block_bits};

const COPIED: u64 = 1 << 63;
/// The same limit as in QEMU.
const MAX_SNAPSHOTS: u32 = 65536;
/// The same limit as in QEMU.
const MAX_BITMAPS: u32 = 65535;
/// How many entries of a table are read at a time.
const ENTRIES: usize = 8192;

const REFCOUNTS: &str = "refcount table";
const L1: &str = "L1 table";
const SNAPSHOTS: &str = "list of snapshots";
const BITMAPS: &str = "list of bitmaps";

/// The clusters of an image's metadata, by their contents.
#[derive(Debug, Default)]
pub struct Metadata {
    /// The header, the tables that it names, and everything that belongs to bitmaps.
    pub fixed: Clusters,
    /// The L2 tables of the current image and of its snapshots.
    pub l2_tables: Clusters,
    /// The refcount blocks, each with the number of the first cluster that it counts.
    pub blocks: BTreeMap<u64, u64>,
}

impl Metadata {
    /// Finds the metadata of an image that will be written. Its file has `length` bytes.
    pub fn read(file: &File, header: &Header, length: u64) -> Result<Self, HeaderError> {
        let mut walk = Walk {
            file,
            cluster_bits: header.cluster_bits,
            length,
            left: OTHER_TABLES,
            counts: Counts::read(file, header)?,
            found: Self::default(),
        };
        walk.found.fixed.insert(0);
        walk.table(L1, &header.tables.l1)?;
        walk.table(REFCOUNTS, &header.tables.refcounts)?;
        walk.refcount_blocks(header)?;
        walk.l1_table(&header.tables.l1, true)?;
        walk.snapshots(header.snapshots)?;
        walk.bitmaps(header.bitmaps)?;
        walk.check_counts()?;
        Ok(walk.found)
    }

    /// All clusters of metadata, kind by kind.
    pub fn clusters(&self) -> impl Iterator<Item = u64> {
        (self.fixed.iter())
            .chain(self.l2_tables.iter())
            .chain(self.blocks.keys().copied())
    }

    pub fn contains(&self, cluster: u64) -> bool {
        self.fixed.contains(cluster) || self.l2_tables.contains(cluster) || self.blocks.contains_key(&cluster)
    }

    pub fn has_any_of(&self, clusters: Range<u64>) -> bool {
        self.fixed.has_any_of(clusters.clone())
            || self.l2_tables.has_any_of(clusters.clone())
            || self.blocks.range(clusters).next().is_some()
    }
}

struct Walk<'f> {
    file: &'f File,
    cluster_bits: u32,
    /// The length of the file in bytes.
    length: u64,
    /// How many bytes of tables of snapshots and bitmaps may still be read.
    left: u64,
    counts: Counts<'f>,
    found: Metadata,
}

impl Walk<'_> {
    fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Records a table that takes whole clusters.
    fn table(&mut self, name: &'static str, range: &Range<u64>) -> Result<(), HeaderError> {
        if !range.start.is_multiple_of(self.cluster_size()) {
            return damaged(name, "a table does not start at a cluster");
        }
        if range.end > self.length {
            return damaged(name, "a table ends behind the file");
        }
        let clusters = range.start >> self.cluster_bits..range.end.div_ceil(self.cluster_size());
        for cluster in clusters {
            if self.found.contains(cluster) {
                return damaged(name, "two tables lie in one place");
            }
            self.found.fixed.insert(cluster);
        }
        Ok(())
    }

    /// The cluster at `offset`, if a table can be there.
    fn cluster(&self, name: &'static str, offset: u64) -> Result<u64, HeaderError> {
        if !offset.is_multiple_of(self.cluster_size()) || offset >= self.length {
            return damaged(name, "it names a table that is not in the file");
        }
        Ok(offset >> self.cluster_bits)
    }

    fn refcount_blocks(&mut self, header: &Header) -> Result<(), HeaderError> {
        let bits = counts_in_block_bits(header.cluster_bits, header.refcount_order);
        for (index, &offset) in self.counts.blocks().iter().enumerate() {
            if offset == 0 {
                continue;
            }
            let cluster = self.cluster(REFCOUNTS, offset)?;
            if self.found.contains(cluster) {
                return damaged(REFCOUNTS, "it names a block twice, or where another table is");
            }
            self.found.blocks.insert(cluster, (index as u64) << bits);
        }
        Ok(())
    }

    /// Records all L2 tables that an L1 table names. An L2 table of the current image has a flag if nothing else uses it, and is
    /// then changed in place.
    fn l1_table(&mut self, range: &Range<u64>, is_active: bool) -> Result<(), HeaderError> {
        let name = if is_active { L1 } else { SNAPSHOTS };
        for_each_entry(self.file, range, |entry| {
            if entry & L2_OFFSET == 0 {
                return Ok(());
            }
            let cluster = self.cluster(name, entry & L2_OFFSET)?;
            if self.found.fixed.contains(cluster) || self.found.blocks.contains_key(&cluster) {
                return damaged(name, "it names a table where another one is");
            }
            let is_new = self.found.l2_tables.insert(cluster);
            let count = self.counts.of(cluster)?;
            match is_active {
                true if !is_new => damaged(name, "it names a table twice"),
                true if (entry & COPIED != 0) != (count == 1) => {
                    damaged(name, "its flags contradict the reference counts")
                }
                false if !is_new && count < 2 => damaged(name, "a table of two snapshots is counted once"),
                _ => Ok(()),
            }
        })
    }

    fn snapshots(&mut self, list: Records) -> Result<(), HeaderError> {
        if list.count > MAX_SNAPSHOTS {
            return damaged(SNAPSHOTS, "it is longer than 65,536");
        }
        let mut end = list.start;
        let mut tables = Vec::new();
        for _ in 0..list.count {
            let (start, record) = self.record::<40>(SNAPSHOTS, end)?;
            let entries = be32(&record, 8).unwrap_or(0);
            tables.push((be64(&record, 0).unwrap_or(0), u64::from(entries) * 8));
            let [id, name] = [12, 14].map(|at| u64::from(be16(&record, at)));
            let more = be32(&record, 36).unwrap_or(0);
            end = start + 40 + id + name + u64::from(more);
        }
        self.other_table(SNAPSHOTS, list.start, end - list.start)?;
        for (start, length) in tables {
            let range = self.other_table(SNAPSHOTS, start, length)?;
            self.l1_table(&range, false)?;
        }
        Ok(())
    }

    fn bitmaps(&mut self, list: Records) -> Result<(), HeaderError> {
        if list.count > MAX_BITMAPS {
            return damaged(BITMAPS, "it is longer than 65,535");
        }
        let mut end = list.start;
        let mut tables = Vec::new();
        for _ in 0..list.count {
            let (start, record) = self.record::<24>(BITMAPS, end)?;
            let entries = be32(&record, 8).unwrap_or(0);
            tables.push((be64(&record, 0).unwrap_or(0), u64::from(entries) * 8));
            let name = u64::from(be16(&record, 18));
            let more = be32(&record, 20).unwrap_or(0);
            end = start + 24 + name + u64::from(more);
        }
        self.other_table(BITMAPS, list.start, end - list.start)?;
        for (start, length) in tables {
            let range = self.other_table(BITMAPS, start, length)?;
            for_each_entry(self.file, &range, |entry| {
                if entry & L2_OFFSET == 0 {
                    return Ok(());
                }
                let cluster = self.cluster(BITMAPS, entry & L2_OFFSET)?;
                if self.found.contains(cluster) {
                    return damaged(BITMAPS, "a bitmap lies where a table is");
                }
                self.found.fixed.insert(cluster);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The offset of the next record behind `end`, and the fixed part of that record.
    fn record<const N: usize>(&self, name: &'static str, end: u64) -> Result<(u64, [u8; N]), HeaderError> {
        let start = end.checked_next_multiple_of(8).unwrap_or(u64::MAX);
        if start.saturating_add(N as u64) > self.length {
            return damaged(name, "it ends behind the file");
        }
        let mut record = [0; N];
        self.file.read_exact_at(&mut record, start)?;
        Ok((start, record))
    }

    /// Records a table of a snapshot or a bitmap, or the list of them, if that many bytes may still be read.
    fn other_table(
        &mut self,
        name: &'static str,
        start: u64,
        length: u64,
    ) -> Result<Range<u64>, HeaderError> {
        self.left = self.left.checked_sub(length).ok_or(HeaderError::OtherTables)?;
        let range = start..start.saturating_add(length);
        if length > 0 {
            self.table(name, &range)?;
        }
        Ok(range)
    }

    fn check_counts(&mut self) -> Result<(), HeaderError> {
        let Self { found, counts, .. } = self;
        found
            .clusters()
            .try_for_each(|cluster| match counts.of(cluster)? {
                0 => damaged(REFCOUNTS, "it counts metadata as free space"),
                _ => Ok(()),
            })
    }
}

fn damaged<T>(table: &'static str, what: &'static str) -> Result<T, HeaderError> {
    Err(HeaderError::Table { table, what })
}

/// Calls a function for each entry of a table, which is inside of the file.
fn for_each_entry(
    file: &File,
    range: &Range<u64>,
    mut each: impl FnMut(u64) -> Result<(), HeaderError>,
) -> Result<(), HeaderError> {
    let mut bytes = vec![0; ENTRIES * 8];
    let mut position = range.start;
    while position < range.end {
        let length = (range.end - position).min(bytes.len() as u64);
        let bytes = &mut bytes[..length as usize];
        file.read_exact_at(bytes, position)?;
        for entry in bytes.as_chunks::<8>().0 {
            each(u64::from_be_bytes(*entry))?;
        }
        position += length;
    }
    Ok(())
}

fn be16(bytes: &[u8], offset: usize) -> u16 {
    let bytes = bytes.get(offset..).and_then(|bytes| bytes.first_chunk());
    u16::from_be_bytes(*bytes.unwrap_or(&[0; 2]))
}
