use proptest::prelude::*;

use super::*;
use crate::virtio::test_driver::{HIGH_MEMORY, HOLE, MEMORY_SIZE};

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..MEMORY_SIZE,
        4 => HIGH_MEMORY..HIGH_MEMORY + MEMORY_SIZE,
        2 => HOLE - 64..HOLE + 64,
        1 => HIGH_MEMORY + MEMORY_SIZE - 64..HIGH_MEMORY + MEMORY_SIZE + 64,
        1 => any::<u64>(),
    ]
}

proptest! {
    #[test]
    fn what_was_found_before_changes_nothing(
        accesses in prop::collection::vec((address(), prop_oneof![1usize..64, any::<usize>()]), 1..20),
    ) {
        let regions = [0, HIGH_MEMORY].map(|base| (GuestAddress(base), MEMORY_SIZE as usize));
        let all = GuestMemoryMmap::from_ranges(&regions).unwrap();
        let mut recent = RecentMemory::new(&all);
        for (address, length) in accesses {
            let address = GuestAddress(address);
            let place = |slice: VolatileSlice| (slice.ptr_guard().as_ptr(), slice.len());
            let expected = GuestMemoryBackend::get_slice(&all, address, length.max(1)).ok().map(place);
            prop_assert_eq!(recent.get_slice(address, length.max(1)).map(place), expected);
        }
    }
}
