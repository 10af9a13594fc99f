//! Guest memory for a device that makes many accesses, nearly all of them to one region.

use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress, VolatileSlice,
};

/// Guest memory that looks for an address first in the region of the address before.
#[derive(Clone, Copy)]
pub struct RecentMemory<'m> {
    pub all: &'m GuestMemoryMmap,
    /// The region of the last address, and the guest address of its beginning.
    region: VolatileSlice<'m>,
    start: GuestAddress,
}

impl<'m> RecentMemory<'m> {
    pub fn new(all: &'m GuestMemoryMmap) -> Self {
        Self {
            all,
            region: VolatileSlice::from(&mut [] as &mut [u8]),
            start: GuestAddress(0),
        }
    }

    /// `length` bytes from `address` on, if they lie in one region.
    #[inline]
    pub fn get_slice(&mut self, address: GuestAddress, length: usize) -> Option<VolatileSlice<'m>> {
        // For an address before the region the subtraction wraps, and the offset is past the region's end.
        let offset = address.0.wrapping_sub(self.start.0) as usize;
        match self.region.subslice(offset, length) {
            Ok(slice) => Some(slice),
            Err(_) => self.find_slice(address, length),
        }
    }

    #[cold]
    fn find_slice(&mut self, address: GuestAddress, length: usize) -> Option<VolatileSlice<'m>> {
        let region = self.all.find_region(address)?;
        let size = usize::try_from(region.len()).ok()?;
        self.region = region.get_slice(MemoryRegionAddress(0), size).ok()?;
        self.start = region.start_addr();
        let offset = (address.0 - self.start.0) as usize;
        self.region.subslice(offset, length).ok()
    }
}

#[cfg(test)]
#[path = "recent_memory_test.rs"]
mod tests;
