//! Pauses at any moment, and devices that go on in the place of others: no request is lost, done twice or done by half.

use std::thread;

use proptest::prelude::*;

use super::*;

/// Requests at once, with three descriptors each.
const BATCH: usize = QUEUE as usize / 3;
/// Guest memory for the data of each request.
const ROOM: u64 = 0x1000;

/// A request for one sector of its own.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Read,
    Write(u8),
    Flush,
}

/// What happens during a pause.
#[derive(Clone, Copy, Debug)]
enum Pause {
    Nothing,
    /// Another device over the same open disk takes the place.
    NewDevice,
    /// The disk is closed and opened again for another device.
    NewBackend,
}

fn pause() -> impl Strategy<Value = (u32, Pause)> {
    let pause = prop_oneof![
        Just(Pause::Nothing),
        Just(Pause::NewDevice),
        Just(Pause::NewBackend)
    ];
    (0..200u32, pause)
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::Read),
        3 => any::<u8>().prop_map(Kind::Write),
        1 => Just(Kind::Flush),
    ]
}

/// Makes the request with this number available.
fn offer_one(driver: &mut Driver, number: usize, kind: Kind) {
    let (head, address) = (3 * number as u16, DATA + ROOM * number as u64);
    let (code, flags) = match kind {
        Kind::Read => (VIRTIO_BLK_T_IN, WRITE),
        Kind::Write(_) => (VIRTIO_BLK_T_OUT, 0),
        Kind::Flush => (VIRTIO_BLK_T_FLUSH, 0),
    };
    driver.put(&header(code, number as u64), address);
    let byte = match kind {
        Kind::Write(byte) => byte,
        _ => NOT_WRITTEN,
    };
    driver.put(&[byte; 512], address + 16);
    driver.put(&[NOT_WRITTEN], address + 16 + 512);
    // A flush has no data.
    let second = if matches!(kind, Kind::Flush) {
        head + 2
    } else {
        head + 1
    };
    driver.describe(DESCRIPTORS, head, (address, 16, NEXT, second));
    driver.describe(DESCRIPTORS, head + 1, (address + 16, 512, flags | NEXT, head + 2));
    driver.describe(DESCRIPTORS, head + 2, (address + 16 + 512, 1, WRITE, 0));
    driver.offer(head);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn pauses_among_requests_and_devices_made_anew_change_no_answer(
        batches in prop::collection::vec(
            (prop::collection::vec(kind(), 1..BATCH), prop::collection::vec(pause(), 0..4), any::<bool>()),
            1..6,
        ),
        event_idx in any::<bool>(),
        engine in any_engine(),
        cache in any_cache(),
    ) {
        let features = FEATURES | if event_idx { EVENT_IDX } else { 0 };
        let file = image();
        let mut model = pattern();
        let options = config::Disk { cache, ..options(file.path(), engine) };
        let mut backend = Some(Arc::new(Backend::open(&options, 1).unwrap()));
        let mut driver = driver(Block::new(backend.clone().unwrap()), features);
        for (kinds, pauses, is_told) in batches {
            let before = model.clone();
            for (number, &kind) in kinds.iter().enumerate() {
                offer_one(&mut driver, number, kind);
                if let Kind::Write(byte) = kind {
                    model[number * 512..][..512].fill(byte);
                }
            }
            // A driver that is stopped before it notifies the device does so after the pause.
            if is_told {
                driver.notify();
            }
            for (yields, pause) in pauses {
                (0..yields).for_each(|_| thread::yield_now());
                driver.transport.pause();
                let resting = driver.bytes(0, MEMORY_SIZE as usize);
                thread::yield_now();
                prop_assert!(driver.bytes(0, MEMORY_SIZE as usize) == resting, "a device that rests wrote to guest memory");
                if let Pause::NewBackend = pause {
                    backend = None;
                }
                match pause {
                    Pause::Nothing => driver.transport.resume(),
                    Pause::NewDevice | Pause::NewBackend => driver.resume_anew(|| {
                        let open = || Arc::new(Backend::open(&options, 1).unwrap());
                        Box::new(Block::new(backend.get_or_insert_with(open).clone()))
                    }),
                }
            }
            if !is_told {
                driver.notify();
            }
            let mut answered = Vec::new();
            while answered.len() < kinds.len() {
                match driver.take_used() {
                    Some((head, _)) => answered.push(head as usize / 3),
                    None if driver.want_interrupt() => (),
                    None => drop(driver.wait()),
                }
            }
            answered.sort();
            prop_assert_eq!(&answered, &(0..kinds.len()).collect::<Vec<_>>());
            prop_assert_eq!(driver.take_used(), None);
            prop_assert!(!driver.needs_reset());
            for (number, &kind) in kinds.iter().enumerate() {
                let data = driver.bytes(DATA + ROOM * number as u64 + 16, 513);
                prop_assert_eq!(data[512], OK);
                if let Kind::Read = kind {
                    prop_assert!(data[..512] == before[number * 512..][..512], "request {number} read other bytes");
                }
            }
        }
        driver.transport.pause();
        prop_assert!(contents(&file) == model);
    }
}

#[test]
fn a_device_made_anew_keeps_what_its_driver_chose_about_durability() {
    const CONFIG_WCE: u64 = 1 << VIRTIO_BLK_F_CONFIG_WCE;
    const WRITEBACK: u64 = 32;
    let file = image();
    let options = options(file.path(), Engine::Sync);
    let mut driver = driver(Block::open(&options, 1).unwrap(), FEATURES | CONFIG_WCE);
    for writeback in [0, 1, 0] {
        driver.write_config(WRITEBACK, &[writeback]);
        driver.transport.pause();
        driver.resume_anew(|| Box::new(Block::open(&options, 1).unwrap()));
        assert_eq!(driver.config(WRITEBACK, 1), [writeback]);
    }
    // The new device knows what was negotiated, too.
    driver.write_config(WRITEBACK, &[1]);
    assert_eq!(driver.config(WRITEBACK, 1), [1]);
}
