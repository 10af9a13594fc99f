use std::cell::Cell;

use proptest::prelude::*;

use super::*;

#[test]
fn what_is_under_way_is_not_given_to_another_write() {
    let space = Space::new(100);
    let first = space.claim(60, || Ok(0)).unwrap().unwrap();
    assert!(space.claim(60, || Ok(0)).unwrap().is_none());
    let _second = space.claim(40, || Ok(0)).unwrap().unwrap();
    drop(first);
    // The host has it now.
    assert!(space.claim(1, || Ok(60)).unwrap().is_none());
    assert!(space.claim(20, || Ok(40)).unwrap().is_some());
}

#[test]
fn a_host_that_does_not_say_gives_nothing() {
    let space = Space::new(100);
    assert!(space.claim(1, || Err(io::ErrorKind::Other.into())).is_err());
}

proptest! {
    #[test]
    fn no_order_of_writes_and_holes_passes_the_limit(
        limit in 0..200u64,
        steps in prop::collection::vec((0..3u8, 0..80u64), 0..60),
    ) {
        let space = Space::new(limit);
        let used = Cell::new(0);
        let mut under_way: Vec<Claim> = Vec::new();
        for (step, length) in steps {
            match step {
                0 => under_way.extend(space.claim(length, || Ok(used.get())).unwrap()),
                1 => {
                    if let Some(claim) = under_way.pop() {
                        used.set(used.get() + claim.length);
                    }
                }
                _ => used.set(used.get().saturating_sub(length)),
            }
            prop_assert!(used.get() + under_way.iter().map(|claim| claim.length).sum::<u64>() <= limit);
        }
    }
}
