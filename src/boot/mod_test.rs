use proptest::prelude::*;
use vm_memory::Bytes;

use super::test_images::*;
use super::*;

#[test]
fn a_file_that_is_no_kernel_is_named_with_the_next_step() {
    let at = |offset: usize, magic: &[u8]| {
        let mut file = vec![0; 0x300];
        file[offset..offset + magic.len()].copy_from_slice(magic);
        file
    };
    let cases = [
        (compress(Compression::Gzip, &elf_pvh()), "compressed with gzip"),
        (compress(Compression::Zstd, b"x"), "unpack it first"),
        (at(56, b"ARM\x64"), "64-bit ARM"),
        (at(56, b"RSC\x05"), "RISC-V"),
        (at(0, b"MZ\0\0zimg"), "zboot"),
        (at(0, b"MZ\x90"), "EFI program"),
        (at(0, b"\x27\x05\x19\x56"), "U-Boot"),
        (at(0, b"070701"), "--initrd"),
        (at(0, b"QFI\xfb"), "--disk"),
        (at(0x1fe, &[0x55, 0xaa]), "--disk"),
        (b"#!/bin/sh\n".to_vec(), "a script"),
        (b"?".to_vec(), "data starting with bytes [3f]"),
        (b"\x7fEL".to_vec(), "data starting with"),
    ];
    for (file, expected) in cases {
        let said = refusal(&file);
        assert!(said.starts_with("found ") && said.contains(expected), "{said}");
        assert!(said.contains("expected an x86-64 Linux kernel"), "{said}");
        assert!(said.ends_with(')'), "without a next step: {said}");
    }
}

#[test]
fn an_error_names_the_file_first() {
    let error = load_kernel(&in_a_file(b"#!/bin/sh\n"), &memory(MIB), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel-in-a-file: found a script, expected an x86-64 Linux kernel, vmlinux or bzImage (check the path; a \
         distribution keeps its kernel in /boot/vmlinuz-VERSION)"
    );
}

/// Everything a kernel may not do to a guest, whatever is in its file.
fn check(file: &[u8]) -> Result<(), TestCaseError> {
    let memory = memory(24 * MIB);
    memory
        .write_slice(&vec![0x77; MIB as usize], GuestAddress(0))
        .unwrap();
    if let Ok(kernel) = load_bytes(file, &memory) {
        prop_assert!(kernel.end.0 <= 24 * MIB);
        prop_assert!((MIB..kernel.end.0).contains(&kernel.entry.0));
        // From there on an initrd may be, so nothing of the kernel is.
        let mut after = vec![0; (24 * MIB - kernel.end.0) as usize];
        memory.read_slice(&mut after, kernel.end).unwrap();
        prop_assert!(after == vec![0; after.len()]);
    }
    let mut low = vec![0; MIB as usize];
    memory.read_slice(&mut low, GuestAddress(0)).unwrap();
    prop_assert!(low == vec![0x77; MIB as usize], "a write below 1 MiB");
    Ok(())
}

/// Bytes that headers are made of: any, and those near the ends of their range.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(0x7f), Just(0x80), Just(1)]
}

fn mutated(file: Vec<u8>, header: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    let place = prop_oneof![4 => header, 1 => 0..file.len()];
    let changes = proptest::collection::vec((place, byte()), 1..12);
    (changes, prop_oneof![9 => Just(file.len()), 1 => 0..file.len()]).prop_map(move |(changes, length)| {
        let mut file = file.clone();
        for (offset, byte) in changes {
            file[offset] = byte;
        }
        file.truncate(length);
        file
    })
}

fn packed_kernels() -> Vec<Vec<u8>> {
    COMPRESSIONS
        .map(|compression| bzimage(&payload(compression, &elf_pvh())))
        .to_vec()
}

proptest! {
    #[test]
    fn no_change_to_an_elf_kernel_gets_around_the_checks(
        file in mutated(elf_pvh(), 0..64 + 3 * 56),
    ) {
        check(&file)?;
    }

    #[test]
    fn no_note_gets_around_the_checks(file in mutated(elf_pvh(), NOTE_OFFSET..NOTE_OFFSET + 24)) {
        check(&file)?;
    }

    #[test]
    fn no_change_to_a_setup_header_gets_around_the_checks(
        file in mutated(bzimage(b"\x89LZO with a little more"), 0x1f1..0x26c),
    ) {
        check(&file)?;
    }

    #[test]
    fn no_change_to_a_packed_kernel_gets_around_the_checks(
        file in proptest::sample::select(packed_kernels()).prop_flat_map(|file| {
            let end = file.len();
            mutated(file, PAYLOAD..end)
        }),
    ) {
        check(&file)?;
    }

    #[test]
    fn any_bytes_at_all_are_refused_or_loaded(file in proptest::collection::vec(any::<u8>(), 1..2000)) {
        check(&file)?;
    }
}
