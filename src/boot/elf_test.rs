use super::super::test_images::*;
use super::super::{Format, Protocol, load_kernel};
use super::*;

const P_TYPE: usize = 0;
const P_OFFSET: usize = 8;
const P_VADDR: usize = 16;
const P_PADDR: usize = 24;
const P_FILESZ: usize = 32;
const P_MEMSZ: usize = 40;

fn with_segment(index: usize, field: usize, value: u64) -> Vec<u8> {
    patched(elf_pvh(), program_header(index, field), value.to_le_bytes())
}

#[test]
fn a_kernel_with_a_pvh_note_is_entered_there() {
    for image in [in_a_file(&elf_pvh()), built_in(&elf_pvh())] {
        let memory = memory(32 * MIB);
        let kernel = load_kernel(&image, &memory, None).unwrap();
        assert_eq!((kernel.format, kernel.protocol), (Format::Elf, Protocol::Pvh));
        assert_eq!(kernel.entry, GuestAddress(PVH_ENTRY.into()));
        assert_eq!(kernel.end, GuestAddress(DATA + DATA_MEMORY));
        assert_eq!(kernel.command_line_limit, 2047);
        assert!(kernel.setup_header.is_none());
        assert_loaded(&elf_pvh(), &memory);
    }
}

#[test]
fn a_kernel_without_the_note_is_entered_at_the_headers_entry() {
    let memory = memory(32 * MIB);
    let kernel = load_bytes(&elf_without_pvh(), &memory).unwrap();
    assert_eq!(
        (kernel.protocol, kernel.entry),
        (Protocol::Linux64, GuestAddress(CODE))
    );
    assert_loaded(&elf_without_pvh(), &memory);
}

#[test]
fn the_pvh_note_is_found_behind_other_notes() {
    let mut notes = note(b"GNU\0", 3, &[1; 20]);
    notes.extend(note(b"Xenophon\0", 18, &[2; 4]));
    notes.extend(note(b"Xen\0", 17, &[3; 4]));
    notes.extend(pvh_note());
    notes.extend(note(b"Linux\0", 0x100, &[4; 9]));
    let kernel = load_bytes(&elf_with_notes(&notes), &memory(32 * MIB)).unwrap();
    assert_eq!(kernel.entry, GuestAddress(PVH_ENTRY.into()));
}

#[test]
fn a_second_note_segment_does_not_hide_the_pvh_note() {
    let mut file = elf_pvh();
    let other = note(b"GNU\0", 5, &[0; 16]);
    file[0x5000..0x5000 + other.len()].copy_from_slice(&other);
    let header = Elf64_Phdr {
        p_type: PT_NOTE,
        p_offset: 0x5000,
        p_filesz: other.len() as u64,
        ..Default::default()
    };
    let offset = program_header(3, 0);
    file[offset..offset + 56].copy_from_slice(header.as_slice());
    let file = patched(file, 56, 4u16.to_le_bytes());
    assert_eq!(
        load_bytes(&file, &memory(32 * MIB)).unwrap().protocol,
        Protocol::Pvh
    );
}

#[test]
fn notes_outside_of_the_loaded_segments_are_read_from_the_file() {
    let mut file = with_segment(2, P_OFFSET, 0x6000);
    file.extend(pvh_note());
    assert_eq!(
        load_bytes(&file, &memory(32 * MIB)).unwrap().protocol,
        Protocol::Pvh
    );
}

#[test]
fn a_segment_without_bytes_in_the_file_counts_for_the_kernels_end() {
    let file = patched(
        with_segment(1, P_FILESZ, 0),
        program_header(1, P_OFFSET),
        u64::MAX.to_le_bytes(),
    );
    let kernel = load_bytes(&file, &memory(32 * MIB)).unwrap();
    assert_eq!(kernel.end, GuestAddress(DATA + DATA_MEMORY));
}

#[test]
fn a_file_for_another_machine_is_named() {
    let cases = [
        (patched(elf_pvh(), 18, 183u16.to_le_bytes()), "aarch64"),
        (patched(elf_pvh(), 18, 3u16.to_le_bytes()), "32-bit x86"),
        (patched(elf_pvh(), 18, 9999u16.to_le_bytes()), "machine type 9999"),
        (
            patched(patched(elf_pvh(), 5, [2]), 18, 22u16.to_be_bytes()),
            "big-endian ELF file for s390",
        ),
        (patched(elf_pvh(), 4, [1]), "a 32-bit ELF file"),
        (
            patched(elf_pvh(), 16, 1u16.to_le_bytes()),
            "object file or kernel module",
        ),
        (patched(elf_pvh(), 16, 4u16.to_le_bytes()), "core dump"),
        (
            patched(elf_pvh(), program_header(2, P_TYPE), PT_INTERP.to_le_bytes()),
            "dynamic loader",
        ),
    ];
    for (file, expected) in cases {
        let said = refusal(&file);
        assert!(said.contains(expected), "{said}");
        assert!(said.contains("expected an x86-64 Linux kernel"), "{said}");
        assert!(said.ends_with(')'), "without a next step: {said}");
    }
}

#[test]
fn a_file_that_ends_early_is_cut_short_wherever_it_ends() {
    let file = elf_pvh();
    for length in [
        4,
        63,
        64,
        64 + 56,
        CODE_OFFSET + 1,
        DATA_OFFSET,
        DATA_OFFSET + 0x1fff,
    ] {
        let said = refusal(&file[..length]);
        assert!(
            said.starts_with("cut short") && said.contains(&format!("only {length} bytes")),
            "{said}"
        );
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let cases = [
        (patched(elf_pvh(), 56, 0u16.to_le_bytes()), "no program headers"),
        (patched(elf_pvh(), 54, 55u16.to_le_bytes()), "no program headers"),
        (
            patched(elf_pvh(), 56, 0xffffu16.to_le_bytes()),
            "65535 program headers",
        ),
        (
            patched(elf_pvh(), 32, u64::MAX.to_le_bytes()),
            "program header table",
        ),
        (with_segment(1, P_FILESZ, DATA_MEMORY + 1), "in the file and"),
        (with_segment(1, P_OFFSET, u64::MAX - 1), "one of its segments"),
        (with_segment(1, P_PADDR, 0xf_f000), "below 1 MiB"),
        (
            with_segment(1, P_PADDR, u64::MAX - 1),
            "where a guest has no memory",
        ),
        (with_segment(1, P_MEMSZ, u64::MAX), "where a guest has no memory"),
        (
            with_segment(1, P_PADDR, 0xd000_0000),
            "where a guest has no memory",
        ),
        (with_segment(2, P_FILESZ, u64::MAX), "its notes"),
    ];
    for (file, expected) in cases {
        let said = refusal(&file);
        assert!(said.contains(expected), "{said} for {expected}");
    }
}

#[test]
fn an_entry_outside_of_the_segments_is_refused() {
    // A virtual address, as a careless linker script leaves it.
    let file = patched(elf_without_pvh(), 24, 0xffff_ffff_8100_0000u64.to_le_bytes());
    assert!(refusal(&file).contains("64-bit Linux entry 0xffffffff81000000 is in none of its segments"));
    let file = elf_with_notes(&note(b"Xen\0", 18, &[0; 4]));
    assert!(refusal(&file).contains("PVH entry 0x0 is in none of its segments"));
}

#[test]
fn a_kernel_larger_than_the_guest_says_what_both_have() {
    let problem = load_bytes(&elf_pvh(), &memory(2 * MIB)).unwrap_err();
    assert_eq!(
        problem.to_string(),
        "needs the first 18 MiB of guest memory, the guest has 2 MiB (give it more with --memory)"
    );
}

#[test]
fn notes_that_overrun_their_segment_are_no_pvh_notes() {
    let whole = pvh_note();
    for size in 0..whole.len() - 4 {
        assert_eq!(pvh_entry(&whole[..size], 4), None, "{size} bytes");
    }
    assert_eq!(pvh_entry(&whole, 4), Some(PVH_ENTRY.into()));
    // Sizes near the top of 32 bits wrap nothing, and notes of size zero end.
    for sizes in [[0xff; 8], [0xfd, 0xff, 0xff, 0xff, 0, 0, 0, 0], [0; 8]] {
        assert_eq!(pvh_entry(&patched(whole.clone(), 0, sizes), 4), None);
    }
}

#[test]
fn notes_on_multiples_of_8_are_walked_as_such() {
    let note = |kind: u32, name: &[u8], descriptor: &[u8]| {
        let mut note = Vec::new();
        for number in [name.len() as u32, descriptor.len() as u32, kind] {
            note.extend(number.to_le_bytes());
        }
        note.extend(name);
        note.resize(note.len().next_multiple_of(8), 0);
        note.extend(descriptor);
        note.resize(note.len().next_multiple_of(8), 0);
        note
    };
    let mut notes = note(5, b"GNU\0", &[1; 12]);
    notes.extend(note(XEN_ELFNOTE_PHYS32_ENTRY, b"Xen\0", &PVH_ENTRY.to_le_bytes()));
    assert_eq!(pvh_entry(&notes, 8), Some(PVH_ENTRY.into()));
    assert_eq!(pvh_entry(&notes, 4), None);
}

/// Where kernels of the upper half have their code, which is loaded at [`CODE`].
const VIRTUAL: u64 = 0xffff_ffff_8000_0000;

#[test]
fn a_virtual_entry_is_told_with_the_guest_address_behind_it() {
    const E_ENTRY: usize = 24;
    let mut file = elf_without_pvh();
    let code = (0..2).find(|&index| {
        let at = program_header(index, P_PADDR);
        file[at..at + 8] == CODE.to_le_bytes()
    });
    let virtual_address = program_header(code.unwrap(), P_VADDR);
    file = patched(file, virtual_address, VIRTUAL.to_le_bytes());
    // By itself it is nobody's concern: nothing but page tables of the kernel's own uses it.
    assert!(load_bytes(&file, &memory(32 * MIB)).is_ok());
    file = patched(file, E_ENTRY, (VIRTUAL + 0x80).to_le_bytes());
    let refused = refusal(&file);
    assert!(
        refused.contains("its 64-bit Linux entry is at 0xffffffff80000080 (guest address 0x1000080)"),
        "{refused}"
    );
    assert!(
        refused.contains("virtual address") && refused.contains("PVH note"),
        "{refused}"
    );
    assert!(!refused.contains("wrong header"), "{refused}");
    // Beyond the segment it is just wrong.
    let refused = refusal(&patched(file, E_ENTRY, (VIRTUAL + MIB).to_le_bytes()));
    assert!(
        refused.contains("wrong header: its 64-bit Linux entry"),
        "{refused}"
    );
}

#[test]
fn a_segment_that_is_to_be_loaded_at_a_virtual_address_is_told_so() {
    let refused = refusal(&with_segment(0, P_PADDR, VIRTUAL));
    assert!(
        refused.contains("to be loaded at 0xffffffff80000000, which is a virtual address"),
        "{refused}"
    );
}
