//! Guest memory: anonymous, never populated up front, huge pages asked for.

use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use crate::x86::layout;

/// The processor's large pages, and what mappings are aligned to, so that a guest's large page can be one of
/// the host's.
const LARGE_PAGE: usize = 2 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot map {size} bytes of guest memory: {source} (give the guest less with --memory)")]
    Map { size: u64, source: io::Error },
    #[error("cannot describe guest memory: {0}")]
    Describe(String),
}

/// Guest memory and the mappings behind it, which end with it.
pub struct Memory {
    guest: Arc<GuestMemoryMmap>,
    mappings: Vec<Mapping>,
}

impl Memory {
    /// Maps `size` bytes, with the hole for devices below 4 GiB. Large pages are asked for, but for the guest addresses
    /// `small`: where a guest touches little, they would cost more than they bring.
    pub fn allocate(size: u64, small: impl IntoIterator<Item = Range<u64>> + Clone) -> Result<Self, Error> {
        let mut regions = Vec::new();
        let mut mappings = Vec::new();
        for (start, size) in ranges(size) {
            let length = usize::try_from(size).map_err(|_| Error::Map {
                size,
                source: io::ErrorKind::OutOfMemory.into(),
            })?;
            let mapping = Mapping::new(length).map_err(|source| Error::Map { size, source })?;
            mapping.advise(0..length, libc::MADV_HUGEPAGE);
            for small in small.clone() {
                let clamp = |address: u64| address.clamp(start, start + size) - start;
                let within = clamp(small.start) as usize..clamp(small.end) as usize;
                mapping.advise(within, libc::MADV_NOHUGEPAGE);
            }
            // SAFETY: the mapping is `length` bytes, and Drop keeps it as long as anybody holds the guest memory.
            let region = unsafe {
                MmapRegionBuilder::new(length)
                    .with_raw_mmap_pointer(mapping.start.as_ptr())
                    .with_mmap_prot(PROT_READ | PROT_WRITE)
                    .with_mmap_flags(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
                    .build()
            }
            .map_err(|error| Error::Describe(error.to_string()))?;
            let region = GuestRegionMmap::new(region, GuestAddress(start))
                .ok_or_else(|| Error::Describe(format!("{size:#x} bytes at {start:#x} wrap around")))?;
            regions.push(region);
            mappings.push(mapping);
        }
        let guest =
            GuestMemoryMmap::from_regions(regions).map_err(|error| Error::Describe(error.to_string()))?;
        Ok(Self {
            guest: Arc::new(guest),
            mappings,
        })
    }

    pub fn guest(&self) -> &Arc<GuestMemoryMmap> {
        &self.guest
    }

    /// Has the host provide the pages of guest addresses `range`, which are below 4 GiB, before the guest touches them,
    /// until `stop` is set or all are there.
    pub fn provide(&self, range: Range<u64>, stop: &AtomicBool) {
        let Some(low) = self.mappings.first() else { return };
        let end = (range.end as usize).min(low.length);
        for start in (range.start as usize..end).step_by(LARGE_PAGE) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            // Kernels before Linux 5.14 do not know it: then the guest's first touch does the same.
            low.advise(start..end.min(start + LARGE_PAGE), libc::MADV_POPULATE_WRITE);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // A device that still held guest memory would find its mapping gone: then rather leak it.
        if Arc::get_mut(&mut self.guest).is_none() {
            log::error!("guest memory is still in use at its end");
            self.mappings.drain(..).for_each(std::mem::forget);
        }
    }
}

/// The ranges of guest addresses that `size` bytes of memory take: start and length.
fn ranges(size: u64) -> Vec<(u64, u64)> {
    let low = size.min(layout::MMIO_HOLE);
    let high = size - low;
    let mut ranges = vec![(0, low)];
    if high > 0 {
        ranges.push((layout::MEMORY_ABOVE_4G, high));
    }
    ranges
}

/// The guest address behind the last byte of `size` bytes of memory.
pub fn end(size: u64) -> u64 {
    ranges(size)
        .last()
        .map_or(0, |(start, length)| start.saturating_add(*length))
}

struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: a shared Mapping gives no access to what is mapped.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length` bytes from an address that is a multiple of [`LARGE_PAGE`].
    fn new(length: usize) -> io::Result<Self> {
        let padded = length.checked_add(LARGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice takes no memory from anybody.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                padded,
                PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                -1,
                0,
            )
        };
        let address = match NonNull::new(address.cast::<u8>()) {
            Some(address) if address.as_ptr().cast() != MAP_FAILED => address,
            _ => return Err(io::Error::last_os_error()),
        };
        let before = address.align_offset(LARGE_PAGE);
        let after = LARGE_PAGE - before;
        // SAFETY: `before` is below the padding, so the result stays inside the mapping; what is unmapped is the
        // padding around `start..start + length`, which nobody uses.
        let start = unsafe {
            let start = address.add(before);
            if before > 0 {
                libc::munmap(address.as_ptr().cast(), before);
            }
            libc::munmap(start.add(length).as_ptr().cast(), after);
            start
        };
        Ok(Self { start, length })
    }

    /// Gives the kernel advice about a part of the mapping. Where it is not taken the guest runs all the same.
    fn advise(&self, part: Range<usize>, advice: libc::c_int) {
        if part.is_empty() {
            return;
        }
        assert!(part.end <= self.length);
        // SAFETY: the part is within the mapping, and these pieces of advice change nothing that is in it.
        unsafe { libc::madvise(self.start.add(part.start).as_ptr().cast(), part.len(), advice) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and Memory drops it only when nobody else holds the guest memory.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod tests;
