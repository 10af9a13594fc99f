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
    let highest_end = match &kernel.setup_header {
        Some(header) => u64::from(header.initrd_addr_max) + 1,
        None => layout::MEMORY_ABOVE_4G,
    };
    let limit = highest_end.min(layout::MMIO_HOLE);
    let lowest = kernel.end.0.next_multiple_of(PAGE).max(layout::HIGH_MEMORY);
    let room_below = |end: u64| end.min(limit).saturating_sub(lowest) & !(PAGE - 1);

    // Guest memory below the hole for devices is one region.
    let room = room_below(memory.iter().next().map_or(0, |region| region.len()));
    if size <= room {
        Ok(GuestAddress((lowest + room - size) & !(PAGE - 1)))
    } else if size <= room_below(limit) {
        Err(Problem::NoRoomForInitrd {
            size,
            room,
            needs: lowest + size,
        })
    } else {
        Err(Problem::InitrdTooLarge {
            size,
            room: room_below(limit),
            limit,
        })
    }
}

#[cfg(test)]
#[path = "initrd_test.rs"]
mod tests;
