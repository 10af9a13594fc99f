//! Places the initrd: as high in guest memory as the boot protocol allows ("ramdisk_image", "initrd_addr_max"), where it
//! is out of the kernel's way. The built-in one is placed below the built-in kernel, near the other memory that its boot
//! uses, so that fewer large pages are touched.

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::Kernel;
use super::error::{Error, Problem};
use super::image::{Image, Source};
use crate::x86::layout;

const PAGE: u64 = 0x1000;

/// An initrd in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initrd {
    pub address: GuestAddress,
    /// In bytes.
    pub size: u64,
}

/// Puts an initrd into guest memory: page-aligned, as high as allowed, never over the kernel.
pub fn load_initrd(image: &Image, memory: &GuestMemoryMmap, kernel: &Kernel) -> Result<Initrd, Error> {
    load(image, memory, kernel).map_err(|problem| image.error(problem))
}

fn load(mut image: &Image, memory: &GuestMemoryMmap, kernel: &Kernel) -> Result<Initrd, Problem> {
    let size = image.length()?;
    let below = kernel.start.0.saturating_sub(layout::HIGH_MEMORY);
    let address = match image {
        Image::BuiltIn { .. } if size <= below => GuestAddress(layout::HIGH_MEMORY),
        _ => place(size, memory, kernel)?,
    };
    image.share(0, size, memory, address)?;
    Ok(Initrd { address, size })
}

fn place(size: u64, memory: &GuestMemoryMmap, kernel: &Kernel) -> Result<GuestAddress, Problem> {
    // PVH's module list and the zero page's `ramdisk_image` both reach 4 GiB; a setup header may say less.
    let limit = match &kernel.setup_header {
        Some(header) => u64::from(header.initrd_addr_max) + 1,
        None => layout::MEMORY_ABOVE_4G,
    };
    let lowest = kernel.end.0.next_multiple_of(PAGE).max(layout::HIGH_MEMORY);

    let mut highest = None;
    let mut largest = 0;
    let mut cut_by_limit = false;
    for region in memory.iter() {
        let end = region.start_addr().0 + region.len();
        let bottom = region.start_addr().0.max(lowest);
        let room = end.min(limit).saturating_sub(bottom) & !(PAGE - 1);
        if size <= room {
            highest = Some(GuestAddress((bottom + room - size) & !(PAGE - 1)));
        }
        largest = largest.max(room);
        cut_by_limit |= end > limit;
    }
    if let Some(address) = highest {
        return Ok(address);
    }
    let remedy = match cut_by_limit {
        true => "make it smaller: the kernel takes none higher in memory",
        false => "make it smaller, or give the guest more with --memory",
    };
    Err(Problem::NoRoomForInitrd {
        size,
        room: largest,
        remedy,
    })
}

#[cfg(test)]
#[path = "initrd_test.rs"]
mod tests;
