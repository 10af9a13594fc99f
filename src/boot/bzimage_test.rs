use super::super::test_images::*;
use super::*;

#[test]
fn a_kernel_of_every_compression_boots_as_the_elf_that_is_inside() {
    for compression in COMPRESSIONS {
        let elf = elf_pvh();
        let file = bzimage(&payload(compression, &elf));
        let memory = memory(32 * MIB);
        let kernel = super::super::load_kernel(&in_a_file(&file), &memory, None).unwrap();
        assert_eq!(kernel.format, Format::BzImageUnpacked { compression });
        assert_eq!(
            (kernel.protocol, kernel.entry.0),
            (Protocol::Pvh, PVH_ENTRY.into())
        );
        assert_eq!(kernel.end.0, DATA + DATA_MEMORY);
        assert_eq!(kernel.command_line_limit, 1023);
        let limit = kernel.setup_header.unwrap().initrd_addr_max;
        assert_eq!(limit, 0x7fff_ffff);
        assert_loaded(&elf, &memory);
    }
}

#[test]
fn without_a_pvh_note_inside_it_is_entered_at_the_elf_headers_entry() {
    let kernel = load_bytes(
        &bzimage(&payload(Compression::Xz, &elf_without_pvh())),
        &memory(32 * MIB),
    )
    .unwrap();
    assert_eq!((kernel.protocol, kernel.entry.0), (Protocol::Linux64, CODE));
}

#[test]
fn what_follows_the_elf_in_the_payload_is_ignored() {
    let mut elf = elf_pvh();
    elf.extend([0xee; 100_000]); // relocations, as a kernel with address randomisation has them
    let kernel = load_bytes(&bzimage(&payload(Compression::Zstd, &elf)), &memory(32 * MIB)).unwrap();
    assert_eq!(kernel.protocol, Protocol::Pvh);
}

#[test]
fn an_unknown_compression_boots_through_the_kernels_own_64_bit_entry() {
    let lzo = [&b"\x89LZO\0\r\n\x1a\n"[..], &[7; 5000]].concat();
    let file = bzimage(&lzo);
    let memory = memory(32 * MIB);
    let kernel = load_bytes(&file, &memory).unwrap();
    assert_eq!(
        (kernel.format, kernel.protocol),
        (Format::BzImage, Protocol::Linux64)
    );
    assert_eq!(kernel.entry.0, CODE + 0x200);
    assert_eq!(kernel.end.0, CODE + 0x80_0000);
    let code = &file[5 * 512..];
    let mut loaded = vec![0; code.len()];
    vm_memory::Bytes::read_slice(&memory, &mut loaded, GuestAddress(CODE)).unwrap();
    assert!(loaded == code);
}

#[test]
fn a_packed_kernel_that_does_not_fit_where_it_runs_says_so() {
    let problem = load_bytes(&bzimage(b"\x89LZO with much more"), &memory(20 * MIB)).unwrap_err();
    assert!(
        matches!(problem, Problem::NoRoomForKernel { needs, has } if needs == 24 * MIB && has == 20 * MIB)
    );
}

#[test]
fn an_unknown_compression_without_a_64_bit_entry_is_refused() {
    let file = bzimage(b"\x89LZO with much more");
    for file in [
        patched(file.clone(), 0x236, 0u16.to_le_bytes()),
        patched(file, 0x206, 0x20bu16.to_le_bytes()),
    ] {
        assert!(
            refusal(&file).contains("without a 64-bit entry"),
            "{}",
            refusal(&file)
        );
    }
}

#[test]
fn an_unpacked_kernel_that_does_not_fit_says_what_its_segments_need() {
    let problem = load_bytes(&bzimage(&payload(Compression::Lz4, &elf_pvh())), &memory(MIB)).unwrap_err();
    assert!(
        matches!(problem, Problem::NoRoomForKernel { needs, has: MIB } if needs == DATA + DATA_MEMORY),
        "{problem}"
    );
}

#[test]
fn a_corrupt_payload_of_a_known_kind_is_an_error_and_not_left_to_the_guest() {
    let mut file = bzimage(&payload(Compression::Gzip, &elf_pvh()));
    file[PAYLOAD + 500] ^= 1;
    let said = refusal(&file);
    assert!(said.starts_with("corrupt: its gzip payload"), "{said}");
}

#[test]
fn a_file_that_ends_early_is_cut_short() {
    let file = bzimage(&payload(Compression::Gzip, &elf_pvh()));
    for length in [0x210, 0x400, PAYLOAD, PAYLOAD + 100, file.len() - 100] {
        let said = refusal(&file[..length]);
        assert!(said.contains("cut short"), "{length}: {said}");
    }
}

#[test]
fn a_kernel_for_32_bit_processors_is_named() {
    let elf = patched(patched(elf_pvh(), 18, 3u16.to_le_bytes()), 4, [1]);
    let said = refusal(&bzimage(&payload(Compression::Gzip, &elf)));
    assert!(said.contains("an ELF file for 32-bit x86"), "{said}");
}

#[test]
fn an_old_boot_protocol_is_named_with_its_version() {
    let file = patched(bzimage(b""), 0x206, 0x204u16.to_le_bytes());
    assert!(
        refusal(&file).contains("boot protocol 2.04"),
        "{}",
        refusal(&file)
    );
}

#[test]
fn fields_behind_the_end_of_a_short_setup_header_are_zero() {
    // The jump at 0x200 ends the header before `payload_offset` at 0x248.
    let file = patched(bzimage(b"payload"), 0x201, [0x46]);
    let header = recognise(&file[..HEADER_END]).unwrap();
    let fields = (header.cmdline_size, header.payload_offset, header.init_size);
    assert_eq!(fields, (1023, 0, 0));
}
