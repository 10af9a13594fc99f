use proptest::prelude::*;
use vm_memory::GuestAddress;

use super::*;

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// Guest memory of `size` bytes as the machine lays it out.
fn regions_of(size: u64) -> Vec<(u64, u64)> {
    let low = size.min(layout::MMIO_HOLE);
    let mut regions = vec![(0, low)];
    if size > low {
        regions.push((layout::MEMORY_ABOVE_4G, size - low));
    }
    regions
}

fn map_of(size: u64) -> Vec<Range> {
    from_regions(regions_of(size).into_iter())
}

fn ram(start: u64, end: u64) -> Range {
    Range {
        start,
        size: end - start,
        kind: Kind::Ram,
    }
}

fn reserved(start: u64, end: u64) -> Range {
    Range {
        start,
        size: end - start,
        kind: Kind::Reserved,
    }
}

#[test]
fn a_small_machine_has_ram_on_both_sides_of_the_tables() {
    let expected = [
        ram(0, 0x9_fc00),
        reserved(0x9_fc00, 0xa_0000),
        reserved(0xe_0000, 0x10_0000),
        ram(0x10_0000, 64 * MIB),
    ];
    assert_eq!(map_of(64 * MIB), expected);
}

#[test]
fn memory_past_the_hole_continues_at_4_gib() {
    let map = map_of(5 << 30);
    assert_eq!(map[3], ram(0x10_0000, layout::MMIO_HOLE));
    assert_eq!(
        map[4],
        ram(layout::MEMORY_ABOVE_4G, layout::MEMORY_ABOVE_4G + (2 << 30))
    );
    assert_eq!(map.len(), 5);
}

#[test]
fn memory_that_just_fills_the_space_below_the_hole_has_nothing_above_4_gib() {
    let map = map_of(layout::MMIO_HOLE);
    assert_eq!(map.last(), Some(&ram(0x10_0000, layout::MMIO_HOLE)));
    let map = map_of(layout::MMIO_HOLE + 4096);
    assert_eq!(
        map.last(),
        Some(&ram(layout::MEMORY_ABOVE_4G, layout::MEMORY_ABOVE_4G + 4096))
    );
}

#[test]
fn regions_that_touch_are_one_range() {
    let halves = [(0, 16 * MIB), (16 * MIB, 16 * MIB)];
    assert_eq!(from_regions(halves.into_iter()), map_of(32 * MIB));
}

#[test]
fn the_map_of_guest_memory_is_the_map_of_its_regions() {
    let ranges = [
        (GuestAddress(0), 2 << 20),
        (GuestAddress(layout::MEMORY_ABOVE_4G), 1 << 20),
    ];
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    let regions = [(0, 2 * MIB), (layout::MEMORY_ABOVE_4G, MIB)];
    assert_eq!(memory_map(&memory), from_regions(regions.into_iter()));
}

fn is_sorted_without_overlaps(map: &[Range]) -> bool {
    map.windows(2)
        .all(|pair| pair[0].start + pair[0].size <= pair[1].start)
}

proptest! {
    #[test]
    fn all_memory_but_the_first_mebibytes_holes_is_ram(size in 32 * MIB..=TIB) {
        let size = size & !0xfff;
        let map = map_of(size);
        let total: u64 = map.iter().filter(|range| range.kind == Kind::Ram).map(|range| range.size).sum();
        prop_assert_eq!(total, size - (layout::HIGH_MEMORY - layout::LOW_MEMORY_END));
        prop_assert!(is_sorted_without_overlaps(&map));
    }

    #[test]
    fn no_regions_make_ram_of_a_hole(regions in proptest::collection::vec((0..TIB, 1..TIB), 0..4)) {
        let mut next = 0;
        let apart: Vec<_> = regions
            .into_iter()
            .map(|(gap, size)| {
                let start = next + gap;
                next = start + size;
                (start, size)
            })
            .collect();
        let map = from_regions(apart.into_iter());
        prop_assert!(is_sorted_without_overlaps(&map));
        for range in map.iter().filter(|range| range.kind == Kind::Ram) {
            let end = range.start + range.size;
            prop_assert!(range.size > 0);
            prop_assert!(end <= layout::LOW_MEMORY_END || range.start >= layout::HIGH_MEMORY);
            prop_assert!(end <= layout::MMIO_HOLE || range.start >= layout::MEMORY_ABOVE_4G);
        }
    }
}
