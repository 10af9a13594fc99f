//! Address ranges to devices, for port I/O and for MMIO.
//!
//! A bus is filled while the machine is built and never changes while it runs, so vCPUs look devices up
//! without a lock; each device guards its own registers.

use std::sync::Arc;

/// A device as a bus sees it: registers at offsets from the start of its range.
///
/// Offsets and lengths come from the guest and may be anything inside the range. A read must fill `data`;
/// it arrives filled with `0xff`, what an absent register reads as.
pub trait BusDevice: Send + Sync {
    fn read(&self, offset: u64, data: &mut [u8]);
    fn write(&self, offset: u64, data: &[u8]);
}

struct Entry {
    base: u64,
    length: u64,
    device: Arc<dyn BusDevice>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the range of {length:#x} bytes at {base:#x} is empty, wraps around, or is taken by another device")]
pub struct RangeTaken {
    base: u64,
    length: u64,
}

/// Devices by address. Ranges never overlap.
#[derive(Default)]
pub struct Bus {
    /// Sorted by base.
    entries: Vec<Entry>,
}

impl Bus {
    /// Attaches `device` to `length` addresses from `base`.
    pub fn attach(&mut self, base: u64, length: u64, device: Arc<dyn BusDevice>) -> Result<(), RangeTaken> {
        let taken = RangeTaken { base, length };
        let last = match length {
            0 => return Err(taken),
            _ => base.checked_add(length - 1).ok_or(RangeTaken { base, length })?,
        };
        let index = self.entries.partition_point(|entry| entry.base < base);
        let overlaps_next = self.entries.get(index).is_some_and(|next| next.base <= last);
        let overlaps_previous =
            index > 0 && base - self.entries[index - 1].base < self.entries[index - 1].length;
        if overlaps_next || overlaps_previous {
            return Err(taken);
        }
        self.entries.insert(index, Entry { base, length, device });
        Ok(())
    }

    /// Reads from the device at `address`; addresses of no device read as all ones.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((device, offset)) = self.find(address, data.len()) {
            device.read(offset, data);
        }
    }

    /// Writes to the device at `address`; writes to no device are lost, as on a real bus.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address, data.len()) {
            device.write(offset, data);
        }
    }

    /// The device that the whole access falls into. An access that leaves its range belongs to nobody.
    fn find(&self, address: u64, length: usize) -> Option<(&dyn BusDevice, u64)> {
        let index = self.entries.partition_point(|entry| entry.base <= address);
        let entry = &self.entries[index.checked_sub(1)?];
        let offset = address - entry.base;
        let end = offset.checked_add(length as u64)?;
        (end <= entry.length).then(|| (entry.device.as_ref(), offset))
    }
}

#[cfg(test)]
#[path = "bus_test.rs"]
mod tests;
