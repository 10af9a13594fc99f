use linux_loader::bootparam::setup_header;
use proptest::prelude::*;
use vm_memory::Bytes;

use super::super::test_images::{MIB, in_a_file};
use super::super::{Format, Protocol};
use super::*;

fn kernel(end: u64, initrd_addr_max: Option<u32>) -> Kernel {
    Kernel {
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
fn one_that_does_not_fit_says_its_size_and_the_room() {
    let problem = place(13 * MIB, &memory(32 * MIB), &kernel(20 * MIB, None)).unwrap_err();
    assert_eq!(
        problem.to_string(),
        "an initrd of 13 MiB, and the largest room for one beside the kernel is 12 MiB \
         (make it smaller, or give the guest more with --memory)"
    );
    assert!(place(12 * MIB, &memory(32 * MIB), &kernel(20 * MIB, None)).is_ok());
    let problem = place(13 * MIB, &memory(64 * MIB), &kernel(20 * MIB, Some(0x1ff_ffff))).unwrap_err();
    assert!(problem.to_string().contains("takes none higher"), "{problem}");
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
        if let Ok(address) = place(size, &memory, &kernel(end, limit)) {
            prop_assert_eq!(address.0 % PAGE, 0);
            prop_assert!(address.0 >= end.max(layout::HIGH_MEMORY));
            prop_assert!(memory.check_range(address, size as usize));
            prop_assert!(address.0 + size <= limit.map_or(layout::MEMORY_ABOVE_4G, |limit| u64::from(limit) + 1));
        }
    }
}
