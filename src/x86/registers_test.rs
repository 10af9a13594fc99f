use super::*;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

#[test]
fn the_64_bit_entry_has_long_mode_and_the_zero_page() {
    let (mut registers, mut special) = Default::default();
    set_linux64(&memory(), GuestAddress(0x100_0000), &mut registers, &mut special).unwrap();
    assert_eq!((registers.rip, registers.rsi), (0x100_0000, layout::ZERO_PAGE));
    assert_eq!((special.cs.l, special.cs.db), (1, 0));
    assert_eq!(special.efer, EFER_LME | EFER_LMA);
}

#[test]
fn the_page_tables_map_four_gibibytes_one_to_one() {
    let memory = memory();
    write_page_tables(&memory).unwrap();
    let entry = |address| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
    for linear in [0u64, 0x1234_5678, 0xffff_ffff] {
        let pointers = entry(layout::PAGE_TABLES) & !0xfff;
        let directory = entry(pointers + (linear >> 30) * 8) & !0xfff;
        let page = entry(directory + (linear >> 21 & 511) * 8);
        assert_eq!(page & !0x1f_ffff | linear & 0x1f_ffff, linear);
        assert_eq!(page & LARGE_PAGE, LARGE_PAGE);
    }
    const { assert!(layout::PAGE_TABLES + 6 * 0x1000 <= layout::COMMAND_LINE) };
}

#[test]
fn the_pvh_entry_has_protected_mode_without_paging() {
    let (mut registers, mut special) = Default::default();
    set_pvh(&memory(), GuestAddress(0x100_0000), &mut registers, &mut special).unwrap();
    assert_eq!((registers.rip, registers.rbx), (0x100_0000, layout::START_INFO));
    assert_eq!((special.cs.l, special.cs.db), (0, 1));
    assert_eq!(special.cr0 & CR0_PG, 0);
}

#[test]
fn flat_descriptors_have_the_bytes_everybody_knows() {
    let (_, mut special) = <(Registers, SpecialRegisters)>::default();
    set_segments(&memory(), &mut special, true).unwrap();
    assert_eq!(descriptor(&special.cs), 0x00af_9b00_0000_ffff);
    assert_eq!(descriptor(&special.ds), 0x00cf_9300_0000_ffff);
}
