use std::io::Write;

use proptest::prelude::*;
use vm_memory::Bytes;

use super::super::test_images::memory;
use super::*;

const FILE_SIZE: u64 = 5 * PAGE;

fn byte_at(position: u64) -> u8 {
    (position % 253 + 1) as u8
}

fn file(offset: u64) -> StableFile {
    let mut file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..FILE_SIZE).map(byte_at).collect();
    file.write_all(&bytes).unwrap();
    StableFile { file, offset }
}

#[test]
fn what_the_guest_writes_stays_its_own() {
    let (file, memory) = (file(0), memory(8 * PAGE));
    assert_eq!(
        file.map(0, FILE_SIZE, &memory, GuestAddress(PAGE)).unwrap(),
        0..FILE_SIZE
    );
    memory.write_obj(0xffu8, GuestAddress(PAGE + 10)).unwrap();
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&file.file, &mut byte, 10).unwrap();
    assert_eq!(byte[0], byte_at(10));
    assert_eq!(
        memory.read_obj::<u8>(GuestAddress(PAGE + 11)).unwrap(),
        byte_at(11)
    );
}

#[test]
fn what_the_guest_writes_there_is_in_no_core_dump() {
    let (file, memory) = (file(0), memory(8 * PAGE));
    file.map(0, FILE_SIZE, &memory, GuestAddress(PAGE)).unwrap();
    let address = memory.get_host_address(GuestAddress(PAGE)).unwrap() as usize;
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mapping = smaps
        .lines()
        .skip_while(|line| !line.starts_with(&format!("{address:x}-")));
    let flags = mapping
        .into_iter()
        .find_map(|line| line.strip_prefix("VmFlags:"))
        .unwrap();
    assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
}

proptest! {
    #[test]
    fn what_is_mapped_is_the_files_and_all_else_stays_zero(
        start in 0..2 * PAGE, offset in 0..2 * PAGE, length in 0..3 * PAGE, address in 0..4 * PAGE, aligned: bool,
    ) {
        let start = if aligned { start & !(PAGE - 1) } else { start };
        // Half of the time in the same place of a page as in the file.
        let address = if aligned { address & !(PAGE - 1) | (offset & (PAGE - 1)) } else { address };
        let memory = memory(8 * PAGE);
        let mapped = file(start).map(offset, length, &memory, GuestAddress(address)).unwrap();
        prop_assert!(mapped.end <= length);
        if aligned && mapped.is_empty() {
            prop_assert!(length < 2 * PAGE, "whole pages were left out");
        }
        let expected = |position: u64| match position.checked_sub(address) {
            Some(within) if mapped.contains(&within) => byte_at(start + offset + within),
            _ => 0,
        };
        let mut found = vec![0; 8 * PAGE as usize];
        memory.read_slice(&mut found, GuestAddress(0)).unwrap();
        prop_assert!(found.into_iter().eq((0..8 * PAGE).map(expected)));
    }

    #[test]
    fn outside_of_guest_memory_nothing_is_mapped(address in 6 * PAGE..20 * PAGE) {
        let memory = memory(8 * PAGE);
        let address = address & !(PAGE - 1);
        prop_assert_eq!(file(0).map(0, FILE_SIZE, &memory, GuestAddress(address)).is_err(), address + FILE_SIZE > 8 * PAGE);
    }
}
