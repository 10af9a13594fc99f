use proptest::prelude::*;
use vm_memory::{Bytes, GuestMemoryBackend};

use super::*;

#[test]
fn memory_goes_around_the_hole_below_4_gib() {
    assert_eq!(ranges(128 << 20), [(0, 128 << 20)]);
    assert_eq!(ranges(3 << 30), [(0, 3 << 30)]);
    assert_eq!(ranges(5 << 30), [(0, 3 << 30), (4 << 30, 2 << 30)]);
}

#[test]
fn memory_is_zero_aligned_and_writable_to_its_last_byte() {
    let memory = Memory::allocate(33 << 20, [0..1 << 20, 30 << 20..40 << 20]).unwrap();
    let region = memory.guest().find_region(GuestAddress(0)).unwrap();
    assert_eq!(region.as_ptr() as usize % LARGE_PAGE, 0);
    let last = GuestAddress((33 << 20) - 1);
    assert_eq!(memory.guest().read_obj::<u8>(last).unwrap(), 0);
    memory.guest().write_obj(7u8, last).unwrap();
    assert!(memory.guest().write_obj(7u16, last).is_err());
}

proptest! {
    #[test]
    fn every_size_is_mapped_whole_and_outside_of_the_hole(size in 1u64..1 << 40) {
        let ranges = ranges(size);
        prop_assert_eq!(ranges.iter().map(|(_, length)| length).sum::<u64>(), size);
        for (start, length) in ranges {
            prop_assert!(start + length <= layout::MMIO_HOLE || start >= layout::MEMORY_ABOVE_4G);
        }
    }
}
