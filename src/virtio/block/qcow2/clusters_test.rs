use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn it_behaves_like_a_set_of_numbers(
        steps in prop::collection::vec((any::<bool>(), 0..300_u64), 0..200),
        range in (0..310_u64, 0..310_u64),
    ) {
        let (mut clusters, mut model) = (Clusters::default(), BTreeSet::new());
        for (inserts, cluster) in steps {
            match inserts {
                true => prop_assert_eq!(clusters.insert(cluster), model.insert(cluster)),
                false => prop_assert_eq!(clusters.remove(cluster), model.remove(&cluster)),
            }
            prop_assert_eq!(clusters.contains(cluster), inserts);
        }
        let range = range.0..range.0.max(range.1);
        let expected: Vec<u64> = model.iter().copied().filter(|cluster| range.contains(cluster)).collect();
        prop_assert_eq!(clusters.has_any_of(range.clone()), !expected.is_empty());
        prop_assert_eq!(clusters.within(range).collect::<Vec<_>>(), expected);
        prop_assert!(clusters.iter().eq(model));
    }
}

#[test]
fn clusters_far_apart_take_a_word_each() {
    let mut clusters = Clusters::default();
    for cluster in [0, 1 << 40, u64::MAX - 1] {
        assert!(clusters.insert(cluster));
    }
    assert_eq!(clusters.words.len(), 3);
    assert!(clusters.remove(1 << 40));
    assert_eq!(clusters.words.len(), 2);
}
