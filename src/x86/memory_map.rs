//! The memory map that a kernel is given. It is the same in both boot protocols.

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::layout;

/// Address range types of ACPI 6.4 section 15; the Linux and the Xen PVH boot protocols use the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    Ram = 1,
    Reserved = 2,
}

/// `size` bytes from guest address `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub size: u64,
    pub kind: Kind,
}

/// Start and end of each part of the address space where guest memory is usable RAM. The parts leave out the holes of a
/// PC and the tables that Coracle writes for the whole run.
const RAM_WINDOWS: [(u64, u64); 3] = [
    (0, layout::LOW_MEMORY_END),
    (layout::HIGH_MEMORY, layout::MMIO_HOLE),
    (layout::MEMORY_ABOVE_4G, u64::MAX),
];

/// End of the extended BIOS data area, where a PC's video memory begins.
pub(super) const BIOS_DATA_END: u64 = 0xa_0000;

/// What a kernel must leave alone: the extended BIOS data area, which holds the MP table, and the ACPI tables.
const RESERVED: [Range; 2] = [
    Range {
        start: layout::LOW_MEMORY_END,
        size: BIOS_DATA_END - layout::LOW_MEMORY_END,
        kind: Kind::Reserved,
    },
    Range {
        start: layout::ACPI_TABLES,
        size: layout::ACPI_TABLES_END - layout::ACPI_TABLES,
        kind: Kind::Reserved,
    },
];

/// The memory map of `memory`, sorted by address; no two ranges overlap.
pub fn memory_map(memory: &GuestMemoryMmap) -> Vec<Range> {
    from_regions(
        memory
            .iter()
            .map(|region| (region.start_addr().raw_value(), region.len())),
    )
}

/// The memory map of guest memory made of `regions`, each a start and a size; regions never overlap.
fn from_regions(regions: impl Iterator<Item = (u64, u64)>) -> Vec<Range> {
    let mut ranges = RESERVED.to_vec();
    for (start, size) in regions {
        let end = start.saturating_add(size);
        for (window_start, window_end) in RAM_WINDOWS {
            let (start, end) = (start.max(window_start), end.min(window_end));
            if start < end {
                ranges.push(Range {
                    start,
                    size: end - start,
                    kind: Kind::Ram,
                });
            }
        }
    }
    ranges.sort_unstable_by_key(|range| range.start);
    // Several regions that touch are one range to the guest, which has no use for how the host maps them.
    ranges.dedup_by(|next, range| {
        let touch = range.kind == next.kind && range.start + range.size == next.start;
        if touch {
            range.size += next.size;
        }
        touch
    });
    ranges
}

#[cfg(test)]
#[path = "memory_map_test.rs"]
mod tests;
