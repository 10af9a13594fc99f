use proptest::prelude::*;
use vm_memory::Bytes;

use super::super::test_images::*;
use super::super::unpack::Compression;
use super::super::{Kernel, load_kernel};
use super::*;

/// Where an address is in the test kernel's data, as the table names it.
const PLACE: u32 = KERNEL_MAP + DATA as u32;

/// The kernel of elf_pvh() in a bzImage, with `words` behind it in the payload.
fn kernel_with(words: &[u32]) -> Vec<u8> {
    let mut elf = elf_pvh();
    elf.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    bzimage(&payload(Compression::Lz4, &elf))
}

/// Loads it to be moved by `slots` times 2 MiB.
fn moved(words: &[u32], slots: u64) -> (Result<Kernel, Problem>, GuestMemoryMmap) {
    let memory = memory(64 * MIB);
    let image = in_a_file(&kernel_with(words));
    let kernel = load_kernel(&image, &memory, Some(slots)).map_err(|error| error.problem);
    (kernel, memory)
}

fn wide(memory: &GuestMemoryMmap, offset: u64) -> u64 {
    memory.read_obj(GuestAddress(DATA + offset)).unwrap()
}

fn narrow(memory: &GuestMemoryMmap, offset: u64) -> u32 {
    memory.read_obj(GuestAddress(DATA + offset)).unwrap()
}

#[test]
fn addresses_move_with_the_kernel_and_nothing_else_does() {
    const BY: u64 = 3 * ALIGNMENT_MIN;
    let (still, before) = moved(&[], 3);
    assert_eq!(still.unwrap().moved, None);
    // Before Linux 6.15, with distances from variables of a processor, which shrink. None of the places is aligned.
    let table = [0, PLACE + 1, 0, PLACE + 17, 0, PLACE + 33, PLACE + 41];
    let (kernel, memory) = moved(&table, 3);
    let kernel = kernel.unwrap();
    assert_eq!(kernel.moved, Some(BY));
    assert_eq!((kernel.protocol, kernel.entry.0), (Protocol::Linux64, CODE));
    let header = kernel.setup_header.unwrap();
    assert_eq!(header.loadflags & KASLR_FLAG, KASLR_FLAG);
    // By its PVH entry, too, its root would have been writable.
    assert_eq!({ header.root_flags }, 0);
    assert_eq!(wide(&memory, 1), wide(&before, 1).wrapping_add(BY));
    assert_eq!(narrow(&memory, 17), narrow(&before, 17).wrapping_sub(BY as u32));
    assert_eq!(narrow(&memory, 33), narrow(&before, 33).wrapping_add(BY as u32));
    assert_eq!(narrow(&memory, 41), narrow(&before, 41).wrapping_add(BY as u32));
    for untouched in [9, 13, 21, 25, 29, 37, 45, 49] {
        assert_eq!(
            narrow(&memory, untouched),
            narrow(&before, untouched),
            "{untouched}"
        );
    }

    // Without that list, as newer kernels have it.
    let (kernel, memory) = moved(&[0, PLACE + 1, 0, PLACE + 33], 3);
    assert_eq!(kernel.unwrap().moved, Some(BY));
    assert_eq!(wide(&memory, 1), wide(&before, 1).wrapping_add(BY));
    assert_eq!(narrow(&memory, 17), narrow(&before, 17));
    assert_eq!(narrow(&memory, 33), narrow(&before, 33).wrapping_add(BY as u32));
}

#[test]
fn a_kernel_that_is_not_to_be_moved_is_entered_as_it_says() {
    let image = in_a_file(&kernel_with(&[0, PLACE, 0, PLACE + 8]));
    let kernel = load_kernel(&image, &memory(64 * MIB), None).unwrap();
    assert_eq!((kernel.moved, kernel.protocol), (None, Protocol::Pvh));
    assert_eq!(kernel.setup_header.unwrap().loadflags & KASLR_FLAG, 0);
}

#[test]
fn what_is_no_table_moves_nothing() {
    for words in [
        &[][..],
        &[PLACE, 0, PLACE],
        &[0, PLACE],
        &[0, 0, 0],
        &[0, PLACE, 0],
        &[0, 0, PLACE],
        &[0, PLACE, 0, PLACE, 0, PLACE, 0],
    ] {
        let (kernel, _) = moved(words, 3);
        let kernel = kernel.unwrap();
        assert_eq!(
            (kernel.moved, kernel.protocol),
            (None, Protocol::Pvh),
            "{words:x?}"
        );
    }
    assert_eq!(Table::parse(&[0; 9]), None);
}

#[test]
fn an_address_outside_of_the_kernel_is_refused() {
    let end = PLACE + DATA_MEMORY as u32;
    for (address, list) in [
        (0x1234, 0),
        (KERNEL_MAP - 1, 0),
        (PLACE - (1 << 20) - 1, 1),
        (end - 7, 0),
        (end - 3, 1),
        (end - 3, 2),
        (u32::MAX, 2),
    ] {
        let mut table = vec![0, PLACE, 0, PLACE, 0, PLACE];
        table[2 * list + 1] = address;
        let problem = moved(&table, 3).0.unwrap_err().to_string();
        assert!(problem.contains(&format!("0xffffffff{address:08x}")), "{problem}");
    }
    // The last bytes are the kernel's.
    let (kernel, _) = moved(&[0, end - 8, 0, end - 4, 0, end - 4], 3);
    assert_eq!(kernel.unwrap().moved, Some(3 * ALIGNMENT_MIN));
}

proptest! {
    #[test]
    fn wherever_a_kernel_is_moved_to_its_own_page_tables_reach_all_of_it(
        random: u64,
        (init_size, kernel_alignment) in (any::<u32>(), prop_oneof![any::<u32>(), (0u32..32).prop_map(|bit| 1 << bit)]),
        (start, size) in (0u64..1 << 31, 0u64..1 << 31),
    ) {
        let header = setup_header { init_size, kernel_alignment, ..Default::default() };
        let loaded = elf::Loaded {
            protocol: Protocol::Linux64,
            entry: GuestAddress(start),
            start: GuestAddress(start),
            end: GuestAddress(start + size),
            linux64_entry: None,
            file_end: 0,
        };
        match distance(random, &header, &loaded) {
            Some(distance) => {
                prop_assert!(start + size.max(init_size.into()) + distance <= KERNEL_IMAGE_SIZE);
                prop_assert_eq!(distance % u64::from(kernel_alignment), 0);
            }
            None => prop_assert!(
                !kernel_alignment.is_power_of_two()
                    || u64::from(kernel_alignment) < ALIGNMENT_MIN
                    || start + size.max(init_size.into()) > KERNEL_IMAGE_SIZE
            ),
        }
    }

    #[test]
    fn any_table_moves_the_kernel_or_is_refused_and_writes_nothing_outside(
        words in prop::collection::vec(prop_oneof![Just(0), PLACE - 0x200000..PLACE + 0x10000, any::<u32>()], 0..12),
        random: u64,
    ) {
        let (kernel, memory) = moved(&[&[0], &words[..]].concat(), random);
        if let Ok(kernel) = kernel {
            prop_assert!(kernel.start.0 + kernel.moved.unwrap_or(0) < KERNEL_IMAGE_SIZE);
        }
        const BESIDE: u64 = 0x1_0000;
        for start in [CODE - BESIDE, DATA + DATA_MEMORY] {
            let mut beside = vec![0xff; BESIDE as usize];
            memory.read_slice(&mut beside, GuestAddress(start)).unwrap();
            prop_assert!(beside == vec![0; BESIDE as usize], "at {start:#x}");
        }
    }
}
