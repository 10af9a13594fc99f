//! `hvm_start_info`: the structure that a kernel finds at its PVH entry (Xen PVH boot ABI, version 1).

use linux_loader::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::{layout, memory_map::memory_map};

/// The version of the structure. It is the first one that has a memory map.
const VERSION: u32 = 1;

/// What follows the start info in the page of [`layout::START_INFO`]: a module list of one entry, then the memory map.
const MODULE_LIST: u64 = layout::START_INFO + size_of::<hvm_start_info>() as u64;
const MEMORY_MAP: u64 = MODULE_LIST + size_of::<hvm_modlist_entry>() as u64;
/// Where the memory map must end: the zero page comes next.
const END: u64 = layout::ZERO_PAGE;
const RANGE_SIZE: usize = size_of::<hvm_memmap_table_entry>();
const RANGES_MAX: usize = (END - MEMORY_MAP) as usize / RANGE_SIZE;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "a memory map of {0} ranges does not fit beside the PVH start info, which has room for {RANGES_MAX}"
    )]
    TooManyRanges(usize),
    #[error(
        "cannot write the PVH start info at guest address {at:#x}: {0} (guest memory must cover the first MiB)",
        at = layout::START_INFO
    )]
    Memory(#[source] GuestMemoryError),
}

/// Writes the start info to [`layout::START_INFO`], the address that EBX holds at the PVH entry.
///
/// `initrd` is an address and a size in bytes, and becomes the only module. `rsdp` is the address of the ACPI tables.
pub fn write(
    memory: &GuestMemoryMmap,
    command_line: GuestAddress,
    initrd: Option<(u64, u64)>,
    rsdp: Option<GuestAddress>,
) -> Result<(), Error> {
    let ranges = memory_map(memory);
    if ranges.len() > RANGES_MAX {
        return Err(Error::TooManyRanges(ranges.len()));
    }
    let mut start_info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        cmdline_paddr: command_line.raw_value(),
        rsdp_paddr: rsdp.map_or(0, |address| address.raw_value()),
        memmap_paddr: MEMORY_MAP,
        memmap_entries: ranges.len() as u32,
        ..Default::default()
    };
    if let Some((paddr, size)) = initrd {
        start_info.nr_modules = 1;
        start_info.modlist_paddr = MODULE_LIST;
        let module = hvm_modlist_entry {
            paddr,
            size,
            ..Default::default()
        };
        memory
            .write_obj(module, GuestAddress(MODULE_LIST))
            .map_err(Error::Memory)?;
    }
    for (range, address) in ranges.iter().zip((MEMORY_MAP..).step_by(RANGE_SIZE)) {
        let entry = hvm_memmap_table_entry {
            addr: range.start,
            size: range.size,
            type_: range.kind as u32,
            ..Default::default()
        };
        memory
            .write_obj(entry, GuestAddress(address))
            .map_err(Error::Memory)?;
    }
    memory
        .write_obj(start_info, GuestAddress(layout::START_INFO))
        .map_err(Error::Memory)
}

#[cfg(test)]
#[path = "pvh_test.rs"]
mod tests;
