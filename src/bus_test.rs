use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

/// Remembers what reached it, and reads as its tag.
#[derive(Default)]
struct Probe {
    tag: u8,
    reads: Mutex<Vec<(u64, usize)>>,
    writes: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl BusDevice for Probe {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.reads.lock().unwrap().push((offset, data.len()));
        data.fill(self.tag);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.writes.lock().unwrap().push((offset, data.to_vec()));
    }
}

fn probe(tag: u8) -> Arc<Probe> {
    Arc::new(Probe {
        tag,
        ..Default::default()
    })
}

fn read<const N: usize>(bus: &Bus, address: u64) -> [u8; N] {
    let mut data = [0x55; N];
    bus.read(address, &mut data);
    data
}

#[test]
fn an_access_reaches_the_device_at_its_address_as_an_offset() {
    let (mut bus, low, high) = (Bus::default(), probe(1), probe(2));
    bus.attach(0x2000, 0x10, high.clone()).unwrap();
    bus.attach(0x1000, 0x10, low.clone()).unwrap();
    assert_eq!(read(&bus, 0x1004), [1; 4]);
    bus.write(0x200f, &[9]);
    assert_eq!(*low.reads.lock().unwrap(), [(4, 4)]);
    assert_eq!(*high.writes.lock().unwrap(), [(0xf, vec![9])]);
    assert!(low.writes.lock().unwrap().is_empty());
}

#[test]
fn addresses_of_no_device_read_as_ones_and_lose_writes() {
    let (mut bus, device) = (Bus::default(), probe(1));
    assert_eq!(read(&bus, 0), [0xff; 8]);
    bus.attach(0x1000, 0x10, device.clone()).unwrap();
    for address in [0, 0xfff, 0x1010, u64::MAX] {
        assert_eq!(read(&bus, address), [0xff]);
        bus.write(address, &[1]);
    }
    assert!(device.reads.lock().unwrap().is_empty());
    assert!(device.writes.lock().unwrap().is_empty());
}

#[test]
fn an_access_that_leaves_its_range_reaches_no_device_even_if_another_follows() {
    let (mut bus, first, second) = (Bus::default(), probe(1), probe(2));
    bus.attach(0x1000, 0x10, first.clone()).unwrap();
    bus.attach(0x1010, 0x10, second.clone()).unwrap();
    assert_eq!(read(&bus, 0x100e), [0xff; 4]);
    bus.write(0x100d, &[0; 4]);
    assert!(first.writes.lock().unwrap().is_empty());
    assert!(second.writes.lock().unwrap().is_empty());
    assert_eq!(read(&bus, 0x1010), [2; 4]);
}

#[test]
fn the_last_addresses_can_be_a_device() {
    let mut bus = Bus::default();
    bus.attach(u64::MAX - 7, 8, probe(3)).unwrap();
    assert_eq!(read(&bus, u64::MAX - 7), [3; 8]);
    assert_eq!(read(&bus, u64::MAX), [3]);
    assert_eq!(read(&bus, u64::MAX), [0xff; 2]);
}

#[test]
fn empty_wrapping_and_taken_ranges_are_refused_and_change_nothing() {
    let mut bus = Bus::default();
    bus.attach(0x1000, 0x10, probe(1)).unwrap();
    for (base, length) in [
        (0, 0),
        (u64::MAX, 2),
        (1, u64::MAX),
        (0x1000, 0x10),
        (0xfff, 2),
        (0x100f, 1),
        (0x1004, 1),
        (0, 0x2000),
    ] {
        let error = bus.attach(base, length, probe(2)).unwrap_err();
        assert_eq!(error, RangeTaken { base, length });
        assert!(error.to_string().contains(&format!("{base:#x}")));
    }
    assert_eq!(bus.entries.len(), 1);
    assert_eq!(read(&bus, 0x1000), [1; 8]);
}

/// Small numbers collide often; the last addresses are where arithmetic wraps.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..64,
        (0u64..64).prop_map(|below| u64::MAX - below),
        any::<u64>()
    ]
}

proptest! {
    #[test]
    fn the_bus_agrees_with_a_list_of_ranges(
        ranges in prop::collection::vec((address(), prop_oneof![0u64..24, any::<u64>()]), 0..24),
        accesses in prop::collection::vec((address(), 0usize..=8), 0..64),
    ) {
        let mut bus = Bus::default();
        let mut model: Vec<(u128, u128, Arc<Probe>)> = Vec::new();
        for (tag, (base, length)) in ranges.into_iter().enumerate() {
            let device = probe(tag as u8);
            let (start, end) = (u128::from(base), u128::from(base) + u128::from(length));
            let fits = length > 0
                && end <= 1 << 64
                && model.iter().all(|(other_start, other_end, _)| end <= *other_start || start >= *other_end);
            prop_assert_eq!(bus.attach(base, length, device.clone()).is_ok(), fits);
            if fits {
                model.push((start, end, device));
            }
        }
        for (address, width) in accesses {
            let (start, end) = (u128::from(address), u128::from(address) + width as u128);
            let owner = model.iter().find(|(from, to, _)| *from <= start && start < *to && end <= *to);
            let mut data = vec![0x55; width];
            bus.read(address, &mut data);
            prop_assert_eq!(data, vec![owner.map_or(0xff, |(_, _, device)| device.tag); width]);
            if let Some((from, _, device)) = owner {
                let last = device.reads.lock().unwrap().pop();
                prop_assert_eq!(last, Some(((start - from) as u64, width)));
            }
        }
    }
}
