//! Tables and rings that a well-behaved driver would never write.

use proptest::prelude::*;

use super::*;
use crate::virtio::test_driver::*;

const TABLE_SIZE: u64 = 8;
const TABLES: u64 = BUFFERS;
const DATA: u64 = BUFFERS + 0x8000;

#[derive(Clone, Debug)]
struct Attack {
    features: u64,
    main: Vec<Descriptor>,
    indirect: Vec<Descriptor>,
    heads: Vec<u16>,
    /// Added to the number of heads for the available ring's index.
    surplus: u16,
}

fn descriptor(
    address: impl Strategy<Value = u64>,
    flags: std::ops::Range<u16>,
) -> impl Strategy<Value = Descriptor> {
    let length = prop_oneof![4 => 0u32..300, 1 => any::<u32>(), 1 => Just(u32::MAX)];
    (
        address,
        length,
        flags,
        prop_oneof![8 => 0..QUEUE_SIZE, 1 => any::<u16>()],
    )
}

/// Where buffers may be.
fn buffer() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![
        8 => DATA..MEMORY_SIZE,
        1 => HOLE - 64..HOLE + 64,
        1 => HIGH_MEMORY + MEMORY_SIZE - 64..HIGH_MEMORY + MEMORY_SIZE,
        1 => u64::MAX - 64..=u64::MAX,
    ]
}

/// An address of a buffer, of the rings, of the tables, or any other.
fn anywhere() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![
        4 => buffer(),
        1 => DESCRIPTORS..USED + 0x100,
        1 => TABLES..TABLES + 0x100,
        1 => any::<u64>(),
    ]
}

/// An attack whose buffers have `addresses` and whose indirect tables have addresses from `tables`.
fn attack(
    addresses: impl Strategy<Value = u64> + Clone + 'static,
    tables: impl Strategy<Value = u64> + Clone + 'static,
) -> impl Strategy<Value = Attack> {
    let table = (tables, 0..=TABLE_SIZE as u32, 4u16..8, 0..QUEUE_SIZE)
        .prop_map(|(address, length, flags, next)| (address, 16 * length, flags, next));
    let main = prop_oneof![4 => descriptor(addresses.clone(), 0..4), 1 => table];
    (
        prop::sample::select(vec![VERSION_1, VERSION_1 | EVENT_IDX]),
        prop::collection::vec(main, usize::from(QUEUE_SIZE)),
        prop::collection::vec(descriptor(addresses, 0..4), TABLE_SIZE as usize),
        prop::collection::vec(
            prop_oneof![8 => 0..QUEUE_SIZE, 1 => any::<u16>()],
            1..usize::from(QUEUE_SIZE),
        ),
        prop_oneof![8 => Just(0u16), 1 => any::<u16>()],
    )
        .prop_map(|(features, main, indirect, heads, surplus)| Attack {
            features,
            main,
            indirect,
            heads,
            surplus,
        })
}

/// Starts a device on the attack, which it has dealt with when this returns. Also returns what memory was before.
fn launch(attack: &Attack) -> (Driver, Vec<u8>) {
    let mut driver = Driver::new(Box::new(Entropy::default()));
    assert!(driver.negotiate(attack.features));
    driver.set_up_queue(QUEUE_SIZE);
    for (table, descriptors) in [(DESCRIPTORS, &attack.main), (TABLES, &attack.indirect)] {
        for (index, descriptor) in (0..).zip(descriptors) {
            driver.describe(table, index, *descriptor);
        }
    }
    driver.driver_ok();
    attack.heads.iter().for_each(|head| driver.offer(*head));
    let index = driver.next_available().wrapping_add(attack.surplus);
    driver.put(&index.to_le_bytes(), AVAILABLE + 2);
    let memory = driver.bytes(0, MEMORY_SIZE as usize);
    driver.notify();
    (driver, memory)
}

fn survives(mut driver: Driver) -> Result<(), TestCaseError> {
    driver.reset();
    driver.start(VERSION_1, QUEUE_SIZE);
    driver.describe(DESCRIPTORS, 0, (DATA, 64, WRITE, 0));
    driver.offer(0);
    driver.notify();
    prop_assert_eq!(driver.take_used(), Some((0, 64)));
    Ok(())
}

proptest! {
    #[test]
    fn whatever_the_rings_say_the_device_survives_it(attack in attack(anywhere(), anywhere())) {
        survives(launch(&attack).0)?;
    }

    #[test]
    fn guest_memory_changes_only_where_descriptors_say_write(attack in attack(buffer(), Just(TABLES))) {
        let (driver, before) = launch(&attack);
        let descriptors = attack.main.iter().chain(&attack.indirect);
        prop_assert!(driver.has_written_only(&before, descriptors), "guest memory changed outside of writable descriptors");
        survives(driver)?;
    }
}
