//! Guest memory: an anonymous mapping whose pages the host provides when the guest first touches them, large ones where that
//! is worth it.

use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use crate::x86::layout;

/// The size of the processor's large pages. Mappings are aligned to it, so that a large page of the guest can be one large
/// page of the host.
const LARGE_PAGE: usize = 2 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot map {size} bytes of guest memory: {source} (give the guest less with --memory)")]
    Map { size: u64, source: io::Error },
    #[error("cannot describe guest memory: {0}")]
    Describe(String),
}

/// Guest memory, and the host's mappings that hold it. They are unmapped when this is dropped.
pub struct Memory {
    guest: Arc<GuestMemoryMmap>,
    mappings: Vec<Mapping>,
}

impl Memory {
    /// Maps `size` bytes, with the hole for devices below 4 GiB. Large pages are used everywhere but at the guest addresses
    /// `small`: where a guest touches single pages, clearing a large page takes longer than it saves.
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
            // A core dump of this process is not to hold what the guest knows.
            mapping.advise(0..length, libc::MADV_DONTDUMP);
            for small in small.clone() {
                let clamp = |address: u64| address.clamp(start, start + size) - start;
                let within = clamp(small.start) as usize..clamp(small.end) as usize;
                mapping.advise(within, libc::MADV_NOHUGEPAGE);
            }
            // SAFETY: the mapping is `length` bytes. Drop leaves it mapped if anything still holds the guest memory.
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

    /// Where it is in this process.
    pub fn addresses(&self) -> Vec<Range<u64>> {
        let addresses = |mapping: &Mapping| {
            let start = mapping.start.as_ptr() as u64;
            start..start + mapping.length as u64
        };
        self.mappings.iter().map(addresses).collect()
    }

    /// Makes the host provide the pages of guest addresses `range`, which are below 4 GiB, before the guest touches them.
    /// Returns when all are provided, or early when `stop` is set.
    pub fn provide(&self, range: Range<u64>, stop: &AtomicBool) {
        let Some(low) = self.mappings.first() else { return };
        let end = (range.end as usize).min(low.length);
        for start in (range.start as usize..end).step_by(LARGE_PAGE) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            // Linux before 5.14 does not know this advice. There the host provides each page when the guest first touches it.
            low.advise(start..end.min(start + LARGE_PAGE), libc::MADV_POPULATE_WRITE);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // If a device still held guest memory, it would access what is unmapped. Leaking the mappings is the lesser evil.
        if Arc::get_mut(&mut self.guest).is_none() {
            log::error!("guest memory is still in use at its end");
            self.mappings.drain(..).for_each(std::mem::forget);
        }
    }
}

/// The start and length of each range of guest addresses that `size` bytes of memory take up.
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

/// Memory of the host. Between two of them there is always an unmapped gap or another mapping, because each is made with
/// padding behind it, of which at least a page is unmapped again.
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
        // SAFETY: the kernel chooses an address at which nothing is mapped.
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
        // SAFETY: `before` is less than the padding, so `start..start + length` is inside the mapping. Only the padding around
        // it is unmapped, and nothing uses that.
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

    /// Gives the host's kernel advice about a part of the mapping. The guest also runs if the kernel does not follow it.
    fn advise(&self, part: Range<usize>, advice: libc::c_int) {
        if part.is_empty() {
            return;
        }
        assert!(part.end <= self.length);
        // SAFETY: the part is inside the mapping, and the advice given here changes no contents.
        unsafe { libc::madvise(self.start.add(part.start).as_ptr().cast(), part.len(), advice) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and Memory drops it only when nothing else holds the guest memory.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod tests;
