use proptest::prelude::*;

use super::*;

fn memory() -> GuestMemoryMmap {
    let ranges = [
        (GuestAddress(0), 2 << 20),
        (GuestAddress(layout::MEMORY_ABOVE_4G), 1 << 20),
    ];
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

fn start_info(memory: &GuestMemoryMmap) -> hvm_start_info {
    memory.read_obj(GuestAddress(layout::START_INFO)).unwrap()
}

#[test]
fn the_start_info_says_version_1_and_where_everything_is() {
    let memory = memory();
    write(
        &memory,
        GuestAddress(layout::COMMAND_LINE),
        None,
        Some(GuestAddress(layout::ACPI_TABLES)),
    )
    .unwrap();
    let info = start_info(&memory);
    assert_eq!((info.magic, info.version, info.flags), (0x336e_c578, 1, 0));
    assert_eq!(info.cmdline_paddr, layout::COMMAND_LINE);
    assert_eq!(info.rsdp_paddr, layout::ACPI_TABLES);
}

#[test]
fn without_initrd_and_acpi_there_is_no_module_and_no_rsdp() {
    let memory = memory();
    write(&memory, GuestAddress(layout::COMMAND_LINE), None, None).unwrap();
    let info = start_info(&memory);
    assert_eq!((info.nr_modules, info.modlist_paddr, info.rsdp_paddr), (0, 0, 0));
}

#[test]
fn the_memory_map_is_the_shared_one() {
    let memory = memory();
    write(&memory, GuestAddress(layout::COMMAND_LINE), None, None).unwrap();
    let info = start_info(&memory);
    let ranges = memory_map(&memory);
    assert_eq!(info.memmap_entries as usize, ranges.len());
    for (range, address) in ranges.iter().zip((info.memmap_paddr..).step_by(24)) {
        let entry: hvm_memmap_table_entry = memory.read_obj(GuestAddress(address)).unwrap();
        assert_eq!(
            (entry.addr, entry.size, entry.type_),
            (range.start, range.size, range.kind as u32)
        );
    }
}

#[test]
fn a_memory_map_that_would_reach_the_zero_page_is_an_error_and_writes_nothing() {
    // Every other page is a range of its own; two more are reserved.
    let mut scattered = vec![(GuestAddress(0), layout::COMMAND_LINE as usize)];
    let pages = (layout::HIGH_MEMORY..).step_by(0x2000).take(RANGES_MAX - 2);
    scattered.extend(pages.map(|page| (GuestAddress(page), 0x1000)));
    let memory = GuestMemoryMmap::from_ranges(&scattered).unwrap();
    let error = write(&memory, GuestAddress(0), None, None).unwrap_err();
    assert!(
        matches!(error, Error::TooManyRanges(count) if count == RANGES_MAX + 1),
        "{error}"
    );
    assert_eq!(start_info(&memory), hvm_start_info::default());
}

#[test]
fn memory_without_the_start_info_page_is_an_error() {
    let small = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x6000)]).unwrap();
    assert!(matches!(
        write(&small, GuestAddress(0), None, None),
        Err(Error::Memory(_))
    ));
}

proptest! {
    #[test]
    fn an_initrd_anywhere_is_the_only_module(address: u64, size: u64) {
        let memory = memory();
        write(&memory, GuestAddress(layout::COMMAND_LINE), Some((address, size)), None).unwrap();
        let info = start_info(&memory);
        prop_assert_eq!(info.nr_modules, 1);
        let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
        prop_assert_eq!((module.paddr, module.size, module.cmdline_paddr), (address, size, 0));
    }
}
