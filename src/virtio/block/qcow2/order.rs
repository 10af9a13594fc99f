//! Writes metadata to the file in an order that keeps the image consistent if the process is killed at any moment.
//!
//! The library keeps reference counts in memory until it is flushed, but writes a pointer to a new table (an entry of the L1
//! table or of the refcount table) at once. If the process were killed in between, the cluster of that table would count as
//! free. So these pointers wait here until the reference count of what they point to is in the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::header::{Header, Tables};
use super::read::read_or_zeroes;
use super::refcounts::{count_in, counts_in_block_bits};

/// How many bytes of the header are needed to find the tables.
pub const HEADER_START: usize = 72;
/// Far above the number of entries that wait between two flushes of the library's cache. A damaged image can make more wait.
const MAX_WAITING: usize = 4096;

const ENTRY: usize = 8;
pub const L2_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
pub const REFCOUNT_BLOCK_OFFSET: u64 = !511;

#[derive(Debug)]
pub struct Order {
    cluster_bits: u32,
    refcount_order: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tables: Tables,
    /// The entries that wait, by their offsets in the file.
    waiting: BTreeMap<u64, u64>,
}

impl Order {
    pub fn new(header: &Header) -> Self {
        let state = State {
            tables: header.tables.clone(),
            waiting: BTreeMap::new(),
        };
        Self {
            cluster_bits: header.cluster_bits,
            refcount_order: header.refcount_order,
            state: Mutex::new(state),
        }
    }

    /// Writes `bytes`, except for entries of the two tables that point to a cluster whose reference count is not in the file
    /// yet.
    pub fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        let range = offset..offset.saturating_add(bytes.len() as u64);
        if state.is_in_a_table(&range) {
            state.hold_back(file, bytes, offset)?;
        } else {
            file.write_all_at(bytes, offset)?;
        }
        if offset == 0 && bytes.len() >= HEADER_START {
            state.tables_moved(Tables::of(bytes, self.cluster_bits));
        }
        if state.waiting.is_empty() {
            return Ok(());
        }
        self.release_ready(file, &mut state)?;
        match state.waiting.len() {
            0..=MAX_WAITING => Ok(()),
            _ => state.release_all(file),
        }
    }

    /// Writes all entries that wait. To be called when the library has written all of its reference counts.
    pub fn release_all(&self, file: &File) -> io::Result<()> {
        let mut state = self.state();
        self.release_ready(file, &mut state)?;
        // In a damaged image some entries may still wait.
        state.release_all(file)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes all entries that are ready. Repeats that, because writing one entry can make others ready.
    fn release_ready(&self, file: &File, state: &mut State) -> io::Result<()> {
        loop {
            let mut released = false;
            for (place, entry) in state.waiting.clone() {
                if self.is_ready(file, state, place, entry)? {
                    state.release(file, place, entry)?;
                    released = true;
                }
            }
            if !released {
                return Ok(());
            }
        }
    }

    fn is_ready(&self, file: &File, state: &State, place: u64, entry: u64) -> io::Result<bool> {
        let is_block = state.tables.refcounts.contains(&place);
        let target = match is_block {
            true => entry & REFCOUNT_BLOCK_OFFSET,
            false => entry & L2_OFFSET,
        };
        let cluster = target >> self.cluster_bits;
        let bits = counts_in_block_bits(self.cluster_bits, self.refcount_order);
        let counting_entry = (state.tables.refcounts.start).saturating_add((cluster >> bits) * ENTRY as u64);
        if target == 0 {
            return Ok(true);
        }
        // A refcount block can hold its own reference count.
        let block = match is_block && counting_entry == place {
            true => target,
            false if !state.tables.refcounts.contains(&counting_entry) => return Ok(false),
            false => read_entry(file, counting_entry)? & REFCOUNT_BLOCK_OFFSET,
        };
        let index = cluster & ((1 << bits) - 1);
        Ok(block != 0 && is_counted(file, block, index, self.refcount_order)?)
    }
}

impl State {
    fn is_in_a_table(&self, range: &Range<u64>) -> bool {
        [&self.tables.l1, &self.tables.refcounts]
            .into_iter()
            .any(|table| table.start < range.end && range.start < table.end)
    }

    fn hold_back(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut rest = Vec::from(bytes);
        for (index, new) in bytes.chunks_exact(ENTRY).enumerate() {
            let place = offset + (index * ENTRY) as u64;
            if !self.is_in_a_table(&(place..place + ENTRY as u64)) {
                continue;
            }
            let now = read_entry(file, place)?.to_be_bytes();
            match new == now {
                true => self.waiting.remove(&place),
                false => {
                    let new = new.try_into().map_or(0, u64::from_be_bytes);
                    self.waiting.insert(place, new)
                }
            };
            rest[index * ENTRY..][..ENTRY].copy_from_slice(&now);
        }
        file.write_all_at(&rest, offset)
    }

    /// Takes the new places of the tables. Entries that waited for the old tables are dropped, because the new tables already
    /// have them.
    fn tables_moved(&mut self, tables: Option<Tables>) {
        let Some(tables) = tables else { return };
        for (old, new) in [
            (&self.tables.l1, &tables.l1),
            (&self.tables.refcounts, &tables.refcounts),
        ] {
            if old.start != new.start {
                self.waiting.retain(|place, _| !old.contains(place));
            }
        }
        self.tables = tables;
    }

    fn release(&mut self, file: &File, place: u64, entry: u64) -> io::Result<()> {
        file.write_all_at(&entry.to_be_bytes(), place)?;
        self.waiting.remove(&place);
        Ok(())
    }

    fn release_all(&mut self, file: &File) -> io::Result<()> {
        while let Some((&place, &entry)) = self.waiting.first_key_value() {
            self.release(file, place, entry)?;
        }
        Ok(())
    }
}

/// Whether the count at `index` of the refcount block at `block` is above zero.
fn is_counted(file: &File, block: u64, index: u64, refcount_order: u32) -> io::Result<bool> {
    let bits = 1_u64 << refcount_order;
    let mut bytes = [0; 8];
    read_or_zeroes(file, &mut bytes, block + index * bits / 8)?;
    // Several counts of less than a byte are in one byte.
    let index = index % (8 / bits).max(1);
    Ok(count_in(&bytes, index, refcount_order) > 0)
}

fn read_entry(file: &File, place: u64) -> io::Result<u64> {
    let mut entry = [0; ENTRY];
    read_or_zeroes(file, &mut entry, place)?;
    Ok(u64::from_be_bytes(entry))
}

#[cfg(test)]
#[path = "order_test.rs"]
mod tests;
