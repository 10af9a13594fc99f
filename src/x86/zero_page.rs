//! The zero page, `struct boot_params`, for the 64-bit entry of Linux (Linux x86 boot protocol).

use linux_loader::bootparam::{E820_MAX_ENTRIES_ZEROPAGE, boot_e820_entry, boot_params, setup_header};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::{layout, memory_map::memory_map};

/// `boot_flag` and `header` of every kernel since boot protocol 2.00: 0xaa55 and "HdrS".
const BOOT_FLAG: u16 = 0xaa55;
const HEADER: u32 = u32::from_le_bytes(*b"HdrS");
/// Boot protocol 2.15, for kernels that bring no header of their own (ELF).
const VERSION: u16 = 0x20f;
/// `type_of_loader` of a loader without an assigned ID. It must not be 0, since Linux then ignores the initrd.
const TYPE_OF_LOADER: u8 = 0xff;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a memory map of {0} ranges does not fit the zero page, which holds {E820_MAX_ENTRIES_ZEROPAGE}")]
    TooManyRanges(usize),
    #[error(
        "cannot write the zero page at guest address {at:#x}: {0} (guest memory must cover the first MiB)",
        at = layout::ZERO_PAGE
    )]
    Memory(#[source] GuestMemoryError),
}

/// Writes the zero page to [`layout::ZERO_PAGE`].
///
/// `setup_header` is the header of the bzImage, if the kernel came in one. `initrd` is an address and a size in bytes,
/// `rsdp` the address of the ACPI tables.
pub fn write(
    memory: &GuestMemoryMmap,
    setup_header: Option<&setup_header>,
    command_line: GuestAddress,
    initrd: Option<(u64, u64)>,
    rsdp: Option<GuestAddress>,
) -> Result<(), Error> {
    let mut params = boot_params {
        hdr: setup_header.copied().unwrap_or_default(),
        ..Default::default()
    };
    if setup_header.is_none() {
        params.hdr.boot_flag = BOOT_FLAG;
        params.hdr.header = HEADER;
        params.hdr.version = VERSION;
    }
    params.hdr.type_of_loader = TYPE_OF_LOADER;
    // The address of a list of further data. Coracle makes no such list, so an address from the file would be wrong.
    params.hdr.setup_data = 0;

    (params.hdr.cmd_line_ptr, params.ext_cmd_line_ptr) = halves(command_line.raw_value());
    let (address, size) = initrd.unwrap_or_default();
    (params.hdr.ramdisk_image, params.ext_ramdisk_image) = halves(address);
    (params.hdr.ramdisk_size, params.ext_ramdisk_size) = halves(size);
    params.acpi_rsdp_addr = rsdp.map_or(0, |address| address.raw_value());

    let ranges = memory_map(memory);
    let too_many = || Error::TooManyRanges(ranges.len());
    params.e820_entries = u8::try_from(ranges.len()).map_err(|_| too_many())?;
    let entries = params.e820_table.get_mut(..ranges.len()).ok_or_else(too_many)?;
    for (entry, range) in entries.iter_mut().zip(&ranges) {
        *entry = boot_e820_entry {
            addr: range.start,
            size: range.size,
            r#type: range.kind as u32,
        };
    }
    memory
        .write_obj(params, GuestAddress(layout::ZERO_PAGE))
        .map_err(Error::Memory)
}

/// Low and high 32 bits. The protocol has the high halves in other fields, because they were added later.
fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

#[cfg(test)]
#[path = "zero_page_test.rs"]
mod tests;
