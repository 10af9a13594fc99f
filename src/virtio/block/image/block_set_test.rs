use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn it_has_the_blocks_that_were_added_and_no_other(
        ranges in prop::collection::vec((0..500u64, 0..200u64), 0..8),
        asked in prop::collection::vec((0..700u64, 0..100u64), 1..20),
    ) {
        let set = BlockSet::new(700).unwrap();
        let mut model = BTreeSet::new();
        for (start, count) in ranges {
            set.add(start..start + count);
            model.extend(start..start + count);
        }
        for block in 0..700 {
            prop_assert_eq!(set.contains(block), model.contains(&block));
        }
        for (start, count) in asked {
            let blocks = start..(start + count).min(700);
            prop_assert_eq!(set.contains_all(blocks.clone()), blocks.clone().all(|block| model.contains(&block)));
        }
    }
}

#[test]
fn one_larger_than_the_address_space_is_refused() {
    assert!(BlockSet::new(u64::MAX / 512).is_err());
    let set = BlockSet::new(1 << 36).unwrap();
    set.add((1 << 36) - 1..1 << 36);
    assert!(set.contains((1 << 36) - 1) && !set.contains((1 << 36) - 2));
}
