use proptest::prelude::*;

use super::*;

fn memory() -> GuestMemoryMmap {
    let ranges = [
        (GuestAddress(0), 2 << 20),
        (GuestAddress(layout::MEMORY_ABOVE_4G), 1 << 20),
    ];
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

fn written(
    header: Option<&setup_header>,
    command_line: u64,
    initrd: Option<(u64, u64)>,
    rsdp: Option<u64>,
) -> boot_params {
    let memory = memory();
    write(
        &memory,
        header,
        GuestAddress(command_line),
        initrd,
        rsdp.map(GuestAddress),
    )
    .unwrap();
    memory.read_obj(GuestAddress(layout::ZERO_PAGE)).unwrap()
}

#[test]
fn a_kernel_without_a_header_gets_one_that_linux_accepts() {
    let hdr = written(None, layout::COMMAND_LINE, None, None).hdr;
    assert_eq!({ hdr.boot_flag }, 0xaa55);
    assert_eq!({ hdr.header }, 0x5372_6448);
    assert_eq!({ hdr.version }, 0x20f);
    assert_eq!(hdr.type_of_loader, 0xff);
}

#[test]
fn a_kernels_own_header_is_kept_but_for_what_a_loader_fills_in() {
    let header = setup_header {
        version: 0x20c,
        init_size: 0x123_4000,
        pref_address: 0x100_0000,
        setup_data: 0xdead_beef,
        ..Default::default()
    };
    let hdr = written(Some(&header), layout::COMMAND_LINE, None, None).hdr;
    let cmd_line_ptr = layout::COMMAND_LINE as u32;
    assert_eq!(
        hdr,
        setup_header {
            type_of_loader: 0xff,
            cmd_line_ptr,
            setup_data: 0,
            ..header
        }
    );
}

#[test]
fn without_initrd_and_acpi_their_fields_are_zero() {
    let params = written(None, layout::COMMAND_LINE, None, None);
    assert_eq!({ params.hdr.ramdisk_image }, 0);
    assert_eq!({ params.hdr.ramdisk_size }, 0);
    assert_eq!({ params.acpi_rsdp_addr }, 0);
    // Not zero would tell Linux that the loader filled the page with garbage.
    assert_eq!(params.sentinel, 0);
}

#[test]
fn the_memory_map_is_the_shared_one() {
    let params = written(None, layout::COMMAND_LINE, None, None);
    let ranges = memory_map(&memory());
    assert_eq!(usize::from(params.e820_entries), ranges.len());
    for (entry, range) in params.e820_table.iter().zip(&ranges) {
        let kind = range.kind as u32;
        assert_eq!(
            ({ entry.addr }, { entry.size }, { entry.r#type }),
            (range.start, range.size, kind)
        );
    }
    assert_eq!(params.e820_table[ranges.len()], boot_e820_entry::default());
}

#[test]
fn a_memory_map_of_more_ranges_than_the_page_holds_is_an_error() {
    // Every other page is a range of its own; two more are reserved.
    let mut scattered = vec![(GuestAddress(0), layout::COMMAND_LINE as usize)];
    let pages = (layout::HIGH_MEMORY..)
        .step_by(0x2000)
        .take(E820_MAX_ENTRIES_ZEROPAGE - 2);
    scattered.extend(pages.map(|page| (GuestAddress(page), 0x1000)));
    let memory = GuestMemoryMmap::from_ranges(&scattered).unwrap();
    let error = write(&memory, None, GuestAddress(0), None, None).unwrap_err();
    assert!(matches!(error, Error::TooManyRanges(129)), "{error}");
}

#[test]
fn memory_without_the_zero_page_is_an_error() {
    let small = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x7800)]).unwrap();
    assert!(matches!(
        write(&small, None, GuestAddress(0), None, None),
        Err(Error::Memory(_))
    ));
}

proptest! {
    #[test]
    fn addresses_and_sizes_of_any_width_survive(command_line: u64, address: u64, size: u64, rsdp: u64) {
        let params = written(None, command_line, Some((address, size)), Some(rsdp));
        let whole = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        prop_assert_eq!(whole(params.hdr.cmd_line_ptr, params.ext_cmd_line_ptr), command_line);
        prop_assert_eq!(whole(params.hdr.ramdisk_image, params.ext_ramdisk_image), address);
        prop_assert_eq!(whole(params.hdr.ramdisk_size, params.ext_ramdisk_size), size);
        prop_assert_eq!({ params.acpi_rsdp_addr }, rsdp);
    }
}
