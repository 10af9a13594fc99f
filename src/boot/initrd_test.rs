use linux_loader::bootparam::setup_header;
use proptest::prelude::*;
use vm_memory::Bytes;

use super::super::test_images::{MIB, in_a_file};
use super::super::{Format, Protocol};
use super::*;

fn kernel(end: u64, initrd_addr_max: Option<u32>) -> Kernel {
    Kernel {
        moved: None,
        format: Format::Elf,
        protocol: Protocol::Pvh,
        entry: GuestAddress(layout::HIGH_MEMORY),
        start: GuestAddress(layout::HIGH_MEMORY),
        end: GuestAddress(end),
        setup_header: initrd_addr_max.map(|initrd_addr_max| setup_header {
            initrd_addr_max,
            ..Default::default()
        }),
        command_line_limit: 2047,
    }
}

/// Guest memory with its hole; nothing is written to most of it.
fn memory(size: u64) -> GuestMemoryMmap {
    let low = size.min(layout::MMIO_HOLE);
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if size > low {
        ranges.push((GuestAddress(layout::MEMORY_ABOVE_4G), (size - low) as usize));
    }
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

#[test]
fn it_goes_to_the_end_of_memory_page_aligned() {
    let memory = memory(64 * MIB);
    let initrd = load_initrd(&in_a_file(&[0x5a; 5000]), &memory, &kernel(20 * MIB, None)).unwrap();
    assert_eq!(
        initrd,
        Initrd {
            address: GuestAddress(64 * MIB - 0x2000),
            size: 5000
        }
    );
    let mut bytes = [0; 5001];
    memory.read_slice(&mut bytes, initrd.address).unwrap();
    assert!(bytes[..5000].iter().all(|&byte| byte == 0x5a) && bytes[5000] == 0);
}

#[test]
fn it_stays_below_the_setup_headers_limit_and_the_hole() {
    let memory = memory(5 << 30);
    assert_eq!(
        place(0x1000, &memory, &kernel(MIB, Some(0x7fff_ffff))).unwrap().0,
        0x7fff_f000
    );
    assert_eq!(
        place(0x1000, &memory, &kernel(MIB, Some(0x37ff_fffe))).unwrap().0,
        0x37ff_e000
    );
    assert_eq!(
        place(0x1000, &memory, &kernel(MIB, None)).unwrap().0,
        layout::MMIO_HOLE - 0x1000
    );
    assert_eq!(
        place(0x1000, &memory, &kernel(MIB, Some(u32::MAX))).unwrap().0,
        layout::MMIO_HOLE - 0x1000
    );
}

#[test]
fn one_that_does_not_fit_in_the_guests_memory_says_how_much_would_do() {
    let memory = memory(32 * MIB + 4096);
    let kernel = kernel(20 * MIB, None);
    let problem = place(12 * MIB + 4097, &memory, &kernel).unwrap_err();
    assert_eq!(
        problem.to_string(),
        "an initrd of 13 MiB, and beside the kernel the guest's memory has room for 12 MiB (give the guest more than \
         33 MiB with --memory, since it unpacks the initrd there as well, or make the initrd smaller)"
    );
    assert!(place(12 * MIB + 4096, &memory, &kernel).is_ok());
}

#[test]
fn one_that_is_too_large_for_any_memory_says_the_kernels_limit_or_that_of_the_hole() {
    for (limit, memory_size) in [(Some(0x7fff_ffff), 32 * MIB), (Some(0x7fff_ffff), 4096 * MIB)] {
        let kernel = kernel(20 * MIB, limit);
        let problem = place(2028 * MIB + 1, &memory(memory_size), &kernel).unwrap_err();
        assert_eq!(
            problem.to_string(),
            "an initrd of 2029 MiB, and it must lie in the first 2048 MiB of guest memory, where beside the kernel there \
             is room for 2028 MiB at most (make the initrd smaller, or put its files on a disk: --disk FILE)"
        );
    }
    let memory = memory(4096 * MIB);
    for limit in [None, Some(u32::MAX)] {
        let problem = place(3052 * MIB + 1, &memory, &kernel(20 * MIB, limit)).unwrap_err();
        assert!(problem.to_string().contains("the first 3072 MiB"), "{problem}");
        assert!(place(3052 * MIB, &memory, &kernel(20 * MIB, limit)).is_ok());
    }
}

proptest! {
    #[test]
    fn it_never_leaves_memory_nor_touches_the_kernel(
        memory_mib in 2u64..6000,
        end in 0u64..5 << 30,
        size in 1u64..5 << 30,
        limit in proptest::option::of(any::<u32>()),
    ) {
        let memory = memory(memory_mib * MIB);
        match place(size, &memory, &kernel(end, limit)) {
            Ok(address) => {
                prop_assert_eq!(address.0 % PAGE, 0);
                prop_assert!(address.0 >= end.max(layout::HIGH_MEMORY));
                prop_assert!(memory.check_range(address, size as usize));
                prop_assert!(address.0 + size <= limit.map_or(layout::MEMORY_ABOVE_4G, |limit| u64::from(limit) + 1));
            }
            // With the memory that the message asks for there is room.
            Err(Problem::NoRoomForInitrd { needs, .. }) => {
                let enough = needs.next_multiple_of(MIB) + MIB;
                prop_assert!(needs > memory_mib * MIB);
                prop_assert!(place(size, &self::memory(enough), &kernel(end, limit)).is_ok());
            }
            Err(Problem::InitrdTooLarge { room, limit: highest, .. }) => {
                prop_assert!(size > room && end.max(layout::HIGH_MEMORY) + size > highest);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
