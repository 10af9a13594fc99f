//! The barrier between a guest's data and the image's metadata.
//!
//! The tables of a hostile image can say anything: that a guest's data is where a table is, that a cluster in use is free, or
//! that two places of the disk share a cluster. So before each write of data the barrier checks that there is no table, and
//! at each write of a table it records which clusters have become tables. It learns where tables are from the walk at the
//! start (`metadata`) and from what the library has written since, and never from the reference counts.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use super::clusters::Clusters;
use super::header::{Header, Tables};
use super::metadata::Metadata;
use super::order::{HEADER_START, L2_OFFSET, REFCOUNT_BLOCK_OFFSET};
use super::read::read_or_zeroes;
use super::refcounts::{count_in, counts_in_block_bits};
use crate::virtio::block::image::opening::QCOW2_MAGIC;

const COMPRESSED: u64 = 1 << 62;
const SECTOR_BITS: u32 = 9;

#[derive(Debug)]
pub struct Barrier {
    cluster_bits: u32,
    refcount_order: u32,
    /// Whether the L2 tables name clusters of a data file, and none of this file.
    has_data_file: bool,
    /// Locked for reading while data is written, so that no cluster becomes a table meanwhile.
    state: RwLock<State>,
    /// Whether the image has misled the library to give away the cluster of a table, or to use it for another table. Then the
    /// tables that the library has in memory are wrong.
    is_misled: AtomicBool,
}

#[derive(Debug)]
struct State {
    tables: Tables,
    metadata: Metadata,
    /// Clusters that the library has written and that no table names yet. They are new tables, or data that it copied.
    claimed: Clusters,
}

impl Barrier {
    pub fn new(header: &Header, metadata: Metadata) -> Self {
        Self {
            cluster_bits: header.cluster_bits,
            refcount_order: header.refcount_order,
            has_data_file: header.data_file.is_some(),
            state: RwLock::new(State {
                tables: header.tables.clone(),
                metadata,
                claimed: Clusters::default(),
            }),
            is_misled: AtomicBool::new(false),
        }
    }

    /// Calls `write` to write data to `length` bytes at `offset`, unless there is a table.
    pub fn write_data<T>(
        &self,
        offset: u64,
        length: u64,
        write: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let clusters = self.clusters(offset, length);
        if state.metadata.has_any_of(clusters.clone()) || state.claimed.has_any_of(clusters) {
            return Err(damaged("its tables say that this data lies where a table is"));
        }
        write()
    }

    /// Fails if the library must not change the image any more.
    pub fn check(&self) -> io::Result<()> {
        match self.is_misled.load(Ordering::Relaxed) {
            true => Err(damaged(
                "its tables and reference counts contradict each other, so nothing more is changed in it",
            )),
            false => Ok(()),
        }
    }

    /// Checks the bytes that were read at `offset`, if they are an L2 table. Fails if an entry names metadata, or a cluster
    /// that begins at or behind `end`, where the file ends. Then nothing that the table maps can be used: the library takes a
    /// table as a whole and writes it back as a whole, so an entry that is kept from it would be lost in the file.
    pub fn check_read(&self, bytes: &[u8], offset: u64, end: u64) -> io::Result<()> {
        if self.has_data_file || bytes.len() as u64 != 1 << self.cluster_bits {
            return Ok(());
        }
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if !state.metadata.l2_tables.contains(offset >> self.cluster_bits) {
            return Ok(());
        }
        for entry in bytes.as_chunks::<8>().0 {
            let Some(clusters) = self.named_by(u64::from_be_bytes(*entry)) else {
                continue;
            };
            if clusters.start << self.cluster_bits >= end {
                return Err(damaged("an L2 table names a cluster behind the end of the file"));
            }
            if state.metadata.has_any_of(clusters) {
                return Err(damaged("an L2 table names a cluster that is a table"));
            }
        }
        Ok(())
    }

    /// The clusters of the file that an entry of an L2 table names. None if it names none.
    fn named_by(&self, entry: u64) -> Option<Range<u64>> {
        if entry & COMPRESSED == 0 {
            let cluster = (entry & L2_OFFSET) >> self.cluster_bits;
            return (entry & L2_OFFSET != 0).then_some(cluster..cluster + 1);
        }
        let offset_bits = 62 - (self.cluster_bits - 8);
        let offset = entry & ((1 << offset_bits) - 1) & 0x00ff_ffff_ffff_ffff;
        let sectors = ((entry & (COMPRESSED - 1)) >> offset_bits) + 1;
        let end = ((offset >> SECTOR_BITS) + sectors) << SECTOR_BITS;
        Some(offset >> self.cluster_bits..end.div_ceil(1 << self.cluster_bits))
    }

    /// To be called before the library writes part of a table to the file. Fails if the write would put a table where another
    /// one is, or would mark the cluster of a table as free.
    pub fn before_write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        let clusters = self.clusters(offset, bytes.len() as u64);
        let is_cluster = bytes.len() as u64 == 1 << self.cluster_bits && clusters.end == clusters.start + 1;
        let write = offset..offset.saturating_add(bytes.len() as u64);
        let is_taken = match () {
            _ if clusters.contains(&0) => self.header(&mut state, file, bytes, &write)?,
            _ if contains(&state.tables.l1, &write) => self.l1_entries(&mut state, bytes),
            _ if contains(&state.tables.refcounts, &write) => {
                let first = (offset - state.tables.refcounts.start) / 8;
                self.refcount_entries(&mut state, bytes, first)
            }
            _ if is_cluster && state.metadata.blocks.contains_key(&clusters.start) => {
                self.counts_all_metadata(&state, bytes, clusters.start)
            }
            _ if is_cluster && state.metadata.l2_tables.contains(clusters.start) => true,
            _ if state.metadata.has_any_of(clusters.clone()) => false,
            _ => {
                for cluster in clusters {
                    state.claimed.insert(cluster);
                }
                true
            }
        };
        if !is_taken {
            self.is_misled.store(true, Ordering::Relaxed);
        }
        self.check()
    }

    /// To be called when a write has failed for which [`Barrier::before_write`] was called. If it was the header, nobody knows
    /// which of two refcount tables the header names now.
    pub fn failed(&self, offset: u64) {
        if offset == 0 {
            self.is_misled.store(true, Ordering::Relaxed);
        }
    }

    /// To be called when a call of the library has returned. A cluster that it has written and named in no table is data, or is
    /// free again.
    pub fn forget_claims(&self) {
        // Most calls write no table. Then nothing is claimed, and this need not wait until other threads have written data.
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let is_empty = state.claimed.is_empty();
        drop(state);
        if !is_empty {
            self.state().claimed.clear();
        }
    }

    /// Takes a write to the header, which says where the tables are. Only the refcount table can move.
    fn header(&self, state: &mut State, file: &File, bytes: &[u8], write: &Range<u64>) -> io::Result<bool> {
        let is_header =
            write.start == 0 && write.end <= 1 << self.cluster_bits && bytes.starts_with(&QCOW2_MAGIC);
        if !is_header || bytes.len() < HEADER_START {
            return Ok(false);
        }
        let Some(tables) = Tables::of(bytes, self.cluster_bits) else {
            return Ok(false);
        };
        if tables == state.tables {
            return Ok(true);
        }
        if tables.l1 != state.tables.l1 {
            return Ok(false);
        }
        let new = self.clusters_of(&tables.refcounts);
        if !new.clone().all(|cluster| state.claimed.remove(cluster)) {
            return Ok(false);
        }
        for cluster in self.clusters_of(&state.tables.refcounts) {
            state.metadata.fixed.remove(cluster);
        }
        for cluster in new {
            state.metadata.fixed.insert(cluster);
        }
        let mut entries = vec![0; (tables.refcounts.end - tables.refcounts.start) as usize];
        read_or_zeroes(file, &mut entries, tables.refcounts.start)?;
        state.tables = tables;
        Ok(self.refcount_entries(state, &entries, 0))
    }

    fn l1_entries(&self, state: &mut State, bytes: &[u8]) -> bool {
        bytes.as_chunks::<8>().0.iter().all(|entry| {
            let offset = u64::from_be_bytes(*entry) & L2_OFFSET;
            let cluster = offset >> self.cluster_bits;
            match state.claimed.remove(cluster) {
                true => state.metadata.l2_tables.insert(cluster),
                false => offset == 0 || state.metadata.l2_tables.contains(cluster),
            }
        })
    }

    fn refcount_entries(&self, state: &mut State, bytes: &[u8], first: u64) -> bool {
        let bits = counts_in_block_bits(self.cluster_bits, self.refcount_order);
        let mut entries = (first..).zip(bytes.as_chunks::<8>().0);
        entries.all(|(index, entry)| {
            let offset = u64::from_be_bytes(*entry) & REFCOUNT_BLOCK_OFFSET;
            let cluster = offset >> self.cluster_bits;
            match state.claimed.remove(cluster) {
                true => state.metadata.blocks.insert(cluster, index << bits).is_none(),
                false => offset == 0 || state.metadata.blocks.get(&cluster) == Some(&(index << bits)),
            }
        })
    }

    /// Whether the new contents of the refcount block in `cluster` count all metadata in the clusters that it counts.
    fn counts_all_metadata(&self, state: &State, block: &[u8], cluster: u64) -> bool {
        let Some(&first) = state.metadata.blocks.get(&cluster) else {
            return false;
        };
        let counted =
            first..first.saturating_add(1 << counts_in_block_bits(self.cluster_bits, self.refcount_order));
        let metadata = &state.metadata;
        let blocks = metadata
            .blocks
            .range(counted.clone())
            .map(|(cluster, _)| *cluster);
        (metadata.fixed.within(counted.clone()))
            .chain(metadata.l2_tables.within(counted))
            .chain(blocks)
            .all(|cluster| count_in(block, cluster - first, self.refcount_order) > 0)
    }

    fn state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clusters that a range touches.
    fn clusters(&self, offset: u64, length: u64) -> Range<u64> {
        let end = offset.saturating_add(length);
        offset >> self.cluster_bits..end.div_ceil(1 << self.cluster_bits)
    }

    fn clusters_of(&self, range: &Range<u64>) -> Range<u64> {
        self.clusters(range.start, range.end - range.start)
    }
}

fn contains(outer: &Range<u64>, inner: &Range<u64>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

fn damaged(what: &str) -> io::Error {
    io::Error::other(format!(
        "the image is damaged: {what} (repair it: qemu-img check -r all IMAGE)"
    ))
}
