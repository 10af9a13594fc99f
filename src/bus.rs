//! Maps address ranges to devices, for port I/O and for MMIO.
//!
//! Devices are attached while the machine is built. A bus never changes while the machine runs, so vCPUs look devices up
//! without a lock. Each device locks its own registers.

use std::sync::Arc;

/// A device on a bus: registers at offsets from the start of its range.
///
/// Offsets and lengths come from the guest and may be anything inside the range. Before a read the bus fills `data` with
/// `0xff`, which is what a register that does not exist reads as.
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

    /// Reads from the device at `address`. If there is none, `data` becomes all ones.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((device, offset)) = self.find(address, data.len()) {
            device.read(offset, data);
        }
    }

    /// Writes to the device at `address`. If there is none the write is lost, as on a real bus.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address, data.len()) {
            device.write(offset, data);
        }
    }

    /// The device whose range holds the whole access, and the offset in that range. None if the access reaches past the range.
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
